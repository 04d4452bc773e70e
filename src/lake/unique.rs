//! The `unique` checks: of several rows with one key the earliest is kept.
//!
//! A query over the key columns finds the keys that are there more than once, mostly none. Only then are the rows of
//! those keys fetched and put into one order (event time, then all columns), so that the same rows are kept whatever the
//! order in which they were read. Scans leave every row of those keys out and add the kept ones.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result as FusionResult;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::{DataFrame, Expr, ident, lit};
use futures::TryStreamExt;

use super::check_scan::json_rows;
use super::checks::UniqueCheck;
use crate::spec::TableSpec;
use crate::{Error, Result};

/// Rows of repeated keys that can be set aside. A table with more was loaded twice.
const MOST_REPEATED: usize = 1_000_000;

/// The keys that scans leave out, and the rows that they add instead.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats {
    keys: Vec<(Vec<String>, Arc<KeySet>)>,
    kept: Vec<RecordBatch>,
}

/// What a unique check found.
#[derive(Debug)]
pub(super) struct RepeatedRows {
    /// The rows of the repeated keys that stay, one per key.
    pub kept: RecordBatch,
    /// Reason and JSON of the others.
    pub others: Vec<(String, String)>,
    keys: Arc<KeySet>,
}

impl Repeats {
    /// The condition of a row whose key is there once; `None` where every key is.
    pub(super) fn once(&self) -> Option<Expr> {
        self.keys.iter().map(|(columns, keys)| !among(columns, keys)).reduce(Expr::and)
    }

    /// The columns that the condition looks at.
    pub(super) fn columns(&self) -> impl Iterator<Item = &String> {
        self.keys.iter().flat_map(|(columns, _)| columns)
    }

    /// The rows that stand for the repeated keys.
    pub(super) fn kept(&self) -> &[RecordBatch] {
        &self.kept
    }

    /// Leaves out what a check found. Rows that an earlier check kept may be among it.
    pub(super) fn leave_out(&mut self, check: &UniqueCheck, found: RepeatedRows) -> Result<()> {
        for batch in &mut self.kept {
            let others = found.keys.contains(&key_columns(batch, &check.columns)?)?;
            *batch = arrow::compute::filter_record_batch(batch, &arrow::compute::not(&others)?)?;
        }
        self.kept.push(found.kept);
        self.keys.push((check.columns.clone(), found.keys));
        Ok(())
    }
}

/// The rows of `rows` whose key is there more than once; `None` where there are none.
pub(super) async fn repeated(table: &TableSpec, check: &UniqueCheck, rows: DataFrame) -> Result<Option<RepeatedRows>> {
    let key: Vec<Expr> = check.columns.iter().map(ident).collect();
    let Some(known) = key.iter().cloned().map(Expr::is_not_null).reduce(Expr::and) else { return Ok(None) };
    let keys = rows
        .clone()
        .filter(known)?
        .aggregate(key.clone(), vec![count(lit(1_i64)).alias("rows of a key")])?
        .filter(ident("rows of a key").gt(lit(1_i64)))?
        .select(key)?;
    let keys = collect(table, check, keys).await?;
    if keys.num_rows() == 0 {
        return Ok(None);
    }
    let keys = Arc::new(KeySet::new(&key_columns(&keys, &check.columns)?)?);
    let all = collect(table, check, rows.filter(among(&check.columns, &keys))?).await?;
    let (kept, others) = earliest(table, check, &all)?;
    Ok(Some(RepeatedRows { kept, others, keys }))
}

async fn collect(table: &TableSpec, check: &UniqueCheck, rows: DataFrame) -> Result<RecordBatch> {
    let schema: SchemaRef = Arc::new(rows.schema().as_arrow().clone());
    let (mut batches, mut count) = (Vec::new(), 0);
    let mut stream = rows.execute_stream().await?;
    while let Some(batch) = stream.try_next().await? {
        count += batch.num_rows();
        if count > MOST_REPEATED {
            let message = format!(
                "in table `{}`, more than {MOST_REPEATED} rows or keys break `unique({})`",
                table.name,
                check.columns.join(", ")
            );
            return Err(Error::user(message).at(check.place.clone()).hint("was a load written twice?"));
        }
        batches.push(batch);
    }
    Ok(concat_batches(&schema, &batches)?)
}

