//! The files of a table: found once, pruned by date, their schemas checked before anything is read.
//!
//! A table is a folder of files or one file. Which files of the folder hold its rows says [`super::recognize`]. Folders called
//! `column=value` give the partition columns. A partition column of type `date` says on which day its rows happened, on the clock of
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
use super::csv;
use super::decompress::Decompressing;
use super::delta::{self, DeletedRows, DeltaFile};
use super::listed::ListedStore;
use super::naive_times;
use super::partitions;
use super::point_in_time::{days, last_date};
use super::presence;
use super::recognize::{self, PassedOver};
use super::store;
use super::tables::{self, Differences};
use crate::error::Problem;
use crate::spec::{ColumnSpec, Format, TableSpec};
use crate::{Error, Result};

/// Footers that are read at a time.
pub(super) const FOOTERS_IN_FLIGHT: usize = 32;
/// A header line is looked for in this many bytes.
const HEADER_BYTES: usize = 256 << 10;
/// Parquet's footer mostly fits into the last bytes of a file, and then takes one request.
pub(super) const FOOTER_BYTES: usize = 64 << 10;
/// A file that cannot be read is looked at again after this time: whoever is writing it changes it meanwhile.
const STILL_WRITTEN: Duration = Duration::from_secs(1);

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
    /// Rows that are no part of the table.
    pub deleted: Option<Arc<DeletedRows>>,
}

/// What is known of a file once its footer or header line was read.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// Its rows, where the file says so.
    pub rows: Option<usize>,
    /// The columns that are times without a zone in a Parquet file.
    pub naive: Arc<Vec<String>>,
    /// The schema of a Parquet file some of whose values have to be looked at: it says which file it is of.
    pub named_schema: Option<SchemaRef>,
}

/// What a listing of a table's folder shows.
#[derive(Debug, Default)]
struct Listing {
    /// Its files, sorted by path.
    data: Vec<DataFile>,
    passed_over: Option<PassedOver>,
    /// The version of a Delta table.
    version: Option<u64>,
    /// How a Delta table is read, where its log holds columns that are declared as if files held them.
    read_as: Option<Arc<TableSpec>>,
}

