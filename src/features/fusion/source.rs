//! One scan that serves many files: every expression once, every aggregate once.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit, when};

use super::aggregate::{Function, Recipient, is_harmless};
use super::buckets::Buckets;
use super::recipe::Recipe;
use crate::features::part::{Span, time_literal};
use crate::{AsOf, Error, Result};

/// The name of the key in a source's plan.
const KEY: &str = "__key";
/// The name of the time.
const TIME: &str = "__time";

/// Where a file's columns come from, once the pass is over.
#[derive(Debug)]
pub(super) struct Share {
    /// The file's place among the recipes.
    pub recipe: usize,
    /// For each aggregate and each span of it, in the order of the recipe's schema: the aggregate of the source and its
    /// window.
    pub columns: Vec<(usize, usize)>,
}

/// An aggregate over the columns of a source's plan.
#[derive(Debug)]
pub(super) struct Job {
    pub function: Function,
    pub output: DataType,
    /// The columns that it reads, counted behind key and time.
    pub arguments: Vec<usize>,
    pub filter: Option<usize>,
    pub windows: Vec<Range<usize>>,
}

/// One scan and everything that is computed from it.
#[derive(Debug)]
pub(in crate::features) struct Source {
    /// The key, the time if there is one, then the columns.
    pub(in crate::features) plan: LogicalPlan,
    pub(super) has_time: bool,
    pub(super) buckets: Buckets,
    pub(super) jobs: Vec<Job>,
    pub(super) shares: Vec<Share>,
    /// The recipe whose table is read.
    pub(super) newest: usize,
}

impl Source {
    /// The sources of some recipes, each recipe with its place and the number of its date.
    pub(in crate::features) fn of(recipes: &[(usize, usize, &Recipe)]) -> Result<Vec<Source>> {
        let mut groups: Vec<Vec<(usize, usize, &Recipe)>> = Vec::new();
        for (place, date, recipe) in recipes {
            let together = |(_, other, known): &(usize, usize, &Recipe)| {
                known.shares_rows_with(recipe) && (other == date || known.is_dated() && recipe.is_dated())
            };
            match groups.iter_mut().find(|group| group.iter().all(together)) {
                Some(group) => group.push((*place, *date, recipe)),
                None => groups.push(vec![(*place, *date, recipe)]),
            }
        }
        let groups = groups.into_iter().map(|group| group.into_iter().map(|(place, _, recipe)| (place, recipe)));
        groups.map(Iterator::collect::<Vec<_>>).map(|group| Draft::new(&group)?.finish(&group)).collect()
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
        self.jobs.iter().map(|job| job.windows.len()).sum()
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
        let (place, first) = newest.ok_or_else(|| Error::infra("a source without files"))?;
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
                let job = self.job(recipient, own.as_ref())?;
                columns.extend(ranges.iter().map(|range| (job, self.window(job, range))));
            }
            shares.push(Share { recipe: *place, columns });
        }
        let mut builder = LogicalPlanBuilder::from(self.first.flat.base.clone());
        let bounds = self.bounds(group)?;
        if let Some(condition) = self.common.iter().cloned().chain(bounds).reduce(Expr::and) {
            builder = builder.filter(condition)?;
        }
        let mut select = vec![self.first.key.clone().alias(KEY)];
        select.extend(self.time.iter().map(|(time, _)| time.clone().alias(TIME)));
        select.extend(self.columns.iter().enumerate().map(|(i, expr)| expr.clone().alias(format!("__c{i}"))));
        let plan = builder.project(select)?.build()?;
        let has_time = self.time.is_some();
        Ok(Source { plan, has_time, buckets: self.buckets, jobs: self.jobs, shares, newest: self.newest })
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
            literal.ok_or_else(|| Error::infra(format!("`{time_type}` is no time")))
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

    /// The aggregate of a file whose own conditions are `own`.
    fn job(&mut self, recipient: &Recipient, own: Option<&Expr>) -> Result<usize> {
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
        let same = |job: &Job| {
            job.function == recipient.function
                && job.arguments == arguments
                && job.filter == filter
                && job.output == recipient.output
        };
        Ok(self.jobs.iter().position(same).unwrap_or_else(|| {
            let (function, output) = (recipient.function.clone(), recipient.output.clone());
            self.jobs.push(Job { function, output, arguments, filter, windows: Vec::new() });
            self.jobs.len() - 1
        }))
    }

    fn window(&mut self, job: usize, range: &Range<usize>) -> usize {
        let windows = &mut self.jobs[job].windows;
        windows.iter().position(|known| known == range).unwrap_or_else(|| {
            windows.push(range.clone());
            windows.len() - 1
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
