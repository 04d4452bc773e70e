//! A column of counts or amounts, encoded here: nothing else costs a matrix as much.
//!
//! The encoder of the parquet crate takes a value at a time by its place, with a level for each; a page is made here of whole
//! arrays, and the crate writes it down. What lies in the file is plain Parquet: `DELTA_BINARY_PACKED` integers, and `PLAIN`
//! doubles in snappy.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::filter;
use arrow::datatypes::{DataType, Float64Type, Int64Type, ToByteSlice};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use snap::raw::{Encoder, max_compress_len};

use super::delta;
use crate::lake::checksums::with_checksum;

/// Rows of a page.
const PAGE_ROWS: usize = 16 * 1024;
/// Pages that stay larger than this share of themselves are not worth the reader's time.
const WORTH_IT: f64 = 0.9;

/// The pages of one column in a row group.
pub(super) struct NumberChunk {
    column: ColumnDescPtr,
    encoding: Encoding,
    /// The first page of amounts says whether compression helps.
    compression: Option<Compression>,
    pages: Vec<u8>,
    rows: u64,
    uncompressed: usize,
    /// The least and the greatest integer, where a reader is to know them.
    range: Option<(i64, i64)>,
    ranged: bool,
}

impl NumberChunk {
    /// A column of this type; `None` where it is no number of 8 bytes. A `ranged` one says between which integers it lies.
    pub fn of(data_type: &DataType, column: ColumnDescPtr, ranged: bool) -> Option<Self> {
        let (encoding, compression) = match data_type {
            // Packed to a few bits each: nothing that compresses fast makes them much smaller.
            DataType::Int64 => (Encoding::DELTA_BINARY_PACKED, Some(Compression::UNCOMPRESSED)),
            DataType::Float64 => (Encoding::PLAIN, None),
            _ => return None,
        };
        let pages = Vec::new();
        Some(NumberChunk { column, encoding, compression, pages, rows: 0, uncompressed: 0, range: None, ranged })
    }

    /// Appends rows.
    pub fn write(&mut self, array: &ArrayRef) -> Result<(), ParquetError> {
        let mut pages = (0..array.len()).step_by(PAGE_ROWS);
        pages.try_for_each(|from| self.page(&array.slice(from, PAGE_ROWS.min(array.len() - from))))
    }

    fn page(&mut self, array: &ArrayRef) -> Result<(), ParquetError> {
        let rows = array.len();
        let mut page = Vec::with_capacity(9 * rows);
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        if self.column.max_def_level() > 0 {
            levels(nulls, rows, &mut page);
        }
        let values = match nulls {
            Some(nulls) => &filter(array, &BooleanArray::new(nulls.inner().clone(), None))?,
            None => array,
        };
        match self.encoding {
            Encoding::PLAIN => page.extend(values.as_primitive::<Float64Type>().values().to_byte_slice()),
            _ => {
                let values = values.as_primitive::<Int64Type>().values();
                if self.ranged {
                    let range = |range: Option<(i64, i64)>, x: &i64| {
                        Some(range.map_or((*x, *x), |(least, greatest)| (least.min(*x), greatest.max(*x))))
                    };
                    self.range = values.iter().fold(self.range, range);
                }
                delta::encode(values, &mut page);
            }
        }
        let length = page.len();
        let data = self.compressed(page)?;
        let page = Page::DataPage {
            buf: data.clone(),
            num_values: rows as u32,
            encoding: self.encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let mut written = TrackedWrite::new(Vec::with_capacity(data.len() + 64));
        SerializedPageWriter::new(&mut written).write_page(CompressedPage::new(page, length))?;
        let written = written.into_inner()?;
        let header = with_checksum(&written[..written.len() - data.len()], &data)?;
        self.uncompressed += header.len() + length;
        self.pages.extend_from_slice(&header);
        self.pages.extend_from_slice(&data);
        self.rows += rows as u64;
        Ok(())
    }

    fn compressed(&mut self, page: Vec<u8>) -> Result<Bytes, ParquetError> {
        if self.compression == Some(Compression::UNCOMPRESSED) {
            return Ok(page.into());
        }
        let mut compressed = vec![0; max_compress_len(page.len())];
        let length = Encoder::new().compress(&page, &mut compressed);
        let length = length.map_err(|e| ParquetError::External(Box::new(e)))?;
        if self.compression.is_none() && length as f64 > WORTH_IT * page.len() as f64 {
            self.compression = Some(Compression::UNCOMPRESSED);
            return Ok(page.into());
        }
        self.compression = Some(Compression::SNAPPY);
        compressed.truncate(length);
        Ok(compressed.into())
    }

    /// The bytes of the column, and what the footer says of them.
    pub fn close(self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let bytes_written = self.pages.len() as u64;
        let mut metadata = ColumnChunkMetaData::builder(self.column)
            .set_encodings(vec![Encoding::RLE, self.encoding])
            .set_compression(self.compression.unwrap_or(Compression::UNCOMPRESSED))
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(bytes_written as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_data_page_offset(0);
        if let Some((least, greatest)) = self.range {
            metadata = metadata.set_statistics(Statistics::int64(Some(least), Some(greatest), None, None, false));
        }
        let close = ColumnCloseResult {
            bytes_written,
            rows_written: self.rows,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((self.pages.into(), close))
    }
}

/// Which rows have a value: one run for all of them, or a bit for each, as Arrow has them.
fn levels(nulls: Option<&NullBuffer>, rows: usize, page: &mut Vec<u8>) {
    let start = page.len();
    page.extend([0; 4]);
    match nulls {
        None => {
            delta::varint((rows as u64) << 1, page);
            page.push(1);
        }
        Some(nulls) => {
            let groups = rows.div_ceil(8);
            delta::varint((groups as u64) << 1 | 1, page);
            page.extend(&nulls.inner().sliced().as_slice()[..groups]);
            if let (Some(last), used @ 1..) = (page.last_mut(), rows % 8) {
                *last &= (1 << used) - 1;
            }
        }
    }
    let length = (page.len() - start - 4) as u32;
    page[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
