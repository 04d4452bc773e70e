//! Arithmetic and comparisons as SQL means them.
//!
//! DataFusion lets integers wrap, and compares doubles by their bits: a NaN with a sign is less than every number, −0.0 is less than
//! 0.0, and whether a row with NaN passes a filter hangs on the file that it lies in, because the least and greatest values in a
//! file's footer leave NaN out. In the plans of a job integers are added, subtracted and multiplied in 64 bits, and leaving them is
//! an error; a comparison of doubles takes every NaN for the greatest value and −0.0 for 0.0, and skips no part of a file.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast, when,
};

/// A plan whose arithmetic and comparisons are checked; its columns keep their names.
pub(super) fn checked_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| {
        let mut schema = merge_schema(&node.inputs());
        if let LogicalPlan::TableScan(scan) = &node {
            schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
        }
        let names = NamePreserver::new(&node);
        let changed = node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(Transformed::yes(name.restore(checked(expr, &schema)?)))
        })?;
        // A column below may have become wider.
        changed.map_data(LogicalPlan::recompute_schema)
    });
    changed.map(|plan| plan.data)
}

/// An expression over columns of this schema whose arithmetic and comparisons are checked.
pub(super) fn checked(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let check = |part: Expr| {
        Ok(Transformed::yes(match part {
            Expr::BinaryExpr(binary) => of_two(binary, schema),
            Expr::Negative(inner) => match inner.get_type(schema) {
                Ok(from) if from.is_signed_integer() => of_integers(Arithmetic::Negate, vec![(*inner, from)]),
                _ => Expr::Negative(inner),
            },
            Expr::Between(mut between) => {
                for side in [&mut between.expr, &mut between.low, &mut between.high] {
                    **side = comparable(std::mem::take(&mut **side), schema);
                }
                Expr::Between(between)
            }
            Expr::InList(mut list) => {
                *list.expr = comparable(std::mem::take(&mut *list.expr), schema);
                list.list = list.list.into_iter().map(|value| comparable(value, schema)).collect();
                Expr::InList(list)
            }
            Expr::Case(mut case) => {
                if let Some(value) = case.expr.take() {
                    case.expr = Some(Box::new(comparable(*value, schema)));
                    for (when, _) in &mut case.when_then_expr {
                        **when = comparable(std::mem::take(&mut **when), schema);
                    }
                }
                Expr::Case(case)
            }
            Expr::AggregateFunction(mut function) => {
                if let Some(filter) = function.params.filter.as_deref() {
                    // What the filter keeps away from an expression must not make it fail.
                    let guarded = function.params.args.into_iter().map(|arg| match may_fail(&arg, schema) {
                        true => when(filter.clone(), arg).end(),
                        false => Ok(arg),
                    });
                    function.params.args = guarded.collect::<Result<_>>()?;
                }
                Expr::AggregateFunction(function)
            }
            other => other,
        }))
    };
    expr.transform_up(check).map(|expr| expr.data)
}

/// Whether there are values on which an argument of an aggregate fails.
fn may_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let fails = |part: &Expr| match part {
        Expr::BinaryExpr(binary) => matches!(binary.op, Operator::Divide | Operator::Modulo),
        Expr::ScalarFunction(function) => function.func.inner().downcast_ref::<Checked>().is_some(),
        Expr::Cast(cast) => cast.expr.get_type(schema).is_ok_and(|from| from.is_string()),
        _ => false,
    };
    expr.exists(|part| Ok(fails(part))).unwrap_or(true)
}

/// The expression as it was before [`checked`], for messages.
pub(super) fn as_written(expr: Expr) -> Result<Expr> {
    let restore = |part: Expr| {
        let Expr::ScalarFunction(ScalarFunction { func, mut args }) = part else { return Ok(Transformed::no(part)) };
        let of = func.inner().downcast_ref::<Checked>().map(|checked| checked.of);
        let is_comparable = func.inner().downcast_ref::<Comparable>().is_some();
        let operator = match of {
            Some(Arithmetic::Add) => Operator::Plus,
            Some(Arithmetic::Subtract) => Operator::Minus,
            Some(Arithmetic::Multiply) => Operator::Multiply,
            Some(Arithmetic::Negate) if args.len() == 1 => {
                return Ok(Transformed::yes(Expr::Negative(Box::new(uncast(args.remove(0))))));
            }
            None if is_comparable && args.len() == 1 => return Ok(Transformed::yes(args.remove(0))),
            _ => return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))),
        };
        let (Some(right), Some(left)) = (args.pop(), args.pop()) else {
            return Err(exec_datafusion_err!("arithmetic is of two numbers"));
        };
        let (left, right) = (Box::new(uncast(left)), Box::new(uncast(right)));
        Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, operator, right))))
    };
    expr.transform_up(restore).map(|expr| expr.data)
}

