//! The first fit: what can only be found out on rows that a model has not seen.

use super::baselines::Baselines;
use super::btyd::Phases;
use super::dataset::Dataset;
use super::dates::Dates;
use super::evaluation::{Evaluation, Judged, RESAMPLES};
use super::fit::Fitted;
use super::floor::{self, FloorShare};
use super::schedule::Pace;
use super::train::{Room, Trained};
use crate::model::heads::{Head, Prediction};
use crate::model::manifest::Split;
use crate::printer::Progress;
use crate::spec::Loss;
use crate::{AsOf, Result};

/// Rows that train and rows that validate.
pub(super) fn split(data: &Dataset, dates: &Dates) -> (Vec<usize>, Vec<usize>) {
    let of = |wanted: &[AsOf], fits: &dyn Fn(u8) -> bool| -> Vec<usize> {
        let dated = data.snapshots.iter().filter(|(date, _)| wanted.contains(date));
        dated.flat_map(|(_, rows)| rows.clone()).filter(|row| fits(data.folds[*row])).collect()
    };
    match dates.split {
        Split::ByTime => (of(&dates.training, &|_| true), of(&dates.validation, &|_| true)),
        Split::ByCustomer => (of(&dates.training, &|fold| fold != 0), of(&dates.validation, &|fold| fold == 0)),
    }
}

/// What the first fit found out.
pub(super) struct Selected {
    pub(super) epochs: usize,
    pub(super) rates: Vec<f64>,
    pub(super) loss: f64,
    pub(super) floors: Vec<Option<FloorShare>>,
    pub(super) evaluation: Evaluation,
}

impl Room<'_> {
    /// The first fit: epochs, floors, and how good it is on rows that it has not seen.
    pub(super) fn select(
        &self,
        training: &[usize],
        validating: &[usize],
        dates: &Dates,
        btyd: Option<&Phases>,
        progress: &Progress,
    ) -> Result<Selected> {
        let mut trained = self.fit(training, Some(validating), Pace::Search, "search", progress)?;
        let predicted = self.predict(&trained, validating)?;
        let mut floors = Vec::new();
        for (place, head) in trained.heads.iter_mut().enumerate() {
            let floor = if head.loss == Loss::Ziln { self.floor(place, validating, &predicted) } else { None };
            if let Some(share) = &floor {
                head.floor = share.at(&points(place, &predicted));
            }
            floors.push(floor);
        }
        let predicted = self.predict(&trained, validating)?;
        let mut baselines = Baselines::fit(&trained.heads, &self.data, training, self.job.task.train.rfm.as_ref())?;
        if let Some(models) = btyd {
            baselines.with_btyd(&models.selection, &trained.heads, &models.labels, &self.data, training);
        }
        let judged = Judged {
            heads: &trained.heads,
            data: &self.data,
            rows: validating,
            predicted: &predicted,
            baselines: &baselines,
        };
        let dates = dates.validation.iter().map(AsOf::date).collect();
        let evaluation = Evaluation::of(dates, judged, &[], RESAMPLES)?;
        let Fitted { epochs, rates, loss, .. } = trained.fitted;
        Ok(Selected { epochs, rates, loss, floors, evaluation })
    }

    fn floor(&self, place: usize, rows: &[usize], predicted: &[Option<Vec<Prediction>>]) -> Option<FloorShare> {
        let known =
            rows.iter().zip(predicted).filter(|(row, p)| p.is_some() && !self.data.labels[place][**row].is_nan());
        let labels: Vec<f64> = known.map(|(row, _)| self.data.labels[place][*row]).collect();
        let scores = points(place, predicted);
        if labels.len() == scores.len() { floor::find(&labels, &scores) } else { None }
    }

    /// The heads of the final fit with the floors that the first fit found, at the final fit's own level: that of its
    /// values for the newest snapshot.
    pub(super) fn with_floors(
        &self,
        last: &Trained,
        floors: &[Option<FloorShare>],
        everything: &[usize],
        dates: &Dates,
    ) -> Result<Vec<Head>> {
        let mut heads = last.heads.clone();
        if floors.iter().all(Option::is_none) {
            return Ok(heads);
        }
        let newest = self.data.snapshots.iter().find(|(d, _)| Some(d) == dates.all.first());
        let rows = newest.map_or_else(|| everything.to_vec(), |(_, rows)| rows.clone().collect());
        let predicted = self.predict(last, &rows)?;
        for (place, share) in floors.iter().enumerate() {
            if let Some(share) = share {
                heads[place].floor = share.at(&points(place, &predicted));
            }
        }
        Ok(heads)
    }
}

fn points(head: usize, predicted: &[Option<Vec<Prediction>>]) -> Vec<f64> {
    predicted.iter().filter_map(|row| row.as_ref().map(|row| row[head].point())).collect()
}
