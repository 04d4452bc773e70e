//! How the values of a file's type become values of a declared one.
//!
//! Where every value of the file's type is one of the declared type, Arrow's cast does it. Where only some are (a float that
//! is a whole number, a timestamp at midnight), each value is converted and back: one that does not come back is an error that
//! shows it. [`Conversion::between`] has the list.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Datum, Float64Array, Int64Array, Scalar, UInt64Array};
use arrow::compute::kernels::{cmp, nullif::nullif};
use arrow::compute::{CastOptions, cast, cast_with_options, or};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use chrono_tz::Tz;

use super::uuid::{UUID_BYTES, uuids};
use crate::local_time::{LocalClock, OnError, instants, is_utc, zone_name};
use crate::spec::{ColumnType, TableSpec};

/// Up to here every whole number is a double of its own.
const MAX_EXACT_DOUBLE: i64 = 1 << 53;
/// The same for floats of 32 bits.
const MAX_EXACT_FLOAT: i64 = 1 << 24;
/// Decimals of so many digits come back from a double as they were.
const EXACT_DIGITS_OF_DOUBLE: u8 = 15;

/// How values of one type become values of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    /// Arrow's cast holds every value.
    Cast,
    /// Every value has a form of its own.
    Rewrite,
    /// Each value is looked at.
    Checked,
}

