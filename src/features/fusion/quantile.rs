//! Medians and other quantiles, exact: every value is kept. A customer has few, so a list of them takes less than a sketch, and
//! unlike one it does not depend on the order of the rows.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ArrowPrimitiveType, Field, Float64Type, Int64Type};

use super::accumulator::{Accumulator, Rows, columns_of, integers, of_type};
use super::keys::NOBODY;
use super::sketched::Listed;
use super::slots::{Groups, Output, Slots, column};
use super::state::lists_of_bits;
use crate::{Error, Result};

/// Which quantile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Quantile {
    /// The middle value; of an even number of values the mean of the two in the middle, cut off where they are whole.
    Median,
    /// The value below which this share of the others lies, between neighbours in proportion; the bits of a double.
    At(u64),
}

impl Quantile {
    /// The quantile of a share from 0 to 1.
    pub fn at(share: f64) -> Self {
        Quantile::At(share.to_bits())
    }
}

/// Shares between neighbours are cut off behind so many parts: DataFusion's own `percentile_cont` has them so.
const PARTS: f64 = 1_000_000.0;

/// A number that quantiles are taken of.
pub(super) trait Number: ArrowPrimitiveType {
    fn order(a: &Self::Native, b: &Self::Native) -> Ordering;
    fn mean(a: Self::Native, b: Self::Native) -> Self::Native;
    fn between(a: Self::Native, b: Self::Native, share: f64) -> Self::Native;
    /// What stands for a quantile of numbers of which one is not finite.
    fn not_finite(values: &[Self::Native]) -> Option<Self::Native>;
}

impl Number for Float64Type {
    fn order(a: &f64, b: &f64) -> Ordering {
        a.total_cmp(b)
    }

    fn mean(a: f64, b: f64) -> f64 {
        (a + b) / 2.0
    }

    fn between(a: f64, b: f64, share: f64) -> f64 {
        a + (b - a) * share
    }

    fn not_finite(values: &[f64]) -> Option<f64> {
        values.iter().any(|x| !x.is_finite()).then_some(f64::NAN)
    }
}

impl Number for Int64Type {
    fn order(a: &i64, b: &i64) -> Ordering {
        a.cmp(b)
    }

    fn mean(a: i64, b: i64) -> i64 {
        // The mean of two `i64` is one.
        ((i128::from(a) + i128::from(b)) / 2) as i64
    }

    fn between(a: i64, b: i64, share: f64) -> i64 {
        (a as f64 + (b as f64 - a as f64) * share) as i64
    }

    fn not_finite(_values: &[i64]) -> Option<i64> {
        None
    }
}

/// A quantile of some values, which it puts in another order; `None` of none.
fn quantile<T: Number>(values: &mut [T::Native], of: Quantile) -> Option<T::Native> {
    let last = values.len().checked_sub(1)?;
    if let Some(none) = T::not_finite(values) {
        return Some(none);
    }
    let mut nth = |place: usize| *values.select_nth_unstable_by(place, T::order).1;
    Some(match of {
        Quantile::Median if last % 2 == 0 => nth(last / 2),
        Quantile::Median => T::mean(nth(last / 2), nth(last / 2 + 1)),
        Quantile::At(share) => {
            let place = f64::from_bits(share) * last as f64;
            let (lower, upper) = (place.floor() as usize, place.ceil() as usize);
            match lower == upper {
                true => nth(lower),
                false => {
                    let share = ((place - lower as f64) * PARTS).floor() / PARTS;
                    T::between(nth(lower), nth(upper), share)
                }
            }
        }
    })
}

/// The values of every slot.
pub(super) struct Quantiles<T: ArrowPrimitiveType> {
    values: Vec<(u32, T::Native)>,
}

impl<T: Number> Default for Quantiles<T> {
    fn default() -> Self {
        Quantiles { values: Vec::new() }
    }
}

impl<T: Number> Quantiles<T> {
    /// Every value by the group that `group` has for its slot, those of a group by their size.
    fn sorted(&self, group: impl Fn(u32) -> Option<u64>) -> Vec<(u64, T::Native)> {
        let grouped = self.values.iter().filter_map(|(slot, value)| Some((group(*slot)?, *value)));
        let mut grouped: Vec<(u64, T::Native)> = grouped.collect();
        grouped.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| T::order(&a.1, &b.1)));
        grouped
    }
}

