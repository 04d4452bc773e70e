//! The files of a table: found once, pruned by date, their schemas checked before anything is read.
//!
//! A table is a folder of files or one file. Names that start with `_` or `.` are not data. Folders called `column=value`
//! give the partition columns. A partition column of type `date` says on which day its rows happened, on the clock of
//! whoever wrote them: partitions that start after the last moment in question on every clock are not opened. Declare it
//! as `utf8` to have every partition read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::Array;
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use datafusion::datasource::physical_plan::parquet::CachedParquetMetaData;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};
use tokio::sync::OnceCell;
use url::Url;

use super::adapter;
use super::listed::ListedStore;
use super::naive_times;
use super::point_in_time::{days, last_date};
use super::presence;
use super::store;
use super::tables::{self, Differences};
use crate::error::Problem;
use crate::spec::{ColumnSpec, ColumnType, Format, TableSpec};
use crate::{Error, Result};

/// Footers that are read at a time.
pub(super) const FOOTERS_IN_FLIGHT: usize = 32;
/// A header line is looked for in this many bytes.
const HEADER_BYTES: u64 = 256 << 10;
/// Parquet's footer mostly fits into the last bytes of a file, and then takes one request.
pub(super) const FOOTER_BYTES: usize = 64 << 10;
/// A file that cannot be read is looked at again after this time: whoever is writing it changes it meanwhile.
const STILL_WRITTEN: Duration = Duration::from_secs(1);
/// How Hive writes a NULL into a folder's name.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// A file that a run reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct InputObject {
    /// The table that it belongs to.
    pub table: String,
    /// Its path below the table's folder, or its name where the table is one file.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// What changes when its content does, where the store says so.
    pub etag: Option<String>,
}

/// One file of a table with the values of its partition columns.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    pub meta: ObjectMeta,
    pub values: Vec<ScalarValue>,
}

/// What is known of a file once its footer or header line was read.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// Its rows, where the file says so.
    pub rows: Option<usize>,
    /// The names in the header line of a CSV file.
    pub header: Arc<Vec<String>>,
    /// The columns that are times without a zone in a Parquet file.
    pub naive: Arc<Vec<String>>,
    /// The schema of a Parquet file some of whose values have to be looked at: it says which file it is of.
    pub named_schema: Option<SchemaRef>,
}

/// Where a table's files are, and what is known of them.
pub(super) struct TableFiles {
    pub store: Arc<ListedStore>,
    pub store_url: ObjectStoreUrl,
    root: Path,
    url: Url,
    listed: OnceCell<Vec<DataFile>>,
    opened: Mutex<HashMap<Path, Opened>>,
    /// Files that need no look at their footers.
    vouched: Mutex<HashSet<InputObject>>,
}

impl std::fmt::Debug for TableFiles {
    /// The URL alone: the store holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TableFiles({})", self.url)
    }
}

impl TableFiles {
    /// The files behind a table's URL; nothing is contacted yet.
    pub(super) fn new(table: &TableSpec, store: &Arc<ListedStore>) -> Result<Self> {
        let url = &table.url;
        let root = Path::from_url_path(url.path())
            .map_err(|e| Error::user(format!("`{url}` is not a path")).at(table.place.clone()).because(e))?;
        let store_url = ObjectStoreUrl::parse(&url[..url::Position::BeforePath])?;
        Ok(TableFiles {
            store: Arc::clone(store),
            store_url,
            root,
            url: url.clone(),
            listed: OnceCell::new(),
            opened: Mutex::default(),
            vouched: Mutex::default(),
        })
    }

    /// Every file, sorted by path; listed once, so that all sessions of a run see the same. A table that is not there is an error,
    /// and so is one without files unless it may be empty.
    pub(super) async fn all(&self, table: &TableSpec) -> Result<&[DataFile]> {
        let list = async || {
            presence::require_place(table)?;
            let files = self.list(table).await.map_err(|error| presence::classed(table, error))?;
            presence::require_files(table, files.is_empty())?;
            self.store.remember(files.iter().map(|file| &file.meta));
            Ok(files)
        };
        self.listed.get_or_try_init(list).await.map(Vec::as_slice)
    }

