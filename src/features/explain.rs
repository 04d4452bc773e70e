//! Why a query failed: the expression as its author wrote it, its place, and the first row on which it fails.
//!
//! The engine says "divide by zero" and no more. After a failure the plan is gone through from below: whatever reads its input and
//! fails on one of its batches is to blame, then the row, then the smallest part of the expression that fails on that row. Nothing of
//! this costs anything as long as nothing fails.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, DataFusionError, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::sqlparser::tokenizer::Location;
use futures::StreamExt;

use super::checked::as_written;
use super::definition::{Definition, Item};
use super::failure_words::{hint_of, rule_of, values_in_words};
use super::part::PartColumn;
use super::whole_sum::OUT_OF_RANGE_HINT;
use super::written::{find, in_sql};
use super::{bench, great_sum};
use crate::error::{Class, Place};
use crate::{Error, Result};

/// Knows the files of a job, to say which of them failed.
pub(super) struct Explainer {
    /// The name of the key column.
    pub key: String,
    pub views: Vec<Definition>,
    /// In the order in which they are computed.
    pub files: Vec<ExplainedFile>,
    /// The population, where it is a file.
    pub population: Option<ExplainedFile>,
    /// The context of each matrix.
    pub contexts: Vec<SessionContext>,
    /// The only key that is asked for.
    pub only: Option<ScalarValue>,
}

/// A file, and what it computes.
pub(super) struct ExplainedFile {
    pub definition: Definition,
    pub columns: Vec<PartColumn>,
    /// Its plan at the date of each matrix; nothing for one that derives columns from others.
    pub plans: Vec<LogicalPlan>,
}

impl ExplainedFile {
    /// The item that an aggregate is part of.
    fn item_of(&self, aggregate: usize) -> Option<&Item> {
        let LogicalPlan::Projection(projection) = self.plans.first()? else { return None };
        let own = |column: &&Column| column.name.starts_with(&format!("__a{aggregate}_"));
        let uses = |expr: &Expr| expr.column_refs().iter().any(&own);
        let select = projection.expr.iter().skip(1).zip(&self.columns);
        select.into_iter().find(|(expr, _)| uses(expr)).map(|(_, column)| &column.item)
    }

    /// What an item selects, as it is written.
    fn sql_of(&self, item: &Item) -> Option<String> {
        let at = self.definition.items.iter().position(|own| own.name == item.name)?;
        self.definition.select()?.projection.get(at).map(in_sql)
    }
}

/// Where a plan fails.
struct Failure {
    /// Whether it is the outermost node of the plan, and the place of the expression in it.
    outermost: Option<usize>,
    /// The expression that fails, then parts of it that fail, ever smaller.
    exprs: Vec<Expr>,
    schema: DFSchemaRef,
    /// The first row on which it fails.
    row: Option<RecordBatch>,
    key: Option<String>,
    cause: DataFusionError,
    /// The tables behind aliases.
    names: HashMap<String, String>,
}

impl Explainer {
    /// Why the rows of a plan that several files share cannot be read; `users` says of an expression of it which files and aggregates
    /// read it.
    pub(super) async fn scan(
        &self,
        matrix: usize,
        plan: &LogicalPlan,
        users: impl Fn(Option<usize>) -> Vec<(usize, Option<usize>)>,
        error: Error,
    ) -> Error {
        let Some(failure) = self.locate(matrix, plan, &error).await else { return error };
        let file = |(place, aggregate): (usize, Option<usize>)| {
            let file = self.files.get(place % self.files.len().max(1))?;
            Some((file, aggregate.and_then(|aggregate| file.item_of(aggregate))))
        };
        let Some((file, item)) = users(failure.outermost).into_iter().find_map(file) else { return error };
        self.told(&file.definition, item.map(|item| (item, file.sql_of(item))), &failure)
    }

    /// Why a file that runs as it is written failed; `file` is its place.
    pub(super) async fn file(&self, matrix: usize, file: usize, error: Error) -> Error {
        match self.files.get(file) {
            Some(file) => self.of_file(matrix, file, error).await,
            None => error,
        }
    }

