//! A state per customer and bucket, and windows merged from them.
//!
//! A customer's bucket that has rows is a slot, numbered as it first comes; an aggregate keeps one state per slot.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};

use super::aggregate::Function;
use super::distinct::Distinct;
use super::first::FirstNumber as Leader;
use super::gaps::Gaps;
use super::moments::Moments;
use super::only::Only;
use super::pick::Pick;
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

/// Which slots there are.
pub(super) struct Slots {
    pub customers: usize,
    /// How many slots there are.
    pub count: usize,
    /// The customers that have rows in a bucket, and their slots there, bucket by bucket.
    buckets: Vec<Vec<(u32, u32)>>,
}

impl Slots {
    /// From a table of the slot plus one of each bucket of each customer, customer by customer; 0 where there are no rows.
    pub fn new(table: &[u32], buckets: usize, customers: usize, count: usize) -> Self {
        let mut found = vec![Vec::new(); buckets];
        for (customer, slots) in table.chunks(buckets).enumerate() {
            for (bucket, slot) in slots.iter().enumerate().filter(|(_, slot)| **slot > 0) {
                found[bucket].push((customer as u32, slot - 1));
            }
        }
        Slots { customers, count, buckets: found }
    }

    /// The customer and the bucket of every slot.
    pub fn owners(&self) -> Vec<(u32, u32)> {
        let mut owners = vec![(0, 0); self.count];
        for (bucket, slots) in self.buckets.iter().enumerate() {
            slots.iter().for_each(|(customer, slot)| owners[*slot as usize] = (*customer, bucket as u32));
        }
        owners
    }

    /// The state of every customer in every window, window by window.
    pub fn merged<S: Clone + Default>(
        &self,
        windows: &[Range<usize>],
        states: &[S],
        merge: impl Fn(&mut S, &S),
        finish: impl Fn(&[S]) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut sums: Vec<S> = vec![S::default(); self.customers];
        let add = |sums: &mut Vec<S>, customer: usize, slot: usize| merge(&mut sums[customer], &states[slot]);
        self.walk(windows, &mut sums, |sums| sums.fill(S::default()), add, |sums| finish(sums))
    }

    /// Windows that begin with one bucket are merged one from the other: `reset` empties the sums, `add` adds a customer's
    /// slot to them, `finish` makes a column of them.
    pub fn walk<T>(
        &self,
        windows: &[Range<usize>],
        sums: &mut T,
        reset: impl Fn(&mut T),
        add: impl Fn(&mut T, usize, usize),
        finish: impl Fn(&T) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut order: Vec<usize> = (0..windows.len()).collect();
        order.sort_by_key(|&w| (windows[w].start, windows[w].end));
        let mut found: Vec<Option<ArrayRef>> = vec![None; windows.len()];
        let mut done: Option<Range<usize>> = None;
        for w in order {
            let window = &windows[w];
            let merged = match done.take() {
                Some(done) if done.start == window.start => done.end,
                _ => {
                    reset(sums);
                    window.start
                }
            };
            for (customer, slot) in self.buckets[merged..window.end.max(merged)].iter().flatten() {
                add(sums, *customer as usize, *slot as usize);
            }
            done = Some(window.start..window.end.max(merged));
            found[w] = Some(finish(sums)?);
        }
        found.into_iter().map(|array| array.ok_or_else(|| Error::infra("a window was left out"))).collect()
    }
}

/// An aggregate at work.
pub(super) trait Accumulator: Send {
    /// Adds rows; there are now so many slots.
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()>;
    /// The column of each window.
    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>>;
    /// A slot that has more rows than it may.
    fn repeated(&self) -> Option<u32> {
        None
    }
}

