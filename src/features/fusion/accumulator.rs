//! A state per customer and bucket, and windows merged from them.
//!
//! A customer's bucket that has rows is a slot, numbered as it first comes; an aggregate keeps one state per slot.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use super::aggregate::Function;
use super::days::Days;
use super::distinct::Distinct;
use super::first::FirstNumber as Leader;
use super::gaps::{Gaps, LooseGaps};
use super::keys::NOBODY;
use super::moments::{Spreads, Sums};
use super::only::Only;
use super::pick::Pick;
use super::quantile::Quantiles;
use super::simple::{Counts, Extremes, IntegerSums};
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

/// Which slots there are: those of one bucket lie together, customer by customer, so that windows are merged from neighbours.
pub(super) struct Slots {
    pub customers: usize,
    /// How many slots there are.
    pub count: usize,
    /// The slots of every bucket.
    buckets: Vec<Vec<Run>>,
    /// How many pieces of written states were added.
    pieces: usize,
}

/// Neighbouring slots of one bucket.
pub(super) struct Run {
    /// Which piece of written states they are, counted as they were added; `None` where rows were added up.
    written: Option<usize>,
    first: usize,
    /// The customers of the slots; [`NOBODY`] for states that nobody asks for.
    customers: Vec<u32>,
}

impl Run {
    /// The customers and their slots.
    fn slots(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let slots = self.customers.iter().enumerate().filter(|(_, customer)| **customer != NOBODY);
        slots.map(|(row, customer)| (*customer as usize, self.first + row))
    }
}

impl Slots {
    /// The slots of rows: `table` has a place per customer and bucket of `filled`, bucket by bucket, that is not 0 where there are
    /// rows; it then holds the slots.
    pub fn number(table: &mut [u32], filled: &[usize], buckets: usize, customers: usize) -> Self {
        let mut slots = Slots { customers, count: 0, buckets: (0..buckets).map(|_| Vec::new()).collect(), pieces: 0 };
        for (bucket, places) in filled.iter().zip(table.chunks_mut(customers.max(1))) {
            let mut run = Run { written: None, first: slots.count, customers: Vec::new() };
            for (customer, place) in places.iter_mut().enumerate().filter(|(_, place)| **place > 0) {
                *place = (slots.count + run.customers.len()) as u32;
                run.customers.push(customer as u32);
            }
            slots.count += run.customers.len();
            slots.buckets[*bucket].push(run);
        }
        slots
    }

    /// Adds slots for written states of one bucket; [`NOBODY`] has states that nobody asks for.
    pub fn load(&mut self, bucket: usize, customers: &[u32]) {
        let run = Run { written: Some(self.pieces), first: self.count, customers: customers.to_vec() };
        self.count += customers.len();
        self.pieces += 1;
        self.buckets[bucket].push(run);
    }

    /// The customers that have slots in some buckets, ascending, and for each of them those slots as one.
    pub fn together(&self, buckets: &Range<usize>) -> (Vec<u32>, Groups) {
        let runs = || self.buckets[buckets.clone()].iter().flatten();
        let mut places = vec![NOBODY; self.customers];
        runs().flat_map(Run::slots).for_each(|(customer, _)| places[customer] = 0);
        let mut customers = Vec::new();
        for (customer, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == 0) {
            *place = customers.len() as u32;
            customers.push(customer as u32);
        }
        let place = |customer: &u32| places.get(*customer as usize).copied().unwrap_or(NOBODY);
        let regrouped = |run: &Run| Run { customers: run.customers.iter().map(place).collect(), ..*run };
        let groups = Groups { count: customers.len(), runs: runs().map(regrouped).collect() };
        (customers, groups)
    }

    /// The customer and the bucket of every slot; slots of nobody have none.
    pub fn owners(&self) -> Vec<Option<(u32, u32)>> {
        let mut owners = vec![None; self.count];
        for (bucket, runs) in self.buckets.iter().enumerate() {
            for (customer, slot) in runs.iter().flat_map(Run::slots) {
                owners[slot] = Some((customer as u32, bucket as u32));
            }
        }
        owners
    }

