//! A trained model on any past date, beside the baselines that were fitted with it.

use arrow::record_batch::RecordBatch;
use tch::Device;

use super::baselines::Baselines;
use super::dataset::{Dataset, Gatherer};
use super::evaluation::{Evaluation, Grouping, Judged, RESAMPLES};
use super::snapshots::SnapshotSource;
use crate::model::Bundle;
use crate::model::btyd::Extrapolation;
use crate::model::heads::{Head, Prediction};
use crate::model::predict::Predictor;
use crate::model::scores::score_batch;
use crate::spec::{EntityTask, Loss};
use crate::{AsOf, Error, Result};

/// Features at `as_of`, labels from then on. The model must not have seen labels of that time to be judged fairly; the
/// caller warns where it has.
pub async fn evaluate_from(
    source: &dyn SnapshotSource,
    task: &EntityTask,
    bundle: &Bundle,
    as_of: AsOf,
    device: Device,
) -> Result<Evaluation> {
    Hindsight::gather(source, task, bundle, as_of, device, &[]).await?.evaluate(&[], RESAMPLES)
}

/// The customers of a past day, with what the model and the baselines say of them and what happened.
#[derive(Debug)]
pub struct Hindsight {
    as_of: AsOf,
    heads: Vec<Head>,
    data: Dataset,
    /// Per row.
    predicted: Vec<Option<Vec<Prediction>>>,
    baselines: Baselines,
    extrapolations: Vec<Extrapolation>,
    notes: Vec<String>,
}

/// One head's labels, by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Actual {
    /// Numbers; `None` where there is no label.
    Numbers(Vec<Option<f64>>),
    /// The names of classes.
    Classes(Vec<Option<String>>),
}

impl Hindsight {
    /// Everyone known at `as_of`; the columns of `keep` stay in [`Dataset::kept`] as they came.
    pub async fn gather(
        source: &dyn SnapshotSource,
        task: &EntityTask,
        bundle: &Bundle,
        as_of: AsOf,
        device: Device,
        keep: &[String],
    ) -> Result<Self> {
        let model = task.model.as_ref().ok_or_else(|| Error::user("this job has no `model:` to evaluate"))?;
        bundle.manifest().check(model, source.features(), &source.feature_hashes())?;
        let predictor = Predictor::load(bundle, device)?;
        let mut gatherer = Gatherer::new(source, model, &task.entity.key)?;
        gatherer.know_classes(predictor.heads());
        gatherer.keep(keep);
        let first_event = source.first_event().await?;
        let data = gatherer.gather(&[as_of], first_event, |_| {}).await?;
        let notes = gatherer.notes(&data);
        if data.table.rows() == 0 {
            return Err(Error::user(format!("there is no customer as of {as_of}")));
        }
        let predicted = predictor.predict(&data.table)?;
        let (heads, baselines) = (predictor.heads().to_vec(), bundle.baselines()?);
        let extrapolations = bundle.manifest().extrapolations.clone();
        Ok(Hindsight { as_of, heads, data, predicted, baselines, extrapolations, notes })
    }

    /// Model and baselines beside each other, on everyone and on groups.
    pub fn evaluate(&self, groupings: &[Grouping], resamples: usize) -> Result<Evaluation> {
        let rows: Vec<usize> = (0..self.data.table.rows()).collect();
        let mut found = Evaluation::of(vec![self.as_of.date()], self.judged(&rows), groupings, resamples)?;
        for head in &mut found.heads {
            let extrapolation = self.extrapolations.iter().find(|e| e.head == head.head);
            head.extrapolated_from = extrapolation.map(|e| e.from.clone());
        }
        Ok(found)
    }

    /// Parts the customers by a feature, or by what a head says of them.
    pub fn grouping(&self, name: &str) -> Result<Grouping> {
        match self.heads.iter().position(|head| head.name == name && head.loss != Loss::Softmax) {
            Some(head) => {
                let point = |said: &Option<Vec<Prediction>>| said.as_ref().map_or(f64::NAN, |said| said[head].point());
                Ok(Grouping::of_numbers(name, self.predicted.iter().map(point)))
            }
            None => Grouping::of_column(&self.data, name),
        }
    }

    /// What should be told of it: rows without a label.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The rows behind it.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The heads, in the order of everything else.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// The model's scores, with the columns of the published predictions.
    pub fn scores(&self) -> Result<RecordBatch> {
        score_batch(&self.heads, &self.predicted)
    }

    /// What happened, by the name of the head.
    pub fn actual(&self, head: usize) -> Actual {
        let labels = self.data.labels[head].iter();
        match &self.heads[head] {
            Head { loss: Loss::Softmax, classes, .. } => {
                let class = |label: &f64| (!label.is_nan()).then(|| classes.get(*label as usize).cloned()).flatten();
                Actual::Classes(labels.map(class).collect())
            }
            _ => Actual::Numbers(labels.map(|label| Some(*label).filter(|v| !v.is_nan())).collect()),
        }
    }

    /// What each baseline says of every customer, by its name; baselines that cannot speak of all of them are left out.
    pub fn baselines(&self, head: usize) -> Result<Vec<(&'static str, Vec<f64>)>> {
        let rows: Vec<usize> = (0..self.data.table.rows()).collect();
        self.judged(&rows).baseline_scores(head, &rows)
    }

    fn judged<'a>(&'a self, rows: &'a [usize]) -> Judged<'a> {
        let Hindsight { heads, data, predicted, baselines, .. } = self;
        Judged { heads, data, rows, predicted, baselines }
    }
}
