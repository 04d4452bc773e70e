//! Whole numbers of written states in as few bytes as they fit into: what a night holds in memory is mostly these.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, UInt8Type, UInt16Type};

use crate::{Error, Result};

/// The same numbers: counts in one or two bytes, zeros in none.
pub(super) fn narrow(array: ArrayRef) -> Result<ArrayRef> {
    if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
        let (least, most) = numbers.values().iter().fold((0, 0), |(a, b), x| (a.min(*x), b.max(*x)));
        let narrower = match (least, most) {
            (0.., ..=0xff) => DataType::UInt8,
            (0.., ..=0xffff) => DataType::UInt16,
            (-0x8000_0000.., ..=0x7fff_ffff) => DataType::Int32,
            _ => return Ok(array),
        };
        return Ok(cast(&array, &narrower)?);
    }
    match array.as_primitive_opt::<Float64Type>() {
        Some(numbers) if numbers.null_count() == 0 && numbers.values().iter().all(|x| x.to_bits() == 0) => {
            Ok(zeros(numbers.len()))
        }
        _ => Ok(array),
    }
}

/// Zeros, all in one place.
fn zeros(count: usize) -> ArrayRef {
    const MOST: usize = 16 * 1024;
    static ZEROS: OnceLock<Buffer> = OnceLock::new();
    match count {
        0..=MOST => {
            let zeros = ZEROS.get_or_init(|| Buffer::from_vec(vec![0f64; MOST])).clone();
            Arc::new(Float64Array::new(ScalarBuffer::new(zeros, 0, count), None))
        }
        _ => Arc::new(Float64Array::from(vec![0f64; count])),
    }
}

/// Whole numbers of any width.
#[derive(Clone)]
pub(super) enum Whole<'a> {
    Bytes(std::slice::Iter<'a, u8>),
    Shorts(std::slice::Iter<'a, u16>),
    Ints(std::slice::Iter<'a, i32>),
    Longs(std::slice::Iter<'a, i64>),
}

impl<'a> Whole<'a> {
    /// The numbers of an array, whatever stands where it is NULL.
    pub fn of(array: &'a ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::UInt8 => Whole::Bytes(array.as_primitive::<UInt8Type>().values().iter()),
            DataType::UInt16 => Whole::Shorts(array.as_primitive::<UInt16Type>().values().iter()),
            DataType::Int32 => Whole::Ints(array.as_primitive::<Int32Type>().values().iter()),
            DataType::Int64 => Whole::Longs(array.as_primitive::<Int64Type>().values().iter()),
            other => return Err(Error::infra(format!("a state has `{other}` in the place of whole numbers"))),
        })
    }

    /// The numbers of an array, `None` where it is NULL.
    pub fn optional(array: &'a ArrayRef) -> Result<impl Iterator<Item = Option<i64>> + 'a> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let there = move |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
        Ok(Self::of(array)?.enumerate().map(move |(row, number)| there(row).then_some(number)))
    }
}

impl Iterator for Whole<'_> {
    type Item = i64;

    #[inline]
    fn next(&mut self) -> Option<i64> {
        match self {
            Whole::Bytes(numbers) => numbers.next().map(|x| i64::from(*x)),
            Whole::Shorts(numbers) => numbers.next().map(|x| i64::from(*x)),
            Whole::Ints(numbers) => numbers.next().map(|x| i64::from(*x)),
            Whole::Longs(numbers) => numbers.next().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn narrow_numbers_are_the_same_numbers() {
        for (most, width) in [(7i64, 1), (300, 2), (70_000, 4), (1 << 40, 8), (-5, 4), (i64::MIN, 8)] {
            let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), None, Some(most)]));
            let narrow = narrow(Arc::clone(&numbers)).unwrap();
            assert_eq!(narrow.data_type().primitive_width(), Some(width), "{most}");
            assert_eq!(Whole::optional(&narrow).unwrap().collect::<Vec<_>>(), [Some(0), None, Some(most)]);
        }
        let zeros: ArrayRef = Arc::new(Float64Array::from(vec![0.0; 5]));
        assert_eq!(&narrow(Arc::clone(&zeros)).unwrap(), &zeros);
        let negative: ArrayRef = Arc::new(Float64Array::from(vec![-0.0; 5]));
        assert!(narrow(Arc::clone(&negative)).unwrap().as_primitive::<Float64Type>().value(0).is_sign_negative());
    }
}
