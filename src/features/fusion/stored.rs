//! Written states of past days by ranges of customers, unpacked as the ranges come.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use rayon::prelude::*;
use tokio::sync::oneshot;

use super::keys::{KeyIndex, NOBODY};
use super::scatter::{Ranges, Scattering};
use super::state::{Asking, Broken, Column, Coming, StoredBlock};
use crate::{Error, Result, failpoint};

/// Written states of one block of days.
pub(super) struct Stored {
    bucket: usize,
    block: StoredBlock,
    /// The places of the keys among the population, then in their ranges.
    places: Vec<u32>,
    /// Whether some keys are those of strangers.
    pub has_strangers: bool,
}

impl Stored {
    /// All blocks that come; those that are broken, if any are.
    pub async fn all(
        mut coming: Coming,
        index: &Arc<KeyIndex>,
    ) -> Result<std::result::Result<Vec<Stored>, Vec<Broken>>> {
        let (mut placing, mut broken) = (Vec::new(), Vec::new());
        while let Some((bucket, opened)) = coming.next().await? {
            match opened {
                Ok(block) => {
                    let (placed, found) = oneshot::channel();
                    let index = Arc::clone(index);
                    let place = move || {
                        failpoint::reach("state.find_keys");
                        Stored::new(bucket, block, &index)
                    };
                    // A panic would end the program here.
                    rayon::spawn(move || {
                        let stored = catch_unwind(AssertUnwindSafe(place));
                        let stored =
                            stored.unwrap_or_else(|payload| Err(Error::panicked("a search for keys", &*payload)));
                        let _ = placed.send(stored);
                    });
                    placing.push(found);
                }
                Err(found) => broken.push(found),
            }
        }
        if !broken.is_empty() {
            return Ok(Err(broken));
        }
        let mut stored = Vec::new();
        for found in placing {
            stored.push(found.await.map_err(|e| Error::bug("a search for keys has no end").because(e))??);
        }
        stored.sort_by_key(|stored| stored.bucket);
        Ok(Ok(stored))
    }

    /// Finds the keys of a block among the population's.
    pub fn new(bucket: usize, block: StoredBlock, index: &KeyIndex) -> Result<Self> {
        let mut places = Vec::with_capacity(block.rows());
        block.each_keys(|_, keys| index.add_places(keys, &mut places))?;
        let has_strangers = places.contains(&NOBODY);
        Ok(Stored { bucket, block, places, has_strangers })
    }

