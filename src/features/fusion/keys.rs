//! The keys of the population, sorted, and where each one stands.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::HashMap;
use rayon::prelude::*;

use crate::{Error, Result};

/// Marks a key that the population does not have.
pub(super) const NOBODY: u32 = u32::MAX;
/// A table over the whole span of integer keys may have so many places per key.
const SPARSENESS: u64 = 8;
/// Places of such a table that are written together.
const TABLE_PIECE: usize = 1 << 16;

/// Sorted keys: `Int64` or `Utf8`.
#[derive(Debug, Clone)]
pub(in crate::features) struct Keys {
    array: ArrayRef,
}

/// Keys as what they are.
#[derive(Clone, Copy)]
enum View<'a> {
    Numbers(&'a Int64Array),
    Texts(&'a StringArray),
}

impl<'a> View<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self> {
        match array.data_type() {
            DataType::Int64 => Ok(View::Numbers(array.as_primitive::<Int64Type>())),
            DataType::Utf8 => Ok(View::Texts(array.as_string::<i32>())),
            other => Err(Error::bug(format!("`{other}` is no type of a key"))),
        }
    }

    fn compare(self, row: usize, other: View<'_>, at: usize) -> Ordering {
        match (self, other) {
            (View::Numbers(a), View::Numbers(b)) => a.value(row).cmp(&b.value(at)),
            (View::Texts(a), View::Texts(b)) => a.value(row).cmp(b.value(at)),
            (View::Numbers(_), View::Texts(_)) => Ordering::Less,
            (View::Texts(_), View::Numbers(_)) => Ordering::Greater,
        }
    }
}

impl Keys {
    /// Wraps a sorted array of keys.
    pub fn new(array: ArrayRef) -> Result<Self> {
        View::of(&array)?;
        Ok(Keys { array })
    }

    /// The keys as an array.
    pub fn array(&self) -> &ArrayRef {
        &self.array
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.array.len()
    }

    /// These and others, each once; NULL first.
    pub fn union(&self, other: &Keys) -> Result<Keys> {
        let (mut a, mut b) = (0, 0);
        let mut picked = Vec::with_capacity(self.len().max(other.len()));
        while a < self.len() || b < other.len() {
            let order = match (a < self.len(), b < other.len()) {
                (true, false) => Ordering::Less,
                (false, _) => Ordering::Greater,
                _ => match (self.is_null(a), other.is_null(b)) {
                    (false, false) => self.compare(a, other, b)?,
                    (mine, theirs) => theirs.cmp(&mine),
                },
            };
            picked.push(if order.is_le() { (0, a) } else { (1, b) });
            a += usize::from(order.is_le());
            b += usize::from(order.is_ge());
        }
        Keys::new(interleave(&[self.array.as_ref(), other.array.as_ref()], &picked)?)
    }

    /// Whether they are sorted, NULL first.
    pub fn ascend(&self) -> Result<bool> {
        let view = View::of(&self.array)?;
        let nulls = self.array.null_count();
        if let (View::Numbers(numbers), 0) = (view, nulls) {
            return Ok(numbers.values().is_sorted());
        }
        let pair = |row: usize| row < nulls || view.compare(row, view, row + 1).is_le();
        Ok((0..nulls).all(|row| self.is_null(row)) && (0..self.len().saturating_sub(1)).all(pair))
    }

    /// Compares the first of these with the first of others, of which there are some; NULL comes first.
    pub fn by_firsts(&self, other: &Keys) -> Ordering {
        match (View::of(&self.array), View::of(&other.array)) {
            (Ok(own), Ok(others)) if !self.is_null(0) && !other.is_null(0) => own.compare(0, others, 0),
            _ => other.is_null(0).cmp(&self.is_null(0)),
        }
    }

    /// A part of them.
    pub fn slice(&self, from: usize, length: usize) -> Keys {
        Keys { array: self.array.slice(from, length) }
    }