/// Without the cast that [`of_integers`] puts around narrower numbers.
fn uncast(expr: Expr) -> Expr {
    match expr {
        Expr::Cast(cast) if *cast.field.data_type() == DataType::Int64 => *cast.expr,
        other => other,
    }
}

fn of_two(binary: BinaryExpr, schema: &DFSchema) -> Expr {
    let BinaryExpr { left, op, right } = binary;
    let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else {
        return Expr::BinaryExpr(BinaryExpr { left, op, right });
    };
    let arithmetic = match op {
        Operator::Plus => Some(Arithmetic::Add),
        Operator::Minus => Some(Arithmetic::Subtract),
        Operator::Multiply => Some(Arithmetic::Multiply),
        _ => None,
    };
    match BinaryTypeCoercer::new(&left_type, &op, &right_type).get_input_types() {
        Ok((one, other)) if arithmetic.is_some() && one == other && one.is_integer() => match arithmetic {
            Some(arithmetic) => of_integers(arithmetic, vec![(*left, one), (*right, other)]),
            None => Expr::BinaryExpr(BinaryExpr { left, op, right }),
        },
        _ if compares(op) => {
            let (left, right) = (comparable(*left, schema), comparable(*right, schema));
            Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
        }
        _ => Expr::BinaryExpr(BinaryExpr { left, op, right }),
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Arithmetic of integers that are coerced to these types: in 64 bits, whatever their own.
fn of_integers(of: Arithmetic, numbers: Vec<(Expr, DataType)>) -> Expr {
    let unsigned = numbers.iter().any(|(_, data_type)| *data_type == DataType::UInt64);
    let wide = if unsigned { DataType::UInt64 } else { DataType::Int64 };
    let widened = numbers.into_iter().map(|(number, _)| match &number {
        Expr::Literal(value, _) if value.data_type() == wide => number,
        _ => cast(number, wide.clone()),
    });
    of.function().call(widened.collect())
}

/// A double as it is compared; anything else as it is.
fn comparable(expr: Expr, schema: &DFSchema) -> Expr {
    let is_double = expr.get_type(schema).is_ok_and(|t| matches!(t, DataType::Float32 | DataType::Float64));
    match is_double && !matches!(expr, Expr::Literal(..)) {
        true => COMPARABLE.call(vec![expr]),
        false => expr,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Negate,
}

impl Arithmetic {
    fn name(self) -> &'static str {
        match self {
            Arithmetic::Add => "checked_add",
            Arithmetic::Subtract => "checked_subtract",
            Arithmetic::Multiply => "checked_multiply",
            Arithmetic::Negate => "checked_negate",
        }
    }

    fn function(self) -> ScalarUDF {
        let arguments = if self == Arithmetic::Negate { 1 } else { 2 };
        ScalarUDF::from(Checked { of: self, signature: Signature::any(arguments, Volatility::Immutable) })
    }
}

/// Arithmetic of integers that does not wrap.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    of: Arithmetic,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.of.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        arg_types.first().cloned().ok_or_else(|| exec_datafusion_err!("`{}` is of a number", self.name()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalars = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let result = match (self.of, args.args.as_slice()) {
            (Arithmetic::Negate, [ColumnarValue::Array(number)]) => neg(number)?,
            (Arithmetic::Negate, [ColumnarValue::Scalar(number)]) => neg(&number.to_array()?)?,
            (of, [left, right]) => {
                let operation = match of {
                    Arithmetic::Add => add,
                    Arithmetic::Subtract => sub,
                    _ => mul,
                };
                datafusion::physical_expr_common::datum::apply(left, right, operation)?.into_array(args.number_rows)?
            }
            _ => return Err(exec_datafusion_err!("`{}` has the wrong number of arguments", self.name())),
        };
        Ok(match all_scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    }
}

static COMPARABLE: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(Comparable { signature: Signature::any(1, Volatility::Immutable) })));

/// A double whose bits are ordered as numbers are: one NaN, which is the greatest value, and one zero.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Comparable {
    signature: Signature,
}

