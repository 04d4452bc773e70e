//! The newest events of every customer: one more column of the matrix, a list of events, oldest first.
//!
//! The author's SELECT is cut off at as_of, as a view is, and numbered from the newest event on:
//! ```text
//! Sort  key, rank
//!   Filter  rank <= length
//!     Window  row_number() PARTITION BY key ORDER BY event time DESC, every other column DESC
//!       Filter  event time < as_of
//!         the author's SELECT
//! ```
//! Its rows and the matrix come in the same order of keys, so that a batch of customers takes its events from the front
//! of the other stream: neither is ever held whole, and nothing is joined.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, RecordBatch, StructArray, UInt64Array, make_comparator};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortOptions, cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::common::Column;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use futures::{StreamExt, stream};

use super::bench::{self, Bench};
use super::definition::Definition;
use super::key_type::{key_expr, key_type};
use super::matrix::named;
use super::part::Part;
use super::prepare::{key_problem, view};
use super::set::{FeatureSet, Sequence};
use super::types::{matrix_type, normal};
use super::{FeatureColumn, FeatureStream};
use crate::error::Problem;
use crate::{AsOf, Error, Result};

/// The name of the column that holds a customer's events.
pub const SEQUENCE: &str = "sequence";

/// 1 for a customer's newest event, 2 for the one before it, …
const RANK: &str = "__rank";

/// The events file, planned.
pub(super) struct SequencePlan<'a> {
    pub events: &'a Definition,
    /// [`Part::KEY`], then the events' columns, their time first; sorted by key, each customer's newest event first.
    pub plan: LogicalPlan,
    key_type: DataType,
    fields: Fields,
}

impl FeatureSet {
    /// The events file of the job at `as_of`, if it has one.
    pub(super) async fn sequence_plan(
        &self,
        bench: &Bench,
        key_type: &DataType,
        as_of: AsOf,
    ) -> Result<Option<SequencePlan<'_>>, Vec<Problem>> {
        let Some(Sequence { events, length }) = &self.sequence else { return Ok(None) };
        let plan = plan(bench, events, self.key(), *length, as_of.instant()).await?;
        match key_problem(events, &plan.key_type, key_type, self) {
            None => Ok(Some(plan)),
            Some(problem) => Err(vec![problem]),
        }
    }
}

impl SequencePlan<'_> {
    /// A list of events.
    fn data_type(&self) -> DataType {
        DataType::List(event(&self.fields))
    }

    /// What is known about the column.
    pub(super) fn column(&self) -> FeatureColumn {
        let definition = self.events;
        let sources: Vec<&str> = definition.tables.iter().map(|(name, _)| name.as_str()).collect();
        FeatureColumn {
            name: SEQUENCE.to_owned(),
            data_type: self.data_type(),
            description: definition.header.description.clone(),
            owner: definition.header.owner.clone(),
            file: definition.file.clone(),
            window: None,
            source: sources.join(", "),
        }
    }
}

fn event(fields: &Fields) -> FieldRef {
    Arc::new(Field::new("event", DataType::Struct(fields.clone()), false))
}

/// Plans the newest `length` events of every customer before `until`.
async fn plan<'a>(
    bench: &Bench,
    definition: &'a Definition,
    key: &str,
    length: usize,
    until: DateTime<Utc>,
) -> Result<SequencePlan<'a>, Vec<Problem>> {
    let input = view(bench, definition, until).await?;
    let engine = |e| vec![bench::problem(definition, &e, definition.begin)];
    let schema = Arc::clone(input.schema());
    let time = definition.header.event_time.as_ref().map_or("", |(name, _)| name);
    let (mut keys, mut times, mut others, mut problems) = (None, None, Vec::new(), Vec::new());
    for (i, item) in definition.items.iter().enumerate() {
        let own = Expr::Column(Column::from(schema.qualified_field(i)));
        let from = own.get_type(schema.as_ref()).map_err(engine)?;
        let typed = if item.name == key { key_type(&from) } else { matrix_type(&from) };
        let is_time = |to: &DataType| matches!(to, DataType::Date32 | DataType::Timestamp(..));
        match typed {
            Err(problem) => problems.push(problem.at(definition.place(item.at))),
            Ok(to) if item.name == key => keys = Some((key_expr(own, &from, &to).alias(Part::KEY), to)),
            Ok(to) if item.name == time => times = Some((own.alias(&item.name), from, to)),
            Ok(to) if is_time(&to) => problems.push(
                Problem::new(format!("`{}` is a second time: an event has one", item.name))
                    .at(definition.place(item.at))
                    .hint("make a number of it: the days between it and the event time"),
            ),
            Ok(to) => others.push((normal(own, &from, &to).alias(&item.name), to)),
        }
    }
    let (Some((key, key_type)), Some((time_expr, from, to))) = (keys, times) else { return Err(problems) };
    if !problems.is_empty() {
        return Err(problems);
    }
    let time_expr = normal(time_expr.unalias(), &from, &to).alias(time);
    let fields: Fields = std::iter::once(Field::new(time, to, true))
        .chain(others.iter().map(|(expr, to)| Field::new(expr.schema_name().to_string(), to.clone(), true)))
        .collect();
    let select = [key, time_expr].into_iter().chain(others.into_iter().map(|(expr, _)| expr));
    let plan = newest(input, select, &fields, length).map_err(engine)?;
    Ok(SequencePlan { events: definition, plan, key_type, fields })
}

