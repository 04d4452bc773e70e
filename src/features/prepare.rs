//! Every file of a set as a plan, before they are joined.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast::{self, visit_expressions};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::FeatureColumn;
use super::aggregates::steady_plan;
use super::bench::{self, Bench};
use super::definition::{Definition, Kind, normalized};
use super::finite::{filled, finite_with};
use super::key_type::{key_expr, key_type};
use super::part::{self, Part, PartColumn, Span, time_literal};
use super::set::FeatureSet;
use super::types::{matrix_type, may_be_infinite, typed};
use crate::error::{Place, Problem};
use crate::spec::{EntitySource, TableSpec};
use crate::{AsOf, Result, lake};

/// The name under which derived files see the joined row.
pub(super) const FEATURES: &str = "features";

/// The files of a set, planned.
pub(super) struct Prepared {
    /// One column, [`Part::KEY`].
    pub population: LogicalPlan,
    pub key_type: DataType,
    /// One per feature file, in the order of the job.
    pub files: Vec<PreparedFile>,
}

/// One feature file, planned.
pub(super) struct PreparedFile {
    pub definition: Definition,
    pub plan: FilePlan,
}

/// How a file's columns come to be.
pub(super) enum FilePlan {
    /// By a plan with one row per key, to be joined.
    Joined(Box<Part>),
    /// By expressions over the columns so far.
    Derived(Vec<Expr>, Vec<PartColumn>),
}

impl PreparedFile {
    pub(super) fn columns(&self) -> &[PartColumn] {
        match &self.plan {
            FilePlan::Joined(part) => &part.columns,
            FilePlan::Derived(_, columns) => columns,
        }
    }
}

impl Prepared {
    /// The plans that stand for themselves.
    pub(super) fn plans(&self) -> impl Iterator<Item = (&Definition, &LogicalPlan)> {
        self.files.iter().filter_map(|file| match &file.plan {
            FilePlan::Joined(part) => Some((&file.definition, &part.plan)),
            FilePlan::Derived(..) => None,
        })
    }

    /// What is known about every column, in the order of the matrix.
    pub(super) fn columns(&self, set: &FeatureSet) -> Vec<FeatureColumn> {
        let key = set.key();
        let order = |file: &PreparedFile| -> Vec<FeatureColumn> {
            let outputs = file.definition.outputs(key);
            let columns = outputs.iter().filter_map(|(name, ..)| file.columns().iter().find(|c| c.name == *name));
            columns.map(|column| described(&file.definition, column)).collect()
        };
        self.files.iter().flat_map(order).collect()
    }
}

/// A column with the words of its file.
pub(super) fn described(definition: &Definition, column: &PartColumn) -> FeatureColumn {
    let sources: Vec<&str> = definition.tables.iter().map(|(name, _)| name.as_str()).collect();
    FeatureColumn {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        description: column.item.description.clone(),
        owner: definition.header.owner.clone(),
        file: definition.file.clone(),
        window: column.window.map(|w| w.to_string()),
        source: sources.join(", "),
    }
}

/// Plans the population and every feature file; files with problems are left out and told.
pub(super) async fn prepare(
    set: &FeatureSet,
    bench: &Bench,
    tables: &[TableSpec],
    as_of: AsOf,
    problems: &mut Vec<Problem>,
) -> Result<Prepared> {
    let (population, key_type) = match population(set, bench, tables, as_of).await {
        Ok(found) => found,
        Err(more) => {
            problems.extend(more);
            let empty = LogicalPlanBuilder::empty(false).project([lit(ScalarValue::Int64(None)).alias(Part::KEY)])?;
            (empty.build()?, DataType::Int64)
        }
    };
    let mut planned: Vec<Option<FilePlan>> = Vec::new();
    for definition in &set.features {
        planned.push(match definition.kind {
            Kind::Derived => None,
            _ => match file(set, bench, tables, definition, as_of)
                .await
                .and_then(|p| fits(definition, p, &key_type, set))
            {
                Ok(part) => Some(FilePlan::Joined(Box::new(part))),
                Err(more) => {
                    problems.extend(more);
                    None
                }
            },
        });
    }
    derive(set, bench, &key_type, as_of, &mut planned, problems).await?;
    let files = set.features.iter().zip(planned);
    let files = files.filter_map(|(d, plan)| Some(PreparedFile { definition: d.clone(), plan: plan? })).collect();
    Ok(Prepared { population, key_type, files })
}

