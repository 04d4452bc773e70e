//! What is said of an expression that fails: the rule, the values, a hint.

use arrow::array::{Array, ArrayRef};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, Operator};

use super::checked::as_written;
use super::definition::lower_first;
use super::written;

/// A value of a row is shown up to so many letters.
const MAX_SHOWN: usize = 60;

/// The values of some columns in a row; `None` where there are no columns.
pub(super) fn values_in_words<'a>(
    columns: impl Iterator<Item = (&'a str, &'a ArrayRef)>,
    row: usize,
) -> Option<String> {
    let value = |(name, column): (&str, &ArrayRef)| {
        let value = array_value_to_string(column, row).ok()?;
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        Some(match () {
            () if column.is_null(row) => format!("`{name}` is NULL"),
            () if shown.len() < value.len() => format!("`{name}` is `{shown}…`"),
            () => format!("`{name}` is `{shown}`"),
        })
    };
    let values: Vec<String> = columns.filter_map(value).collect();
    (!values.is_empty()).then(|| values.join(" and "))
}

/// The engine's words, without its own names for kinds of errors.
pub(super) fn rule_of(text: String) -> String {
    const KINDS: [&str; 9] = [
        "Arrow error: ",
        "Arithmetic overflow: ",
        "Compute error: ",
        "Cast error: ",
        "Parser error: ",
        "Invalid argument error: ",
        "Execution error: ",
        "External error: ",
        "Error during planning: ",
    ];
    let mut text = text.as_str();
    while let Some(rest) = KINDS.iter().find_map(|kind| text.strip_prefix(kind)) {
        text = rest;
    }
    match text {
        "Divide by zero error" => "division by zero".to_owned(),
        other => lower_first(other.trim_end_matches('.')).replace("overflow happened on: ", "overflow in "),
    }
}

/// What helps against a failure of an expression.
pub(super) fn hint_of(cause: &DataFusionError, expr: Option<&Expr>) -> Option<String> {
    let DataFusionError::ArrowError(arrow, _) = cause.find_root() else { return None };
    let written = expr.and_then(|expr| as_written(expr.clone()).ok());
    Some(match (arrow.as_ref(), written) {
        (ArrowError::DivideByZero, Some(Expr::BinaryExpr(binary)))
            if matches!(binary.op, Operator::Divide | Operator::Modulo) =>
        {
            match written::sql(&binary.right) {
                Some(by) => format!("divide by `nullif({by}, 0)`, which gives NULL where it is 0"),
                None => "divide by `nullif(…, 0)`, which gives NULL where it is 0".to_owned(),
            }
        }
        (ArrowError::DivideByZero, _) => "divide by `nullif(…, 0)`, which gives NULL where it is 0".to_owned(),
        (ArrowError::ArithmeticOverflow(_), _) => {
            "compute with doubles or decimals: `CAST(… AS DOUBLE)` around one of the numbers".to_owned()
        }
        (ArrowError::CastError(_) | ArrowError::ParseError(_), _) => {
            "`TRY_CAST(… AS …)` gives NULL for a value that is none".to_owned()
        }
        _ => return None,
    })
}
