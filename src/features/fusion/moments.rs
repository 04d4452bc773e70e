//! Sums, averages and spreads of doubles, exact in any order.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{Float64Type, Int64Type};

use super::accumulator::{Accumulator, Groups, Output, Rows, Slots, column};
use super::aggregate::Function;
use crate::features::exact::{self, ExactSum};
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, Default)]
struct State {
    count: u64,
    sum: ExactSum,
}

impl State {
    fn merge(&mut self, other: &State) {
        self.count += other.count;
        self.sum.merge(&other.sum);
    }
}

/// The moments of each slot. Squares are kept apart, where they are wanted at all.
pub(super) struct Moments {
    states: Vec<State>,
    squares: Option<Vec<ExactSum>>,
}

impl Moments {
    pub fn new(squares: bool) -> Self {
        Moments { states: Vec::new(), squares: squares.then(Vec::new) }
    }
}

impl Accumulator for Moments {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.seal(slots);
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Float64Type>().values();
        rows.each(|row, slot| {
            let state = &mut self.states[slot];
            state.count += 1;
            state.sum.add(numbers[row]);
        });
        if let Some(squares) = &mut self.squares {
            rows.each(|row, slot| squares[slot].add_square(numbers[row]));
        }
        Ok(())
    }

    fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
        let Some((counts, sums)) = states.split_first().filter(|(_, sums)| sums.len() == self.sums() * 3) else {
            return Err(Error::infra("a state of sums has other columns"));
        };
        self.seal(first);
        let counts = counts.as_primitive::<Int64Type>().values();
        let states = counts.iter().zip(parts(&sums[..3]));
        self.states.extend(states.map(|(count, sum)| State { count: *count as u64, sum }));
        if let Some(squares) = &mut self.squares {
            squares.extend(parts(&sums[3..]));
        }
        Ok(())
    }

    fn seal(&mut self, slots: usize) {
        self.states.resize(slots, State::default());
        if let Some(squares) = &mut self.squares {
            squares.resize(slots, ExactSum::default());
        }
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let Some(squares) = &self.squares else {
            return slots.merged(outputs, &self.states, State::merge, |sums, output| {
                let average = output.function == Function::Average;
                let value = |s: &State| if average { s.sum.value() / s.count as f64 } else { s.sum.value() };
                Ok(column::<Float64Type, _>(sums, |s| (s.count > 0).then(|| value(s))))
            });
        };
        let both: Vec<(State, ExactSum)> = self.states.iter().copied().zip(squares.iter().copied()).collect();
        let merge = |a: &mut (State, ExactSum), b: &(State, ExactSum)| {
            a.0.merge(&b.0);
            a.1.merge(&b.1);
        };
        slots.merged(outputs, &both, merge, |sums, output| {
            let (correction, root) = match output.function {
                Function::Deviation { correction } => (correction, true),
                Function::Variance { correction } => (correction, false),
                _ => return Err(Error::infra("a spread is asked for something else")),
            };
            let value = |(state, squares): &(State, ExactSum)| {
                let variance =
                    exact::variance(state.count, &state.sum, squares, correction).filter(|_| state.count > 0);
                variance.map(|v| if root { v.sqrt() } else { v })
            };
            Ok(column::<Float64Type, _>(sums, value))
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let merged = groups.merged(&self.states, State::merge);
        let counts = Int64Array::from_iter_values(merged.iter().map(|state| state.count as i64));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts)];
        let sums: Vec<ExactSum> = merged.iter().map(|state| state.sum).collect();
        let squares = self.squares.as_ref().map(|squares| groups.merged(squares, ExactSum::merge));
        for sums in std::iter::once(sums).chain(squares) {
            for part in 0..3 {
                let parts = sums.iter().map(|sum| sum.parts()[part]);
                columns.push(Arc::new(Float64Array::from_iter_values(parts)));
            }
        }
        Ok(columns)
    }
}

impl Moments {
    /// How many sums a state has.
    fn sums(&self) -> usize {
        1 + usize::from(self.squares.is_some())
    }
}

fn parts(columns: &[ArrayRef]) -> impl Iterator<Item = ExactSum> + '_ {
    let part = |i: usize| columns[i].as_primitive::<Float64Type>().values();
    let (high, middle, low) = (part(0), part(1), part(2));
    (0..high.len()).map(move |row| ExactSum::from_parts([high[row], middle[row], low[row]]))
}
