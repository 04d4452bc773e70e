//! The audit: reads a local file back, as a reader would, and holds it against what its table promises.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Schema};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::population::PopulationCount;
use super::table::{StagedFile, TableMeta};
use crate::error::Problem;
use crate::{Error, Result, hash};

/// Checks a file against its table and gives its SHA-256. All problems at once, each column's first row named (from 1).
pub(super) fn audit(file: &StagedFile, population: PopulationCount) -> Result<String> {
    let meta = &file.meta;
    let opened = File::open(&file.path).map_err(|e| Error::io(&file.path, e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|e| unreadable(&file.path, e))?;
    same_schema(meta, reader.schema())?;
    let batches = reader.with_batch_size(16 * 1024).build().map_err(|e| unreadable(&file.path, e))?;

    let mut rows = 0_u64;
    let mut floats = Floats::default();
    let mut order = KeyOrder::new(meta)?;
    for batch in batches {
        let batch = batch.map_err(|e| unreadable(&file.path, e))?;
        floats.look(&batch, rows);
        if let Some(order) = &mut order {
            order.look(&batch, rows)?;
        }
        rows += batch.num_rows() as u64;
    }

    if meta.per_customer {
        population.check(&format!("the table `{}`", meta.name), rows)?;
    }
    let mut problems = floats.problems(meta);
    problems.extend(order.and_then(|order| order.broken).map(|what| problem(meta, &what)));
    if rows != file.rows {
        problems.push(problem(meta, &format!("{} rows were written and {rows} read back", file.rows)));
    }
    Error::all(problems)?;
    hash::of_file(&file.path)
}

fn same_schema(meta: &TableMeta, found: &Schema) -> Result<()> {
    if found.fields() == meta.schema.fields() {
        return Ok(());
    }
    let wanted = meta.schema.fields().iter();
    let differs = wanted.zip(found.fields()).find(|(wanted, found)| wanted != found);
    let what = match differs {
        Some((wanted, found)) => {
            format!("column `{}` is declared as `{wanted}` and was written as `{found}`", wanted.name())
        }
        None => {
            format!("{} columns are declared and {} were written", meta.schema.fields().len(), found.fields().len())
        }
    };
    Error::all(vec![problem(meta, &what)])
}

/// The first NaN or infinity of every float column.
#[derive(Default)]
struct Floats {
    broken: Vec<(String, u64, f64)>,
}

impl Floats {
    fn look(&mut self, batch: &RecordBatch, rows_before: u64) {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if self.broken.iter().any(|(name, ..)| name == field.name()) {
                continue;
            }
            if let Some((row, value)) = first_not_finite(column) {
                self.broken.push((field.name().clone(), rows_before + row as u64 + 1, value));
            }
        }
    }

    fn problems(&self, meta: &TableMeta) -> Vec<Problem> {
        let told = |(column, row, value): &(String, u64, f64)| {
            problem(meta, &format!("column `{column}` holds `{value}` in row {row}"))
        };
        self.broken.iter().map(told).collect()
    }
}

/// The first NaN or infinity that is not NULL, with its position.
fn first_not_finite(column: &ArrayRef) -> Option<(usize, f64)> {
    fn first(values: impl Iterator<Item = Option<f64>>) -> Option<(usize, f64)> {
        values.enumerate().find_map(|(row, value)| value.filter(|v| !v.is_finite()).map(|v| (row, v)))
    }
    match column.data_type() {
        DataType::Float64 => first(column.as_primitive::<Float64Type>().iter()),
        DataType::Float32 => first(column.as_primitive::<Float32Type>().iter().map(|v| v.map(f64::from))),
        DataType::Float16 => first(column.as_primitive::<Float16Type>().iter().map(|v| v.map(f64::from))),
        _ => None,
    }
}

/// Whether the key is never NULL, unique and strictly ascending, across batches.
struct KeyOrder {
    names: Vec<String>,
    indices: Vec<usize>,
    converter: RowConverter,
    last: Option<OwnedRow>,
    broken: Option<String>,
}

impl KeyOrder {
    fn new(meta: &TableMeta) -> Result<Option<Self>> {
        let Some(names) = meta.key.clone() else { return Ok(None) };
        let indices = meta.key_indices()?;
        let fields = indices.iter().map(|i| SortField::new(meta.schema.field(*i).data_type().clone())).collect();
        Ok(Some(KeyOrder { names, indices, converter: RowConverter::new(fields)?, last: None, broken: None }))
    }

    fn look(&mut self, batch: &RecordBatch, rows_before: u64) -> Result<()> {
        if self.broken.is_some() || batch.num_rows() == 0 {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = self.indices.iter().map(|index| batch.column(*index).clone()).collect();
        for (name, column) in self.names.iter().zip(&columns) {
            if let Some(row) = (0..column.len()).find(|row| column.is_null(*row)) {
                self.broken = Some(format!("key column `{name}` is NULL in row {}", rows_before + row as u64 + 1));
                return Ok(());
            }
        }
        let keys = self.converter.convert_columns(&columns)?;
        for row in 0..keys.num_rows() {
            let key = keys.row(row);
            let order = match (&self.last, row) {
                (None, 0) => continue,
                (Some(last), 0) => last.row().cmp(&key),
                _ => keys.row(row - 1).cmp(&key),
            };
            if order.is_ge() {
                let what = if order.is_eq() { "appears again" } else { "is smaller than the one before it" };
                let shown = columns.iter().map(|c| array_value_to_string(c, row)).collect::<Result<Vec<_>, _>>()?;
                self.broken = Some(format!(
                    "key `{}` = `{}` {what} in row {}",
                    self.names.join("`, `"),
                    shown.join("`, `"),
                    rows_before + row as u64 + 1
                ));
                return Ok(());
            }
        }
        self.last = Some(keys.row(keys.num_rows() - 1).owned());
        Ok(())
    }
}

fn problem(meta: &TableMeta, what: &str) -> Problem {
    Problem::new(format!("the table `{}` failed its audit: {what}", meta.name))
        .hint("nothing was published; the night before is still in place")
}

fn unreadable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::infra(format!("`{}` cannot be read back", path.display())).because(error)
}