/// Plans a windowed file or a free SELECT.
async fn file(
    set: &FeatureSet,
    bench: &Bench,
    tables: &[TableSpec],
    definition: &Definition,
    as_of: AsOf,
) -> Result<Part, Vec<Problem>> {
    let mut part = file_at(set, bench, tables, definition, as_of).await?;
    if let Ok(recipe) = &mut part.recipe {
        let table = recipe.table().and_then(|name| tables.iter().find(|table| table.name == name));
        if let Some(why) = table.and_then(lake::unsteady) {
            recipe.refuse_states(why);
        }
        let of_view =
            |(table, _): &(String, Location)| set.views.iter().any(|v| v.stem == *table && v.asks_for_as_of());
        if definition.tables.iter().any(of_view) {
            recipe.compare(None);
        } else if definition.asks_for_as_of() {
            let later = file_at(set, bench, tables, definition, as_of.plus_days(1)).await?;
            recipe.compare(later.recipe.as_ref().ok());
        }
    }
    Ok(part)
}

async fn file_at(
    set: &FeatureSet,
    bench: &Bench,
    tables: &[TableSpec],
    definition: &Definition,
    as_of: AsOf,
) -> Result<Part, Vec<Problem>> {
    let plan = bench.plan(definition, as_of.instant()).await?;
    if definition.kind == Kind::Free {
        let time = match definition.tables.as_slice() {
            [(table, _)] => set.event_time(table, tables),
            _ => None,
        };
        return part::free(bench, definition, plan, set.key(), time.as_deref().map(|time| (time, as_of)));
    }
    let spans: Vec<Span> = definition
        .windows()
        .into_iter()
        .map(|window| Span { window, from: window.and_then(|w| w.start(as_of)), until: Some(as_of) })
        .collect();
    let event_time = event_time_of(set, tables, definition)?;
    part::windowed(bench, definition, plan, set.key(), &event_time, &spans)
}

/// The event time of the one table of a windowed or label file.
pub(super) fn event_time_of(
    set: &FeatureSet,
    tables: &[TableSpec],
    definition: &Definition,
) -> Result<String, Vec<Problem>> {
    let table = definition.table();
    set.event_time(table, tables).ok_or_else(|| {
        let at = definition.tables.first().map_or(definition.begin, |(_, at)| *at);
        vec![
            Problem::new(format!("`{table}` has no event time, so its rows belong to no window"))
                .at(definition.place(at))
                .hint("give the table an `event_time` in the job file, or drop `@windows`"),
        ]
    })
}

/// The plan of a view or an events file: the author's SELECT, cut off at `until`.
pub(super) async fn view(
    bench: &Bench,
    definition: &Definition,
    until: DateTime<Utc>,
) -> Result<LogicalPlan, Vec<Problem>> {
    let plan = bench.plan(definition, until).await?;
    let engine = |e| vec![bench::problem(definition, &e, definition.begin)];
    let plan = steady_plan(plan).map_err(engine)?;
    let Some((name, at)) = &definition.header.event_time else { return Ok(plan) };
    let Ok((qualifier, field)) = plan.schema().qualified_field_with_unqualified_name(name) else {
        let problem = Problem::new(format!("`@event_time` names the unknown column `{name}`"));
        return Err(vec![problem.at(definition.place(*at)).hint("name a column of the select list")]);
    };
    let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
    let Some(bound) = bound_at(until, field.data_type(), bench.timezone()) else {
        let problem = Problem::new(format!("the event time `{name}` is neither a timestamp nor a date"));
        return Err(vec![problem.at(definition.place(*at))]);
    };
    LogicalPlanBuilder::from(plan).filter(column.lt(lit(bound))).and_then(LogicalPlanBuilder::build).map_err(engine)
}

/// An instant in the type of an event time; a date is visible from its midnight in this time zone on.
pub(super) fn bound_at(until: DateTime<Utc>, data_type: &DataType, timezone: Tz) -> Option<ScalarValue> {
    match data_type {
        DataType::Date32 | DataType::Date64 => {
            // A day that has begun before `until` has happened: the bound is rounded up to the next day.
            let day = AsOf::new(until.with_timezone(&timezone).date_naive(), timezone);
            let day = if day.instant() < until { day.plus_days(1) } else { day };
            time_literal(day, data_type)
        }
        DataType::Timestamp(_, zone) => {
            ScalarValue::TimestampMicrosecond(Some(until.timestamp_micros()), zone.clone()).cast_to(data_type).ok()
        }
        _ => None,
    }
}

