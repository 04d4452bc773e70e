//! The model beside the baselines, on customers with known labels.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::baselines::Baselines;
use super::metrics;
use crate::Result;
use crate::model::heads::{Head, Prediction};
use crate::model::manifest::loss_name;
use crate::model::preprocess::RawTable;
use crate::spec::Loss;

/// How the model is called among the models of an evaluation.
pub const MODEL: &str = "model";
/// The baseline that expects the last window again.
pub const PERSISTENCE: &str = "persistence";
/// The regression on recency, frequency and monetary value.
pub const RFM: &str = "rfm";

/// An evaluation at one or several dates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The dates at which the customers were looked at.
    pub as_of: Vec<NaiveDate>,
    /// Customers, counted once per date.
    pub customers: usize,
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
    /// Rows with a label.
    pub rows: usize,
    /// The label's mean over them; absent for classes.
    pub label_mean: Option<f64>,
    /// `model`, then the baselines, on the same rows.
    pub models: Vec<ModelMetrics>,
}

/// The metrics of one model; a metric that does not exist for these labels is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelMetrics {
    /// `model`, `persistence`, `rfm`.
    pub model: String,
    /// By name.
    pub metrics: BTreeMap<String, f64>,
}

/// The rows of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The heads in the order of everything else.
    pub heads: &'a [Head],
    /// The features.
    pub table: &'a RawTable,
    /// The rows that count.
    pub rows: &'a [usize],
    /// Per head and row of the table.
    pub labels: &'a [Vec<f64>],
    /// Per head and row of the table, the label one window before.
    pub previous: &'a [Vec<f64>],
    /// Per entry of `rows`.
    pub predicted: &'a [Option<Vec<Prediction>>],
    /// Fitted on other rows.
    pub baselines: &'a Baselines,
}

impl Evaluation {
    /// Compares the predictions of `rows` with their labels, beside the baselines.
    pub fn of(as_of: Vec<NaiveDate>, judged: Judged<'_>) -> Result<Self> {
        let heads = (0..judged.heads.len()).map(|head| judged.head(head)).collect::<Result<_>>()?;
        Ok(Evaluation { as_of, customers: judged.rows.len(), heads })
    }

    /// One metric of one model.
    pub fn metric(&self, head: &str, model: &str, metric: &str) -> Option<f64> {
        let head = self.heads.iter().find(|h| h.head == head)?;
        head.models.iter().find(|m| m.model == model)?.metrics.get(metric).copied()
    }

    /// A table per head: a row per metric, a column per model.
    pub fn table(&self) -> String {
        let dates: Vec<String> = self.as_of.iter().map(ToString::to_string).collect();
        let mut text = format!("{} customers as of {}\n", self.customers, dates.join(", "));
        for head in &self.heads {
            let mean = head.label_mean.map_or(String::new(), |mean| format!(", mean {}", number(mean)));
            text.push_str(&format!("\n{} ({}): {} labels `{}`{mean}\n", head.head, head.loss, head.rows, head.label));
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            table.set_header(std::iter::once("metric").chain(head.models.iter().map(|m| m.model.as_str())));
            for metric in metric_names(&head.loss) {
                let found: Vec<Option<f64>> = head.models.iter().map(|m| m.metrics.get(*metric).copied()).collect();
                if found.iter().any(Option::is_some) {
                    let cells = found.into_iter().map(|v| v.map_or_else(|| "–".to_owned(), number));
                    table.add_row(std::iter::once((*metric).to_owned()).chain(cells));
                }
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            text.push_str(&format!("{table}\n"));
        }
        text
    }
}

impl Judged<'_> {
    fn head(&self, place: usize) -> Result<HeadEvaluation> {
        let head = &self.heads[place];
        // Rows with a label and a prediction.
        let known: Vec<(usize, Prediction)> = self
            .rows
            .iter()
            .zip(self.predicted)
            .filter(|(row, _)| !self.labels[place][**row].is_nan())
            .filter_map(|(row, predicted)| predicted.as_ref().map(|p| (*row, p[place])))
            .collect();
        let rows: Vec<usize> = known.iter().map(|(row, _)| *row).collect();
        let labels: Vec<f64> = rows.iter().map(|row| self.labels[place][*row]).collect();
        let mut models = Vec::new();
        let mut add =
            |model: &str, metrics: BTreeMap<String, f64>| models.push(ModelMetrics { model: model.into(), metrics });
        if head.loss == Loss::Softmax {
            add(MODEL, class_metrics(&labels, &known));
        } else {
            let scores: Vec<f64> = known.iter().map(|(_, p)| p.point()).collect();
            add(MODEL, number_metrics(&head.loss, &labels, &scores));
            let at = |values: &[f64]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
            let persistence = self.baselines.persistence(place, &head.loss, &at(&self.previous[place]));
            // A baseline is shown only if it has something to say about every row.
            if let Some(scores) = persistence.filter(|s| s.iter().all(|v| v.is_finite())) {
                add(PERSISTENCE, number_metrics(&head.loss, &labels, &scores));
            }
            if let Some(scores) = self.baselines.rfm(place, self.table)? {
                add(RFM, number_metrics(&head.loss, &labels, &at(&scores)));
            }
        }
        let mean = labels.iter().sum::<f64>() / labels.len().max(1) as f64;
        Ok(HeadEvaluation {
            head: head.name.clone(),
            label: head.label.clone(),
            loss: loss_name(&head.loss).to_owned(),
            rows: labels.len(),
            label_mean: (head.loss != Loss::Softmax).then_some(mean),
            models,
        })
    }
}