impl Conversion {
    /// The way from a file's type to a declared one; `None` where there is none.
    pub(super) fn between(found: &DataType, declared: ColumnType) -> Option<Self> {
        use Conversion::{Cast, Checked, Rewrite};
        use DataType as T;
        let found = plain(found);
        if *found == T::Null {
            return Some(Cast);
        }
        let fits = |good: bool| Some(if good { Cast } else { Checked });
        if let Some(range) = declared.integers() {
            return match (integers(found), decimal(found)) {
                (Some(found), _) => fits(within(found, range)),
                (_, Some((precision, 0))) => fits(within(digits(precision), range)),
                (_, Some(_)) => Some(Checked),
                _ => found.is_floating().then_some(Checked),
            };
        }
        match declared {
            ColumnType::Bool => (*found == T::Boolean).then_some(Cast),
            ColumnType::Float16 => (*found == T::Float16).then_some(Cast),
            ColumnType::Float32 => match (found, integers(found)) {
                (_, Some(range)) => fits(within(range, up_to(MAX_EXACT_FLOAT))),
                _ => matches!(found, T::Float16 | T::Float32).then_some(Cast),
            },
            ColumnType::Float64 => match (integers(found), decimal(found)) {
                (Some(range), _) => fits(within(range, up_to(MAX_EXACT_DOUBLE))),
                // More digits go through a double only by chance: they are refused, not looked at.
                (_, Some((precision, scale))) => (precision <= EXACT_DIGITS_OF_DOUBLE && scale >= 0).then_some(Cast),
                _ => found.is_floating().then_some(Cast),
            },
            ColumnType::Decimal(precision, scale) => {
                let whole = i16::from(precision) - i16::from(scale);
                match (integers(found), decimal(found)) {
                    (Some(range), _) => fits(whole > 0 && within(range, digits(whole.min(38) as u8))),
                    (_, Some((p, s))) => {
                        let (p, s) = (i16::from(p), i16::from(s));
                        fits(s >= 0 && s <= i16::from(scale) && p - s <= whole)
                    }
                    _ => found.is_floating().then_some(Checked),
                }
            }
            ColumnType::Utf8 if is_text(found) => Some(Cast),
            ColumnType::Utf8 => matches!(found, T::Binary | T::LargeBinary | T::BinaryView).then_some(Checked),
            ColumnType::Uuid if *found == T::FixedSizeBinary(UUID_BYTES as i32) => Some(Rewrite),
            ColumnType::Uuid => is_text(found).then_some(Checked),
            ColumnType::Binary => {
                let bytes = matches!(found, T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_));
                (bytes || is_text(found)).then_some(Cast)
            }
            ColumnType::Date => match found {
                T::Date32 => Some(Cast),
                T::Date64 | T::Timestamp(_, None) => Some(Checked),
                _ => None,
            },
            ColumnType::Timestamp => match found {
                T::Timestamp(..) => Some(Cast),
                T::Date32 | T::Date64 => Some(Rewrite),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The clocks of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zones {
    /// The clock that SQL shows times on.
    pub shown: Tz,
    /// The clock that times without a zone were written on.
    pub naive: Tz,
}

impl Zones {
    pub fn of(table: &TableSpec) -> Self {
        Zones { shown: table.timezone, naive: table.naive_zone() }
    }

    /// Whether Arrow's cast, which knows one clock only, reads times without a zone.
    pub fn are_utc(self) -> bool {
        is_utc(self.shown) && is_utc(self.naive)
    }
}

/// A value that the declared type does not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// The value as text.
    pub value: String,
    /// What to do about it.
    pub hint: String,
}

/// The values in the declared type, or one that has no place there. [`Conversion::between`] must know the way.
pub(super) fn convert(
    array: &ArrayRef,
    declared: ColumnType,
    zones: Zones,
) -> Result<Result<ArrayRef, Unfit>, ArrowError> {
    Ok(try_convert(array, declared, zones)?
        .map_err(|row| Unfit { value: shown(array, row), hint: hint(array, row, declared, zones) }))
}

/// The same; the error is the row of a value that does not fit.
fn try_convert(array: &ArrayRef, declared: ColumnType, zones: Zones) -> Result<Result<ArrayRef, usize>, ArrowError> {
    let found = plain(array.data_type()).clone();
    let array = &if found == *array.data_type() { Arc::clone(array) } else { cast(array, &found)? };
    let to = declared.arrow(zones.shown);
    match declared {
        ColumnType::Uuid => return uuids(array),
        ColumnType::Utf8 if !is_text(&found) => return texts(array),
        ColumnType::Timestamp => {
            let instants = instants(array, &LocalClock::of(zones.naive), 1, OnError::Fail)?;
            return Ok(Ok(Arc::new(instants.with_timezone(zone_name(zones.shown)))));
        }
        _ => {}
    }
    let whole = declared.integers().is_some();
    let array = &if found.is_floating() { comparable(array, whole)? } else { Arc::clone(array) };
    let found = array.data_type().clone();
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let converted = cast_with_options(array, &to, &options)?;
    let back = cast_with_options(&converted, &found, &options)?;
    let mut lost = cmp::distinct(&back, array)?;
    if whole && found.is_floating() {
        let doubles = cast(array, &DataType::Float64)?;
        let doubles = doubles.as_primitive::<Float64Type>();
        let large = doubles.unary::<_, Float64Type>(f64::abs);
        let bound = Scalar::new(Float64Array::from(vec![MAX_EXACT_DOUBLE as f64]));
        lost = or(&lost, &filled(&cmp::gt(&large, &bound)?))?;
    }
    if let Some((least, most)) = declared.integers() {
        for wrong in [cmp::lt(&converted, &bound(least, &to)?)?, cmp::gt(&converted, &bound(most, &to)?)?] {
            lost = or(&lost, &filled(&wrong))?;
        }
    }
    match (0..lost.len()).find(|row| lost.value(*row)) {
        Some(row) => Ok(Err(row)),
        None => Ok(Ok(converted)),
    }
}

/// A comparison with NULL as false.
fn filled(found: &BooleanArray) -> BooleanArray {
    found.iter().map(|value| Some(value.unwrap_or_default())).collect()
}

/// An integer as a value to compare with.
fn bound(value: i128, of: &DataType) -> Result<impl Datum + use<>, ArrowError> {
    let array: ArrayRef = match u64::try_from(value) {
        Ok(value) => Arc::new(UInt64Array::from(vec![value])),
        Err(_) => Arc::new(Int64Array::from(vec![value as i64])),
    };
    Ok(Scalar::new(cast(&array, of)?))
}

fn shown(array: &ArrayRef, row: usize) -> String {
    array_value_to_string(array, row).unwrap_or_default()
}

/// What to do about a value that does not fit: each way out holds this value.
fn hint(array: &ArrayRef, row: usize, declared: ColumnType, zones: Zones) -> String {
    let is_bytes = matches!(array.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    if declared == ColumnType::Utf8 && is_bytes {
        return "it is no UTF-8: declare it as `binary`".to_owned();
    }
    let one = array.slice(row, 1);
    let fits = |other: ColumnType| {
        let known = Conversion::between(one.data_type(), other).is_some();
        known && try_convert(&one, other, zones).is_ok_and(|converted| converted.is_ok())
    };
    let decimal = match (declared, decimal(one.data_type())) {
        (ColumnType::Decimal(p, s), Some((precision, scale))) => joined((p, s as i8), (precision, scale)),
        _ => None,
    };
    let others = [ColumnType::Int64, ColumnType::UInt64, ColumnType::Float64, ColumnType::Timestamp, ColumnType::Utf8];
    let wide = [ColumnType::Decimal(38, 9), ColumnType::Binary];
    let fitting = decimal.into_iter().chain(others).chain(wide).find(|other| *other != declared && fits(*other));
    match fitting {
        Some(other) => format!("declare it as `{other}`, or write the file with the declared type"),
        None => "write the file with the declared type".to_owned(),
    }
}

/// The decimal that holds the values of two.
pub(super) fn joined((p, s): (u8, i8), (q, t): (u8, i8)) -> Option<ColumnType> {
    let scale = s.max(t).max(0);
    let whole = (i16::from(p) - i16::from(s)).max(i16::from(q) - i16::from(t));
    let precision = u8::try_from(whole + i16::from(scale)).ok()?.max(1);
    (precision <= crate::spec::MAX_DECIMAL_DIGITS).then_some(ColumnType::Decimal(precision, scale as u8))
}

/// Floats with one zero, which come back from another type as they were; where they shall be integers NaN is NULL, for that is how
/// pandas writes a missing integer.
fn comparable(array: &ArrayRef, nan_is_null: bool) -> Result<ArrayRef, ArrowError> {
    let (array, nan): (ArrayRef, Vec<bool>) = match array.data_type() {
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|x| x + 0.0);
            let nan = floats.values().iter().map(|x| x.is_nan()).collect();
            (Arc::new(floats), nan)
        }
        _ => {
            let floats = cast(array, &DataType::Float32)?;
            let floats = floats.as_primitive::<Float32Type>().unary::<_, Float32Type>(|x| x + 0.0);
            let nan = floats.values().iter().map(|x| x.is_nan()).collect();
            (Arc::new(floats), nan)
        }
    };
    if nan_is_null && nan.contains(&true) { nullif(&array, &BooleanArray::from(nan)) } else { Ok(array) }
}

/// Bytes as the text that they are in UTF-8.
fn texts(array: &ArrayRef) -> Result<Result<ArrayRef, usize>, ArrowError> {
    let converted = cast_with_options(array, &DataType::Utf8, &CastOptions { safe: true, ..CastOptions::default() })?;
    let lost = (0..array.len()).find(|row| array.is_valid(*row) && converted.is_null(*row));
    Ok(lost.map_or(Ok(converted), Err))
}

/// A type without its dictionary.
pub(super) fn plain(found: &DataType) -> &DataType {
    match found {
        DataType::Dictionary(_, value) => plain(value),
        other => other,
    }
}

fn is_text(found: &DataType) -> bool {
    matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The least and the greatest value of a file's integer type.
fn integers(found: &DataType) -> Option<(i128, i128)> {
    let of = match found {
        DataType::Int8 => ColumnType::Int8,
        DataType::Int16 => ColumnType::Int16,
        DataType::Int32 => ColumnType::Int32,
        DataType::Int64 => ColumnType::Int64,
        DataType::UInt8 => ColumnType::UInt8,
        DataType::UInt16 => ColumnType::UInt16,
        DataType::UInt32 => ColumnType::UInt32,
        DataType::UInt64 => ColumnType::UInt64,
        _ => return None,
    };
    of.integers()
}

/// Digits in all and behind the point of a file's decimal.
pub(super) fn decimal(found: &DataType) -> Option<(u8, i8)> {
    match found {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some((*precision, *scale)),
        _ => None,
    }
}

/// The whole numbers of so many digits.
fn digits(precision: u8) -> (i128, i128) {
    let most = 10_i128.checked_pow(precision.into()).map_or(i128::MAX, |power| power - 1);
    (-most, most)
}

fn up_to(most: i64) -> (i128, i128) {
    (-i128::from(most), i128::from(most))
}

fn within((least, most): (i128, i128), (low, high): (i128, i128)) -> bool {
    low <= least && most <= high
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Decimal128Array, StringArray, TimestampMillisecondArray};
    use proptest::prelude::*;

    use super::*;

    const UTC: Zones = Zones { shown: Tz::UTC, naive: Tz::UTC };

    fn converted(array: ArrayRef, declared: ColumnType) -> Result<Vec<String>, String> {
        assert!(Conversion::between(array.data_type(), declared).is_some(), "{} {declared}", array.data_type());
        let converted =
            convert(&array, declared, UTC).unwrap().map_err(|unfit| format!("{} | {}", unfit.value, unfit.hint))?;
        assert_eq!(*converted.data_type(), declared.arrow(Tz::UTC));
        Ok((0..converted.len()).map(|row| shown(&converted, row)).collect())
    }

    #[test]
    fn whole_floats_are_integers_and_nan_is_none() {
        let floats = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let whole = floats(vec![Some(3.0), None, Some(f64::NAN), Some(-9007199254740992.0)]);
        assert_eq!(converted(whole, ColumnType::Int64).unwrap(), ["3", "", "", "-9007199254740992"]);
        let or_write = "or write the file with the declared type";
        let half = converted(floats(vec![Some(2.5)]), ColumnType::Int64).unwrap_err();
        assert_eq!(half, format!("2.5 | declare it as `float64`, {or_write}"));
        let large = converted(floats(vec![Some(9007199254740994.0)]), ColumnType::Int64).unwrap_err();
        assert_eq!(large, format!("9007199254740994.0 | declare it as `float64`, {or_write}"));
        let wide = converted(floats(vec![Some(300.0)]), ColumnType::UInt8).unwrap_err();
        assert_eq!(wide, format!("300.0 | declare it as `int64`, {or_write}"));
        assert!(converted(floats(vec![Some(f64::INFINITY)]), ColumnType::Int64).is_err());
        assert!(converted(floats(vec![Some(-1.0)]), ColumnType::UInt64).is_err());
    }

    #[test]
    fn unsigned_numbers_keep_to_their_range() {
        let numbers = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        assert_eq!(converted(numbers(vec![0, 255]), ColumnType::UInt8).unwrap(), ["0", "255"]);
        assert!(converted(numbers(vec![256]), ColumnType::UInt8).is_err());
        assert!(converted(numbers(vec![-1]), ColumnType::UInt64).is_err());
        let largest = Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
        assert_eq!(Conversion::between(&DataType::UInt64, ColumnType::UInt64), Some(Conversion::Cast));
        let error = converted(largest, ColumnType::Int64).unwrap_err();
        assert!(error.starts_with("18446744073709551615 | declare it as `uint64`"), "{error}");
    }

    #[test]
    fn integers_are_floats_where_they_are_exact() {
        let numbers = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        assert_eq!(converted(numbers(1 << 53), ColumnType::Float64).unwrap(), ["9007199254740992.0"]);
        let error = converted(numbers((1 << 53) + 1), ColumnType::Float64).unwrap_err();
        assert!(error.starts_with("9007199254740993 | declare it as `int64`"), "{error}");
        assert!(converted(numbers((1 << 24) + 1), ColumnType::Float32).is_err());
        assert!(converted(numbers(i64::MAX), ColumnType::Float64).is_err());
    }

    #[test]
    fn decimals_keep_every_digit_or_say_which_they_lose() {
        let cents = |value: i128, precision, scale| {
            let array = Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap();
            Arc::new(array) as ArrayRef
        };
        assert_eq!(converted(cents(1050, 10, 2), ColumnType::Decimal(38, 9)).unwrap(), ["10.500000000"]);
        assert_eq!(converted(cents(10500, 10, 3), ColumnType::Decimal(10, 2)).unwrap(), ["10.50"]);
        assert_eq!(converted(cents(42_000, 38, 3), ColumnType::Int64).unwrap(), ["42"]);
        assert_eq!(converted(cents(-1050, 10, 2), ColumnType::Decimal(50, 2)).unwrap(), ["-10.50"]);
        let error = converted(cents(10501, 10, 3), ColumnType::Decimal(10, 2)).unwrap_err();
        assert!(error.starts_with("10.501 | declare it as `decimal(11, 3)`"), "{error}");
        assert!(converted(cents(10501, 10, 3), ColumnType::Int64).is_err());
        assert!(converted(cents(99_999_999_999, 38, 0), ColumnType::Decimal(10, 0)).is_err());
        let floats = Arc::new(Float64Array::from(vec![10.5, 0.07, -0.1])) as ArrayRef;
        assert_eq!(converted(floats, ColumnType::Decimal(10, 2)).unwrap(), ["10.50", "0.07", "-0.10"]);
        let third = Arc::new(Float64Array::from(vec![1.0 / 3.0])) as ArrayRef;
        assert!(converted(third, ColumnType::Decimal(10, 2)).is_err());
        let nan = Arc::new(Float64Array::from(vec![f64::NAN])) as ArrayRef;
        assert!(converted(nan, ColumnType::Decimal(10, 2)).is_err());
    }

    #[test]
    fn uuids_are_text_in_one_form() {
        let texts: Vec<&str> = vec![
            "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
            "6ba7b8109dad11d180b400c04fd430c8",
            "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
            "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        ];
        let expected = vec!["6ba7b810-9dad-11d1-80b4-00c04fd430c8"; 4];
        assert_eq!(converted(Arc::new(StringArray::from(texts)), ColumnType::Uuid).unwrap(), expected);
        for wrong in
            ["", "6ba7b810", "6ba7b810-9dad-11d1-80b4-00c04fd430cg", "6ba7b810x9dad-11d1-80b4-00c04fd430c8", "é"]
        {
            assert!(converted(Arc::new(StringArray::from(vec![wrong])), ColumnType::Uuid).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_at_midnight_are_dates_and_dates_are_midnights() {
        let day = 86_400_000_i64;
        let times = |millis: i64| Arc::new(TimestampMillisecondArray::from(vec![millis])) as ArrayRef;
        assert_eq!(converted(times(-day), ColumnType::Date).unwrap(), ["1969-12-31"]);
        assert!(converted(times(-day + 1), ColumnType::Date).is_err());
        let date = cast(&times(day), &DataType::Date32).unwrap();
        assert_eq!(converted(date, ColumnType::Timestamp).unwrap(), ["1970-01-02T00:00:00Z"]);
        let bytes = Arc::new(BinaryArray::from(vec![b"caf\xe9".as_slice()])) as ArrayRef;
        assert!(converted(bytes, ColumnType::Utf8).is_err());
    }

    proptest! {
        #[test]
        fn a_float_becomes_an_integer_only_as_itself(value in prop_oneof![any::<f64>(), (any::<i64>()).prop_map(|v| v as f64)]) {
            let array: ArrayRef = Arc::new(Float64Array::from(vec![value]));
            match convert(&array, ColumnType::Int64, UTC).unwrap() {
                Ok(found) if found.is_null(0) => prop_assert!(value.is_nan()),
                Ok(found) => {
                    let found = found.as_primitive::<arrow::datatypes::Int64Type>().value(0);
                    prop_assert!(found as f64 == value && found.unsigned_abs() <= 1 << 53);
                }
                Err(_) => prop_assert!(value.fract() != 0.0 || value.abs() > (1_u64 << 53) as f64),
            }
        }
    }
}
