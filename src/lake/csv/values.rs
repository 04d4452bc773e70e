//! The fields of CSV records as values of the declared types: exact, or an error that says the rule.
//!
//! What a field holds is never part of an error: it may be anybody's name. How it fails says enough.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder, Float64Builder,
    Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{DataType, Date32Type, i256};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::lake::conversion::Zones;
use crate::lake::point_in_time::days;
use crate::lake::uuid_text;
use crate::local_time::{LocalClock, parse_instant};
use crate::spec::{ColumnType, CsvFormat};
use crate::{Error, Result};

/// What tools write for a missing value.
const NULL_WORDS: [&str; 12] = ["na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "\\n", "#null!"];

/// Why a field is no value of its column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What is wrong, after the name of the column.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// The values of a column so far.
enum Values {
    Bool(BooleanBuilder),
    /// With the least and the greatest value.
    Integers(Int64Builder, i64, i64),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal128(Decimal128Builder),
    Decimal256(Decimal256Builder),
    Text(StringBuilder),
    Uuid(StringBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// Reads one column.
pub(super) struct ColumnReader {
    declared: ColumnType,
    to: DataType,
    format: Arc<CsvFormat>,
    /// The clock of times without an offset.
    clock: Arc<LocalClock>,
    values: Values,
    /// A number with the point that Rust reads.
    number: String,
}

impl ColumnReader {
    /// A column of a type; `bytes` and unknown types are refused when the job is read.
    pub fn new(declared: ColumnType, format: &Arc<CsvFormat>, zones: Zones) -> Result<Self> {
        let to = declared.arrow(zones.shown);
        let values = match &to {
            DataType::Boolean => Values::Bool(BooleanBuilder::new()),
            found if found.is_integer() => {
                let (least, most) = declared.integers().unwrap_or((i64::MIN.into(), i64::MAX.into()));
                Values::Integers(Int64Builder::new(), least as i64, most as i64)
            }
            DataType::Float32 => Values::Float32(Float32Builder::new()),
            DataType::Float64 => Values::Float64(Float64Builder::new()),
            DataType::Decimal128(..) => Values::Decimal128(Decimal128Builder::new().with_data_type(to.clone())),
            DataType::Decimal256(..) => Values::Decimal256(Decimal256Builder::new().with_data_type(to.clone())),
            DataType::Utf8 if declared == ColumnType::Uuid => Values::Uuid(StringBuilder::new()),
            DataType::Utf8 => Values::Text(StringBuilder::new()),
            DataType::Date32 => Values::Date(Date32Builder::new()),
            DataType::Timestamp(..) => Values::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(to.clone())),
            other => return Err(Error::bug(format!("a CSV column cannot be read as `{other}`"))),
        };
        let clock = LocalClock::of(zones.naive);
        Ok(ColumnReader { declared, to, format: Arc::clone(format), clock, values, number: String::new() })
    }

    /// The values so far; the next ones begin a new array.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        let array: ArrayRef = match &mut self.values {
            Values::Bool(values) => Arc::new(values.finish()),
            Values::Integers(values, ..) => Arc::new(values.finish()),
            Values::Float32(values) => Arc::new(values.finish()),
            Values::Float64(values) => Arc::new(values.finish()),
            Values::Decimal128(values) => Arc::new(values.finish()),
            Values::Decimal256(values) => Arc::new(values.finish()),
            Values::Text(values) | Values::Uuid(values) => Arc::new(values.finish()),
            Values::Date(values) => Arc::new(values.finish()),
            Values::Timestamp(values) => Arc::new(values.finish()),
        };
        Ok(if *array.data_type() == self.to { array } else { cast(&array, &self.to)? })
    }

    /// A row whose file has no such column.
    pub fn push_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append_null(),
            Values::Integers(values, ..) => values.append_null(),
            Values::Float32(values) => values.append_null(),
            Values::Float64(values) => values.append_null(),
            Values::Decimal128(values) => values.append_null(),
            Values::Decimal256(values) => values.append_null(),
            Values::Text(values) | Values::Uuid(values) => values.append_null(),
            Values::Date(values) => values.append_null(),
            Values::Timestamp(values) => values.append_null(),
        }
    }

    /// The value of one row.
    pub fn push(&mut self, field: &[u8]) -> Result<(), Wrong> {
        let text = std::str::from_utf8(field).map_err(|_| Wrong {
            what: "holds bytes that are no UTF-8".to_owned(),
            hint: "is the file in another encoding? `iconv -f ISO-8859-1 -t UTF-8` turns Latin-1 into UTF-8".to_owned(),
        })?;
        let is_text = matches!(self.values, Values::Text(_));
        if self.format.null_values.iter().any(|null| null == text) {
            self.push_null();
            return Ok(());
        }
        if let Values::Text(values) = &mut self.values {
            values.append_value(text);
            return Ok(());
        }
        let text = text.trim();
        if !is_text && (text.is_empty() || self.format.null_values.iter().any(|null| null == text)) {
            self.push_null();
            return Ok(());
        }
        match self.parse(text) {
            Some(()) => Ok(()),
            None => Err(self.wrong(text)),
        }
    }

    fn parse(&mut self, text: &str) -> Option<()> {
        let number = match (self.format.decimal_comma, &self.values) {
            (
                true,
                Values::Float32(_)
                | Values::Float64(_)
                | Values::Decimal128(_)
                | Values::Decimal256(_)
                | Values::Integers(..),
            ) => {
                // A point is no comma: it may stand between thousands.
                if text.contains('.') {
                    return None;
                }
                self.number.clear();
                self.number.push_str(text);
                // Safe: one ASCII byte for another.
                self.number = self.number.replace(',', ".");
                self.number.as_str()
            }
            _ => text,
        };
        match &mut self.values {
            Values::Bool(values) => {
                let is = |word: &str| text.eq_ignore_ascii_case(word);
                let value = is("true").then_some(true).or_else(|| is("false").then_some(false))?;
                values.append_value(value);
            }
            Values::Integers(values, least, most) => {
                let value = integer(number)?;
                (*least..=*most).contains(&value).then(|| values.append_value(value))?;
            }
            Values::Float32(values) => values.append_value(float(number)?.parse().ok()?),
            Values::Float64(values) => values.append_value(float(number)?.parse().ok()?),
            Values::Decimal128(values) => {
                let DataType::Decimal128(precision, scale) = self.to else { return None };
                let value = decimal(number, precision, scale)?.parse::<i128>().ok()?;
                (self.declared != ColumnType::UInt64 || (0..=i128::from(u64::MAX)).contains(&value)).then_some(())?;
                values.append_value(value);
            }
            Values::Decimal256(values) => {
                let DataType::Decimal256(precision, scale) = self.to else { return None };
                values.append_value(i256::from_string(&decimal(number, precision, scale)?)?);
            }
            Values::Text(values) => values.append_value(text),
            Values::Uuid(values) => values.append_value(uuid_text(text)?),
            Values::Date(values) => values.append_value(match &self.format.date_format {
                Some(format) => days(NaiveDate::parse_from_str(text, format).ok()?),
                None => Date32Type::parse(text)?,
            }),
            Values::Timestamp(values) => values.append_value(match &self.format.timestamp_format {
                Some(format) => formatted_time(text, format, &self.clock)?,
                None if self.clock.is_utc() => match string_to_datetime(&Utc, text) {
                    Ok(time) => time.timestamp_micros(),
                    Err(_) => parse_instant(text, &self.clock)?,
                },
                None => parse_instant(text, &self.clock)?,
            }),
        }
        Some(())
    }

    /// What is wrong with a text, without showing it.
    fn wrong(&self, text: &str) -> Wrong {
        let declared = self.declared;
        let is_number =
            !matches!(self.values, Values::Bool(_) | Values::Uuid(_) | Values::Date(_) | Values::Timestamp(_));
        let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+' | ' ' | '\u{a0}' | '\'');
        let is_numeric =
            text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+')) && text.chars().all(numeric);
        let (what, hint) = match &self.values {
            _ if NULL_WORDS.contains(&text.to_lowercase().as_str()) => {
                (format!("is `{text}`, which is no {declared}"), format!("where it stands for a missing value: `null_values: [\"\", \"{}\"]`", text.escape_default()))
            }
            _ if is_number && is_numeric && text.contains(',') && !self.format.decimal_comma => (
                format!("is a number with a comma, which is no {declared}"),
                "with decimal commas: `decimal: \",\"` on the table; commas between thousands are not read: declare it as `utf8`".to_owned(),
            ),
            _ if is_number && is_numeric && text.contains('.') && self.format.decimal_comma => (
                "is a number with a point, but the table has `decimal: \",\"`".to_owned(),
                "points between thousands are not read: declare it as `utf8` and make a number of it in a view".to_owned(),
            ),
            Values::Integers(..) if integer(text).is_some() => {
                (format!("is a whole number that {declared} does not hold"), "declare it as `int64`, or as `uint64`".to_owned())
            }
            Values::Integers(..) if float(text).is_some() => {
                (format!("is a number that is not whole, or too large for {declared}"), "declare it as `float64`, or as `decimal(18, 2)`".to_owned())
            }
            Values::Decimal128(_) | Values::Decimal256(_) if float(text).is_some() => {
                (format!("is a number with more digits than {declared} has"), "declare it with more digits before or behind the point".to_owned())
            }
            Values::Date(_) => {
                let hint = match &self.format.date_format {
                    Some(_) => "`date_format` of the table says how its dates are written",
                    None => "dates are written `2026-06-30`; for others: `date_format: \"%m/%d/%Y\"` on the table",
                };
                (format!("is no {declared}"), hint.to_owned())
            }
            Values::Timestamp(_) => {
                let hint = match &self.format.timestamp_format {
                    Some(_) => "`timestamp_format` of the table says how its times are written",
                    None => {
                        "times are written `2026-06-30T12:00:00`; for others: `timestamp_format: \"%m/%d/%Y %H:%M\"` on the table"
                    }
                };
                (format!("is no {declared}"), hint.to_owned())
            }
            Values::Bool(_) => (format!("is no {declared}"), "it is `true` or `false`; others are declared as `utf8`".to_owned()),
            _ => (format!("is no {declared}"), "declare it as `utf8`, or mend the file".to_owned()),
        };
        Wrong { what, hint }
    }
}

