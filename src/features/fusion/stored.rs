//! Written states of past days by ranges of customers, unpacked as the ranges come.

use std::ops::Range;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use super::keys::{KeyIndex, NOBODY};
use super::scatter::Scattering;
use super::state::{Column, StoredBlock};
use crate::Result;

/// Written states of one block of days.
pub(super) struct Stored {
    pub bucket: usize,
    pub block: StoredBlock,
    /// The places of the keys among the population.
    pub places: Vec<u32>,
}

/// The written states of one source.
#[derive(Default)]
pub(super) struct StoredStates {
    /// The places are those in the ranges.
    blocks: Vec<Stored>,
    /// For every range the rows of blocks, block by block.
    ranges: Vec<Vec<(usize, Range<usize>)>>,
    /// Held until the states are gone.
    _memory: Option<MemoryReservation>,
}

/// Written states of neighbouring customers in one bucket.
pub(super) struct StateRows {
    pub bucket: usize,
    /// Their places in the range; [`NOBODY`] for states that nobody asks for.
    pub customers: Vec<u32>,
    pub columns: Vec<Column>,
}

impl StoredStates {
    /// Finds the ranges of blocks; `strangers` has the place of those that `how` does not know. What memory has no room for goes
    /// to disk.
    pub fn new(blocks: Vec<Stored>, how: &Scattering, strangers: Option<&KeyIndex>) -> Result<Self> {
        let memory = MemoryConsumer::new("states of past days").register(&how.runtime.memory_pool);
        let mut states = StoredStates { blocks, ranges: vec![Vec::new(); how.ranges.count()], _memory: None };
        for (at, Stored { block, places, .. }) in states.blocks.iter_mut().enumerate() {
            if memory.try_grow(block.memory()).is_err() {
                block.spill(&how.runtime.disk_manager)?;
            }
            if let Some(strangers) = strangers.filter(|_| places.contains(&NOBODY)) {
                let first = how.ranges.first_stranger() as u32;
                for (place, stranger) in places.iter_mut().zip(strangers.places(block.keys())?) {
                    if *place == NOBODY && stranger != NOBODY {
                        *place = first + stranger;
                    }
                }
            }
            // Keys ascend, and so do places, mostly: rows end where the next range begins.
            let mut put = |range: Option<usize>, rows: Range<usize>| {
                if let Some(own) = range.and_then(|range| states.ranges.get_mut(range)) {
                    own.push((at, rows));
                }
            };
            let (mut begin, mut current) = (0, None);
            for (row, place) in places.iter_mut().enumerate().filter(|(_, place)| **place != NOBODY) {
                let (range, local) = how.ranges.place(*place);
                if current.is_some_and(|current| current != range) {
                    put(current, begin..row);
                    begin = row;
                }
                current = Some(range);
                *place = local;
            }
            put(current, begin..places.len());
        }
        Ok(StoredStates { _memory: Some(memory), ..states })
    }

    /// The states of a range, which is asked for once.
    pub fn of_range(&self, range: usize) -> Result<Vec<StateRows>> {
        let pieces = self.ranges.get(range).map_or(&[][..], Vec::as_slice);
        // What another thread is unpacking is taken last, so as not to go through all blocks in its wake.
        let mut taken = Vec::with_capacity(pieces.len());
        for (block, rows) in pieces {
            taken.push(self.blocks[*block].block.try_take(rows.clone())?);
        }
        let mut found = Vec::new();
        for ((block, rows), taken) in pieces.iter().zip(taken) {
            let Stored { bucket, block, places } = &self.blocks[*block];
            let taken = match taken {
                Some(taken) => taken,
                None => block.take(rows.clone())?,
            };
            let mut customers = &places[rows.clone()];
            for columns in taken {
                let (own, rest) = customers.split_at(columns.first().map_or(0, |column| column.array.len()));
                customers = rest;
                found.push(StateRows { bucket: *bucket, customers: own.to_vec(), columns });
            }
        }
        Ok(found)
    }
}