    /// Why the population cannot be read.
    pub(super) async fn population(&self, matrix: usize, error: Error) -> Error {
        match &self.population {
            Some(file) => self.of_file(matrix, file, error).await,
            None => error,
        }
    }

    async fn of_file(&self, matrix: usize, file: &ExplainedFile, error: Error) -> Error {
        let Some(plan) = file.plans.get(matrix) else { return error };
        match self.locate(matrix, plan, &error).await {
            None if is_of_an_expression(&error) => {
                let rule = rule_of(error.to_string());
                let told = match self.great_sum(matrix, plan).await {
                    Some((sum, key)) => {
                        let found = as_written(sum).ok().and_then(|sum| find(&file.definition, &sum));
                        let (at, sql) = found.map_or((file.definition.begin, None), |(at, sql)| (at, Some(sql)));
                        let within = sql.map_or(String::new(), |sql| format!(" in `{sql}`"));
                        let message = format!("a sum fails{}: {rule}{within}", self.of_key(key.as_deref()));
                        Error::user(message).at(file.definition.place(at)).hint(OUT_OF_RANGE_HINT)
                    }
                    None => {
                        Error::user(format!("this file fails: {rule}")).at(file.definition.place(file.definition.begin))
                    }
                };
                match error.problems().next().and_then(|problem| problem.hint.clone()) {
                    Some(hint) => told.hint(hint),
                    None => told,
                }
            }
            None => error,
            Some(failure) => {
                let item = failure.outermost.and_then(|at| file.columns.get(at.checked_sub(1)?)).map(|c| &c.item);
                self.told(&file.definition, item.map(|item| (item, file.sql_of(item))), &failure)
            }
        }
    }

    /// Why some file of all failed.
    pub(super) async fn any_file(&self, error: Error) -> Error {
        if !is_of_an_expression(&error) {
            return error;
        }
        for file in &self.files {
            let Some(plan) = file.plans.first() else { continue };
            if let Some(failure) = self.locate(0, plan, &error).await {
                let item = failure.outermost.and_then(|at| file.columns.get(at.checked_sub(1)?)).map(|c| &c.item);
                return self.told(&file.definition, item.map(|item| (item, file.sql_of(item))), &failure);
            }
        }
        for file in &self.files {
            let Some(plan) = file.plans.first() else { continue };
            if self.great_sum(0, plan).await.is_some() {
                return self.of_file(0, file, error).await;
            }
        }
        error
    }

    /// Why a column of a file cannot be made of aggregates or other columns.
    pub(super) fn column(
        &self,
        (file, column): (usize, usize),
        expr: &Arc<dyn PhysicalExpr>,
        batch: &RecordBatch,
        keys: &ArrayRef,
        error: Error,
    ) -> Error {
        let found =
            self.files.get(file % self.files.len().max(1)).and_then(|file| Some((file, file.columns.get(column)?)));
        let (Some((file, column)), true) = (found, is_of_an_expression(&error)) else { return error };
        let row = (0..batch.num_rows()).find(|row| evaluated(expr, &batch.slice(*row, 1)).is_err());
        let cause = row.and_then(|row| evaluated(expr, &batch.slice(row, 1)).err());
        let key = row.and_then(|row| array_value_to_string(keys, row).ok());
        let sql = file.sql_of(&column.item);
        let (rule, hint) = match &cause {
            Some(cause) => (rule_of(cause.strip_backtrace()), hint_of(cause, None)),
            None => (rule_of(error.to_string()), None),
        };
        let within = sql.map_or(String::new(), |sql| format!(" in `{sql}`"));
        let message = format!("`{}` fails{}: {rule}{within}", column.name, self.of_key(key.as_deref()));
        let told = Error::user(message).at(file.definition.place(column.item.at));
        hint.into_iter().fold(told, Error::hint)
    }

