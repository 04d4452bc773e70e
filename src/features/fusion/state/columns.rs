//! Columns of a file of states, any number of rows at a time: what a range of customers needs, and nothing of its neighbours'.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::column::page::{Page as ParquetPage, PageReader};
use parquet::file::serialized_reader::SerializedPageReader;

use super::block_file::PAGE_ROWS;
use super::packed::Packed;
use super::page::{Number, Page, plain};
use crate::{Error, Result};

/// Some columns of a file, read side by side from the first row on.
pub(super) struct Columns {
    file: Arc<Packed>,
    metadata: ArrowReaderMetadata,
    readers: Vec<Reader>,
    rest: Option<Rest>,
}

/// How a column is read.
enum Reader {
    Integers(Numbers<i64>),
    Doubles(Numbers<f64>),
    /// With others, as this one of them.
    Rest(usize),
}

impl Columns {
    /// These columns of a file, in this order; none is there twice.
    pub fn new(file: Packed, metadata: ArrowReaderMetadata, columns: &[usize]) -> Result<Self> {
        let mut rest = Vec::new();
        let readers = columns.iter().map(|column| {
            let field = metadata.schema().field(*column);
            match field.data_type() {
                DataType::Int64 if !field.is_nullable() => Reader::Integers(Numbers::new(&metadata, *column)),
                DataType::Float64 if !field.is_nullable() => Reader::Doubles(Numbers::new(&metadata, *column)),
                _ => {
                    rest.push(*column);
                    Reader::Rest(rest.len() - 1)
                }
            }
        });
        let readers = readers.collect();
        let rest = if rest.is_empty() { None } else { Some(Rest::new(&file, &metadata, rest)?) };
        Ok(Columns { file: Arc::new(file), metadata, readers, rest })
    }

    /// The next rows.
    pub fn read(&mut self, rows: usize) -> Result<Vec<ArrayRef>> {
        let from = (&self.file, &self.metadata);
        let rest = self.rest.as_mut().map(|rest| rest.read(rows)).transpose()?;
        let columns = self.readers.iter_mut().map(|reader| {
            Ok(match reader {
                Reader::Integers(numbers) => Arc::new(Int64Array::from(numbers.read(from, rows)?)) as ArrayRef,
                Reader::Doubles(numbers) => Arc::new(Float64Array::from(numbers.read(from, rows)?)),
                Reader::Rest(place) => rest.as_ref().map(|rest| Arc::clone(&rest[*place])).ok_or_else(ends)?,
            })
        });
        columns.collect()
    }

    /// Passes over the next rows.
    pub fn skip(&mut self, rows: usize) -> Result<()> {
        let from = (&self.file, &self.metadata);
        if let Some(rest) = &mut self.rest {
            rest.skip(rows)?;
        }
        self.readers.iter_mut().try_for_each(|reader| match reader {
            Reader::Integers(numbers) => numbers.skip(from, rows),
            Reader::Doubles(numbers) => numbers.skip(from, rows),
            Reader::Rest(_) => Ok(()),
        })
    }
}

fn ends() -> Error {
    Error::bug("it ends before its last row")
}

/// The file, and what is known of it.
type From<'a> = (&'a Arc<Packed>, &'a ArrowReaderMetadata);

/// A column of numbers that are all there.
struct Numbers<N> {
    column: usize,
    /// The row group that is next.
    group: usize,
    pages: Option<SerializedPageReader<Packed>>,
    dictionary: Vec<N>,
    page: Option<Page>,
}

