//! One SQL file as a plan with one row per key: the key, then its columns in matrix types.
//!
//! A windowed file is planned once, as its author wrote it; then each aggregate of that plan is repeated per window with
//! a FILTER on a flag that an inner projection computes once:
//! ```text
//! Aggregate  sum(amount) FILTER (WHERE __in_7d), sum(amount) FILTER (WHERE __in_30d), …  GROUP BY customer_id
//!   Projection  *, ordered_at >= as_of − 7 days AS __in_7d, …
//!     Filter  ordered_at < as_of
//!       the author's FROM and WHERE
//! ```
//! so that there is one scan and one hash table per file however many windows it has.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, cast, col, lit,
};

use super::aggregates::{
    filtered, is_sum, outermost_aggregate, over_nothing, replaced, steady, steady_plan, uses_aggregate,
};
use super::bench::{self, Bench};
use super::definition::{Definition, Item, Kind, column_name};
use super::finite::{filled, finite_with};
use super::fusion::Recipe;
use super::key_type::{key_expr, key_type};
use super::types::{matrix_type, may_be_infinite, normal, typed};
use super::window::Window;
use crate::AsOf;
use crate::error::Problem;

/// The rows that one set of columns looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The window, which is part of the columns' names.
    pub window: Option<Window>,
    /// The first day in it; `None` reaches back to the beginning.
    pub from: Option<AsOf>,
    /// The first day after it; `None` reaches to the end of what there is.
    pub until: Option<AsOf>,
}

/// A column of a part.
#[derive(Debug, Clone)]
pub(super) struct PartColumn {
    pub name: String,
    pub data_type: DataType,
    /// Its value for a key without rows.
    pub empty: ScalarValue,
    pub item: Item,
    pub window: Option<Window>,
    /// How many of its values are NULL because they are NaN, infinite or made of such numbers, as far as it was computed.
    pub not_finite: Arc<AtomicU64>,
}

impl PartColumn {
    /// The column of an item in a window, before its type is known.
    fn new(name: String, empty: ScalarValue, item: &Item, window: Option<Window>) -> Self {
        PartColumn { name, data_type: DataType::Null, empty, item: item.clone(), window, not_finite: Arc::default() }
    }
}

/// One file, planned.
pub(super) struct Part {
    /// The key under [`Part::KEY`], then the columns.
    pub plan: LogicalPlan,
    pub key_type: DataType,
    pub columns: Vec<PartColumn>,
    /// How the columns come out of a pass that is shared with other files, or why they do not.
    pub recipe: Result<Recipe, String>,
}

impl Part {
    /// The name of the key column in the plan.
    pub(super) const KEY: &str = "__key";
}

/// What the columns of a file are computed from.
struct Draft<'a> {
    bench: &'a Bench,
    definition: &'a Definition,
    key: &'a str,
    problems: Vec<Problem>,
}

/// Plans a file whose rows carry `event_time`, once per span.
pub(super) fn windowed(
    bench: &Bench,
    definition: &Definition,
    plan: LogicalPlan,
    key: &str,
    event_time: &str,
    spans: &[Span],
) -> Result<Part, Vec<Problem>> {
    let mut draft = Draft { bench, definition, key, problems: Vec::new() };
    let part = match plan {
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) => draft.aggregated(&projection, aggregate, Some(event_time), spans),
            _ => Err(draft.at_begin("this is no aggregate: each column sums up a customer's rows")),
        },
        _ => Err(draft.at_begin("this is no aggregate: each column sums up a customer's rows")),
    };
    draft.finish(part)
}

/// Plans any SELECT with one row per key; its rows have an event time, or they have none, and end at a day.
pub(super) fn free(
    bench: &Bench,
    definition: &Definition,
    plan: LogicalPlan,
    key: &str,
    dated: Option<(&str, AsOf)>,
) -> Result<Part, Vec<Problem>> {
    let mut draft = Draft { bench, definition, key, problems: Vec::new() };
    let part = draft.free(plan, dated);
    draft.finish(part)
}

