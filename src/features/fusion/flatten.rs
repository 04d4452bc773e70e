//! Down to the rows that a file reads: through aliases, views and conditions, to a table or to whatever lies beneath.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};

/// A plan as conditions and expressions over a plan beneath it.
#[derive(Debug, Clone)]
pub(super) struct Flat {
    /// What lies beneath: a scan of a table, or anything that is more than conditions and expressions.
    pub base: LogicalPlan,
    /// The conditions, over the base.
    pub conditions: Vec<Expr>,
    /// The plan's columns, over the base.
    columns: Vec<Expr>,
    schema: DFSchemaRef,
}

impl Flat {
    /// Takes a plan apart.
    pub fn of(plan: &LogicalPlan) -> Result<Flat> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let mut flat = Flat::of(&filter.input)?;
                let condition = flat.over_base(&filter.predicate)?;
                flat.conditions.extend(datafusion::logical_expr::utils::split_conjunction_owned(condition));
                Ok(flat)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                Ok(Flat { schema: Arc::clone(&alias.schema), ..Flat::of(&alias.input)? })
            }
            LogicalPlan::Projection(projection) => {
                let flat = Flat::of(&projection.input)?;
                let columns = projection.expr.iter().map(|expr| flat.over_base(&expr.clone().unalias()));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                Ok(Flat { columns, schema: Arc::clone(&projection.schema), ..flat })
            }
            LogicalPlan::TableScan(scan) => match view(scan) {
                Some(inner) => Ok(Flat { schema: Arc::clone(&scan.projected_schema), ..Flat::of(&inner)? }),
                None => Ok(Flat::whole(plan)),
            },
            _ => Ok(Flat::whole(plan)),
        }
    }

    fn whole(plan: &LogicalPlan) -> Flat {
        let columns = (0..plan.schema().fields().len()).map(|i| Expr::Column(plan.schema().qualified_field(i).into()));
        Flat {
            base: plan.clone(),
            conditions: Vec::new(),
            columns: columns.collect(),
            schema: Arc::clone(plan.schema()),
        }
    }

    /// An expression over the plan as one over the base.
    pub fn over_base(&self, expr: &Expr) -> Result<Expr> {
        let replace = |part: Expr| match &part {
            Expr::Column(column) => Ok(Transformed::yes(self.column(column)?.clone())),
            _ => Ok(Transformed::no(part)),
        };
        Ok(expr.clone().transform_up(replace)?.data)
    }

    /// Whether these are the rows of another plan, and the first column of both is the same.
    pub fn has_rows_of(&self, other: &Flat) -> bool {
        let within = |some: &[Expr], all: &[Expr]| some.iter().all(|condition| all.contains(condition));
        self.base == other.base
            && self.columns.first() == other.columns.first()
            && within(&self.conditions, &other.conditions)
            && within(&other.conditions, &self.conditions)
    }

    fn column(&self, column: &Column) -> Result<&Expr> {
        let at = self.schema.index_of_column(column)?;
        self.columns.get(at).ok_or_else(|| datafusion::common::plan_datafusion_err!("the column `{column}` is lost"))
    }
}

/// The SELECT behind a scan of a view, where the scan takes all of it.
fn view(scan: &TableScan) -> Option<LogicalPlan> {
    let whole = scan.projection.is_none() && scan.filters.is_empty() && scan.fetch.is_none();
    scan.source.get_logical_plan().filter(|_| whole).map(|plan| plan.into_owned())
}
