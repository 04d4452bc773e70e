//! Sums of whole numbers that neither wrap nor depend on the order of the rows.
//!
//! A sum is kept in 96 bits: no table has rows enough to leave them. Only the result has to fit into SQL's type; on the way
//! there a sum may be greater.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, PrimitiveArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

/// A sum: `high · 2⁶⁴ + low`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WholeSum {
    low: i64,
    high: i32,
    /// Whether there was a number.
    is_some: bool,
}

impl WholeSum {
    /// Rebuilds what [`Self::parts`] gave.
    pub(super) fn from_parts(low: Option<i64>, high: i64) -> Self {
        WholeSum { low: low.unwrap_or(0), high: high as i32, is_some: low.is_some() }
    }

    /// The lower 64 bits, `None` where there was no number, and what lies above them: 0 for any sum that is an `i64`.
    pub(super) fn parts(&self) -> (Option<i64>, i64) {
        (self.is_some.then_some(self.low), i64::from(self.high))
    }

    /// Adds a number.
    #[inline]
    pub(super) fn add(&mut self, x: i64) {
        let (low, carried) = self.low.overflowing_add(x);
        if carried {
            self.high += if x < 0 { -1 } else { 1 };
        }
        (self.low, self.is_some) = (low, true);
    }

    /// Adds a number of 64 bits without a sign.
    #[inline]
    pub(super) fn add_unsigned(&mut self, x: u64) {
        self.add(x as i64);
        // Its highest bit is not a sign.
        self.high += i32::from(x > i64::MAX as u64);
    }

    /// Adds another sum.
    #[inline]
    pub(super) fn merge(&mut self, other: &WholeSum) {
        if other.is_some {
            self.add(other.low);
            self.high += other.high;
        }
    }

    /// Takes a sum away that is part of this one.
    fn retract(&mut self, other: &WholeSum) {
        let difference = self.wide() - other.wide();
        (self.low, self.high) = (difference as i64, ((difference - i128::from(difference as i64)) >> 64) as i32);
    }

    /// The sum itself.
    pub(super) fn wide(&self) -> i128 {
        (i128::from(self.high) << 64) + i128::from(self.low)
    }

    /// The sum where it fits into a signed number, `None` where there was no number; an error has the sum that does not fit.
    #[inline]
    pub(super) fn signed(&self) -> Result<Option<i64>, i128> {
        if self.high == 0 { Ok(self.is_some.then_some(self.low)) } else { Err(self.wide()) }
    }

    /// The same for a number without a sign.
    pub(super) fn unsigned(&self) -> Result<Option<u64>, i128> {
        let sum = self.wide();
        u64::try_from(sum).map(|sum| self.is_some.then_some(sum)).map_err(|_| sum)
    }
}

