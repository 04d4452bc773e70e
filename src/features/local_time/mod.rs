//! SQL on the clock of the job: dates, times without a zone and parts of times are those of its time zone.
//!
//! DataFusion keeps the zone in a timestamp's type, and `date_part`, `CAST(… AS DATE)` and `to_char` go by it. The rest is done here,
//! in three steps: the text of a query is made to say what it means (`CAST(x AS TIMESTAMP)` is a function of the clock), operators
//! between timestamps and dates are planned so that a date is its local midnight, and what is left that takes the zone away is refused.
//! A job in UTC needs none of it.

mod functions;

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use chrono_tz::Tz;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, VisitMut, visit_expressions_mut,
};

use self::functions::{Function, local_timestamp};
use crate::error::Problem;
use crate::local_time::is_utc;

/// The time zone that a context's queries are planned for.
pub(super) fn zone_of(context: &SessionContext) -> Tz {
    let state = context.state();
    let name = state.config_options().execution.time_zone.clone();
    name.and_then(|name| name.parse().ok()).unwrap_or(Tz::UTC)
}

/// The time zone of the first timestamp of a schema; UTC without one.
pub(super) fn zone_of_columns(schema: &arrow::datatypes::Schema) -> Tz {
    let zones = schema.fields().iter().filter_map(|field| match field.data_type() {
        DataType::Timestamp(_, Some(zone)) => zone.parse().ok(),
        _ => None,
    });
    zones.into_iter().next().unwrap_or(Tz::UTC)
}

/// Puts functions and operators on the clock of a time zone.
pub(super) fn register(state: &mut SessionState, timezone: Tz) -> Result<()> {
    if is_utc(timezone) {
        return Ok(());
    }
    for function in Function::ALL {
        state.register_udf(function.on(timezone))?;
    }
    state.register_expr_planner(Arc::new(Operators { timezone }))
}

/// Makes casts to timestamps, and what compares several values at once, say what they mean on the clock.
pub(super) fn localize(query: &mut impl VisitMut, timezone: Tz) {
    if is_utc(timezone) {
        return;
    }
    let _ = visit_expressions_mut(query, |expr| {
        if let Some(local) = localized(expr) {
            *expr = local;
        }
        ControlFlow::<()>::Continue(())
    });
}

fn localized(expr: &ast::Expr) -> Option<ast::Expr> {
    let binary = |left: &ast::Expr, op: BinaryOperator, right: &ast::Expr| ast::Expr::BinaryOp {
        left: Box::new(left.clone()),
        op,
        right: Box::new(right.clone()),
    };
    let not_if = |negated: bool, expr: ast::Expr| {
        let nested = ast::Expr::Nested(Box::new(expr));
        match negated {
            true => ast::Expr::UnaryOp { op: ast::UnaryOperator::Not, expr: Box::new(nested) },
            false => nested,
        }
    };
    match expr {
        ast::Expr::TypedString(typed) if is_timestamp(&typed.data_type) => {
            Some(call(Function::Timestamp, ast::Expr::Value(typed.value.clone())))
        }
        ast::Expr::Cast { kind, expr, data_type, .. } if is_timestamp(data_type) => Some(match kind {
            CastKind::TryCast | CastKind::SafeCast => call(Function::TryTimestamp, expr.as_ref().clone()),
            CastKind::Cast | CastKind::DoubleColon => call(Function::Timestamp, expr.as_ref().clone()),
        }),
        ast::Expr::Between { expr, negated, low, high } => {
            let (low, high) = (binary(expr, BinaryOperator::GtEq, low), binary(expr, BinaryOperator::LtEq, high));
            Some(not_if(*negated, binary(&low, BinaryOperator::And, &high)))
        }
        // A list of dates; texts and numbers are left to the engine.
        ast::Expr::InList { expr, list, negated } if list.iter().any(is_time) => {
            let one = |value: &ast::Expr| binary(expr, BinaryOperator::Eq, value);
            let any = list.iter().map(one).reduce(|left, right| binary(&left, BinaryOperator::Or, &right))?;
            Some(not_if(*negated, any))
        }
        ast::Expr::Function(function) => {
            let name = function.name.0.last()?.as_ident()?.value.to_lowercase();
            let alone = matches!(&function.args, FunctionArguments::List(list) if list.args.len() == 1);
            let mut renamed = function.clone();
            renamed.name = ObjectName::from(vec![Ident::new("to_timestamp_seconds")]);
            (name == "from_unixtime" && alone).then_some(ast::Expr::Function(renamed))
        }
        _ => None,
    }
}

fn is_timestamp(data_type: &ast::DataType) -> bool {
    matches!(data_type, ast::DataType::Timestamp(..) | ast::DataType::Datetime(_))
}