    /// Compares a key with one of other keys; both are there.
    pub fn compare(&self, row: usize, other: &Keys, at: usize) -> Result<Ordering> {
        Ok(View::of(&self.array)?.compare(row, View::of(&other.array)?, at))
    }

    /// Whether a row has no key.
    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }
}

/// Where each key of the population stands.
pub(super) enum KeyIndex {
    /// Integers that lie close together: for each number from the least on the place behind its own, 0 where it is no key.
    Table { least: i64, behind: Vec<u32> },
    /// Any integers.
    Numbers(HashMap<i64, u32>),
    /// Texts.
    Texts(HashMap<Box<str>, u32>),
}

impl KeyIndex {
    /// The index of these keys; NULL has no place.
    pub fn new(keys: &Keys) -> Result<Self> {
        let count = keys.len();
        if count >= NOBODY as usize {
            return Err(Error::user(format!("the population has {count} customers; {} are the most", NOBODY - 1)));
        }
        Ok(match View::of(&keys.array)? {
            View::Numbers(numbers) => {
                // NULL stands first.
                let nulls = numbers.null_count();
                let there = || numbers.values().iter().enumerate().skip(nulls).map(|(row, key)| (*key, row as u32));
                let (least, most) = there().next().zip(there().next_back()).map_or((0, -1), |(a, b)| (a.0, b.0));
                let span = most.abs_diff(least);
                if count > 0 && least <= most && span / SPARSENESS <= count as u64 {
                    KeyIndex::Table { least, behind: behind(&numbers.values()[nulls..], nulls, span as usize + 1) }
                } else {
                    KeyIndex::Numbers(there().collect())
                }
            }
            View::Texts(texts) => {
                let there = texts.iter().enumerate().filter_map(|(row, key)| Some((key?, row as u32)));
                KeyIndex::Texts(there.map(|(key, row)| (key.into(), row)).collect())
            }
        })
    }

    /// The place of each key, [`NOBODY`] where there is none.
    pub fn places(&self, keys: &ArrayRef) -> Result<Vec<u32>> {
        let mut found = Vec::with_capacity(keys.len());
        self.add_places(keys, &mut found)?;
        Ok(found)
    }

    /// Appends the places.
    pub fn add_places(&self, keys: &ArrayRef, found: &mut Vec<u32>) -> Result<()> {
        let first = found.len();
        match (self, View::of(keys)?) {
            (KeyIndex::Table { least, behind }, View::Numbers(keys)) => {
                let place = |key: &i64| {
                    let at = key.wrapping_sub(*least) as u64;
                    let behind = usize::try_from(at).ok().and_then(|at| behind.get(at)).copied().unwrap_or(0);
                    behind.wrapping_sub(1)
                };
                found.extend(keys.values().iter().map(place));
            }
            (KeyIndex::Numbers(index), View::Numbers(keys)) => {
                found.extend(keys.values().iter().map(|key| index.get(key).copied().unwrap_or(NOBODY)));
            }
            (KeyIndex::Texts(index), View::Texts(keys)) => {
                found.extend((0..keys.len()).map(|row| index.get(keys.value(row)).copied().unwrap_or(NOBODY)));
            }
            _ => return Err(Error::bug("the keys of a table are of another type than the population's")),
        }
        if let Some(nulls) = keys.nulls() {
            found[first..].iter_mut().zip(nulls).filter(|(_, there)| !there).for_each(|(place, _)| *place = NOBODY);
        }
        Ok(())
    }
}