impl<N: Number> Numbers<N> {
    fn new(metadata: &ArrowReaderMetadata, root: usize) -> Self {
        let schema = metadata.parquet_schema();
        let column = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root);
        Numbers { column: column.unwrap_or(root), group: 0, pages: None, dictionary: Vec::new(), page: None }
    }

    fn read(&mut self, from: From<'_>, rows: usize) -> Result<Vec<N>> {
        let mut values = Vec::with_capacity(rows);
        while values.len() < rows {
            match self.page.as_mut().filter(|page| page.left > 0) {
                Some(page) => page.read(rows - values.len(), &self.dictionary, &mut values)?,
                None => self.next_page(from, 0).map(drop)?,
            }
        }
        Ok(values)
    }

    fn skip(&mut self, from: From<'_>, rows: usize) -> Result<()> {
        let mut left = rows;
        let mut passed = Vec::new();
        while left > 0 {
            match self.page.as_mut().filter(|page| page.left > 0) {
                Some(page) => {
                    passed.clear();
                    page.read(left, &self.dictionary, &mut passed)?;
                    left -= passed.len();
                }
                None => left -= self.next_page(from, left)?,
            }
        }
        Ok(())
    }

    /// Goes to the next page, or passes over it where it has no more than so many rows, which it says then.
    fn next_page(&mut self, (file, metadata): From<'_>, skipped: usize) -> Result<usize> {
        loop {
            if let Some(pages) = &mut self.pages {
                if skipped > 0
                    && let Some(next) = pages.peek_next_page()?
                    && let Some(rows) = next.num_levels.filter(|rows| !next.is_dict && *rows <= skipped)
                {
                    pages.skip_next_page()?;
                    return Ok(rows);
                }
                match pages.get_next_page()? {
                    Some(ParquetPage::DictionaryPage { buf, .. }) => self.dictionary = plain(&buf).collect(),
                    Some(
                        ParquetPage::DataPage { buf, num_values, encoding, .. }
                        | ParquetPage::DataPageV2 { buf, num_values, encoding, .. },
                    ) => {
                        self.page = Some(Page::new(buf, encoding, num_values as usize)?);
                        return Ok(0);
                    }
                    None => self.pages = None,
                }
            } else {
                let group = metadata.metadata().row_groups().get(self.group).ok_or_else(ends)?;
                let (column, rows) = (group.column(self.column), group.num_rows() as usize);
                self.pages = Some(SerializedPageReader::new(Arc::clone(file), column, rows, None)?);
                self.group += 1;
            }
        }
    }
}

/// Columns of any type.
struct Rest {
    reader: ParquetRecordBatchReader,
    /// What was read and is not given yet.
    batch: RecordBatch,
    /// Where each column stands among those of the batch.
    places: Vec<usize>,
}

impl Rest {
    fn new(file: &Packed, metadata: &ArrowReaderMetadata, columns: Vec<usize>) -> Result<Self> {
        let mask = ProjectionMask::roots(metadata.parquet_schema(), columns.iter().copied());
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
        let reader = reader.with_projection(mask).with_batch_size(PAGE_ROWS).build()?;
        let batch = RecordBatch::new_empty(reader.schema());
        // The reader gives them in the order of the file.
        let before = |column: &usize| columns.iter().filter(|other| *other < column).count();
        Ok(Rest { places: columns.iter().map(before).collect(), reader, batch })
    }

    fn read(&mut self, rows: usize) -> Result<Vec<ArrayRef>> {
        let mut pieces = Vec::new();
        self.go(rows, |piece| pieces.push(piece))?;
        let whole = match pieces.as_slice() {
            [one] => one.clone(),
            _ => concat_batches(self.batch.schema_ref(), &pieces)?,
        };
        Ok(self.places.iter().map(|place| Arc::clone(whole.column(*place))).collect())
    }

    fn skip(&mut self, rows: usize) -> Result<()> {
        self.go(rows, drop)
    }

