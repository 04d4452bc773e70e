//! The one row of a customer in a table that has one row per customer.

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::interleave;

use super::accumulator::{Accumulator, Rows, of_type};
use super::slots::{Output, Slots};
use crate::Result;

/// Where the row of a slot lies: in which array, and where in it.
type Place = Option<(u32, u32)>;

/// A value of the row of each slot.
#[derive(Default)]
pub(super) struct Only {
    arrays: Vec<ArrayRef>,
    states: Vec<Place>,
    repeated: Option<u32>,
}

impl Accumulator for Only {
    fn add(&mut self, rows: &Rows<'_>, slots: usize) -> Result<()> {
        self.states.resize(slots, None);
        let array = self.arrays.len() as u32;
        self.arrays.extend(rows.sliced().into_iter().next());
        let (states, repeated) = (&mut self.states, &mut self.repeated);
        rows.of_filter().each(|row, slot| {
            if states[slot].replace((array, (row - rows.from) as u32)).is_some() {
                repeated.get_or_insert(slot as u32);
            }
        });
        Ok(())
    }

    fn repeated(&self) -> Option<u32> {
        self.repeated
    }

    fn seal(&mut self, _rows: usize, slots: usize) {
        self.states.resize(slots, None);
    }

    fn finish(&self, slots: &Slots, outputs: &[&Output]) -> Result<Vec<ArrayRef>> {
        let Some(first) = self.arrays.first() else {
            return Ok(outputs.iter().map(|output| new_null_array(&output.data_type, slots.customers)).collect());
        };
        let null = new_null_array(first.data_type(), 1);
        let sources: Vec<&dyn Array> =
            std::iter::once(null.as_ref()).chain(self.arrays.iter().map(AsRef::as_ref)).collect();
        let put = |sum: &mut Place, state: &Place| *sum = state.or(*sum);
        slots.merged(outputs, &self.states, put, |sums, output| {
            let place = |place: &Place| place.map_or((0, 0), |(array, row)| (array as usize + 1, row as usize));
            of_type(&interleave(&sources, &sums.values_of_one(place))?, &output.data_type)
        })
    }
}
