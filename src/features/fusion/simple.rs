//! Counts, whole sums, least and greatest numbers: a number per slot.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType, Float64Type, Int64Type, UInt64Type};

use super::accumulator::{Accumulator, Groups, Output, Rows, Slots, column, columns_of, of_type, optional};
use crate::Result;

/// How many rows.
#[derive(Default)]
pub(super) struct Counts {
    states: Vec<i64>,
}

fn add_count(sum: &mut i64, state: &i64) {
    *sum += state;
}

impl Accumulator for Counts {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, 0);
        rows.each(|_, slot| self.states[slot] += 1);
        Ok(())
    }

    fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
        let [counts] = columns_of(states)?;
        self.states.resize(first, 0);
        self.states.extend_from_slice(counts.as_primitive::<Int64Type>().values());
        Ok(())
    }

    fn seal(&mut self, slots: usize) {
        self.states.resize(slots, 0);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let array = |sums: &[i64], _: &Output| Ok(Arc::new(Int64Array::from(sums.to_vec())) as ArrayRef);
        slots.merged(outputs, &self.states, add_count, array)
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Int64Array::from(groups.merged(&self.states, add_count)))])
    }
}

/// Sums of integers, which wrap as SQL's do; unsigned ones wrap alike.
#[derive(Default)]
pub(super) struct IntegerSums {
    states: Vec<Option<i64>>,
}

fn add_sum(sum: &mut Option<i64>, state: &Option<i64>) {
    if let Some(x) = state {
        *sum = Some(sum.unwrap_or(0).wrapping_add(*x));
    }
}

impl Accumulator for IntegerSums {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let mut add = |slot: usize, x: i64| add_sum(&mut self.states[slot], &Some(x));
        match rows.values.first() {
            Some(array) if *array.data_type() == DataType::UInt64 => {
                let numbers = array.as_primitive::<UInt64Type>().values();
                rows.each(|row, slot| add(slot, numbers[row] as i64));
            }
            Some(array) => {
                let numbers = array.as_primitive::<Int64Type>().values();
                rows.each(|row, slot| add(slot, numbers[row]));
            }
            None => {}
        }
        Ok(())
    }

    fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
        let [sums] = columns_of(states)?;
        self.states.resize(first, None);
        self.states.extend(optional::<Int64Type>(sums));
        Ok(())
    }

    fn seal(&mut self, slots: usize) {
        self.states.resize(slots, None);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        slots.merged(outputs, &self.states, add_sum, |sums, output| {
            Ok(match output.data_type == DataType::UInt64 {
                true => column::<UInt64Type, _>(sums, |sum| sum.map(|x| x as u64)),
                false => column::<Int64Type, _>(sums, |sum| *sum),
            })
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(vec![column::<Int64Type, _>(&groups.merged(&self.states, add_sum), |sum| *sum)])
    }
}

/// The least or greatest value.
pub(super) struct Extremes<N> {
    pub states: Vec<Option<N>>,
    pub better: fn(N, N) -> bool,
}

impl<N: ArrowNativeType> Extremes<N> {
    fn put(better: fn(N, N) -> bool, state: &mut Option<N>, x: N) {
        if state.is_none_or(|old| better(x, old)) {
            *state = Some(x);
        }
    }

    fn merge(&self) -> impl Fn(&mut Option<N>, &Option<N>) + use<N> {
        let better = self.better;
        move |sum, state| {
            if let Some(x) = state {
                Self::put(better, sum, *x);
            }
        }
    }

    fn add<T: ArrowPrimitiveType<Native = N>>(&mut self, rows: &Rows<'_>, slots: usize) {
        self.states.resize(slots, None);
        let Some(array) = rows.values.first() else { return };
        let numbers = array.as_primitive::<T>().values();
        rows.each(|row, slot| Self::put(self.better, &mut self.states[slot], numbers[row]));
    }

    fn load<T: ArrowPrimitiveType<Native = N>>(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
        let [values] = columns_of(states)?;
        self.states.resize(first, None);
        self.states.extend(optional::<T>(values));
        Ok(())
    }

    fn finish<T: ArrowPrimitiveType<Native = N>>(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        slots.merged(outputs, &self.states, self.merge(), |sums, output| {
            of_type(&column::<T, _>(sums, |sum| *sum), &output.data_type)
        })
    }

    fn export<T: ArrowPrimitiveType<Native = N>>(&self, groups: &Groups) -> Vec<ArrayRef> {
        vec![column::<T, _>(&groups.merged(&self.states, self.merge()), |sum| *sum)]
    }
}

macro_rules! extremes {
    ($native:ty, $arrow:ty) => {
        impl Accumulator for Extremes<$native> {
            fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
                self.add::<$arrow>(rows, slots);
                Ok(())
            }

            fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()> {
                self.load::<$arrow>(first, states)
            }

            fn seal(&mut self, slots: usize) {
                self.states.resize(slots, None);
            }

            fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
                self.finish::<$arrow>(slots, outputs)
            }

            fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
                Ok(self.export::<$arrow>(groups))
            }
        }
    };
}

extremes!(i64, Int64Type);
extremes!(f64, Float64Type);