impl Draft<'_> {
    fn finish(self, part: Result<Part, Problem>) -> Result<Part, Vec<Problem>> {
        let mut problems = self.problems;
        match part {
            Ok(part) if problems.is_empty() => Ok(part),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }

    fn at_begin(&self, message: &str) -> Problem {
        Problem::new(message).at(self.definition.place(self.definition.begin))
    }

    fn engine(&self, error: datafusion::error::DataFusionError) -> Problem {
        bench::problem(self.definition, &error, self.definition.begin)
    }

    fn aggregated(
        &mut self,
        projection: &Projection,
        aggregate: &Aggregate,
        event_time: Option<&str>,
        spans: &[Span],
    ) -> Result<Part, Problem> {
        self.groups_by_key(projection, aggregate)?;
        // A free SELECT may have left the time of its rows behind.
        let kept = |name: &&str| aggregate.input.schema().qualified_field_with_unqualified_name(name).is_ok();
        let event_time = event_time.filter(|name| self.definition.kind != Kind::Free || kept(name));
        let flagged = match event_time.filter(|_| spans.iter().any(|span| span.until.is_some())) {
            Some(event_time) => self.flagged(aggregate, event_time, spans)?,
            None => aggregate.input.as_ref().clone(),
        };
        let mut aggregates = Vec::new();
        for (i, expr) in aggregate.aggr_expr.iter().enumerate() {
            for (s, span) in spans.iter().enumerate() {
                let filtered = filtered(steady(expr.clone()), needs_flag(spans, *span).then(|| flag(*span)));
                aggregates.push(filtered.alias(aggregate_name(i, s)));
            }
        }
        let grouped = LogicalPlanBuilder::from(flagged)
            .aggregate(aggregate.group_expr.clone(), aggregates)
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| self.engine(e))?;
        let mut columns = Vec::new();
        let definition = self.definition;
        for (item, expr) in definition.items.iter().zip(&projection.expr) {
            if item.name == self.key {
                continue;
            }
            if self.definition.kind == Kind::Windowed && !uses_aggregate(expr, aggregate) {
                self.problems.push(
                    Problem::new(format!("`{}` is no aggregate, so a window means nothing to it", item.name))
                        .at(self.definition.place(item.at))
                        .hint("use `count`, `sum`, `max`, …, or put it into a file without `@windows`"),
                );
                continue;
            }
            for (s, span) in spans.iter().enumerate() {
                let name = column_name(&item.name, span.window);
                let own = replaced(expr, aggregate, |i| Some(col(aggregate_name(i, s)))).map_err(|e| self.engine(e))?;
                let empty = self.empty(expr, aggregate, item, &name);
                let fallback = self.fallback(expr, aggregate, item, &name);
                columns.push((own, fallback, PartColumn::new(name, empty, item, span.window)));
            }
        }
        let key = Expr::Column(Column::from(aggregate.schema.qualified_field(0)));
        let time = |name| aggregate.input.schema().qualified_field_with_unqualified_name(name).ok();
        let time = event_time.and_then(time).map(|found| Expr::Column(Column::from(found)));
        let mut part = self.part(grouped.clone(), key, columns)?;
        let select = match &part.plan {
            LogicalPlan::Projection(projection) => projection.expr.iter().skip(1).cloned().collect(),
            _ => Vec::new(),
        };
        part.recipe = aggregate.group_expr.first().ok_or_else(|| "it has no key".to_owned()).and_then(|key| {
            let from = key.get_type(aggregate.input.schema().as_ref()).map_err(|e| e.strip_backtrace())?;
            let key = key_expr(key.clone(), &from, &part.key_type);
            Recipe::of_aggregates(aggregate, &key, time.as_ref(), spans, &grouped, select)
        });
        Ok(part)
    }

    fn free(&mut self, plan: LogicalPlan, dated: Option<(&str, AsOf)>) -> Result<Part, Problem> {
        let plan = steady_plan(plan).map_err(|e| self.engine(e))?;
        let (event_time, until) = dated.unzip();
        let everything = Span { window: None, from: None, until };
        if let LogicalPlan::Projection(projection) = &plan
            && let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref()
            && self.sums_up(projection, aggregate)
        {
            return self.aggregated(projection, aggregate, event_time, &[everything]);
        }
        let (projection, aggregate) = outermost_aggregate(&plan);
        let position = self.definition.items.iter().position(|i| i.name == self.key);
        let mut columns = Vec::new();
        let mut key = None;
        for i in 0..plan.schema().fields().len() {
            let own = Expr::Column(Column::from(plan.schema().qualified_field(i)));
            if Some(i) == position || (position.is_none() && plan.schema().field(i).name() == self.key) {
                key = Some(own);
                continue;
            }
            let Some(item) = self.definition.items.get(i) else { continue };
            let name = item.name.clone();
            let (empty, fallback) = match (projection.and_then(|p| p.expr.get(i)), aggregate) {
                (Some(expr), Some(aggregate)) => {
                    (self.empty(expr, aggregate, item, &name), self.fallback(expr, aggregate, item, &name))
                }
                _ => {
                    let default = self.default(item, &name);
                    (default.clone().unwrap_or(ScalarValue::Null), default)
                }
            };
            columns.push((own, fallback, PartColumn::new(name, empty, item, None)));
        }
        let key =
            key.ok_or_else(|| self.at_begin(&format!("the key column `{}` is missing in the select list", self.key)))?;
        let mut part = self.part(plan.clone(), key, columns)?;
        if let LogicalPlan::Projection(typed) = &part.plan
            && let Some((key, select)) = typed.expr.split_first()
        {
            part.recipe = Recipe::of_rows(&plan, &key.clone().unalias(), event_time, everything, select);
        }
        Ok(part)
    }

    /// Puts key and columns, in the types of the matrix, on top of `input`.
    fn part(
        &mut self,
        input: LogicalPlan,
        key: Expr,
        drafts: Vec<(Expr, Option<ScalarValue>, PartColumn)>,
    ) -> Result<Part, Problem> {
        let schema = Arc::clone(input.schema());
        let key_from = key.get_type(schema.as_ref()).map_err(|e| self.engine(e))?;
        let key_at = self.definition.items.iter().find(|i| i.name == self.key).map_or(self.definition.begin, |i| i.at);
        let key_type = key_type(&key_from).map_err(|p| p.at(self.definition.place(key_at)))?;
        let mut select = vec![key_expr(key, &key_from, &key_type).alias(Part::KEY)];
        let mut columns: Vec<PartColumn> = Vec::new();
        for (own, fallback, mut column) in drafts {
            let place = self.definition.place(column.item.at);
            let from = own.get_type(schema.as_ref()).map_err(|e| self.engine(e))?;
            let typed = matrix_type(&from).and_then(|to| {
                let wrong = |value: &ScalarValue| {
                    Problem::new(format!("`{value}` does not fit `{}`, a column of type `{to}`", column.name))
                        .hint("`@default` has the type of its column")
                };
                let fallback = fallback.as_ref().map(|v| fit(v, &to).ok_or_else(|| wrong(v))).transpose()?;
                let empty = fit(&column.empty, &to).ok_or_else(|| wrong(&column.empty))?;
                Ok((to, fallback, empty))
            });
            match typed {
                Ok((to, fallback, empty)) => {
                    let fallback = fallback.filter(|f| !f.is_null());
                    let expr = in_matrix(own, (&from, &to), fallback, &schema, &column.not_finite);
                    select.push(expr.map_err(|e| self.engine(e))?.alias(column.name.clone()));
                    (column.data_type, column.empty) = (to, empty);
                    columns.push(column);
                }
                // Said once per item, not once per window.
                Err(_) if self.problems.iter().any(|p| p.place.as_ref() == Some(&place)) => {}
                Err(problem) => self.problems.push(problem.at(place)),
            }
        }
        let plan = LogicalPlanBuilder::from(input).project(select).and_then(LogicalPlanBuilder::build);
        let recipe = Err("it is no aggregate by key".to_owned());
        Ok(Part { plan: plan.map_err(|e| self.engine(e))?, key_type, columns, recipe })
    }

    /// Whether a SELECT has the shape of a windowed one: the key, and expressions over aggregates by it.
    fn sums_up(&self, projection: &Projection, aggregate: &Aggregate) -> bool {
        let key = Column::from(aggregate.schema.qualified_field(0));
        let others = self.definition.items.iter().zip(&projection.expr).filter(|(item, _)| item.name != self.key);
        let over_aggregates = |expr: &Expr| !expr.column_refs().contains(&key);
        self.definition.items.len() == projection.expr.len()
            && self.groups_by_key(projection, aggregate).is_ok()
            && others.into_iter().all(|(_, expr)| over_aggregates(expr))
    }

    /// The one GROUP BY expression must be what the select list calls the key.
    fn groups_by_key(&self, projection: &Projection, aggregate: &Aggregate) -> Result<(), Problem> {
        let position = self.definition.items.iter().position(|i| i.name == self.key);
        let selected = position.and_then(|i| projection.expr.get(i)).map(|e| e.clone().unalias_nested().data);
        let grouped = Expr::Column(Column::from(aggregate.schema.qualified_field(0)));
        if aggregate.group_expr.len() == 1 && selected == Some(grouped) {
            return Ok(());
        }
        use datafusion::sql::sqlparser::ast::Spanned;
        let at = self.definition.group_by().first().map(|e| e.span().start).filter(|at| at.line > 0);
        Err(Problem::new(format!("this does not group by the key column `{}`", self.key))
            .at(self.definition.place(at.unwrap_or(self.definition.begin)))
            .hint(format!("write `GROUP BY {}`", self.key)))
    }

    /// The rows of the widest span, with one flag per narrower one.
    fn flagged(&self, aggregate: &Aggregate, event_time: &str, spans: &[Span]) -> Result<LogicalPlan, Problem> {
        let input = &aggregate.input;
        let Ok(found) = input.schema().qualified_field_with_unqualified_name(event_time) else {
            return Err(self.at_begin(&format!("`{}` has no column `{event_time}`", self.definition.table())));
        };
        let time_type = found.1.data_type().clone();
        let time = Expr::Column(Column::from(found));
        let instant = |day: AsOf| {
            time_literal(day, &time_type).ok_or_else(|| {
                self.at_begin(&format!(
                    "the event time `{event_time}` is neither a timestamp nor a date: `{time_type}`"
                ))
            })
        };
        let Some(until) = spans.iter().filter_map(|span| span.until).max_by_key(AsOf::instant) else {
            return Err(self.at_begin("there is no window"));
        };
        let mut visible = time.clone().lt(lit(instant(until)?));
        if let Some(from) = widest(spans) {
            visible = visible.and(time.clone().gt_eq(lit(instant(from)?)));
        }
        let mut select: Vec<Expr> = (0..input.schema().fields().len())
            .map(|i| Expr::Column(input.schema().qualified_field(i).into()))
            .collect();
        for span in spans.iter().filter(|span| needs_flag(spans, **span)) {
            if let Some(from) = span.from {
                select.push(time.clone().gt_eq(lit(instant(from)?)).alias(flag_name(*span)));
            }
        }
        LogicalPlanBuilder::from(input.as_ref().clone())
            .filter(visible)
            .and_then(|plan| plan.project(select))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| self.engine(e))
    }

    /// The author's `@default`, for the column or for all windows of it.
    fn default(&self, item: &Item, name: &str) -> Option<ScalarValue> {
        let defaults = &self.definition.header.defaults;
        defaults.get(name).or_else(|| defaults.get(&item.name)).map(|(value, _)| value.clone())
    }

    /// What stands in for NULL: the `@default`, or 0 for a plain sum. Nothing but a `@default` stands in for a label.
    fn fallback(&self, expr: &Expr, aggregate: &Aggregate, item: &Item, name: &str) -> Option<ScalarValue> {
        let is_feature = self.definition.kind != Kind::Label;
        self.default(item, name)
            .or_else(|| (is_feature && is_sum(expr, aggregate)).then(|| ScalarValue::Int64(Some(0))))
    }

    /// The value for a key without rows: the expression over an empty group, so that a customer without rows in a window
    /// looks the same whether or not there are rows elsewhere. A label without a `@default` has none: whoever has no rows is
    /// not labelled.
    fn empty(&mut self, expr: &Expr, aggregate: &Aggregate, item: &Item, name: &str) -> ScalarValue {
        if let Some(value) = self.fallback(expr, aggregate, item, name) {
            return value;
        }
        if self.definition.kind == Kind::Label {
            return ScalarValue::Null;
        }
        let value = over_nothing(expr, aggregate).and_then(|expr| self.evaluate(expr));
        value.unwrap_or_else(|error| {
            let place = self.definition.place(item.at);
            if !self.problems.iter().any(|p| p.place.as_ref() == Some(&place)) {
                let what = error.strip_backtrace();
                let what = what.strip_prefix("Arrow error: ").unwrap_or(&what).to_owned();
                let problem = Problem::new(format!("`{}` fails where there are no rows: {what}", item.name)).at(place);
                self.problems.push(problem.hint("divide by `nullif(…, 0)`"));
            }
            ScalarValue::Null
        })
    }

    fn evaluate(&self, expr: Expr) -> datafusion::error::Result<ScalarValue> {
        let physical = bench::physical(self.bench.context(), expr, &Arc::new(DFSchema::empty()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
        match physical.evaluate(&row)? {
            ColumnarValue::Scalar(value) => Ok(value),
            ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0),
        }
    }
}

