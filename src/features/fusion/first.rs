//! The number of the row that comes first or last by a time: the common case of [`super::pick`], without writing rows down.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::accumulator::{Accumulator, Keeper, Kept, Rows, columns_of, integers, of_type};
use super::slots::{Groups, Output, Slots, column};
use crate::{Error, Result};

/// Where a row stands: by its time, then by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// A time that is NULL comes before all others or behind them.
    rank: Ordering,
    /// Every bit the other way round where the time is sorted descending.
    time: i64,
    /// A number that is NULL comes last.
    lacks_number: bool,
    /// Doubles as [`ordered`] has them.
    number: i64,
}

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

    fn place(&self, time: Option<i64>, number: Option<i64>) -> Place {
        let (descending, nulls_first) = self.order;
        let (rank, time) = match time {
            None => (if nulls_first { Ordering::Less } else { Ordering::Greater }, 0),
            Some(time) => (Ordering::Equal, if descending { !time } else { time }),
        };
        Place { rank, time, lacks_number: number.is_none(), number: number.unwrap_or(0) }
    }

    /// The time of a place.
    fn time_of(&self, place: &Place) -> Option<i64> {
        let time = if self.order.0 { !place.time } else { place.time };
        place.rank.is_eq().then_some(time)
    }

    fn read<'a>(&'a self, states: &'a [ArrayRef]) -> Result<impl Iterator<Item = Option<Place>> + 'a> {
        let [there, times, array] = columns_of(states)?;
        let times = integers(times)?;
        let numbers = match array.as_primitive_opt::<Float64Type>() {
            Some(doubles) => doubles.values().iter().map(|x| ordered(*x)).collect::<Vec<i64>>(),
            None => integers(array)?.values().to_vec(),
        };
        let is_there = |nulls: Option<&NullBuffer>, row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
        let nulls = (times.nulls(), array.nulls());
        let there = there.as_boolean().values();
        let all = there.count_set_bits() == there.len();
        Ok(times.values().iter().zip(numbers).enumerate().map(move |(row, (time, number))| {
            let time = is_there(nulls.0, row).then_some(*time);
            (all || there.value(row)).then(|| self.place(time, is_there(nulls.1, row).then_some(number)))
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

fn number(state: &Option<Place>) -> Option<i64> {
    state.filter(|place| !place.lacks_number).map(|place| place.number)
}

impl Place {
    /// Whether it comes before another one. Mostly the times are there and differ.
    fn is_before(&self, other: &Place) -> bool {
        match self.time != other.time && self.rank.is_eq() && other.rank.is_eq() {
            true => self.time < other.time,
            false => self < other,
        }
    }
}

fn lead(last: bool, state: &mut Option<Place>, new: Place) {
    if state.is_none_or(|old| if last { old.is_before(&new) } else { new.is_before(&old) }) {
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
            return Err(Error::bug("a row is ordered by nothing"));
        };
        self.doubles = *number.data_type() == DataType::Float64;
        let times = time.as_primitive::<Int64Type>();
        let mut states = std::mem::take(&mut self.states.states);
        let time = |row: usize| times.is_valid(row).then(|| times.value(row));
        let there = |row: usize, x: i64| number.is_valid(row).then_some(x);
        let every = rows.of_filter();
        match number.data_type() {
            DataType::Float64 => {
                let numbers = number.as_primitive::<Float64Type>().values();
                let place = |row: usize| self.place(time(row), there(row, ordered(numbers[row])));
                every.each(|row, slot| lead(self.last, &mut states[slot], place(row)));
            }
            _ => {
                let numbers = number.as_primitive::<Int64Type>().values();
                let place = |row: usize| self.place(time(row), there(row, numbers[row]));
                every.each(|row, slot| lead(self.last, &mut states[slot], place(row)));
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
                DataType::Float64 => Ok(sums.column::<Float64Type>(|s| number(s).map(double))),
                _ => of_type(&sums.column::<Int64Type>(number), &output.data_type),
            },
        )
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let states = self.states.grouped(groups, |states| self.read(states), self.merge())?;
        let there = BooleanArray::from(states.iter().map(Option::is_some).collect::<Vec<_>>());
        let times = column::<Int64Type, _>(&states, |state| self.time_of(state.as_ref()?));
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
