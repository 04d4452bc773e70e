//! Which customer's sum of integers leaves 64 bits: found after the fact, with sums of decimals.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Decimal128Type};
use arrow::util::display::array_value_to_string;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, cast};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;

use super::aggregates::function_of;

/// Wide enough for the sum of any integers that a table holds.
const WIDE: DataType = DataType::Decimal128(38, 0);

/// The first group of an aggregate one of whose sums is no integer of 64 bits: the sum as it was planned, and the group's first key.
pub(super) async fn find(context: &SessionContext, node: &LogicalPlan) -> Option<(Expr, Option<String>)> {
    let LogicalPlan::Aggregate(aggregate) = node else { return None };
    let schema = aggregate.input.schema();
    let mut sums = Vec::new();
    let mut wide = Vec::new();
    for expr in &aggregate.aggr_expr {
        let Some(function) = function_of(expr).filter(|function| function.func.name() == "sum") else { continue };
        if !expr.get_type(schema.as_ref()).is_ok_and(|output| output.is_integer()) || function.params.distinct {
            continue;
        }
        let mut function = function.clone();
        function.params.args = function.params.args.into_iter().map(|arg| cast(arg, WIDE)).collect();
        wide.push(Expr::AggregateFunction(function).alias(format!("__sum_{}", wide.len())));
        sums.push(expr.clone().unalias());
    }
    if sums.is_empty() {
        return None;
    }
    let keys = aggregate.group_expr.len();
    let plan = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), wide).ok()?;
    let mut rows = DataFrame::new(context.state(), LogicalPlan::Aggregate(plan)).execute_stream().await.ok()?;
    while let Some(Ok(batch)) = rows.next().await {
        for (at, sum) in sums.iter().enumerate() {
            let totals = batch.column(keys + at).as_primitive_opt::<Decimal128Type>()?;
            let great = totals.iter().position(|total| total.is_some_and(|total| i64::try_from(total).is_err()));
            if let Some(row) = great {
                let key = (keys > 0).then(|| array_value_to_string(batch.column(0), row).ok()).flatten();
                return Some((sum.clone(), key));
            }
        }
    }
    None
}
