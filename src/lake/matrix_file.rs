//! A wide Parquet file, quickly: its columns are encoded by several threads.
//!
//! The bytes depend on the rows alone, as long as they come in batches of one size. Numbers are not looked up in a
//! dictionary: most columns of a matrix are counts, which deltas make as small for less work, and amounts, which hardly repeat.

mod delta;
mod numbers;

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::compute_leaves;
use parquet::basic::{Compression, Encoding};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;

use crate::{Error, Result, failpoint};
use numbers::NumberChunk;

use super::checksums::{self, ChunkFactory, ChunkWriter};

/// Rows per row group.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Values that are encoded at a time.
const WRITE_ROWS: usize = 16 * 1024;
/// Bytes that are written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// A file under construction; it gets its name once it is whole.
pub struct MatrixFile {
    path: PathBuf,
    partial: tempfile::NamedTempFile,
    schema: SchemaRef,
    writer: SerializedFileWriter<BufWriter<File>>,
    factory: ChunkFactory,
    columns: Vec<Chunk>,
    rows_of_group: usize,
    rows: u64,
}

impl MatrixFile {
    /// Starts a file beside its place.
    pub fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        // Like any file that a program makes: readable by whom the umask lets.
        let permissions = std::fs::Permissions::from_mode(0o666);
        let partial =
            tempfile::Builder::new().prefix(".").suffix(".partial").permissions(permissions).tempfile_in(folder);
        let partial = partial.map_err(|e| Error::io(folder, e))?;
        let file = partial.reopen().map_err(|e| Error::io(path, e))?;
        let file = BufWriter::with_capacity(WRITE_BYTES, file);
        let (writer, factory) = checksums::open(file, Arc::clone(schema), properties(schema)?)?;
        let (path, schema) = (path.to_owned(), Arc::clone(schema));
        let columns = Vec::new();
        Ok(MatrixFile { path, partial, schema, writer, factory, columns, rows_of_group: 0, rows: 0 })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(ROW_GROUP_ROWS - self.rows_of_group);
            self.encode(&batch.slice(from, rows))?;
            from += rows;
            if self.rows_of_group == ROW_GROUP_ROWS {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// The rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes the footer and puts the file in its place; says how many rows there are.
    pub fn finish(mut self) -> Result<u64> {
        self.close_group()?;
        self.writer.finish()?;
        self.partial.as_file().sync_all().map_err(|e| Error::io(&self.path, e))?;
        self.partial.persist(&self.path).map_err(|e| Error::io(&self.path, e.error))?;
        Ok(self.rows)
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.columns.is_empty() {
            self.columns = self.chunks()?;
        }
        let columns = self.columns.par_iter_mut().zip(batch.columns()).zip(self.schema.fields().as_ref());
        let encoded = columns.map(|((chunk, array), field)| {
            failpoint::reach("matrix.encode");
            chunk.write(field, array)
        });
        encoded.collect::<Result<(), ParquetError>>()?;
        self.rows_of_group += batch.num_rows();
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The columns of the next row group.
    fn chunks(&self) -> Result<Vec<Chunk>> {
        let leaves = self.writer.schema_descr();
        // Each field is a leaf, and the first one is the key.
        let numbers = self.schema.fields().iter().enumerate().map(|(i, field)| {
            let leaf = leaves.columns().get(i).cloned();
            leaf.and_then(|leaf| NumberChunk::of(field.data_type(), leaf, i == 0))
        });
        let numbers: Vec<Option<NumberChunk>> = numbers.collect();
        let others = match numbers.iter().all(Option::is_some) {
            true => Vec::new(),
            false => self.factory.columns(self.writer.flushed_row_groups().len())?,
        };
        let mut others = others.into_iter();
        let chunks = numbers.into_iter().map(|numbers| {
            let other = others.next();
            numbers.map(Chunk::Numbers).or_else(|| other.map(|other| Chunk::Others(Box::new(other))))
        });
        chunks.collect::<Option<_>>().ok_or_else(|| Error::bug("a column of the matrix has no writer"))
    }

    fn close_group(&mut self) -> Result<()> {
        self.rows_of_group = 0;
        let columns = std::mem::take(&mut self.columns);
        if columns.is_empty() {
            return Ok(());
        }
        let encoded = columns.into_par_iter().map(Chunk::close).collect::<Result<Vec<_>, _>>()?;
        let mut group = self.writer.next_row_group()?;
        encoded.into_iter().try_for_each(|(bytes, close)| group.append_column(&bytes, close))?;
        group.close()?;
        Ok(())
    }
}

/// A column of a row group.
enum Chunk {
    Numbers(NumberChunk),
    Others(Box<ChunkWriter>),
}

impl Chunk {
    fn write(&mut self, field: &Field, array: &ArrayRef) -> Result<(), ParquetError> {
        match self {
            Chunk::Numbers(numbers) => numbers.write(array),
            Chunk::Others(writer) => compute_leaves(field, array)?.iter().try_for_each(|leaf| writer.write(leaf)),
        }
    }

    /// Its pages, and what the footer says of them.
    fn close(self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        match self {
            Chunk::Numbers(numbers) => numbers.close(),
            Chunk::Others(writer) => writer.close(),
        }
    }
}

fn properties(schema: &SchemaRef) -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_write_batch_size(WRITE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        // All columns have an index of their pages, or none: see `NumberChunk`.
        .set_offset_index_disabled(true)
        .set_created_by(concat!("tenure ", env!("CARGO_PKG_VERSION")).to_owned());
    // Rows are looked up by the key, which is sorted; nobody skips row groups by a feature.
    if let Some(key) = schema.fields().first() {
        properties =
            properties.set_column_statistics_enabled(ColumnPath::from(key.name().as_str()), EnabledStatistics::Chunk);
    }
    let times = |field: &&Arc<Field>| matches!(field.data_type(), DataType::Date32 | DataType::Timestamp(..));
    for field in schema.fields().iter().filter(times) {
        // Packed to a few bits each: nothing that compresses fast makes them much smaller.
        let path = || ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_compression(path(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(path(), false)
            .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::compute::concat_batches;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    /// Numbers of every width, with and without gaps.
    fn rows(count: usize) -> RecordBatch {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 11
        };
        let keys: Vec<i64> = (0..count as i64).map(|i| 10 * i - 7).collect();
        // The width changes from miniblock to miniblock, up to differences that wrap.
        let wide: Vec<i64> = (0..count).map(|i| (random() << 11) as i64 >> (i / 64 % 64)).collect();
        let edges: Vec<Option<i64>> = (0..count)
            .map(|i| [Some(i64::MIN), Some(i64::MAX), None, Some(0)][random() as usize % 4 * (i % 2)])
            .collect();
        let counts: Vec<i64> = (0..count).map(|_| (random() % 5) as i64).collect();
        let amounts: Vec<Option<f64>> =
            (0..count).map(|_| Some((random() % 300) as f64 / 4.0).filter(|x| *x > 9.0)).collect();
        let noise: Vec<f64> = (0..count).map(|_| f64::from_bits(random() | 1 << 60)).collect();
        let columns: [(&str, ArrayRef); 9] = [
            ("key", Arc::new(Int64Array::from(keys))),
            ("wide", Arc::new(Int64Array::from(wide.clone()))),
            ("edges", Arc::new(Int64Array::from(edges))),
            ("counts", Arc::new(Int64Array::from(counts))),
            ("amounts", Arc::new(Float64Array::from(amounts))),
            ("noise", Arc::new(Float64Array::from(noise))),
            ("nothing", Arc::new(Float64Array::from(vec![None; count]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(wide))),
            ("text", Arc::new((0..count).map(|i| (i % 3 > 0).then(|| format!("t{}", i % 5))).collect::<StringArray>())),
        ];
        let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), *name != "key"));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect()).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 2, 63, 64, 65, 66, 256, 257, 258, 1000, 16_384, 140_000] {
            let rows = rows(count);
            let path = folder.path().join(format!("{count}.parquet"));
            let mut file = MatrixFile::create(&path, &rows.schema()).unwrap();
            // Slices, so that validity does not begin at a byte.
            for from in (0..count).step_by(30_001) {
                file.write(&rows.slice(from, 30_001.min(count - from))).unwrap();
            }
            assert_eq!(file.finish().unwrap(), count as u64);
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            let read: Vec<RecordBatch> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(concat_batches(&rows.schema(), &read).unwrap(), rows, "{count} rows");
        }
    }