    /// An aggregate of a customer that has no value; what is wrong with it was said.
    pub(super) fn aggregate(&self, (place, aggregate): (usize, usize), key: &str, error: Error) -> Error {
        let Some(file) = self.files.get(place % self.files.len().max(1)) else { return error };
        let item = file.item_of(aggregate);
        let (name, at) = item.map_or(("an aggregate", file.definition.begin), |item| (item.name.as_str(), item.at));
        let sql = item.and_then(|item| file.sql_of(item)).map_or(String::new(), |sql| format!(" in `{sql}`"));
        let table = file.definition.tables.first().map_or(String::new(), |(table, _)| format!(" of `{table}`"));
        let hint = error.problems().next().and_then(|problem| problem.hint.clone());
        let rows = format!(" over rows{table}");
        let message = format!("`{name}` fails{}: {error}{sql}{rows}", self.of_key(Some(key)));
        let told = Error::user(message).at(file.definition.place(at));
        hint.into_iter().fold(told, Error::hint)
    }

    /// A sum of a plan that is no integer of 64 bits, and whose it is.
    async fn great_sum(&self, matrix: usize, plan: &LogicalPlan) -> Option<(Expr, Option<String>)> {
        let context = self.contexts.get(matrix)?;
        let mut nodes = Vec::new();
        collect(plan, &mut nodes);
        for node in &nodes {
            if let Some(found) = great_sum::find(context, node).await {
                return Some(found);
            }
        }
        None
    }

    fn of_key(&self, key: Option<&str>) -> String {
        key.map_or(String::new(), |key| format!(" for `{}` {key}", self.key))
    }

    async fn locate(&self, matrix: usize, plan: &LogicalPlan, error: &Error) -> Option<Failure> {
        if !is_of_an_expression(error) {
            return None;
        }
        let context = self.contexts.get(matrix)?;
        let key = match plan {
            LogicalPlan::Projection(projection) => projection.expr.first().map(|key| key.clone().unalias()),
            _ => None,
        };
        let search = Search { context, key: key.as_ref(), key_name: &self.key, only: self.only.as_ref() };
        let (mut nodes, mut names) = (Vec::new(), HashMap::new());
        collect(plan, &mut nodes);
        nodes.iter().for_each(|node| name_table(node, &mut names));
        for node in &nodes {
            for (input, exprs) in expressions(node) {
                if let Some(failure) = search.failure(&input, exprs, std::ptr::eq(node, nodes.last()?)).await {
                    return Some(Failure { names, ..failure });
                }
            }
        }
        None
    }

    /// The failure in the words of a file, or of a view that it reads.
    fn told(&self, definition: &Definition, item: Option<(&Item, Option<String>)>, failure: &Failure) -> Error {
        let files = || std::iter::once(definition).chain(&self.views);
        let written = failure.exprs.iter().rev().filter_map(|expr| as_written(expr.clone()).ok());
        let found = written.into_iter().find_map(|expr| files().find_map(|file| Some((file, find(file, &expr)?))));
        let innermost = failure.exprs.last();
        let (place, sql): (Place, Option<String>) = match (found, &item) {
            (Some((file, (at, sql))), _) => (file.place(at), Some(sql)),
            (None, Some((item, sql))) => (definition.place(item.at), sql.clone()),
            (None, None) => (definition.place(definition.begin), innermost.map(ToString::to_string)),
        };
        let within = |item: &&Item| place.file == definition.file && place.at.is_some_and(|at| is_within(at, item));
        let item = item.map(|(item, _)| item).or_else(|| definition.items.iter().find(within));
        let what = item.map_or("an expression fails".to_owned(), |item| format!("`{}` fails", item.name));
        let rule = rule_of(failure.cause.strip_backtrace());
        let within = sql.map_or(String::new(), |sql| format!(" in `{sql}`"));
        let key = self.of_key(failure.key.as_deref());
        let row = failure.row_in_words().map_or(String::new(), |row| format!(", {row}"));
        let told = Error::user(format!("{what}{key}: {rule}{within}{row}")).at(place);
        hint_of(&failure.cause, innermost).into_iter().fold(told, Error::hint)
    }
}

/// Whether a place lies within an item of a select list, which ends with its name.
fn is_within((line, column): (usize, usize), item: &Item) -> bool {
    let place = |at: Location| (at.line as usize, at.column as usize);
    place(item.at) <= (line, column) && (line, column) <= place(item.name_at)
}

/// Whether an error may come of an expression: it is the data's fault, and nobody has said where.
fn is_of_an_expression(error: &Error) -> bool {
    error.class() == Class::User && error.problems().all(|problem| problem.place.is_none())
}