    /// The files that can hold rows from before `until`.
    pub(super) async fn before(&self, table: &TableSpec, until: DateTime<Utc>) -> Result<Vec<DataFile>> {
        let last = days(last_date(until));
        let kept = |file: &&DataFile| {
            let late = |value: &ScalarValue| matches!(value, ScalarValue::Date32(Some(date)) if *date > last);
            table.event_time.is_none() || !file.values.iter().any(late)
        };
        Ok(self.all(table).await?.iter().filter(kept).cloned().collect())
    }

    /// The files that can hold rows from before `until`, as a run's record names them.
    pub(super) async fn inputs(&self, table: &TableSpec, until: DateTime<Utc>) -> Result<Vec<InputObject>> {
        Ok(self.before(table, until).await?.iter().map(|file| self.input(table, file)).collect())
    }

    /// A file as a run's record names it.
    pub(super) fn input(&self, table: &TableSpec, file: &DataFile) -> InputObject {
        InputObject {
            table: table.name.clone(),
            path: self.below_root(&file.meta.location),
            size: file.meta.size,
            etag: file.meta.e_tag.clone(),
        }
    }

    /// Takes a file as known: it was compared with the table's declaration before.
    pub(super) fn vouch(&self, objects: impl Iterator<Item = InputObject>) {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
    }

    pub(super) fn below_root(&self, location: &Path) -> String {
        let below: Vec<String> = match location.prefix_match(&self.root) {
            Some(parts) => parts.map(|p| p.as_ref().to_owned()).collect(),
            None => Vec::new(),
        };
        match below.is_empty() {
            true => location.filename().unwrap_or_default().to_owned(),
            false => below.join("/"),
        }
    }

    /// The full URL of a file.
    pub(super) fn url_of(&self, location: &Path) -> String {
        format!("{}{location}", self.store_url.as_str())
    }

