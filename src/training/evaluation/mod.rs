//! The model beside the baselines, on customers with known labels: metrics, how sure they are, who wins, and the same for
//! groups of customers.

pub(super) mod bootstrap;
mod groups;
mod panel;
pub(super) mod table;
mod verdict;

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

pub use bootstrap::RESAMPLES;
pub use groups::Grouping;
pub use verdict::{Comparison, Outcome};

use super::baselines::Baselines;
use super::dataset::Dataset;
use super::metrics::{Interval, Metric};
use crate::Result;
use crate::model::heads::{Head, Prediction};
use crate::model::manifest::loss_name;
use crate::spec::Loss;
use panel::{Contender, Panel};

/// How the model is called among the models of an evaluation.
pub const MODEL: &str = "model";
/// The baseline that expects the last window again.
pub const PERSISTENCE: &str = "persistence";
/// The regression on recency, frequency and monetary value.
pub const RFM: &str = "rfm";
/// The buy-till-you-die models.
pub const BTYD: &str = "btyd";

/// An evaluation at one or several dates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The dates at which the customers were looked at.
    pub as_of: Vec<NaiveDate>,
    /// Customers, counted once per date.
    pub customers: usize,
    /// How often the customers were drawn anew for the intervals.
    pub resamples: usize,
    /// One per head.
    pub heads: Vec<HeadEvaluation>,
}

/// One head beside its baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadEvaluation {
    /// The head.
    pub head: String,
    /// Its label.
    pub label: String,
    /// Its loss.
    pub loss: String,
    /// The trained head that it was stretched from, if it was not trained itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolated_from: Option<String>,
    /// On all rows.
    #[serde(flatten)]
    pub all: Standing,
    /// On groups of the rows, by the headline metrics alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupEvaluation>,
}

/// One head on some of the customers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupEvaluation {
    /// What parts the customers: `stage`, `cohort`, a column.
    pub by: String,
    /// The group's name.
    pub group: String,
    /// Whether it is too small for its numbers to say much.
    pub small: bool,
    /// On its rows.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Models on the same rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Rows with a label.
    pub rows: usize,
    /// The label's mean over them; absent for classes.
    pub label_mean: Option<f64>,
    /// `model`, then the baselines, on the same rows.
    pub models: Vec<ModelMetrics>,
    /// The model held against each baseline, metric by metric.
    pub comparisons: Vec<Comparison>,
}

/// The metrics of one model; a metric that does not exist for these labels is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelMetrics {
    /// `model`, `persistence`, `rfm`, `btyd`.
    pub model: String,
    /// By name.
    pub metrics: BTreeMap<String, f64>,
    /// 95 % intervals by the metric's name.
    pub intervals: BTreeMap<String, [f64; 2]>,
}

/// The rows of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The heads in the order of everything else.
    pub heads: &'a [Head],
    /// Features and labels.
    pub data: &'a Dataset,
    /// The rows that count.
    pub rows: &'a [usize],
    /// Per entry of `rows`.
    pub predicted: &'a [Option<Vec<Prediction>>],
    /// Fitted on other rows.
    pub baselines: &'a Baselines,
}

/// A head, the grouping and the group in it (none for all customers), and their rows.
type PlacedPanel = (usize, Option<(usize, usize)>, Panel);

