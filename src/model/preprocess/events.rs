//! The newest events of every row: as they come, and as a sequence encoder reads them.
//!
//! An event is a few numbers and a few words. Two of the numbers are its time: how long it was until the next event (until
//! as_of for the newest one), and how long ago it happened, both as logarithms of minutes. The others are taken on a signed
//! log scale; all are standardised over the events of the training rows. A word is a place in a vocabulary, which has one
//! for any other word and one for NULL.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use super::category::CategoryEncoding;
use super::number::{moments, signed_log};
use super::table::{Words, bytes, push_numbers, push_words};
use super::{Encoding, InputKind};
use crate::{AsOf, Error, Result};

const MINUTES_PER_DAY: f32 = 1440.0;
/// Standardised numbers beyond this count as this.
const FARTHEST: f64 = 8.0;

/// The events of all rows, one row's after the other's, oldest first.
#[derive(Debug, Clone)]
pub struct Events {
    /// Where each row's events begin, and at last where all end.
    starts: Vec<usize>,
    /// Days before as_of.
    days: Vec<f32>,
    columns: Vec<(String, EventColumn)>,
}

/// What is known of events besides their time.
#[derive(Debug, Clone)]
enum EventColumn {
    /// A missing, NaN or infinite number is NaN.
    Numbers(Vec<f32>),
    Words(Words),
}

impl Default for Events {
    fn default() -> Self {
        Events { starts: vec![0], days: Vec::new(), columns: Vec::new() }
    }
}

impl Events {
    /// Adds rows from a column of lists whose events have their time as the first field.
    pub(super) fn push(&mut self, name: &str, values: &dyn Array, as_of: AsOf) -> Result<()> {
        let wrong = || Error::user(format!("`{name}` holds {}, not lists of events", values.data_type()));
        let lists = values.as_list_opt::<i32>().ok_or_else(wrong)?;
        let offsets = lists.value_offsets();
        let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
        let events = lists.values().slice(first, last - first);
        let events = events.as_struct_opt().filter(|events| events.num_columns() > 0).ok_or_else(wrong)?;
        let begun = self.days.len();
        self.starts.extend(offsets[1..].iter().map(|end| begun + *end as usize - first));
        push_numbers(&mut self.days, events.column(0), InputKind::Moment, as_of)?;
        let fields = || events.fields().iter().skip(1);
        if self.columns.is_empty() && begun == 0 {
            self.columns = fields().map(|f| (f.name().clone(), EventColumn::new(f.data_type()))).collect();
        }
        if !fields().map(|field| field.name()).eq(self.columns.iter().map(|(name, _)| name)) {
            return Err(Error::user(format!("the events of `{name}` have other columns than before")));
        }
        for ((_, column), values) in self.columns.iter_mut().zip(&events.columns()[1..]) {
            match column {
                EventColumn::Numbers(numbers) => push_numbers(numbers, values, InputKind::Number, as_of)?,
                EventColumn::Words(words) => push_words(words, values)?,
            }
        }
        Ok(())
    }

    /// Tells `hear` all that it holds, as bytes.
    pub(super) fn pieces(&self, hear: &mut impl FnMut(Vec<u8>)) {
        hear(self.starts.iter().flat_map(|start| start.to_le_bytes()).collect());
        hear(bytes(&self.days));
        for (name, column) in &self.columns {
            hear(name.as_bytes().to_vec());
            match column {
                EventColumn::Numbers(numbers) => hear(bytes(numbers)),
                EventColumn::Words(words) => words.pieces(hear),
            }
        }
    }

    /// The events of a row.
    fn of(&self, row: usize) -> std::ops::Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// Per event, the logarithms of the minutes until the next one and until as_of.
    fn times(&self) -> Vec<[f64; 2]> {
        let log = |days: f32| f64::from((days * MINUTES_PER_DAY).max(0.0)).ln_1p();
        let mut times = Vec::with_capacity(self.days.len());
        for row in self.starts.windows(2) {
            let days = &self.days[row[0]..row[1]];
            let next = days[1.min(days.len())..].iter().copied().chain([0.0]);
            times.extend(days.iter().zip(next).map(|(ago, next)| [log(ago - next), log(*ago)]));
        }
        times
    }
}

impl EventColumn {
    fn new(data_type: &DataType) -> Self {
        match data_type.is_numeric() || *data_type == DataType::Boolean {
            true => EventColumn::Numbers(Vec::new()),
            false => EventColumn::Words(Words::default()),
        }
    }
}

/// How events become what a sequence encoder reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventsEncoding {
    /// Until the next event, and until as_of.
    times: [Scale; 2],
    columns: Vec<(String, EventEncoding)>,
}

/// One column of the events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventEncoding {
    /// Whether values were missing in training: then there is an indicator.
    Number {
        scale: Scale,
        missing: bool,
    },
    Word(CategoryEncoding),
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Scale(f64, f64);

