//! One training of a search, and how it is judged.
//!
//! The customers of the validating snapshots are split, a customer being in the same part at every date: some stop the
//! training early, some choose between settings, and some, which neither stop nor choose, say what the chosen one is worth.

use std::collections::BTreeMap;
use std::time::Instant;

use super::space::Setting;
use super::trials::TrialResult;
use crate::Result;
use crate::model::heads::Head;
use crate::model::predict::predictions;
use crate::printer::Progress;
use crate::spec::TrainSpec;
use crate::training::calibrate::Seen;
use crate::training::dataset::Dataset;
use crate::training::dates::Dates;
use crate::training::evaluation::bootstrap;
use crate::training::losses::together;
use crate::training::metrics::Metric;
use crate::training::schedule::Pace;
use crate::training::select::{Corrections, split};
use crate::training::train::{Recipe, Room};
use crate::training::validation::PARTS;

/// A head's loss among its metrics.
pub(super) const LOSS: &str = "loss";

/// The rows of a search by what they are for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parts {
    pub training: Vec<usize>,
    pub stopping: Vec<usize>,
    pub choosing: Vec<usize>,
    pub judging: Vec<usize>,
}

impl Parts {
    /// What trains and what stops is what trains and stops in a training, so that a trial learns what the training of its
    /// setting will learn. Of the other validating customers, the last of the equal parts judges and the rest choose.
    pub fn of(data: &Dataset, dates: &Dates) -> Self {
        let (training, validating) = split(data, dates);
        let judges = |row: &usize| data.parts[*row] == PARTS - 1;
        let (judging, choosing) = validating.judged().into_iter().partition(judges);
        Parts { training, stopping: validating.stopping, choosing, judging }
    }

    /// Whether there is a row for everything.
    pub fn are_there(&self) -> bool {
        [&self.training, &self.stopping, &self.choosing, &self.judging].iter().all(|rows| !rows.is_empty())
    }
}

/// What all trainings of a search share.
pub(super) struct Trainer<'a> {
    room: Room<'a>,
    parts: Parts,
    /// The rows that choose, then those that judge.
    rows: Vec<usize>,
    /// Per head, the labels of `rows`; NaN where there is none.
    labels: Vec<Vec<f64>>,
    /// The customers of `rows`.
    customers: Vec<u32>,
    /// Hears of every epoch.
    progress: Progress,
}

impl<'a> Trainer<'a> {
    /// For the rows of a room.
    pub fn new(room: Room<'a>, parts: Parts, progress: Progress) -> Self {
        let rows = [parts.choosing.as_slice(), &parts.judging].concat();
        let of = |labels: &Vec<f64>| rows.iter().map(|row| labels[*row]).collect();
        let labels = room.data.labels.iter().map(of).collect();
        let customers = rows.iter().map(|row| room.data.customers[*row]).collect();
        Trainer { room, parts, rows, labels, customers, progress }
    }

    /// Trains a setting for so many epochs, and judges it.
    pub fn train(&self, setting: &Setting, epochs: usize) -> Result<TrialResult> {
        let began = Instant::now();
        // A schedule ends with the epochs that it is given.
        let train = TrainSpec { epochs, ..setting.train.clone() };
        let recipe = Recipe { model: &setting.model, train: &train };
        let Parts { training, stopping, choosing, .. } = &self.parts;
        let trained = self.room.fit(recipe, training, Some(stopping), Pace::Search, "trial", &self.progress)?;
        let (raw, mut chosen) = self.room.outputs_and_losses(&trained, &self.rows)?;
        let judged: Vec<_> = chosen.iter_mut().map(|losses| losses.split_off(choosing.len())).collect();
        let (loss, judged_loss) = (together(&chosen, |_| 1.0), together(&judged, |_| 1.0));

        let mut result = TrialResult { epochs: trained.fitted.epochs, ..TrialResult::default() };
        if loss.is_finite() && judged_loss.is_finite() {
            (result.loss, result.judged_loss) = (Some(loss), Some(judged_loss));
            result.resampled = self.resampled(&judged);
            result.heads = self.metrics(&trained.heads, &raw, trained.fitted.network.shape().members, &judged);
        } else {
            result.failed = Some("the loss of customers that did not train is not finite".to_owned());
        }
        result.seconds = began.elapsed().as_secs_f64();
        Ok(result)
    }

    /// The judging rows' loss for resamples of their customers.
    fn resampled(&self, judged: &[Vec<Option<f64>>]) -> Vec<f32> {
        let (customers, people) = self.room.data.people(&self.parts.judging);
        bootstrap::resampled(people, bootstrap::RESAMPLES, |counts| {
            together(judged, |row| counts[customers[row] as usize]) as f32
        })
    }

    /// Per head, its loss and its headline metrics on the judging rows, as far as they exist there. What is published is
    /// calibrated, and so is this: on the rows that choose.
    fn metrics(
        &self,
        heads: &[Head],
        raw: &[f64],
        members: usize,
        judged: &[Vec<Option<f64>>],
    ) -> BTreeMap<String, BTreeMap<String, f64>> {
        let begin = self.parts.choosing.len();
        let seen = Seen { raw, members, labels: &self.labels, customers: &self.customers };
        let (_, heads) = Corrections::find(heads, seen, &(0..begin).collect::<Vec<_>>());
        let predicted = predictions(&heads, raw, members);
        let mut all = BTreeMap::new();
        for (place, head) in heads.iter().enumerate() {
            let known = self.labels[place].iter().zip(&predicted).skip(begin).filter(|(label, _)| !label.is_nan());
            let known = known.filter_map(|(label, said)| said.as_ref().map(|said| (*label, said[place].score(*label))));
            let (labels, scores): (Vec<f64>, Vec<f64>) = known.unzip();
            let values = Metric::headlines(&head.loss).iter().map(|m| (m.name(), m.of(&labels, &scores, None)));
            let loss = (LOSS, together(&judged[place..=place], |_| 1.0));
            let finite = values.chain([loss]).filter(|(_, value)| value.is_finite());
            all.insert(head.name.clone(), finite.map(|(name, value)| (name.to_owned(), value)).collect());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AsOf;
    use crate::model::manifest::Split;
    use crate::model::preprocess::RawTable;

    #[test]
    fn no_customer_stops_chooses_and_judges_at_once() {
        // Two snapshots of five customers, one in each part; the newer one validates.
        let newest = AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap();
        let older = newest.minus_days(90);
        let data = Dataset {
            table: RawTable::new(Vec::new()),
            snapshots: vec![(newest, 0..5), (older, 5..10)],
            labels: Vec::new(),
            previous: Vec::new(),
            folds: vec![0; 10],
            parts: vec![0, 1, 2, 3, 4, 0, 1, 2, 3, 4],
            customers: Vec::new(),
            kept: Vec::new(),
            unlabelled: Vec::new(),
        };
        let dates =
            Dates { all: vec![newest, older], validation: vec![newest], training: vec![older], split: Split::ByTime };
        let expected =
            Parts { training: (5..10).collect(), stopping: vec![0, 1], choosing: vec![2, 3], judging: vec![4] };
        assert_eq!(Parts::of(&data, &dates), expected);
        assert!(expected.are_there() && !Parts::default().are_there());
    }
}
