//! The number of the row that comes first or last by a time: the common case of [`super::pick`], without writing rows down.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::accumulator::{Accumulator, Groups, Keeper, Kept, Output, Rows, Slots, column, columns_of, of_type};
use super::whole::Whole;
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
    /// Whether the numbers are doubles.
    doubles: bool,
    states: Kept<Option<Place>>,
}

impl FirstNumber {
    pub fn new(order: (bool, bool), last: bool) -> Self {
        FirstNumber { order, last, doubles: false, states: Kept::default() }
    }

    fn time(&self, time: Option<i64>) -> i128 {
        match (time, self.order) {
            (None, (_, true)) => i128::MIN,
            (None, (_, false)) => i128::MAX,
            (Some(time), (true, _)) => -i128::from(time),
            (Some(time), (false, _)) => i128::from(time),
        }
    }

    /// The time of a place.
    fn time_of(&self, (time, _): Place) -> Option<i64> {
        let time = if self.order.0 { time.checked_neg() } else { Some(time) };
        time.and_then(|time| i64::try_from(time).ok())
    }

    fn read<'a>(&'a self, states: &'a [ArrayRef]) -> Result<impl Iterator<Item = Option<Place>> + 'a> {
        let [there, times, numbers] = columns_of(states)?;
        let times = Whole::optional(times)?;
        let doubles = numbers.as_primitive_opt::<Float64Type>();
        let mut whole = doubles.is_none().then(|| Whole::of(numbers)).transpose()?;
        let rows = there.as_boolean().values().iter().zip(times).enumerate();
        Ok(rows.map(move |(row, (there, time))| {
            let number = match (&mut whole, doubles) {
                (Some(whole), _) => whole.next(),
                (None, Some(doubles)) => Some(ordered(doubles.value(row))),
                (None, None) => None,
            };
            let number = number.filter(|_| numbers.is_valid(row)).map_or(NO_NUMBER, i128::from);
            there.then(|| (self.time(time), number))
        }))
    }

    fn merge(&self) -> impl Fn(&mut Option<Place>, &Option<Place>) + use<> {
        let last = self.last;
        move |sum, state| {
            if let Some(place) = state {
                lead(last, sum, *place);
            }
        }
    }
}

/// The number of a place, doubles as [`ordered`] has them.
fn number(state: &Option<Place>) -> Option<i64> {
    state.map(|(_, number)| number).filter(|number| *number != NO_NUMBER).map(|number| number as i64)
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
        self.states.grow(slots);
        let [number, time, ..] = rows.values.as_slice() else {
            return Err(Error::infra("a row is ordered by nothing"));
        };
        self.doubles = *number.data_type() == DataType::Float64;
        let times = time.as_primitive::<Int64Type>();
        let there = |row: usize| number.is_valid(row);
        let mut states = std::mem::take(&mut self.states.states);
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
        self.states.states = states;
        Ok(())
    }

    fn load(&mut self, _first: usize, states: Vec<ArrayRef>) -> Result<()> {
        let [_, _, numbers] = columns_of(&states)?;
        self.doubles = *numbers.data_type() == DataType::Float64;
        self.states.load(states);
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(
            slots,
            outputs,
            |states| self.read(states),
            self.merge(),
            |sums, output| match output.data_type {
                DataType::Float64 => Ok(column::<Float64Type, _>(sums, |s| number(s).map(double))),
                _ => of_type(&column::<Int64Type, _>(sums, number), &output.data_type),
            },
        )
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let states = self.states.grouped(groups, |states| self.read(states), self.merge())?;
        let there = BooleanArray::from(states.iter().map(Option::is_some).collect::<Vec<_>>());
        let times = column::<Int64Type, _>(&states, |state| self.time_of((*state)?));
        let numbers = match self.doubles {
            true => column::<Float64Type, _>(&states, |state| number(state).map(double)),
            false => column::<Int64Type, _>(&states, number),
        };
        Ok(vec![Arc::new(there), times, numbers])
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
