//! The double that is nearest to a decimal.
//!
//! Arrow divides the digits, as a double, by a power of ten, as a double: two roundings where the digits have more than 53 bits.
//! `239.75` of a `decimal(76, 38)` becomes `239.75000000000003` that way, and the same amount from another lake is another number.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, i256};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Integers up to here are doubles.
const MAX_EXACT: i128 = 1 << 53;
/// Powers of ten up to this one are doubles.
const MAX_EXACT_POWER: i8 = 22;

static NEAREST_DOUBLE: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(NearestDouble { signature: Signature::any(1, Volatility::Immutable) })));

/// A decimal as a double.
pub(super) fn nearest_double(expr: Expr) -> Expr {
    NEAREST_DOUBLE.call(vec![expr])
}

fn converted(array: &ArrayRef) -> Result<Float64Array> {
    let scale = match array.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale,
        other => return Err(exec_datafusion_err!("`{other}` is no decimal")),
    };
    if let Some(array) = array.as_primitive_opt::<Decimal128Type>() {
        return Ok(array.iter().map(|digits| digits.map(|digits| of_digits(digits, scale))).collect());
    }
    let array = array.as_primitive_opt::<Decimal256Type>();
    let array = array.ok_or_else(|| exec_datafusion_err!("a decimal of another width"))?;
    Ok(array.iter().map(|digits| digits.map(|digits| of_wide_digits(digits, scale))).collect())
}

fn of_wide_digits(digits: i256, scale: i8) -> f64 {
    match digits.to_i128() {
        Some(digits) => of_digits(digits, scale),
        None => parsed(&digits.to_string(), scale),
    }
}

/// `digits / 10^scale`, rounded once.
fn of_digits(mut digits: i128, mut scale: i8) -> f64 {
    while scale > 0 && digits != 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    if digits.abs() <= MAX_EXACT && (0..=MAX_EXACT_POWER).contains(&scale) {
        return digits as f64 / 10f64.powi(i32::from(scale));
    }
    parsed(&digits.to_string(), scale)
}

fn parsed(digits: &str, scale: i8) -> f64 {
    // What Rust reads is the nearest double; digits with an exponent are always a number.
    format!("{digits}e{}", -i32::from(scale)).parse().unwrap_or(f64::NAN)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NearestDouble {
    signature: Signature,
}

impl ScalarUDFImpl for NearestDouble {
    fn name(&self) -> &str {
        "nearest_double"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [array] = arrays.as_slice() else { return Err(exec_datafusion_err!("`nearest_double` is of one decimal")) };
        Ok(ColumnarValue::Array(Arc::new(converted(array)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Decimal256Array};

    #[test]
    fn decimals_become_the_nearest_double_whatever_their_scale() {
        let wide = |text: &str| {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let digits: i256 = format!("{whole}{fraction:0<38}").parse().unwrap();
            let array = Decimal256Array::from(vec![digits]).with_precision_and_scale(76, 38).unwrap();
            converted(&(Arc::new(array) as ArrayRef)).unwrap().value(0)
        };
        let texts =
            ["239.75", "0.1", "227.25", "-0.07", "1099511628433", "0", "123456789.987654321", "3.00000000000000000001"];
        for text in texts {
            assert_eq!(wide(text), text.parse::<f64>().unwrap(), "{text}");
        }
        let array = Decimal128Array::from(vec![Some(i128::MAX / 2), None, Some(15)]);
        let array: ArrayRef = Arc::new(array.with_precision_and_scale(38, 1).unwrap());
        let found = converted(&array).unwrap();
        assert_eq!(found.value(0), "8507059173023461586584365185794205286.3".parse::<f64>().unwrap());
        assert!(found.is_null(1));
        assert_eq!(found.value(2), 1.5);
    }
}
