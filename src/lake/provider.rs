//! A table as SQL sees it: only rows that exist at the session's visibility and that no check rejects.
//!
//! The filters are part of the scan itself; there is no table without them that a query could name.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono_tz::Tz;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result as FusionResult, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::{Expr, ident};
use object_store::ObjectStore;

use super::adapter::DeclaredColumns;
use super::check_scan::{CheckExec, Conditions, Sink};
use super::checks::Checks;
use super::csv::{CsvExec, CsvFile};
use super::decompress::Decompressing;
use super::files::{DataFile, FOOTER_BYTES, Opened, TableFiles};
use super::listed::ListedStore;
use super::parquet_reader::ParquetReaders;
use super::point_in_time::{Visibility, visible, visible_or_undated};
use super::report::TableState;
use super::scan_source::{ScanSource, ScannedTable};
use super::spans::{self, InSpans};
use super::tables;
use super::unique::Repeats;
use crate::Error;
use crate::spec::{CheckRule, Format, TableSpec};

/// A declared table at one visibility.
#[derive(Debug, Clone)]
pub(super) struct LakeTable {
    pub spec: Arc<TableSpec>,
    /// The declaration as the files keep it.
    pub read_as: Arc<TableSpec>,
    pub checks: Arc<Checks>,
    pub files: Arc<TableFiles>,
    /// The files that can hold visible rows; their footers were read.
    pub parts: Arc<Vec<DataFile>>,
    pub at: Visibility,
    pub timezone: Tz,
    pub repeats: Repeats,
    /// Where the first complete scan leaves what it found; `None` for a scan that only filters.
    pub state: Option<Arc<TableState>>,
    pub schema: SchemaRef,
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        // Filters stay above: the optimizer moves them down into the Parquet reader, where no collecting scan is in the
        // way.
        let all = || (0..self.schema.fields().len()).collect();
        let output = projection.cloned().unwrap_or_else(all);
        let state = self.state.as_ref().filter(|_| self.checks.in_scan());
        match state.and_then(|state| state.claim(|| self.sink(state))) {
            Some(sink) => self.collecting(session, &output, sink),
            None => self.filtering(session, &output),
        }
    }
}

impl LakeTable {
    pub(super) fn sink(&self, state: &Arc<TableState>) -> Sink {
        Sink::new(Arc::clone(&self.spec), Arc::clone(&self.checks), Arc::clone(state))
    }

    /// A scan that only filters.
    fn filtering(&self, session: &dyn Session, output: &[usize]) -> FusionResult<Arc<dyn ExecutionPlan>> {
        let visible = visible(&self.spec, self.at, self.timezone);
        let conditions = visible.into_iter().chain(self.checks.good()).chain(self.repeats.once());
        let condition = conditions.reduce(Expr::and);
        let checked = self.checks.rows.iter().map(|check| &check.column);
        let columns = self.columns(output, checked.chain(self.repeats.columns()));
        let plan = self.read(session, &columns)?;
        let plan = filtered(session, plan, condition)?;
        self.with_kept(projected(plan, &positions(output, &columns))?, output)
    }

    /// A scan that sees every row, for the sink.
    pub(super) fn collecting(
        &self,
        session: &dyn Session,
        output: &[usize],
        sink: Arc<Sink>,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        let checked = self.checks.rows.iter().map(|check| &check.column);
        let columns = match self.checks.show_rows() {
            true => (0..self.schema.fields().len()).collect(),
            false => self.columns(output, checked.chain(self.repeats.columns())),
        };
        let event_time = self.spec.event_time.as_ref();
        let undated = |rule: &CheckRule| matches!(rule, CheckRule::NotNull(column) if Some(column) == event_time);
        let sees_undated = self.spec.checks.iter().any(|check| undated(&check.rule));
        let seen = match sees_undated {
            true => visible_or_undated(&self.spec, self.at, self.timezone),
            false => visible(&self.spec, self.at, self.timezone),
        };
        let dated = event_time.filter(|_| sees_undated).map(|column| ident(column).is_not_null());
        let keep = dated.into_iter().chain(self.repeats.once()).reduce(Expr::and);

        let plan = filtered(session, self.read(session, &columns)?, seen)?;
        let schema = DFSchema::try_from(plan.schema())?;
        let place = |column: &str| plan.schema().index_of(column);
        let broken = self
            .checks
            .rows
            .iter()
            .map(|check| Ok((session.create_physical_expr(check.broken.clone(), &schema)?, place(&check.column)?)));
        let conditions = Conditions {
            broken: broken.collect::<FusionResult<_>>()?,
            keep: keep.map(|keep| session.create_physical_expr(keep, &schema)).transpose()?,
            event_time: event_time.map(|column| place(column)).transpose()?,
            output: positions(output, &columns),
        };
        let plan = Arc::new(CheckExec::new(plan, Arc::new(conditions), sink)?);
        self.with_kept(plan, output)
    }

