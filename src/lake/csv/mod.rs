//! CSV files: read as text, line by line, and made into the declared types by rules of our own.
//!
//! A reader that guesses, or that stops at the first value that it does not know, is of no use for files that people export from
//! shops: here every option is said in the job, and an error names file, line, column and rule, but never what stands there.

mod records;
mod values;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as FusionResult, ScalarValue, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use self::records::{Record, Records};
use self::values::ColumnReader;
use super::conversion::Zones;
use super::tables::file_columns;
use crate::spec::{ColumnSpec, CsvFormat, TableSpec};
use crate::{Error, Result};

/// A file of a table.
#[derive(Debug, Clone)]
pub(super) struct CsvFile {
    pub path: Path,
    /// Its URL, for messages.
    pub url: String,
    /// The values of the table's partition columns.
    pub values: Vec<ScalarValue>,
}

/// Where the values of a column are.
#[derive(Debug, Clone)]
enum Column {
    File(ColumnSpec),
    Partition(usize),
}

/// Reads the CSV files of a table; each file in one go, for texts may hold line breaks.
#[derive(Debug)]
pub(super) struct CsvExec {
    table: Arc<TableSpec>,
    store: Arc<dyn ObjectStore>,
    groups: Vec<Vec<CsvFile>>,
    columns: Arc<Vec<Column>>,
    properties: Arc<PlanProperties>,
}

impl CsvExec {
    /// Reads the columns of a schema, which are those of the table, in so many partitions.
    pub fn try_new(
        table: Arc<TableSpec>,
        store: Arc<dyn ObjectStore>,
        files: Vec<CsvFile>,
        schema: SchemaRef,
        partitions: usize,
    ) -> Result<Self> {
        let column = |name: &String| match table.partition_by.iter().position(|(partition, _)| partition == name) {
            Some(index) => Ok(Column::Partition(index)),
            None => match file_columns(&table).find(|column| column.name == *name) {
                Some(column) => Ok(Column::File(column.clone())),
                None => Err(Error::bug(format!("table `{}` has no column `{name}`", table.name))),
            },
        };
        let columns = schema.fields().iter().map(|field| column(field.name())).collect::<Result<_>>()?;
        let mut groups = vec![Vec::new(); partitions.min(files.len()).max(1)];
        let count = groups.len();
        files.into_iter().enumerate().for_each(|(i, file)| groups[i % count].push(file));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(CsvExec { table, store, groups, columns: Arc::new(columns), properties: Arc::new(properties) })
    }

    fn schema_ref(&self) -> SchemaRef {
        Arc::clone(self.properties.eq_properties.schema())
    }
}

impl DisplayAs for CsvExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let files: usize = self.groups.iter().map(Vec::len).sum();
        write!(f, "CsvExec: table={}, files={files}", self.table.name)
    }
}

impl ExecutionPlan for CsvExec {
    fn name(&self) -> &'static str {
        "CsvExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> FusionResult<TreeNodeRecursion>,
    ) -> FusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("CSV files have no input") }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("CSV files have no input") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> FusionResult<SendableRecordBatchStream> {
        let files = self.groups.get(partition).cloned().unwrap_or_default();
        let reader = Arc::new(TableReader {
            table: Arc::clone(&self.table),
            format: Arc::new(self.table.csv.clone()),
            store: Arc::clone(&self.store),
            columns: Arc::clone(&self.columns),
            schema: self.schema_ref(),
            rows: context.session_config().batch_size(),
        });
        let batches = stream::iter(files).then(move |file| TableReader::open(Arc::clone(&reader), file)).try_flatten();
        let batches = batches.map_err(datafusion::error::DataFusionError::from);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema_ref(), batches)))
    }
}

/// What the files of a scan have in common.
struct TableReader {
    table: Arc<TableSpec>,
    format: Arc<CsvFormat>,
    store: Arc<dyn ObjectStore>,
    columns: Arc<Vec<Column>>,
    schema: SchemaRef,
    /// Rows of a batch.
    rows: usize,
}

impl TableReader {
    async fn open(self: Arc<Self>, file: CsvFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let found = self.store.get(&file.path).await.map_err(|e| self.failed(e))?;
        let (bytes, rows) = (found.into_stream(), FileRows::new(&self, &file)?);
        let state = FileReader { reader: self, bytes, records: None, rows, ready: VecDeque::new() };
        Ok(stream::try_unfold(state, FileReader::next).boxed())
    }

    /// The store says which file, and what is the matter with it.
    fn failed(&self, error: object_store::Error) -> Error {
        Error::from(error).about(format!("in table `{}`", self.table.name))
    }
}

/// Reads one file.
struct FileReader {
    reader: Arc<TableReader>,
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
    /// `None` before the first bytes.
    records: Option<Records>,
    rows: FileRows,
    ready: VecDeque<RecordBatch>,
}

