//! Sums of decimals: whole numbers of their last digit, which neither wrap nor depend on the order of the rows.
//!
//! A sum is kept in 160 bits, so that only the result has to fit into the digits of SQL's type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};

use super::accumulator::{Accumulator, Keeper, Kept, Misfit, Rows, columns_of, integers};
use super::slots::{Groups, Output, Slots, column};
use crate::{Error, Result};

/// A sum: `high · 2¹²⁸ + low`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct DecimalSum {
    low: i128,
    high: i32,
    /// Whether there was a number.
    is_some: bool,
}

impl DecimalSum {
    #[inline]
    fn add(&mut self, x: i128) {
        let (low, carried) = self.low.overflowing_add(x);
        if carried {
            self.high += if x < 0 { -1 } else { 1 };
        }
        (self.low, self.is_some) = (low, true);
    }

    fn merge(&mut self, other: &DecimalSum) {
        if other.is_some {
            self.add(other.low);
            self.high += other.high;
        }
    }

    /// The sum, `None` where there was no number; an error where it has more digits than this.
    fn value(&self, precision: u8) -> Result<Option<i128>, ()> {
        let most = 10_u128.pow(u32::from(precision));
        let fits = self.high == 0 && self.low.unsigned_abs() < most;
        if fits { Ok(self.is_some.then_some(self.low)) } else { Err(()) }
    }
}

/// Sums of `Decimal128`.
#[derive(Default)]
pub(super) struct DecimalSums {
    states: Kept<DecimalSum>,
}

fn sums(states: &[ArrayRef]) -> Result<impl Iterator<Item = DecimalSum> + '_> {
    let [lower, upper, high] = columns_of(states)?;
    let (lower, upper, high): (&Int64Array, _, _) = (integers(lower)?, integers(upper)?, integers(high)?);
    Ok((0..lower.len()).map(move |row| DecimalSum {
        low: (i128::from(upper.value(row)) << 64) | i128::from(lower.value(row) as u64),
        high: high.value(row) as i32,
        is_some: lower.is_valid(row),
    }))
}

impl Accumulator for DecimalSums {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.grow(slots);
        let states = &mut self.states.states;
        if let Some(array) = rows.values.first() {
            let numbers = array.as_primitive::<Decimal128Type>().values();
            rows.each(|row, slot| states[slot].add(numbers[row]));
        }
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, sums, DecimalSum::merge, |sums, output| {
            let DataType::Decimal128(precision, scale) = output.data_type else {
                return Err(Error::bug(format!("a sum of decimals is no `{}`", output.data_type)));
            };
            let column = sums.try_column::<Decimal128Type, _>(|sum| sum.value(precision));
            let column = column.map_err(|(customer, ())| {
                let error = Error::user(format!("a sum has more than the {precision} digits of a decimal"));
                error.hint("sum doubles instead: `sum(CAST(x AS DOUBLE))`").because(Misfit { customer })
            })?;
            let typed = column.as_primitive::<Decimal128Type>().clone().with_precision_and_scale(precision, scale)?;
            Ok(Arc::new(typed))
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let sums = self.states.grouped(groups, sums, DecimalSum::merge)?;
        let lower = column::<Int64Type, _>(&sums, |sum| sum.is_some.then_some(sum.low as i64));
        let upper = column::<Int64Type, _>(&sums, |sum| Some((sum.low >> 64) as i64));
        Ok(vec![lower, upper, column::<Int64Type, _>(&sums, |sum| Some(i64::from(sum.high)))])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sum_may_leave_the_digits_on_its_way() {
        let most = 10_i128.pow(38) - 1;
        let mut sum = DecimalSum::default();
        assert_eq!(sum.value(38), Ok(None));
        for x in [most, most, -most, -most, 7] {
            sum.add(x);
        }
        assert_eq!(sum.value(38), Ok(Some(7)));
        sum.add(most);
        assert_eq!(sum.value(38), Err(()));
    }

    proptest! {
        #[test]
        fn a_sum_is_the_same_in_any_order_and_from_its_states(mut values in prop::collection::vec(any::<i128>(), 0..40)) {
            let of = |values: &[i128]| {
                let mut sum = DecimalSum::default();
                values.iter().for_each(|x| sum.add(x / 2));
                sum
            };
            let sum = of(&values);
            let (a, b) = values.split_at(values.len() / 2);
            let mut merged = of(a);
            merged.merge(&of(b));
            prop_assert_eq!(merged, sum);
            values.reverse();
            prop_assert_eq!(of(&values), sum);
            let parts = [sum.low as i64, (sum.low >> 64) as i64, i64::from(sum.high)];
            let arrays: Vec<ArrayRef> = parts.iter().map(|x| Arc::new(Int64Array::from(vec![*x])) as ArrayRef).collect();
            let back: Vec<DecimalSum> = sums(&arrays).unwrap().collect();
            prop_assert_eq!((back[0].low, back[0].high), (sum.low, sum.high));
        }
    }
}