/// For every number of a span that begins with the first of some sorted keys the place behind its own; `first` is the place of the
/// first one. Memory that is 0 comes from the system as it is, and where it is touched first it costs most: threads share that.
fn behind(keys: &[i64], first: usize, span: usize) -> Vec<u32> {
    let mut behind = vec![0; span];
    let Some(least) = keys.first() else { return behind };
    let at = |key: &i64| key.abs_diff(*least) as usize;
    behind.par_chunks_mut(TABLE_PIECE).enumerate().for_each(|(piece, behind)| {
        let begin = piece * TABLE_PIECE;
        let row = |end: usize| keys.partition_point(|key| at(key) < end);
        for row in row(begin)..row(begin + behind.len()) {
            behind[at(&keys[row]) - begin] = (first + row + 1) as u32;
        }
    });
    behind
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keys_ascend_with_null_first() {
        let ascend = |keys: Vec<Option<i64>>| Keys::new(Arc::new(Int64Array::from(keys))).unwrap().ascend().unwrap();
        assert!(ascend(vec![]) && ascend(vec![None, None, Some(-1), Some(-1), Some(3)]));
        assert!(!ascend(vec![Some(1), None]) && !ascend(vec![Some(2), Some(1)]));
    }

    #[test]
    fn pieces_are_compared_by_their_first_key() {
        let keys = |keys: Vec<Option<i64>>| Keys::new(Arc::new(Int64Array::from(keys))).unwrap();
        let mut pieces = [keys(vec![Some(7), Some(8)]), keys(vec![Some(-2), Some(9)]), keys(vec![None, Some(3)])];
        pieces.sort_by(Keys::by_firsts);
        let firsts = pieces.map(|piece| piece.array().slice(0, 1).as_primitive::<Int64Type>().iter().next().unwrap());
        assert_eq!(firsts, [None, Some(-2), Some(7)]);
    }

    #[test]
    fn a_union_has_every_key_once() {
        let keys = |keys: Vec<Option<i64>>| Keys::new(Arc::new(Int64Array::from(keys))).unwrap();
        let both = keys(vec![None, Some(1), Some(4)]).union(&keys(vec![Some(0), Some(1), Some(9)])).unwrap();
        assert_eq!(both.array().as_ref(), &Int64Array::from(vec![None, Some(0), Some(1), Some(4), Some(9)]));
    }

    fn places(keys: ArrayRef, asked: ArrayRef) -> Vec<Option<u32>> {
        let index = KeyIndex::new(&Keys::new(keys).unwrap()).unwrap();
        index.places(&asked).unwrap().into_iter().map(|place| Some(place).filter(|p| *p != NOBODY)).collect()
    }

    #[test]
    fn many_close_keys_are_found_too() {
        // Several pieces of the table, one of them without a key.
        let gap = |i: i64| if i < 30_000 { 3 * i } else { 3 * i + 2 * TABLE_PIECE as i64 };
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..60_000).map(|i| gap(i) - 77)));
        let asked: ArrayRef = Arc::new(Int64Array::from_iter_values(-100..400_000));
        let found = places(Arc::clone(&keys), Arc::clone(&asked));
        let keys = keys.as_primitive::<Int64Type>().values();
        for (key, place) in asked.as_primitive::<Int64Type>().values().iter().zip(found) {
            assert_eq!(place, keys.binary_search(key).ok().map(|place| place as u32), "{key}");
        }
    }

    #[test]
    fn every_key_is_found_where_it_stands_and_others_are_not() {
        let asked: ArrayRef =
            Arc::new(Int64Array::from(vec![Some(7), None, Some(-3), Some(8), Some(i64::MIN), Some(i64::MAX)]));
        let near: ArrayRef = Arc::new(Int64Array::from(vec![-3, 5, 7]));
        assert_eq!(places(near, Arc::clone(&asked)), [Some(2), None, Some(0), None, None, None]);
        let far: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(-3), Some(8), Some(i64::MAX)]));
        assert_eq!(places(far, asked), [None, None, Some(1), Some(2), Some(0), Some(3)]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let asked: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), None, Some("c"), Some("a")]));
        assert_eq!(places(texts, asked), [Some(1), None, None, Some(0)]);
        let nobody: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
        assert_eq!(places(nobody, Arc::new(Int64Array::from(vec![1]))), [None]);
    }
}
