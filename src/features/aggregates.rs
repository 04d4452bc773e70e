//! Surgery on a plan's aggregates: filters, defaults over no rows, and orders that leave no tie.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ExprSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, cast, lit};

/// Which aggregate a column of the aggregate's output is.
pub(super) fn aggregate_of(column: &Column, aggregate: &Aggregate) -> Option<usize> {
    let index = aggregate.schema.maybe_index_of_column(column)?;
    index.checked_sub(aggregate.group_expr.len())
}

pub(super) fn uses_aggregate(expr: &Expr, aggregate: &Aggregate) -> bool {
    expr.column_refs().into_iter().any(|column| aggregate_of(column, aggregate).is_some())
}

/// `expr` with every aggregate's column replaced; where `with` has nothing to offer it stays.
pub(super) fn replaced(
    expr: &Expr,
    aggregate: &Aggregate,
    with: impl Fn(usize) -> Option<Expr>,
) -> datafusion::error::Result<Expr> {
    let replace = |part: Expr| match &part {
        Expr::Column(column) => Ok(match aggregate_of(column, aggregate).and_then(&with) {
            Some(other) => Transformed::yes(other),
            None => Transformed::no(part),
        }),
        _ => Ok(Transformed::no(part)),
    };
    expr.clone().unalias().transform_up(replace).map(|t| t.data)
}

/// `expr` over a group without rows: counts are 0, the rest and the key are NULL.
pub(super) fn over_nothing(expr: &Expr, aggregate: &Aggregate) -> datafusion::error::Result<Expr> {
    let schema = &aggregate.schema;
    let replace = |part: Expr| {
        let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
        let data_type = schema.data_type(column)?.clone();
        let function = aggregate_of(column, aggregate).and_then(|i| aggregate.aggr_expr.get(i)).and_then(function_of);
        let value = match function {
            Some(function) => function.func.default_value(&data_type)?,
            None => ScalarValue::try_from(&data_type)?,
        };
        Ok(Transformed::yes(cast(lit(value), data_type)))
    };
    expr.clone().unalias().transform_up(replace).map(|t| t.data)
}

pub(super) fn function_of(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::AggregateFunction(function) => Some(function),
        Expr::Alias(alias) => function_of(&alias.expr),
        _ => None,
    }
}

pub(super) fn is_sum(expr: &Expr, aggregate: &Aggregate) -> bool {
    let Expr::Column(column) = expr.clone().unalias() else { return false };
    let function = aggregate_of(&column, aggregate).and_then(|i| aggregate.aggr_expr.get(i)).and_then(function_of);
    function.is_some_and(|f| f.func.name() == "sum")
}

/// The aggregate over the rows for which `flag` holds as well.
pub(super) fn filtered(expr: Expr, flag: Option<Expr>) -> Expr {
    let Expr::AggregateFunction(mut function) = expr.unalias() else { return lit(ScalarValue::Null) };
    function.params.filter = match (function.params.filter.take(), flag) {
        (Some(own), Some(flag)) => Some(Box::new(own.and(flag))),
        (own, None) => own,
        (None, Some(flag)) => Some(Box::new(flag)),
    };
    Expr::AggregateFunction(function)
}

/// Rows that an aggregate's ORDER BY leaves tied are ordered by the value itself: whichever comes first, it is the same.
pub(super) fn steady(expr: Expr) -> Expr {
    match expr {
        Expr::AggregateFunction(mut function) => {
            let picks =
                ["first_value", "last_value", "nth_value", "array_agg", "string_agg"].contains(&function.func.name());
            let params = &mut function.params;
            if let (true, false, Some(value)) =
                (picks && !params.order_by.is_empty(), params.distinct, params.args.first().cloned())
            {
                params.order_by.push(Sort::new(value, true, false));
                // DataFusion takes an order apart by expression: each may be there once only.
                let mut seen: Vec<Expr> = Vec::new();
                params.order_by.retain(|sort| {
                    let new = !seen.contains(&sort.expr);
                    seen.push(sort.expr.clone());
                    new
                });
            }
            Expr::AggregateFunction(function)
        }
        other => other,
    }
}

/// The same for every aggregate of a plan; the columns keep their names.
pub(super) fn steady_plan(plan: LogicalPlan) -> datafusion::error::Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else { return Ok(Transformed::no(node)) };
        let ordered = |e: &Expr| function_of(e).is_some_and(|f| !f.params.order_by.is_empty());
        if !aggregate.aggr_expr.iter().any(ordered) {
            return Ok(Transformed::no(node));
        }
        let exprs = aggregate.aggr_expr.iter().map(|expr| match ordered(expr) {
            true => steady(expr.clone().unalias()).alias(expr.schema_name().to_string()),
            false => expr.clone(),
        });
        let new = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), exprs.collect())?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(new)))
    });
    changed.map(|t| t.data)
}

/// The select list and the GROUP BY of a plan, where it is that simple.
pub(super) fn outermost_aggregate(plan: &LogicalPlan) -> (Option<&Projection>, Option<&Aggregate>) {
    let LogicalPlan::Projection(projection) = plan else { return (None, None) };
    let mut input = projection.input.as_ref();
    if let LogicalPlan::Filter(having) = input {
        input = having.input.as_ref();
    }
    match input {
        LogicalPlan::Aggregate(aggregate) => (Some(projection), Some(aggregate)),
        _ => (Some(projection), None),
    }
}
