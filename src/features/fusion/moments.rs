//! Sums, averages and spreads of doubles, exact in any order.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::Float64Type;

use super::accumulator::{Accumulator, Keeper, Kept, Rows, columns_of, integers};
use super::aggregate::Function;
use super::slots::{Groups, Output, Slots};
use crate::features::exact::{self, ExactSum};
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, Default)]
struct State {
    count: u64,
    sum: ExactSum,
}

impl State {
    fn add(&mut self, number: f64) {
        self.count += 1;
        self.sum.add(number);
    }

    fn merge(&mut self, other: &State) {
        self.count += other.count;
        self.sum.merge(&other.sum);
    }
}

/// The sums of each slot.
#[derive(Default)]
pub(super) struct Sums {
    states: Kept<State>,
}

impl Accumulator for Sums {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.grow(slots);
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Float64Type>().values();
        rows.each(|row, slot| self.states.states[slot].add(numbers[row]));
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, sums, State::merge, |sums, output| {
            let average = output.function == Function::Average;
            let value = |s: &State| if average { s.sum.value() / s.count as f64 } else { s.sum.value() };
            Ok(sums.column::<Float64Type>(|s| (s.count > 0).then(|| value(s))))
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(written(&self.states.grouped(groups, sums, State::merge)?))
    }
}

/// The sums of each slot, and those of the squares.
#[derive(Default)]
pub(super) struct Spreads {
    states: Kept<(State, ExactSum)>,
}

fn merge((state, squares): &mut (State, ExactSum), other: &(State, ExactSum)) {
    state.merge(&other.0);
    squares.merge(&other.1);
}

impl Accumulator for Spreads {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.grow(slots);
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Float64Type>().values();
        rows.each(|row, slot| {
            let (state, squares) = &mut self.states.states[slot];
            state.add(numbers[row]);
            squares.add_square(numbers[row]);
        });
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, spreads, merge, |sums, output| {
            let (correction, root) = match output.function {
                Function::Deviation { correction } => (correction, true),
                Function::Variance { correction } => (correction, false),
                _ => return Err(Error::bug("a spread is asked for something else")),
            };
            let value = |(state, squares): &(State, ExactSum)| {
                let variance = exact::variance(state.count, &state.sum, squares, correction);
                let variance = variance.filter(|_| state.count > 0);
                variance.map(|v| if root { v.sqrt() } else { v })
            };
            Ok(sums.column::<Float64Type>(value))
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let (states, squares): (Vec<State>, Vec<ExactSum>) =
            self.states.grouped(groups, spreads, merge)?.into_iter().unzip();
        Ok(written(&states).into_iter().chain(parts(&squares)).collect())
    }
}

/// Sums as they are written down: how many numbers, then the parts of their sum.
fn written(states: &[State]) -> Vec<ArrayRef> {
    let counts: ArrayRef = Arc::new(Int64Array::from_iter_values(states.iter().map(|state| state.count as i64)));
    let sums: Vec<ExactSum> = states.iter().map(|state| state.sum).collect();
    std::iter::once(counts).chain(parts(&sums)).collect()
}

fn parts(sums: &[ExactSum]) -> [ArrayRef; 3] {
    std::array::from_fn(|part| {
        Arc::new(Float64Array::from_iter_values(sums.iter().map(|sum| sum.parts()[part]))) as ArrayRef
    })
}

fn sums(states: &[ArrayRef]) -> Result<impl Iterator<Item = State> + '_> {
    let [counts, high, middle, low] = columns_of(states)?;
    let sums = whole(high, middle, low);
    Ok(integers(counts)?.values().iter().zip(sums).map(|(count, sum)| State { count: *count as u64, sum }))
}

fn spreads(states: &[ArrayRef]) -> Result<impl Iterator<Item = (State, ExactSum)> + '_> {
    let [.., high, middle, low] = columns_of::<7>(states)?;
    Ok(sums(&states[..4])?.zip(whole(high, middle, low)))
}

fn whole<'a>(high: &'a ArrayRef, middle: &'a ArrayRef, low: &'a ArrayRef) -> impl Iterator<Item = ExactSum> + 'a {
    let [high, middle, low] = [high, middle, low].map(|part| part.as_primitive::<Float64Type>().values());
    let parts = high.iter().zip(middle.iter()).zip(low.iter());
    parts.map(|((high, middle), low)| ExactSum::from_parts([*high, *middle, *low]))
}
