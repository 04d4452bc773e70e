//! Arrow arrays of anything that says when, as instants.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::{LocalClock, parse_instant};

/// What to do with a text that is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It is an error.
    Fail,
    /// It is NULL.
    Null,
}

/// The instants that values mean on a clock; a number counts so many units a second.
pub fn instants(
    values: &ArrayRef,
    clock: &LocalClock,
    units: i64,
    on_error: OnError,
) -> Result<TimestampMicrosecondArray, ArrowError> {
    let micros = |values: &ArrayRef, zone: Option<&str>| {
        let wanted = DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        cast(values, &wanted).map(|array| array.as_primitive::<TimestampMicrosecondType>().clone())
    };
    let found = match values.data_type() {
        DataType::Timestamp(_, Some(_)) => micros(values, Some("UTC"))?,
        DataType::Timestamp(_, None) => micros(values, None)?.unary(|local| clock.instant(local)),
        DataType::Date32 => values.as_primitive::<Date32Type>().unary(|day| clock.start_of_day(i64::from(day))),
        DataType::Date64 => {
            let days = cast(values, &DataType::Date32)?;
            days.as_primitive::<Date32Type>().unary(|day| clock.start_of_day(i64::from(day)))
        }
        data_type if is_text(data_type) => {
            let texts = cast(values, &DataType::Utf8View)?;
            let parsed = texts.as_string_view().iter().map(|text| match text {
                None => Ok(None),
                Some(text) => match (parse_instant(text, clock), on_error) {
                    (Some(instant), _) => Ok(Some(instant)),
                    (None, OnError::Null) => Ok(None),
                    (None, OnError::Fail) => {
                        Err(ArrowError::CastError(format!("`{text}` is no time: write it as `2026-07-01 12:30:00`")))
                    }
                },
            });
            parsed.collect::<Result<_, _>>()?
        }
        DataType::Null => TimestampMicrosecondArray::new_null(values.len()),
        data_type if data_type.is_integer() => {
            let numbers = cast(values, &DataType::Int64)?;
            let micros = |n: i64| match units {
                1_000_000_000 => Some(n.div_euclid(1_000)),
                units => n.checked_mul(1_000_000 / units),
            };
            let too_far = |n| ArrowError::ComputeError(format!("`{n}` is too far away to be a time"));
            numbers.as_primitive::<Int64Type>().try_unary(|n| micros(n).ok_or_else(|| too_far(n)))?
        }
        data_type if data_type.is_numeric() => {
            let numbers = cast(values, &DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            numbers.unary(|x| (x * 1e6 / units as f64).floor() as i64)
        }
        other => return Err(ArrowError::CastError(format!("a value of type `{other}` is no time"))),
    };
    Ok(found.with_timezone_opt(None::<Arc<str>>))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}
