//! Reading outside the feature queries: labelled texts, published tables, where a lake's history begins and ends.

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::cast;
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionContext, ident};
use url::Url;

use super::point_in_time::column_type;
use super::{EngineOptions, Lake, Store, Visibility, session, tables};
use crate::spec::{ColumnType, JobSpec};
use crate::{Error, Result};

/// When the events of a lake begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSpan {
    /// The earliest event of any table.
    pub first: DateTime<Utc>,
    /// The newest one.
    pub last: DateTime<Utc>,
}

impl Lake {
    /// The span of the events that are visible at `at`; `None` for a lake without any.
    pub async fn event_span(&self, at: Visibility) -> Result<Option<EventSpan>> {
        let context = self.session(at).await?;
        let mut span: Option<EventSpan> = None;
        for table in self.tables.iter().map(|table| &table.spec) {
            let Some(event_time) = &table.event_time else { continue };
            let rows = context.table(tables::reference(&table.name)).await?;
            // Through the integer behind it: days of a date, microseconds of a timestamp.
            let plain = match column_type(table, event_time) {
                Some(ColumnType::Date) => cast(ident(event_time), DataType::Int32),
                _ => cast(cast(ident(event_time), ColumnType::Timestamp.arrow()), DataType::Int64),
            };
            let plain = cast(plain, DataType::Int64);
            let ends = vec![min(plain.clone()).alias("first"), max(plain).alias("last")];
            for batch in rows.aggregate(vec![], ends)?.collect().await? {
                let end = |column: usize| {
                    let values = batch.column(column).as_primitive::<arrow::datatypes::Int64Type>();
                    values.iter().flatten().next().and_then(|value| self.instant(table, value))
                };
                if let (Some(first), Some(last)) = (end(0), end(1)) {
                    let known = span.unwrap_or(EventSpan { first, last });
                    span = Some(EventSpan { first: known.first.min(first), last: known.last.max(last) });
                }
            }
        }
        Ok(span)
    }
}

/// A table of a published folder as the queries of `context` see it; `path` lies below `folder`.
pub async fn read_published(context: &SessionContext, folder: &Url, path: &str) -> Result<DataFrame> {
    let store = Store::open(folder)?;
    let url = Url::parse(&store.url_of(path)).map_err(|e| Error::user(format!("`{path}` makes no URL")).because(e))?;
    let mut bucket = url.clone();
    bucket.set_path("");
    context.runtime_env().register_object_store(&bucket, store.inner());
    Ok(context.read_parquet(url.as_str(), ParquetReadOptions::default()).await?)
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
    let context = session::context_in(&EngineOptions { threads: 1, ..*options }, std::sync::Arc::clone(&lake.runtime));
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
