//! How many different values there are: a value is a number of its own, and of each the newest bucket counts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, max, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;

use super::accumulator::{Accumulator, Rows, columns_of, integers};
use super::keys::NOBODY;
use super::sketched::Listed;
use super::slots::{Groups, Merged, Output, Run, Slots};
use super::state::ones;
use crate::{Error, Result};

/// 64 MB of bits; more values than fit there are sorted.
const MOST_WORDS: usize = 8 << 20;

/// The values of each slot, as pairs of slot and number.
#[derive(Default)]
pub(super) struct Distinct {
    values: Values,
    /// Slot and value, the slot in the upper half.
    pairs: Vec<u64>,
    written: Vec<Written>,
    /// How many pairs the last clean-up left.
    clean: usize,
    /// What a number is divided by: values that come to the same are one.
    unit: i64,
}

/// Written states that have a bit per value.
struct Written {
    first: usize,
    /// The bits of each slot, from the first one on.
    bits: Int64Array,
    /// The number of the value that each bit stands for.
    values: Vec<u32>,
}

impl Written {
    /// The slots below this one and the numbers of their values.
    fn pairs(&self, end: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        let slots = self.bits.values().iter().enumerate().take(end.saturating_sub(self.first));
        slots.flat_map(move |(row, bits)| ones(*bits as u64).map(move |bit| (self.first + row, self.values[bit])))
    }
}

/// The number of every value that came.
#[derive(Default)]
struct Values {
    numbers: HashMap<i64, u32>,
    /// Any other type: as a row format writes it.
    texts: HashMap<Box<[u8]>, u32>,
    converter: Option<RowConverter>,
}

/// Microseconds.
pub(super) const DAY: i64 = 86_400_000_000;

impl Values {
    fn len(&self) -> usize {
        self.numbers.len().max(self.texts.len())
    }

