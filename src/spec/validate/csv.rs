//! The options of CSV files.

use std::fmt::Write;

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use crate::spec::csv::CsvFormat;
use crate::spec::job::Format;
use crate::spec::problems::Problems;
use crate::spec::raw::RawTable;
use crate::spec::read::At;

/// A day and a time that no two parts of a format take for each other.
const SAMPLE: &str = "2026-11-23T14:05:00+00:00";

/// The format of a table's CSV files; options of one that has others are told.
pub(super) fn csv_format(raw: &RawTable, format: Format, problems: &mut Problems) -> CsvFormat {
    let mut csv = CsvFormat::default();
    if format != Format::Csv {
        let given = [
            ("delimiter", raw.delimiter.as_ref().map(|at| at.key)),
            ("quote", raw.quote.as_ref().map(|at| at.key)),
            ("escape", raw.escape.as_ref().map(|at| at.key)),
            ("null_values", raw.null_values.as_ref().map(|at| at.key)),
            ("date_format", raw.date_format.as_ref().map(|at| at.key)),
            ("timestamp_format", raw.timestamp_format.as_ref().map(|at| at.key)),
            ("decimal", raw.decimal.as_ref().map(|at| at.key)),
        ];
        for (name, pos) in given.into_iter().filter_map(|(name, pos)| Some((name, pos?))) {
            problems.add(pos, format!("`{name}` is for CSV files"), "add `format: csv`, or remove it");
        }
        return csv;
    }
    if let Some(found) = one_byte(&raw.delimiter, "delimiter", problems) {
        csv.delimiter = found;
    }
    match raw.quote.as_ref().and_then(At::get).map(|text| text.0.as_str()) {
        Some("none") => csv.quote = None,
        _ => csv.quote = one_byte(&raw.quote, "quote", problems).or(csv.quote),
    }
    csv.escape = one_byte(&raw.escape, "escape", problems);
    if let Some(at) = raw.delimiter.as_ref().filter(|_| csv.quote == Some(csv.delimiter)) {
        problems.add(at.pos, "the delimiter is the quote too", "they must differ");
    }
    if let Some(values) = raw.null_values.as_ref().and_then(At::get) {
        csv.null_values = values.0.iter().filter_map(|value| Some(value.get()?.0.clone())).collect();
    }
    csv.date_format = time_format(&raw.date_format, "date_format", is_date_format, problems);
    csv.timestamp_format = time_format(&raw.timestamp_format, "timestamp_format", is_time_format, problems);
    if let Some(at) = &raw.decimal
        && let Some(text) = at.get()
    {
        csv.decimal_comma = text.0 == ",";
        let good = matches!(text.0.as_str(), "," | ".");
        problems.require(good, at.pos, format!("`{}` is no decimal point", text.0), "write `\",\"` or `\".\"`");
    }
    csv
}

/// A character that CSV readers look for.
fn one_byte(raw: &Option<At<crate::spec::values::Literal>>, name: &str, problems: &mut Problems) -> Option<u8> {
    let at = raw.as_ref()?;
    let text = at.get()?.0.as_str();
    let byte = match text {
        "\\t" | "tab" => Some(b'\t'),
        _ => text.bytes().next().filter(|byte| text.len() == 1 && byte.is_ascii() && !byte.is_ascii_alphanumeric()),
    };
    let byte = byte.filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let hint = match name {
        "delimiter" => "write one character: `\";\"`, `\"\\t\"`, `\"|\"`",
        "quote" => "write one character: `\"'\"`, or `none`",
        _ => "write one character: `'\\'`",
    };
    problems.require(byte.is_some(), at.pos, format!("`{text}` is no {name}"), hint);
    byte
}

fn time_format(
    raw: &Option<At<String>>,
    name: &str,
    good: fn(&str) -> Option<()>,
    problems: &mut Problems,
) -> Option<String> {
    let at = raw.as_ref()?;
    let format = at.get()?;
    let hint = match name {
        "date_format" => "with `%d` for the day, `%m` for the month, `%Y` for the year: `%m/%d/%Y`",
        _ => "with `%d`, `%m`, `%Y`, `%H` for the hour, `%M`, `%S`, `%z` for an offset: `%m/%d/%Y %H:%M`",
    };
    problems.require(
        good(format).is_some(),
        at.pos,
        format!("`{format}` does not say how a {} is written", &name[..name.len() - 7]),
        hint,
    );
    Some(format.clone())
}

/// Whether a date that is written by a format is read back by it.
fn is_date_format(format: &str) -> Option<()> {
    let sample = DateTime::parse_from_rfc3339(SAMPLE).ok()?;
    let mut text = String::new();
    write!(text, "{}", sample.format(format)).ok()?;
    let found = NaiveDate::parse_from_str(&text, format).ok()?;
    (found == sample.date_naive()).then_some(())
}

/// The same for a time; it may be a date alone.
fn is_time_format(format: &str) -> Option<()> {
    let sample = DateTime::parse_from_rfc3339(SAMPLE).ok()?;
    let mut text = String::new();
    write!(text, "{}", sample.format(format)).ok()?;
    let with_offset =
        DateTime::parse_from_str(&text, format).is_ok_and(|found| found.date_naive() == sample.date_naive());
    let naive = NaiveDateTime::parse_from_str(&text, format).is_ok_and(|found| found.date() == sample.date_naive());
    let date = NaiveDate::parse_from_str(&text, format).is_ok_and(|found| found == sample.date_naive());
    let has_hours =
        ["%H", "%I", "%k", "%l", "%T", "%R", "%r", "%X", "%c", "%+", "%s"].iter().any(|part| format.contains(part));
    (with_offset || naive || (date && !has_hours)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_says_which_day_it_is() {
        for good in ["%m/%d/%Y", "%d.%m.%y", "%Y%m%d", "%d-%b-%Y", "%Y-%m-%d %H:%M"] {
            assert!(is_date_format(good).is_some(), "{good}");
        }
        for wrong in ["%d/%m", "%H:%M", "dd/mm/yyyy", "%Q", "%"] {
            assert!(is_date_format(wrong).is_none(), "{wrong}");
        }
        for good in
            ["%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%d.%m.%Y", "%+", "%Y-%m-%dT%H:%M:%S%z", "%m/%d/%Y %I:%M %p"]
        {
            assert!(is_time_format(good).is_some(), "{good}");
        }
        for wrong in ["%H:%M", "%m/%d/%Y %I:%M", "yyyy-MM-dd", "%Y-%m-%d %Q"] {
            assert!(is_time_format(wrong).is_none(), "{wrong}");
        }
    }
}