/// The accumulator of an aggregate whose column has this type.
pub(super) fn accumulator(function: &Function, output: &DataType) -> Box<dyn Accumulator> {
    use Function::{
        Average, Count, Deviation, Distinct as Different, DistinctDays, First, FirstNumber, Gap, Greatest,
        GreatestDouble, GreatestInteger, Last, Least, LeastDouble, LeastInteger, SumDoubles, SumIntegers, Variance,
    };
    let output = output.clone();
    match function {
        Count => Box::new(Counts::default()),
        Different => Box::new(Distinct::new()),
        DistinctDays => Box::new(Distinct::days()),
        SumIntegers => Box::new(IntegerSums { states: Vec::new(), output }),
        SumDoubles | Average | Variance { .. } | Deviation { .. } => Box::new(Moments::new(function.clone())),
        LeastInteger => Box::new(Extremes::<i64> { states: Vec::new(), better: |new, old| new < old, output }),
        GreatestInteger => Box::new(Extremes::<i64> { states: Vec::new(), better: |new, old| new > old, output }),
        // NaN is less and greater than any number: one is enough, and the matrix has NULL then.
        LeastDouble => Box::new(Extremes::<f64> { states: Vec::new(), better: less, output }),
        GreatestDouble => Box::new(Extremes::<f64> { states: Vec::new(), better: greater, output }),
        Least => Box::new(Pick::extreme(false, output)),
        Greatest => Box::new(Pick::extreme(true, output)),
        FirstNumber { order, last } => Box::new(Leader::new(*order, *last, output)),
        Gap(statistic) => Box::new(Gaps::new(*statistic)),
        Function::Only => Box::new(Only::new(output)),
        First(order) => Box::new(Pick::ordered(order.clone(), false, output)),
        Last(order) => Box::new(Pick::ordered(order.clone(), true, output)),
    }
}

fn less(new: f64, old: f64) -> bool {
    !old.is_nan() && (new.is_nan() || new.total_cmp(&old).is_lt())
}

fn greater(new: f64, old: f64) -> bool {
    !old.is_nan() && (new.is_nan() || new.total_cmp(&old).is_gt())
}

/// How many rows.
#[derive(Default)]
struct Counts {
    states: Vec<i64>,
}

impl Accumulator for Counts {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, 0);
        rows.each(|_, slot| self.states[slot] += 1);
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let add = |sum: &mut i64, state: &i64| *sum += state;
        slots.merged(windows, &self.states, add, |sums| Ok(Arc::new(Int64Array::from(sums.to_vec()))))
    }
}

/// Sums of integers, which wrap as SQL's do; unsigned ones wrap alike.
struct IntegerSums {
    states: Vec<Option<i64>>,
    output: DataType,
}

impl Accumulator for IntegerSums {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let mut add = |slot: usize, x: i64| {
            let state = &mut self.states[slot];
            *state = Some(state.unwrap_or(0).wrapping_add(x));
        };
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

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let add = |sum: &mut Option<i64>, state: &Option<i64>| {
            if let Some(x) = state {
                *sum = Some(sum.unwrap_or(0).wrapping_add(*x));
            }
        };
        let unsigned = self.output == DataType::UInt64;
        slots.merged(windows, &self.states, add, |sums| {
            Ok(match unsigned {
                true => column::<UInt64Type, _>(sums, |sum| sum.map(|x| x as u64)),
                false => column::<Int64Type, _>(sums, |sum| *sum),
            })
        })
    }
}

/// The least or greatest value.
struct Extremes<N> {
    states: Vec<Option<N>>,
    better: fn(N, N) -> bool,
    output: DataType,
}

impl<N: Copy> Extremes<N> {
    fn put(better: fn(N, N) -> bool, state: &mut Option<N>, x: N) {
        if state.is_none_or(|old| better(x, old)) {
            *state = Some(x);
        }
    }

    fn finished(
        &self,
        slots: &Slots,
        windows: &[Range<usize>],
        array: impl Fn(&[Option<N>]) -> ArrayRef,
    ) -> Result<Vec<ArrayRef>> {
        let better = self.better;
        let put = |sum: &mut Option<N>, state: &Option<N>| {
            if let Some(x) = state {
                Self::put(better, sum, *x);
            }
        };
        slots.merged(windows, &self.states, put, |sums| of_type(&array(sums), &self.output))
    }
}

impl Accumulator for Extremes<i64> {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Int64Type>().values();
        rows.each(|row, slot| Self::put(self.better, &mut self.states[slot], numbers[row]));
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        self.finished(slots, windows, |sums| column::<Int64Type, _>(sums, |sum| *sum))
    }
}

impl Accumulator for Extremes<f64> {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Float64Type>().values();
        rows.each(|row, slot| Self::put(self.better, &mut self.states[slot], numbers[row]));
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        self.finished(slots, windows, |sums| column::<Float64Type, _>(sums, |sum| *sum))
    }
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