/// The metrics of a loss in the order of the table.
fn metric_names(loss: &str) -> &'static [&'static str] {
    match loss {
        "bce" => &["auc", "average_precision", "log_loss", "brier", "calibration_error", "top_decile_lift"],
        "softmax" => &["accuracy"],
        "mse" => &["spearman", "mae", "rmse"],
        _ => &[
            "spearman",
            "gini_norm",
            "mae",
            "rmse",
            "total_bias_signed",
            "total_bias",
            "decile_mape",
            "decile_wape",
            "top_decile_share",
            "top_decile_lift",
        ],
    }
}

fn number_metrics(loss: &Loss, labels: &[f64], scores: &[f64]) -> BTreeMap<String, f64> {
    let of = |name: &str| match name {
        "auc" => metrics::auc(labels, scores),
        "average_precision" => metrics::average_precision(labels, scores),
        "log_loss" => metrics::log_loss(labels, scores),
        "brier" => metrics::brier(labels, scores),
        "calibration_error" => metrics::calibration_error(labels, scores),
        "spearman" => metrics::spearman(labels, scores),
        "gini_norm" => metrics::normalized_gini(labels, scores),
        "mae" => metrics::mae(labels, scores),
        "rmse" => metrics::rmse(labels, scores),
        "total_bias_signed" => metrics::total_bias(labels, scores),
        "total_bias" => metrics::total_bias(labels, scores).abs(),
        "decile_mape" => metrics::deciles(labels, scores).mape,
        "decile_wape" => metrics::deciles(labels, scores).wape,
        "top_decile_share" => metrics::top_decile_share(labels, scores),
        "top_decile_lift" => metrics::top_decile_lift(labels, scores),
        _ => f64::NAN,
    };
    let names = metric_names(loss_name(loss)).iter();
    names.map(|name| ((*name).to_owned(), of(name))).filter(|(_, value)| value.is_finite()).collect()
}

fn class_metrics(labels: &[f64], known: &[(usize, Prediction)]) -> BTreeMap<String, f64> {
    let hit = |(label, (_, p)): &(&f64, &(usize, Prediction))| matches!(p, Prediction::Class(class, _) if *class as f64 == **label);
    let hits = labels.iter().zip(known).filter(hit).count() as f64;
    let accuracy = hits / labels.len() as f64;
    BTreeMap::from([("accuracy".to_owned(), accuracy)]).into_iter().filter(|(_, v)| v.is_finite()).collect()
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.2}") } else { format!("{value:.4}") }
}
