//! An evaluation as files: `evaluation.json`, `metrics.parquet`, `predictions.parquet`. The folder appears whole.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};

use super::evaluate::EvaluationReport;
use crate::lake::publish::{TableMeta, TableWriter, described};
use crate::model::folder::write_whole;
use crate::model::score_columns_of;
use crate::spec::Loss;
use crate::training::evaluate::Actual;
use crate::training::evaluation::{Comparison, HeadEvaluation};
use crate::training::{Grouping, Hindsight};
use crate::{Error, Result};

const JSON: &str = "evaluation.json";
const METRICS: &str = "metrics";
const PREDICTIONS: &str = "predictions";

/// Refuses a folder that holds anything else: it is going to be replaced.
pub(super) fn check(folder: &Path) -> Result<()> {
    let ours = [JSON.to_owned(), format!("{METRICS}.parquet"), format!("{PREDICTIONS}.parquet")];
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(folder, e))?,
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        if !ours.iter().any(|file| name.to_str() == Some(file)) {
            let what = format!("`{}` holds `{}`, which is no evaluation", folder.display(), name.display());
            return Err(Error::user(what).hint("`--out` replaces its folder: name a new one"));
        }
    }
    Ok(())
}

/// Writes all three in the place of what is there.
pub(super) fn write(
    folder: &Path,
    report: &EvaluationReport,
    hindsight: &Hindsight,
    keys: &ArrayRef,
    groupings: &[Grouping],
) -> Result<()> {
    write_whole(folder, check, |new| {
        let json = serde_json::to_string_pretty(report)
            .map_err(|e| Error::bug("the evaluation cannot be written as JSON").because(e))?;
        std::fs::write(new.join(JSON), json + "\n").map_err(|e| Error::io(new.join(JSON), e))?;
        let table = |meta: TableMeta, columns: Vec<ArrayRef>| -> Result<()> {
            let dates: Vec<String> = report.evaluation.as_of.iter().map(ToString::to_string).collect();
            let meta = meta.metadata("job", &report.job).metadata("model_version", &report.model_version);
            let mut writer = TableWriter::local(new, &meta.metadata("as_of", dates.join(",")))?;
            writer.write(&RecordBatch::try_new(writer.schema().clone(), columns)?)?;
            writer.finish().map(|_| ())
        };
        let (fields, columns) = metrics(&report.evaluation.heads);
        table(TableMeta::new(METRICS, "Each metric of each model, on everyone and on groups.", fields), columns)?;
        let (fields, columns) = predictions(hindsight, keys, groupings)?;
        table(TableMeta::new(PREDICTIONS, "What was said of each customer, and what happened.", fields), columns)
    })
}

/// One row per head, group, model and metric.
struct MetricRow<'a> {
    head: &'a HeadEvaluation,
    group: Option<(&'a str, &'a str)>,
    small: bool,
    customers: usize,
    model: &'a str,
    metric: &'a str,
    value: f64,
    interval: Option<[f64; 2]>,
    comparison: Option<&'a Comparison>,
}

fn metric_rows(heads: &[HeadEvaluation]) -> Vec<MetricRow<'_>> {
    let mut rows = Vec::new();
    for head in heads {
        let groups = head.groups.iter().map(|g| (Some((g.by.as_str(), g.group.as_str())), g.small, &g.standing));
        for (group, small, standing) in std::iter::once((None, false, &head.all)).chain(groups) {
            for model in &standing.models {
                rows.extend(model.metrics.iter().map(|(metric, value)| MetricRow {
                    head,
                    group,
                    small,
                    customers: standing.rows,
                    model: &model.model,
                    metric,
                    value: *value,
                    interval: model.intervals.get(metric).copied(),
                    comparison: standing.comparisons.iter().find(|c| c.against == model.model && c.metric == *metric),
                }));
            }
        }
    }
    rows
}