impl Scale {
    fn of(values: &[f64]) -> Self {
        let (mean, sd) = if values.is_empty() { (0.0, 0.0) } else { moments(values) };
        Scale(mean, if sd.is_finite() && sd > 1e-12 * mean.abs().max(1.0) { sd } else { 0.0 })
    }

    fn standard(self, value: f64) -> f32 {
        if self.1 == 0.0 { 0.0 } else { ((value - self.0) / self.1).clamp(-FARTHEST, FARTHEST) as f32 }
    }
}

/// The events of all rows as numbers alone, one row's after the other's, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedEvents {
    /// Where each row's events begin, and at last where all end.
    pub starts: Vec<usize>,
    /// Numbers per event.
    pub width: usize,
    /// Events × `width`, all finite.
    pub numbers: Vec<f32>,
    /// Words per event.
    pub kinds: usize,
    /// Events × `kinds`: the place of each word in its vocabulary.
    pub words: Vec<i64>,
}

impl EncodedEvents {
    /// The events of these rows alone.
    pub fn of_rows(&self, rows: &[usize]) -> EncodedEvents {
        let mut own = EncodedEvents { starts: vec![0], numbers: Vec::new(), words: Vec::new(), ..*self };
        for row in rows {
            let (from, until) = (self.starts[*row], self.starts[row + 1]);
            own.numbers.extend_from_slice(&self.numbers[from * self.width..until * self.width]);
            own.words.extend_from_slice(&self.words[from * self.kinds..until * self.kinds]);
            own.starts.push(own.starts[own.starts.len() - 1] + until - from);
        }
        own
    }
}

impl EventsEncoding {
    /// Fits the events of the rows given.
    pub(super) fn fit(events: &Events, rows: &[usize]) -> Encoding {
        let chosen: Vec<usize> = rows.iter().flat_map(|row| events.of(*row)).collect();
        if chosen.is_empty() {
            return Encoding::Dropped("there is no event in any training row".into());
        }
        let times = events.times();
        let time = |which: usize| Scale::of(&chosen.iter().map(|event| times[*event][which]).collect::<Vec<_>>());
        let column = |column: &EventColumn| match column {
            EventColumn::Words(words) => {
                EventEncoding::Word(CategoryEncoding::of_events(words, chosen.iter().copied()))
            }
            EventColumn::Numbers(numbers) => {
                let values = chosen.iter().map(|event| f64::from(numbers[*event])).filter(|v| v.is_finite());
                let values: Vec<f64> = values.map(signed_log).collect();
                EventEncoding::Number { scale: Scale::of(&values), missing: values.len() < chosen.len() }
            }
        };
        let columns = events.columns.iter().map(|(name, values)| (name.clone(), column(values))).collect();
        Encoding::Events(EventsEncoding { times: [time(0), time(1)], columns })
    }

    /// Numbers per event.
    pub fn numbers(&self) -> usize {
        let of = |(_, column): &(String, EventEncoding)| match column {
            EventEncoding::Number { missing, .. } => 1 + usize::from(*missing),
            EventEncoding::Word(_) => 0,
        };
        2 + self.columns.iter().map(of).sum::<usize>()
    }

    /// The sizes of the vocabularies of an event's words.
    pub fn vocabularies(&self) -> Vec<usize> {
        let of = |(_, column): &(String, EventEncoding)| match column {
            EventEncoding::Number { .. } => None,
            EventEncoding::Word(category) => Some(category.width()),
        };
        self.columns.iter().filter_map(of).collect()
    }

