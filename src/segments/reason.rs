//! Why a customer moved: the new stage's condition with the customer's own numbers.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::plan::Stage;
use crate::Result;

/// For example `at_risk: churn_90d >= 0.6 (churn_90d = 0.73)`; `value` gives the printed value of a column.
pub(super) fn moved_because(stage: &Stage, mut value: impl FnMut(&str) -> Result<String>) -> Result<String> {
    let Some(condition) = &stage.when else {
        return Ok(format!("{}: no earlier stage matched", stage.name));
    };
    let numbers = condition.columns.iter().map(|c| Ok(format!("{c} = {}", value(c)?))).collect::<Result<Vec<_>>>()?;
    Ok(format!("{}: {} ({})", stage.name, condition.text, numbers.join(", ")))
}

/// One value as a person would write it: at most four decimals, text in quotes, `NULL` for nothing.
pub(super) fn printed(array: &dyn Array, row: usize) -> Result<String> {
    if array.is_null(row) {
        return Ok("NULL".to_owned());
    }
    Ok(match array.data_type() {
        DataType::Float64 => number(array.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => number(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => format!("'{}'", plain(array, row)?),
        _ => plain(array, row)?,
    })
}

fn plain(array: &dyn Array, row: usize) -> Result<String> {
    Ok(ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).try_to_string()?)
}

/// Four decimals without trailing zeros; a number that would vanish, or is huge, in scientific form.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value != 0.0 && !(5e-5..1e15).contains(&value.abs()) {
        return format!("{value:.3e}");
    }
    let fixed = format!("{value:.4}");
    match fixed.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_at_most_four_decimals_and_never_vanish() {
        let cases = [
            (0.73, "0.73"),
            (0.123456, "0.1235"),
            (3.0, "3"),
            (-0.0, "0"),
            (-2.5, "-2.5"),
            (1200.0, "1200"),
            (0.00001234, "1.234e-5"),
            (f64::NAN, "NaN"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }
}