/// The earliest row of each key, and why the others are not it.
fn earliest(table: &TableSpec, check: &UniqueCheck, all: &RecordBatch) -> Result<(RecordBatch, Vec<(String, String)>)> {
    let key = key_columns(all, &check.columns)?;
    let keys = rows_of(&key)?;
    let mut order = table.event_time.iter().map(|c| column(all, c)).collect::<Result<Vec<_>>>()?;
    order.extend(all.columns().iter().cloned());
    let order = rows_of(&order)?;
    let mut sorted: Vec<u32> = (0..all.num_rows() as u32).collect();
    sorted.sort_by_key(|row| (keys.row(*row as usize), order.row(*row as usize)));
    let is_first = |at: &usize| *at == 0 || keys.row(sorted[*at] as usize) != keys.row(sorted[*at - 1] as usize);
    let (first, others): (Vec<usize>, Vec<usize>) = (0..sorted.len()).partition(is_first);
    let rows = |places: Vec<usize>| {
        let indices = places.iter().map(|at| sorted[*at]).collect::<Vec<u32>>();
        take_record_batch(all, &UInt32Array::from(indices))
    };
    let (kept, others) = (rows(first)?, rows(others)?);
    let options = FormatOptions::new();
    let columns = key_columns(&others, &check.columns)?;
    let values = columns.iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<Vec<_>, _>>()?;
    let reason = |row: usize| {
        let key = check.columns.iter().zip(&values).map(|(name, value)| format!("{name} = {}", value.value(row)));
        format!("{} is there more than once, and an earlier row is kept (unique)", key.collect::<Vec<_>>().join(", "))
    };
    let shown = json_rows(&others)?;
    Ok((kept, (0..others.num_rows()).map(reason).zip(shown).collect()))
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).cloned();
    column.ok_or_else(|| Error::bug(format!("the column `{name}` is lost")))
}

fn key_columns(batch: &RecordBatch, names: &[String]) -> Result<Vec<ArrayRef>> {
    names.iter().map(|name| column(batch, name)).collect()
}

fn rows_of(columns: &[ArrayRef]) -> Result<arrow::row::Rows> {
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    Ok(RowConverter::new(fields)?.convert_columns(columns)?)
}

/// Some keys, for looking up whether a row has one of them.
#[derive(Debug)]
struct KeySet(HashSet<Box<[u8]>>);

impl KeySet {
    fn new(columns: &[ArrayRef]) -> Result<Self> {
        Ok(KeySet(rows_of(columns)?.iter().map(|row| row.as_ref().into()).collect()))
    }

    fn contains(&self, columns: &[ArrayRef]) -> Result<BooleanArray> {
        Ok(rows_of(columns)?.iter().map(|row| Some(self.0.contains(row.as_ref()))).collect())
    }
}

/// The condition of a row that has one of these keys.
fn among(columns: &[String], keys: &Arc<KeySet>) -> Expr {
    let function = Among { keys: Arc::clone(keys), signature: Signature::any(columns.len(), Volatility::Immutable) };
    ScalarUDF::from(function).call(columns.iter().map(ident).collect())
}

/// A SQL function that is never registered: it has its keys with it.
#[derive(Debug)]
struct Among {
    keys: Arc<KeySet>,
    signature: Signature,
}

impl PartialEq for Among {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }
}

impl Eq for Among {}

impl Hash for Among {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.keys).hash(state);
    }
}

impl ScalarUDFImpl for Among {
    fn name(&self) -> &'static str {
        "is_repeated"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> FusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> FusionResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(Arc::new(self.keys.contains(&columns)?)))
    }
}