    #[test]
    fn the_footer_says_where_keys_are_and_what_is_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rows) = (folder.path().join("matrix.parquet"), rows(140_000));
        let mut file = MatrixFile::create(&path, &rows.schema()).unwrap();
        file.write(&rows).unwrap();
        file.finish().unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let groups = reader.metadata().row_groups();
        let range = |group: usize| {
            let statistics = groups[group].column(0).statistics().unwrap();
            let number = |bytes: Option<&[u8]>| i64::from_le_bytes(bytes.unwrap().try_into().unwrap());
            (number(statistics.min_bytes_opt()), number(statistics.max_bytes_opt()))
        };
        let split = 10 * ROW_GROUP_ROWS as i64 - 7;
        assert_eq!([range(0), range(1)], [(-7, split - 10), (split, 10 * 139_999 - 7)]);
        let codec = |column: usize| groups[0].column(column).compression();
        let (snappy, none) = (Compression::SNAPPY, Compression::UNCOMPRESSED);
        assert_eq!([1, 3, 4, 5, 8].map(codec), [none, none, snappy, none, snappy]);
        let counts = groups[0].column(3).compressed_size() as usize;
        assert!(counts < ROW_GROUP_ROWS * 5 / 8, "differences of counts below five take four bits: {counts}");
    }
}
