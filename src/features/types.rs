//! The types of the matrix: Bool, Int64, Float64, Utf8, Date32 and Timestamp(µs) in the job's time zone.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{Expr, cast};

use super::finite::finite;
use super::nearest_double::nearest_double;
use crate::error::Problem;

/// The type in the matrix of a column that SQL computes as `from`; an error where there is none.
///
/// Integers are widened, decimals become doubles.
pub(super) fn matrix_type(from: &DataType) -> Result<DataType, Problem> {
    Ok(match from {
        DataType::Boolean => DataType::Boolean,
        t if t.is_integer() => DataType::Int64,
        t if t.is_floating() || t.is_decimal() => DataType::Float64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone.clone().unwrap_or_else(|| "UTC".into())))
        }
        DataType::Dictionary(_, value) => return matrix_type(value),
        DataType::Null => {
            return Err(Problem::new("this column is always NULL and has no type").hint("`CAST(NULL AS DOUBLE)`"));
        }
        DataType::Interval(_) | DataType::Duration(_) => {
            return Err(Problem::new("a span of time is no feature by itself")
                .hint("make a number of it: `date_part('epoch', later - earlier) / 86400` gives days"));
        }
        other => {
            return Err(Problem::new(format!("a column of type `{other}` is no feature"))
                .hint("make a number, a truth value, a text or a time of it"));
        }
    })
}

/// `expr` of type `from` as it stands in the matrix: NaN and infinities become NULL.
pub(super) fn normal(expr: Expr, from: &DataType, to: &DataType) -> Expr {
    let expr = typed(expr, from, to);
    if may_be_infinite(from, to) { finite(expr) } else { expr }
}

/// `expr` of type `from` in the type of the matrix.
pub(super) fn typed(expr: Expr, from: &DataType, to: &DataType) -> Expr {
    match to {
        _ if from == to => expr,
        DataType::Float64 if matches!(from, DataType::Decimal128(..) | DataType::Decimal256(..)) => {
            nearest_double(expr)
        }
        _ => cast(expr, to.clone()),
    }
}

/// Whether a value of type `from` may be NaN or infinite in the matrix.
pub(super) fn may_be_infinite(from: &DataType, to: &DataType) -> bool {
    *to == DataType::Float64 && !from.is_decimal() && !from.is_integer()
}
