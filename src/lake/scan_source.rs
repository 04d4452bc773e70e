//! Errors of a scan say which file of which table they are about.
//!
//! A format's reader knows bytes, not tables: what it says goes through here. Where a Parquet file cannot be decoded, its columns
//! are read one by one to find the damaged one.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::filter_pushdown::FilterPushdownPropagation;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{ObjectMeta, ObjectStore};
use parquet::errors::ParquetError;

use super::damage;
use super::listed::ListedStore;
use crate::Error;
use crate::error::{Class, find};

/// The files of a table.
#[derive(Debug)]
pub(super) struct ScannedTable {
    pub name: String,
    pub store: Arc<ListedStore>,
}

/// A source of files whose errors name the file and the table.
pub(super) struct ScanSource {
    inner: Arc<dyn FileSource>,
    table: Arc<ScannedTable>,
}

impl ScanSource {
    pub fn around(inner: Arc<dyn FileSource>, table: Arc<ScannedTable>) -> Arc<dyn FileSource> {
        Arc::new(ScanSource { inner, table })
    }

    fn with_inner(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Self::around(inner, Arc::clone(&self.table))
    }
}

impl FileSource for ScanSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let inner = self.inner.create_morselizer(store, config, partition)?;
        Ok(Box::new(ScanMorselizer { inner, table: Arc::clone(&self.table) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        self.with_inner(self.inner.with_batch_size(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.inner.fmt_extra(t, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.inner.supports_repartitioning()
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_filters(filters, config)?;
        let updated_node = pushed.updated_node.map(|inner| self.with_inner(inner));
        Ok(FilterPushdownPropagation { filters: pushed.filters, updated_node })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_sort(order, properties)?.map(|inner| self.with_inner(inner)))
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.with_inner(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

/// A file under its scan.
#[derive(Debug)]
struct ScannedFile {
    table: Arc<ScannedTable>,
    meta: ObjectMeta,
}

impl ScannedFile {
    /// An error of this file in our terms; one that is about an expression of the query stays as it is.
    async fn explained(&self, error: DataFusionError) -> DataFusionError {
        let table = format!("in table `{}`", self.table.name);
        if find::<Error>(&error).is_some() {
            return Error::from(error).about(table).into();
        }
        if !is_of_reader(&error) {
            return error;
        }
        let url = self.table.store.url_of(&self.meta.location);
        let error = Error::from(error);
        if error.class() != Class::User {
            return error.context(format!("{table}, `{url}` cannot be read")).into();
        }
        let column = damage::first(&self.table.store, &self.meta).await;
        damage::error(&table, &url, column, error).into()
    }

    /// A panic of the reader is about the file where the file is damaged, and a bug elsewhere.
    async fn explained_panic(&self, payload: Box<dyn std::any::Any + Send>) -> DataFusionError {
        match damage::first(&self.table.store, &self.meta).await {
            None => std::panic::resume_unwind(payload),
            column => {
                let url = self.table.store.url_of(&self.meta.location);
                let error = Error::user("its bytes are none that a Parquet file can have");
                damage::error(&format!("in table `{}`", self.table.name), &url, column, error).into()
            }
        }
    }
}

/// Whether an error comes from decoding a file, or from reading it.
fn is_of_reader(error: &DataFusionError) -> bool {
    let by_text = |error: &ArrowError| matches!(error, ArrowError::ParquetError(_) | ArrowError::IoError(..));
    find::<ParquetError>(error).is_some()
        || find::<object_store::Error>(error).is_some()
        || find::<std::io::Error>(error).is_some()
        || find::<ArrowError>(error).is_some_and(by_text)
}

#[derive(Debug)]
struct ScanMorselizer {
    inner: Box<dyn Morselizer>,
    table: Arc<ScannedTable>,
}

impl Morselizer for ScanMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let scanned = ScannedFile { table: Arc::clone(&self.table), meta: file.object_meta.clone() };
        Ok(Box::new(ScanPlanner { inner: self.inner.plan_file(file)?, file: Arc::new(scanned) }))
    }
}

#[derive(Debug)]
struct ScanPlanner {
    inner: Box<dyn MorselPlanner>,
    file: Arc<ScannedFile>,
}

impl MorselPlanner for ScanPlanner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let ScanPlanner { inner, file } = *self;
        let planned = match inner.plan() {
            Ok(planned) => planned,
            // An explanation reads the file, which the plan may do in a future alone.
            Err(error) => {
                let explained = async move { Err(file.explained(error).await) };
                return Ok(Some(MorselPlan::new().with_pending_planner(explained)));
            }
        };
        let Some(mut plan) = planned else { return Ok(None) };
        let planner = |inner, file: &Arc<ScannedFile>| -> Box<dyn MorselPlanner> {
            Box::new(ScanPlanner { inner, file: Arc::clone(file) })
        };
        let morsel = |inner| -> Box<dyn Morsel> { Box::new(ScanMorsel { inner, file: Arc::clone(&file) }) };
        let mut ours = MorselPlan::new()
            .with_morsels(plan.take_morsels().into_iter().map(morsel).collect())
            .with_planners(plan.take_ready_planners().into_iter().map(|inner| planner(inner, &file)).collect());
        if let Some(pending) = plan.take_pending_planner() {
            ours.set_pending_planner(async move {
                match pending.await {
                    Ok(inner) => Ok(planner(inner, &file)),
                    Err(error) => Err(file.explained(error).await),
                }
            });
        }
        Ok(Some(ours))
    }
}

#[derive(Debug)]
struct ScanMorsel {
    inner: Box<dyn Morsel>,
    file: Arc<ScannedFile>,
}

impl Morsel for ScanMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let ScanMorsel { inner, file } = *self;
        let rows = AssertUnwindSafe(inner.into_stream()).catch_unwind();
        rows.then(move |rows| {
            let file = Arc::clone(&file);
            async move {
                match rows {
                    Ok(Ok(rows)) => Ok(rows),
                    Ok(Err(error)) => Err(file.explained(error).await),
                    Err(payload) => Err(file.explained_panic(payload).await),
                }
            }
        })
        .boxed()
    }
}