    fn of_number(&mut self, number: i64) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(number).or_insert(next)
    }

    fn of_text(&mut self, text: &[u8]) -> u32 {
        match self.texts.get(text) {
            Some(value) => *value,
            None => {
                let next = self.texts.len() as u32;
                self.texts.insert(text.into(), next);
                next
            }
        }
    }

    /// Writes values down, to be looked up.
    fn converted(&mut self, array: &ArrayRef) -> Result<arrow::row::Rows> {
        let converter = match &mut self.converter {
            Some(converter) => converter,
            None => self.converter.insert(RowConverter::new(vec![SortField::new(array.data_type().clone())])?),
        };
        Ok(converter.convert_columns(&[Arc::clone(array)])?)
    }

    fn of_values(&mut self, values: &ArrayRef) -> Result<Vec<u32>> {
        if let Some(numbers) = values.as_primitive_opt::<Int64Type>() {
            return Ok(numbers.values().iter().map(|x| self.of_number(*x)).collect());
        }
        let texts = self.converted(values)?;
        Ok((0..texts.num_rows()).map(|row| self.of_text(texts.row(row).as_ref())).collect())
    }

    /// For every number how many values are less than its own.
    fn ranks(&self) -> Vec<usize> {
        fn of<V: Ord>(values: impl Iterator<Item = (V, u32)>) -> Vec<usize> {
            let mut sorted: Vec<(V, u32)> = values.collect();
            sorted.sort_unstable();
            let mut ranks = vec![0; sorted.len()];
            sorted.iter().enumerate().for_each(|(rank, (_, number))| ranks[*number as usize] = rank);
            ranks
        }
        match self.numbers.is_empty() {
            true => of(self.texts.iter().map(|(text, number)| (text, *number))),
            false => of(self.numbers.iter().map(|(value, number)| (value, *number))),
        }
    }

    /// Every value, in the order of their numbers.
    fn array(&self) -> Result<ArrayRef> {
        let Some(converter) = &self.converter else {
            let mut numbers = vec![0; self.numbers.len()];
            self.numbers.iter().for_each(|(number, value)| numbers[*value as usize] = *number);
            return Ok(Arc::new(Int64Array::from(numbers)));
        };
        let mut texts: Vec<&[u8]> = vec![&[]; self.texts.len()];
        self.texts.iter().for_each(|(text, value)| texts[*value as usize] = text);
        let parser = converter.parser();
        let arrays = converter.convert_rows(texts.into_iter().map(|text| parser.parse(text)))?;
        arrays.into_iter().next().ok_or_else(|| Error::bug("a value is lost"))
    }
}

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

    /// How many values each slot has.
    pub fn counts(&self, slots: usize) -> Vec<i64> {
        let words = self.words();
        let mut counts = vec![0; slots];
        if slots.saturating_mul(words) <= MOST_WORDS {
            let bits = self.bits(slots, words);
            counts.iter_mut().zip(bits.chunks(words)).for_each(|(count, bits)| *count = how_many(bits));
        } else {
            self.sorted().iter().for_each(|pair| counts[(pair >> 32) as usize] += 1);
        }
        counts
    }

    fn words(&self) -> usize {
        self.values.len().div_ceil(64).max(1)
    }

    /// Every slot below this one with its values, and maybe others.
    fn pairs_below(&self, end: usize) -> impl Iterator<Item = u64> + '_ {
        let written = self.written.iter().flat_map(move |written| written.pairs(end));
        self.pairs.iter().copied().chain(written.map(|(slot, value)| pair_of(slot, value)))
    }

    /// A bit per value and slot.
    fn bits(&self, slots: usize, words: usize) -> Vec<u64> {
        let mut bits = vec![0u64; slots * words];
        // Bits are in the order of the values, as they are in written states.
        let ranks = self.values.ranks();
        let set = |bits: &mut [u64], value: usize| bits[ranks[value] / 64] |= 1 << (ranks[value] % 64);
        for pair in &self.pairs {
            let (slot, value) = parts(*pair);
            set(&mut bits[slot * words..][..words], value);
        }
        for written in &self.written {
            if words == 1 && written.values.iter().enumerate().all(|(bit, value)| bit == ranks[*value as usize]) {
                let own = bits[written.first..].iter_mut().zip(written.bits.values());
                own.for_each(|(to, from)| *to = *from as u64);
            } else {
                let own = written.pairs(slots);
                own.for_each(|(slot, value)| set(&mut bits[slot * words..][..words], value as usize));
            }
        }
        bits
    }

    /// The different pairs, slot by slot.
    fn sorted(&self) -> Vec<u64> {
        let mut pairs: Vec<u64> = self.pairs_below(usize::MAX).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

/// The slot and the value of a pair.
fn parts(pair: u64) -> (usize, usize) {
    ((pair >> 32) as usize, (pair & u64::from(u32::MAX)) as usize)
}

fn pair_of(slot: usize, value: u32) -> u64 {
    (slot as u64) << 32 | u64::from(value)
}

fn how_many(bits: &[u64]) -> i64 {
    bits.iter().map(|word| i64::from(word.count_ones())).sum()
}

impl Accumulator for Distinct {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        let Some(&array) = rows.values.first() else { return Ok(()) };
        match whole_numbers(array)? {
            Some(numbers) => {
                let numbers = numbers.as_primitive::<Int64Type>().values();
                let (values, pairs, unit) = (&mut self.values, &mut self.pairs, self.unit);
                // Rows of a day, or of a product, lie together: where the last one's begins, and its number.
                let mut last: Option<(i64, u32)> = None;
                rows.each(|row, slot| {
                    let x = numbers[row];
                    let value = match last {
                        Some((begin, value)) if (x.wrapping_sub(begin) as u64) < unit as u64 => value,
                        _ => {
                            let begin = x.div_euclid(unit).wrapping_mul(unit);
                            let value = values.of_number(begin);
                            last = Some((begin, value));
                            value
                        }
                    };
                    pairs.push(pair_of(slot, value));
                });
            }
            None => {
                let texts = self.values.converted(&array.slice(rows.from, rows.slots.len()))?;
                let (values, pairs) = (&mut self.values, &mut self.pairs);
                rows.each(|row, slot| {
                    pairs.push(pair_of(slot, values.of_text(texts.row(row - rows.from).as_ref())));
                });
            }
        }
        if self.pairs.len() > 1 << 20 && self.pairs.len() > 2 * self.clean {
            self.clean_up();
        }
        Ok(())
    }

    fn load(&mut self, first: usize, states: Vec<ArrayRef>) -> Result<()> {
        if let [bits, values] = states.as_slice() {
            let (bits, values) = (integers(bits)?.clone(), self.values.of_values(values)?);
            self.written.push(Written { first, bits, values });
            return Ok(());
        }
        let [lists] = columns_of(&states)?;
        let lists = lists.as_list_opt::<i32>().ok_or_else(|| Error::bug("sets that are no lists"))?;
        let offsets = lists.value_offsets();
        let (begin, end) = (offsets[0] as usize, offsets[lists.len()] as usize);
        let items = lists.values().slice(begin, end - begin);
        let numbers: Vec<u32> = match items.as_dictionary_opt::<Int32Type>() {
            Some(dictionary) => {
                let known = self.values.of_values(dictionary.values())?;
                dictionary.keys().values().iter().map(|key| known[*key as usize]).collect()
            }
            None => self.values.of_values(&items)?,
        };
        for (row, ends) in offsets.windows(2).enumerate() {
            let values = &numbers[ends[0] as usize - begin..ends[1] as usize - begin];
            self.pairs.extend(values.iter().map(|value| pair_of(first + row, *value)));
        }
        Ok(())
    }

    fn seal(&mut self, _rows: usize, _slots: usize) {}

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let words = self.words();
        if slots.count.saturating_mul(words) <= MOST_WORDS {
            return self.by_bits(slots, outputs, words);
        }
        self.by_sorting(slots, outputs)
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let new = groups.by_slot();
        let regrouped = |pair: u64| {
            let group = new.get(parts(pair).0).copied().filter(|group| *group != NOBODY)?;
            Some(pair_of(group as usize, pair as u32))
        };
        let mut found: Vec<u64> = self.pairs_below(new.len()).filter_map(regrouped).collect();
        found.sort_unstable();
        found.dedup();
        let mut lengths = vec![0; groups.count];
        found.iter().for_each(|pair| lengths[parts(*pair).0] += 1);
        let values = self.values.array()?;
        let places = Int32Array::from_iter_values(found.iter().map(|pair| *pair as u32 as i32));
        let items: ArrayRef = match values.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Arc::new(DictionaryArray::<Int32Type>::try_new(places, cast(&values, &DataType::Utf8)?)?)
            }
            _ => take(&values, &places, None)?,
        };
        let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
        Ok(vec![Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, None)?)])
    }
}

