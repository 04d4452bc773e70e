//! Aggregates at work: a state per slot, which is a customer's bucket that has rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::aggregate::Function;
use super::days::Days;
use super::decimal_sums::DecimalSums;
use super::distinct::Distinct;
use super::first::FirstNumber as Leader;
use super::gaps::{Gaps, LooseGaps};
use super::moments::{Spreads, Sums};
use super::only::Only;
use super::pick::Pick;
use super::quantile::Quantiles;
use super::simple::{Counts, Extremes, IntegerSums};
use super::sketch::{Registers, Spots};
use super::sketched::Sketched;
use super::slots::{Groups, Merged, Output, Run, Slots};
use crate::features::extremes::{greater, less};
use crate::{Error, Result};

/// The rows of one table that fall to a range of customers.
pub(super) struct Rows<'a> {
    /// The slot of each row.
    pub slots: &'a [u32],
    /// Where the rows begin in the arrays.
    pub from: usize,
    /// What the aggregate reads.
    pub values: Vec<&'a ArrayRef>,
    /// Which rows it takes.
    pub filter: Option<&'a BooleanArray>,
}

impl Rows<'_> {
    /// Calls `visit` with every row that counts, by its place in the arrays, and its slot: the filter takes it, and the first
    /// value is not NULL.
    #[inline]
    pub fn each(&self, mut visit: impl FnMut(usize, usize)) {
        let nulls = self.values.first().and_then(|values| values.nulls()).filter(|nulls| nulls.null_count() > 0);
        let filter = self.filter.map(|filter| (filter.values(), filter.nulls()));
        let rows = self.slots.iter().enumerate().map(|(i, slot)| (self.from + i, *slot as usize));
        match (nulls, filter) {
            (None, None) => rows.for_each(|(row, slot)| visit(row, slot)),
            (None, Some((taken, None))) => {
                let taken = taken.slice(self.from, self.slots.len());
                taken.set_indices().for_each(|i| visit(self.from + i, self.slots[i] as usize));
            }
            (nulls, filter) => {
                let takes =
                    |row| filter.is_none_or(|(taken, there)| taken.value(row) && there.is_none_or(|n| n.is_valid(row)));
                let counts = |row| takes(row) && nulls.is_none_or(|n| n.is_valid(row));
                rows.filter(|(row, _)| counts(*row)).for_each(|(row, slot)| visit(row, slot));
            }
        }
    }

    /// The rows that the filter takes, whatever their values.
    pub fn of_filter(&self) -> Rows<'_> {
        Rows { slots: self.slots, from: self.from, values: Vec::new(), filter: self.filter }
    }

    /// The arrays cut down to the rows.
    pub fn sliced(&self) -> Vec<ArrayRef> {
        self.values.iter().map(|array| array.slice(self.from, self.slots.len())).collect()
    }
}

/// A state per slot that has rows, and written states as they were written.
#[derive(Default)]
pub(super) struct Kept<S> {
    pub states: Vec<S>,
    loaded: Vec<Vec<ArrayRef>>,
}

/// States of any kind.
pub(super) trait Keeper {
    /// There are now so many slots with rows.
    fn grow(&mut self, slots: usize);

    /// Adds written states.
    fn load(&mut self, states: Vec<ArrayRef>);
}

impl<S: Clone + Default> Keeper for Kept<S> {
    fn grow(&mut self, slots: usize) {
        self.states.resize(slots, S::default());
    }

    fn load(&mut self, states: Vec<ArrayRef>) {
        self.loaded.push(states);
    }
}

fn not_written() -> Error {
    Error::bug("these states are not written down")
}

