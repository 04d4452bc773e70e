//! From feature columns to the network's inputs: fitted on training rows, stored in the bundle, plain Rust.
//!
//! A number gives two inputs (rank-normal by interpolated knots, and standardised, on a signed log scale where the column
//! is skewed) and an indicator where values were missing in training. A timestamp or date is a number: days before as_of.
//! A text that the job does not name as `model.text` is a category: its most frequent words, a slot for any other, a slot
//! for NULL. A text column gives one indicator here; its embedding joins in the network, and so does what is made of a
//! customer's newest events. Whatever comes in, what goes out is finite: NaN and infinities count as missing, the rest is clipped to the training range's inner 99.8 %.

mod category;
mod events;
mod number;
mod table;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

pub use category::CategoryEncoding;
pub use events::{EncodedEvents, Events, EventsEncoding};
pub use number::NumberEncoding;
pub(crate) use number::{normal_cdf, normal_quantile};
pub use table::{MISSING, RawColumn, RawTable, Words};

use crate::{Error, Result};

/// How a feature enters the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// A number or a boolean.
    Number,
    /// A timestamp or date, taken as days before as_of.
    Moment,
    /// A word of a vocabulary.
    Category,
    /// A text for the encoder.
    Text,
    /// The newest events, for the sequence encoder.
    Events,
}

impl InputKind {
    /// The kind of a column of this type; `text` says that the job names it as a text column.
    pub fn of(name: &str, data_type: &DataType, text: bool) -> Result<Self> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if text => Ok(InputKind::Text),
            _ if text => Err(Error::user(format!("the text column `{name}` holds {data_type}, not text"))
                .hint("`model.text.columns` names features of type utf8")),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(InputKind::Category),
            DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => Ok(InputKind::Moment),
            DataType::Boolean | DataType::Null => Ok(InputKind::Number),
            other if other.is_numeric() => Ok(InputKind::Number),
            DataType::Dictionary(_, values) => Self::of(name, values, text),
            DataType::List(event) if matches!(event.data_type(), DataType::Struct(_)) => Ok(InputKind::Events),
            other => Err(Error::user(format!("the feature `{name}` has type {other}, which no model can use"))
                .hint("make it a number, a boolean, a timestamp, a date or a text")),
        }
    }
}

/// One feature with its way into the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The feature's name.
    pub name: String,
    /// What it is.
    pub kind: InputKind,
    /// What was fitted for it.
    pub encoding: Encoding,
}

/// What was fitted for a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Not used, and why.
    Dropped(String),
    /// Rank-normal, standardised, missing.
    Number(NumberEncoding),
    /// One slot per word.
    Category(CategoryEncoding),
    /// One indicator for a missing text; the embedding joins later.
    Text,
    /// No input here: the sequence encoder reads the events.
    Events(EventsEncoding),
}

impl Encoding {
    fn width(&self) -> usize {
        match self {
            Encoding::Dropped(_) | Encoding::Events(_) => 0,
            Encoding::Number(number) => number.width(),
            Encoding::Category(category) => category.width(),
            Encoding::Text => 1,
        }
    }
}

/// Fitted preprocessing: the order of its inputs is the order of the features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    inputs: Vec<Input>,
}

impl Preprocess {
    /// Fits every column of `table` on the rows given.
    pub fn fit(table: &RawTable, rows: &[usize]) -> Self {
        let fit = |name: &str, kind: InputKind, column: &RawColumn| {
            let encoding = match column {
                RawColumn::Number(values) => NumberEncoding::fit(values, rows),
                RawColumn::Words(words) if kind == InputKind::Category => CategoryEncoding::fit(words, rows),
                RawColumn::Words(_) => Encoding::Text,
                RawColumn::Events(events) => EventsEncoding::fit(events, rows),
            };
            Input { name: name.to_owned(), kind, encoding }
        };
        let inputs = table.columns().map(|(name, kind, column)| fit(name, kind, column)).collect();
        Preprocess { inputs }
    }

    /// The features in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Leaves the events out, and says why.
    pub fn without_events(&mut self, why: &str) {
        for input in self.inputs.iter_mut().filter(|input| matches!(input.encoding, Encoding::Events(_))) {
            input.encoding = Encoding::Dropped(why.to_owned());
        }
    }

    /// What was fitted for the events, if they are used.
    pub fn events(&self) -> Option<&EventsEncoding> {
        self.inputs.iter().find_map(|input| match &input.encoding {
            Encoding::Events(events) => Some(events),
            _ => None,
        })
    }

