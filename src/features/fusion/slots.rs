//! Which customers have rows in which buckets, and windows merged from them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::DataType;

use super::aggregate::Function;
use super::keys::NOBODY;
use crate::{Error, Result};

/// Bits of a validity mask that are written at a time.
const WORD: usize = u64::BITS as usize;

/// Which slots there are: those of one bucket lie together, customer by customer, so that windows are merged from neighbours.
///
/// Customers are numbered by their newest bucket: those that a narrow window has rows of come before all others, and what is
/// merged for it lies together.
pub(super) struct Slots {
    pub customers: usize,
    /// How many slots there are.
    pub count: usize,
    /// The slots of every bucket.
    buckets: Vec<Vec<Run>>,
    /// How many pieces of written states were added.
    pieces: usize,
    /// The customers that have slots, by their numbers.
    order: Vec<u32>,
    /// How many customers have slots in the first so many buckets.
    seen: Vec<usize>,
}

/// Neighbouring slots of one bucket.
pub(super) struct Run {
    /// Which piece of written states they are, counted as they were added; `None` where rows were added up.
    pub written: Option<usize>,
    pub first: usize,
    /// The numbers of the customers of the slots; [`NOBODY`] for states that nobody asks for.
    pub customers: Vec<u32>,
}

impl Run {
    /// The numbers of the customers, and their slots.
    pub fn slots(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let slots = self.customers.iter().enumerate().filter(|(_, customer)| **customer != NOBODY);
        slots.map(|(row, customer)| (*customer as usize, self.first + row))
    }
}

/// The slots of rows and of written states, while they come.
pub(super) struct SlotsBuilder(Slots);

impl SlotsBuilder {
    /// The slots of rows: `table` has a place per customer and bucket of `filled`, bucket by bucket, that is not 0 where there are
    /// rows; it then holds the slots.
    pub fn number(table: &mut [u32], filled: &[usize], buckets: usize, customers: usize) -> Self {
        let buckets = (0..buckets).map(|_| Vec::new()).collect();
        let mut slots = Slots { customers, count: 0, buckets, pieces: 0, order: Vec::new(), seen: Vec::new() };
        for (bucket, places) in filled.iter().zip(table.chunks_mut(customers.max(1))) {
            let mut run = Run { written: None, first: slots.count, customers: Vec::new() };
            for (customer, place) in places.iter_mut().enumerate().filter(|(_, place)| **place > 0) {
                *place = (slots.count + run.customers.len()) as u32;
                run.customers.push(customer as u32);
            }
            slots.count += run.customers.len();
            slots.buckets[*bucket].push(run);
        }
        SlotsBuilder(slots)
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// Adds slots for written states of one bucket; [`NOBODY`] has states that nobody asks for.
    pub fn load(&mut self, bucket: usize, customers: Vec<u32>) {
        let slots = &mut self.0;
        let run = Run { written: Some(slots.pieces), first: slots.count, customers };
        slots.count += run.customers.len();
        slots.pieces += 1;
        slots.buckets[bucket].push(run);
    }

    /// Numbers the customers, now that all slots are known.
    pub fn finish(self) -> Slots {
        let SlotsBuilder(mut slots) = self;
        let mut numbers = vec![NOBODY; slots.customers];
        slots.seen.push(0);
        for bucket in &mut slots.buckets {
            for run in bucket {
                for customer in &mut run.customers {
                    // There is no number of [`NOBODY`].
                    let Some(number) = numbers.get_mut(*customer as usize) else { continue };
                    if *number == NOBODY {
                        *number = slots.order.len() as u32;
                        slots.order.push(*customer);
                    }
                    *customer = *number;
                }
            }
            slots.seen.push(slots.order.len());
        }
        slots
    }
}

impl Slots {
    /// The customers that have slots in some buckets, ascending, and for each of them those slots as one.
    pub fn together(&self, buckets: &Range<usize>) -> (Vec<u32>, Groups) {
        let runs = || self.buckets[buckets.clone()].iter().flatten();
        let mut places = vec![NOBODY; self.customers];
        runs().flat_map(Run::slots).for_each(|(customer, _)| places[self.order[customer] as usize] = 0);
        let mut customers = Vec::new();
        for (customer, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == 0) {
            *place = customers.len() as u32;
            customers.push(customer as u32);
        }
        let place =
            |number: &u32| self.order.get(*number as usize).map_or(NOBODY, |customer| places[*customer as usize]);
        let regrouped = |run: &Run| Run { customers: run.customers.iter().map(place).collect(), ..*run };
        let groups = Groups { count: customers.len(), runs: runs().map(regrouped).collect() };
        (customers, groups)
    }