/// Where a table's files are, and what is known of them.
pub(super) struct TableFiles {
    pub store: Arc<ListedStore>,
    pub store_url: ObjectStoreUrl,
    root: Path,
    url: Url,
    listed: OnceCell<Listing>,
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
        let bucket = &url[..url::Position::BeforePath];
        let store_url = ObjectStoreUrl::parse(bucket)?;
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
        self.listing(table).await.map(|listing| listing.data.as_slice())
    }

    /// The files of the folder that are not among [`TableFiles::all`] and are no markers.
    pub(super) async fn passed_over(&self, table: &TableSpec) -> Result<Option<&PassedOver>> {
        self.listing(table).await.map(|listing| listing.passed_over.as_ref())
    }

    /// The version of a Delta table.
    pub(super) async fn version(&self, table: &TableSpec) -> Result<Option<u64>> {
        self.listing(table).await.map(|listing| listing.version)
    }

    /// The declaration as its files keep it: columns that a Delta log holds are partition columns.
    pub(super) async fn read_as(&self, table: &Arc<TableSpec>) -> Result<Arc<TableSpec>> {
        let listing = self.listing(table).await?;
        Ok(Arc::clone(listing.read_as.as_ref().unwrap_or(table)))
    }

    async fn listing(&self, table: &TableSpec) -> Result<&Listing> {
        let list = async || {
            presence::require_place(table)?;
            let listing = self.list(table).await.map_err(|error| presence::classed(table, error))?;
            // A version of a Delta table may be empty: its log says so.
            let is_empty = listing.data.is_empty() && listing.version.is_none();
            presence::require_files(table, is_empty, listing.passed_over.as_ref())?;
            self.store.remember(listing.data.iter().map(|file| &file.meta));
            Ok(listing)
        };
        self.listed.get_or_try_init(list).await
    }

    /// The files that can hold rows from before `until`.
    pub(super) async fn before(&self, table: &TableSpec, until: DateTime<Utc>) -> Result<Vec<DataFile>> {
        let last = days(last_date(until));
        let kept = |file: &&DataFile| {
            let late = |value: &ScalarValue| matches!(value, ScalarValue::Date32(Some(date)) if *date > last);
            table.event_time.is_none() || !file.values.iter().take(table.partition_by.len()).any(late)
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
            etag: match &file.deleted {
                // The same file without other rows is another input.
                Some(deleted) => file.meta.e_tag.as_ref().map(|etag| format!("{etag} without {}", deleted.id)),
                None => file.meta.e_tag.clone(),
            },
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

    async fn list(&self, table: &TableSpec) -> Result<Listing> {
        let failed = |e| self.failed("listed", e);
        if !self.url.path().ends_with('/') {
            match self.store.head(&self.root).await {
                Ok(meta) => {
                    let file = DataFile { meta, values: Vec::new(), deleted: None };
                    return Ok(Listing { data: vec![file], ..Listing::default() });
                }
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
        let below = |location: &Path| self.below_root(location);
        if let Some(log) = delta::Log::find(table, Arc::clone(&self.store) as _, &metas, below) {
            let delta = log.read(metas).await?;
            let file = |DeltaFile { meta, values, deleted }| DataFile { meta, values, deleted };
            let data = delta.files.into_iter().map(file).collect();
            return Ok(Listing {
                data,
                passed_over: None,
                version: Some(delta.version),
                read_as: Some(Arc::new(delta.read_as)),
            });
        }
        recognize::refuse_table_formats(table, metas.iter().map(|meta| below(&meta.location)))?;
        let (data, other) = recognize::sort_out(self.store.as_ref(), table.format, metas, below)
            .await
            .map_err(|e| self.failed("read", e))?;
        let mut data: Vec<DataFile> = data
            .into_iter()
            .map(|meta| Ok(DataFile { values: self.partition_values(table, &meta.location)?, meta, deleted: None }))
            .collect::<Result<_>>()?;
        data.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
        let passed_over = PassedOver::new(&table.name, table.format, other);
        Ok(Listing { data, passed_over, ..Listing::default() })
    }

    fn failed(&self, done: &str, error: object_store::Error) -> Error {
        store::failed(self.url.as_str(), done, error)
    }

    fn is_folder(&self) -> bool {
        self.url.to_file_path().is_ok_and(|path| path.is_dir())
    }

    fn partition_values(&self, table: &TableSpec, location: &Path) -> Result<Vec<ScalarValue>> {
        partitions::values(table, &self.below_root(location), &self.url_of(location))
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
        let new = files.iter().filter(|file| {
            // Which rows of a file stay can be said once it is known how many it has.
            let is_vouched = file.deleted.is_none() && vouched.contains(&self.input(table, file));
            self.opened(file).is_none() && !is_vouched
        });
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
        let (mut problems, mut differences) = (Vec::new(), Differences::default());
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, (schema, rows)) in read {
            problems.extend(recognize::repeated_column(table, &self.url_of(&file.meta.location), &schema));
            differences.look(table, &self.url_of(&file.meta.location), &schema);
            let naive = Arc::new(naive_times::columns_of(table, &schema).map(str::to_owned).collect());
            let checked = table.format == Format::Parquet && tables::has_checked_columns(table, &schema);
            let named_schema = checked.then(|| adapter::named_schema(&schema, &self.url_of(&file.meta.location)));
            opened.insert(file.meta.location.clone(), Opened { rows, naive, named_schema });
        }
        problems.extend(differences.problems(table));
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
            let error = self.not_parquet(file, &end).await?;
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
            true if error.problems().any(|problem| problem.hint.is_some()) => error,
            true => error.hint("was its upload cut off? write it again from where its rows come from"),
            false => Error::infra(format!("`{}` is being written", self.url_of(&file.meta.location)))
                .hint("run it again: the next run lists the table anew"),
        }
    }

    /// What a file that ends so is, which should be Parquet.
    async fn not_parquet(&self, file: &DataFile, end: &[u8]) -> Result<Error> {
        let url = self.url_of(&file.meta.location);
        let start = recognize::first_bytes(self.store.as_ref(), &file.meta).await?;
        let hint = "write it as Parquet, or under a name that says what it is";
        Ok(match recognize::looks_like(&start) {
            _ if start.starts_with(b"PARE") || end.ends_with(b"PARE") => Error::user(format!("`{url}` is encrypted"))
                .hint("encrypted Parquet files cannot be read: write them without encryption"),
            _ if recognize::is_parquet(&start) => Error::user(format!("`{url}` is no whole Parquet file")),
            Some(what) => Error::user(format!("`{url}` is no Parquet file: it looks like {what}")).hint(hint),
            None => Error::user(format!("`{url}` is no Parquet file")).hint(hint),
        })
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
        let start = self.unpacked_start(file).await?;
        if recognize::is_parquet(&start) {
            return Err(Error::user(format!(
                "`{}` is a Parquet file, and the table is CSV",
                self.url_of(&file.meta.location)
            ))
            .hint("declare the table as `format: parquet`, or write the file as CSV"));
        }
        let names = csv::header_names(&start, &table.csv)?;
        Ok((csv_schema(&names, table), None))
    }

    /// The start of a CSV file, unpacked, with its header line.
    async fn unpacked_start(&self, file: &DataFile) -> Result<Vec<u8>> {
        let store = Decompressing(Arc::clone(&self.store) as _);
        let mut chunks = store.get(&file.meta.location).await?.into_stream();
        let mut start = Vec::new();
        while start.len() < HEADER_BYTES
            && let Some(chunk) = chunks.try_next().await?
        {
            start.extend_from_slice(&chunk);
        }
        Ok(start)
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
fn csv_schema(header: &[String], table: &TableSpec) -> Schema {
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
