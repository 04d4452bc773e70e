//! The tables `outcomes` and `outcome_deciles`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Date32Type, Field};
use chrono::NaiveDate;

use super::Decile;
use crate::Result;
use crate::lake::publish::{TableMeta, described};
use crate::ledger::OutcomeRecord;
use crate::spec::OutcomeMetric;

/// The table with one row per head.
const OUTCOMES: &str = "outcomes";
/// The table with one row per head and decile.
const DECILES: &str = "outcome_deciles";

/// What `outcomes` promises.
pub(crate) fn outcomes_meta() -> TableMeta {
    let text = |name: &str, means: &str| described(Field::new(name, DataType::Utf8, false), means);
    let count = |name: &str, means: &str| described(Field::new(name, DataType::Int64, false), means);
    let number = |name: &str, means: &str| described(Field::new(name, DataType::Float64, true), means);
    let day = |name: &str, nullable: bool, means: &str| described(Field::new(name, DataType::Date32, nullable), means);
    let mut fields = vec![
        text("head", "the head"),
        text("label", "the label that it predicts"),
        described(Field::new("horizon_days", DataType::Int32, false), "days from the prediction to this night"),
        day("predicted_ds", false, "the night that predicted"),
        text("model_version", "the model that it predicted with"),
        day(
            "trained_as_of",
            true,
            "the day up to which that model had learned; after `predicted_ds` it had seen a part",
        ),
        count("customers", "customers in those predictions"),
        count("unscored", "those without a score"),
        count("unlabelled", "those with a score whose label is not known"),
        count("judged", "those with both, on whom every number rests"),
        number("predicted_mean", "mean prediction; of classes the mean probability of the likeliest"),
        number("predicted_sum", "its sum"),
        number("realised_mean", "mean of what came; of classes the share that the likeliest one was right for"),
        number("realised_sum", "its sum"),
    ];
    fields.extend(OutcomeMetric::ALL.map(|metric| number(metric.name(), meaning(metric))));
    TableMeta::new(OUTCOMES, "Predictions made one horizon ago beside what happened, by head.", fields).key(["head"])
}

/// What `outcome_deciles` promises.
pub(crate) fn deciles_meta() -> TableMeta {
    let number = |name: &str, means: &str| described(Field::new(name, DataType::Float64, false), means);
    let fields = vec![
        described(Field::new("head", DataType::Utf8, false), "the head"),
        described(Field::new("decile", DataType::Int32, false), "1: the tenth with the highest predictions, to 10"),
        described(Field::new("predicted_ds", DataType::Date32, false), "the night that predicted"),
        described(Field::new("customers", DataType::Int64, false), "judged customers in it"),
        number("predicted_mean", "mean prediction"),
        number("predicted_sum", "its sum"),
        number("realised_mean", "mean of what came"),
        number("realised_sum", "its sum"),
    ];
    let about = "Predictions made one horizon ago beside what happened, by head and decile of the prediction.";
    TableMeta::new(DECILES, about, fields).key(["head", "decile"])
}

/// The rows of `outcomes`.
pub(crate) fn outcome_rows(records: &[OutcomeRecord]) -> Result<RecordBatch> {
    let text = |of: fn(&OutcomeRecord) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(records.iter().map(of)))
    };
    let count = |of: fn(&OutcomeRecord) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(records.iter().map(|record| of(record) as i64)))
    };
    let number = |of: &dyn Fn(&OutcomeRecord) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(records.iter().map(of)))
    };
    let day = |of: fn(&OutcomeRecord) -> Option<NaiveDate>| -> ArrayRef {
        Arc::new(Date32Array::from_iter(records.iter().map(|record| of(record).map(Date32Type::from_naive_date))))
    };
    let horizons = records.iter().map(|record| i32::try_from(record.horizon_days).unwrap_or(i32::MAX));
    let mut columns: Vec<ArrayRef> = vec![
        text(|r| &r.head),
        text(|r| &r.label),
        Arc::new(Int32Array::from_iter_values(horizons)),
        day(|r| Some(r.predicted_ds)),
        text(|r| &r.model_version),
        day(|r| r.trained_as_of),
        count(|r| r.customers),
        count(|r| r.unscored),
        count(|r| r.unlabelled),
        count(|r| r.judged),
        number(&|r| r.predicted_mean),
        number(&|r| Some(r.predicted_sum)),
        number(&|r| r.realised_mean),
        number(&|r| Some(r.realised_sum)),
    ];
    columns.extend(OutcomeMetric::ALL.map(|metric| number(&|r| r.metrics.get(metric.name()).copied())));
    Ok(RecordBatch::try_new(outcomes_meta().schema, columns)?)
}

/// The rows of `outcome_deciles`.
pub(crate) fn decile_rows(deciles: &[Decile]) -> Result<RecordBatch> {
    let number =
        |of: fn(&Decile) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(deciles.iter().map(of))) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(deciles.iter().map(|d| &d.head))),
        Arc::new(Int32Array::from_iter_values(deciles.iter().map(|d| i32::from(d.decile)))),
        Arc::new(Date32Array::from_iter_values(deciles.iter().map(|d| Date32Type::from_naive_date(d.predicted_ds)))),
        Arc::new(Int64Array::from_iter_values(deciles.iter().map(|d| d.customers as i64))),
        number(|d| d.predicted_sum / d.customers as f64),
        number(|d| d.predicted_sum),
        number(|d| d.realised_sum / d.customers as f64),
        number(|d| d.realised_sum),
    ];
    Ok(RecordBatch::try_new(deciles_meta().schema, columns)?)
}

/// What a metric's column means.
fn meaning(metric: OutcomeMetric) -> &'static str {
    match metric {
        OutcomeMetric::TotalBias => "predicted_sum over realised_sum, minus 1; NULL where nothing came",
        OutcomeMetric::DecileWape => "sum of the deciles' |predicted_sum - realised_sum| over realised_sum",
        OutcomeMetric::Auc => "area under the ROC curve; probabilities and classes",
        OutcomeMetric::AveragePrecision => "area under precision and recall; probabilities",
        OutcomeMetric::LogLoss => "mean negative log-likelihood; probabilities and classes",
        OutcomeMetric::Brier => "mean squared error of the probability; probabilities and classes",
        OutcomeMetric::CalibrationError => "expected calibration error over ten bins; probabilities and classes",
        OutcomeMetric::Accuracy => "share that the likeliest class was right for; classes",
        OutcomeMetric::GiniNorm => "normalized Gini; values",
        OutcomeMetric::Spearman => "rank correlation; values and numbers",
        OutcomeMetric::Mae => "mean absolute error; values and numbers",
        OutcomeMetric::Rmse => "root of the mean squared error; values and numbers",
        OutcomeMetric::IntervalCoverage => {
            "how much of the values lay from _p10 to _p90, a 0 by the share of its probability there; values"
        }
    }
}