/// A column as it stands in the matrix, over columns of `schema`: the fallback is for NULL alone, that is for customers without
/// rows. What is NaN or infinite, or made of an aggregate that is, becomes NULL whatever the fallback.
fn in_matrix(
    own: Expr,
    (from, to): (&DataType, &DataType),
    fallback: Option<ScalarValue>,
    schema: &DFSchema,
    not_finite: &Arc<AtomicU64>,
) -> datafusion::error::Result<Expr> {
    let mut doubles = Vec::new();
    // A bare column says by itself what it is made of.
    let is_bare = matches!(own, Expr::Column(_));
    for column in own.column_refs().into_iter().filter(|_| !is_bare) {
        let double = Expr::Column(column.clone());
        match double.get_type(schema)? {
            DataType::Float64 => doubles.push(double),
            DataType::Float16 | DataType::Float32 => doubles.push(cast(double, DataType::Float64)),
            _ => {}
        }
    }
    doubles.sort_by_key(ToString::to_string);
    let may_be_infinite = may_be_infinite(from, to);
    let own = match fallback {
        // What aggregates are divided by may be 0, which the fallback is for too.
        Some(fallback) if !is_bare => filled(normal(own, from, to), to, fallback),
        Some(fallback) => filled(typed(own, from, to), to, fallback),
        None => typed(own, from, to),
    };
    Ok(match may_be_infinite || !doubles.is_empty() {
        true => finite_with(own, doubles, not_finite),
        false => own,
    })
}