/// A whole number, also as `12345.0`.
fn integer(text: &str) -> Option<i64> {
    let digits = match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    digits.parse().ok()
}

/// A text that is a number, as Rust reads it: no words but those for what is not finite.
fn float(text: &str) -> Option<&str> {
    text.parse::<f64>().is_ok().then_some(text)
}

/// The digits of a number without its point, as many behind the point as the scale says; `None` where some would be lost.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if !good(whole) || !good(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    // So many digits too many, or too few.
    let missing = i32::from(scale) - (i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?);
    for _ in 0..missing.min(0).unsigned_abs().min(digits.len() as u32) {
        if digits.pop() != Some('0') {
            return None;
        }
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = usize::try_from(missing.max(0)).ok()?;
    (digits.len() + zeros <= usize::from(precision)).then(|| format!("{sign}{digits}{}", "0".repeat(zeros)))
}

/// A time in a format of the user's: with an offset, without one, or a day.
fn formatted_time(text: &str, format: &str, clock: &LocalClock) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_str(text, format) {
        return Some(time.timestamp_micros());
    }
    let naive = NaiveDateTime::parse_from_str(text, format).ok();
    let naive = naive.or_else(|| NaiveDate::parse_from_str(text, format).ok()?.and_hms_opt(0, 0, 0));
    naive.map(|naive| clock.instant(naive.and_utc().timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;

    use super::*;

    const UTC: Zones = Zones { shown: chrono_tz::UTC, naive: chrono_tz::UTC };

    fn read(fields: &[&str], declared: ColumnType, format: CsvFormat) -> Result<Vec<String>, Wrong> {
        let mut reader = ColumnReader::new(declared, &Arc::new(format), UTC).unwrap();
        fields.iter().try_for_each(|field| reader.push(field.as_bytes()))?;
        let array = reader.finish().unwrap();
        assert_eq!(*array.data_type(), declared.arrow(chrono_tz::UTC));
        Ok((0..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect())
    }

    fn plain(fields: &[&str], declared: ColumnType) -> Result<Vec<String>, Wrong> {
        read(fields, declared, CsvFormat::default())
    }

    #[test]
    fn whole_numbers_may_end_in_zeros_and_nothing_else() {
        assert_eq!(plain(&["12345.0", "", " 7 ", "-3."], ColumnType::Int64).unwrap(), ["12345", "", "7", "-3"]);
        let wrong = plain(&["1.5"], ColumnType::Int64).unwrap_err();
        assert_eq!(wrong.what, "is a number that is not whole, or too large for int64");
        assert!(plain(&["300"], ColumnType::UInt8).unwrap_err().what.contains("that uint8 does not hold"));
        assert_eq!(plain(&["18446744073709551615"], ColumnType::UInt64).unwrap(), ["18446744073709551615"]);
        assert!(plain(&["18446744073709551616"], ColumnType::UInt64).is_err());
        assert!(plain(&["9223372036854775808"], ColumnType::Int64).is_err());
    }

    #[test]
    fn missing_values_are_those_that_the_table_names() {
        let wrong = plain(&["NA"], ColumnType::Float64).unwrap_err();
        assert_eq!(wrong.hint, "where it stands for a missing value: `null_values: [\"\", \"NA\"]`");
        let format = || CsvFormat { null_values: vec!["NA".to_owned(), "".to_owned()], ..CsvFormat::default() };
        assert_eq!(read(&["NA", "1.5", ""], ColumnType::Float64, format()).unwrap(), ["", "1.5", ""]);
        assert_eq!(read(&["NA", "x"], ColumnType::Utf8, format()).unwrap(), ["", "x"]);
        let only = CsvFormat { null_values: vec!["NA".to_owned()], ..CsvFormat::default() };
        let mut reader = ColumnReader::new(ColumnType::Utf8, &Arc::new(only), UTC).unwrap();
        reader.push(b"").unwrap();
        reader.push(b"NA").unwrap();
        let texts = reader.finish().unwrap();
        assert!(texts.is_valid(0) && texts.is_null(1));
    }

    #[test]
    fn decimal_commas_are_read_where_the_table_says_so() {
        let comma = || CsvFormat { decimal_comma: true, ..CsvFormat::default() };
        assert_eq!(read(&["10,50", "-1"], ColumnType::Float64, comma()).unwrap(), ["10.5", "-1.0"]);
        assert_eq!(read(&["10,5"], ColumnType::Decimal(10, 2), comma()).unwrap(), ["10.50"]);
        assert!(read(&["1.234,56"], ColumnType::Float64, comma()).unwrap_err().what.contains("with a point"));
        assert!(plain(&["10,50"], ColumnType::Float64).unwrap_err().hint.contains("`decimal: \",\"`"));
    }

    #[test]
    fn decimals_are_exact() {
        let decimal = ColumnType::Decimal(10, 2);
        let read = plain(&["10.5", "1e2", "0E-18", "-0.10", "1.500", "+3"], decimal).unwrap();
        assert_eq!(read, ["10.50", "100.00", "0.00", "-0.10", "1.50", "3.00"]);
        for wrong in ["1.005", "123456789.00", "1e8", ".", "1e", "x"] {
            assert!(plain(&[wrong], decimal).is_err(), "{wrong}");
        }
        let long = "1234567890123456789012345678901234567890.12";
        assert_eq!(plain(&[long], ColumnType::Decimal(50, 2)).unwrap(), [long]);
    }

    #[test]
    fn times_are_read_in_the_format_of_the_table() {
        let times = |format: &str| CsvFormat { timestamp_format: Some(format.to_owned()), ..CsvFormat::default() };
        let uci = read(&["12/1/2010 8:26"], ColumnType::Timestamp, times("%m/%d/%Y %H:%M")).unwrap();
        assert_eq!(uci, ["2010-12-01T08:26:00Z"]);
        assert_eq!(read(&["01.12.2010"], ColumnType::Timestamp, times("%d.%m.%Y")).unwrap(), ["2010-12-01T00:00:00Z"]);
        let offset =
            read(&["2010-12-01 08:26:00 +0200"], ColumnType::Timestamp, times("%Y-%m-%d %H:%M:%S %z")).unwrap();
        assert_eq!(offset, ["2010-12-01T06:26:00Z"]);
        assert!(plain(&["12/1/2010 8:26"], ColumnType::Timestamp).unwrap_err().hint.contains("timestamp_format"));
        let dates = CsvFormat { date_format: Some("%d/%m/%Y".to_owned()), ..CsvFormat::default() };
        assert_eq!(read(&["01/12/2010"], ColumnType::Date, dates).unwrap(), ["2010-12-01"]);
        assert_eq!(
            plain(&["2026-06-05T10:00:00", "2026-06-05 10:00:00"], ColumnType::Timestamp).unwrap()[1],
            "2026-06-05T10:00:00Z"
        );
    }

    #[test]
    fn no_error_shows_what_a_field_holds() {
        for (text, declared) in [
            ("anna.mueller@example.com", ColumnType::Int64),
            ("Anna Müller", ColumnType::Float64),
            ("1,234,567.5 EUR Anna", ColumnType::Decimal(10, 2)),
            ("1990-13-13 Anna", ColumnType::Date),
            ("Anna", ColumnType::Timestamp),
            ("Anna", ColumnType::Bool),
            ("Anna", ColumnType::Uuid),
        ] {
            let wrong = plain(&[text], declared).unwrap_err();
            assert!(!format!("{wrong:?}").contains("nna"), "{wrong:?}");
        }
        let mut reader = ColumnReader::new(ColumnType::Utf8, &Arc::default(), UTC).unwrap();
        assert!(reader.push(b"M\xfcller").unwrap_err().hint.contains("ISO-8859-1"));
    }
}