/// The population's keys.
async fn population(
    set: &FeatureSet,
    bench: &Bench,
    tables: &[TableSpec],
    as_of: AsOf,
) -> Result<(LogicalPlan, DataType), Vec<Problem>> {
    let key = set.key();
    if let Some(definition) = &set.population {
        let plan = bench.plan(definition, as_of.instant()).await?;
        let part = part::free(bench, definition, plan, key, None)?;
        return Ok((
            only_key(part.plan).map_err(|e| vec![bench::problem(definition, &e, definition.begin)])?,
            part.key_type,
        ));
    }
    let EntitySource::Table { table, since } = &set.entity.source else {
        return Err(Vec::new()); // the query could not be read, which has been said
    };
    let place = tables.iter().find(|t| t.name == *table).map_or_else(|| Place::file(table), |t| t.place.clone());
    let wrong = |message: String| vec![Problem::new(message).at(place.clone())];
    let engine = |e: datafusion::error::DataFusionError| wrong(e.strip_backtrace());
    let frame = bench.context().table(table.as_str()).await;
    let frame = frame.map_err(|_| wrong(format!("the entity's table `{table}` is not there")))?;
    let field = |name: &str| {
        let found = frame.schema().field_with_unqualified_name(name).map(|f| f.data_type().clone());
        found.map_err(|_| wrong(format!("the entity's table `{table}` has no column `{name}`")))
    };
    let key_from = field(key)?;
    let key_type = key_type(&key_from).map_err(|p| vec![p.at(place.clone())])?;
    let mut plan = LogicalPlanBuilder::from(frame.logical_plan().clone());
    if let Some(since) = since {
        let bound = time_literal(as_of, &field(since)?);
        let bound = bound.ok_or_else(|| wrong(format!("`since: {since}` is neither a timestamp nor a date")))?;
        plan = plan.filter(Expr::Column(Column::from_name(since)).lt(lit(bound))).map_err(engine)?;
    }
    let select = [key_expr(Expr::Column(Column::from_name(key)), &key_from, &key_type).alias(Part::KEY)];
    let plan = plan.project(select).and_then(LogicalPlanBuilder::build).map_err(engine)?;
    Ok((plan, key_type))
}

fn only_key(plan: LogicalPlan) -> datafusion::error::Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan).project([Expr::Column(Column::from_name(Part::KEY))])?.build()
}

/// The key of a file must be of the population's kind.
pub(super) fn fits(
    definition: &Definition,
    part: Part,
    key_type: &DataType,
    set: &FeatureSet,
) -> Result<Part, Vec<Problem>> {
    match key_problem(definition, &part.key_type, key_type, set) {
        None => Ok(part),
        Some(problem) => Err(vec![problem]),
    }
}

/// What is wrong with a file's key, beside the population's.
pub(super) fn key_problem(
    definition: &Definition,
    found: &DataType,
    wanted: &DataType,
    set: &FeatureSet,
) -> Option<Problem> {
    let at = definition.items.iter().find(|i| i.name == set.key()).map_or(definition.begin, |i| i.at);
    let problem = Problem::new(format!("the key is of type `{found}` here and `{wanted}` in the population"));
    let problem = problem.at(definition.place(at)).hint("the keys are compared; make them of one type with `CAST`");
    (found != wanted).then_some(problem)
}

/// Plans the derived files, each over the columns so far.
async fn derive(
    set: &FeatureSet,
    bench: &Bench,
    key_type: &DataType,
    as_of: AsOf,
    planned: &mut [Option<FilePlan>],
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let mut fields = vec![Field::new(set.key(), key_type.clone(), true)];
    for plan in planned.iter().flatten() {
        if let FilePlan::Joined(part) = plan {
            fields.extend(part.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)));
        }
    }
    // Columns of files that have problems themselves would only be missed for that reason.
    let lost: Vec<&Definition> = set
        .features
        .iter()
        .zip(&*planned)
        .filter(|(d, p)| p.is_none() && d.kind != Kind::Derived)
        .map(|(d, _)| d)
        .collect();
    for (i, definition) in set.features.iter().enumerate().filter(|(_, d)| d.kind == Kind::Derived) {
        let later: Vec<&Definition> = set.features[i + 1..].iter().filter(|d| d.kind == Kind::Derived).collect();
        let early = forward_references(definition, &fields, &later, set.key());
        if !early.is_empty() {
            problems.extend(early);
            continue;
        }
        bench.register(FEATURES, Arc::new(EmptyTable::new(Arc::new(Schema::new(fields.clone())))))?;
        match derived(set, bench, definition, as_of).await {
            Ok((exprs, columns)) => {
                fields.extend(columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)));
                planned[i] = Some(FilePlan::Derived(exprs, columns));
            }
            Err(_) if refers_to(definition, &lost, set.key()) => {}
            Err(more) => problems.extend(more),
        }
    }
    Ok(())
}