impl Listed for Distinct {
    fn most(&self, _slots: &Slots, columns: &[ArrayRef]) -> usize {
        let counts = columns.iter().filter_map(|column| max(column.as_primitive_opt::<Int64Type>()?));
        self.values.len().min(counts.max().unwrap_or(0) as usize)
    }
}

/// Values that are numbers as such.
fn whole_numbers(array: &ArrayRef) -> Result<Option<ArrayRef>> {
    use DataType::{Boolean, Date32, Int8, Int16, Int32, Int64, Timestamp};
    Ok(match array.data_type() {
        Date32 => Some(cast(&cast(array, &Int32)?, &Int64)?),
        Boolean | Timestamp(..) | Int8 | Int16 | Int32 | Int64 => Some(cast(array, &Int64)?),
        _ => None,
    })
}

impl Distinct {
    /// A window's values are the union of its buckets'.
    fn by_bits(&self, slots: &Slots, outputs: &[&Output], words: usize) -> Result<Vec<ArrayRef>> {
        let bits = self.bits(slots.count, words);
        let add = |sums: &mut [u64], run: &Run| {
            for (customer, of_slot) in run.customers.iter().zip(bits[run.first * words..].chunks_exact(words)) {
                // `NOBODY` is behind all sums.
                let first = *customer as usize * words;
                let Some(sums) = sums.get_mut(first..first + words) else { continue };
                sums.iter_mut().zip(of_slot).for_each(|(sum, bits)| *sum |= bits);
            }
            Ok(())
        };
        let count =
            |sums: &Merged<'_, u64>, _: &Output| Ok(Arc::new(Int64Array::from(sums.values(how_many))) as ArrayRef);
        slots.walk(outputs, words, add, count)
    }

    /// Every value of a customer with its buckets, the newest first.
    fn by_sorting(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let owners = slots.owners();
        let values = self.values.len().max(1) as u64;
        let owned = |pair: u64| {
            let (slot, value) = parts(pair);
            let (customer, bucket) = owners[slot]?;
            Some((u64::from(customer) * values + value as u64, bucket))
        };
        let mut found: Vec<(u64, u32)> = self.pairs_below(slots.count).filter_map(owned).collect();
        found.sort_unstable();
        found.dedup();
        let columns = outputs.iter().map(|output| {
            let mut counts = vec![0i64; slots.customers];
            let mut last = None;
            for (value, _) in found.iter().filter(|(_, bucket)| output.window.contains(&(*bucket as usize))) {
                if last.replace(*value) != Some(*value) {
                    counts[(value / values) as usize] += 1;
                }
            }
            Ok(Arc::new(Int64Array::from(counts)) as ArrayRef)
        });
        columns.collect()
    }
}
