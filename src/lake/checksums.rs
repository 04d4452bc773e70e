//! Parquet whose pages have checksums.
//!
//! A bit that flips on a disk makes another number of a number, and nobody notices. The format has room for a CRC32 in the header
//! of a page, which readers hold the page against; the writer of the parquet crate leaves it out, so it is put in here, between the
//! crate's encoding of a column and the file.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnWriter, ArrowLeafColumn, ArrowRowGroupWriterFactory, ArrowWriterOptions, PageKey, PageStore,
    PageStoreArgs, PageStoreFactory, compute_leaves,
};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::pages;

/// Writes batches of rows as [`ArrowWriter`] does, one row group after the other.
pub struct ParquetWriter<W: Write + Send> {
    schema: SchemaRef,
    file: SerializedFileWriter<W>,
    chunks: ChunkFactory,
    columns: Vec<ChunkWriter>,
    rows: usize,
    max_rows: usize,
    max_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// A file of these columns; its row groups are as large as the properties say.
    pub fn try_new(to: W, schema: SchemaRef, properties: WriterProperties) -> Result<Self> {
        let max_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        let max_bytes = properties.max_row_group_bytes().unwrap_or(usize::MAX);
        let (file, chunks) = open(to, Arc::clone(&schema), properties)?;
        Ok(ParquetWriter { schema, file, chunks, columns: Vec::new(), rows: 0, max_rows, max_bytes })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(self.max_rows - self.rows);
            self.encode(&batch.slice(from, rows))?;
            from += rows;
            let bytes = || self.columns.iter().map(|column| column.0.get_estimated_total_bytes()).sum::<usize>();
            if self.rows >= self.max_rows || bytes() >= self.max_bytes {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// Writes the footer.
    pub fn finish(mut self) -> Result<W> {
        self.close_group()?;
        self.file.into_inner()
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.columns.is_empty() {
            self.columns = self.chunks.columns(self.file.flushed_row_groups().len())?;
        }
        let mut columns = self.columns.iter_mut();
        for (field, array) in self.schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, array)? {
                let column = columns.next().ok_or_else(|| ParquetError::General("a column has no writer".into()))?;
                column.write(&leaf)?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        self.rows = 0;
        if self.columns.is_empty() {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for column in std::mem::take(&mut self.columns) {
            let (bytes, close) = column.close()?;
            group.append_column(&bytes, close)?;
        }
        group.close()?;
        Ok(())
    }
}

/// A file, and what makes the columns of its row groups.
pub(super) fn open<W: Write + Send>(
    to: W,
    schema: SchemaRef,
    properties: WriterProperties,
) -> Result<(SerializedFileWriter<W>, ChunkFactory)> {
    let kept = Arc::new(KeptPages::default());
    let options = ArrowWriterOptions::new().with_properties(properties).with_page_store_factory(Arc::clone(&kept) as _);
    let (file, factory) = ArrowWriter::try_new_with_options(to, schema, options)?.into_serialized_writer()?;
    Ok((file, ChunkFactory { factory, kept }))
}

/// Makes the columns of row groups.
pub(super) struct ChunkFactory {
    factory: ArrowRowGroupWriterFactory,
    kept: Arc<KeptPages>,
}

impl ChunkFactory {
    /// Those of the row group with this number.
    pub fn columns(&self, group: usize) -> Result<Vec<ChunkWriter>> {
        self.kept.take();
        let writers = self.factory.create_column_writers(group)?;
        Ok(writers.into_iter().zip(self.kept.take()).map(|(writer, pages)| ChunkWriter(writer, pages)).collect())
    }
}

/// A column of a row group.
pub(super) struct ChunkWriter(ArrowColumnWriter, Pages);

impl ChunkWriter {
    /// Appends values.
    pub fn write(&mut self, values: &ArrowLeafColumn) -> Result<()> {
        self.0.write(values)
    }

    /// The bytes of the column, and what the footer says of them.
    pub fn close(self) -> Result<(Bytes, ColumnCloseResult)> {
        let ChunkWriter(writer, pages) = self;
        let mut close = writer.close()?.close().clone();
        let parts = std::mem::take(&mut *pages.lock().unwrap_or_else(PoisonError::into_inner));
        let mut pages = Vec::with_capacity(parts.len() / 2);
        for pair in parts.chunks(2) {
            let [header, data] = pair else { return Err(ParquetError::General("a page without data".into())) };
            let known = pages::header(header).ok_or_else(|| ParquetError::General("a page without a header".into()))?;
            pages.push((known.is_dictionary, with_checksum(header, data)?, data));
        }
        // The dictionary is encoded last, and stands first.
        pages.sort_by_key(|(is_dictionary, ..)| !is_dictionary);
        let length = |(_, header, data): &(bool, Vec<u8>, &Bytes)| header.len() + data.len();
        let total: usize = pages.iter().map(length).sum();
        let added = total - parts.iter().map(Bytes::len).sum::<usize>();
        let dictionary: usize = pages.iter().take_while(|(is_dictionary, ..)| *is_dictionary).map(length).sum();

        let mut bytes = Vec::with_capacity(total);
        let mut locations = close.offset_index.iter_mut().flat_map(|index| index.page_locations.iter_mut());
        for page in &pages {
            let (is_dictionary, header, data) = page;
            if !is_dictionary && let Some(location) = locations.next() {
                (location.offset, location.compressed_page_size) = (bytes.len() as i64, length(page) as i32);
            }
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(data);
        }
        drop(locations);
        let unpacked = close.metadata.uncompressed_size() + added as i64;
        close.metadata = close
            .metadata
            .into_builder()
            .set_dictionary_page_offset((dictionary > 0).then_some(0))
            .set_data_page_offset(dictionary as i64)
            .set_total_compressed_size(total as i64)
            .set_total_uncompressed_size(unpacked)
            .build()?;
        close.bytes_written = total as u64;
        Ok((bytes.into(), close))
    }
}

/// The header of a page with the checksum of its data.
///
/// A header is a struct of Thrift's compact protocol: each field begins with a byte for how many numbers it comes after the field
/// before, and its kind. The checksum is field 4, behind three numbers and before what the page is.
pub(super) fn with_checksum(header: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    const NEXT_NUMBER: u8 = 0x15;
    let malformed = || ParquetError::General("a page header is not as it was expected".into());
    let mut at = 0;
    for _ in 0..3 {
        if header.get(at) != Some(&NEXT_NUMBER) {
            return Err(malformed());
        }
        let length = header[at + 1..].iter().position(|byte| byte & 0x80 == 0).ok_or_else(malformed)?;
        at += length + 2;
    }
    let follows = *header.get(at).filter(|byte| **byte >= 0x20).ok_or_else(malformed)?;
    let checksum = crc32fast::hash(data) as i32;
    let mut with = Vec::with_capacity(header.len() + 6);
    with.extend_from_slice(&header[..at]);
    with.push(NEXT_NUMBER);
    let mut rest = ((checksum << 1) ^ (checksum >> 31)) as u32;
    while rest >= 0x80 {
        with.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    with.push(rest as u8);
    with.push(follows - 0x10);
    with.extend_from_slice(&header[at + 1..]);
    Ok(with)
}

type Pages = Arc<Mutex<Vec<Bytes>>>;

/// Keeps what the crate's writers make of the columns of a row group: header and data of each page.
#[derive(Debug, Default)]
struct KeptPages(Mutex<Vec<Pages>>);

impl KeptPages {
    fn take(&self) -> Vec<Pages> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PageStoreFactory for KeptPages {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        let pages = Pages::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pages));
        Ok(Box::new(Kept(pages)))
    }
}

struct Kept(Pages);

impl PageStore for Kept {
    fn put(&mut self, part: Bytes) -> Result<PageKey> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(part);
        Ok(PageKey::new(parts.len() as u64 - 1))
    }

    fn take(&mut self, _: PageKey) -> Result<Bytes> {
        Err(ParquetError::General("pages are taken with their checksums".into()))
    }

    fn memory_size(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::properties::{EnabledStatistics, WriterVersion};

    use super::*;

    fn rows() -> RecordBatch {
        let numbers: ArrayRef =
            Arc::new((0..5000).map(|i| (i % 5 > 0).then_some(i * 37 % 1001)).collect::<Int64Array>());
        let amounts: ArrayRef = Arc::new(Float64Array::from_iter_values((0..5000).map(|i| f64::from(i) / 7.0)));
        let texts: ArrayRef = Arc::new((0..5000).map(|i| Some(format!("text {}", i % 300))).collect::<StringArray>());
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..5000).map(|i| (i % 4 > 0).then(|| (0..i % 3).map(Some).collect::<Vec<_>>())),
        ));
        RecordBatch::try_from_iter([("number", numbers), ("amount", amounts), ("text", texts), ("list", lists)])
            .unwrap()
    }

    fn written(version: WriterVersion, rows: &RecordBatch) -> Bytes {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_writer_version(version)
            .set_data_page_row_count_limit(700)
            .set_write_batch_size(100)
            .set_max_row_group_row_count(Some(3000))
            .build();
        let mut writer = ParquetWriter::try_new(Vec::new(), rows.schema(), properties).unwrap();
        for from in (0..rows.num_rows()).step_by(800) {
            writer.write(&rows.slice(from, 800.min(rows.num_rows() - from))).unwrap();
        }
        writer.finish().unwrap().into()
    }

    fn read(bytes: Bytes) -> std::result::Result<RecordBatch, String> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let reader =
            ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).map_err(|e| e.to_string())?;
        let schema = reader.schema().clone();
        let rows = reader.build().map_err(|e| e.to_string())?.collect::<std::result::Result<Vec<_>, _>>();
        concat_batches(&schema, &rows.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_is_read_and_a_flipped_bit_is_not() {
        let rows = rows();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let whole = written(version, &rows);
            assert_eq!(whole, written(version, &rows), "the same rows give the same bytes");
            assert_eq!(read(whole.clone()).unwrap(), rows);
            let footer = ParquetRecordBatchReaderBuilder::try_new(whole.clone()).unwrap().metadata().clone();
            assert_eq!(footer.num_row_groups(), 2);
            for column in footer.row_groups().iter().flat_map(|group| group.columns()) {
                let (start, length) = column.byte_range();
                let mut at = start as usize;
                for page in pages::pages(&whole[at..][..length as usize]) {
                    let data = at + page.length..at + page.length + page.packed as usize;
                    at = data.end;
                    for byte in data.step_by(1 + page.packed as usize / 5) {
                        let mut flipped = whole.to_vec();
                        flipped[byte] ^= 1 << (byte % 8);
                        let error = read(flipped.into()).unwrap_err();
                        assert!(error.contains("CRC"), "{error}");
                    }
                }
                assert_eq!(at as u64, start + length, "every page was looked at");
            }
        }
    }

    #[test]
    fn rows_of_an_offset_index_are_where_it_says() {
        use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
        let rows = rows();
        let bytes = written(WriterVersion::PARQUET_1_0, &rows);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
        let wanted =
            RowSelection::from(vec![RowSelector::skip(2100), RowSelector::select(50), RowSelector::skip(2850)]);
        let found: Vec<RecordBatch> = reader.with_row_selection(wanted).build().unwrap().map(Result::unwrap).collect();
        assert_eq!(concat_batches(&rows.schema(), &found).unwrap(), rows.slice(2100, 50));
    }
}
