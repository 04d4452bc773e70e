//! A table of a night: what it promises its readers, and the writer that keeps the bytes deterministic.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::ArrayRef;
use arrow::compute::{BatchCoalescer, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::error::{Class, Problem};
use crate::lake::ParquetWriter;
use crate::{Error, Result, failpoint};

/// The key under which a field's metadata holds what the column means.
pub const DESCRIPTION: &str = "description";

/// Rows per row group at most: large enough to compress well, small enough to skip by statistics.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Encoded bytes per row group, roughly, at most: bounds the writer's memory for wide rows.
const ROW_GROUP_BYTES: usize = 128 << 20;
/// Every batch that reaches the Parquet writer has this many rows but the last: page bounds then depend on the rows alone.
const WRITE_ROWS: usize = 8 * 1024;

/// What a published table promises: columns with their meaning, the key it is sorted by, and what stands in its footer.
#[derive(Debug, Clone)]
pub struct TableMeta {
    /// Its name, which is its folder under the published one.
    pub name: String,
    /// What a row is.
    pub description: String,
    /// Its columns in order; each field's meaning is its metadata under [`DESCRIPTION`].
    pub schema: SchemaRef,
    /// The columns that name a row: never NULL, unique, strictly ascending. `None` for a table without a key.
    pub key: Option<Vec<String>>,
    /// Whether it has one row for every customer of the population, and no others.
    pub per_customer: bool,
    /// Further entries of the Parquet footer (`job`, `model_version`, …).
    pub metadata: BTreeMap<String, String>,
}

impl TableMeta {
    /// A table without a key and without further footer entries.
    pub fn new(name: impl Into<String>, description: impl Into<String>, fields: Vec<Field>) -> Self {
        TableMeta {
            name: name.into(),
            description: description.into(),
            schema: SchemaRef::new(Schema::new(fields)),
            key: None,
            per_customer: false,
            metadata: BTreeMap::new(),
        }
    }

    /// Says which columns name a row.
    pub fn key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.key = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Says that every customer of the population has one row, named by its key.
    pub fn per_customer<S: Into<String>>(mut self, key: S) -> Self {
        self.per_customer = true;
        self.key([key])
    }

    /// Adds an entry to the Parquet footer.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The positions of the key's columns.
    pub(super) fn key_indices(&self) -> Result<Vec<usize>> {
        let key = self.key.as_deref().unwrap_or_default();
        key.iter()
            .map(|name| {
                self.schema.index_of(name).map_err(|_| {
                    Error::user(format!("the key `{name}` of the table `{}` is not one of its columns", self.name))
                })
            })
            .collect()
    }

    fn properties(&self, run: &[(String, String)], schema_root: &ParquetLeaves) -> Result<WriterProperties> {
        let mut footer: BTreeMap<&str, &str> = self.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        footer.insert(DESCRIPTION, &self.description);
        footer.extend(run.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let footer = footer.into_iter().map(|(k, v)| KeyValue::new(k.to_owned(), v.to_owned())).collect();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_bloom_filter_enabled(false)
            .set_dictionary_enabled(true)
            .set_created_by(concat!("tenure ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(footer));
        if self.key.is_some() {
            let columns = self.key_indices()?.into_iter().map(|index| SortingColumn {
                column_idx: schema_root.leaf(index),
                descending: false,
                nulls_first: true,
            });
            properties = properties.set_sorting_columns(Some(columns.collect()));
        }
        Ok(properties.build())
    }
}

/// A column with its meaning.
pub fn described(field: Field, description: impl Into<String>) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(DESCRIPTION.to_owned(), description.into());
    field.with_metadata(metadata)
}

/// Where the Arrow columns stand among Parquet's leaves (they differ behind a nested column).
struct ParquetLeaves(Vec<usize>);

impl ParquetLeaves {
    fn of(schema: &Schema) -> Result<Self> {
        let parquet = ArrowSchemaConverter::new().convert(schema)?;
        let leaves = schema.fields().iter().map(|field| {
            let mut leaves = 0..parquet.num_columns();
            leaves.find(|leaf| parquet.get_column_root(*leaf).name() == field.name()).unwrap_or_default()
        });
        Ok(ParquetLeaves(leaves.collect()))
    }

    fn leaf(&self, column: usize) -> i32 {
        self.0.get(column).copied().unwrap_or(column) as i32
    }
}

/// A local Parquet file of a table, whole and closed; nobody has looked into it yet.
#[derive(Debug)]
pub struct StagedFile {
    pub(super) meta: TableMeta,
    pub(super) path: PathBuf,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl StagedFile {
    /// The table's name.
    pub fn table(&self) -> &str {
        &self.meta.name
    }

    /// Where the local file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows written.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The file's size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Writes one table of a night into a local Parquet file.
///
/// The same rows give the same bytes, however they were cut into batches. A writer that is dropped unfinished leaves no
/// file behind.
pub struct TableWriter {
    meta: TableMeta,
    file: PartialFile,
    parquet: ParquetWriter<File>,
    coalescer: BatchCoalescer,
    rows: u64,
}

impl TableWriter {
    /// Starts `dir/TABLE.parquet` for a table that no night publishes.
    pub fn local(dir: &Path, meta: &TableMeta) -> Result<Self> {
        Self::create(dir, meta, &[])
    }

    /// Starts `dir/TABLE.parquet`, replacing what is there; `run` joins the entries of the footer.
    pub(super) fn create(dir: &Path, meta: &TableMeta, run: &[(String, String)]) -> Result<Self> {
        failpoint::reach("publish.writing");
        let properties = meta.properties(run, &ParquetLeaves::of(&meta.schema)?)?;
        let path = dir.join(format!("{}.parquet", meta.name));
        let file = File::create(&path).map_err(|e| broken(&path, e))?;
        let guard = PartialFile { path: path.clone(), finished: false };
        let parquet = ParquetWriter::try_new(file, meta.schema.clone(), properties).map_err(|e| broken(&path, e))?;
        let coalescer = BatchCoalescer::new(meta.schema.clone(), WRITE_ROWS);
        Ok(TableWriter { meta: meta.clone(), file: guard, parquet, coalescer, rows: 0 })
    }

    /// The declared columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.meta.schema
    }

    /// Appends rows; columns, order and types must be the declared ones. The fields' metadata may be missing, and text may
    /// come in any of Arrow's layouts, and timestamps in any time zone.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = self.as_declared(batch)?;
        self.rows += batch.num_rows() as u64;
        self.coalescer.push_batch(batch)?;
        self.drain()
    }

    /// Writes the footer and closes the file.
    pub fn finish(mut self) -> Result<StagedFile> {
        self.coalescer.finish_buffered_batch()?;
        self.drain()?;
        let path = self.file.path.clone();
        let file = self.parquet.finish().map_err(|e| broken(&path, e))?;
        let bytes = file.metadata().map_err(|e| broken(&path, e))?.len();
        self.file.finished = true;
        failpoint::reach("publish.written");
        Ok(StagedFile { meta: self.meta, path, rows: self.rows, bytes })
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(batch) = self.coalescer.next_completed_batch() {
            self.parquet.write(&batch).map_err(|e| broken(&self.file.path, e))?;
        }
        Ok(())
    }

    fn as_declared(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let wanted = &self.meta.schema;
        let given = batch.schema();
        let names = |schema: &Schema| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join("`, `");
        if given.fields().len() != wanted.fields().len()
            || given.fields().iter().zip(wanted.fields()).any(|(given, wanted)| given.name() != wanted.name())
        {
            return Err(Error::user(format!(
                "the table `{}` declares the columns `{}` but was given `{}`",
                self.meta.name,
                names(wanted),
                names(&given)
            )));
        }
        let is_instant = |data_type: &DataType| matches!(data_type, DataType::Timestamp(_, Some(_)));
        let alike = |a: &DataType, b: &DataType| (is_text(a) && is_text(b)) || (is_instant(a) && is_instant(b));
        let as_declared = |(column, field): (&ArrayRef, &FieldRef)| match alike(column.data_type(), field.data_type()) {
            true => cast(column, field.data_type()),
            false => Ok(column.clone()),
        };
        let columns = batch.columns().iter().zip(wanted.fields()).map(as_declared).collect::<Result<Vec<_>, _>>();
        columns.and_then(|columns| RecordBatch::try_new(wanted.clone(), columns)).map_err(|e| {
            Error::user(format!("rows of the table `{}` are not of the declared types", self.meta.name)).because(e)
        })
    }
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter").field("path", &self.file.path).field("rows", &self.rows).finish()
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Removes the file again unless it was finished.
struct PartialFile {
    path: PathBuf,
    finished: bool,
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing else can be done about a file that cannot be removed: it is scratch, and the next run replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A local file that cannot be written: the machine's fault, whatever the kind.
fn broken(path: &Path, source: impl Into<ParquetError>) -> Error {
    Error::new(Class::Infra, Problem::new(format!("`{}` cannot be written", path.display())))
        .because(source.into())
        .hint("is there room on the disk?")
}