fn aggregate_name(aggregate: usize, span: usize) -> String {
    format!("__a{aggregate}_{span}")
}

fn flag_name(span: Span) -> String {
    column_name("__in", span.window)
}

fn flag(span: Span) -> Expr {
    Expr::Column(Column::new_unqualified(flag_name(span)))
}

/// The first day of the widest span, if all have one.
fn widest(spans: &[Span]) -> Option<AsOf> {
    spans.iter().map(|span| span.from).collect::<Option<Vec<_>>>()?.into_iter().min_by_key(AsOf::instant)
}

/// The widest span holds every row that is read at all.
fn needs_flag(spans: &[Span], span: Span) -> bool {
    span.from.is_some() && span.from != widest(spans)
}

/// The start of a day in the type of the event time; timestamps without a zone count as UTC.
pub(super) fn time_literal(day: AsOf, data_type: &DataType) -> Option<ScalarValue> {
    match data_type {
        DataType::Timestamp(_, zone) => {
            let micros = Some(day.instant().timestamp_micros());
            ScalarValue::TimestampMicrosecond(micros, zone.clone()).cast_to(data_type).ok()
        }
        DataType::Date32 | DataType::Date64 => {
            let days = day.date().signed_duration_since(chrono::NaiveDate::default()).num_days();
            ScalarValue::Date32(Some(i32::try_from(days).ok()?)).cast_to(data_type).ok()
        }
        _ => None,
    }
}

/// `value` in the type `to`, if it fits without loss of meaning.
pub(super) fn fit(value: &ScalarValue, to: &DataType) -> Option<ScalarValue> {
    use ScalarValue::{Boolean, Float64, Int64, Utf8};
    let fits = match (value, to) {
        (value, _) if value.is_null() => return ScalarValue::try_from(to).ok(),
        (Utf8(_), DataType::Int64 | DataType::Float64 | DataType::Boolean) => false,
        (Float64(Some(x)), DataType::Int64) => x.fract() == 0.0,
        (Int64(_) | Float64(_), DataType::Boolean | DataType::Utf8 | DataType::Date32 | DataType::Timestamp(..)) => {
            false
        }
        (Boolean(_), to) => *to == DataType::Boolean,
        _ => true,
    };
    let cast = value.cast_to(to).ok().filter(|_| fits)?;
    match cast {
        Float64(Some(x)) if !x.is_finite() => ScalarValue::try_from(to).ok(),
        other => Some(other),
    }
}
