//! One scan that serves many files: every expression once, every aggregate once.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableScan, lit, when};

use super::aggregate::{Function, Recipient, in_microseconds, is_harmless};
use super::buckets::Buckets;
use super::flatten::Flat;
use super::recipe::Recipe;
use super::slots::Output;
use crate::features::part::{Span, time_literal};
use crate::{AsOf, Error, Result};

/// The name of the key in a source's plan.
const KEY: &str = "__key";
/// The name of the time.
const TIME: &str = "__time";

/// Where a file's columns come from, once the pass is over.
#[derive(Debug, Clone)]
pub(super) struct Share {
    /// The file's place among the recipes.
    pub recipe: usize,
    /// For each aggregate and each span of it, in the order of the recipe's schema: the aggregate of the source and its
    /// output.
    pub columns: Vec<(usize, usize)>,
    /// How many spans each aggregate has.
    spans: usize,
}

impl Share {
    /// The aggregate of the recipe that an aggregate of the source is, if it is one of its own.
    pub fn aggregate(&self, job: usize) -> Option<usize> {
        self.columns.iter().position(|(own, _)| *own == job).map(|at| at / self.spans.max(1))
    }
}

/// An aggregate over the columns of a source's plan.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// The states that are kept.
    pub function: Function,
    /// The columns that it reads, counted behind key and time.
    pub arguments: Vec<usize>,
    pub filter: Option<usize>,
    pub outputs: Vec<Output>,
}

/// The time of rows of which earlier dates see a part, and the days that windows begin with.
#[derive(Debug, Clone)]
pub(in crate::features) struct Dated {
    pub time: Expr,
    pub time_type: DataType,
    pub until: AsOf,
    pub edges: Vec<AsOf>,
}

/// What is read: conditions and expressions over a plan.
#[derive(Debug, Clone)]
struct Reading {
    base: LogicalPlan,
    common: Vec<Expr>,
    select: Vec<Expr>,
}

impl Reading {
    /// The plan, with more conditions.
    fn plan(&self, base: LogicalPlan, more: impl IntoIterator<Item = Expr>) -> Result<LogicalPlan> {
        let mut builder = LogicalPlanBuilder::from(base);
        if let Some(condition) = self.common.iter().cloned().chain(more).reduce(Expr::and) {
            builder = builder.filter(condition)?;
        }
        Ok(builder.project(self.select.clone())?.build()?)
    }
}

/// One scan and everything that is computed from it.
#[derive(Debug, Clone)]
pub(in crate::features) struct Source {
    /// The key, the time if there is one, then the columns.
    pub(in crate::features) plan: LogicalPlan,
    reading: Reading,
    /// `None` where the rows are not sorted by time, or not those of one date.
    dated: Option<Dated>,
    unsteady: Option<&'static str>,
    pub(super) has_time: bool,
    pub(super) buckets: Buckets,
    pub(super) jobs: Vec<Job>,
    pub(super) shares: Vec<Share>,
    /// The recipe whose table is read.
    pub(super) newest: usize,
}

impl Source {
    /// The sources of some recipes, each recipe with its place and the number of its date. Where states are kept, recipes that
    /// can have none do not spoil it for others.
    pub(in crate::features) fn of(recipes: &[(usize, usize, &Recipe)], states: bool) -> Result<Vec<Source>> {
        let mut groups: Vec<Vec<(usize, usize, &Recipe)>> = Vec::new();
        for (place, date, recipe) in recipes {
            let together = |(_, other, known): &(usize, usize, &Recipe)| {
                let alike = !states || known.unsteady().is_some() == recipe.unsteady().is_some();
                alike && known.shares_rows_with(recipe) && (other == date || known.is_dated() && recipe.is_dated())
            };
            match groups.iter_mut().find(|group| group.iter().all(together)) {
                Some(group) => group.push((*place, *date, recipe)),
                None => groups.push(vec![(*place, *date, recipe)]),
            }
        }
        let groups = groups.into_iter().map(|group| group.into_iter().map(|(place, _, recipe)| (place, recipe)));
        groups.map(Iterator::collect::<Vec<_>>).map(|group| Draft::new(&group)?.finish(&group)).collect()
    }