impl<S: Clone + Default> Kept<S> {
    /// The state of every customer in the window of every output; `read` reads written states.
    pub fn merged<'a, I: Iterator<Item = S>>(
        &'a self,
        slots: &Slots,
        outputs: &[&Output],
        read: impl Fn(&'a [ArrayRef]) -> Result<I>,
        merge: impl Fn(&mut S, &S),
        finish: impl Fn(&Merged<'_, S>, &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        slots.walk(outputs, 1, |sums, run| self.add(sums, run, &read, &merge), finish)
    }

    /// The states of groups of slots.
    pub fn grouped<'a, I: Iterator<Item = S>>(
        &'a self,
        groups: &Groups,
        read: impl Fn(&'a [ArrayRef]) -> Result<I>,
        merge: impl Fn(&mut S, &S),
    ) -> Result<Vec<S>> {
        let mut sums = vec![S::default(); groups.count];
        groups.runs.iter().try_for_each(|run| self.add(&mut sums, run, &read, &merge))?;
        Ok(sums)
    }

    fn add<'a, I: Iterator<Item = S>>(
        &'a self,
        sums: &mut [S],
        run: &Run,
        read: &impl Fn(&'a [ArrayRef]) -> Result<I>,
        merge: &impl Fn(&mut S, &S),
    ) -> Result<()> {
        let lost = || Error::bug("states are lost");
        // `NOBODY` is behind all sums.
        match run.written {
            None => {
                let states = self.states.get(run.first..run.first + run.customers.len()).ok_or_else(lost)?;
                for (customer, state) in run.customers.iter().zip(states) {
                    if let Some(sum) = sums.get_mut(*customer as usize) {
                        merge(sum, state);
                    }
                }
            }
            Some(piece) => {
                let states = self.loaded.get(piece).ok_or_else(lost)?;
                for (customer, state) in run.customers.iter().zip(read(states)?) {
                    if let Some(sum) = sums.get_mut(*customer as usize) {
                        merge(sum, &state);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The cause of an error about one customer: the place in the range.
#[derive(Debug, thiserror::Error)]
#[error("an aggregate of one customer has no value")]
pub(super) struct Misfit {
    pub customer: usize,
}

/// An aggregate at work: rows and written states come first, then [`Accumulator::seal`], then the rest.
pub(super) trait Accumulator: Send + Sync {
    /// Adds rows; there are now so many slots.
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()>;

    /// Its states, where it keeps them slot by slot and as they were written.
    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        None
    }

    /// Adds a piece of states that were written down, a new slot for each, `first` the first of them.
    fn load(&mut self, _first: usize, states: Vec<ArrayRef>) -> Result<()> {
        match self.kept() {
            Some(kept) => kept.load(states),
            None => return Err(not_written()),
        }
        Ok(())
    }

    /// Nothing more comes; so many slots have rows, and so many there are with those of written states.
    fn seal(&mut self, rows: usize, _slots: usize) {
        if let Some(kept) = self.kept() {
            kept.grow(rows);
        }
    }

    /// The column of each output.
    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>>;

    /// The states of groups of slots, to be written down: as many columns as [`Function::state_columns`] says.
    fn export(&self, _groups: &Groups) -> Result<Vec<ArrayRef>> {
        Err(not_written())
    }

    /// A slot that has more rows than it may.
    fn repeated(&self) -> Option<u32> {
        None
    }
}

/// The accumulator of an aggregate.
pub(super) fn accumulator(function: &Function) -> Box<dyn Accumulator> {
    use Function::{
        AboutDistinct, AboutQuantile, AboutQuantileOfIntegers, Average, Count, Deviation, Distinct as Different,
        DistinctDays, First, FirstNumber, Gap, Greatest, GreatestDouble, GreatestInteger, Last, Least, LeastDouble,
        LeastInteger, LooseGap, Quantile, QuantileOfIntegers, SumDecimals, SumDoubles, SumIntegers, Variance,
        WholeDays,
    };
    match function {
        Count => Box::new(Counts::default()),
        Different => Box::new(Distinct::new()),
        DistinctDays => Box::new(Distinct::days()),
        WholeDays => Box::new(Days::new()),
        SumIntegers => Box::new(IntegerSums::default()),
        SumDecimals => Box::new(DecimalSums::default()),
        SumDoubles | Average => Box::new(Sums::default()),
        Variance { .. } | Deviation { .. } => Box::new(Spreads::default()),
        LeastInteger => Box::new(Extremes::new(|new: i64, old| new < old)),
        GreatestInteger => Box::new(Extremes::new(|new: i64, old| new > old)),
        // A number that is not finite is less and greater than any other: one is enough, and the matrix has NULL then.
        LeastDouble => Box::new(Extremes::new(less)),
        GreatestDouble => Box::new(Extremes::new(greater)),
        Least => Box::new(Pick::extreme(false)),
        Greatest => Box::new(Pick::extreme(true)),
        FirstNumber { order, last } => Box::new(Leader::new(*order, *last)),
        Gap(_) => Box::new(Gaps::default()),
        LooseGap(_) => Box::new(LooseGaps::default()),
        Quantile(_) => Box::new(Quantiles::<Float64Type>::default()),
        QuantileOfIntegers(_) => Box::new(Quantiles::<Int64Type>::default()),
        AboutDistinct => Box::new(Sketched::<_, Registers>::new(Distinct::new())),
        AboutQuantile(_) => Box::new(Sketched::<_, Spots>::new(Quantiles::<Float64Type>::default())),
        AboutQuantileOfIntegers(_) => Box::new(Sketched::<_, Spots>::new(Quantiles::<Int64Type>::default())),
        Function::Only => Box::new(Only::default()),
        First(order) => Box::new(Pick::ordered(order.clone(), false)),
        Last(order) => Box::new(Pick::ordered(order.clone(), true)),
    }
}

/// A column in the type that SQL gives it.
pub(super) fn of_type(array: &ArrayRef, output: &DataType) -> Result<ArrayRef> {
    Ok(match output {
        _ if array.data_type() == output => Arc::clone(array),
        DataType::Date32 if *array.data_type() == DataType::Int64 => cast(&cast(array, &DataType::Int32)?, output)?,
        _ => cast(array, output)?,
    })
}

/// The columns of a written state.
pub(super) fn columns_of<const N: usize>(states: &[ArrayRef]) -> Result<&[ArrayRef; N]> {
    states.try_into().map_err(|_| Error::bug(format!("a state has {} columns and not {N}", states.len())))
}

/// A column of whole numbers of a written state.
pub(super) fn integers(array: &ArrayRef) -> Result<&Int64Array> {
    let wrong = || Error::bug(format!("a state has `{}` in the place of whole numbers", array.data_type()));
    array.as_primitive_opt::<Int64Type>().ok_or_else(wrong)
}
