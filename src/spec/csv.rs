//! How the CSV files of a table are written.

/// How values stand in CSV files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    /// What separates fields.
    pub delimiter: u8,
    /// What encloses texts with delimiters or line breaks in them; `None` where nothing does.
    pub quote: Option<u8>,
    /// What stands before a quote within a text; `None` where it is doubled.
    pub escape: Option<u8>,
    /// The texts that stand for NULL.
    pub null_values: Vec<String>,
    /// How dates are written, as chrono's `strftime` says it; `None` is `2026-06-30`.
    pub date_format: Option<String>,
    /// How times are written; `None` is `2026-06-30T12:00:00`, with an offset or without.
    pub timestamp_format: Option<String>,
    /// Whether a comma stands before the fraction of a number.
    pub decimal_comma: bool,
}

impl Default for CsvFormat {
    fn default() -> Self {
        CsvFormat {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            null_values: vec![String::new()],
            date_format: None,
            timestamp_format: None,
            decimal_comma: false,
        }
    }
}