    async fn list(&self, table: &TableSpec) -> Result<Vec<DataFile>> {
        let failed = |e| store::failed(self.url.as_str(), "listed", e);
        let extension = extension(table.format);
        if !self.url.path().ends_with('/') {
            match self.store.head(&self.root).await {
                Ok(meta) => return Ok(vec![DataFile { meta, values: Vec::new() }]),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) if self.is_folder() => tracing::debug!("`{}` is not a file: {error}", self.url),
                Err(error) => return Err(failed(error)),
            }
        }
        let metas: Vec<ObjectMeta> = match self.store.list(Some(&self.root)).try_collect().await {
            // A local folder that is not there is a table without files; a bucket that is not there is a mistake.
            Err(object_store::Error::NotFound { .. }) if self.url.scheme() == "file" => Vec::new(),
            listed => listed.map_err(failed)?,
        };
        let data = metas.into_iter().filter(|meta| self.is_data(&meta.location, extension));
        let mut files: Vec<DataFile> = data
            .map(|meta| Ok(DataFile { values: self.partition_values(table, &meta.location)?, meta }))
            .collect::<Result<_>>()?;
        files.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
        Ok(files)
    }

    fn is_folder(&self) -> bool {
        self.url.to_file_path().is_ok_and(|path| path.is_dir())
    }

    fn is_data(&self, location: &Path, extension: &str) -> bool {
        let below = self.below_root(location);
        let visible = below.split('/').all(|part| !part.starts_with(['_', '.']) || part.contains('='));
        visible && below.to_lowercase().ends_with(extension)
    }

    fn partition_values(&self, table: &TableSpec, location: &Path) -> Result<Vec<ScalarValue>> {
        let below = self.below_root(location);
        let value = |(name, column_type): &(String, ColumnType)| {
            let folder = below.split('/').find_map(|part| part.strip_prefix(name.as_str())?.strip_prefix('='));
            let text = folder.map(percent_decoded).ok_or_else(|| {
                let url = self.url_of(location);
                Error::user(format!("in table `{}`, `{url}` is not in a folder `{name}=…`", table.name))
                    .at(table.place.clone())
                    .hint(format!("move it to where its `{name}` says, or take `{name}` out of `partition_by`"))
            })?;
            let arrow = column_type.arrow(table.timezone);
            if text == HIVE_NULL {
                return Ok(ScalarValue::try_from(&arrow)?);
            }
            ScalarValue::try_from_string(text.clone(), &arrow).map_err(|e| {
                let url = self.url_of(location);
                let kind = column_type.name();
                Error::user(format!("in table `{}`, `{text}` in `{url}` is no {kind} for `{name}`", table.name))
                    .at(table.place.clone())
                    .because(e)
            })
        };
        table.partition_by.iter().map(value).collect()
    }

    /// What was read of a file by [`TableFiles::check`].
    pub(super) fn opened(&self, file: &DataFile) -> Option<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&file.meta.location).cloned()
    }

    /// Reads the footers (or header lines) of these files, each once in a run, and says how they differ from the table's
    /// declaration.
    pub(super) async fn check(
        &self,
        table: &TableSpec,
        files: &[DataFile],
        runtime: &RuntimeEnv,
    ) -> Result<Vec<Problem>> {
        let vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let new =
            files.iter().filter(|file| self.opened(file).is_none() && !vouched.contains(&self.input(table, file)));
        let mut read: Vec<(&DataFile, (Schema, Option<usize>))> = futures::stream::iter(new)
            .map(async |file| {
                let schema = match table.format {
                    Format::Parquet => self.footer(file, runtime).await,
                    Format::Csv => self.header(file, table).await,
                };
                let url = self.url_of(&file.meta.location);
                let what = format!("in table `{}`, `{url}` cannot be read", table.name);
                schema.map(|schema| (file, schema)).map_err(|e| e.context(what).at(table.place.clone()))
            })
            .buffer_unordered(FOOTERS_IN_FLIGHT)
            .try_collect()
            .await?;
        read.sort_by(|(a, _), (b, _)| a.meta.location.cmp(&b.meta.location));
        let mut differences = Differences::default();
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, (schema, rows)) in read {
            differences.look(table, &self.url_of(&file.meta.location), &schema);
            let header = Arc::new(schema.fields().iter().map(|f| f.name().clone()).collect());
            let naive = Arc::new(naive_times::columns_of(table, &schema).map(str::to_owned).collect());
            let checked = table.format == Format::Parquet && tables::has_checked_columns(table, &schema);
            let named_schema = checked.then(|| adapter::named_schema(&schema, &self.url_of(&file.meta.location)));
            opened.insert(file.meta.location.clone(), Opened { rows, header, naive, named_schema });
        }
        let problems = differences.problems(table);
        if !problems.is_empty() {
            opened.clear(); // What is wrong is said again to whoever asks again.
        }
        Ok(problems)
    }

    /// Reads the end of a file, where its footer mostly is: that is known then. A file whose end is no footer is refused: the Parquet
    /// reader panics where a footer says that it is longer than the file.
    async fn read_end(&self, file: &DataFile, runtime: &RuntimeEnv) -> Result<()> {
        const TAIL: usize = 8;
        let (path, size) = (&file.meta.location, file.meta.size);
        if size == 0 {
            return Err(self.not_whole(file, Error::user(format!("`{}` is empty", self.url_of(path)))).await);
        }
        let range = size.saturating_sub(FOOTER_BYTES as u64)..size;
        let end = self.store.get_range(path, range.clone()).await?;
        let is_whole = end.last_chunk::<TAIL>().is_some_and(|[a, b, c, d, magic @ ..]| {
            magic == b"PAR1" && u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + TAIL as u64 <= size
        });
        if !is_whole {
            let error = Error::user(format!("`{}` is no whole Parquet file", self.url_of(path)));
            return Err(self.not_whole(file, error).await);
        }
        match decoded(size, range, end) {
            Ok(Some(footer)) => {
                let footer = Arc::new(CachedParquetMetaData::new(Arc::new(footer)));
                let entry = CachedFileMetadataEntry::new(file.meta.clone(), footer);
                runtime.cache_manager.get_file_metadata_cache().put(path, entry);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(self.not_whole(file, error).await),
        }
    }

    /// The error of a file that cannot be read: it may still be in the making.
    async fn not_whole(&self, file: &DataFile, error: Error) -> Error {
        tokio::time::sleep(STILL_WRITTEN).await;
        match self.store.is_unchanged(&file.meta).await {
            true => error.hint("was its upload cut off? write it again from where its rows come from"),
            false => Error::infra(format!("`{}` is being written", self.url_of(&file.meta.location)))
                .hint("run it again: the next run lists the table anew"),
        }
    }

    /// The least and the greatest event time of a file, by its footer; `None` where no row has one, an error where the footer
    /// does not say.
    pub(super) async fn event_times(
        &self,
        file: &DataFile,
        column: &ColumnSpec,
        runtime: &RuntimeEnv,
    ) -> Result<Option<(ScalarValue, ScalarValue)>> {
        let footer = self.parquet(file, runtime);
        let (footer, schema) = (footer.fetch_metadata().await?, footer.fetch_schema().await?);
        if column.optional && tables::find_type(&schema, &column.from).is_err() {
            return Ok(None);
        }
        let untold = || {
            let url = self.url_of(&file.meta.location);
            let error = Error::user(format!("the footer of `{url}` does not say between which times its rows lie"));
            Err(error.hint("write it with statistics of its event time"))
        };
        // Footers have statistics of the fields of structs, but nothing here reads them.
        let [column] = column.from.as_slice() else { return untold() };
        let groups = footer.row_groups();
        let converter = StatisticsConverter::try_new(column, &schema, footer.file_metadata().schema_descr())?;
        let (least, most) = (converter.row_group_mins(groups)?, converter.row_group_maxes(groups)?);
        let nulls = converter.row_group_null_counts(groups)?;
        let mut found: Option<(ScalarValue, ScalarValue)> = None;
        for (i, group) in groups.iter().enumerate() {
            if least.is_valid(i) && most.is_valid(i) {
                let value = |array| ScalarValue::try_from_array(array, i);
                let (a, b) = (value(&least)?, value(&most)?);
                found = Some(match found.take() {
                    Some((least, most)) => (if a < least { a } else { least }, if b > most { b } else { most }),
                    None => (a, b),
                });
            } else if !nulls.is_valid(i) || i128::from(nulls.value(i)) < i128::from(group.num_rows()) {
                return untold();
            }
        }
        Ok(found)
    }

    /// A file's footer, kept once it was read.
    fn parquet<'a>(&'a self, file: &'a DataFile, runtime: &RuntimeEnv) -> DFParquetMetadata<'a> {
        DFParquetMetadata::new(self.store.as_ref(), &file.meta)
            .with_file_metadata_cache(Some(runtime.cache_manager.get_file_metadata_cache()))
            .with_metadata_size_hint(Some(FOOTER_BYTES))
    }

    async fn footer(&self, file: &DataFile, runtime: &RuntimeEnv) -> Result<(Schema, Option<usize>)> {
        self.read_end(file, runtime).await?;
        let footer = self.parquet(file, runtime);
        let rows = footer.fetch_metadata().await?.file_metadata().num_rows();
        Ok((footer.fetch_schema().await?, usize::try_from(rows).ok()))
    }

    /// The names in the header line. CSV has no types: whether the text fits the declared ones shows when it is read.
    async fn header(&self, file: &DataFile, table: &TableSpec) -> Result<(Schema, Option<usize>)> {
        if file.meta.size == 0 {
            let error = Error::user(format!("`{}` is empty", self.url_of(&file.meta.location)));
            return Err(self.not_whole(file, error).await);
        }
        let start = self.store.get_range(&file.meta.location, 0..file.meta.size.min(HEADER_BYTES)).await?;
        let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
        let format = arrow::csv::reader::Format::default().with_header(true);
        let (schema, _) = format.infer_schema(std::io::Cursor::new(start), Some(0))?;
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        Ok((csv_schema(&names, table), None))
    }
}