    /// The state of every customer in the window of every output, output by output, from a state per slot.
    pub fn merged<S: Clone + Default>(
        &self,
        outputs: &[&Output],
        states: &[S],
        merge: impl Fn(&mut S, &S),
        finish: impl Fn(&[S], &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut sums: Vec<S> = vec![S::default(); self.customers];
        let add = |sums: &mut Vec<S>, customer: usize, slot: usize| merge(&mut sums[customer], &states[slot]);
        self.walk(outputs, &mut sums, |sums| sums.fill(S::default()), add, |sums, output| finish(sums, output))
    }

    /// [`Slots::walk_runs`], slot by slot.
    pub fn walk<T>(
        &self,
        outputs: &[&Output],
        sums: &mut T,
        reset: impl Fn(&mut T),
        add: impl Fn(&mut T, usize, usize),
        finish: impl Fn(&T, &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let add = |sums: &mut T, run: &Run| {
            run.slots().for_each(|(customer, slot)| add(sums, customer, slot));
            Ok(())
        };
        self.walk_runs(outputs, sums, reset, add, finish)
    }

    /// Windows that begin with one bucket are merged one from the other: `reset` empties the sums, `add` adds slots to those of
    /// their customers, newer ones before older ones, `finish` makes a column of them.
    fn walk_runs<T>(
        &self,
        outputs: &[&Output],
        sums: &mut T,
        reset: impl Fn(&mut T),
        add: impl Fn(&mut T, &Run) -> Result<()>,
        finish: impl Fn(&T, &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut order: Vec<usize> = (0..outputs.len()).collect();
        order.sort_by_key(|&w| (outputs[w].window.start, outputs[w].window.end));
        let mut found: Vec<Option<ArrayRef>> = vec![None; outputs.len()];
        let mut done: Option<Range<usize>> = None;
        for w in order {
            let window = &outputs[w].window;
            let merged = match done.take() {
                Some(done) if done.start == window.start => done.end,
                _ => {
                    reset(sums);
                    window.start
                }
            };
            let end = window.end.max(merged);
            self.buckets[merged..end].iter().flatten().try_for_each(|run| add(sums, run))?;
            done = Some(window.start..end);
            found[w] = Some(finish(sums, outputs[w])?);
        }
        found.into_iter().map(|array| array.ok_or_else(|| Error::infra("a window was left out"))).collect()
    }
}

/// A column that is wanted of an aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// What is made of the states: of a sum and its count, say, the sum or the average.
    pub function: Function,
    pub data_type: DataType,
    /// The buckets that it sees.
    pub window: Range<usize>,
}

/// Slots that are put together.
pub(super) struct Groups {
    /// How many new slots there are.
    pub count: usize,
    /// What is added to them, newer slots before older ones; the customers are new slots.
    runs: Vec<Run>,
}

impl Groups {
    /// New slots and old ones.
    pub fn slots(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.runs.iter().flat_map(Run::slots)
    }

    /// The states of the new slots, from a state per slot.
    pub fn merged<S: Clone + Default>(&self, states: &[S], merge: impl Fn(&mut S, &S)) -> Vec<S> {
        let mut sums = vec![S::default(); self.count];
        self.slots().for_each(|(new, old)| merge(&mut sums[new], &states[old]));
        sums
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
    Error::infra("these states are not written down")
}

impl<S: Clone + Default> Kept<S> {
    /// The state of every customer in the window of every output; `read` reads written states.
    pub fn merged<'a, I: Iterator<Item = S>>(
        &'a self,
        slots: &Slots,
        outputs: &[&Output],
        read: impl Fn(&'a [ArrayRef]) -> Result<I>,
        merge: impl Fn(&mut S, &S),
        finish: impl Fn(&[S], &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut sums: Vec<S> = vec![S::default(); slots.customers];
        let add = |sums: &mut Vec<S>, run: &Run| self.add(sums, run, &read, &merge);
        slots.walk_runs(outputs, &mut sums, |sums| sums.fill(S::default()), add, |sums, output| finish(sums, output))
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
        let lost = || Error::infra("states are lost");
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
        Average, Count, Deviation, Distinct as Different, DistinctDays, First, FirstNumber, Gap, Greatest,
        GreatestDouble, GreatestInteger, Last, Least, LeastDouble, LeastInteger, LooseGap, Quantile,
        QuantileOfIntegers, SumDoubles, SumIntegers, Variance, WholeDays,
    };
    match function {
        Count => Box::new(Counts::default()),
        Different => Box::new(Distinct::new()),
        DistinctDays => Box::new(Distinct::days()),
        WholeDays => Box::new(Days::new()),
        SumIntegers => Box::new(IntegerSums::default()),
        SumDoubles | Average => Box::new(Sums::default()),
        Variance { .. } | Deviation { .. } => Box::new(Spreads::default()),
        LeastInteger => Box::new(Extremes::<i64>::new(|new, old| new < old)),
        GreatestInteger => Box::new(Extremes::<i64>::new(|new, old| new > old)),
        // NaN is less and greater than any number: one is enough, and the matrix has NULL then.
        LeastDouble => Box::new(Extremes::<f64>::new(less)),
        GreatestDouble => Box::new(Extremes::<f64>::new(greater)),
        Least => Box::new(Pick::extreme(false)),
        Greatest => Box::new(Pick::extreme(true)),
        FirstNumber { order, last } => Box::new(Leader::new(*order, *last)),
        Gap(_) => Box::new(Gaps::default()),
        LooseGap(_) => Box::new(LooseGaps::default()),
        Quantile(_) => Box::new(Quantiles::<Float64Type>::default()),
        QuantileOfIntegers(_) => Box::new(Quantiles::<Int64Type>::default()),
        Function::Only => Box::new(Only::default()),
        First(order) => Box::new(Pick::ordered(order.clone(), false)),
        Last(order) => Box::new(Pick::ordered(order.clone(), true)),
    }
}

fn less(new: f64, old: f64) -> bool {
    !old.is_nan() && (new.is_nan() || new.total_cmp(&old).is_lt())
}

fn greater(new: f64, old: f64) -> bool {
    !old.is_nan() && (new.is_nan() || new.total_cmp(&old).is_gt())
}

/// A column of numbers, NULL where there is none.
pub(super) fn column<T: ArrowPrimitiveType, S>(states: &[S], value: impl Fn(&S) -> Option<T::Native>) -> ArrayRef {
    let values: Vec<T::Native> = states.iter().map(|state| value(state).unwrap_or_default()).collect();
    let there = BooleanBuffer::collect_bool(states.len(), |i| value(&states[i]).is_some());
    let nulls = NullBuffer::new(there);
    Arc::new(PrimitiveArray::<T>::new(values.into(), Some(nulls).filter(|nulls| nulls.null_count() > 0)))
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
    states.try_into().map_err(|_| Error::infra(format!("a state has {} columns and not {N}", states.len())))
}
