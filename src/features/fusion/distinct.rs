//! How many different values there are: a value is a number of its own, and of each the newest bucket counts.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;

use super::accumulator::{Accumulator, Rows, Slots};
use crate::Result;

/// 64 MB of bits; more values than fit there are sorted.
const MOST_WORDS: usize = 8 << 20;

/// The values of each slot, as pairs of slot and number.
#[derive(Default)]
pub(super) struct Distinct {
    numbers: HashMap<i64, u32>,
    texts: HashMap<Box<[u8]>, u32>,
    /// Slot and value, the slot in the upper half.
    pairs: Vec<u64>,
    /// How many pairs the last clean-up left.
    clean: usize,
    /// What a number is divided by: values that come to the same are one.
    unit: i64,
}

/// Microseconds.
const DAY: i64 = 86_400_000_000;

impl Distinct {
    /// Different values.
    pub fn new() -> Self {
        Distinct { unit: 1, ..Distinct::default() }
    }

    /// Different days, of times in microseconds.
    pub fn days() -> Self {
        Distinct { unit: DAY, ..Distinct::default() }
    }

    /// Drops what is there twice, so that memory grows with the different pairs alone.
    fn clean_up(&mut self) {
        self.pairs.sort_unstable();
        self.pairs.dedup();
        self.clean = self.pairs.len();
    }
}

impl Accumulator for Distinct {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        let Some(&array) = rows.values.first() else { return Ok(()) };
        let pairs = &mut self.pairs;
        let mut push = |slot: usize, value: u32| pairs.push((slot as u64) << 32 | u64::from(value));
        match array.data_type() {
            DataType::Boolean
            | DataType::Date32
            | DataType::Timestamp(..)
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64 => {
                let numbers = match array.data_type() {
                    DataType::Date32 => cast(&cast(array, &DataType::Int32)?, &DataType::Int64)?,
                    _ => cast(array, &DataType::Int64)?,
                };
                let numbers = numbers.as_primitive::<Int64Type>().values();
                let (known, unit) = (&mut self.numbers, self.unit);
                // Rows of a day, or of a product, lie together: where the last one's begins, and its number.
                let mut last: Option<(i64, u32)> = None;
                rows.each(|row, slot| {
                    let x = numbers[row];
                    let value = match last {
                        Some((begin, value)) if (x.wrapping_sub(begin) as u64) < unit as u64 => value,
                        _ => {
                            let begin = x.div_euclid(unit).wrapping_mul(unit);
                            let next = known.len() as u32;
                            let value = *known.entry(begin).or_insert(next);
                            last = Some((begin, value));
                            value
                        }
                    };
                    push(slot, value);
                });
            }
            _ => {
                let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())])?;
                let texts = converter.convert_columns(&rows.sliced())?;
                let known = &mut self.texts;
                rows.each(|row, slot| {
                    let text = texts.row(row - rows.from);
                    let text: &[u8] = text.as_ref();
                    let value = match known.get(text) {
                        Some(value) => *value,
                        None => {
                            let next = known.len() as u32;
                            known.insert(text.into(), next);
                            next
                        }
                    };
                    push(slot, value);
                });
            }
        }
        if self.pairs.len() > 1 << 20 && self.pairs.len() > 2 * self.clean {
            self.clean_up();
        }
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let words = self.numbers.len().max(self.texts.len()).div_ceil(64).max(1);
        if slots.count.saturating_mul(words) <= MOST_WORDS {
            return self.by_bits(slots, windows, words);
        }
        self.by_sorting(slots, windows)
    }
}

impl Distinct {
    /// A bit per value and slot; a window's are the union of its buckets'.
    fn by_bits(&mut self, slots: &Slots, windows: &[Range<usize>], words: usize) -> Result<Vec<ArrayRef>> {
        let mut bits = vec![0u64; slots.count * words];
        for pair in std::mem::take(&mut self.pairs) {
            let (slot, value) = ((pair >> 32) as usize, (pair & u64::from(u32::MAX)) as usize);
            bits[slot * words + value / 64] |= 1 << (value % 64);
        }
        let mut sums = vec![0u64; slots.customers * words];
        let add = |sums: &mut Vec<u64>, customer: usize, slot: usize| {
            let of_slot = &bits[slot * words..][..words];
            sums[customer * words..][..words].iter_mut().zip(of_slot).for_each(|(sum, bits)| *sum |= bits);
        };
        let count = |sums: &Vec<u64>| -> Result<ArrayRef> {
            let counts = sums.chunks(words).map(|bits| bits.iter().map(|word| i64::from(word.count_ones())).sum());
            Ok(Arc::new(Int64Array::from_iter_values(counts)))
        };
        slots.walk(windows, &mut sums, |sums| sums.fill(0), add, count)
    }

    /// Every value of a customer with its buckets, the newest first.
    fn by_sorting(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let owners = slots.owners();
        let values = self.numbers.len().max(self.texts.len()).max(1) as u64;
        let owned = |pair: u64| {
            let (customer, bucket) = owners[(pair >> 32) as usize];
            (u64::from(customer) * values + (pair & u64::from(u32::MAX)), bucket)
        };
        let mut found: Vec<(u64, u32)> = std::mem::take(&mut self.pairs).into_iter().map(owned).collect();
        found.sort_unstable();
        found.dedup();
        let columns = windows.iter().map(|window| {
            let mut counts = vec![0i64; slots.customers];
            let mut last = None;
            for (value, _) in found.iter().filter(|(_, bucket)| window.contains(&(*bucket as usize))) {
                if last.replace(*value) != Some(*value) {
                    counts[(value / values) as usize] += 1;
                }
            }
            Ok(Arc::new(Int64Array::from(counts)) as ArrayRef)
        });
        columns.collect()
    }
}