impl ScalarUDFImpl for Comparable {
    fn name(&self) -> &str {
        "comparable"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        arg_types.first().cloned().ok_or_else(|| exec_datafusion_err!("`comparable` is of a double"))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(array)] => Ok(ColumnarValue::Array(compared(array))),
            [ColumnarValue::Scalar(value)] => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&compared(&value.to_array()?), 0)?))
            }
            _ => Err(exec_datafusion_err!("`comparable` is of one double")),
        }
    }
}

fn compared(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => one_of_each::<Float64Type>(
            array,
            |x| x.is_nan() || x == 0.0,
            |x| if x.is_nan() { f64::NAN } else { x + 0.0 },
        ),
        DataType::Float32 => one_of_each::<Float32Type>(
            array,
            |x| x.is_nan() || x == 0.0,
            |x| if x.is_nan() { f32::NAN } else { x + 0.0 },
        ),
        _ => Arc::clone(array),
    }
}

/// The numbers, changed where some are of a kind that hardly any is.
fn one_of_each<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    is_rare: impl Fn(T::Native) -> bool,
    change: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    let numbers = array.as_primitive::<T>();
    // Many at once: asking after each number whether to go on would take longer.
    if !numbers.values().chunks(64).any(|some| some.iter().fold(false, |any, x| any | is_rare(*x))) {
        return Arc::clone(array);
    }
    Arc::new(numbers.unary::<_, T>(change))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int32Array, Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::{col, lit};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::features::bench;

    fn evaluated(expr: Expr, batch: &RecordBatch) -> Result<ArrayRef> {
        let schema = Arc::new(DFSchema::try_from(batch.schema().as_ref().clone())?);
        let expr = checked(expr, &schema)?;
        bench::physical(&SessionContext::new(), expr, &schema)?.evaluate(batch)?.into_array(batch.num_rows())
    }

    fn integers() -> RecordBatch {
        let fields = [("a", DataType::Int64), ("b", DataType::Int32)].map(|(name, t)| Field::new(name, t, true));
        let a = Int64Array::from(vec![Some(i64::MAX), None, Some(3)]);
        let b = Int32Array::from(vec![Some(i32::MAX), Some(i32::MIN), Some(4)]);
        RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![Arc::new(a), Arc::new(b)]).unwrap()
    }

    #[test]
    fn integers_never_wrap() {
        let wrong = [
            col("a") + col("b"),
            col("a") * lit(2),
            -col("a") - lit(2),
            lit(-2) - col("a"),
            -(lit(0) - col("a") - lit(1)),
        ];
        for expr in wrong {
            let error = evaluated(expr.clone(), &integers()).unwrap_err().to_string();
            assert!(error.contains("verflow"), "{expr}: {error}");
        }
    }

    #[test]
    fn narrow_integers_become_wide() {
        let product = evaluated(col("b") * col("b"), &integers()).unwrap();
        let wanted = [i64::from(i32::MAX).pow(2), i64::from(i32::MIN).pow(2), 16];
        assert_eq!(product.as_primitive::<arrow::datatypes::Int64Type>().values(), &wanted);
        let negative = evaluated(-col("b"), &integers()).unwrap();
        assert_eq!(negative.as_primitive::<arrow::datatypes::Int64Type>().value(1), 1 << 31);
    }

    #[test]
    fn doubles_are_compared_as_numbers() {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
        let x = vec![Some(-f64::NAN), Some(f64::NAN), Some(-0.0), Some(0.0), Some(f64::INFINITY), None];
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(x))]).unwrap();
        let flags = |expr: Expr| {
            let array = evaluated(expr, &batch).unwrap();
            array.as_boolean().iter().map(|flag| flag.map_or('-', |f| if f { '1' } else { '0' })).collect::<String>()
        };
        assert_eq!(flags(col("x").gt(lit(100.0))), "11001-");
        assert_eq!(flags(col("x").gt_eq(lit(0.0))), "11111-");
        assert_eq!(flags(col("x").eq(lit(0))), "00110-");
        assert_eq!(flags(col("x").between(lit(0.0), lit(1.0))), "00110-");
        assert_eq!(flags(col("x").in_list(vec![lit(0.0), lit(7.0)], false)), "00110-");
    }

    #[test]
    fn a_message_shows_what_was_written() {
        let batch = integers();
        let schema = DFSchema::try_from(batch.schema().as_ref().clone()).unwrap();
        let written = (col("b") * col("b") - lit(1)).gt(-col("b"));
        assert_eq!(as_written(checked(written.clone(), &schema).unwrap()).unwrap(), written);
    }
}
