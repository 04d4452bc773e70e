//! A search as files beside its log: `trials.parquet` with a row per training, `best.yaml` with the patch for the job.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Field;

use crate::lake::publish::{TableMeta, TableWriter, described};
use crate::training::TuneReport;
use crate::training::tune::space::Value;
use crate::training::tune::trials::Training;
use crate::{Error, Result};

/// The name of the patch.
pub(super) const PATCH: &str = "best.yaml";
const TABLE: &str = "trials";

/// Writes both, each whole or not at all.
pub(super) fn write(folder: &Path, report: &TuneReport) -> Result<()> {
    let scratch = crate::scratch::folder_in(folder, ".tenure-tune-")?;
    let place = |name: &str| {
        let goal = folder.join(name);
        std::fs::rename(scratch.path().join(name), &goal).map_err(|e| Error::io(goal, e))
    };
    let (fields, columns) = table(&report.trainings);
    let meta = TableMeta::new(TABLE, "A search for settings, training by training.", fields)
        .metadata("job", &report.job)
        .metadata("as_of", report.as_of.to_string())
        .metadata("seed", report.seed.to_string());
    let mut writer = TableWriter::local(scratch.path(), &meta)?;
    writer.write(&RecordBatch::try_new(writer.schema().clone(), columns)?)?;
    writer.finish()?;
    place(&format!("{TABLE}.parquet"))?;
    if let Some(verdict) = &report.verdict {
        let patch = scratch.path().join(PATCH);
        std::fs::write(&patch, &verdict.patch).map_err(|e| Error::io(&patch, e))?;
        place(PATCH)?;
    }
    Ok(())
}

/// The columns of every training, then one per dimension, then one per head and metric.
fn table(trainings: &[Training]) -> (Vec<Field>, Vec<ArrayRef>) {
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let mut add = |name: &str, nullable: bool, column: ArrayRef, text: &str| {
        fields.push(described(Field::new(name, column.data_type().clone(), nullable), text));
        columns.push(column);
    };
    let counts = |of: &dyn Fn(&Training) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(trainings.iter().map(|training| of(training) as i64)))
    };
    let numbers = |of: &dyn Fn(&Training) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(trainings.iter().map(of)))
    };
    add("trial", false, counts(&|t| t.trial), "the setting; 0 is the job's own");
    add("rung", false, counts(&|t| t.rung), "the rung, from 0");
    add("budget", false, counts(&|t| t.budget), "the epochs that the rung gives");
    add("epochs", false, counts(&|t| t.result.epochs), "the epoch whose weights were judged");
    add("seconds", false, numbers(&|t| Some(t.result.seconds)), "how long it took");
    add("loss", true, numbers(&|t| t.result.loss), "the heads' losses together on the rows that choose");
    let judged = numbers(&|t| t.result.judged_loss);
    add("judged_loss", true, judged, "the same on the rows that neither stop nor choose");
    let failed: ArrayRef = Arc::new(StringArray::from_iter(trainings.iter().map(|t| t.result.failed.clone())));
    add("failed", true, failed, "why it failed, if it did");

    let keys: BTreeSet<&String> = trainings.iter().flat_map(|training| training.values.keys()).collect();
    for key in keys {
        let values = || trainings.iter().map(|training| training.values.get(key));
        let number = |value: Option<&Value>| match value {
            Some(Value::Number(number)) => Some(*number),
            Some(Value::Whole(number)) => Some(*number as f64),
            _ => None,
        };
        let column: ArrayRef = match values().flatten().all(|value| number(Some(value)).is_some()) {
            true => Arc::new(Float64Array::from_iter(values().map(number))),
            false => Arc::new(StringArray::from_iter(values().map(|value| value.map(ToString::to_string)))),
        };
        add(&key.replace('.', "_"), true, column, &format!("`{key}` in the job file"));
    }
    let metrics: BTreeSet<(&String, &String)> = trainings
        .iter()
        .flat_map(|t| &t.result.heads)
        .flat_map(|(head, of)| of.keys().map(move |m| (head, m)))
        .collect();
    for (head, metric) in metrics {
        let column = numbers(&|t| t.result.heads.get(head)?.get(metric).copied());
        let text = format!("`{metric}` of `{head}` on the rows that neither stop nor choose");
        add(&format!("{head}_{metric}"), true, column, &text);
    }
    (fields, columns)
}
