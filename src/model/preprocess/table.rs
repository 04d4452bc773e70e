//! Feature batches gathered as columns of plain values: 4 bytes per number, a word once.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, make_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;
use chrono::NaiveDate;

use super::InputKind;
use super::events::Events;
use crate::local_time::{LocalClock, OnError, instants};
use crate::{AsOf, Error, Result};

/// The id of a missing word or text.
pub const MISSING: u32 = u32::MAX;

const MICROS_PER_DAY: f64 = 86_400e6;

/// Rows of features before preprocessing.
#[derive(Debug, Clone)]
pub struct RawTable {
    rows: usize,
    /// The day of each row.
    dates: Vec<NaiveDate>,
    columns: Vec<(String, InputKind, RawColumn)>,
}

/// The values of one feature.
#[derive(Debug, Clone)]
pub enum RawColumn {
    /// Numbers; a missing, NaN or infinite one is NaN.
    Number(Vec<f32>),
    /// Words or texts.
    Words(Words),
    /// The newest events.
    Events(Events),
}

impl RawColumn {
    /// Tells `hear` all that it holds, as bytes.
    pub fn pieces(&self, hear: &mut impl FnMut(Vec<u8>)) {
        match self {
            RawColumn::Number(numbers) => hear(bytes(numbers)),
            RawColumn::Words(words) => words.pieces(hear),
            RawColumn::Events(events) => events.pieces(hear),
        }
    }
}

pub(super) fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Strings by id; a NULL or blank one is [`MISSING`].
#[derive(Debug, Clone, Default)]
pub struct Words {
    ids: Vec<u32>,
    words: Vec<String>,
    known: HashMap<String, u32>,
}

impl Words {
    /// One id per row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The words by id.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    pub(super) fn pieces(&self, hear: &mut impl FnMut(Vec<u8>)) {
        hear(self.ids.iter().flat_map(|id| id.to_le_bytes()).collect());
        hear(self.words.join("\0").into_bytes());
    }

    fn push(&mut self, word: Option<&str>) {
        let id = match word.filter(|w| !w.trim().is_empty()) {
            None => MISSING,
            Some(word) => self.known.get(word).copied().unwrap_or_else(|| {
                let id = self.words.len() as u32;
                self.words.push(word.to_owned());
                self.known.insert(word.to_owned(), id);
                id
            }),
        };
        self.ids.push(id);
    }
}

impl RawTable {
    /// No rows yet, of these features.
    pub fn new(features: Vec<(String, InputKind)>) -> Self {
        let empty = |kind: InputKind| match kind {
            InputKind::Number | InputKind::Moment => RawColumn::Number(Vec::new()),
            InputKind::Category | InputKind::Text => RawColumn::Words(Words::default()),
            InputKind::Events => RawColumn::Events(Events::default()),
        };
        let columns = features.into_iter().map(|(name, kind)| (name, kind, empty(kind))).collect();
        RawTable { rows: 0, dates: Vec::new(), columns }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The day at which each row was looked at.
    pub fn dates(&self) -> &[NaiveDate] {
        &self.dates
    }

    /// Name, kind and values of each feature.
    pub fn columns(&self) -> impl Iterator<Item = (&str, InputKind, &RawColumn)> {
        self.columns.iter().map(|(name, kind, column)| (name.as_str(), *kind, column))
    }

    /// The values of one feature.
    pub fn column(&self, name: &str) -> Option<&RawColumn> {
        self.columns.iter().find(|(n, _, _)| n == name).map(|(_, _, column)| column)
    }

    /// Puts a number per row under a name: a further column, or other values of one that is there.
    pub fn set_number(&mut self, name: &str, values: Vec<f32>) {
        match self.columns.iter_mut().find(|(n, _, _)| n == name) {
            Some((_, _, column)) => *column = RawColumn::Number(values),
            None => self.columns.push((name.to_owned(), InputKind::Number, RawColumn::Number(values))),
        }
    }

    /// Adds the rows of a batch; its other columns are not looked at.
    pub fn push(&mut self, batch: &RecordBatch, as_of: AsOf) -> Result<()> {
        for (name, kind, column) in &mut self.columns {
            let values =
                batch.column_by_name(name).ok_or_else(|| Error::user(format!("the feature `{name}` is missing")))?;
            match column {
                RawColumn::Number(numbers) => push_numbers(numbers, values, *kind, as_of)?,
                RawColumn::Words(words) => push_words(words, values)?,
                RawColumn::Events(events) => events.push(name, values, as_of)?,
            }
        }
        self.rows += batch.num_rows();
        self.dates.resize(self.rows, as_of.date());
        Ok(())
    }
}

pub(super) fn push_words(words: &mut Words, values: &dyn Array) -> Result<()> {
    let texts = cast(values, &DataType::Utf8)?;
    texts.as_string::<i32>().iter().for_each(|word| words.push(word));
    Ok(())
}

pub(super) fn push_numbers(numbers: &mut Vec<f32>, values: &dyn Array, kind: InputKind, as_of: AsOf) -> Result<()> {
    if kind == InputKind::Moment {
        // A date is its midnight on the clock of the job.
        let clock = LocalClock::of(as_of.timezone());
        let instants = instants(&make_array(values.to_data()), &clock, 1, OnError::Fail)?;
        let now = as_of.instant().timestamp_micros();
        let days = |t: i64| (now as f64 - t as f64) / MICROS_PER_DAY;
        numbers.extend(instants.iter().map(|t| t.map_or(f32::NAN, |t| finite(days(t)))));
    } else {
        let doubles = cast(values, &DataType::Float64)?;
        numbers.extend(doubles.as_primitive::<Float64Type>().iter().map(|v| v.map_or(f32::NAN, finite)));
    }
    Ok(())
}

/// As f32, where NaN stands for everything that is no finite number; huge numbers become the largest finite one.
fn finite(value: f64) -> f32 {
    if value.is_finite() { value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 } else { f32::NAN }
}
