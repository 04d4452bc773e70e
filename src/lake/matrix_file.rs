//! A wide Parquet file, quickly: its columns are encoded by several threads.
//!
//! The bytes depend on the rows alone, as long as they come in batches of one size. Numbers are not looked up in a
//! dictionary: most columns of a matrix are counts, which deltas make as small for less work, and amounts, which hardly repeat.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;

use crate::{Error, Result};

/// Rows per row group.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Values that are encoded at a time.
const WRITE_ROWS: usize = 16 * 1024;

/// A file under construction; it gets its name once it is whole.
pub struct MatrixFile {
    path: PathBuf,
    partial: tempfile::NamedTempFile,
    schema: SchemaRef,
    writer: SerializedFileWriter<File>,
    factory: ArrowRowGroupWriterFactory,
    columns: Vec<ArrowColumnWriter>,
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
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties(schema)?))?;
        let (writer, factory) = writer.into_serialized_writer()?;
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
            self.columns = self.factory.create_column_writers(self.writer.flushed_row_groups().len())?;
        }
        let columns = self.columns.par_iter_mut().zip(batch.columns()).zip(self.schema.fields().as_ref());
        let encoded: Result<(), ParquetError> = columns
            .map(|((writer, array), field)| {
                compute_leaves(field, array)?.iter().try_for_each(|leaf| writer.write(leaf))
            })
            .collect();
        encoded?;
        self.rows_of_group += batch.num_rows();
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        self.rows_of_group = 0;
        let columns = std::mem::take(&mut self.columns);
        if columns.is_empty() {
            return Ok(());
        }
        let chunks = columns.into_par_iter().map(ArrowColumnWriter::close).collect::<Result<Vec<_>, _>>()?;
        let mut group = self.writer.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        Ok(())
    }
}

fn properties(schema: &SchemaRef) -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_write_batch_size(WRITE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(concat!("tenure ", env!("CARGO_PKG_VERSION")).to_owned());
    // Rows are looked up by the key, which is sorted; nobody skips row groups by a feature.
    if let Some(key) = schema.fields().first() {
        properties =
            properties.set_column_statistics_enabled(ColumnPath::from(key.name().as_str()), EnabledStatistics::Chunk);
    }
    for field in schema.fields() {
        let path = || ColumnPath::from(field.name().as_str());
        let encoding = match field.data_type() {
            DataType::Float64 => Encoding::PLAIN,
            DataType::Int64 | DataType::Date32 | DataType::Timestamp(..) => {
                // Packed to a few bits each: nothing that compresses fast makes them much smaller.
                properties = properties.set_column_compression(path(), Compression::UNCOMPRESSED);
                Encoding::DELTA_BINARY_PACKED
            }
            _ => continue,
        };
        properties = properties.set_column_dictionary_enabled(path(), false).set_column_encoding(path(), encoding);
    }
    Ok(properties.build())
}
