//! The days between consecutive times of a customer, in whole microseconds until the end: exact in any order.

use std::ops::Range;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};

use super::accumulator::{Accumulator, Rows, Slots, column};
use crate::Result;
use crate::features::gap::{Gap, Statistic};

/// The times of each slot.
pub(super) struct Gaps {
    statistic: Statistic,
    times: Vec<(u32, i64)>,
}

impl Gaps {
    pub fn new(statistic: Statistic) -> Self {
        Gaps { statistic, times: Vec::new() }
    }
}

impl Accumulator for Gaps {
    fn add(&mut self, rows: &Rows<'_>, _slots: usize) -> Result<()> {
        let Some(array) = rows.values.first() else { return Ok(()) };
        let numbers = array.as_primitive::<Int64Type>().values();
        let times = &mut self.times;
        rows.each(|row, slot| times.push((slot as u32, numbers[row])));
        Ok(())
    }

    fn finish(&mut self, slots: &Slots, windows: &[Range<usize>]) -> Result<Vec<ArrayRef>> {
        let owners = slots.owners();
        let owner = |(slot, time): (u32, i64)| {
            let (customer, bucket) = owners[slot as usize];
            (customer, time, bucket)
        };
        let mut times: Vec<(u32, i64, u32)> = std::mem::take(&mut self.times).into_iter().map(owner).collect();
        times.sort_unstable();
        let columns = windows.iter().map(|window| {
            let mut gaps = vec![Gap::default(); slots.customers];
            for (customer, time, _) in times.iter().filter(|(.., bucket)| window.contains(&(*bucket as usize))) {
                gaps[*customer as usize].next(*time);
            }
            Ok(column::<Float64Type, _>(&gaps, |gap| self.statistic.of(gap)))
        });
        columns.collect()
    }
}