async fn derived(
    set: &FeatureSet,
    bench: &Bench,
    definition: &Definition,
    as_of: AsOf,
) -> Result<(Vec<Expr>, Vec<PartColumn>), Vec<Problem>> {
    let plan = bench.plan(definition, as_of.instant()).await?;
    let engine = |e| vec![bench::problem(definition, &e, definition.begin)];
    let LogicalPlan::Projection(projection) = &plan else {
        return Err(vec![Problem::new("a derived file selects expressions").at(definition.place(definition.begin))]);
    };
    if matches!(projection.input.as_ref(), LogicalPlan::Aggregate(_)) {
        return Err(vec![
            Problem::new("a derived file has no aggregates: it sees one customer at a time")
                .at(definition.place(definition.items.first().map_or(definition.begin, |i| i.at)))
                .hint("select from a table or view to aggregate"),
        ]);
    }
    let schema = projection.input.schema();
    let (mut exprs, mut columns, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (item, expr) in definition.items.iter().zip(&projection.expr).filter(|(item, _)| item.name != set.key()) {
        let from = expr.get_type(schema.as_ref()).map_err(engine)?;
        let to = match matrix_type(&from) {
            Ok(to) => to,
            Err(problem) => {
                problems.push(problem.at(definition.place(item.at)));
                continue;
            }
        };
        let bare = expr.clone().unalias().transform_up(|part| match part {
            Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))),
            other => Ok(Transformed::no(other)),
        });
        let not_finite = Arc::default();
        let mut value = typed(bare.map_err(engine)?.data, &from, &to);
        if may_be_infinite(&from, &to) {
            value = finite_with(value, Vec::new(), &not_finite);
        }
        if let Some((default, at)) = definition.header.defaults.get(&item.name) {
            match part::fit(default, &to) {
                Some(default) if !default.is_null() => {
                    value = filled(value, &to, default);
                }
                Some(_) => {}
                None => {
                    let what = format!("`{default}` does not fit `{}`, a column of type `{to}`", item.name);
                    problems.push(
                        Problem::new(what).at(definition.place(*at)).hint("`@default` has the type of its column"),
                    );
                }
            }
        }
        exprs.push(value.alias(item.name.clone()));
        let empty = ScalarValue::try_from(&to).unwrap_or(ScalarValue::Null);
        let (name, item) = (item.name.clone(), item.clone());
        columns.push(PartColumn { name, data_type: to, empty, item, window: None, not_finite });
    }
    if problems.is_empty() { Ok((exprs, columns)) } else { Err(problems) }
}

/// Every name that a derived file mentions, with its place.
fn mentioned(definition: &Definition) -> Vec<(String, Location)> {
    let mut names = Vec::new();
    let _ = visit_expressions(&definition.query, |expr| {
        match expr {
            ast::Expr::Identifier(ident) => names.push((normalized(ident), ident.span.start)),
            ast::Expr::CompoundIdentifier(parts) => {
                names.extend(parts.last().map(|ident| (normalized(ident), ident.span.start)));
            }
            _ => {}
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    names
}

fn refers_to(definition: &Definition, files: &[&Definition], key: &str) -> bool {
    let names = mentioned(definition);
    files.iter().any(|f| f.outputs(key).iter().any(|(name, ..)| names.iter().any(|(n, _)| n == name)))
}

fn forward_references(definition: &Definition, fields: &[Field], later: &[&Definition], key: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, at) in mentioned(definition) {
        if fields.iter().any(|field| *field.name() == name) {
            continue;
        }
        if let Some(owner) = later.iter().find(|d| d.outputs(key).iter().any(|(output, ..)| *output == name)) {
            problems.push(
                Problem::new(format!("`{name}` is made by `{}`, which comes after this file", owner.file))
                    .at(definition.place(at))
                    .hint("derived files see the ones before them; a glob's files come by name: rename one"),
            );
        }
    }
    problems
}
