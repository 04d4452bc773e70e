//! Opens the Parquet files of a scan: errors keep their class, and nothing is unpacked that the memory limit forbids.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::Result as FusionResult;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectMeta;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;

use super::listed::ListedStore;
use super::pages;
use crate::Error;

/// Rows that are unpacked at a time.
const BATCH_ROWS: u64 = super::session::BATCH_ROWS as u64;

/// Opens files of one store.
#[derive(Debug)]
pub(super) struct ParquetReaders {
    inner: CachedParquetFileReaderFactory,
    store: Arc<ListedStore>,
    footers: Arc<FileMetadataCache>,
    /// Bytes that a batch of rows, or the pages that it comes from, may take.
    limit: u64,
}

impl ParquetReaders {
    pub fn new(store: &Arc<ListedStore>, runtime: &RuntimeEnv) -> Self {
        let footers = runtime.cache_manager.get_file_metadata_cache();
        let limit = match runtime.memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes as u64,
            _ => u64::MAX,
        };
        let inner = CachedParquetFileReaderFactory::new(Arc::clone(store) as _, Arc::clone(&footers));
        ParquetReaders { inner, store: Arc::clone(store), footers, limit }
    }
}

impl ParquetFileReaderFactory for ParquetReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        footer_bytes: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> FusionResult<Box<dyn AsyncFileReader + Send>> {
        let meta = file.object_meta.clone();
        let inner = self.inner.create_reader(partition, file, footer_bytes, metrics)?;
        let (store, footers, limit) = (Arc::clone(&self.store), Arc::clone(&self.footers), self.limit);
        Ok(Box::new(ParquetReader { inner, store, footers, meta, footer_bytes, limit }))
    }
}

struct ParquetReader {
    inner: Box<dyn AsyncFileReader + Send>,
    store: Arc<ListedStore>,
    footers: Arc<FileMetadataCache>,
    meta: ObjectMeta,
    footer_bytes: Option<usize>,
    limit: u64,
}

impl AsyncFileReader for ParquetReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.inner.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let found = self.inner.get_byte_ranges(ranges).await?;
            let unpacked = memory_of(&found);
            match unpacked > self.limit {
                true => Err(too_large(&self.store.url_of(&self.meta.location), unpacked, self.limit)),
                false => Ok(found),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            // As DataFusion's reader does it, which makes a text of the error.
            let footer = DFParquetMetadata::new(self.store.as_ref(), &self.meta)
                .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
                .with_metadata_size_hint(self.footer_bytes)
                .with_page_index_policy(options.map(|options| options.column_index_policy()));
            footer.fetch_metadata().await.map_err(|e| ParquetError::External(Box::new(Error::from(e))))
        }
        .boxed()
    }
}

/// What unpacking some pages takes, column by column: the largest page, and the values of a batch of rows.
fn memory_of(columns: &[Bytes]) -> u64 {
    let of_column = |bytes: &Bytes| {
        let (mut largest, mut unpacked, mut values, mut entry) = (0, 0, 0, 0);
        for page in pages::pages(bytes) {
            largest = page.unpacked.max(largest);
            match page.is_dictionary {
                true => entry = page.unpacked / page.values.max(1),
                false => {
                    unpacked += page.unpacked;
                    values += page.values;
                }
            }
        }
        let value = entry.max(unpacked / values.max(1));
        largest.saturating_add(value.saturating_mul(values.min(BATCH_ROWS)))
    };
    columns.iter().map(of_column).fold(0, u64::saturating_add)
}

fn too_large(url: &str, bytes: u64, limit: u64) -> ParquetError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let error = Error::user(format!(
        "a batch of rows of `{url}` unpacks to {} MiB, and the memory limit is {} MiB",
        mib(bytes),
        mib(limit)
    ));
    ParquetError::External(Box::new(
        error.hint("is the file what it should be? if so, give the run more with `--memory-limit`"),
    ))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn memory(texts: StringArray, dictionary: bool) -> u64 {
        let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(dictionary)
            .set_write_batch_size(1);
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        let footer = writer.close().unwrap();
        let (start, length) = footer.row_group(0).column(0).byte_range();
        memory_of(&[Bytes::from(bytes).slice(start as usize..(start + length) as usize)])
    }

    #[test]
    fn what_unpacks_to_much_is_told_by_few_bytes() {
        let large = "x".repeat(1 << 20);
        let plain = memory((0..40).map(|_| Some(&large)).collect(), false);
        assert!((40 << 20..44 << 20).contains(&plain), "{plain}");
        let repeated = memory((0..40).map(|_| Some(&large)).collect(), true);
        assert!((40 << 20..44 << 20).contains(&repeated), "{repeated}");
        let small = memory((0..100_000).map(|i| Some(format!("{i:08}"))).collect(), false);
        assert!(small < 3 << 20, "{small}");
    }
}
