//! Whether the newest events of the customers stay in the model: where the job leaves that to the validation, the search fit
//! is made with and without them, and customers who neither trained nor stopped a fit decide.

use std::collections::HashMap;

use super::evaluation::bootstrap::{RESAMPLES, interval, resampled};
use super::fit::offsets;
use super::losses;
use super::schedule::Pace;
use super::train::{Room, Trained};
use super::validation::ValidationParts;
use crate::Result;
use crate::model::heads::Head;
use crate::printer::Progress;
use crate::spec::Keep;

/// The validation loss with and without the events.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gain {
    with: f64,
    without: f64,
    /// By how much the loss is lower with them: what 95 % of the resamples say.
    interval: Option<[f64; 2]>,
}

impl Room<'_> {
    /// Whether the search has to be made twice.
    pub(super) fn asks_whether_events_help(&self) -> bool {
        self.model.sequence.as_ref().is_some_and(|sequence| sequence.keep == Keep::Auto)
    }

    /// The search fit that goes on, and in words why the events stay in it. Where they do not help they are left out here
    /// and of every later fit.
    pub(super) fn search(
        &mut self,
        training: &[usize],
        validating: &ValidationParts,
        progress: &Progress,
    ) -> Result<(Trained, Option<String>)> {
        let stopping = Some(validating.stopping.as_slice());
        let with = self.fit(training, stopping, Pace::Search, "search", progress)?;
        if !self.asks_whether_events_help() || with.preprocess.events().is_none() {
            return Ok((with, None));
        }
        self.without_events = Some("the search looks whether they help".to_owned());
        let without = self.fit(training, stopping, Pace::Search, "search without events", progress)?;
        let rows = validating.judged();
        let gain = self.gain(&with, &without, &rows)?;
        match gain.is_more_than_chance() {
            true => {
                self.without_events = None;
                Ok((with, Some(format!("`sequence` stays in the model: {gain}"))))
            }
            false => {
                self.without_events = Some(gain.to_string());
                Ok((without, None))
            }
        }
    }

    fn gain(&self, with: &Trained, without: &Trained, rows: &[usize]) -> Result<Gain> {
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        let customers = rows.iter().map(|row| {
            let next = numbers.len();
            *numbers.entry(self.data.customers[*row]).or_insert(next)
        });
        let customers: Vec<usize> = customers.collect();
        Ok(Gain::of(&self.losses(with, rows)?, &self.losses(without, rows)?, &customers))
    }

    /// Per head, the loss of each row before any calibration.
    fn losses(&self, trained: &Trained, rows: &[usize]) -> Result<Vec<Vec<Option<f64>>>> {
        let examples = self.examples(&trained.preprocess, &trained.heads, rows)?;
        let (raw, members) = (examples.outputs(&trained.fitted.network)?, trained.fitted.network.shape().members);
        let (starts, outputs) = offsets(&trained.heads);
        let of = |((head, start), labels): ((&Head, usize), &Vec<f32>)| {
            losses::rows_of_ensemble(head, &raw, members, outputs, start, labels).collect()
        };
        Ok(trained.heads.iter().zip(starts).zip(&examples.labels).map(of).collect())
    }
}

impl Gain {
    /// Of two models' losses, per head and row; each row is one of its customer's.
    fn of(with: &[Vec<Option<f64>>], without: &[Vec<Option<f64>>], customers: &[usize]) -> Self {
        let people = customers.iter().max().map_or(0, |last| last + 1);
        let drawn = resampled(people, RESAMPLES, |counts| {
            let weight = |row: usize| counts[customers[row]];
            losses::together(without, weight) - losses::together(with, weight)
        });
        Gain {
            with: losses::together(with, |_| 1.0),
            without: losses::together(without, |_| 1.0),
            interval: interval(drawn.into_iter()),
        }
    }

    /// A gain that some draws of the same customers would not show is none.
    fn is_more_than_chance(&self) -> bool {
        self.interval.is_some_and(|[low, _]| low > 0.0)
    }
}

impl std::fmt::Display for Gain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Gain { with, without, interval } = self;
        write!(f, "the validation loss is {with:.4} with it and {without:.4} without")?;
        match interval {
            Some([low, high]) => write!(f, "; a gain of {:.4} (95 % interval {low:.4} to {high:.4})", without - with),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 customers with two rows each, whose losses differ from 1 by `shift` and by noise that is its own in each model.
    fn losses(shift: f64, salt: usize) -> Vec<Vec<Option<f64>>> {
        let noise = |row: usize| ((row * 7919 + salt * 104_729) % 1000) as f64 / 1000.0 - 0.5;
        vec![(0..400).map(|row| (row % 10 != 0).then(|| 1.0 + shift + noise(row))).collect(), vec![None; 400]]
    }

    fn gain(shift: f64) -> Gain {
        let customers: Vec<usize> = (0..400).map(|row| row / 2).collect();
        Gain::of(&losses(shift, 3), &losses(0.0, 5), &customers)
    }

    #[test]
    fn a_clear_gain_keeps_the_events_and_chance_does_not() {
        assert!(gain(-0.2).is_more_than_chance());
        assert!(!gain(0.0).is_more_than_chance());
        assert!(!gain(0.2).is_more_than_chance());
    }

    #[test]
    fn a_gain_is_told_with_both_losses() {
        let gain = Gain { with: 1.25, without: 1.5, interval: Some([0.125, 0.375]) };
        let text = "the validation loss is 1.2500 with it and 1.5000 without; a gain of 0.2500 (95 % interval 0.1250 to 0.3750)";
        assert_eq!(gain.to_string(), text);
    }

    #[test]
    fn losses_that_are_not_finite_keep_nothing() {
        let gain = Gain::of(&[vec![Some(f64::NAN); 4]], &[vec![Some(1.0); 4]], &[0, 1, 2, 3]);
        assert!(!gain.is_more_than_chance());
    }
}