/// What is said of a sum that does not fit.
pub(super) fn out_of_range(sum: i128, data_type: &DataType) -> String {
    let (least, most) = match data_type {
        DataType::UInt64 => (0, i128::from(u64::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    format!("the sum {sum} is not between {least} and {most}, the whole numbers of 64 bits")
}

/// What to do about it.
pub(super) const OUT_OF_RANGE_HINT: &str = "sum doubles or decimals instead: `sum(CAST(x AS DOUBLE))`";

/// The state of a sum in DataFusion's plans.
pub(super) fn state_fields(args: &StateFieldsArgs) -> Vec<FieldRef> {
    let field = |part: &str| Arc::new(Field::new(format_state_name(args.name, part), DataType::Int64, true));
    vec![field("low"), field("high")]
}

/// Sums by group, or of everything.
#[derive(Debug)]
pub(super) struct WholeSums {
    /// The type of the result: `Int64` or `UInt64`.
    data_type: DataType,
    sums: Vec<WholeSum>,
}

impl WholeSums {
    /// Sums of so many groups.
    pub(super) fn new(data_type: &DataType, groups: usize) -> Self {
        WholeSums { data_type: data_type.clone(), sums: vec![WholeSum::default(); groups] }
    }

    fn add(
        &mut self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let array = values.first().ok_or_else(|| exec_datafusion_err!("a sum needs an argument"))?;
        let counts = |row: usize| array.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        let rows = (0..array.len()).filter(|row| counts(*row));
        if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
            rows.for_each(|row| self.sums[group(row)].add(numbers.value(row)));
        } else if let Some(numbers) = array.as_primitive_opt::<UInt64Type>() {
            rows.for_each(|row| self.sums[group(row)].add_unsigned(numbers.value(row)));
        } else {
            return Err(exec_datafusion_err!("a sum of `{}` is no whole number", array.data_type()));
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], group: impl Fn(usize) -> usize) -> Result<()> {
        let wrong = || exec_datafusion_err!("the state of a sum has the wrong shape");
        let [low, high] = states else { return Err(wrong()) };
        let low = low.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let high = high.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        for row in (0..low.len()).filter(|row| low.is_valid(*row)) {
            self.sums[group(row)].merge(&WholeSum::from_parts(Some(low.value(row)), high.value(row)));
        }
        Ok(())
    }

    fn result(&self, sums: &[WholeSum]) -> Result<ArrayRef> {
        fn column<T: ArrowPrimitiveType>(
            sums: &[WholeSum],
            value: impl Fn(&WholeSum) -> Result<Option<T::Native>, i128>,
        ) -> Result<ArrayRef, i128> {
            let column = sums.iter().map(value).collect::<Result<PrimitiveArray<T>, _>>()?;
            Ok(Arc::new(column))
        }
        let column = match self.data_type {
            DataType::UInt64 => column::<UInt64Type>(sums, WholeSum::unsigned),
            _ => column::<Int64Type>(sums, WholeSum::signed),
        };
        column.map_err(|sum| exec_datafusion_err!("{}", out_of_range(sum, &self.data_type)))
    }

    fn states(sums: &[WholeSum]) -> Vec<ArrayRef> {
        let (low, high): (Vec<Option<i64>>, Vec<i64>) = sums.iter().map(WholeSum::parts).unzip();
        vec![Arc::new(Int64Array::from(low)), Arc::new(Int64Array::from(high))]
    }
}

impl GroupsAccumulator for WholeSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.sums.resize(total_num_groups, WholeSum::default());
        self.add(values, opt_filter, |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        self.result(&sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(Self::states(&emit_to.take_needed(&mut self.sums)))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.sums.resize(total_num_groups, WholeSum::default());
        self.merge(values, |row| group_indices[row])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut rows = WholeSums::new(&self.data_type, values.first().map_or(0, |array| array.len()));
        rows.add(values, opt_filter, |row| row)?;
        Ok(Self::states(&rows.sums))
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<WholeSum>()
    }
}

/// A sum of everything, or over a moving frame.
#[derive(Debug)]
pub(super) struct OneWholeSum {
    sums: WholeSums,
    numbers: usize,
}

impl OneWholeSum {
    pub(super) fn new(data_type: &DataType) -> Self {
        OneWholeSum { sums: WholeSums::new(data_type, 1), numbers: 0 }
    }
}

fn valid(values: &[ArrayRef]) -> usize {
    values.first().map_or(0, |array| array.len() - array.null_count())
}

impl Accumulator for OneWholeSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.numbers += valid(values);
        self.sums.add(values, None, |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.sums.result(&self.sums.sums)?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + GroupsAccumulator::size(&self.sums)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (low, high) = self.sums.sums.first().map_or((None, 0), WholeSum::parts);
        Ok(vec![ScalarValue::Int64(low), ScalarValue::Int64(Some(high))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.sums.merge(states, |_| 0)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut left = WholeSums::new(&self.sums.data_type, 1);
        left.add(values, None, |_| 0)?;
        self.numbers -= valid(values);
        if let (Some(sum), Some(left)) = (self.sums.sums.first_mut(), left.sums.first()) {
            sum.retract(left);
            sum.is_some = self.numbers > 0;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_sum_takes_16_bytes_as_a_number_that_may_be_null_does() {
        assert_eq!(size_of::<WholeSum>(), size_of::<Option<i64>>());
    }

    proptest! {
        #[test]
        fn sums_are_those_of_wide_numbers_in_any_grouping(
            numbers in prop::collection::vec(prop_oneof![any::<i64>(), Just(i64::MAX), Just(i64::MIN)], 0..40), cut in 0usize..40
        ) {
            let of = |numbers: &[i64]| {
                let mut sum = WholeSum::default();
                numbers.iter().for_each(|x| sum.add(*x));
                let (low, high) = sum.parts();
                WholeSum::from_parts(low, high)
            };
            let wanted: i128 = numbers.iter().map(|x| i128::from(*x)).sum();
            let (left, right) = numbers.split_at(cut.min(numbers.len()));
            let mut sum = of(right);
            sum.merge(&of(left));
            prop_assert_eq!(sum.wide(), wanted);
            prop_assert_eq!(sum.signed().ok().flatten(), i64::try_from(wanted).ok().filter(|_| !numbers.is_empty()));
            sum.retract(&of(left));
            prop_assert_eq!(sum.wide(), of(right).wide());
        }

        #[test]
        fn sums_without_a_sign_too(numbers in prop::collection::vec(prop_oneof![any::<u64>(), Just(u64::MAX), 0u64..9], 1..40)) {
            let mut sum = WholeSum::default();
            numbers.iter().for_each(|x| sum.add_unsigned(*x));
            let wanted: i128 = numbers.iter().map(|x| i128::from(*x)).sum();
            prop_assert_eq!(sum.wide(), wanted);
            prop_assert_eq!(sum.unsigned().ok().flatten(), u64::try_from(wanted).ok());
        }
    }
}