    /// The columns that a scan needs, in the order of the schema: at least one, so that rows can be counted.
    fn columns<'a>(&'a self, output: &[usize], conditions: impl Iterator<Item = &'a String>) -> Vec<usize> {
        let times = self.spec.event_time.iter().chain(&self.spec.known_at);
        let named = conditions.chain(times).filter_map(|name| self.schema.index_of(name).ok());
        let columns: BTreeSet<usize> = output.iter().copied().chain(named).collect();
        if columns.is_empty() { vec![0] } else { columns.into_iter().collect() }
    }

    /// Adds the rows that stand for repeated keys.
    fn with_kept(&self, plan: Arc<dyn ExecutionPlan>, output: &[usize]) -> FusionResult<Arc<dyn ExecutionPlan>> {
        if self.repeats.kept().is_empty() {
            return Ok(plan);
        }
        let kept = [self.repeats.kept().to_vec()];
        let kept = MemorySourceConfig::try_new_exec(&kept, Arc::clone(&self.schema), Some(output.to_vec()))?;
        UnionExec::try_new(vec![plan, kept])
    }

    /// Reads some columns of every file.
    fn read(&self, session: &dyn Session, columns: &[usize]) -> FusionResult<Arc<dyn ExecutionPlan>> {
        if self.parts.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(columns)?))));
        }
        let declared = tables::file_schema(&self.read_as);
        match self.spec.format {
            Format::Parquet => {
                let schema = self.table_schema(&declared);
                let runtime = session.runtime_env();
                let readers = ParquetReaders::new(&self.files.store, runtime);
                let global = session.config_options().execution.parquet.clone();
                let mut source = ParquetSource::new(schema)
                    .with_table_parquet_options(TableParquetOptions { global, ..TableParquetOptions::default() })
                    .with_parquet_file_reader_factory(Arc::new(readers));
                // Far away a request takes longer than some bytes too many; on the disk it is the other way round.
                if !self.is_local() {
                    source = source.with_metadata_size_hint(FOOTER_BYTES);
                }
                let columns = self.places(columns, source.table_schema())?;
                self.read_files(session, Arc::new(source), self.parts.iter(), columns)
            }
            Format::Csv => self.read_csv(session, columns),
        }
    }

    fn read_csv(&self, session: &dyn Session, columns: &[usize]) -> FusionResult<Arc<dyn ExecutionPlan>> {
        let file = |file: &DataFile| CsvFile {
            path: file.meta.location.clone(),
            url: self.files.url_of(&file.meta.location),
            values: file.values.clone(),
        };
        let files = self.parts.iter().map(file).collect();
        let store: Arc<dyn ObjectStore> = Arc::new(Decompressing(Arc::<ListedStore>::clone(&self.files.store)));
        let (schema, threads) = (Arc::new(self.schema.project(columns)?), session.config().target_partitions());
        Ok(Arc::new(CsvExec::try_new(Arc::clone(&self.spec), store, files, schema, threads)?))
    }

    /// Where some columns are in what files and partitions hold.
    fn places(&self, columns: &[usize], schema: &TableSchema) -> FusionResult<Vec<usize>> {
        let place = |column: &usize| schema.table_schema().index_of(self.schema.field(*column).name());
        Ok(columns.iter().map(place).collect::<Result<Vec<_>, _>>()?)
    }

    fn is_local(&self) -> bool {
        self.spec.url.scheme() == "file"
    }

    fn table_schema(&self, file_schema: &SchemaRef) -> TableSchema {
        let partitions: Vec<_> = tables::partition_fields(&self.read_as).map(Arc::new).collect();
        TableSchema::builder(Arc::clone(file_schema)).with_table_partition_cols(partitions).build()
    }

    fn read_files<'a>(
        &self,
        session: &dyn Session,
        source: Arc<dyn FileSource>,
        files: impl Iterator<Item = &'a DataFile>,
        columns: Vec<usize>,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        let part = |file: &DataFile| {
            let part = PartitionedFile::new_from_meta(file.meta.clone()).with_partition_values(file.values.clone());
            let (part, rows) = match self.files.opened(file) {
                Some(Opened { rows, named_schema: Some(schema), .. }) => (part.with_arrow_schema(schema), rows),
                Some(Opened { rows, .. }) => (part, rows),
                None => (part, None),
            };
            match (&file.deleted, rows) {
                (None, _) => Ok((part, rows)),
                (Some(deleted), Some(of_file)) => Ok((part.with_extension(deleted.remaining(of_file)), rows)),
                (Some(_), None) => Err(Error::bug("a file with deleted rows was not opened").into()),
            }
        };
        let parts = files.map(part).collect::<FusionResult<Vec<_>>>()?;
        let has_deleted = self.parts.iter().any(|file| file.deleted.is_some());
        let (parts, rows): (Vec<_>, Vec<Option<usize>>) = parts.into_iter().unzip();
        let rows: Option<Vec<usize>> = rows.into_iter().collect();
        let mut statistics = Statistics::new_unknown(source.table_schema().table_schema());
        statistics.num_rows = rows.as_ref().map_or(Precision::Absent, |rows| Precision::Inexact(rows.iter().sum()));
        let threads = session.config().target_partitions();
        // Spans are selections of rows themselves.
        let in_spans = self.is_local() && !has_deleted && session.config().get_extension::<InSpans>().is_some();
        let groups = match rows.filter(|rows| in_spans && rows.len() < threads) {
            Some(rows) => spans::groups(&parts, &rows, threads),
            None => FileGroup::new(parts).split_files(threads),
        };
        let table = ScannedTable { name: self.spec.name.clone(), store: Arc::clone(&self.files.store) };
        let source = ScanSource::around(source, Arc::new(table));
        let config = FileScanConfigBuilder::new(self.files.store_url.clone(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(Some(columns))?
            .with_expr_adapter(Some(Arc::new(DeclaredColumns(Arc::clone(&self.read_as)))))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Where the wanted columns are among the columns that were read.
fn positions(wanted: &[usize], read: &[usize]) -> Vec<usize> {
    wanted.iter().filter_map(|column| read.iter().position(|r| r == column)).collect()
}

fn filtered(
    session: &dyn Session,
    plan: Arc<dyn ExecutionPlan>,
    condition: Option<Expr>,
) -> FusionResult<Arc<dyn ExecutionPlan>> {
    let Some(condition) = condition else { return Ok(plan) };
    let schema = DFSchema::try_from(plan.schema())?;
    let condition: Arc<dyn PhysicalExpr> = session.create_physical_expr(condition, &schema)?;
    Ok(Arc::new(FilterExec::try_new(condition, plan)?))
}

fn projected(plan: Arc<dyn ExecutionPlan>, columns: &[usize]) -> FusionResult<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    if columns.iter().copied().eq(0..schema.fields().len()) {
        return Ok(plan);
    }
    let expr = |column: &usize| {
        let name = schema.field(*column).name();
        ProjectionExpr::new(Arc::new(Column::new(name, *column)), name.clone())
    };
    Ok(Arc::new(ProjectionExec::try_new(columns.iter().map(expr), plan)?))
}
