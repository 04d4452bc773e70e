//! Labels and populations: each label by its own file and horizon, at its level, of customers who were there.

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::job::JobFolder;
use crate::support::shop::assert_success;

/// A column of a night's table, in the order of the rows.
fn published(job: &JobFolder, table: &str, night: &str, column: &str) -> Vec<Option<f64>> {
    let path = job.lake().join(format!("out/{table}/ds={night}/part-00000.parquet"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let batches = reader.map(|batch| batch.unwrap());
    let values = batches.flat_map(|batch| {
        let column = batch.column_by_name(column).unwrap_or_else(|| panic!("no `{column}`"));
        column.as_primitive::<Float64Type>().iter().collect::<Vec<_>>()
    });
    values.collect()
}

#[test]
fn a_model_of_few_epochs_keeps_the_level_of_churn() {
    let job = JobFolder::new(400, 300.0).write();
    assert_success(&job.tenure("train", &["--as-of", "2026-06-01"]));
    assert_success(&job.tenure("run", &["--as-of", "2026-06-01"]));
    let predicted: Vec<f64> = published(&job, "predictions", "2026-06-01", "churn").into_iter().flatten().collect();
    let known: Vec<i64> = job.customers.iter().filter(|(_, day)| *day > 30.0).map(|(key, _)| *key).collect();
    assert_eq!(predicted.len(), known.len());
    let stayed = known.iter().filter(|key| job.orders.iter().any(|o| o.customer == **key && o.days_before <= 30.0));
    let realised = 1.0 - stayed.count() as f64 / known.len() as f64;
    let mean = predicted.iter().sum::<f64>() / predicted.len() as f64;
    assert!((mean - realised).abs() < 0.05, "{mean} for {realised}");
}
