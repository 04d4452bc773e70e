//! What one file wants of its rows, before it is known with which files it shares them.

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ExprSchema};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, lit};

use super::aggregate::{Function, Recipient, in_microseconds};
use super::flatten::Flat;
use crate::AsOf;
use crate::features::aggregates::steady;
use crate::features::part::{Span, time_literal};

/// One file: aggregates of its rows, once per span, and the columns made of them.
#[derive(Debug, Clone)]
pub(in crate::features) struct Recipe {
    pub(super) flat: Flat,
    /// The key of each row, in the key's type, over the base.
    pub(super) key: Expr,
    /// The time of each row, over the base; `None` where every row counts.
    pub(super) time: Option<Expr>,
    pub(super) spans: Vec<Span>,
    pub(super) aggregates: Vec<Recipient>,
    /// The columns of [`Recipe::select`]'s input: every aggregate in every span.
    pub(super) fields: Vec<Field>,
    /// The file's columns.
    pub(super) select: Vec<Expr>,
    /// Why what past days add up to cannot be kept, as far as those who know the table and the file have said.
    unfit: Option<&'static str>,
}

impl Recipe {
    /// The recipe of aggregates by key; an error says why a file runs as it is written.
    pub(in crate::features) fn of_aggregates(
        aggregate: &Aggregate,
        key: &Expr,
        time: Option<&Expr>,
        spans: &[Span],
        grouped: &LogicalPlan,
        select: Vec<Expr>,
    ) -> Result<Recipe, String> {
        let flat = Flat::of(&aggregate.input).map_err(words)?;
        let schema = aggregate.input.schema();
        let aggregates = aggregate.aggr_expr.iter().map(|expr| {
            let mut recipient = Recipient::of(&steady(expr.clone().unalias()), schema)?;
            recipient.over(&flat).map_err(words)?;
            Ok::<_, String>(recipient)
        });
        let aggregates = aggregates.collect::<Result<Vec<_>, _>>()?;
        // The key stands before the aggregates.
        let fields = grouped.schema().fields().iter().skip(1).map(|field| field.as_ref().clone()).collect();
        let key = flat.over_base(key).map_err(words)?;
        let time = time.map(|time| flat.over_base(time)).transpose().map_err(words)?;
        Recipe { flat, key, time, spans: spans.to_vec(), aggregates, fields, select, unfit: None }.settled()
    }

    /// The recipe of expressions over a table with one row per key: key and columns are over `plan`, the time is a column of
    /// what it selects from.
    pub(in crate::features) fn of_rows(
        plan: &LogicalPlan,
        key: &Expr,
        time: Option<&str>,
        span: Span,
        select: &[Expr],
    ) -> Result<Recipe, String> {
        let LogicalPlan::Projection(projection) = plan else {
            return Err("it is more than expressions over the rows of one table".to_owned());
        };
        let below = Flat::of(&projection.input).map_err(words)?;
        let time = time.and_then(|name| projection.input.schema().qualified_field_with_unqualified_name(name).ok());
        let time = time.map(|found| below.over_base(&Expr::Column(Column::from(found)))).transpose().map_err(words)?;
        let flat = Flat::of(plan).map_err(words)?;
        let key = flat.over_base(key).map_err(words)?;
        if !matches!(flat.base, LogicalPlan::TableScan(_)) {
            return Err("it is more than expressions over the rows of one table".to_owned());
        }
        let over_base = select.iter().map(|expr| flat.over_base(expr)).collect::<datafusion::error::Result<Vec<_>>>();
        let over_base = over_base.map_err(words)?;
        let mut columns: Vec<Column> =
            over_base.iter().flat_map(|expr| expr.column_refs().into_iter().cloned()).collect();
        columns.sort();
        columns.dedup();
        let (mut aggregates, mut fields) = (Vec::new(), Vec::new());
        for (i, column) in columns.iter().enumerate() {
            let field = flat.base.schema().field_from_column(column).map_err(words)?;
            let output = field.data_type().clone();
            fields.push(Field::new(format!("__r{i}"), output.clone(), true));
            let arguments = vec![Expr::Column(column.clone())];
            aggregates.push(Recipient { function: Function::Only, arguments, filter: None, output });
        }
        let renamed = over_base.into_iter().map(|expr| {
            let expr = expr.transform_up(|part| match &part {
                Expr::Column(column) => {
                    let at = columns.iter().position(|known| known == column).unwrap_or_default();
                    Ok(Transformed::yes(Expr::Column(Column::new_unqualified(format!("__r{at}")))))
                }
                _ => Ok(Transformed::no(part)),
            });
            expr.map(|expr| expr.data)
        });
        let select = renamed.collect::<datafusion::error::Result<Vec<_>>>().map_err(words)?;
        Recipe { flat, key, time, spans: vec![span], aggregates, fields, select, unfit: None }.settled()
    }