impl FileReader {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            if self.rows.ended {
                return Ok(None);
            }
            let bytes = self.read().await?;
            self.take(&bytes)?;
        }
    }

    /// The next bytes; none at the end.
    async fn read(&mut self) -> Result<Bytes> {
        loop {
            match self.bytes.try_next().await.map_err(|e| self.reader.failed(e))? {
                Some(bytes) if bytes.is_empty() => {}
                bytes => return Ok(bytes.unwrap_or_default()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let format = &self.reader.format;
        let (records, bytes) = match &mut self.records {
            Some(records) => (records, bytes),
            empty => (empty.insert(Records::new(format)), bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)),
        };
        let (rows, ready) = (&mut self.rows, &mut self.ready);
        let mut visit = |record: Record<'_>| rows.take(record, ready);
        if !bytes.is_empty() {
            return records.feed(bytes, &mut visit);
        }
        if let Some(line) = records.end(&mut visit)? {
            let hint =
                "close it, or say which character quotes texts: `quote: \"'\"` on the table, `quote: none` for none";
            return Err(rows.error(line, "a quote is opened and never closed").hint(hint));
        }
        rows.ended = true;
        rows.finish(ready)
    }
}

/// The rows of a file so far.
struct FileRows {
    reader: Arc<TableReader>,
    url: String,
    values: Vec<ScalarValue>,
    columns: Vec<Option<ColumnReader>>,
    /// Where each column stands in a record, once the header line was read.
    places: Option<Vec<Option<usize>>>,
    fields: usize,
    rows: usize,
    ended: bool,
}

impl FileRows {
    fn new(reader: &Arc<TableReader>, file: &CsvFile) -> Result<Self> {
        let zones = Zones::of(&reader.table);
        let column = |column: &Column| match column {
            Column::File(column) => ColumnReader::new(column.column_type, &reader.format, zones).map(Some),
            Column::Partition(_) => Ok(None),
        };
        Ok(FileRows {
            columns: reader.columns.iter().map(column).collect::<Result<_>>()?,
            reader: Arc::clone(reader),
            url: file.url.clone(),
            values: file.values.clone(),
            places: None,
            fields: 0,
            rows: 0,
            ended: false,
        })
    }

    fn error(&self, line: usize, what: &str) -> Error {
        let table = &self.reader.table;
        Error::user(format!("in table `{}`, `{}`, line {line}: {what}", table.name, self.url)).at(table.place.clone())
    }

    fn take(&mut self, record: Record<'_>, ready: &mut VecDeque<RecordBatch>) -> Result<()> {
        if self.places.is_none() {
            return self.take_header(record);
        }
        if record.len() != self.fields {
            let what = format!("{} fields, where the header line has {}", record.len(), self.fields);
            let hint = "a text with the delimiter in it wants quotes; another delimiter is said by `delimiter: \";\"` on the table";
            return Err(self.error(record.line, &what).hint(hint));
        }
        let places = self.places.as_deref().unwrap_or_default();
        for (i, reader) in self.columns.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            let Some(place) = places[i] else {
                reader.push_null();
                continue;
            };
            if let Err(wrong) = reader.push(record.field(place)) {
                let Column::File(column) = &self.reader.columns[i] else { continue };
                let what = format!("column `{}` {}", column.source(), wrong.what);
                return Err(self.error(record.line, &what).at(column.place.clone()).hint(wrong.hint));
            }
        }
        self.rows += 1;
        if self.rows == self.reader.rows { self.finish(ready) } else { Ok(()) }
    }

    fn take_header(&mut self, record: Record<'_>) -> Result<()> {
        let names = names_of(record).map_err(|what| self.error(record.line, &what).hint(ENCODING_HINT))?;
        let place = |column: &Column| match column {
            Column::Partition(_) => Ok(None),
            Column::File(column) => match names.iter().position(|name| *name == column.source()) {
                None if !column.optional => {
                    let what = format!("the header line has no column `{}`", column.source());
                    Err(self.error(record.line, &what).at(column.place.clone()))
                }
                place => Ok(place),
            },
        };
        self.places = Some(self.reader.columns.iter().map(place).collect::<Result<_>>()?);
        self.fields = names.len();
        Ok(())
    }

    /// Makes a batch of the rows that are there.
    fn finish(&mut self, ready: &mut VecDeque<RecordBatch>) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let columns =
            self.reader.columns.iter().zip(&mut self.columns).map(|(column, reader)| match (column, reader) {
                (_, Some(reader)) => reader.finish(),
                (Column::Partition(index), None) => Ok(self.values[*index].to_array_of_size(self.rows)?),
                (Column::File(_), None) => Err(Error::bug("a CSV column has no reader")),
            });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        ready.push_back(RecordBatch::try_new_with_options(Arc::clone(&self.reader.schema), columns, &options)?);
        self.rows = 0;
        Ok(())
    }
}

/// What to do about text in another encoding.
const ENCODING_HINT: &str =
    "write the file in UTF-8: `iconv -f ISO-8859-1 -t UTF-8` turns Latin-1 into it, `-f UTF-16` UTF-16";

fn names_of(record: Record<'_>) -> Result<Vec<String>, String> {
    let name = |i: usize| std::str::from_utf8(record.field(i)).map(str::to_owned);
    let names = (0..record.len()).map(name).collect::<Result<Vec<_>, _>>();
    names.map_err(|_| "the header line is no UTF-8".to_owned())
}

/// The names in the header line that a file begins with.
pub(super) fn header_names(start: &[u8], format: &CsvFormat) -> Result<Vec<String>> {
    let refused = |what: &str| Error::user(what).hint(ENCODING_HINT);
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Err(refused("it is UTF-16"));
    }
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let mut records = Records::new(format);
    let mut names = None;
    let mut visit = |record: Record<'_>| {
        if names.is_none() {
            names = Some(names_of(record).map_err(|what| refused(&what)));
        }
        Ok(())
    };
    records.feed(start, &mut visit)?;
    if let Some(line) = records.end(&mut visit)?.filter(|line| *line == 1) {
        return Err(Error::user(format!("line {line} opens a quote that is never closed")));
    }
    names.unwrap_or_else(|| Err(Error::user("it is empty").hint("a CSV file begins with a header line")))
}
