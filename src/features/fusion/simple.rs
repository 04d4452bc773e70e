//! Counts, whole sums, least and greatest numbers: a number per slot.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType, Float64Type, Int64Type, UInt64Type};

use super::accumulator::{Accumulator, Keeper, Kept, Misfit, Rows, columns_of, integers, of_type};
use super::slots::{Groups, Merged, Output, Slots, column};
use crate::features::whole_sum::{OUT_OF_RANGE_HINT, WholeSum, out_of_range};
use crate::{Error, Result};

/// How many rows.
#[derive(Default)]
pub(super) struct Counts {
    states: Kept<i64>,
}

/// Whole numbers that add up, as they were written.
pub(super) fn counts(states: &[ArrayRef]) -> Result<impl Iterator<Item = i64> + '_> {
    let [counts] = columns_of(states)?;
    Ok(integers(counts)?.values().iter().copied())
}

pub(super) fn add_count(sum: &mut i64, state: &i64) {
    *sum += state;
}

pub(super) fn count_column(sums: &Merged<'_, i64>, _: &Output) -> Result<ArrayRef> {
    Ok(Arc::new(Int64Array::from(sums.values_of_one(|sum| *sum))))
}

impl Accumulator for Counts {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.grow(slots);
        rows.each(|_, slot| self.states.states[slot] += 1);
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, counts, add_count, count_column)
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Int64Array::from(self.states.grouped(groups, counts, add_count)?))])
    }
}

/// Sums of whole numbers.
#[derive(Default)]
pub(super) struct IntegerSums {
    states: Kept<WholeSum>,
}

fn whole_sums(states: &[ArrayRef]) -> Result<impl Iterator<Item = WholeSum> + '_> {
    let [low, high] = columns_of(states)?;
    let high = integers(high)?.values().iter();
    Ok(integers(low)?.iter().zip(high).map(|(low, high)| WholeSum::from_parts(low, *high)))
}

fn numbers(states: &[ArrayRef]) -> Result<impl Iterator<Item = Option<i64>> + '_> {
    let [numbers] = columns_of(states)?;
    Ok(integers(numbers)?.iter())
}

fn doubles(states: &[ArrayRef]) -> Result<impl Iterator<Item = Option<f64>> + '_> {
    let [numbers] = columns_of(states)?;
    Ok(numbers.as_primitive::<Float64Type>().iter())
}

impl Accumulator for IntegerSums {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.grow(slots);
        let states = &mut self.states.states;
        match rows.values.first() {
            Some(array) if *array.data_type() == DataType::UInt64 => {
                let numbers = array.as_primitive::<UInt64Type>().values();
                rows.each(|row, slot| states[slot].add_unsigned(numbers[row]));
            }
            Some(array) => {
                let numbers = array.as_primitive::<Int64Type>().values();
                rows.each(|row, slot| states[slot].add(numbers[row]));
            }
            None => {}
        }
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, whole_sums, WholeSum::merge, |sums, output| {
            let column = match output.data_type == DataType::UInt64 {
                true => sums.try_column::<UInt64Type, _>(WholeSum::unsigned),
                false => sums.try_column::<Int64Type, _>(WholeSum::signed),
            };
            column.map_err(|(customer, sum)| {
                let message = out_of_range(sum, &output.data_type);
                Error::user(message).hint(OUT_OF_RANGE_HINT).because(Misfit { customer })
            })
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let sums = self.states.grouped(groups, whole_sums, WholeSum::merge)?;
        let low = column::<Int64Type, _>(&sums, |sum| sum.parts().0);
        Ok(vec![low, column::<Int64Type, _>(&sums, |sum| Some(sum.parts().1))])
    }
}

/// The least or greatest value.
pub(super) struct Extremes<N, B> {
    states: Kept<Option<N>>,
    better: B,
}

impl<N: ArrowNativeType, B: Fn(N, N) -> bool + Copy> Extremes<N, B> {
    /// The value that is better than all others.
    pub fn new(better: B) -> Self {
        Extremes { states: Kept::default(), better }
    }

    fn put(better: B, state: &mut Option<N>, x: N) {
        if state.is_none_or(|old| better(x, old)) {
            *state = Some(x);
        }
    }

    fn merge(&self) -> impl Fn(&mut Option<N>, &Option<N>) + use<N, B> {
        let better = self.better;
        move |sum, state| {
            if let Some(x) = state {
                Self::put(better, sum, *x);
            }
        }
    }

    fn add<T: ArrowPrimitiveType<Native = N>>(&mut self, rows: &Rows<'_>, slots: usize) {
        self.states.grow(slots);
        let Some(array) = rows.values.first() else { return };
        let numbers = array.as_primitive::<T>().values();
        rows.each(|row, slot| Self::put(self.better, &mut self.states.states[slot], numbers[row]));
    }

    fn finish<'a, T: ArrowPrimitiveType<Native = N>, I: Iterator<Item = Option<N>>>(
        &'a self,
        slots: &Slots,
        outputs: &[&Output],
        read: impl Fn(&'a [ArrayRef]) -> Result<I>,
    ) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, read, self.merge(), |sums, output| {
            of_type(&sums.column::<T>(|sum| *sum), &output.data_type)
        })
    }

    fn export<'a, T: ArrowPrimitiveType<Native = N>, I: Iterator<Item = Option<N>>>(
        &'a self,
        groups: &Groups,
        read: impl Fn(&'a [ArrayRef]) -> Result<I>,
    ) -> Result<Vec<ArrayRef>> {
        let best = self.states.grouped(groups, read, self.merge())?;
        Ok(vec![column::<T, _>(&best, |best| *best)])
    }
}

macro_rules! extremes {
    ($native:ty, $arrow:ty, $read:ident) => {
        impl<B: Fn($native, $native) -> bool + Copy + Send + Sync> Accumulator for Extremes<$native, B> {
            fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
                self.add::<$arrow>(rows, slots);
                Ok(())
            }

            fn kept(&mut self) -> Option<&mut dyn Keeper> {
                Some(&mut self.states)
            }

            fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
                self.finish::<$arrow, _>(slots, outputs, $read)
            }

            fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
                self.export::<$arrow, _>(groups, $read)
            }
        }
    };
}

extremes!(i64, Int64Type, numbers);
extremes!(f64, Float64Type, doubles);