/// Whether an expression is written as a date or a time.
fn is_time(expr: &ast::Expr) -> bool {
    match expr {
        ast::Expr::TypedString(_) => true,
        ast::Expr::Cast { data_type, .. } => is_timestamp(data_type) || matches!(data_type, ast::DataType::Date),
        ast::Expr::Function(function) => {
            function.name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| name.value.contains("timestamp"))
        }
        ast::Expr::Nested(inner) => is_time(inner),
        _ => false,
    }
}

fn call(function: Function, argument: ast::Expr) -> ast::Expr {
    let argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(argument));
    let args = FunctionArgumentList { duplicate_treatment: None, args: vec![argument], clauses: Vec::new() };
    ast::Expr::Function(ast::Function {
        name: ObjectName::from(vec![Ident::new(function.name())]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Plans operators between a timestamp and something else that says when.
#[derive(Debug)]
struct Operators {
    timezone: Tz,
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as Op;
        let op = match expr.op {
            Op::Eq => Operator::Eq,
            Op::NotEq => Operator::NotEq,
            Op::Lt => Operator::Lt,
            Op::LtEq => Operator::LtEq,
            Op::Gt => Operator::Gt,
            Op::GtEq => Operator::GtEq,
            Op::Plus => Operator::Plus,
            Op::Minus => Operator::Minus,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let planned = |left: Expr, right: Expr| {
            let (left, right) = (Box::new(left), Box::new(right));
            PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(left, op, right)))
        };
        let timestamp = |expr: Expr| local_timestamp(expr, self.timezone);
        let shift = |function: Function, time: Expr, by: Expr| {
            PlannerResult::Planned(function.on(self.timezone).call(vec![time, by]))
        };
        Ok(match (&left, &right) {
            (DataType::Timestamp(_, Some(_)), DataType::Interval(_)) if op == Operator::Plus => {
                shift(Function::Add, expr.left, expr.right)
            }
            (DataType::Timestamp(_, Some(_)), DataType::Interval(_)) if op == Operator::Minus => {
                shift(Function::Subtract, expr.left, expr.right)
            }
            (DataType::Interval(_), DataType::Timestamp(_, Some(_))) if op == Operator::Plus => {
                shift(Function::Add, expr.right, expr.left)
            }
            (DataType::Timestamp(_, Some(_)), other) if is_local(other) && op != Operator::Plus => {
                planned(expr.left, timestamp(expr.right))
            }
            (other, DataType::Timestamp(_, Some(_))) if is_local(other) && op != Operator::Plus => {
                planned(timestamp(expr.left), expr.right)
            }
            _ => PlannerResult::Original(expr),
        })
    }
}

/// Whether values of this type say a time on a clock, and not which clock.
fn is_local(data_type: &DataType) -> bool {
    use DataType::{Date32, Date64, LargeUtf8, Timestamp, Utf8, Utf8View};
    matches!(data_type, Date32 | Date64 | Utf8 | LargeUtf8 | Utf8View | Timestamp(_, None))
}

/// What in an analysed plan would read a timestamp by the hours of UTC.
pub(super) fn refuse_naive(plan: &LogicalPlan) -> Result<Option<Problem>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            found = found.take().or(naive_part(expr, &schema)?);
            Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    let naive = plan.schema().fields().iter().find(|field| matches!(field.data_type(), DataType::Timestamp(_, None)));
    Ok(found.or_else(|| {
        let field = naive?;
        Some(
            Problem::new(format!("`{}` is a time without a zone", field.name()))
                .hint("write `CAST(… AS TIMESTAMP)`, which is the time on the clock of the job's `timezone`"),
        )
    }))
}

/// The same of one expression.
pub(super) fn naive_part(expr: &Expr, schema: &DFSchema) -> Result<Option<Problem>, DataFusionError> {
    let mut found = None;
    expr.apply(|part| {
        let (inner, to) = match part {
            Expr::Cast(cast) => (cast.expr.as_ref(), cast.field.data_type().clone()),
            Expr::TryCast(cast) => (cast.expr.as_ref(), cast.field.data_type().clone()),
            Expr::ScalarFunction(function) if function.name() == "arrow_cast" => match function.args.first() {
                Some(inner) => match part.get_type(schema) {
                    Ok(to) => (inner, to),
                    Err(_) => return Ok(TreeNodeRecursion::Continue),
                },
                None => return Ok(TreeNodeRecursion::Continue),
            },
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        // What has no type here was planned in another schema, and is looked at there.
        let Ok(from) = inner.get_type(schema) else { return Ok(TreeNodeRecursion::Continue) };
        if matches!((&from, &to), (DataType::Timestamp(_, Some(_)), DataType::Timestamp(_, None))) {
            let message = "a timestamp meets a date or a time without a zone here, and would lose its own";
            let hint = "write `CAST(… AS TIMESTAMP)` around the other one: a date is then its midnight in the job's `timezone`";
            found = Some(Problem::new(message).hint(hint));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