    /// The events of all rows of `table` as the sequence encoder reads them, if they are used.
    pub fn encode_events(&self, table: &RawTable) -> Result<Option<EncodedEvents>> {
        let events = table.columns().find_map(|(_, _, column)| match column {
            RawColumn::Events(events) => Some(events),
            _ => None,
        });
        self.events().zip(events).map(|(encoding, events)| encoding.encode(events)).transpose()
    }

    /// Inputs per row.
    pub fn width(&self) -> usize {
        self.inputs.iter().map(|i| i.encoding.width()).sum()
    }

    /// The places of the rank-normal inputs, one per number; all others are standardised values, indicators and categories.
    pub fn numeric(&self) -> Vec<usize> {
        let mut places = Vec::new();
        let mut offset = 0;
        for input in &self.inputs {
            if let Encoding::Number(_) = input.encoding {
                places.push(offset);
            }
            offset += input.encoding.width();
        }
        places
    }

    /// The columns that were left out, with the reason.
    pub fn notes(&self) -> Vec<String> {
        let note = |i: &Input| match &i.encoding {
            Encoding::Dropped(why) => Some(format!("`{}` is not used: {why}", i.name)),
            _ => None,
        };
        self.inputs.iter().filter_map(note).collect()
    }

    /// The inputs of all rows of `table`, row by row: rows × [`Preprocess::width`], all finite.
    pub fn transform(&self, table: &RawTable) -> Result<Vec<f32>> {
        let width = self.width();
        let mut out = vec![0.0; table.rows() * width];
        let mut offset = 0;
        // Events make no inputs here; where the network does not read them, they may be missing.
        let inputs = self.inputs.iter().filter(|input| input.kind != InputKind::Events);
        let columns = table.columns().filter(|(_, kind, _)| *kind != InputKind::Events);
        for (input, (name, _, column)) in inputs.zip(columns) {
            if input.name != name {
                return Err(Error::bug(format!("`{name}` stands where `{}` belongs", input.name)));
            }
            let step = input.encoding.width();
            let mut slots = out.chunks_exact_mut(width.max(1)).map(|row| &mut row[offset..offset + step]);
            match (&input.encoding, column) {
                (Encoding::Dropped(_), _) => {}
                (Encoding::Number(number), RawColumn::Number(values)) => {
                    values.iter().zip(&mut slots).for_each(|(value, slot)| number.write(*value, slot));
                }
                (Encoding::Category(category), RawColumn::Words(words)) => category.write(words, slots),
                (Encoding::Text, RawColumn::Words(words)) => {
                    words.ids().iter().zip(&mut slots).for_each(|(id, slot)| slot[0] = f32::from(*id == MISSING));
                }
                _ => return Err(Error::bug(format!("`{name}` is not of the type it was fitted on"))),
            }
            offset += step;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::record_batch::RecordBatch;
    use proptest::prelude::*;

    use super::*;
    use crate::AsOf;

    fn as_of() -> AsOf {
        AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap()
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn table(columns: Vec<(&str, ArrayRef)>, text: &[&str]) -> RawTable {
        let batch = batch(columns);
        let schema = batch.schema();
        let kinds = schema.fields().iter().map(|f| {
            let kind = InputKind::of(f.name(), f.data_type(), text.contains(&f.name().as_str())).unwrap();
            (f.name().clone(), kind)
        });
        let mut table = RawTable::new(kinds.collect());
        table.push(&batch, as_of()).unwrap();
        table
    }

    fn all(table: &RawTable) -> Vec<usize> {
        (0..table.rows()).collect()
    }

    fn numbers(values: Vec<Option<f64>>) -> RawTable {
        table(vec![("x", Arc::new(Float64Array::from(values)))], &[])
    }

    proptest! {
        #[test]
        fn any_input_gives_finite_outputs(
            seen in prop::collection::vec(prop::option::of(any::<f64>()), 1..40),
            asked in prop::collection::vec(prop::option::of(any::<f64>()), 1..40),
        ) {
            let fitted = numbers(seen);
            let prepared = Preprocess::fit(&fitted, &all(&fitted));
            let out = prepared.transform(&numbers(asked)).unwrap();
            prop_assert!(out.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn nan_and_infinity_count_as_missing() {
        let fitted = numbers(vec![Some(1.0), Some(2.0), Some(3.0), None]);
        let prepared = Preprocess::fit(&fitted, &all(&fitted));
        let asked = numbers(vec![None, Some(f64::NAN), Some(f64::INFINITY), Some(2.0)]);
        let out = prepared.transform(&asked).unwrap();
        assert_eq!(prepared.width(), 3);
        assert_eq!(out[0..3], out[3..6]);
        assert_eq!(out[0..3], out[6..9]);
        assert_eq!((out[2], out[11]), (1.0, 0.0), "the third input says that the value is missing");
        assert_eq!(out[0..2], out[9..11], "a missing value stands at the median");
    }

    #[test]
    fn a_column_without_missing_values_has_no_indicator() {
        let fitted = numbers(vec![Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(Preprocess::fit(&fitted, &all(&fitted)).width(), 2);
    }

    #[test]
    fn the_numeric_inputs_are_the_ranks_of_numbers() {
        let fitted = table(
            vec![
                ("a", Arc::new(Float64Array::from(vec![Some(5.0), None, Some(1.0)])) as ArrayRef),
                ("constant", Arc::new(Int64Array::from(vec![1, 1, 1]))),
                ("word", Arc::new(StringArray::from(vec!["x", "y", "x"]))),
                ("b", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ],
            &[],
        );
        let prepared = Preprocess::fit(&fitted, &all(&fitted));
        let b = prepared.width() - 2;
        assert_eq!(prepared.numeric(), [0, b]);
        let out = prepared.transform(&fitted).unwrap();
        assert_eq!(out[prepared.width() + b], 0.0, "the middle value has the score 0");
    }

    #[test]
    fn a_constant_column_is_dropped_with_a_note() {
        let fitted = numbers(vec![Some(5.0), Some(5.0)]);
        let prepared = Preprocess::fit(&fitted, &all(&fitted));
        assert_eq!(prepared.width(), 0);
        assert_eq!(prepared.notes(), ["`x` is not used: it has one value in every training row"]);
        assert!(prepared.transform(&fitted).unwrap().is_empty());
    }

    #[test]
    fn rows_outside_the_training_rows_do_not_matter() {
        let some = numbers(vec![Some(1.0), Some(2.0), Some(9.0)]);
        let more = numbers(vec![Some(1.0), Some(2.0), Some(9.0), Some(1e12), None]);
        assert_eq!(Preprocess::fit(&some, &[0, 1, 2]), Preprocess::fit(&more, &[0, 1, 2]));
    }

    #[test]
    fn a_moment_is_days_before_as_of() {
        let day = 86_400_000_000_i64;
        let at = as_of().instant().timestamp_micros();
        let column = TimestampMicrosecondArray::from(vec![Some(at - 3 * day), None, Some(at - day / 2)]);
        let moments = table(vec![("last_order_at", Arc::new(column.with_timezone("UTC")))], &[]);
        let (_, kind, RawColumn::Number(values)) = moments.columns().next().unwrap() else { panic!("not a number") };
        assert_eq!(kind, InputKind::Moment);
        assert_eq!((values[0], values[2]), (3.0, 0.5));
        assert!(values[1].is_nan());
    }

    #[test]
    fn an_unseen_word_and_null_have_their_own_slots() {
        let words = |list: Vec<Option<&str>>| table(vec![("country", Arc::new(StringArray::from(list)))], &[]);
        let fitted = words(vec![Some("DE"), Some("DE"), Some("FR"), None]);
        let prepared = Preprocess::fit(&fitted, &all(&fitted));
        let out = prepared.transform(&words(vec![Some("DE"), Some("FR"), Some("XX"), None])).unwrap();
        assert_eq!(out, [1., 0., 0., 0., 0., 1., 0., 0., 0., 0., 1., 0., 0., 0., 0., 1.]);
    }

    #[test]
    fn a_text_column_gives_an_indicator_for_a_missing_or_blank_text() {
        let column = StringArray::from(vec![Some("nice"), None, Some("  ")]);
        let texts = table(vec![("review", Arc::new(column))], &["review"]);
        let prepared = Preprocess::fit(&texts, &all(&texts));
        assert_eq!(prepared.transform(&texts).unwrap(), [0., 1., 1.]);
    }

    #[test]
    fn a_number_cannot_be_a_text_column() {
        let error = InputKind::of("orders", &DataType::Int64, true).unwrap_err();
        assert_eq!(error.to_string(), "the text column `orders` holds Int64, not text");
    }

    #[test]
    fn it_comes_back_from_json_as_it_was() {
        let fitted = table(
            vec![
                ("a", Arc::new(Float64Array::from(vec![Some(0.1), Some(1e9), None, Some(3.3)])) as ArrayRef),
                ("b", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
                ("c", Arc::new(StringArray::from(vec!["x", "y", "x", "z"]))),
            ],
            &[],
        );
        let prepared = Preprocess::fit(&fitted, &all(&fitted));
        let text = serde_json::to_string(&prepared).unwrap();
        assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap(), prepared);
    }
}
