//! The scan that collects: an operator that lets good rows through and hands broken ones to a sink.
//!
//! Of all scans of a table in a run one collects, the others filter only. It reads every column of the table (a rejected
//! row is shown whole) and takes no filter or limit from the query above it, so that it sees every row that exists. Its
//! finds count once all of its partitions have come to their end; those of a scan that was given up are dropped with it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::kernels::aggregate;
use arrow::compute::{and, filter, filter_record_batch, not, or, prep_null_mask_filter};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as FusionResult, internal_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};

use super::checks::{Checks, RowCheck};
use super::report::{Found, TableState, failures, locked};
use crate::spec::{OnFail, TableSpec};
use crate::{Error, Result, failpoint};

/// Where one collecting scan puts what it finds.
#[derive(Debug)]
pub(super) struct Sink {
    table: Arc<TableSpec>,
    checks: Arc<Checks>,
    state: Arc<TableState>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    started: BTreeSet<usize>,
    ended: usize,
    /// A partition was run twice: what was found may be counted twice, so it never counts.
    spoiled: bool,
    found: Found,
}

impl Sink {
    pub(super) fn new(table: Arc<TableSpec>, checks: Arc<Checks>, state: Arc<TableState>) -> Self {
        let found = Found::new(checks.rows.len());
        let progress = Progress { started: BTreeSet::new(), ended: 0, spoiled: false, found };
        Sink { table, checks, state, progress: Mutex::new(progress) }
    }

    fn start(&self, partition: usize) {
        let mut progress = locked(&self.progress);
        if !progress.started.insert(partition) {
            progress.spoiled = true;
        }
    }

    /// A partition came to its end. After the last one the finds are handed over; broken checks of kind `fail` are an
    /// error.
    fn end(&self, partitions: usize) -> Result<()> {
        let mut progress = locked(&self.progress);
        progress.ended += 1;
        if progress.ended < partitions || progress.spoiled {
            return Ok(());
        }
        progress.spoiled = true;
        let found = std::mem::take(&mut progress.found);
        drop(progress);
        let problems = failures(&self.table, &self.checks, &found);
        self.state.commit(found);
        Error::all(problems)
    }
}

/// What the operator needs to know of its input's columns.
#[derive(Debug)]
pub(super) struct Conditions {
    /// For each row check the condition of a broken row and the place of its column.
    pub broken: Vec<(Arc<dyn PhysicalExpr>, usize)>,
    /// The condition of a row that exists and is not set aside for another reason.
    pub keep: Option<Arc<dyn PhysicalExpr>>,
    /// The event time's place.
    pub event_time: Option<usize>,
    /// The columns that go on.
    pub output: Vec<usize>,
}

/// Lets good rows through and hands broken ones to the sink.
#[derive(Debug)]
pub(super) struct CheckExec {
    input: Arc<dyn ExecutionPlan>,
    conditions: Arc<Conditions>,
    sink: Arc<Sink>,
    properties: Arc<PlanProperties>,
}

impl CheckExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        conditions: Arc<Conditions>,
        sink: Arc<Sink>,
    ) -> FusionResult<Self> {
        let schema: SchemaRef = Arc::new(input.schema().project(&conditions.output)?);
        let partitions = input.properties().partitioning.partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(CheckExec { input, conditions, sink, properties: Arc::new(properties) })
    }
}

impl DisplayAs for CheckExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "CheckExec: table={}, collecting", self.sink.table.name)
    }
}

impl ExecutionPlan for CheckExec {
    fn name(&self) -> &'static str {
        "CheckExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> FusionResult<TreeNodeRecursion>,
    ) -> FusionResult<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for expr in self.conditions.broken.iter().map(|(expr, _)| expr).chain(&self.conditions.keep) {
            recursion = f(expr)?;
            if recursion == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(recursion)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => {
                Ok(Arc::new(CheckExec::new(input, Arc::clone(&self.conditions), Arc::clone(&self.sink))?))
            }
            _ => internal_err!("a check has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> FusionResult<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode;
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> FusionResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        self.sink.start(partition);
        Ok(Box::pin(CheckStream {
            input,
            schema: Arc::clone(self.properties.eq_properties.schema()),
            conditions: Arc::clone(&self.conditions),
            sink: Arc::clone(&self.sink),
            partitions: self.properties.partitioning.partition_count(),
            open: true,
        }))
    }
}

struct CheckStream {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    conditions: Arc<Conditions>,
    sink: Arc<Sink>,
    partitions: usize,
    /// Neither at its end nor failed.
    open: bool,
}

