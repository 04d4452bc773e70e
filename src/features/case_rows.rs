//! Values of a YAML case as Arrow arrays, and back for comparison.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::util::display::FormatOptions;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::Result;
use crate::local_time::{LocalClock, parse_instant};

/// A row as it was written: its cells in their order.
#[derive(Debug, Default)]
pub(super) struct Row(pub Vec<(String, Value)>);

impl Row {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The cell that tells a row from the others: the key, or the first one.
    pub(super) fn key(&self, key: &str) -> Option<(&str, &Value)> {
        let cell = self.0.iter().find(|(name, _)| name == key).or_else(|| self.0.first());
        cell.map(|(name, value)| (name.as_str(), value))
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Cells;
        impl<'de> Visitor<'de> for Cells {
            type Value = Row;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a row like `{column: value}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if row.get(&name).is_some() {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    row.0.push((name, value));
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(Cells)
    }
}

/// The cells of a column in its type; `None` and null are NULL. The error names the row.
pub(super) fn array_of(cells: &[Option<&Value>], to: &DataType) -> Result<ArrayRef, (usize, String)> {
    let wrong = |row: usize, value: &Value| (row, format!("`{value}` is not of type `{to}`"));
    let cells = || cells.iter().enumerate().map(|(row, cell)| (row, cell.filter(|value| !value.is_null())));
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let array: ArrayRef = match to {
        DataType::Boolean => {
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(Value::Bool(b)) => Ok(Some(*b)),
                Some(other) => Err(wrong(row, other)),
            };
            Arc::new(cells().map(value).collect::<Result<BooleanArray, _>>()?)
        }
        t if t.is_integer() => {
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(row, value)),
            };
            Arc::new(cells().map(value).collect::<Result<Int64Array, _>>()?)
        }
        t if t.is_floating() => {
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(row, value)),
            };
            Arc::new(cells().map(value).collect::<Result<Float64Array, _>>()?)
        }
        DataType::Timestamp(_, Some(zone)) => {
            let clock = LocalClock::of(zone.parse().unwrap_or(chrono_tz::UTC));
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(Value::String(text)) => {
                    parse_instant(text, &clock).map(Some).ok_or_else(|| wrong(row, cell.unwrap_or(&Value::Null)))
                }
                Some(other) => Err(wrong(row, other)),
            };
            let instants: TimestampMicrosecondArray = cells().map(value).collect::<Result<_, _>>()?;
            Arc::new(instants.with_timezone("UTC"))
        }
        t if t.is_decimal() => {
            let value = |(row, cell): (usize, Option<&Value>)| {
                let Some(value) = cell else { return Ok(None) };
                let text = match value {
                    Value::Number(number) => number.to_string(),
                    Value::String(text) => text.clone(),
                    other => return Err(wrong(row, other)),
                };
                decimal(&text, to).map(Some).ok_or_else(|| wrong(row, value))
            };
            Arc::new(cells().map(value).collect::<Result<StringArray, _>>()?)
        }
        DataType::Binary => {
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(Value::String(digits)) => match bytes_of(digits) {
                    Some(bytes) => Ok(Some(bytes)),
                    None => Err((row, format!("`{digits}` is not bytes in hexadecimal digits"))),
                },
                Some(other) => Err(wrong(row, other)),
            };
            let bytes = cells().map(value).collect::<Result<Vec<Option<Vec<u8>>>, _>>()?;
            Arc::new(bytes.into_iter().collect::<BinaryArray>())
        }
        _ => {
            let value = |(row, cell): (usize, Option<&Value>)| match cell {
                None => Ok(None),
                Some(Value::String(text)) if to.is_temporal() => Ok(Some(with_seconds(text))),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                // A text column may hold what looks like a number.
                Some(Value::Number(number)) if *to == DataType::Utf8 => Ok(Some(number.to_string())),
                Some(other) => Err(wrong(row, other)),
            };
            Arc::new(cells().map(value).collect::<Result<StringArray, _>>()?)
        }
    };
    match cast_with_options(&array, to, &options) {
        Ok(array) => Ok(array),
        Err(_) => {
            let fails = |row: &usize| cast_with_options(&array.slice(*row, 1), to, &options).is_err();
            let row = (0..array.len()).find(fails).unwrap_or(0);
            let value = cells().nth(row).and_then(|(_, cell)| cell.cloned()).unwrap_or(Value::Null);
            Err(wrong(row, &value))
        }
    }
}

/// A decimal as text that a cast reads; `None` where it has more digits behind the point than the type.
fn decimal(text: &str, to: &DataType) -> Option<String> {
    let (DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale)) = to else { return None };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
    let good = digits(whole.trim_start_matches('-'))
        && digits(fraction)
        && fraction.len() <= usize::from(scale.unsigned_abs());
    good.then(|| text.to_owned())
}

/// The bytes of hexadecimal digits.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.as_bytes().chunks(2).map(pair).collect())?
}

/// `2026-06-30 12:00` is a time too.
fn with_seconds(text: &str) -> String {
    let short = text.len() == "2026-06-30 12:00".len() && text.matches(':').count() == 1;
    if short { format!("{text}:00") } else { text.to_owned() }
}

/// What the cell holds, in words, if it is not `expected`. Numbers may differ by one part in 10⁹.
pub(super) fn difference(column: &ArrayRef, row: usize, expected: &Value) -> Result<Option<String>> {
    let cell = column.slice(row, 1);
    if cell.is_null(0) {
        return Ok((!expected.is_null()).then(|| "null".to_owned()));
    }
    let same = match (expected, cell.data_type()) {
        (Value::Null, _) => false,
        (Value::Bool(b), DataType::Boolean) => cell.as_boolean().value(0) == *b,
        (Value::Number(n), t) if t.is_integer() && n.is_i64() => {
            let got = cast(&cell, &DataType::Int64)?;
            Some(got.as_primitive::<Int64Type>().value(0)) == n.as_i64()
        }
        (Value::Number(n), t) if t.is_numeric() => {
            let got = cast(&cell, &DataType::Float64)?.as_primitive::<Float64Type>().value(0);
            n.as_f64().is_some_and(|wanted| (got - wanted).abs() <= 1e-9 * wanted.abs().max(1e-3))
        }
        (Value::String(_) | Value::Number(_), DataType::Boolean) => false,
        (Value::String(_), t) if t.is_numeric() && !t.is_decimal() => false,
        (Value::String(_) | Value::Number(_), t) => match array_of(&[Some(expected)], t) {
            Ok(wanted) => *wanted == *cell,
            Err(_) => false,
        },
        _ => false,
    };
    let text = || -> Result<String> {
        let text = cast(&cell, &DataType::Utf8)?;
        Ok(text.as_string::<i32>().value(0).to_owned())
    };
    if same { Ok(None) } else { text().map(Some) }
}
