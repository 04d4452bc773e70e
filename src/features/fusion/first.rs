//! The number of the row that comes first or last by a time: the common case of [`super::pick`], without writing rows down.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::accumulator::{Accumulator, Rows, Slots, column, of_type};
use crate::{Error, Result};

/// Where a row stands: by its time, then by its number. NULL comes before or after everything.
type Place = (i128, i128);
/// A number that is NULL comes last.
const NO_NUMBER: i128 = i128::MAX;

/// The leading row of each slot.
pub(super) struct FirstNumber {
    /// Whether the time is sorted descending, and NULL first.
    order: (bool, bool),
    last: bool,
    output: DataType,
    states: Vec<Option<Place>>,
}

impl FirstNumber {
    pub fn new(order: (bool, bool), last: bool, output: DataType) -> Self {
        FirstNumber { order, last, output, states: Vec::new() }
    }

    fn time(&self, time: Option<i64>) -> i128 {
        match (time, self.order) {
            (None, (_, true)) => i128::MIN,
            (None, (_, false)) => i128::MAX,
            (Some(time), (true, _)) => -i128::from(time),
            (Some(time), (false, _)) => i128::from(time),
        }
    }
}

fn lead(last: bool, state: &mut Option<Place>, new: Place) {
    if state.is_none_or(|old| if last { new > old } else { new < old }) {
        *state = Some(new);
    }
}

/// A double as a whole number with the same order, and back.
fn ordered(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn double(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ (((ordered >> 63) as u64) >> 1) as i64) as u64)
}

impl Accumulator for FirstNumber {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let [number, time, ..] = rows.values.as_slice() else {
            return Err(Error::infra("a row is ordered by nothing"));
        };
        let times = time.as_primitive::<Int64Type>();
        let there = |row: usize| number.is_valid(row);
        let mut states = std::mem::take(&mut self.states);
        let every = rows.of_filter();
        let time = |row: usize| self.time(times.is_valid(row).then(|| times.value(row)));
        match number.data_type() {
            DataType::Float64 => {
                let numbers = number.as_primitive::<Float64Type>().values();
                let place = |row: usize| if there(row) { i128::from(ordered(numbers[row])) } else { NO_NUMBER };
                every.each(|row, slot| lead(self.last, &mut states[slot], (time(row), place(row))));
            }
            _ => {
                let numbers = number.as_primitive::<Int64Type>().values();
                let place = |row: usize| if there(row) { i128::from(numbers[row]) } else { NO_NUMBER };
                every.each(|row, slot| lead(self.last, &mut states[slot], (time(row), place(row))));
            }
        }
        self.states = states;
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let merge = |sum: &mut Option<Place>, state: &Option<Place>| {
            if let Some(place) = state {
                lead(self.last, sum, *place);
            }
        };
        let number = |state: &Option<Place>| state.map(|(_, number)| number).filter(|number| *number != NO_NUMBER);
        slots.merged(windows, &self.states, merge, |sums| match self.output {
            DataType::Float64 => Ok(column::<Float64Type, _>(sums, |s| number(s).map(|n| double(n as i64)))),
            _ => of_type(&column::<Int64Type, _>(sums, |s| number(s).map(|n| n as i64)), &self.output),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_keep_their_order_as_whole_numbers() {
        let ascending = [f64::NEG_INFINITY, -3.5, -0.0, 0.0, 1e-300, 2.0, f64::INFINITY];
        assert!(ascending.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
        assert!(ascending.iter().all(|x| double(ordered(*x)).to_bits() == x.to_bits()));
    }
}