impl RecordBatchStream for CheckStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Stream for CheckStream {
    type Item = FusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.open {
            return Poll::Ready(None);
        }
        let checked = match ready!(self.input.poll_next_unpin(cx)) {
            Some(batch) => Some(batch.and_then(|batch| Ok(self.check(&batch)?))),
            None => {
                self.open = false;
                self.sink.end(self.partitions).err().map(|e| Err(e.into()))
            }
        };
        self.open &= matches!(checked, Some(Ok(_)));
        Poll::Ready(checked)
    }
}

impl CheckStream {
    fn check(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        failpoint::reach("checks.scan");
        let rows = batch.num_rows();
        let conditions = &self.conditions;
        let broken: Vec<BooleanArray> =
            conditions.broken.iter().map(|(expr, _)| truth(expr, batch)).collect::<Result<_>>()?;
        let mut rejected = BooleanArray::from(vec![false; rows]);
        for (check, broken) in self.sink.checks.rows.iter().zip(&broken) {
            if check.on_fail == OnFail::Reject {
                rejected = or(&rejected, broken)?;
            }
        }
        let mut good = not(&rejected)?;
        if let Some(keep) = &conditions.keep {
            good = and(&good, &truth(keep, batch)?)?;
        }
        self.note(batch, &broken, &rejected)?;
        let good = filter_record_batch(batch, &good)?;
        let options = RecordBatchOptions::new().with_row_count(Some(good.num_rows()));
        let columns = conditions.output.iter().map(|column| Arc::clone(good.column(*column))).collect();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn note(&self, batch: &RecordBatch, broken: &[BooleanArray], rejected: &BooleanArray) -> Result<()> {
        let checks = &self.sink.checks.rows;
        let rejects = self.rejects(batch, broken, rejected)?;
        let mut examples = Vec::with_capacity(checks.len());
        for (check, broken) in checks.iter().zip(broken) {
            let first = (0..batch.num_rows()).find(|row| broken.value(*row));
            examples.push(match (check.on_fail, first) {
                (OnFail::Fail, Some(row)) => json_rows(&batch.slice(row, 1))?.pop(),
                _ => None,
            });
        }
        let newest = match self.conditions.event_time {
            Some(column) => newest(filter(batch.column(column), &not(rejected)?)?.as_ref()),
            None => None,
        };
        let mut progress = locked(&self.sink.progress);
        let found = &mut progress.found;
        if found.broken.len() != checks.len() {
            return Ok(()); // The finds were handed over: this is a second run of the same plan.
        }
        for (at, (broken, example)) in broken.iter().zip(examples).enumerate() {
            found.broken[at] += broken.true_count() as u64;
            let kept = found.examples[at].take();
            found.examples[at] = kept.into_iter().chain(example).min();
        }
        found.newest = found.newest.max(newest);
        rejects.into_iter().for_each(|(reason, row)| found.rejects.add(reason, row));
        Ok(())
    }

    /// Why and what, for each rejected row.
    fn rejects(
        &self,
        batch: &RecordBatch,
        broken: &[BooleanArray],
        rejected: &BooleanArray,
    ) -> Result<Vec<(String, String)>> {
        if rejected.true_count() == 0 {
            return Ok(Vec::new());
        }
        let rows = json_rows(&filter_record_batch(batch, rejected)?)?;
        let options = FormatOptions::new().with_null("NULL");
        let mut checks: Vec<(&RowCheck, &BooleanArray, ArrayFormatter)> = Vec::new();
        for ((check, broken), (_, column)) in self.sink.checks.rows.iter().zip(broken).zip(&self.conditions.broken) {
            if check.on_fail == OnFail::Reject {
                checks.push((check, broken, ArrayFormatter::try_new(batch.column(*column), &options)?));
            }
        }
        let reason = |row: usize| {
            let broken = checks.iter().filter(|(_, broken, _)| broken.value(row));
            broken.map(|(check, _, value)| check.reason(&value.value(row).to_string())).collect::<Vec<_>>().join("; ")
        };
        let indices = (0..batch.num_rows()).filter(|row| rejected.value(*row));
        Ok(indices.map(reason).zip(rows).collect())
    }
}

/// Where a condition is true; NULL counts as false.
fn truth(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let array = expr.evaluate(batch)?.into_array(batch.num_rows())?;
    let array = array.as_boolean();
    Ok(if array.null_count() > 0 { prep_null_mask_filter(array) } else { array.clone() })
}

fn newest(column: &dyn Array) -> Option<i64> {
    match column.data_type() {
        DataType::Date32 => aggregate::max(column.as_primitive::<arrow::datatypes::Date32Type>()).map(i64::from),
        _ => aggregate::max(column.as_primitive_opt::<TimestampMicrosecondType>()?),
    }
}

/// One JSON object per row, with every column.
pub(super) fn json_rows(batch: &RecordBatch) -> Result<Vec<String>> {
    use arrow::json::WriterBuilder;
    use arrow::json::writer::LineDelimited;
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    writer.write(batch)?;
    writer.finish()?;
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}