/// Rows that tie in time are ordered by all that is known of them: which of them come first, and which are cut off, then
/// shows in nothing.
fn newest(
    input: LogicalPlan,
    select: impl Iterator<Item = Expr>,
    fields: &Fields,
    length: usize,
) -> datafusion::error::Result<LogicalPlan> {
    let order: Vec<Sort> = fields.iter().map(|field| named(field.name()).sort(false, false)).collect();
    let rank = row_number().partition_by(vec![named(Part::KEY)]).order_by(order).build()?.alias(RANK);
    let columns = std::iter::once(Part::KEY).chain(fields.iter().map(|field| field.name().as_str()));
    LogicalPlanBuilder::from(input)
        .project(select)?
        .filter(named(Part::KEY).is_not_null())?
        .window([rank])?
        .filter(named(RANK).lt_eq(lit(length as u64)))?
        .sort([named(Part::KEY).sort(true, true), named(RANK).sort(true, true)])?
        .project(columns.map(named))?
        .build()
}

struct State {
    matrix: FeatureStream,
    events: Events,
    schema: SchemaRef,
}

/// A matrix with the events of its customers in the last column, none for customers without any; `events` are those of
/// the plan.
pub(super) fn attached(matrix: FeatureStream, plan: &SequencePlan, events: SendableRecordBatchStream) -> FeatureStream {
    let key: FieldRef = Arc::new(Field::new(Part::KEY, plan.key_type.clone(), false));
    let columns = std::iter::once(key).chain(plan.fields.iter().cloned()).collect::<Vec<_>>();
    let events = Events { input: events, schema: Arc::new(Schema::new(columns)), waiting: None };
    let sequence: FieldRef = Arc::new(Field::new(SEQUENCE, plan.data_type(), false));
    let columns = matrix.schema().fields().iter().cloned().chain([sequence]).collect::<Vec<_>>();
    let (schema, as_of, population) = (Arc::new(Schema::new(columns)), matrix.as_of(), matrix.population());
    let not_finite = matrix.not_finite().clone();
    let state = State { matrix, events, schema: Arc::clone(&schema) };
    let batches = stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(state))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    FeatureStream::new(schema, as_of, batches).with_population(population).with_not_finite(not_finite)
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.matrix.next().await else {
            // A scan that looks for broken rows has to come to its end.
            while self.events.input.next().await.transpose()?.is_some() {}
            return Ok(None);
        };
        let batch = batch?;
        if batch.num_rows() == 0 {
            return Ok(Some(RecordBatch::new_empty(Arc::clone(&self.schema))));
        }
        let events = self.events.up_to(batch.column(0)).await?;
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(lists(batch.column(0), &events)?));
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

/// The events that have not been given out, in the order of their keys.
struct Events {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    waiting: Option<RecordBatch>,
}

impl Events {
    /// All events of keys up to the last one of `keys`.
    async fn up_to(&mut self, keys: &ArrayRef) -> Result<RecordBatch> {
        let mut taken = Vec::new();
        loop {
            let batch = match self.waiting.take() {
                Some(batch) => batch,
                None => match self.input.next().await {
                    Some(batch) => self.typed(&batch?)?,
                    None => break,
                },
            };
            let compare = make_comparator(batch.column(0), keys, SortOptions::default())?;
            let last = keys.len() - 1;
            let rows = partition_point(batch.num_rows(), |row| compare(row, last) != Ordering::Greater);
            taken.push(batch.slice(0, rows));
            if rows < batch.num_rows() {
                self.waiting = Some(batch.slice(rows, batch.num_rows() - rows));
                break;
            }
        }
        Ok(concat_batches(&self.schema, &taken)?)
    }

    fn typed(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(array, field)| cast(array, field.data_type()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)?)
    }
}

/// The first row for which `before` does not hold; it holds for none after that.
fn partition_point(rows: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// One list per key, from events that are sorted by key, newest first; keys that are not asked for are passed over.
fn lists(keys: &ArrayRef, events: &RecordBatch) -> Result<ListArray> {
    let compare = make_comparator(events.column(0), keys, SortOptions::default())?;
    let (mut order, mut lengths) = (Vec::with_capacity(events.num_rows()), Vec::with_capacity(keys.len()));
    let mut row = 0;
    for key in 0..keys.len() {
        while row < events.num_rows() && compare(row, key) == Ordering::Less {
            row += 1;
        }
        let first = row;
        while row < events.num_rows() && compare(row, key) == Ordering::Equal {
            row += 1;
        }
        order.extend((first..row).rev().map(|row| row as u64));
        lengths.push(row - first);
    }
    let ordered = take_record_batch(events, &UInt64Array::from(order))?;
    let fields: Fields = ordered.schema().fields().iter().skip(1).cloned().collect();
    let values = StructArray::try_new(fields.clone(), ordered.columns()[1..].to_vec(), None)?;
    ListArray::try_new(event(&fields), OffsetBuffer::from_lengths(lengths), Arc::new(values), None).map_err(Error::from)
}
