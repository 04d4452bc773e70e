//! Conditions before expressions: what a WHERE keeps away from an expression must not make it fail.
//!
//! DataFusion puts expressions below a filter where that leaves fewer columns for it to copy, and works them out for rows that the filter
//! drops: `cents / qty … WHERE qty > 0` then divides by zero. Here only bare columns go below a filter.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::execution::SessionState;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, remove_unnecessary_projections, try_embed_projection};

/// The name of the rule of DataFusion that this one stands in for.
const REPLACED: &str = "ProjectionPushdown";

/// The rules of a session, with this one in the place of DataFusion's.
pub(super) fn rules(state: &SessionState) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let rule = |rule: &Arc<dyn PhysicalOptimizerRule + Send + Sync>| match rule.name() {
        REPLACED => Arc::new(FilterFirst) as Arc<dyn PhysicalOptimizerRule + Send + Sync>,
        _ => Arc::clone(rule),
    };
    state.physical_optimizers().iter().map(rule).collect()
}

#[derive(Debug)]
struct FilterFirst;

impl PhysicalOptimizerRule for FilterFirst {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(pushed_down).data()
    }

    fn name(&self) -> &str {
        REPLACED
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn pushed_down(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(projection) = plan.downcast_ref::<ProjectionExec>() else { return Ok(Transformed::no(plan)) };
    let Some(filter) = projection.input().downcast_ref::<FilterExec>() else {
        return remove_unnecessary_projections(plan);
    };
    let is_plain = |expr: &Arc<dyn datafusion::physical_expr::PhysicalExpr>| {
        expr.downcast_ref::<Column>().is_some() || expr.downcast_ref::<Literal>().is_some()
    };
    if projection.expr().iter().all(|projected| is_plain(&projected.expr)) {
        return remove_unnecessary_projections(plan);
    }
    // The filter copies the columns that are read, and no others.
    let embedded = try_embed_projection(projection, filter)?;
    Ok(embedded.map_or_else(|| Transformed::no(Arc::clone(&plan)), Transformed::yes))
}
