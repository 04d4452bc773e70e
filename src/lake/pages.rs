//! The pages of a Parquet column as they lie in a file: how large each becomes when it is unpacked, by their headers alone.
//!
//! Headers are structs of Thrift's compact protocol (<https://parquet.apache.org/docs/file-format/data-pages/>).

/// What the header of a page says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// The bytes of the header.
    pub length: usize,
    /// Those of the page when it is unpacked.
    pub unpacked: u64,
    /// Those of the page in the file.
    pub packed: u64,
    /// Its values, NULLs included.
    pub values: u64,
    /// Whether it holds values that others refer to.
    pub is_dictionary: bool,
}

/// The pages that some bytes begin with; what is no page ends them.
pub(super) fn pages(mut bytes: &[u8]) -> impl Iterator<Item = PageHeader> {
    std::iter::from_fn(move || {
        let header = header(bytes)?;
        bytes = bytes.get(header.length + usize::try_from(header.packed).ok()?..)?;
        Some(header)
    })
}

/// The header at the beginning of some bytes.
pub(super) fn header(bytes: &[u8]) -> Option<PageHeader> {
    let mut reader = Compact { bytes, at: 0 };
    let mut header = PageHeader::default();
    reader.fields(0, &mut |reader, id, kind| {
        match (id, kind) {
            (1, I32) => header.is_dictionary = reader.number()? == 2,
            (2, I32) => header.unpacked = reader.number()?.try_into().ok()?,
            (3, I32) => header.packed = reader.number()?.try_into().ok()?,
            (5 | 7 | 8, STRUCT) => reader.fields(1, &mut |reader, id, kind| match (id, kind) {
                (1, I32) => {
                    header.values = reader.number()?.try_into().ok()?;
                    Some(())
                }
                _ => reader.skip(kind, 2),
            })?,
            _ => reader.skip(kind, 1)?,
        }
        Some(())
    })?;
    header.length = reader.at;
    Some(header)
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;
/// Headers hold a struct in a struct; what lies deeper is none.
const MAX_DEPTH: usize = 8;

struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number whose sign is its last bit.
    fn number(&mut self) -> Option<i64> {
        self.varint().map(|number| (number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Hands the fields of a struct on, by number and kind.
    fn fields(&mut self, depth: usize, found: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => self.number()?,
                more => id + i64::from(more),
            };
            found(self, id, head & 0x0f)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            TRUE | FALSE => {}
            BYTE => self.at += 1,
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => self.at += 8,
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.at = self.at.checked_add(length)?;
            }
            LIST | SET => {
                let head = self.byte()?;
                let length = match head >> 4 {
                    15 => self.varint()?,
                    length => u64::from(length),
                };
                for _ in 0..length {
                    match head & 0x0f {
                        TRUE | FALSE => drop(self.byte()?),
                        kind => self.skip(kind, depth + 1)?,
                    }
                }
            }
            STRUCT => self.fields(depth, &mut |reader, _, kind| reader.skip(kind, depth + 1))?,
            _ => return None,
        }
        (self.at <= self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::metadata::ParquetMetaData;
    use parquet::file::properties::{WriterProperties, WriterVersion};

    use super::*;

    fn written(version: WriterVersion) -> (Vec<u8>, ParquetMetaData) {
        let texts: ArrayRef = Arc::new((0..5000).map(|i| Some(format!("text {}", i % 7))).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new((0..5000).map(|i| (i % 3 > 0).then_some(i)).collect::<Int64Array>());
        let batch = RecordBatch::try_from_iter([("text", texts), ("number", numbers)]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_writer_version(version)
            .set_data_page_row_count_limit(1000)
            .set_write_batch_size(500)
            .set_write_page_header_statistics(true)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let footer = writer.close().unwrap();
        (bytes, footer)
    }

    #[test]
    fn the_headers_of_a_column_are_told() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let (bytes, footer) = written(version);
            for column in footer.row_group(0).columns() {
                let (start, length) = column.byte_range();
                let chunk = &bytes[start as usize..(start + length) as usize];
                let found: Vec<PageHeader> = pages(chunk).collect();
                let all: u64 = found.iter().map(|page| page.length as u64 + page.packed).sum();
                assert_eq!(all, length, "{found:?}");
                let unpacked: u64 = found.iter().map(|page| page.length as u64 + page.unpacked).sum();
                assert_eq!(unpacked as i64, column.uncompressed_size());
                let values = found.iter().filter(|page| !page.is_dictionary).map(|page| page.values).sum::<u64>();
                assert_eq!(values, 5000);
                assert!(found[0].is_dictionary && found.iter().filter(|page| page.is_dictionary).count() == 1);
            }
        }
    }

    #[test]
    fn what_is_no_page_ends_them() {
        let mut seed = 7u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            assert!(pages(&bytes).count() <= 64);
        }
        assert_eq!(pages(&[]).count(), 0);
    }
}