impl Evaluation {
    /// Compares the predictions of `rows` with their labels, beside the baselines; the intervals come from so many
    /// resamples of the customers, and there are none without.
    pub fn of(as_of: Vec<NaiveDate>, judged: Judged<'_>, groupings: &[Grouping], resamples: usize) -> Result<Self> {
        let (customers, people) = judged.data.people(judged.rows);
        // All panels of all heads first: one resample serves them all.
        let mut panels: Vec<PlacedPanel> = Vec::new();
        for head in 0..judged.heads.len() {
            let (panel, rows) = judged.panel(head, &customers)?;
            for (by, grouping) in groupings.iter().enumerate() {
                for (group, members) in grouping.members(&rows).into_iter().enumerate() {
                    if !members.is_empty() {
                        panels.push((head, Some((by, group)), panel.subset(&members)));
                    }
                }
            }
            panels.push((head, None, panel));
        }
        let metrics = |group: bool, loss: &Loss| if group { Metric::headlines(loss) } else { Metric::of_loss(loss) };
        let prepared: Vec<_> =
            panels.iter().map(|(_, group, panel)| panel.prepare(metrics(group.is_some(), &panel.loss))).collect();
        let drawn = bootstrap::resampled(people, resamples, |counts| -> Vec<Vec<f64>> {
            prepared.iter().map(|panel| panel.drawn(counts)).collect()
        });

        let mut heads: Vec<HeadEvaluation> = judged.heads.iter().map(HeadEvaluation::empty).collect();
        for (place, ((head, group, panel), prepared)) in panels.iter().zip(&prepared).enumerate() {
            let standing = prepared.standing(&drawn.iter().map(|draw| draw[place].as_slice()).collect::<Vec<_>>());
            match group {
                None => heads[*head].all = standing,
                Some((by, group)) => heads[*head].groups.push(GroupEvaluation {
                    by: groupings[*by].by.clone(),
                    group: groupings[*by].groups[*group].clone(),
                    small: panel.small(),
                    standing,
                }),
            }
        }
        Ok(Evaluation { as_of, customers: judged.rows.len(), resamples, heads })
    }

    /// One metric of one model.
    pub fn metric(&self, head: &str, model: &str, metric: &str) -> Option<f64> {
        let head = self.heads.iter().find(|h| h.head == head)?;
        head.all.models.iter().find(|m| m.model == model)?.metrics.get(metric).copied()
    }
}

impl HeadEvaluation {
    fn empty(head: &Head) -> Self {
        HeadEvaluation {
            head: head.name.clone(),
            label: head.label.clone(),
            loss: loss_name(&head.loss).to_owned(),
            extrapolated_from: None,
            all: Standing::default(),
            groups: Vec::new(),
        }
    }
}

impl Judged<'_> {
    /// A head's rows with a label and a prediction, and which rows of the table they are.
    fn panel(&self, place: usize, customers: &[u32]) -> Result<(Panel, Vec<usize>)> {
        let head = &self.heads[place];
        let (mut rows, mut said, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        for ((row, predicted), customer) in self.rows.iter().zip(self.predicted).zip(customers) {
            if let Some(predicted) = predicted
                && !self.data.labels[place][*row].is_nan()
            {
                rows.push(*row);
                said.push(predicted[place]);
                drawn.push(*customer);
            }
        }
        let labels: Vec<f64> = rows.iter().map(|row| self.data.labels[place][*row]).collect();
        let interval = |p: &Prediction| match p {
            Prediction::Value { zero, quantiles: [low, _, high], .. } => {
                Some(Interval { low: *low, high: *high, zero: *zero })
            }
            _ => None,
        };
        let mut contenders = vec![Contender {
            name: MODEL.to_owned(),
            scores: said.iter().zip(&labels).map(|(said, label)| said.score(*label)).collect(),
            intervals: said.iter().map(interval).collect(),
        }];
        contenders.extend(self.baseline_scores(place, &rows)?.into_iter().map(|(name, scores)| Contender {
            name: name.to_owned(),
            scores,
            intervals: None,
        }));
        Ok((Panel { loss: head.loss.clone(), customers: drawn, labels, contenders }, rows))
    }

    /// What each baseline says of these rows; one that has nothing to say about some of them is left out.
    pub(super) fn baseline_scores(&self, place: usize, rows: &[usize]) -> Result<Vec<(&'static str, Vec<f64>)>> {
        let loss = &self.heads[place].loss;
        let at = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
        let persistence = self.baselines.persistence(place, loss, &at(&self.data.previous[place]));
        let rfm = self.baselines.rfm(&self.heads[place], &self.data.table)?.map(|scores| at(&scores));
        let btyd = self.baselines.btyd(place, &self.data.table)?.map(|scores| at(&scores));
        let all = [(PERSISTENCE, persistence), (RFM, rfm), (BTYD, btyd)];
        let known = all.into_iter().filter_map(|(name, scores)| Some((name, scores?)));
        Ok(known.filter(|(_, scores)| *loss != Loss::Softmax && scores.iter().all(|v| v.is_finite())).collect())
    }
}