    /// What the encoder reads.
    pub(super) fn encode(&self, events: &Events) -> Result<EncodedEvents> {
        let same = self.columns.iter().map(|(name, _)| name).eq(events.columns.iter().map(|(name, _)| name));
        if !same && !events.days.is_empty() {
            return Err(Error::bug("the events have other columns than in training"));
        }
        let (width, kinds) = (self.numbers(), self.vocabularies().len());
        let mut numbers = vec![0.0; events.days.len() * width];
        let mut words = vec![0; events.days.len() * kinds];
        for (slot, times) in numbers.chunks_exact_mut(width).zip(events.times()) {
            (slot[0], slot[1]) = (self.times[0].standard(times[0]), self.times[1].standard(times[1]));
        }
        let (mut number, mut word) = (2, 0);
        for ((_, encoding), (name, column)) in self.columns.iter().zip(&events.columns) {
            match (encoding, column) {
                (EventEncoding::Number { scale, missing }, EventColumn::Numbers(values)) => {
                    for (slot, value) in numbers.chunks_exact_mut(width).zip(values) {
                        let there = value.is_finite();
                        slot[number] = if there { scale.standard(signed_log(f64::from(*value))) } else { 0.0 };
                        if *missing {
                            slot[number + 1] = f32::from(!there);
                        }
                    }
                    number += 1 + usize::from(*missing);
                }
                (EventEncoding::Word(category), EventColumn::Words(values)) => {
                    for (slot, place) in words.chunks_exact_mut(kinds).zip(category.places(values)) {
                        slot[word] = place as i64;
                    }
                    word += 1;
                }
                _ => return Err(Error::bug(format!("the events' `{name}` is not of the type it was fitted on"))),
            }
        }
        Ok(EncodedEvents { starts: events.starts.clone(), width, numbers, kinds, words })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    /// Minutes before as_of, an amount, a word.
    type Event = (i64, Option<f64>, Option<&'static str>);

    fn lists(rows: &[&[Event]], as_of: AsOf) -> ListArray {
        let now = as_of.instant().timestamp_micros();
        let all = || rows.iter().copied().flatten();
        let times = TimestampMicrosecondArray::from_iter_values(all().map(|(m, ..)| now - m * 60_000_000));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(times.with_timezone("UTC"))),
            ("amount", Arc::new(Float64Array::from_iter(all().map(|(_, amount, _)| *amount)))),
            ("kind", Arc::new(StringArray::from_iter(all().map(|(.., kind)| *kind)))),
        ];
        let fields = columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
        let values = StructArray::new(fields, columns.into_iter().map(|(_, values)| values).collect(), None);
        let event = Arc::new(Field::new("event", values.data_type().clone(), false));
        ListArray::new(event, OffsetBuffer::from_lengths(rows.iter().map(|row| row.len())), Arc::new(values), None)
    }

    fn events(rows: &[&[Event]]) -> Events {
        let as_of = AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap();
        let mut events = Events::default();
        events.push("sequence", &lists(rows, as_of), as_of).unwrap();
        events
    }

    fn fitted(events: &Events, rows: &[usize]) -> EventsEncoding {
        let Encoding::Events(encoding) = EventsEncoding::fit(events, rows) else { panic!("dropped") };
        encoding
    }

    const ROWS: [&[Event]; 3] = [
        &[(100, Some(1.0), Some("cart")), (40, None, Some("view")), (10, Some(-3.0), None)],
        &[],
        &[(7, Some(5.0), Some("view"))],
    ];

    #[test]
    fn a_gap_ends_at_the_next_event_and_the_newest_ones_at_as_of() {
        let log = |minutes: f64| minutes.ln_1p();
        let wanted = [[log(60.0), log(100.0)], [log(30.0), log(40.0)], [log(10.0); 2], [log(7.0); 2]];
        for (found, wanted) in events(&ROWS).times().iter().flatten().zip(wanted.iter().flatten()) {
            assert!((found - wanted).abs() < 1e-4, "{found} {wanted}");
        }
    }

    #[test]
    fn an_event_is_two_times_its_numbers_and_its_words() {
        let events = events(&ROWS);
        let encoding = fitted(&events, &[0, 1, 2]);
        assert_eq!((encoding.numbers(), encoding.vocabularies()), (4, vec![4]));
        let encoded = encoding.encode(&events).unwrap();
        assert_eq!((encoded.starts, encoded.width, encoded.kinds), (vec![0, 3, 3, 4], 4, 1));
        assert_eq!(encoded.words, [1, 0, 3, 0], "`view` is the most frequent; NULL comes last");
        let missing: Vec<f32> = encoded.numbers.chunks_exact(4).map(|event| event[3]).collect();
        assert_eq!(missing, [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(encoded.numbers[4 + 2], 0.0, "a missing number stands at the mean");
    }

    #[test]
    fn events_of_other_rows_and_words_never_seen_change_no_fit() {
        let more = [ROWS[0], ROWS[2], &[(1, Some(1e9), Some("strange"))]];
        let (few, more) = (events(&[ROWS[0], ROWS[2]]), events(&more));
        let encoding = fitted(&more, &[0, 1]);
        assert_eq!(encoding, fitted(&few, &[0, 1]));
        let encoded = encoding.encode(&more).unwrap();
        assert_eq!(encoded.words[4], 2, "the place of any other word");
        assert!(encoded.numbers.iter().all(|v| v.abs() <= 8.0));
    }

    #[test]
    fn batches_follow_each_other_and_may_be_slices() {
        let as_of = AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap();
        let all = lists(&ROWS, as_of);
        let mut pieces = Events::default();
        for row in 0..3 {
            pieces.push("sequence", &all.slice(row, 1), as_of).unwrap();
        }
        let whole = events(&ROWS);
        let encoding = fitted(&whole, &[0, 2]);
        assert_eq!(encoding.encode(&pieces).unwrap(), encoding.encode(&whole).unwrap());
    }

    #[test]
    fn without_any_event_there_is_nothing_to_read() {
        let encoding = EventsEncoding::fit(&events(&ROWS), &[1]);
        assert_eq!(encoding, Encoding::Dropped("there is no event in any training row".into()));
    }
}
