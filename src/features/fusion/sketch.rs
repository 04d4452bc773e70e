//! Sketches of many values: their size has a bound, they are merged, and neither the order of rows nor that of merges shows.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::row::{RowConverter, SortField};
use datasketches::hll::{HllSketch, HllType, HllUnion};
use sketches_ddsketch::{Config, DDSketch};

use super::aggregate::Function;
use super::quantile::Quantile;
use crate::{Error, Result};

/// 2^14 registers, as DataFusion's `approx_distinct` has them: a standard error of 0.8 %.
const LG_REGISTERS: u8 = 14;

/// What stands for many values.
pub(super) trait Sketch: Sized + Send + Sync {
    /// A sketch of nothing.
    fn new() -> Result<Self>;

    /// Adds values, none of which is NULL.
    fn add(&mut self, values: &ArrayRef) -> Result<()>;

    /// Adds those of another sketch.
    fn merge(&mut self, other: &Self) -> Result<()>;

    /// The answer to an aggregate.
    fn answer(&self, function: &Function) -> Result<Option<f64>>;

    /// The bytes of a written state, of which there are some.
    fn write(&self) -> Vec<u8>;

    fn read(bytes: &[u8]) -> Result<Self>;
}

/// How many different values there are: HyperLogLog.
pub(super) struct Registers(HllUnion);

fn of_values(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::bug("a sketch of different values cannot be used").because(error)
}

impl Sketch for Registers {
    fn new() -> Result<Self> {
        Ok(Registers(HllUnion::new(LG_REGISTERS).map_err(of_values)?))
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        if let Some(numbers) = values.as_primitive_opt::<Int64Type>() {
            numbers.values().iter().for_each(|number| self.0.update_value(number));
            return Ok(());
        }
        let plain = match values.data_type() {
            DataType::Dictionary(_, plain) => cast(values, plain)?,
            _ => values.clone(),
        };
        let converter = RowConverter::new(vec![SortField::new(plain.data_type().clone())])?;
        converter.convert_columns(&[plain])?.iter().for_each(|row| self.0.update_value(row.data()));
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        self.0.update(&other.0.to_sketch(HllType::Hll8));
        Ok(())
    }

    /// The usual estimate would tell in which order values came.
    fn answer(&self, _function: &Function) -> Result<Option<f64>> {
        Ok(Some(self.0.composite_estimate()))
    }

    fn write(&self) -> Vec<u8> {
        self.0.to_sketch(HllType::Hll8).serialize()
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let mut read = Registers::new()?;
        read.0.update(&HllSketch::deserialize(bytes).map_err(of_values)?);
        Ok(read)
    }
}

/// How many numbers lie about where: DDSketch, whose quantiles are within 1 % of a number that is one. Below 1e-9 a number counts as 0,
/// and where numbers span more than 17 powers of ten, the least ones as the least that is told apart. A t-digest or a KLL sketch would
/// show in which order it was merged.
pub(super) struct Spots {
    sketch: DDSketch,
    /// Whether a number was NaN or infinite: then there is no quantile.
    not_finite: bool,
}

fn of_numbers(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::bug("a sketch of numbers cannot be used").because(error)
}

impl Sketch for Spots {
    fn new() -> Result<Self> {
        // What is read has the crate's own configuration.
        Ok(Spots { sketch: DDSketch::new(Config::defaults()), not_finite: false })
    }

