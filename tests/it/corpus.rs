//! One small shop as many tools write it (tests/corpus): every lake gives the features that plain loops over its rows give.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::python::{corpus_venv, stdout};
use crate::support::shop::{AS_OF, assert_success, checkout, tenure};

/// The features of each customer, column by column.
type Features = BTreeMap<String, BTreeMap<String, Value>>;

fn python(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(corpus_venv()?.join("bin/python"));
    command.arg(checkout().join("tests/corpus/write.py")).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(stdout(&command.output().unwrap()))
}

fn flavours() -> Vec<String> {
    python(&["--list"]).map(|list| list.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Writes the shop as one tool would.
fn write(flavour: &str, folder: &Path) {
    python(&[flavour, folder.to_str().unwrap()]);
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// The matrix that the program makes of a lake.
fn build(folder: &Path, options: &[&str]) -> Features {
    let (job, out) = (text(folder.join("job.yaml")), text(folder.join("matrix.parquet")));
    let mut arguments = vec!["features", "build", &job, "--as-of", AS_OF, "--out", &out];
    arguments.extend(options);
    assert_success(&tenure(&arguments));
    read(&folder.join("matrix.parquet"))
}

fn read(path: &Path) -> Features {
    let mut features = Features::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let keys = cast(batch.column_by_name("customer_id").unwrap(), &DataType::Utf8).unwrap();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if ["customer_id", "as_of"].contains(&field.name().as_str()) {
                continue;
            }
            for (row, value) in values(column).into_iter().enumerate() {
                let key = keys.as_string::<i32>().value(row).to_owned();
                features.entry(key).or_default().insert(field.name().clone(), value);
            }
        }
    }
    features
}

/// Texts as they are, times in microseconds, numbers of any type as doubles: the shop has none that a double cannot say.
fn values(column: &ArrayRef) -> Vec<Value> {
    let column = match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone())).unwrap();
            cast(&cast(&micros, &DataType::Int64).unwrap(), &DataType::Float64).unwrap()
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => {
            // By way of the text, which parses to the nearest double.
            cast(&cast(column, &DataType::Utf8).unwrap(), &DataType::Float64).unwrap()
        }
        kind if kind.is_numeric() => cast(column, &DataType::Float64).unwrap(),
        _ => cast(column, &DataType::Utf8).unwrap(),
    };
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().map(|text| json!(text)).collect(),
        _ => column.as_primitive::<Float64Type>().iter().map(|number| json!(number)).collect(),
    }
}

fn truth(folder: &Path) -> Features {
    let truth: Features = serde_json::from_str(&fs::read_to_string(folder.join("truth.json")).unwrap()).unwrap();
    let as_double = |value: Value| value.as_f64().map_or(value, |number| json!(number));
    let row = |row: BTreeMap<String, Value>| row.into_iter().map(|(name, value)| (name, as_double(value))).collect();
    truth.into_iter().map(|(key, columns)| (key, row(columns))).collect()
}

fn assert_same(flavour: &str, found: &Features, right: &Features) {
    assert_eq!(found.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>(), "{flavour}: customers");
    for (key, columns) in right {
        for (name, value) in columns {
            assert_eq!(found[key].get(name), Some(value), "{flavour}: `{name}` of customer {key}");
        }
        assert_eq!(found[key].len(), columns.len(), "{flavour}: columns of customer {key}");
    }
}

#[test]
fn corpus_every_tool_gives_the_same_features() {
    for flavour in flavours() {
        let folder = tempfile::tempdir().unwrap();
        write(&flavour, folder.path());
        assert_success(&tenure(&["check", &text(folder.path().join("job.yaml")), "--online"]));
        assert_same(&flavour, &build(folder.path(), &[]), &truth(folder.path()));
    }
}