    /// The time of the rows, where they are sorted by it and are those of one date.
    pub(in crate::features) fn dated(&self) -> Option<&Dated> {
        self.dated.as_ref()
    }

    /// The table that is scanned, where it is nothing but a scan.
    pub(in crate::features) fn scan(&self) -> Option<&TableScan> {
        match &self.reading.base {
            LogicalPlan::TableScan(scan) => Some(scan),
            _ => None,
        }
    }

    /// Whether its keys are those of a plan, row by row.
    pub(in crate::features) fn has_keys_of(&self, plan: &LogicalPlan) -> bool {
        let both = Flat::of(&self.plan).and_then(|own| Ok((own, Flat::of(plan)?)));
        both.is_ok_and(|(own, other)| own.has_rows_of(&other))
    }

    /// The same rows from another scan, and only those that a condition takes.
    pub(in crate::features) fn reading_from(&self, base: LogicalPlan, condition: Expr) -> Result<LogicalPlan> {
        self.reading.plan(base, [condition])
    }

    /// Sorts rows into finer buckets: those between these days, among which are the edges of all windows.
    pub(in crate::features) fn refine(&mut self, days: impl Iterator<Item = AsOf>) -> Result<()> {
        let Some(dated) = &self.dated else { return Err(Error::bug("rows without a time in finer buckets")) };
        let finer = Buckets::between(days, &dated.time_type)?;
        for output in self.jobs.iter_mut().flat_map(|job| &mut job.outputs) {
            output.window = self.buckets.in_finer(&output.window, &finer);
        }
        self.buckets = finer;
        Ok(())
    }

    /// Why what past days add up to cannot be kept for later nights, where that is so.
    pub(in crate::features) fn unsteady(&self) -> Option<&'static str> {
        self.unsteady
    }

    /// What a state depends on beside its rows, in words: two sources that say the same have the same states. An error says why
    /// it has none.
    pub(in crate::features) fn identity(&self) -> std::result::Result<String, &'static str> {
        use std::fmt::Write;
        let mut words = String::new();
        for expr in self.reading.common.iter().chain(&self.reading.select) {
            let _ = writeln!(words, "{expr}");
        }
        for job in &self.jobs {
            job.function.state_columns()?;
            let _ = writeln!(words, "{:?} of {:?} where {:?}", job.function, job.arguments, job.filter);
        }
        Ok(words)
    }

    /// How many columns a customer's states have.
    pub(in crate::features) fn state_columns(&self) -> usize {
        self.jobs.iter().map(|job| job.function.state_columns().unwrap_or(0)).sum()
    }

    /// The files that share it, by their places.
    pub(in crate::features) fn recipes(&self) -> impl Iterator<Item = usize> {
        self.shares.iter().map(|share| share.recipe)
    }

    /// What is read: a table, or what is made of several.
    pub(in crate::features) fn reads(&self) -> String {
        let mut tables: Vec<String> = Vec::new();
        let _ = self.plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let table = format!("`{}`", scan.table_name.table());
                if !tables.contains(&table) {
                    tables.push(table);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
        tables.join(" with ")
    }

    /// The recipes that read an expression of the plan's select list, each with the aggregate that does; all recipes where it is no
    /// column of an aggregate.
    pub(in crate::features) fn users(&self, expression: Option<usize>) -> Vec<(usize, Option<usize>)> {
        let column = expression.and_then(|at| at.checked_sub(1 + usize::from(self.has_time)));
        let Some(column) = column else { return self.recipes().map(|recipe| (recipe, None)).collect() };
        let reads = |job: &Job| job.arguments.contains(&column) || job.filter == Some(column);
        let jobs = self.jobs.iter().enumerate().filter(|(_, job)| reads(job));
        let users = jobs.flat_map(|(job, _)| {
            self.shares.iter().filter_map(move |share| Some((share.recipe, Some(share.aggregate(job)?))))
        });
        users.collect()
    }

    /// How many expressions every row costs.
    pub(in crate::features) fn expressions(&self) -> usize {
        self.plan.schema().fields().len()
    }

    /// How many different aggregates there are.
    pub(in crate::features) fn aggregates(&self) -> usize {
        self.jobs.len()
    }

    /// How many buckets rows are sorted into.
    pub(in crate::features) fn buckets(&self) -> usize {
        self.buckets.count()
    }

    /// How many columns are merged from them.
    pub(in crate::features) fn windows(&self) -> usize {
        self.jobs.iter().map(|job| job.outputs.len()).sum()
    }
}