    /// Drops the cut that a view makes and the spans make as well.
    fn settled(mut self) -> Result<Recipe, String> {
        let read = self.aggregates.iter().flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
        if self.flat.conditions.iter().chain(read).chain([&self.key]).any(has_subquery) {
            return Err("it has a subquery".to_owned());
        }
        if let Some(time) = &self.time {
            let time_type = time.get_type(self.flat.base.schema().as_ref()).map_err(words)?;
            let untils = self.spans.iter().map(|span| span.until).collect::<Option<Vec<_>>>().unwrap_or_default();
            let cuts: Vec<Expr> = untils
                .iter()
                .filter_map(|until| Some(time.clone().lt(lit(time_literal(*until, &time_type)?))))
                .collect();
            let implied = |condition: &Expr| !cuts.is_empty() && cuts.iter().all(|cut| cut == condition);
            self.flat.conditions.retain(|condition| !implied(condition));
        }
        Ok(self)
    }

    /// Whether the rows of two files can be read together.
    pub(super) fn shares_rows_with(&self, other: &Recipe) -> bool {
        let times = match (&self.time, &other.time) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        times && self.key == other.key && self.flat.base == other.flat.base
    }

    /// Whether the rows of an earlier date are those of a later one that lie before it.
    pub(super) fn is_dated(&self) -> bool {
        self.time.is_some() && matches!(self.flat.base, LogicalPlan::TableScan(_)) && self.until().is_some()
    }

    /// Why what past days add up to cannot be kept for later nights, where that is so.
    pub(in crate::features) fn unsteady(&self) -> Option<&'static str> {
        let (Some(time), true) = (&self.time, self.is_dated()) else {
            return Some("its rows are no table's by themselves, or are in no order of time");
        };
        if self.unfit.is_some() {
            return self.unfit;
        }
        let own = |aggregate: &Recipient| aggregate.arguments.first() == Some(&in_microseconds(time));
        self.aggregates.iter().find_map(|aggregate| match aggregate.function {
            Function::Only => Some("a table with one row per customer is read as it is"),
            Function::Gap(_) if !own(aggregate) => Some("gaps of another time than the event time need every row"),
            _ => None,
        })
    }

    /// Whether another date's recipe adds up something else; `None` where there is no recipe at all.
    pub(in crate::features) fn compare(&mut self, later: Option<&Recipe>) {
        let words = |recipe: &Recipe| {
            let read =
                recipe.aggregates.iter().flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
            let read = read.chain(&recipe.flat.conditions).chain([&recipe.key]).chain(&recipe.time);
            read.map(ToString::to_string).collect::<Vec<_>>()
        };
        if later.is_none_or(|later| words(self) != words(later)) {
            self.refuse_states("what it adds up depends on `$as_of`");
        }
    }

    /// Says why what past days add up to cannot be kept.
    pub(in crate::features) fn refuse_states(&mut self, why: &'static str) {
        self.unfit = Some(why);
    }

    /// The table whose rows it reads, if they are those of one.
    pub(in crate::features) fn table(&self) -> Option<&str> {
        match &self.flat.base {
            LogicalPlan::TableScan(scan) => Some(scan.table_name.table()),
            _ => None,
        }
    }

    /// The last day that it looks at; `None` where it looks at all.
    pub(super) fn until(&self) -> Option<AsOf> {
        self.spans.iter().map(|span| span.until).collect::<Option<Vec<_>>>()?.into_iter().max_by_key(AsOf::instant)
    }
}

fn words(error: datafusion::error::DataFusionError) -> String {
    error.strip_backtrace()
}

fn has_subquery(expr: &Expr) -> bool {
    let is_one = |part: &Expr| {
        let found = matches!(
            part,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        );
        Ok(found)
    };
    expr.exists(is_one).unwrap_or(true)
}