    /// Infinities and NaN lie nowhere.
    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let doubles = cast(values, &DataType::Float64)?;
        for x in doubles.as_primitive::<Float64Type>().values() {
            match x.is_finite() {
                true => self.sketch.add(*x),
                false => self.not_finite = true,
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        self.not_finite |= other.not_finite;
        self.sketch.merge(&other.sketch).map_err(of_numbers)
    }

    fn answer(&self, function: &Function) -> Result<Option<f64>> {
        let share = match function.quantile() {
            Some(Quantile::At(share)) => f64::from_bits(share),
            _ => 0.5,
        };
        match self.not_finite {
            true => Ok(Some(f64::NAN)),
            false => self.sketch.quantile(share).map_err(of_numbers),
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = self.sketch.to_java_bytes();
        bytes.push(u8::from(self.not_finite));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let (not_finite, bytes) = match bytes {
            [bytes @ .., last @ (0 | 1)] => (*last == 1, bytes),
            _ => return Err(Error::infra("a sketch of numbers has another form")),
        };
        let sketch = DDSketch::from_java_bytes(bytes).map_err(of_numbers)?;
        Ok(Spots { sketch, not_finite })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    /// The answer about pieces, added or merged in turns, and the bytes that come back.
    fn of<S: Sketch>(pieces: &[ArrayRef], function: &Function) -> Option<f64> {
        let mut all = S::new().unwrap();
        for (i, piece) in pieces.iter().enumerate() {
            if i % 2 == 0 {
                all.add(piece).unwrap();
            } else {
                let mut other = S::new().unwrap();
                other.add(piece).unwrap();
                all.merge(&S::read(&other.write()).unwrap()).unwrap();
            }
        }
        let again = S::read(&all.write()).unwrap();
        let bits = |sketch: &S| sketch.answer(function).unwrap().map(f64::to_bits);
        assert_eq!(bits(&again), bits(&all));
        all.answer(function).unwrap()
    }

    proptest! {
        #[test]
        fn neither_order_nor_grouping_shows(
            numbers in prop::collection::vec(-1_000_000i64..1_000_000, 1..20_000), piece in 1usize..5_000, share in 0.0..1.0f64
        ) {
            let function = Function::AboutQuantile(Quantile::at(share));
            let pieces = |numbers: &[i64], length: usize| -> Vec<ArrayRef> {
                numbers.chunks(length).map(|some| Arc::new(Int64Array::from(some.to_vec())) as ArrayRef).collect()
            };
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            let (one, other) = (pieces(&numbers, numbers.len()), pieces(&sorted, piece));
            prop_assert_eq!(of::<Spots>(&one, &function), of::<Spots>(&other, &function));
            prop_assert_eq!(of::<Registers>(&one, &Function::AboutDistinct), of::<Registers>(&other, &Function::AboutDistinct));
            // The number of that rank is within 1 %.
            let wanted = sorted[(share * (sorted.len() - 1) as f64) as usize] as f64;
            let found = of::<Spots>(&one, &function).unwrap();
            prop_assert!((found - wanted).abs() <= 0.0101 * wanted.abs(), "{} for {}", found, wanted);
            sorted.dedup();
            let (found, wanted) = (of::<Registers>(&one, &Function::AboutDistinct).unwrap(), sorted.len() as f64);
            prop_assert!((found - wanted).abs() <= 0.05 * wanted, "{} for {}", found, wanted);
        }
    }

    proptest! {
        #[test]
        fn numbers_of_any_size_show_no_order(
            numbers in prop::collection::vec((-1.0f64..1.0, -300i32..300), 1..600), piece in 1usize..200, share in 0.0..1.0f64
        ) {
            let function = Function::AboutQuantile(Quantile::at(share));
            let mut numbers: Vec<f64> = numbers.into_iter().map(|(x, power)| x * 10f64.powi(power)).collect();
            let pieces = |numbers: &[f64], length: usize| -> Vec<ArrayRef> {
                numbers.chunks(length).map(|some| Arc::new(Float64Array::from(some.to_vec())) as ArrayRef).collect()
            };
            let one = of::<Spots>(&pieces(&numbers, numbers.len()), &function);
            prop_assert_eq!(of::<Spots>(&pieces(&numbers, piece), &function), one);
            numbers.sort_unstable_by(f64::total_cmp);
            prop_assert_eq!(of::<Spots>(&pieces(&numbers, piece), &function), one);
            numbers.reverse();
            prop_assert_eq!(of::<Spots>(&pieces(&numbers, piece), &function), one);
        }
    }

    #[test]
    fn texts_are_counted_and_numbers_that_are_none_leave_no_quantile() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..300).map(|i| format!("sku {}", i % 100))));
        let found = of::<Registers>(&[texts], &Function::AboutDistinct).unwrap();
        assert!((found - 100.0).abs() < 2.0, "{found}");
        let doubles: ArrayRef =
            Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, 0.0, f64::NEG_INFINITY, 7.0]));
        let median = Function::AboutQuantile(Quantile::Median);
        for broken in [Arc::clone(&doubles), doubles.slice(0, 1), doubles.slice(2, 2)] {
            assert!(of::<Spots>(&[broken], &median).is_some_and(f64::is_nan));
        }
        assert_eq!(of::<Spots>(&[doubles.slice(4, 1), doubles.slice(4, 1)], &median).map(f64::round), Some(7.0));
        assert!(Registers::read(b"nothing").is_err() && Spots::read(b"nothing").is_err());
    }
}
