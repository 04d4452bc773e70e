//! A state per customer and bucket, and windows merged from them.
//!
//! A customer's bucket that has rows is a slot, numbered as it first comes; an aggregate keeps one state per slot.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::aggregate::Function;
use super::days::Days;
use super::distinct::Distinct;
use super::first::FirstNumber as Leader;
use super::gaps::{Gaps, LooseGaps};
use super::keys::NOBODY;
use super::moments::Moments;
use super::only::Only;
use super::pick::Pick;
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

    /// Adds slots for written states: the customers, [`NOBODY`] for states that nobody asks for, and their buckets.
    pub fn load(&mut self, customers: &[u32], buckets: &[u16]) {
        let slots = customers.iter().zip(buckets).enumerate().filter(|(_, (customer, _))| **customer != NOBODY);
        for (row, (customer, bucket)) in slots {
            self.buckets[usize::from(*bucket)].push((*customer, (self.count + row) as u32));
        }
        self.count += customers.len();
    }

    /// The customers that have slots in some buckets, ascending, and for each of them those slots as one.
    pub fn together(&self, buckets: &Range<usize>) -> (Vec<u32>, Groups) {
        let slots = || self.buckets[buckets.clone()].iter().flatten();
        let mut places = vec![NOBODY; self.customers];
        slots().for_each(|(customer, _)| places[*customer as usize] = 0);
        let mut customers = Vec::new();
        for (customer, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == 0) {
            *place = customers.len() as u32;
            customers.push(customer as u32);
        }
        let of = slots().map(|(customer, slot)| (places[*customer as usize], *slot)).collect();
        let count = customers.len();
        (customers, Groups { count, of })
    }

    /// The customer and the bucket of every slot; slots of nobody have none.
    pub fn owners(&self) -> Vec<Option<(u32, u32)>> {
        let mut owners = vec![None; self.count];
        for (bucket, slots) in self.buckets.iter().enumerate() {
            slots.iter().for_each(|(customer, slot)| owners[*slot as usize] = Some((*customer, bucket as u32)));
        }
        owners
    }

    /// The state of every customer in the window of every output, output by output.
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

    /// Windows that begin with one bucket are merged one from the other: `reset` empties the sums, `add` adds a customer's
    /// slot to them, newer ones before older ones, `finish` makes a column of them.
    pub fn walk<T>(
        &self,
        outputs: &[&Output],
        sums: &mut T,
        reset: impl Fn(&mut T),
        add: impl Fn(&mut T, usize, usize),
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
            for (customer, slot) in self.buckets[merged..window.end.max(merged)].iter().flatten() {
                add(sums, *customer as usize, *slot as usize);
            }
            done = Some(window.start..window.end.max(merged));
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

/// Slots that are put together: pairs of a new slot and an old one, newer old ones before older ones.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// How many new slots there are.
    pub count: usize,
    pub of: Vec<(u32, u32)>,
}

impl Groups {
    /// The states of the new slots.
    pub fn merged<S: Clone + Default>(&self, states: &[S], merge: impl Fn(&mut S, &S)) -> Vec<S> {
        let mut sums = vec![S::default(); self.count];
        self.of.iter().for_each(|(new, old)| merge(&mut sums[*new as usize], &states[*old as usize]));
        sums
    }
}

/// An aggregate at work: rows and written states come first, then [`Accumulator::seal`], then the rest.
pub(super) trait Accumulator: Send + Sync {
    /// Adds rows; there are now so many slots.
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()>;

    /// Adds states that were written down, a new slot for each, `first` the first of them.
    fn load(&mut self, first: usize, states: &[ArrayRef]) -> Result<()>;

    /// Nothing more comes; there are so many slots.
    fn seal(&mut self, slots: usize);

    /// The column of each output.
    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>>;

    /// The states of groups of slots, to be written down: as many columns as [`Function::state_columns`] says.
    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>>;

    /// A slot that has more rows than it may.
    fn repeated(&self) -> Option<u32> {
        None
    }
}

/// The accumulator of an aggregate.
pub(super) fn accumulator(function: &Function) -> Box<dyn Accumulator> {
    use Function::{
        Average, Count, Deviation, Distinct as Different, DistinctDays, First, FirstNumber, Gap, Greatest,
        GreatestDouble, GreatestInteger, Last, Least, LeastDouble, LeastInteger, LooseGap, SumDoubles, SumIntegers,
        Variance, WholeDays,
    };
    match function {
        Count => Box::new(Counts::default()),
        Different => Box::new(Distinct::new()),
        DistinctDays => Box::new(Distinct::days()),
        WholeDays => Box::new(Days::new()),
        SumIntegers => Box::new(IntegerSums::default()),
        SumDoubles | Average => Box::new(Moments::new(false)),
        Variance { .. } | Deviation { .. } => Box::new(Moments::new(true)),
        LeastInteger => Box::new(Extremes::<i64> { states: Vec::new(), better: |new, old| new < old }),
        GreatestInteger => Box::new(Extremes::<i64> { states: Vec::new(), better: |new, old| new > old }),
        // NaN is less and greater than any number: one is enough, and the matrix has NULL then.
        LeastDouble => Box::new(Extremes::<f64> { states: Vec::new(), better: less }),
        GreatestDouble => Box::new(Extremes::<f64> { states: Vec::new(), better: greater }),
        Least => Box::new(Pick::extreme(false)),
        Greatest => Box::new(Pick::extreme(true)),
        FirstNumber { order, last } => Box::new(Leader::new(*order, *last)),
        Gap(_) => Box::new(Gaps::default()),
        LooseGap(_) => Box::new(LooseGaps::default()),
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

/// The numbers of an array, `None` where there is none.
pub(super) fn optional<T: ArrowPrimitiveType>(array: &ArrayRef) -> impl Iterator<Item = Option<T::Native>> + '_ {
    array.as_primitive::<T>().iter()
}

/// The columns of a written state.
pub(super) fn columns_of<const N: usize>(states: &[ArrayRef]) -> Result<&[ArrayRef; N]> {
    states.try_into().map_err(|_| Error::infra(format!("a state has {} columns and not {N}", states.len())))
}