    /// The customer and the bucket of every slot; slots of nobody have none.
    pub fn owners(&self) -> Vec<Option<(u32, u32)>> {
        let mut owners = vec![None; self.count];
        for (bucket, runs) in self.buckets.iter().enumerate() {
            for (customer, slot) in runs.iter().flat_map(Run::slots) {
                owners[slot] = Some((self.order[customer], bucket as u32));
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
        finish: impl Fn(&Merged<'_, S>, &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let add = |sums: &mut [S], run: &Run| {
            run.slots().for_each(|(customer, slot)| merge(&mut sums[customer], &states[slot]));
            Ok(())
        };
        self.walk(outputs, 1, add, finish)
    }

    /// Windows that begin with one bucket are merged one from the other: `add` adds slots to the sums of their customers, so many
    /// states for each, newer slots before older ones; `finish` makes a column of them.
    pub fn walk<S: Clone + Default>(
        &self,
        outputs: &[&Output],
        width: usize,
        add: impl Fn(&mut [S], &Run) -> Result<()>,
        finish: impl Fn(&Merged<'_, S>, &Output) -> Result<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        let mut order: Vec<usize> = (0..outputs.len()).collect();
        order.sort_by_key(|&w| (outputs[w].window.start, outputs[w].window.end));
        let mut found: Vec<Option<ArrayRef>> = vec![None; outputs.len()];
        let last =
            outputs.iter().map(|output| self.seen[output.window.end.max(output.window.start)]).max().unwrap_or(0);
        let mut sums: Vec<S> = vec![S::default(); last * width];
        let mut done: Option<Range<usize>> = None;
        for w in order {
            let window = &outputs[w].window;
            let merged = match done.take() {
                Some(done) if done.start == window.start => done.end,
                Some(_) => {
                    sums.fill(S::default());
                    window.start
                }
                None => window.start,
            };
            let end = window.end.max(merged);
            self.buckets[merged..end].iter().flatten().try_for_each(|run| add(&mut sums, run))?;
            done = Some(window.start..end);
            let seen = self.seen[end];
            let merged =
                Merged { sums: &sums[..seen * width], customers: &self.order[..seen], width, all: self.customers };
            found[w] = Some(finish(&merged, outputs[w])?);
        }
        found.into_iter().map(|array| array.ok_or_else(|| Error::bug("a window was left out"))).collect()
    }
}

/// What was merged for a window: the customers that may have rows in it, and the sums of each. Any other has those of no rows.
pub(super) struct Merged<'a, S> {
    sums: &'a [S],
    customers: &'a [u32],
    width: usize,
    all: usize,
}

impl<S: Clone + Default> Merged<'_, S> {
    /// A value for every customer of the range, from the sums.
    pub fn values<V: Clone>(&self, value: impl Fn(&[S]) -> V) -> Vec<V> {
        let mut values = vec![value(&vec![S::default(); self.width]); self.all];
        for (sums, customer) in self.sums.chunks_exact(self.width).zip(self.customers) {
            values[*customer as usize] = value(sums);
        }
        values
    }

    /// The same where each customer has one sum.
    pub fn values_of_one<V: Clone>(&self, value: impl Fn(&S) -> V) -> Vec<V> {
        let mut values = vec![value(&S::default()); self.all];
        for (sum, customer) in self.sums.iter().zip(self.customers) {
            values[*customer as usize] = value(sum);
        }
        values
    }

    /// A column of numbers, NULL where there is none; what stands there then is 0.
    pub fn column<T: ArrowPrimitiveType>(&self, value: impl Fn(&S) -> Option<T::Native>) -> ArrayRef {
        let nobody = value(&S::default());
        let mut values = vec![nobody.unwrap_or_default(); self.all];
        let mut there = vec![if nobody.is_some() { u64::MAX } else { 0 }; self.all.div_ceil(WORD)];
        for (sum, customer) in self.sums.iter().zip(self.customers) {
            let (value, customer) = (value(sum), *customer as usize);
            if value.is_some() != nobody.is_some() {
                there[customer / WORD] ^= 1 << (customer % WORD);
            }
            values[customer] = value.unwrap_or_default();
        }
        numbers::<T>(values, there)
    }

    /// The same where a sum may have no value; an error has the customer's place in the range.
    pub fn try_column<T: ArrowPrimitiveType, E>(
        &self,
        value: impl Fn(&S) -> std::result::Result<Option<T::Native>, E>,
    ) -> std::result::Result<ArrayRef, (usize, E)> {
        for (sum, customer) in self.sums.iter().zip(self.customers) {
            value(sum).map_err(|error| (*customer as usize, error))?;
        }
        Ok(self.column::<T>(|sum| value(sum).ok().flatten()))
    }
}

/// A column of numbers, NULL where there is none; what stands there then is 0.
pub(super) fn column<T: ArrowPrimitiveType, S>(states: &[S], value: impl Fn(&S) -> Option<T::Native>) -> ArrayRef {
    let mut values: Vec<T::Native> = Vec::with_capacity(states.len());
    let mut there: Vec<u64> = Vec::with_capacity(states.len().div_ceil(WORD));
    for states in states.chunks(WORD) {
        let mut word = 0;
        values.extend(states.iter().enumerate().map(|(bit, state)| {
            let value = value(state);
            word |= u64::from(value.is_some()) << bit;
            value.unwrap_or_default()
        }));
        there.push(word);
    }
    numbers::<T>(values, there)
}

/// Numbers that are there where a bit is set.
fn numbers<T: ArrowPrimitiveType>(values: Vec<T::Native>, there: Vec<u64>) -> ArrayRef {
    let nulls = NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(there), 0, values.len()));
    Arc::new(PrimitiveArray::<T>::new(values.into(), Some(nulls).filter(|nulls| nulls.null_count() > 0)))
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
    pub runs: Vec<Run>,
}

impl Groups {
    /// New slots and old ones.
    pub fn slots(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.runs.iter().flat_map(Run::slots)
    }

    /// The new slot of every old one up to the last that has one; [`NOBODY`] where there is none.
    pub fn by_slot(&self) -> Vec<u32> {
        let end = self.runs.iter().map(|run| run.first + run.customers.len()).max().unwrap_or(0);
        let mut found = vec![NOBODY; end];
        self.slots().for_each(|(new, old)| found[old] = new as u32);
        found
    }

    /// The states of the new slots, from a state per slot.
    pub fn merged<S: Clone + Default>(&self, states: &[S], merge: impl Fn(&mut S, &S)) -> Vec<S> {
        let mut sums = vec![S::default(); self.count];
        self.slots().for_each(|(new, old)| merge(&mut sums[new], &states[old]));
        sums
    }
}