fn metrics(heads: &[HeadEvaluation]) -> (Vec<Field>, Vec<ArrayRef>) {
    let rows = metric_rows(heads);
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let mut add = |name: &str, nullable: bool, column: ArrayRef, text: &str| {
        fields.push(described(Field::new(name, column.data_type().clone(), nullable), text));
        columns.push(column);
    };
    let texts = |of: &dyn Fn(&MetricRow<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(of)))
    };
    let numbers = |of: &dyn Fn(&MetricRow<'_>) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(rows.iter().map(of)))
    };
    add("head", false, texts(&|r| Some(r.head.head.clone())), "the head");
    add("label", false, texts(&|r| Some(r.head.label.clone())), "its label");
    add("loss", false, texts(&|r| Some(r.head.loss.clone())), "its loss");
    let by = texts(&|r| r.group.map(|(by, _)| by.to_owned()));
    add("grouped_by", true, by, "what parts the customers: stage, cohort or a column; NULL on everyone");
    add("group_name", true, texts(&|r| r.group.map(|(_, g)| g.to_owned())), "the group; NULL on everyone");
    let small = BooleanArray::from_iter(rows.iter().map(|r| Some(r.small)));
    add("small", false, Arc::new(small), "whether the group is too small for its numbers to say much");
    let customers = Int64Array::from_iter_values(rows.iter().map(|r| r.customers as i64));
    add("customers", false, Arc::new(customers), "customers with a label behind the number");
    add("model", false, texts(&|r| Some(r.model.to_owned())), "`model`, or a baseline");
    add("metric", false, texts(&|r| Some(r.metric.to_owned())), "the metric");
    add("value", false, numbers(&|r| Some(r.value)), "its value");
    add("low", true, numbers(&|r| r.interval.map(|[low, _]| low)), "lower end of its 95 % interval");
    add("high", true, numbers(&|r| r.interval.map(|[_, high]| high)), "upper end of its 95 % interval");
    let advantage = numbers(&|r| r.comparison.map(|c| c.advantage));
    add("advantage", true, advantage, "by how much `model` is better than this baseline; negative where it is worse");
    let low = numbers(&|r| r.comparison.map(|c| c.interval[0]));
    add("advantage_low", true, low, "lower end of the advantage's 95 % interval, over the same resamples for both");
    let high = numbers(&|r| r.comparison.map(|c| c.interval[1]));
    add("advantage_high", true, high, "upper end of the advantage's 95 % interval");
    let outcome = texts(&|r| r.comparison.map(|c| c.outcome.name().to_owned()));
    add("outcome", true, outcome, "`win`, `tie` or `loss` of `model` against this baseline");
    (fields, columns)
}

/// The key, then per head the model's scores, what happened and what the baselines said, then the groups.
fn predictions(hindsight: &Hindsight, keys: &ArrayRef, groupings: &[Grouping]) -> Result<(Vec<Field>, Vec<ArrayRef>)> {
    let key = hindsight.data().kept[0].schema().field(0).clone();
    let mut fields = vec![described(key, "the customer")];
    let mut columns: Vec<ArrayRef> = vec![Arc::clone(keys)];
    let scores = hindsight.scores()?;
    for (name, data_type, text) in score_columns_of(hindsight.heads()) {
        if let Some(column) = scores.column_by_name(&name) {
            columns.push(Arc::clone(column));
            fields.push(described(Field::new(name, data_type, true), text));
        }
    }
    for (place, head) in hindsight.heads().iter().enumerate() {
        let column: ArrayRef = match hindsight.actual(place) {
            Actual::Numbers(labels) => Arc::new(Float64Array::from(labels)),
            Actual::Classes(labels) => Arc::new(StringArray::from(labels)),
        };
        let meaning = match head.loss {
            Loss::Ziln => format!("`{}` as it came, at least 0; NULL where it is not known", head.label),
            _ => format!("`{}` as it came; NULL where it is not known", head.label),
        };
        let name = format!("{}_actual", head.name);
        fields.push(described(Field::new(name, column.data_type().clone(), true), meaning));
        columns.push(column);
        for (baseline, said) in hindsight.baselines(place)? {
            let field = Field::new(format!("{}_{baseline}", head.name), DataType::Float64, false);
            fields.push(described(field, format!("`{}` as the baseline `{baseline}` predicts it", head.label)));
            columns.push(Arc::new(Float64Array::from(said)));
        }
    }
    for grouping in groupings {
        let field = Field::new(format!("by_{}", grouping.by), DataType::Utf8, false);
        fields.push(described(field, format!("the customer's group by `{}`", grouping.by)));
        columns.push(Arc::new(StringArray::from_iter_values((0..keys.len()).map(|row| grouping.name_of(row)))));
    }
    Ok((fields, columns))
}
