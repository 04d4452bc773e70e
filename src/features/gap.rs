//! `mean_gap_days(time)` and `stddev_gap_days(time)`: the days between consecutive times of a customer.
//!
//! SQL has them as window functions over every row; as aggregates they can be windowed, and computed in one pass. Times
//! that are the same have a gap of 0 days; NULL is no time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::prelude::SessionContext;

const DAY: f64 = 86_400_000_000.0;

/// Adds the aggregates to a context.
pub(super) fn register(context: &SessionContext) {
    for statistic in [Statistic::Mean, Statistic::Deviation] {
        let signature = Signature::coercible(
            vec![datafusion::logical_expr::Coercion::new_exact(
                datafusion::logical_expr::TypeSignatureClass::Timestamp,
            )],
            Volatility::Immutable,
        );
        context.register_udaf(AggregateUDF::from(GapStatistic { statistic, signature }));
    }
}

/// What is made of the gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Statistic {
    /// Their mean; NULL without a gap.
    Mean,
    /// Their standard deviation, of a sample; NULL with fewer than two.
    Deviation,
}

impl Statistic {
    const fn name(self) -> &'static str {
        match self {
            Statistic::Mean => "mean_gap_days",
            Statistic::Deviation => "stddev_gap_days",
        }
    }

    /// The statistic of this name.
    pub fn named(name: &str) -> Option<Statistic> {
        [Statistic::Mean, Statistic::Deviation].into_iter().find(|statistic| statistic.name() == name)
    }

    /// The statistic, in days.
    pub fn of(self, gap: &Gap) -> Option<f64> {
        let n = i128::from(gap.count);
        match self {
            Statistic::Mean => (n > 0).then(|| gap.sum() as f64 / n as f64 / DAY),
            Statistic::Deviation => (n > 1).then(|| {
                // (Σg² − (Σg)²/n) / (n − 1), in whole numbers up to the last division.
                let spread = n * gap.squares - i128::from(gap.sum()) * i128::from(gap.sum());
                (spread as f64 / (n * (n - 1)) as f64).sqrt() / DAY
            }),
        }
    }
}

/// The gaps between times, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gap {
    /// The first time and the last one.
    times: Option<(i64, i64)>,
    /// How many gaps there are.
    count: u64,
    squares: i128,
}

impl Gap {
    /// Rebuilds what was written down.
    pub fn from_parts(times: Option<(i64, i64)>, count: u64, squares: i128) -> Self {
        Gap { times, count, squares }
    }

    /// The first time and the last one.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.times
    }

    /// How many gaps there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of their squares.
    pub fn squares(&self) -> i128 {
        self.squares
    }

    /// The next time, which is not before the last one.
    pub fn next(&mut self, time: i64) {
        self.follow(&Gap { times: Some((time, time)), count: 0, squares: 0 });
    }

    /// Puts earlier times before these.
    pub fn precede(&mut self, earlier: &Gap) {
        let mut whole = *earlier;
        whole.follow(self);
        *self = whole;
    }

    /// Puts later times behind these.
    fn follow(&mut self, later: &Gap) {
        match (self.times, later.times) {
            (_, None) => {}
            (None, _) => *self = *later,
            (Some((first, last)), Some((next, newest))) => {
                let gap = i128::from(next.saturating_sub(last));
                self.times = Some((first, newest));
                self.count += later.count + 1;
                self.squares = self.squares.saturating_add(later.squares).saturating_add(gap * gap);
            }
        }
    }

    /// The sum of the gaps.
    fn sum(&self) -> i64 {
        self.times.map_or(0, |(first, last)| last.saturating_sub(first))
    }
}

/// Times in microseconds, whatever their unit and zone.
pub(super) fn microseconds() -> [DataType; 2] {
    [DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), DataType::Int64]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GapStatistic {
    statistic: Statistic,
    signature: Signature,
}

impl AggregateUDFImpl for GapStatistic {
    fn name(&self) -> &str {
        self.statistic.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let item = Field::new_list_field(DataType::Int64, true);
        let name = format_state_name(args.name, "times");
        Ok(vec![Arc::new(Field::new(name, DataType::List(Arc::new(item)), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return Err(exec_datafusion_err!("`{}` has no DISTINCT", self.name()));
        }
        Ok(Box::new(Times { statistic: self.statistic, times: Vec::new() }))
    }
}

/// The times of one group.
#[derive(Debug)]
struct Times {
    statistic: Statistic,
    times: Vec<i64>,
}

impl Accumulator for Times {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [times] = values else { return Err(exec_datafusion_err!("a gap needs one time")) };
        let times = microseconds().iter().try_fold(Arc::clone(times), |times, step| cast(&times, step))?;
        self.times.extend(times.as_primitive::<Int64Type>().iter().flatten());
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.times.sort_unstable();
        let mut gap = Gap::default();
        self.times.iter().for_each(|time| gap.next(*time));
        Ok(ScalarValue::Float64(self.statistic.of(&gap)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.times.capacity() * size_of::<i64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let times: Vec<ScalarValue> = self.times.iter().map(|time| ScalarValue::Int64(Some(*time))).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&times, &DataType::Int64))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [lists] = states else { return Err(exec_datafusion_err!("the state of a gap is one list")) };
        let lists = lists.as_list::<i32>();
        for list in (0..lists.len()).filter(|row| lists.is_valid(*row)).map(|row| lists.value(row)) {
            self.times.extend(list.as_primitive::<Int64Type>().iter().flatten());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_the_days_between() {
        let day = DAY as i64;
        let gap = |days: &[i64]| {
            let mut gap = Gap::default();
            days.iter().for_each(|d| gap.next(d * day));
            gap
        };
        let of = |days: &[i64]| [Statistic::Mean, Statistic::Deviation].map(|s| s.of(&gap(days)));
        assert_eq!(of(&[]), [None, None]);
        assert_eq!(of(&[5]), [None, None]);
        assert_eq!(of(&[5, 8]), [Some(3.0), None]);
        assert_eq!(of(&[5, 8, 8, 14]), [Some(3.0), Some(3.0)]);
    }
}