/// A footer by the end of a file; `None` where it begins before that.
fn decoded(size: u64, range: Range<u64>, end: Bytes) -> Result<Option<ParquetMetaData>> {
    let mut decoder = ParquetMetaDataPushDecoder::try_new(size)?.with_page_index_policy(PageIndexPolicy::Optional);
    decoder.push_range(range, end)?;
    match decoder.try_decode()? {
        DecodeResult::Data(footer) => Ok(Some(footer)),
        _ => Ok(None),
    }
}

/// The schema of a CSV file: its header line's names, with the declared types where they are declared.
pub(super) fn csv_schema(header: &[String], table: &TableSpec) -> Schema {
    let field = |name: &String| match tables::file_columns(table).find(|column| column.source() == *name) {
        Some(column) => Field::new(name, column.column_type.arrow(table.timezone), true),
        None => Field::new(name, arrow::datatypes::DataType::Utf8, true),
    };
    Schema::new(header.iter().map(field).collect::<Vec<_>>())
}

/// How the files of a format end.
pub(super) fn extension(format: Format) -> &'static str {
    match format {
        Format::Parquet => ".parquet",
        Format::Csv => ".csv",
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_percent_decoded() {
        assert_eq!(percent_decoded("a%3Ab%20c"), "a:b c");
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz"), "%zz");
    }
}
