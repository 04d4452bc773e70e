//! The type of a key in the matrix: `Int64` or `Utf8`, whatever the tables have.
//!
//! A key is grouped by, sorted, published and asked for, so it has one of two forms: integers of up to 64 bits with a sign stay
//! numbers, everything else becomes the text that one would write. The order of dates and of bytes is that of their texts.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast as cast_array;
use arrow::datatypes::DataType;
use datafusion::common::{Result as FusionResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};

use crate::error::Problem;
use crate::lake::uuid_text;
use crate::spec::ColumnType;

/// Whole numbers of so many digits are integers of 64 bits.
const DIGITS_OF_INT64: u8 = 18;

/// The type of a key in the matrix.
pub(super) fn key_type(from: &DataType) -> Result<DataType, Problem> {
    use DataType as T;
    Ok(match from {
        T::Decimal128(precision, 0) | T::Decimal256(precision, 0) if *precision <= DIGITS_OF_INT64 => T::Int64,
        T::Decimal128(_, 0) | T::Decimal256(_, 0) => T::Utf8,
        from if from.is_integer() => T::Int64,
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Date32 | T::Date64 => T::Utf8,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Utf8,
        T::Dictionary(_, value) => return key_type(value),
        T::Null => return Err(Problem::new("the key is always NULL").hint("`CAST(NULL AS BIGINT)` has a type")),
        other => {
            let problem = Problem::new(format!("a key cannot be of type `{other}`"));
            return Err(problem.hint("use a whole number, a text, a date or bytes"));
        }
    })
}

/// A key of type `from` as it stands in the matrix.
pub(super) fn key_expr(expr: Expr, from: &DataType, to: &DataType) -> Expr {
    use DataType as T;
    match from {
        T::Dictionary(_, value) => key_expr(cast(expr, value.as_ref().clone()), value, to),
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => HEX.call(vec![cast(expr, T::Binary)]),
        T::Date64 => cast(cast(expr, T::Date32), to.clone()),
        _ if from == to => expr,
        _ => cast(expr, to.clone()),
    }
}

/// A key that somebody asks for, in the form that the matrix has.
pub(super) fn parse_key(text: &str, key_type: &DataType, declared: Option<ColumnType>) -> Option<ScalarValue> {
    let text = match (key_type, declared) {
        (DataType::Int64, _) => return text.trim().parse().ok().map(|key| ScalarValue::Int64(Some(key))),
        (_, Some(ColumnType::Uuid)) => uuid_text(text)?,
        (_, Some(ColumnType::Binary)) => {
            let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("\\x")).unwrap_or(text).to_lowercase();
            let good = digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            good.then_some(digits)?
        }
        (_, Some(declared)) if declared.integers().is_some() || matches!(declared, ColumnType::Decimal(..)) => {
            let digits = text.trim_start_matches('-');
            let good = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
            good.then(|| text.to_owned())?
        }
        (_, Some(ColumnType::Date)) => text.parse::<chrono::NaiveDate>().ok()?.to_string(),
        _ => text.to_owned(),
    };
    Some(ScalarValue::Utf8(Some(text)))
}

static HEX: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::exact(vec![DataType::Binary], Volatility::Immutable);
    Arc::new(ScalarUDF::from(Hex { signature }))
});

/// `hex(bytes)`: two hexadecimal digits in lower case per byte.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hex {
    signature: Signature,
}

impl ScalarUDFImpl for Hex {
    fn name(&self) -> &str {
        "hex"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> FusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> FusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(bytes) = arrays.first() else { return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))) };
        let bytes = cast_array(bytes, &DataType::Binary)?;
        let bytes = bytes.as_binary::<i32>();
        let mut texts = StringBuilder::with_capacity(bytes.len(), 2 * bytes.value_data().len());
        let mut text = String::new();
        for value in bytes {
            let Some(value) = value else {
                texts.append_null();
                continue;
            };
            text.clear();
            for byte in value {
                write!(text, "{byte:02x}").unwrap_or_default();
            }
            texts.append_value(&text);
        }
        let texts: ArrayRef = Arc::new(texts.finish());
        Ok(ColumnarValue::Array(texts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_number_or_the_text_that_one_would_write() {
        let kind = |from: DataType| key_type(&from).unwrap();
        assert_eq!(kind(DataType::Int16), DataType::Int64);
        assert_eq!(kind(DataType::Decimal128(18, 0)), DataType::Int64);
        assert_eq!(kind(DataType::Decimal128(20, 0)), DataType::Utf8);
        assert_eq!(kind(DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))), DataType::Utf8);
        assert_eq!(kind(DataType::Binary), DataType::Utf8);
        for none in [DataType::Float64, DataType::Decimal128(10, 2), DataType::Boolean, DataType::Null] {
            assert!(key_type(&none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_key_is_asked_for_in_any_way_to_write_it() {
        let key = |text: &str, declared: ColumnType| match parse_key(text, &DataType::Utf8, Some(declared)) {
            Some(ScalarValue::Utf8(text)) => text,
            _ => None,
        };
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        assert_eq!(key("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", ColumnType::Uuid).as_deref(), Some(uuid));
        assert_eq!(key("0xCAFE", ColumnType::Binary).as_deref(), Some("cafe"));
        assert_eq!(key("18446744073709551615", ColumnType::UInt64).as_deref(), Some("18446744073709551615"));
        assert_eq!(key("2026-06-01", ColumnType::Date).as_deref(), Some("2026-06-01"));
        assert_eq!(key(" Anna ", ColumnType::Utf8).as_deref(), Some(" Anna "));
        assert_eq!(key("x", ColumnType::UInt64), None);
        assert_eq!(key("yesterday", ColumnType::Date), None);
        assert_eq!(parse_key("7", &DataType::Int64, None), Some(ScalarValue::Int64(Some(7))));
    }
}