    fn go(&mut self, rows: usize, mut take: impl FnMut(RecordBatch)) -> Result<()> {
        let mut left = rows;
        while left > 0 {
            let there = self.batch.num_rows();
            let taken = there.min(left);
            if taken == 0 {
                self.batch = self.reader.next().ok_or_else(ends)??;
            } else {
                take(self.batch.slice(0, taken));
                self.batch = self.batch.slice(taken, there - taken);
                left -= taken;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BooleanArray, ListArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ArrowReaderOptions;
    use parquet::basic::{Compression, Encoding};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::schema::types::ColumnPath;
    use proptest::prelude::*;

    use super::*;

    /// How a file is written, and how it is read: so many rows at a time, or passed over.
    #[derive(Debug)]
    struct Plan {
        page: usize,
        group: usize,
        compression: Compression,
        version: WriterVersion,
        steps: Vec<(usize, bool)>,
    }

    fn plans() -> impl Strategy<Value = Plan> {
        let compression = prop_oneof![Just(Compression::UNCOMPRESSED), Just(Compression::LZ4_RAW)];
        let version = prop_oneof![Just(WriterVersion::PARQUET_1_0), Just(WriterVersion::PARQUET_2_0)];
        let steps = prop::collection::vec((1usize..200, prop::bool::weighted(0.3)), 1..30);
        (1usize..300, 1usize..700, compression, version, steps)
            .prop_map(|(page, group, compression, version, steps)| Plan { page, group, compression, version, steps })
    }

    /// Numbers whose differences take any number of bits, and runs of the same one.
    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        let some = (0u32..64, prop::collection::vec(any::<i64>(), 1..150), prop::bool::ANY);
        let pieces = prop::collection::vec(some, 1..8);
        pieces.prop_map(|pieces| {
            let piece = |(shift, mut numbers, same): (u32, Vec<i64>, bool)| {
                let first = numbers[0];
                numbers.iter_mut().for_each(|x| *x = if same { first } else { *x >> shift });
                numbers
            };
            pieces.into_iter().flat_map(piece).collect()
        })
    }

    fn file(columns: &[ArrayRef], plan: &Plan) -> Packed {
        let field = |(i, column): (usize, &ArrayRef)| {
            Field::new(format!("c{i}"), column.data_type().clone(), column.null_count() > 0)
        };
        let schema = Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()));
        let deltas = ColumnPath::from("c0");
        let properties = WriterProperties::builder()
            .set_compression(plan.compression)
            .set_writer_version(plan.version)
            .set_max_row_group_row_count(Some(plan.group))
            .set_data_page_row_count_limit(plan.page)
            .set_write_batch_size(plan.page)
            .set_dictionary_page_size_limit(400)
            .set_column_dictionary_enabled(deltas.clone(), false)
            .set_column_encoding(deltas, Encoding::DELTA_BINARY_PACKED)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(properties)).unwrap();
        writer.write(&RecordBatch::try_new(schema, columns.to_vec()).unwrap()).unwrap();
        writer.close().unwrap();
        Packed::Here(bytes.into())
    }

    proptest! {
        #[test]
        fn any_columns_are_read_any_rows_at_a_time(numbers in numbers(), plan in plans()) {
            let rows = numbers.len();
            let integers = Int64Array::from(numbers.clone());
            let columns: Vec<ArrayRef> = vec![
                Arc::new(integers.clone()),
                // Some of them in a dictionary, until that is full.
                Arc::new(Float64Array::from_iter_values(numbers.iter().map(|x| f64::from_bits(*x as u64)))),
                Arc::new(Int64Array::from_iter(numbers.iter().map(|x| (x % 3 != 0).then_some(x % 50)))),
                Arc::new(BooleanArray::from_iter(numbers.iter().map(|x| Some(x % 2 == 0)))),
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
                    numbers.iter().map(|x| Some((0..x.rem_euclid(4)).map(Some))))),
                Arc::new(Int64Array::from_iter_values(numbers.iter().map(|x| x.rem_euclid(7)))),
            ];
            let file = file(&columns, &plan);
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
            let order = [5, 0, 4, 1, 3, 2];
            let mut reader = Columns::new(file, metadata, &order).unwrap();
            let mut next = 0;
            for (step, skipped) in plan.steps.iter().copied().cycle() {
                let step = step.min(rows - next);
                if step == 0 {
                    break;
                }
                if skipped {
                    reader.skip(step).unwrap();
                } else {
                    for (read, column) in reader.read(step).unwrap().iter().zip(order) {
                        // Bit by bit: NaN is not the same as itself.
                        prop_assert_eq!(read.to_data(), columns[column].slice(next, step).to_data());
                    }
                }
                next += step;
            }
            prop_assert!(reader.read(1).is_err());
        }
    }
}