    /// The keys that the population does not have.
    pub fn strangers(&self) -> Result<Vec<ArrayRef>> {
        let mut found = Vec::new();
        self.block.each_keys(|first, keys| {
            let places = self.places[first..first + keys.len()].iter().enumerate();
            let rows = places.filter(|(_, place)| **place == NOBODY).map(|(row, _)| row as u32);
            found.push(take(keys, &rows.collect::<UInt32Array>(), None)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Gives strangers their places, and says which rows are of which range.
    fn settle(&mut self, how: &Scattering, strangers: Option<&KeyIndex>) -> Result<Vec<(usize, Range<usize>)>> {
        if let Some(strangers) = strangers.filter(|_| self.has_strangers) {
            let first = how.ranges.first_stranger() as u32;
            let Stored { block, places, .. } = self;
            block.each_keys(|row, keys| {
                for (place, stranger) in places[row..].iter_mut().zip(strangers.places(keys)?) {
                    if *place == NOBODY && stranger != NOBODY {
                        *place = first + stranger;
                    }
                }
                Ok(())
            })?;
        }
        let pieces = pieces_of(&mut self.places, &how.ranges);
        for who in [Asking::Population, Asking::Strangers] {
            let own = pieces.iter().filter(|(range, _)| asking(*range, how.ranges.of_population()) == who);
            self.block.ask(who, own.map(|(_, rows)| rows.clone()).collect());
        }
        Ok(pieces)
    }
}

/// Which rows are of which range, by the places of customers, which become those in their ranges.
fn pieces_of(places: &mut [u32], ranges: &Ranges) -> Vec<(usize, Range<usize>)> {
    let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
    let mut begin = 0;
    // Keys ascend, and so do places where nobody is a stranger.
    if places.is_sorted() && places.last().is_some_and(|last| *last != NOBODY) {
        while let Some(first) = places.get(begin) {
            let range = ranges.place(*first).0;
            let rows = begin..begin + places[begin..].partition_point(|place| ranges.place(*place).0 == range);
            begin = rows.end;
            pieces.push((range, rows));
        }
        places.iter_mut().for_each(|place| *place = ranges.place(*place).1);
        return pieces;
    }
    // Rows end where the next range begins.
    for (row, place) in places.iter_mut().enumerate().filter(|(_, place)| **place != NOBODY) {
        let (range, local) = ranges.place(*place);
        match pieces.last_mut() {
            Some((last, _)) if *last == range => {}
            last => {
                if let Some((_, rows)) = last {
                    rows.end = row;
                    begin = row;
                }
                pieces.push((range, begin..row));
            }
        }
        *place = local;
    }
    if let Some((_, rows)) = pieces.last_mut() {
        rows.end = places.len();
    }
    pieces
}

/// Whose range it is.
fn asking(range: usize, of_population: usize) -> Asking {
    if range < of_population { Asking::Population } else { Asking::Strangers }
}

/// The written states of one source.
#[derive(Default)]
pub(super) struct StoredStates {
    blocks: Vec<Stored>,
    /// For every range the rows of blocks, block by block.
    ranges: Vec<Vec<(usize, Range<usize>)>>,
    /// How many ranges the population has.
    of_population: usize,
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
    pub fn new(mut blocks: Vec<Stored>, how: &Scattering, strangers: Option<&KeyIndex>) -> Result<Self> {
        let memory = MemoryConsumer::new("states of past days").register(&how.runtime.memory_pool);
        for Stored { block, .. } in &mut blocks {
            if memory.try_grow(block.memory()).is_err() {
                block.spill(&how.runtime.disk_manager)?;
            }
        }
        let pieces = blocks.par_iter_mut().map(|block| block.settle(how, strangers)).collect::<Result<Vec<_>>>()?;
        let mut ranges = vec![Vec::new(); how.ranges.count()];
        for (block, pieces) in pieces.into_iter().enumerate() {
            pieces.into_iter().for_each(|(range, rows)| ranges[range].push((block, rows)));
        }
        Ok(StoredStates { blocks, ranges, of_population: how.ranges.of_population(), _memory: Some(memory) })
    }

    /// The states of a range, which is asked for once.
    pub fn of_range(&self, range: usize) -> Result<Vec<StateRows>> {
        let who = asking(range, self.of_population);
        let pieces = self.ranges.get(range).map_or(&[][..], Vec::as_slice);
        // What another thread is unpacking is taken last, so as not to go through all blocks in its wake.
        let mut taken = Vec::with_capacity(pieces.len());
        for (block, rows) in pieces {
            taken.push(self.blocks[*block].block.try_take(who, rows.clone())?);
        }
        let mut found = Vec::new();
        for ((block, rows), taken) in pieces.iter().zip(taken) {
            let Stored { bucket, block, places, .. } = &self.blocks[*block];
            let taken = match taken {
                Some(taken) => taken,
                None => block.take(who, rows.clone())?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_end_where_the_next_range_begins_and_strangers_may_lie_between_them() {
        let ranges = Ranges::new(20, 8).and_strangers(3);
        assert_eq!((ranges.of_population(), ranges.first_stranger()), (3, 24));
        let mut places = vec![0, 3, 7, 8, 19];
        assert_eq!(pieces_of(&mut places, &ranges), [(0, 0..3), (1, 3..4), (2, 4..5)]);
        assert_eq!(places, [0, 3, 7, 0, 3]);
        // Rows of nobody belong to the piece before them, the first ones to the first.
        let mut places = vec![NOBODY, 1, NOBODY, 24, 25, 9, NOBODY];
        assert_eq!(pieces_of(&mut places, &ranges), [(0, 0..3), (3, 3..5), (1, 5..7)]);
        assert_eq!(places, [NOBODY, 1, NOBODY, 0, 1, 1, NOBODY]);
        assert!(pieces_of(&mut [], &ranges).is_empty() && pieces_of(&mut [NOBODY], &ranges).is_empty());
    }
}