impl<T: Number> Accumulator for Quantiles<T> {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<T>().values();
        rows.each(|row, slot| self.values.push((slot as u32, numbers[row])));
        Ok(())
    }

    fn load(&mut self, first: usize, states: Vec<ArrayRef>) -> Result<()> {
        let lists: ArrayRef = match states.as_slice() {
            [bits, values] => Arc::new(lists_of_bits(integers(bits)?, values)?),
            states => Arc::clone(&columns_of::<1>(states)?[0]),
        };
        let lists = lists.as_list_opt::<i32>().ok_or_else(|| Error::bug("values that are no list"))?;
        let numbers = lists.values().as_primitive_opt::<T>();
        let numbers = numbers.ok_or_else(|| Error::bug("values of another type"))?.values();
        for (row, ends) in lists.value_offsets().windows(2).enumerate() {
            let own = &numbers[ends[0] as usize..ends[1] as usize];
            self.values.extend(own.iter().map(|value| ((first + row) as u32, *value)));
        }
        Ok(())
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let owners = slots.owners();
        let owner =
            |slot: u32| owners[slot as usize].map(|(customer, bucket)| u64::from(customer) << 32 | u64::from(bucket));
        let values = self.sorted(owner);
        // A window's values are neighbours.
        let mut window: Vec<T::Native> = Vec::new();
        let finish = |output: &&Output| {
            let of = output.function.quantile().unwrap_or(Quantile::Median);
            let mut found = vec![None; slots.customers];
            for own in values.chunk_by(|a, b| a.0 >> 32 == b.0 >> 32) {
                let bucket = |entry: &(u64, T::Native)| (entry.0 & u64::from(u32::MAX)) as usize;
                let begin = own.partition_point(|entry| bucket(entry) < output.window.start);
                let end = own.partition_point(|entry| bucket(entry) < output.window.end);
                window.clear();
                window.extend(own[begin..end.max(begin)].iter().map(|(_, value)| *value));
                found[(own[0].0 >> 32) as usize] = quantile::<T>(&mut window, of);
            }
            of_type(&column::<T, _>(&found, |value| *value), &output.data_type)
        };
        outputs.iter().map(finish).collect()
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let new = groups.by_slot();
        let group = |slot: u32| new.get(slot as usize).copied().filter(|group| *group != NOBODY);
        let values = self.sorted(|slot| group(slot).map(u64::from));
        let mut lengths = vec![0; groups.count];
        values.iter().for_each(|(group, _)| lengths[*group as usize] += 1);
        let numbers = PrimitiveArray::<T>::from_iter_values(values.into_iter().map(|(_, value)| value));
        let field = Arc::new(Field::new_list_field(T::DATA_TYPE, true));
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(vec![Arc::new(ListArray::try_new(field, offsets, Arc::new(numbers), None)?)])
    }
}

impl<T: Number> Listed for Quantiles<T> {
    fn most(&self, slots: &Slots, _columns: &[ArrayRef]) -> usize {
        let owners = slots.owners();
        let mut counts = vec![0; slots.customers];
        let owned = self.values.iter().filter_map(|(slot, _)| owners[*slot as usize]);
        owned.for_each(|(customer, _)| counts[customer as usize] += 1);
        counts.into_iter().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let of = |values: &[f64], of: Quantile| quantile::<Float64Type>(&mut values.to_vec(), of);
        assert_eq!(of(&[], Quantile::Median), None);
        assert_eq!(of(&[3.0], Quantile::at(0.9)), Some(3.0));
        assert!(of(&[3.0, f64::NAN, 1.0], Quantile::at(0.0)).is_some_and(f64::is_nan));
        assert!(of(&[3.0, f64::INFINITY, 1.0], Quantile::Median).is_some_and(f64::is_nan));
        assert_eq!(of(&[4.0, 1.0, 3.0], Quantile::Median), Some(3.0));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0], Quantile::Median), Some(2.5));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0], Quantile::at(0.0)), Some(1.0));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0], Quantile::at(1.0)), Some(4.0));
        assert_eq!(of(&[40.0, 10.0, 30.0, 20.0, 50.0], Quantile::at(0.125)), Some(15.0));
        let whole = |values: &[i64]| quantile::<Int64Type>(&mut values.to_vec(), Quantile::Median);
        assert_eq!(
            [whole(&[1, 2]), whole(&[-1, -2]), whole(&[i64::MAX, i64::MAX])],
            [Some(1), Some(-1), Some(i64::MAX)]
        );
    }
}
