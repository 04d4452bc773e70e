//! Models judged side by side on the same rows.

use std::collections::BTreeMap;

use super::bootstrap;
use super::verdict::{self, Comparison};
use super::{MODEL, ModelMetrics, Standing};
use crate::spec::Loss;
use crate::training::metrics::weighted::{Ranked, Truth};
use crate::training::metrics::{Interval, Metric};

/// A group with fewer rows than this is small.
const FEW_ROWS: usize = 100;
/// So is one with fewer rows than this on one side: churned and not churned, or buyers.
const FEW_OF_A_KIND: usize = 20;

/// What one model says of the rows of a panel.
#[derive(Debug, Clone)]
pub(super) struct Contender {
    pub name: String,
    pub scores: Vec<f64>,
    /// Where it expects four labels in five, if it says so.
    pub intervals: Option<Vec<Interval>>,
}

/// Rows with their labels, and the models that speak about every one of them; the first is ours.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub loss: Loss,
    /// Per row, which customer it is: the one who is drawn.
    pub customers: Vec<u32>,
    pub labels: Vec<f64>,
    pub contenders: Vec<Contender>,
}

/// A panel sorted for its metrics.
pub(super) struct Prepared<'a> {
    panel: &'a Panel,
    metrics: &'static [Metric],
    truth: Truth,
    ranked: Vec<Ranked>,
}

impl Panel {
    /// Some of its rows.
    pub fn subset(&self, rows: &[usize]) -> Panel {
        let numbers = |values: &[f64]| rows.iter().map(|row| values[*row]).collect();
        let contender = |c: &Contender| Contender {
            name: c.name.clone(),
            scores: numbers(&c.scores),
            intervals: c.intervals.as_ref().map(|all| rows.iter().map(|row| all[*row]).collect()),
        };
        Panel {
            loss: self.loss.clone(),
            customers: rows.iter().map(|row| self.customers[*row]).collect(),
            labels: numbers(&self.labels),
            contenders: self.contenders.iter().map(contender).collect(),
        }
    }

    /// Too small for its numbers to say much.
    pub fn small(&self) -> bool {
        let positive = self.labels.iter().filter(|label| **label > 0.0).count();
        let few = match self.loss {
            Loss::Bce => positive.min(self.labels.len() - positive) < FEW_OF_A_KIND,
            Loss::Ziln => positive < FEW_OF_A_KIND,
            Loss::Mse | Loss::Softmax => false,
        };
        few || self.labels.len() < FEW_ROWS
    }

    /// Sorted for these metrics.
    pub fn prepare(&self, metrics: &'static [Metric]) -> Prepared<'_> {
        let ranked = |c: &Contender| Ranked::new(&self.labels, &c.scores, c.intervals.as_deref(), metrics);
        let ranked = self.contenders.iter().map(ranked).collect();
        Prepared { panel: self, metrics, truth: Truth::new(&self.labels), ranked }
    }
}

impl Prepared<'_> {
    /// Every contender's metrics, one after the other, where each customer counts so many times.
    pub fn drawn(&self, counts: &[f64]) -> Vec<f64> {
        let weights: Vec<f64> = self.panel.customers.iter().map(|customer| counts[*customer as usize]).collect();
        let drawn = self.truth.draw(&weights, self.metrics);
        self.ranked.iter().flat_map(|ranked| ranked.metrics(&drawn, self.metrics)).collect()
    }

    /// The metrics with their intervals, and ours held against the others'; `resampled` is what [`Self::drawn`] gave.
    pub fn standing(&self, resampled: &[&[f64]]) -> Standing {
        let Panel { loss, labels, contenders, .. } = self.panel;
        let mut models: Vec<ModelMetrics> = Vec::new();
        let mut comparisons = Vec::new();
        for (place, contender) in contenders.iter().enumerate() {
            let mut model =
                ModelMetrics { model: contender.name.clone(), metrics: BTreeMap::new(), intervals: BTreeMap::new() };
            for (i, metric) in self.metrics.iter().enumerate() {
                let value = metric.of(labels, &contender.scores, contender.intervals.as_deref());
                if !value.is_finite() {
                    continue;
                }
                let column = place * self.metrics.len() + i;
                model.metrics.insert(metric.name().to_owned(), value);
                if let Some(interval) = bootstrap::interval(resampled.iter().map(|draw| draw[column])) {
                    model.intervals.insert(metric.name().to_owned(), interval);
                }
                if let Some(ours) = models.first().and_then(|ours| ours.metrics.get(metric.name())) {
                    let pairs = resampled.iter().map(|draw| (draw[i], draw[column]));
                    let headline = Metric::headlines(loss).contains(metric);
                    comparisons.extend(verdict::compare(*metric, headline, &contender.name, (*ours, value), pairs));
                }
            }
            models.push(model);
        }
        debug_assert!(models.first().is_none_or(|first| first.model == MODEL));
        let mean = labels.iter().sum::<f64>() / labels.len().max(1) as f64;
        Standing { rows: labels.len(), label_mean: (*loss != Loss::Softmax).then_some(mean), models, comparisons }
    }
}

impl Comparison {
    /// Of these, those against one model that decide who wins.
    pub(super) fn headlines<'a>(all: &'a [Comparison], against: &str) -> Vec<&'a Comparison> {
        all.iter().filter(|c| c.headline && c.against == against).collect()
    }
}