/// A source under construction.
struct Draft<'a> {
    newest: usize,
    first: &'a Recipe,
    time: Option<(Expr, DataType)>,
    columns: Vec<Expr>,
    common: Vec<Expr>,
    buckets: Buckets,
    jobs: Vec<Job>,
}

impl<'a> Draft<'a> {
    fn new(group: &[(usize, &'a Recipe)]) -> Result<Draft<'a>> {
        // Of several dates' tables, the newest one's hold the rows of all.
        let newest =
            group.iter().max_by_key(|(_, recipe)| recipe.until().map_or(i64::MAX, |u| u.instant().timestamp()));
        let (place, first) = newest.ok_or_else(|| Error::bug("a source without files"))?;
        let schema = first.flat.base.schema();
        let time = group.iter().find_map(|(_, recipe)| recipe.time.clone());
        let time = time.map(|time| Ok::<_, Error>((time.get_type(schema.as_ref())?, time))).transpose()?;
        let spans = group.iter().flat_map(|(_, recipe)| &recipe.spans);
        let buckets = match &time {
            Some((time_type, _)) => Buckets::of(spans, time_type)?,
            None => Buckets::default(),
        };
        let everywhere = |condition: &&Expr| group.iter().all(|(_, r)| r.flat.conditions.contains(condition));
        let mut common: Vec<Expr> = Vec::new();
        for condition in first.flat.conditions.iter().filter(everywhere) {
            if !common.contains(condition) {
                common.push(condition.clone());
            }
        }
        let time = time.map(|(time_type, time)| (time, time_type)).filter(|_| buckets.count() > 1);
        Ok(Draft { newest: *place, first, time, columns: Vec::new(), common, buckets, jobs: Vec::new() })
    }

    fn finish(mut self, group: &[(usize, &Recipe)]) -> Result<Source> {
        let mut shares = Vec::new();
        for (place, recipe) in group {
            let own = recipe.flat.conditions.iter().filter(|c| !self.common.contains(c)).cloned();
            let own = own.reduce(Expr::and);
            let ranges = recipe.spans.iter().map(|span| self.range(recipe, span)).collect::<Result<Vec<_>>>()?;
            let mut columns = Vec::new();
            for recipient in &recipe.aggregates {
                let function = self.function(recipient, recipe);
                let job = self.job(recipient, &function, own.as_ref())?;
                let data_type = &recipient.output;
                columns.extend(ranges.iter().map(|window| {
                    let (function, data_type, window) = (function.clone(), data_type.clone(), window.clone());
                    (job, self.output(job, Output { function, data_type, window }))
                }));
            }
            shares.push(Share { recipe: *place, columns, spans: recipe.spans.len() });
        }
        let mut select = vec![self.first.key.clone().alias(KEY)];
        select.extend(self.time.iter().map(|(time, _)| time.clone().alias(TIME)));
        select.extend(self.columns.iter().enumerate().map(|(i, expr)| expr.clone().alias(format!("__c{i}"))));
        let bounds = self.bounds(group)?;
        let dated = self.dated(group);
        let reading = Reading { base: self.first.flat.base.clone(), common: self.common, select };
        let plan = reading.plan(reading.base.clone(), bounds)?;
        let (has_time, newest) = (self.time.is_some(), self.newest);
        let unsteady = group.iter().find_map(|(_, recipe)| recipe.unsteady());
        Ok(Source { plan, reading, dated, unsteady, has_time, buckets: self.buckets, jobs: self.jobs, shares, newest })
    }

    fn dated(&self, group: &[(usize, &Recipe)]) -> Option<Dated> {
        let (time, time_type) = self.time.clone()?;
        let until = self.first.until()?;
        let spans = || group.iter().flat_map(|(_, recipe)| &recipe.spans);
        let one_date = spans().all(|span| span.until == Some(until)) && group.iter().all(|(_, r)| r.is_dated());
        let edges = spans().filter_map(|span| span.from).collect();
        one_date.then_some(Dated { time, time_type, until, edges })
    }

    /// The buckets of a file's span. Where a file looks at no time, every row counts.
    fn range(&self, recipe: &Recipe, span: &Span) -> Result<Range<usize>> {
        match (&self.time, &recipe.time) {
            (Some((_, time_type)), Some(_)) => self.buckets.range(span, time_type),
            _ => Ok(0..self.buckets.count()),
        }
    }

    /// Rows outside every window need not be read.
    fn bounds(&self, group: &[(usize, &Recipe)]) -> Result<Vec<Expr>> {
        let Some((time, time_type)) = self.time.as_ref().filter(|_| group.iter().all(|(_, r)| r.time.is_some())) else {
            return Ok(Vec::new());
        };
        let spans = || group.iter().flat_map(|(_, recipe)| &recipe.spans);
        let instant = |day: AsOf| {
            let literal = time_literal(day, time_type).map(lit);
            literal.ok_or_else(|| Error::bug(format!("`{time_type}` is no time")))
        };
        let until = spans().map(|span| span.until).collect::<Option<Vec<_>>>().into_iter().flatten();
        let from = spans().map(|span| span.from).collect::<Option<Vec<_>>>().into_iter().flatten();
        let mut bounds = Vec::new();
        if let Some(until) = until.max_by_key(AsOf::instant) {
            bounds.push(time.clone().lt(instant(until)?));
        }
        if let Some(from) = from.min_by_key(AsOf::instant) {
            bounds.push(time.clone().gt_eq(instant(from)?));
        }
        Ok(bounds)
    }

    fn column(&mut self, expr: Expr) -> usize {
        self.columns.iter().position(|known| *known == expr).unwrap_or_else(|| {
            self.columns.push(expr);
            self.columns.len() - 1
        })
    }

    /// What is computed, now that it is known what rows are sorted by.
    fn function(&self, recipient: &Recipient, recipe: &Recipe) -> Function {
        // One bucket cuts nothing, and is in no order with others.
        let Some((time, _)) = &self.time else {
            return recipient.function.clone();
        };
        let own = recipe.time.is_some() && recipient.arguments.first() == Some(&in_microseconds(time));
        match recipient.function {
            Function::Gap(statistic) if !own => Function::LooseGap(statistic),
            Function::DistinctDays if own && self.buckets.are_days() => Function::WholeDays,
            _ => recipient.function.clone(),
        }
    }

    /// The aggregate of a file whose own conditions are `own`.
    fn job(&mut self, recipient: &Recipient, function: &Function, own: Option<&Expr>) -> Result<usize> {
        let schema = std::sync::Arc::clone(self.first.flat.base.schema());
        let mut arguments = Vec::new();
        for expr in &recipient.arguments {
            let expr = match own {
                // What a file's condition keeps away from an expression must not make it fail.
                Some(own) if !cannot_fail(expr, &schema)? => when(own.clone(), expr.clone()).end()?,
                _ => expr.clone(),
            };
            arguments.push(self.column(expr));
        }
        let filter = own.cloned().into_iter().chain(recipient.filter.clone()).reduce(Expr::and);
        let filter = filter.map(|filter| self.column(filter));
        let function = function.of_states();
        let same = |job: &Job| job.function == function && job.arguments == arguments && job.filter == filter;
        Ok(self.jobs.iter().position(same).unwrap_or_else(|| {
            self.jobs.push(Job { function, arguments, filter, outputs: Vec::new() });
            self.jobs.len() - 1
        }))
    }

    fn output(&mut self, job: usize, output: Output) -> usize {
        let outputs = &mut self.jobs[job].outputs;
        outputs.iter().position(|known| *known == output).unwrap_or_else(|| {
            outputs.push(output);
            outputs.len() - 1
        })
    }
}

/// Columns and numbers made of numbers.
fn cannot_fail(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    let Expr::Cast(cast) = expr else { return Ok(is_harmless(expr)) };
    let from = cast.expr.get_type(schema)?;
    let plain = from.is_numeric() || from.is_temporal() || from == DataType::Boolean;
    Ok(plain && !from.is_decimal() && cannot_fail(&cast.expr, schema)?)
}