/// The nodes of a plan, inputs first, and those of the views in it.
fn collect<'a>(plan: &'a LogicalPlan, nodes: &mut Vec<LogicalPlan>) {
    plan.inputs().into_iter().for_each(|input: &'a LogicalPlan| collect(input, nodes));
    match plan {
        LogicalPlan::TableScan(scan) => {
            if let Some(view) = scan.source.get_logical_plan() {
                collect(&view, nodes);
            }
        }
        other => nodes.push(other.clone()),
    }
}

/// Notes the table that an alias is of.
fn name_table(node: &LogicalPlan, names: &mut HashMap<String, String>) {
    if let LogicalPlan::SubqueryAlias(alias) = node
        && let LogicalPlan::TableScan(scan) = alias.input.as_ref()
    {
        names.insert(alias.alias.table().to_owned(), scan.table_name.table().to_owned());
    }
}

/// What a node works out for each row of an input.
fn expressions(node: &LogicalPlan) -> Vec<(Arc<LogicalPlan>, Vec<Expr>)> {
    let of_aggregate = |expr: &Expr| -> Vec<Expr> {
        let mut parts = Vec::new();
        let _ = expr.apply(|part| match part {
            Expr::AggregateFunction(function) => {
                parts.extend(function.params.args.iter().cloned());
                parts.extend(function.params.filter.as_deref().cloned());
                parts.extend(function.params.order_by.iter().map(|sort| sort.expr.clone()));
                Ok(TreeNodeRecursion::Jump)
            }
            Expr::WindowFunction(function) => {
                let params = &function.params;
                parts.extend(params.args.iter().chain(&params.partition_by).cloned());
                parts.extend(params.order_by.iter().map(|sort| sort.expr.clone()));
                Ok(TreeNodeRecursion::Jump)
            }
            _ => Ok(TreeNodeRecursion::Continue),
        });
        parts
    };
    match node {
        LogicalPlan::Projection(projection) => vec![(Arc::clone(&projection.input), projection.expr.clone())],
        LogicalPlan::Filter(filter) => vec![(Arc::clone(&filter.input), vec![filter.predicate.clone()])],
        LogicalPlan::Aggregate(aggregate) => {
            let mut exprs = aggregate.group_expr.clone();
            exprs.extend(aggregate.aggr_expr.iter().flat_map(of_aggregate));
            vec![(Arc::clone(&aggregate.input), exprs)]
        }
        LogicalPlan::Window(window) => {
            vec![(Arc::clone(&window.input), window.window_expr.iter().flat_map(of_aggregate).collect())]
        }
        LogicalPlan::Sort(sort) => {
            vec![(Arc::clone(&sort.input), sort.expr.iter().map(|sort| sort.expr.clone()).collect())]
        }
        LogicalPlan::Join(join) => {
            let (left, right) = join.on.iter().cloned().unzip();
            vec![(Arc::clone(&join.left), left), (Arc::clone(&join.right), right)]
        }
        _ => Vec::new(),
    }
}

/// Looks for a row.
struct Search<'a> {
    context: &'a SessionContext,
    /// The key, where it is known how it is made.
    key: Option<&'a Expr>,
    key_name: &'a str,
    only: Option<&'a ScalarValue>,
}

