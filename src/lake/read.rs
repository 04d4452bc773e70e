//! Reading outside the feature queries: labelled texts, published tables, where a lake's history begins and ends.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{Expr, cast};
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionContext, ident};
use url::Url;

use super::point_in_time::column_type;
use super::{EngineOptions, Lake, Store, Visibility, session, tables};
use crate::spec::{ColumnType, JobSpec, TableSpec};
use crate::{Error, Result};

/// Some columns of a published table.
#[derive(Debug)]
pub struct PublishedColumns {
    /// The rows, ascending by the first column. A column that the table lacks is not there.
    pub rows: RecordBatch,
    /// The entries of the file's footer.
    pub footer: HashMap<String, String>,
}

/// The first day that is known of each customer, by the key as text.
pub type FirstDays = HashMap<String, DateTime<Utc>>;

impl Lake {
    /// When each customer came: the least value of `since`, a table with one of its columns, or where there is none the first
    /// event in any table that has the key. Only what is visible at `at` counts.
    pub async fn first_days(&self, at: Visibility, key: &str, since: Option<(&str, &str)>) -> Result<FirstDays> {
        let context = self.session(at).await?;
        let mut days = FirstDays::new();
        for table in self.tables.iter().map(|table| &table.spec) {
            let time = match since {
                Some((name, column)) => (table.name == name).then_some(column),
                None => table.event_time.as_deref(),
            };
            let Some(time) = time.filter(|_| column_type(table, key).is_some()) else { continue };
            let first = min(plain_time(table, time)).alias("first");
            let rows = context.table(tables::reference(&table.name)).await?;
            let key = cast(ident(key), DataType::Utf8).alias("key");
            for batch in rows.aggregate(vec![key], vec![first])?.collect().await? {
                let keys = batch.column(0).as_string::<i32>().iter();
                let values = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>().iter();
                for (key, first) in keys.zip(values) {
                    let first = first.and_then(|first| self.instant_of(column_type(table, time), first));
                    if let (Some(key), Some(first)) = (key, first) {
                        let known = days.entry(key.to_owned()).or_insert(first);
                        *known = first.min(*known);
                    }
                }
            }
        }
        Ok(days)
    }
}

/// The integer behind a time: days of a date, microseconds of a timestamp.
pub(super) fn plain_time(table: &TableSpec, column: &str) -> Expr {
    let plain = match column_type(table, column) {
        Some(ColumnType::Date) => cast(ident(column), DataType::Int32),
        _ => cast(cast(ident(column), ColumnType::Timestamp.arrow(table.timezone)), DataType::Int64),
    };
    cast(plain, DataType::Int64)
}

/// A table of a published folder as the queries of `context` see it; `path` lies below `folder`.
pub async fn read_published(context: &SessionContext, folder: &Url, path: &str) -> Result<DataFrame> {
    open_published(context, folder, path, ParquetReadOptions::default()).await
}

/// Columns of a published table, whole in memory; the first one orders the rows.
pub async fn read_published_columns(
    context: &SessionContext,
    folder: &Url,
    path: &str,
    columns: &[&str],
) -> Result<PublishedColumns> {
    let options = ParquetReadOptions::default().skip_metadata(false);
    let table = open_published(context, folder, path, options).await?;
    let footer = table.schema().metadata().clone();
    let there = |name: &&&str| table.schema().has_column_with_unqualified_name(name);
    let select: Vec<_> = columns.iter().filter(there).map(|name| ident(*name)).collect();
    let order = columns.first().map(|key| ident(*key).sort(true, false));
    let rows = table.select(select)?.sort(order.into_iter().collect())?;
    let schema = Arc::new(rows.schema().as_arrow().clone());
    Ok(PublishedColumns { rows: concat_batches(&schema, &rows.collect().await?)?, footer })
}

async fn open_published(
    context: &SessionContext,
    folder: &Url,
    path: &str,
    options: ParquetReadOptions<'_>,
) -> Result<DataFrame> {
    let store = Store::open(folder)?;
    let url = Url::parse(&store.url_of(path)).map_err(|e| Error::user(format!("`{path}` makes no URL")).because(e))?;
    let mut bucket = url.clone();
    bucket.set_path("");
    context.runtime_env().register_object_store(&bucket, store.inner());
    Ok(context.read_parquet(url.as_str(), options).await?)
}

/// Two text columns of a declared table, row by row; NULL is the empty text.
pub async fn read_texts(
    spec: &JobSpec,
    options: &EngineOptions,
    table: &str,
    text: &str,
    label: &str,
) -> Result<(Vec<String>, Vec<String>)> {
    let lake = Lake::open(spec, options)?;
    let everything = Visibility { until: DateTime::<Utc>::MAX_UTC, known: DateTime::<Utc>::MAX_UTC };
    // One partition keeps the rows in the order of the file.
    let context =
        session::context_in(&EngineOptions { threads: 1, ..*options }, lake.timezone, Arc::clone(&lake.runtime));
    lake.register(&context, everything).await?;
    let rows = context.table(tables::reference(table)).await?.select(vec![ident(text), ident(label)])?;
    let (mut texts, mut labels) = (Vec::new(), Vec::new());
    for batch in rows.collect().await? {
        for (column, goal) in [(0, &mut texts), (1, &mut labels)] {
            let values = batch.column(column).as_string::<i32>();
            goal.extend(values.iter().map(|value| value.unwrap_or_default().to_owned()));
        }
    }
    if texts.is_empty() {
        return Err(Error::user(format!("the table `{table}` is empty")));
    }
    Ok((texts, labels))
}
