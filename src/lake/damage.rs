//! Which column of a Parquet file cannot be decoded. Only a file that failed is looked at: its columns are read one by one.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;

use super::listed::ListedStore;
use crate::Error;

/// A column that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub column: String,
    /// Its row group, counted from 0.
    pub group: usize,
    /// Why, as the decoder says it; `None` where it panicked.
    pub why: Option<String>,
}

#[derive(Clone)]
struct Reader {
    store: Arc<ListedStore>,
    file: ObjectMeta,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.store.get_range(&self.file.location, range).map_err(|e| ParquetError::External(Box::new(e))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        let read = async move { self.store.get_ranges(&self.file.location, &ranges).await };
        read.map_err(|e| ParquetError::External(Box::new(e))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let read = async { DFParquetMetadata::new(self.store.as_ref(), &self.file).fetch_metadata().await };
        read.map_err(|e| ParquetError::External(Box::new(e))).boxed()
    }
}

/// The first column that cannot be decoded; `None` where all can, or where the file is no Parquet file.
pub(super) async fn first(store: &Arc<ListedStore>, file: &ObjectMeta) -> Option<Damage> {
    let mut reader = Reader { store: Arc::clone(store), file: file.clone() };
    let footer = ArrowReaderMetadata::load_async(&mut reader, Default::default()).await.ok()?;
    let columns = footer.parquet_schema().root_schema().get_fields();
    for group in 0..footer.metadata().num_row_groups() {
        for (index, column) in columns.iter().enumerate() {
            let rows = async {
                let rows = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), footer.clone())
                    .with_projection(ProjectionMask::roots(footer.parquet_schema(), [index]))
                    .with_row_groups(vec![group])
                    .build()?;
                rows.try_for_each(async |_| Ok(())).await
            };
            let why = match AssertUnwindSafe(rows).catch_unwind().await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => None,
            };
            return Some(Damage { column: column.name().to_owned(), group, why });
        }
    }
    None
}

/// The error of a file that cannot be decoded.
pub(super) fn error(table: &str, url: &str, found: Option<Damage>, cause: Error) -> Error {
    let Some(Damage { column, group, why }) = found else {
        return cause.context(format!("{table}, `{url}` cannot be read"));
    };
    let text = why.unwrap_or_default();
    let hint = match text.to_lowercase().contains("utf-8") || text.to_lowercase().contains("utf8") {
        true => "its text is not UTF-8: write the file again with it converted",
        false => {
            "its bytes were changed or cut off after they were written: write the file again from where its rows come from"
        }
    };
    let error = Error::user(format!("{table}, column `{column}` of `{url}` cannot be read, in row group {group}"));
    match text.is_empty() {
        true => error.because(cause),
        false => error.because(text),
    }
    .hint(hint)
}