impl Search<'_> {
    /// The first row of an input on which one of these expressions fails; `None` where none does, or where the input itself fails.
    async fn failure(&self, input: &LogicalPlan, exprs: Vec<Expr>, is_outermost: bool) -> Option<Failure> {
        let schema = input.schema();
        let exprs: Vec<(usize, Expr, Arc<dyn PhysicalExpr>)> = exprs
            .into_iter()
            .map(|expr| expr.unalias())
            .enumerate()
            .filter(|(_, expr)| !matches!(expr, Expr::Column(_) | Expr::Literal(..)))
            .filter_map(|(at, expr)| Some((at, expr.clone(), bench::physical(self.context, expr, schema).ok()?)))
            .collect();
        if exprs.is_empty() {
            return None;
        }
        let mut state = self.context.state();
        *state.config_mut() = state.config().clone().with_target_partitions(1);
        let mut rows = DataFrame::new(state, input.clone()).execute_stream().await.ok()?;
        while let Some(batch) = rows.next().await {
            let batch = batch.ok()?;
            for (at, expr, physical) in &exprs {
                let Err(cause) = evaluated(physical, &batch) else { continue };
                let row = (0..batch.num_rows()).map(|row| batch.slice(row, 1)).find(|row| {
                    let only = self.only.is_none_or(|only| self.key_of(row, schema).is_none_or(|key| key == *only));
                    only && evaluated(physical, row).is_err()
                });
                if row.is_none() && self.only.is_some() {
                    continue;
                }
                let cause = row.as_ref().and_then(|row| evaluated(physical, row).err()).unwrap_or(cause);
                let key = row.as_ref().and_then(|row| self.key_of(row, schema)).map(|key| key.to_string());
                let mut exprs = vec![expr.clone()];
                if let Some(row) = &row {
                    self.narrow(&mut exprs, row, schema);
                }
                let (outermost, schema) = (is_outermost.then_some(*at), Arc::clone(schema));
                return Some(Failure { outermost, exprs, schema, row, key, cause, names: HashMap::new() });
            }
        }
        None
    }

    fn key_of(&self, row: &RecordBatch, schema: &DFSchemaRef) -> Option<ScalarValue> {
        let named = || {
            let at = schema.fields().iter().position(|field| field.name() == self.key_name)?;
            ScalarValue::try_from_array(row.column(at), 0).ok()
        };
        let made = self.key.and_then(|key| self.value(key, row, schema).ok()).filter(|key| !key.is_null());
        made.or_else(named)
    }

    /// Goes down to the smallest part that fails on a row.
    fn narrow(&self, exprs: &mut Vec<Expr>, row: &RecordBatch, schema: &DFSchemaRef) {
        while let Some(part) = exprs.last().and_then(|expr| self.failing_part(expr, row, schema)) {
            exprs.push(part);
        }
    }

    fn failing_part(&self, expr: &Expr, row: &RecordBatch, schema: &DFSchemaRef) -> Option<Expr> {
        let fails = |part: &Expr| self.value(part, row, schema).is_err();
        if let Expr::Case(case) = expr {
            // Only what a row comes to is worked out.
            for (when, then) in &case.when_then_expr {
                if fails(when) {
                    return Some(when.as_ref().clone());
                }
                let is_true = |value| matches!(value, ScalarValue::Boolean(Some(true)));
                if case.expr.is_none() && self.value(when, row, schema).is_ok_and(is_true) {
                    return Some(then.as_ref().clone()).filter(fails);
                }
            }
            return case.else_expr.as_deref().filter(|part| fails(part)).cloned();
        }
        let mut found = None;
        let _ = expr.apply_children(|part| {
            if fails(part) {
                found = Some(part.clone());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        found
    }

    fn value(&self, expr: &Expr, row: &RecordBatch, schema: &DFSchemaRef) -> Result<ScalarValue, DataFusionError> {
        let array = evaluated(&bench::physical(self.context, expr.clone(), schema)?, row)?;
        ScalarValue::try_from_array(&array, 0)
    }
}

fn evaluated(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

impl Failure {
    /// The values that the smallest failing part reads, and where they are from.
    fn row_in_words(&self) -> Option<String> {
        let row = self.row.as_ref()?;
        let mut columns: Vec<&Column> = self.exprs.last()?.column_refs().into_iter().collect();
        columns.sort();
        let values = columns
            .iter()
            .filter_map(|column| Some((column.name.as_str(), row.column(self.schema.index_of_column(column).ok()?))));
        let values = values_in_words(values, 0);
        let tables = columns.iter().filter_map(|column| column.relation.as_ref().map(|table| table.table()));
        let tables: Vec<&str> = tables.collect();
        let named = |table: &&str| self.names.get(*table).cloned().unwrap_or_else(|| (*table).to_owned());
        let table = tables.first().map(named).map_or(String::new(), |table| format!(" of `{table}`"));
        values.map(|values| format!("in a row{table} where {values}"))
    }
}
