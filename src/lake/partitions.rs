//! The values of partition columns: texts in folders' names, or in the log of a Delta table.

use datafusion::common::ScalarValue;

use crate::spec::{ColumnType, TableSpec};
use crate::{Error, Result};

/// How Hive writes a NULL into a folder's name.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The values of a table's partition columns for a file; `below` is its path below the table's folder.
pub(super) fn values(table: &TableSpec, below: &str, url: &str) -> Result<Vec<ScalarValue>> {
    let value = |(name, column_type): &(String, ColumnType)| {
        let folder = below.split('/').find_map(|part| part.strip_prefix(name.as_str())?.strip_prefix('='));
        let text = folder.map(percent_decoded).ok_or_else(|| {
            Error::user(format!("in table `{}`, `{url}` is not in a folder `{name}=…`", table.name))
                .at(table.place.clone())
                .hint(format!("move it to where its `{name}` says, or take `{name}` out of `partition_by`"))
        })?;
        match text == HIVE_NULL {
            true => Ok(ScalarValue::try_from(&column_type.arrow(table.timezone))?),
            false => parse(table, name, *column_type, &text, url),
        }
    };
    table.partition_by.iter().map(value).collect()
}

/// A value of a Delta log, where an empty text is a value of texts alone.
pub(super) fn value_in_log(
    table: &TableSpec,
    (name, column_type): &(String, ColumnType),
    text: Option<&str>,
    url: &str,
) -> Result<ScalarValue> {
    match text {
        None => Ok(ScalarValue::try_from(&column_type.arrow(table.timezone))?),
        Some("") if *column_type != ColumnType::Utf8 => Ok(ScalarValue::try_from(&column_type.arrow(table.timezone))?),
        Some(text) => parse(table, name, *column_type, text, url),
    }
}

fn parse(table: &TableSpec, name: &str, column_type: ColumnType, text: &str, url: &str) -> Result<ScalarValue> {
    ScalarValue::try_from_string(text.to_owned(), &column_type.arrow(table.timezone)).map_err(|e| {
        let kind = column_type.name();
        Error::user(format!("in table `{}`, `{text}` in `{url}` is no {kind} for `{name}`", table.name))
            .at(table.place.clone())
            .because(e)
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_percent_decoded() {
        assert_eq!(percent_decoded("a%3Ab%20c"), "a:b c");
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz"), "%zz");
    }
}
