//! Sums, averages and spreads of doubles, exact in any order.

use std::ops::Range;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Float64Type;

use super::accumulator::{Accumulator, Rows, Slots, column};
use super::aggregate::Function;
use crate::Result;
use crate::features::exact::{self, ExactSum};

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
    function: Function,
    states: Vec<State>,
    squares: Option<Vec<ExactSum>>,
}

impl Moments {
    pub fn new(function: Function) -> Self {
        let spread = matches!(function, Function::Variance { .. } | Function::Deviation { .. });
        Moments { function, states: Vec::new(), squares: spread.then(Vec::new) }
    }
}

impl Accumulator for Moments {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, State::default());
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Float64Type>().values();
        rows.each(|row, slot| {
            let state = &mut self.states[slot];
            state.count += 1;
            state.sum.add(numbers[row]);
        });
        if let Some(squares) = &mut self.squares {
            squares.resize(slots, ExactSum::default());
            rows.each(|row, slot| squares[slot].add_square(numbers[row]));
        }
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let there = |state: &State| state.count > 0;
        let correction = match &self.function {
            Function::SumDoubles => {
                let value = |s: &State| there(s).then(|| s.sum.value());
                return slots
                    .merged(windows, &self.states, State::merge, |sums| Ok(column::<Float64Type, _>(sums, value)));
            }
            Function::Variance { correction } | Function::Deviation { correction } => *correction,
            _ => {
                let value = |s: &State| there(s).then(|| s.sum.value() / s.count as f64);
                return slots
                    .merged(windows, &self.states, State::merge, |sums| Ok(column::<Float64Type, _>(sums, value)));
            }
        };
        let root = matches!(self.function, Function::Deviation { .. });
        let squares = self.squares.take().unwrap_or_default();
        let both: Vec<(State, ExactSum)> = self.states.iter().copied().zip(squares).collect();
        let merge = |a: &mut (State, ExactSum), b: &(State, ExactSum)| {
            a.0.merge(&b.0);
            a.1.merge(&b.1);
        };
        let value = |(state, squares): &(State, ExactSum)| {
            let variance = exact::variance(state.count, &state.sum, squares, correction).filter(|_| state.count > 0);
            variance.map(|v| if root { v.sqrt() } else { v })
        };
        slots.merged(windows, &both, merge, |sums| Ok(column::<Float64Type, _>(sums, value)))
    }
}
