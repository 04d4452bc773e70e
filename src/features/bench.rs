//! A context of our own over the tables of another: SQL files are planned here, and errors get their place.
//!
//! It shares the runtime (memory pool, spill files, object stores) and the tables, but not the catalog, so that views
//! and intermediate results leave no trace in the caller's context. Float aggregates are the exact ones, and joins sort
//! and merge, because those spill.

use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use datafusion::catalog::{MemoryCatalogProviderList, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, DataFusionError, SchemaError, TableReference};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    self, Query, SelectItem, SetExpr, Spanned, Statement, Value, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::checked::checked_plan;
use super::definition::{Definition, Kind, lower_first};
use super::letter_case::{Capitals, as_written};
use super::{approximate, extremes, filter_first, gap, limited, local_time, moments, refuse};
use crate::error::Problem;
use crate::local_time::{is_utc, zone_name};
use crate::spec::nearest::{listed, nearest, nearest_name};
use crate::{Error, Result};

/// The context in which the files of one job are planned.
pub(super) struct Bench {
    context: SessionContext,
    timezone: Tz,
}

impl Bench {
    /// Takes over the tables of `context`.
    pub(super) async fn over(context: &SessionContext) -> Result<Bench> {
        let state = context.state();
        let schema = state.schema_for_ref("any")?;
        let mut config = state.config().clone().with_create_default_catalog_and_schema(true);
        config.options_mut().sql_parser.collect_spans = true;
        config.options_mut().optimizer.prefer_hash_join = false;
        let timezone = local_time::zone_of(context);
        let rules = filter_first::rules(&state);
        let mut state = SessionStateBuilder::new_from_existing(state)
            .with_physical_optimizer_rules(rules)
            .with_config(config)
            .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
            .build();
        local_time::register(&mut state, timezone)?;
        let bench = Bench { context: SessionContext::new_with_state(state), timezone };
        approximate::register(&bench.context);
        moments::register(&bench.context);
        extremes::register(&bench.context);
        gap::register(&bench.context);
        for name in schema.table_names() {
            if let Some(table) = schema.table(&name).await? {
                bench.register(&name, table)?;
            }
        }
        Ok(bench)
    }

    /// Adds or replaces a table.
    pub(super) fn register(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
        let reference = datafusion::common::TableReference::bare(name);
        self.context.deregister_table(reference.clone())?;
        self.context.register_table(reference, table)?;
        Ok(())
    }

