//! The days between consecutive times of a customer, in whole microseconds until the end: exact in any order.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};

use super::accumulator::{Accumulator, Keeper, Kept, Rows, columns_of, integers};
use super::aggregate::Function;
use super::slots::{Groups, Output, Slots, column};
use crate::features::gap::Gap;
use crate::{Error, Result};

/// The gaps within each slot. Slots of a customer lie one after the other in time, so that the gap between them is that between
/// the last time of the one and the first of the other.
#[derive(Default)]
pub(super) struct Gaps {
    /// The times of rows, and their slots.
    times: Vec<(u32, i64)>,
    states: Kept<Gap>,
}

impl Accumulator for Gaps {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        collect(rows, &mut self.times);
        Ok(())
    }

    fn kept(&mut self) -> Option<&mut dyn Keeper> {
        Some(&mut self.states)
    }

    fn seal(&mut self, rows: usize, _slots: usize) {
        self.states.grow(rows);
        let mut times = std::mem::take(&mut self.times);
        times.sort_unstable();
        times.iter().for_each(|(slot, time)| self.states.states[*slot as usize].next(*time));
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        self.states.merged(slots, outputs, gaps, Gap::precede, |gaps, output| match output.function {
            Function::Gap(statistic) => Ok(gaps.column::<Float64Type>(|gap| statistic.of(gap))),
            _ => Err(not_gaps()),
        })
    }

    fn export(&self, groups: &Groups) -> Result<Vec<ArrayRef>> {
        let gaps = self.states.grouped(groups, gaps, Gap::precede)?;
        let number = |of: fn(&Gap) -> Option<i64>| column::<Int64Type, _>(&gaps, of);
        Ok(vec![
            number(|gap| Some(gap.times()?.0)),
            number(|gap| Some(gap.times()?.1)),
            number(|gap| Some(gap.count() as i64)),
            number(|gap| Some((gap.squares() >> 64) as i64)),
            number(|gap| Some(gap.squares() as i64)),
        ])
    }
}

fn gaps(states: &[ArrayRef]) -> Result<impl Iterator<Item = Gap> + '_> {
    let [firsts, lasts, counts, high, low] = columns_of(states)?;
    let times = integers(firsts)?.iter().zip(integers(lasts)?);
    let squares = integers(high)?.values().iter().zip(integers(low)?.values());
    Ok(times.zip(integers(counts)?.values()).zip(squares).map(|(((first, last), count), (high, low))| {
        let squares = (i128::from(*high) << 64) | i128::from(*low as u64);
        Gap::from_parts(first.zip(last), *count as u64, squares)
    }))
}

/// Gaps between times that the buckets do not follow, such as those of deliveries in windows of orders.
#[derive(Default)]
pub(super) struct LooseGaps {
    times: Vec<(u32, i64)>,
}

impl Accumulator for LooseGaps {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        collect(rows, &mut self.times);
        Ok(())
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let owners = slots.owners();
        let owned = |(slot, time): &(u32, i64)| {
            let (customer, bucket) = owners[*slot as usize]?;
            Some((customer, *time, bucket))
        };
        let mut times: Vec<(u32, i64, u32)> = self.times.iter().filter_map(owned).collect();
        times.sort_unstable();
        let columns = outputs.iter().map(|output| {
            let Function::LooseGap(statistic) = output.function else { return Err(not_gaps()) };
            let mut gaps = vec![Gap::default(); slots.customers];
            for (customer, time, _) in times.iter().filter(|(.., bucket)| output.window.contains(&(*bucket as usize))) {
                gaps[*customer as usize].next(*time);
            }
            Ok(column::<Float64Type, _>(&gaps, |gap| statistic.of(gap)))
        });
        columns.collect()
    }
}

fn collect(rows: &Rows<'_>, times: &mut Vec<(u32, i64)>) {
    let Some(array) = rows.values.first() else { return };
    let numbers = array.as_primitive::<Int64Type>().values();
    rows.each(|row, slot| times.push((slot as u32, numbers[row])));
}

fn not_gaps() -> Error {
    Error::bug("gaps are asked for something else")
}