    /// The names of its tables and views.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names = self.context.state().schema_for_ref("any")?.table_names();
        names.sort();
        Ok(names)
    }

    /// The context itself.
    pub(super) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The time zone on whose clock its queries run.
    pub(super) fn timezone(&self) -> Tz {
        self.timezone
    }

    /// A plan as something that can be built upon and run.
    pub(super) fn frame(&self, plan: LogicalPlan) -> DataFrame {
        DataFrame::new(self.context.state(), plan)
    }

    /// Plans a file's SELECT with `$as_of` bound. Every problem found is returned, each with its place.
    pub(super) async fn plan(
        &self,
        definition: &Definition,
        as_of: DateTime<Utc>,
    ) -> Result<LogicalPlan, Vec<Problem>> {
        self.tables_exist(definition)?;
        let mut query = definition.query.clone();
        self.capitals(definition).await.quote(&mut query, &definition.key);
        bind(&mut query, as_of, self.timezone);
        local_time::localize(&mut query, self.timezone);
        approximate::made_exact(&mut query);
        match self.try_plan(&query).await {
            Ok(plan) => {
                only_steady(definition, &plan)?;
                self.on_the_clock(definition, &plan)?;
                Ok(plan)
            }
            Err(error) => Err(self.blame(definition, &query, error).await),
        }
    }

    /// Plans and analyses, so that wrong types show too.
    async fn try_plan(&self, query: &Query) -> Result<LogicalPlan, DataFusionError> {
        let state = self.context.state();
        let statement = DfStatement::Statement(Box::new(Statement::Query(Box::new(query.clone()))));
        let runtime = tokio::runtime::Handle::current();
        // The constants of the query are worked out here.
        let plan = move || {
            let plan = checked_plan(runtime.block_on(state.statement_to_plan(statement))?)?;
            limited::small_constants(&state.optimize(&plan)?)?;
            Ok(plan)
        };
        limited::within_limits(plan)?
    }

    /// The columns with capitals of the tables that a file reads.
    async fn capitals(&self, definition: &Definition) -> Capitals {
        let mut columns = Vec::new();
        for (name, _) in &definition.tables {
            if let Ok(table) = self.context.table_provider(TableReference::bare(name.as_str())).await {
                columns.extend(table.schema().fields().iter().map(|field| field.name().clone()));
            }
        }
        Capitals::among(columns.iter().map(String::as_str))
    }

    /// Refuses what would read times by the hours of UTC where the job has another clock.
    fn on_the_clock(&self, definition: &Definition, plan: &LogicalPlan) -> Result<(), Vec<Problem>> {
        if is_utc(self.timezone) {
            return Ok(());
        }
        let state = self.context.state();
        let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
        match analyzed.and_then(|plan| local_time::refuse_naive(&plan)) {
            Ok(None) => Ok(()),
            Ok(Some(problem)) => Err(vec![problem.at(definition.place(definition.begin))]),
            Err(error) => Err(vec![problem(definition, &error, definition.begin)]),
        }
    }

    fn tables_exist(&self, definition: &Definition) -> Result<(), Vec<Problem>> {
        let known = self.names().map_err(Error::into_problems)?;
        let unknown = definition.tables.iter().filter(|(name, _)| !known.contains(name));
        let problems: Vec<Problem> = unknown
            .map(|(name, at)| {
                let names = known.iter().map(String::as_str);
                let hint =
                    nearest(name, names.clone()).unwrap_or_else(|| format!("there are {}", listed(names, "and")));
                Problem::new(format!("there is no table or view `{name}`")).at(definition.place(*at)).hint(hint)
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Finds the parts of a query that are wrong by planning each column alone.
    async fn blame(&self, definition: &Definition, query: &Query, error: DataFusionError) -> Vec<Problem> {
        let whole = problem(definition, &error, definition.begin);
        let SetExpr::Select(select) = query.body.as_ref() else { return vec![whole] };
        if definition.items.len() != select.projection.len() {
            return vec![whole];
        }
        let alone = |item: SelectItem| {
            let mut query = query.clone();
            if let SetExpr::Select(select) = query.body.as_mut() {
                select.projection = vec![item];
            }
            query.order_by = None;
            query.limit_clause = None;
            query
        };
        let nothing = SelectItem::UnnamedExpr(ast::Expr::Value(Value::Number("1".into(), false).into()));
        if let Err(error) = self.try_plan(&alone(nothing)).await {
            let clause = select.selection.as_ref().map(|e| e.span().start).filter(|at| at.line > 0);
            return vec![problem(definition, &error, clause.unwrap_or(definition.begin))];
        }
        let mut problems = Vec::new();
        for (item, described) in select.projection.iter().zip(&definition.items) {
            if let Err(error) = self.try_plan(&alone(item.clone())).await {
                problems.push(problem(definition, &error, described.at));
            }
        }
        if problems.is_empty() { vec![whole] } else { problems }
    }
}

/// An expression over columns of this schema, ready to be evaluated.
pub(super) fn physical(
    context: &SessionContext,
    expr: Expr,
    schema: &DFSchemaRef,
) -> datafusion::error::Result<Arc<dyn PhysicalExpr>> {
    let info = SimplifyContext::builder().with_schema(Arc::clone(schema)).build();
    let simplifier = ExprSimplifier::new(info);
    let expr = simplifier.simplify(simplifier.coerce(expr, schema)?)?;
    context.create_physical_expr(expr, schema)
}

/// Replaces `$as_of` by its value.
fn bind(query: &mut Query, as_of: DateTime<Utc>, timezone: Tz) {
    let (micros, zone) = (as_of.timestamp_micros(), zone_name(timezone));
    let text = format!("arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"{zone}\"))')");
    let Ok(value) = Parser::new(&GenericDialect {}).try_with_sql(&text).and_then(|mut p| p.parse_expr()) else {
        return;
    };
    let _ = visit_expressions_mut(query, |expr| {
        if matches!(expr, ast::Expr::Value(v) if matches!(&v.value, Value::Placeholder(name) if name == refuse::AS_OF))
        {
            *expr = value.clone();
        }
        ControlFlow::<()>::Continue(())
    });
}

/// A function that gives another value every time is refused even under a name that the syntax check does not know.
fn only_steady(definition: &Definition, plan: &LogicalPlan) -> Result<(), Vec<Problem>> {
    let mut volatile = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let (true, Expr::ScalarFunction(function)) = (part.is_volatile_node(), part) {
                    volatile = Some(function.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match (walked, volatile) {
        (Err(error), _) => Err(vec![problem(definition, &error, definition.begin)]),
        (_, Some(name)) => Err(vec![
            Problem::new(format!("`{name}` gives another value every time"))
                .at(definition.place(definition.begin))
                .hint("features must be the same when run again"),
        ]),
        _ => Ok(()),
    }
}

/// An error of DataFusion in our words, at the most exact place that it knows.
pub(super) fn problem(definition: &Definition, error: &DataFusionError, fallback: Location) -> Problem {
    let span = error.diagnostic().and_then(|d| d.span);
    let at = span.map_or(fallback, |s| Location { line: s.start.line, column: s.start.column });
    let problem = match error.find_root() {
        DataFusionError::External(source) if source.is::<Error>() => {
            let ours = source.downcast_ref::<Error>().and_then(|error| error.problems().next());
            let (message, hint) = ours.map_or((String::new(), None), |ours| (ours.message.clone(), ours.hint.clone()));
            hint.into_iter().fold(Problem::new(message), Problem::hint)
        }
        DataFusionError::SchemaError(schema_error, _) => schema_problem(schema_error),
        root => planning_problem(&root.strip_backtrace(), definition.kind),
    };
    problem.at(definition.place(at))
}

fn schema_problem(error: &SchemaError) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name()).collect();
            let problem = Problem::new(format!("there is no column `{}`", field.name()));
            match nearest_name(field.name(), names.iter().copied()) {
                Some(name) => problem.hint(format!("did you mean `{}`?", as_written(name))),
                None if names.is_empty() => problem,
                None => problem.hint(format!("there are {}", listed(names, "and"))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Problem::new(format!("`{}` is in several tables", field.name())).hint("say which: `table.column`")
        }
        other => Problem::new(lower_first(&other.to_string())),
    }
}

fn planning_problem(text: &str, kind: Kind) -> Problem {
    let text = [
        "Error during planning: ",
        "This feature is not implemented: ",
        "type_coercion\ncaused by\n",
        "External error: ",
    ]
    .iter()
    .fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    let between = |before: &str, after: &str| {
        let (_, rest) = text.split_once(before)?;
        rest.split_once(after).map(|(inside, rest)| (inside.to_owned(), rest))
    };
    if let Some((name, rest)) = between("Invalid function '", "'") {
        let suggestion = rest.split('\'').nth(1).filter(|s| !s.is_empty());
        let problem = Problem::new(format!("there is no function `{name}`"));
        return match suggestion {
            Some(suggestion) => problem.hint(format!("did you mean `{suggestion}`?")),
            None => problem,
        };
    }
    if let Some((call, _)) = between("No function matches the given name and argument types '", "'") {
        return Problem::new(format!("`{call}` does not exist: the types do not fit"))
            .hint("convert the argument, for example `CAST(x AS DOUBLE)`");
    }
    if text.contains("must appear in the GROUP BY clause") || text.contains("must be part of GROUP BY") {
        let (name, _) = between(
            "Column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column \"",
            "\"",
        )
        .or_else(|| between("olumn \"", "\""))
        .unwrap_or_default();
        let name = name.rsplit('.').next().unwrap_or_default().to_owned();
        let problem = Problem::new(format!("`{name}` is neither grouped by nor inside an aggregate"));
        let way_out = if matches!(kind, Kind::Free | Kind::Events) { "" } else { "; only the key stands alone" };
        return problem.hint(format!("one row per key needs one value: `max({name})`, `sum({name})`, …{way_out}"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or(text);
    Problem::new(lower_first(first.trim_end_matches('.')))
}
