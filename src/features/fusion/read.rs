//! Rows on their way in: those of a scan, or states that stand in for them; where many days have none, these get some first.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{concat, partition, sort, take};
use arrow::datatypes::DataType;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::prelude::DataFrame;
use futures::try_join;
use rayon::prelude::*;
use tokio::sync::Mutex;

use super::keys::{KeyIndex, Keys};
use super::population::{self, Partitions};
use super::scatter::{Ranges, Scattered, Scattering};
use super::shard::Shard;
use super::source::Source;
use super::state::{Broken, Night, States, Target};
use super::stored::{Stored, StoredStates};
use super::written::Writing;
use crate::error::Class;
use crate::features::explain::Explainer;
use crate::lake::InSpans;
use crate::{Error, Result};

/// A scan gives so many batches of the session at once: a range of customers then has more rows in each.
const SCAN_BATCHES: usize = 4;

/// A source whose rows are there.
pub(super) struct Read {
    pub source: Source,
    pub rows: Scattered,
    pub targets: Vec<Target>,
    /// Written states that stand in for rows; `None` where nothing may.
    stored: Option<Vec<Stored>>,
}

/// Makes a scan of a plan, of the matrix at this place.
pub(in crate::features) type Scan<'a> = Box<dyn Fn(usize, LogicalPlan) -> Result<DataFrame> + Send + Sync + 'a>;

/// Reads sources.
pub(super) struct Reader<'a> {
    pub scan: &'a Scan<'a>,
    /// What stands in for rows, if anything may.
    pub states: Option<&'a Arc<States>>,
    /// What the files are called, by their places.
    pub names: &'a [&'a str],
    pub key_type: &'a DataType,
    pub runtime: Arc<RuntimeEnv>,
    /// The rows of a batch.
    pub batch: usize,
    /// Knows why what is read fails.
    pub explainer: &'a Explainer,
    /// A turn for each source that has states written or looked for again: all of them are put in force in one place.
    pub turns: Mutex<()>,
}

impl Reader<'_> {
    /// Whether nothing ever stands in for the rows of a source.
    pub(super) fn reads_all(&self, source: &Source) -> bool {
        self.states.is_none() || source.unsteady().is_some()
    }

    /// What stands in for the rows of a source; some blocks are known to be broken.
    pub(super) async fn night(&self, source: &Source, broken: &[Broken]) -> Result<Option<Night>> {
        let Some(states) = self.states else { return Ok(None) };
        let names = source.recipes().filter_map(|place| self.names.get(place));
        let names: Vec<String> = names.map(|name| (*name).to_owned()).collect();
        states.night(source, &names, self.key_type, broken, &self.runtime).await
    }

    /// The error of a source in the words of its files.
    pub(super) async fn explained(&self, matrix: usize, source: &Source, error: Error) -> Error {
        self.explainer.scan(matrix, &source.plan, |at| source.users(at), error).await
    }

    /// Reads the rows of a source, or those of the days that have no states. Where these are many, they get states first.
    pub(super) async fn read(
        &self,
        source: Source,
        mut night: Option<Night>,
        matrix: usize,
        how: &Scattering,
    ) -> Result<(Read, Option<Night>)> {
        let began = Instant::now();
        let (mut broken, mut written) = (Vec::new(), Vec::new());
        let read = loop {
            let (Some(states), Some(found)) = (self.states, &mut night) else {
                let streams = self.streams(source.plan.clone(), matrix).await?;
                break self.scatter(source, streams, how).await?;
            };
            let turn;
            let again = if found.is_slice {
                turn = self.turns.lock().await;
                self.catch_up(source.clone(), found, matrix, how, states, &mut written).await?
            } else {
                match self.beside_states(source.clone(), found, matrix, how).await? {
                    Ok(read) => break read,
                    Err(more) => {
                        turn = self.turns.lock().await;
                        more
                    }
                }
            };
            // What was broken before a slice was written is there again.
            if again.is_empty() {
                broken.clear();
            }
            for Broken { why, .. } in &again {
                states.note(format!("states of `{}` are computed again: {why}", found.group.table));
            }
            broken.extend(again);
            night = self.night(&source, &broken).await?;
            drop(turn);
        };
        let files = read.source.shares.len();
        tracing::debug!(files, seconds = began.elapsed().as_secs_f64(), "a source was read");
        Ok((read, night))
    }

    /// Writes the states of a slice and puts them in force, unless what they are made of is broken, which is returned; `written` has
    /// what the last slice wrote.
    async fn catch_up(
        &self,
        source: Source,
        slice: &mut Night,
        matrix: usize,
        how: &Scattering,
        states: &Arc<States>,
        written: &mut Vec<Target>,
    ) -> Result<Vec<Broken>> {
        match self.write_slice(source, slice, matrix, how, states).await {
            Ok(Ok(())) => {
                states.commit_slice().await;
                if *written == slice.targets {
                    states.give_up(&Error::bug("those that were written are not found again"));
                }
                written.clone_from(&slice.targets);
            }
            Ok(Err(broken)) => return Ok(broken),
            Err(error) if error.class() == Class::Bug => return Err(error),
            // Whatever is wrong with the rows shows when they are read for the matrix.
            Err(error) => states.give_up(&error),
        }
        Ok(Vec::new())
    }

    /// Reads the rows that no states stand in for, while states come and their keys are looked up; some of them may be broken.
    async fn beside_states(
        &self,
        mut source: Source,
        night: &mut Night,
        matrix: usize,
        how: &Scattering,
    ) -> Result<std::result::Result<Read, Vec<Broken>>> {
        source.refine(night.edges.iter().copied())?;
        let rows = async {
            let streams = match night.scan.clone() {
                Some(plan) => self.streams(plan, matrix).await?,
                None => Vec::new(),
            };
            self.scatter(source, streams, &Scattering { keep_strangers: true, ..how.clone() }).await
        };
        let (mut read, stored) = try_join!(rows, Stored::all(std::mem::take(&mut night.blocks), &how.index))?;
        read.targets.clone_from(&night.targets);
        Ok(stored.map(|stored| Read { stored: Some(stored), ..read }))
    }

    /// Reads the rows of a source.
    async fn scatter(&self, source: Source, streams: Vec<SendableRecordBatchStream>, how: &Scattering) -> Result<Read> {
        let buckets = source.has_time.then(|| Arc::new(source.buckets.clone()));
        let rows = Scattered::read(streams, &Scattering { buckets, ..how.clone() }).await?;
        Ok(Read { source, rows, targets: Vec::new(), stored: None })
    }

    async fn streams(&self, plan: LogicalPlan, matrix: usize) -> Result<Vec<SendableRecordBatchStream>> {
        let (mut scan, plan) = (self.scan)(matrix, plan)?.into_parts();
        let batch = SCAN_BATCHES * self.batch;
        *scan.config_mut() = scan.config().clone().with_batch_size(batch).with_extension(Arc::new(InSpans));
        Ok(DataFrame::new(scan, plan).execute_stream_partitioned().await?)
    }

    /// All rows of a source that nothing stands in for; `None` where memory has no room for them.
    pub(super) async fn at_once(&self, source: &Source, matrix: usize) -> Result<Option<Partitions>> {
        population::at_once(self.streams(source.plan.clone(), matrix).await?, &self.runtime).await
    }

    /// A source whose rows were read at once.
    pub(super) async fn scattered(&self, source: Source, rows: Partitions, how: &Scattering) -> Result<Read> {
        let streams = rows.into_iter().filter(|rows| !rows.is_empty()).map(|rows| {
            let schema = rows[0].schema();
            Ok(Box::pin(MemoryStream::try_new(rows, schema, None)?) as SendableRecordBatchStream)
        });
        self.scatter(source, streams.collect::<Result<_>>()?, how).await
    }

    /// Writes the states of some days down, and makes nothing else of them; those that they are made of may be broken.
    async fn write_slice(
        &self,
        source: Source,
        slice: &mut Night,
        matrix: usize,
        how: &Scattering,
        states: &Arc<States>,
    ) -> Result<std::result::Result<(), Vec<Broken>>> {
        let mut read = match self.beside_states(source, slice, matrix, how).await? {
            Ok(read) => [read],
            Err(broken) => return Ok(Err(broken)),
        };
        let (ranges, strangers) = settle(&mut read, how)?;
        let [read] = read;
        let Some(mut writing) = Writing::new(slice, states) else { return Ok(Ok(())) };
        let keys = how.keys.clone();
        let task = move || {
            // One after the other: what one range unpacks of its neighbours' states is then taken soon.
            let exported = (0..ranges.count()).par_bridge().map(|range| {
                let keys = keys_of(range, &ranges, &keys, strangers.as_ref());
                let (rows, written) = read.rows.of_range(range)?;
                let shard = Shard::new(&read.source, keys.len(), &rows, written)?;
                let Ok(shard) = shard else { return Err(Error::bug("states of a table with one row per customer")) };
                let exports = read.targets.iter().map(|target| shard.export(&target.buckets));
                Ok((range, keys, exports.collect::<Result<Vec<_>>>()?))
            });
            let mut exported = exported.collect::<Result<Vec<_>>>()?;
            exported.sort_unstable_by_key(|(range, ..)| *range);
            for (_, keys, exports) in exported {
                writing.add(keys.array(), exports)?;
            }
            writing.finish();
            Ok(Ok(()))
        };
        tokio::task::spawn_blocking(task).await.map_err(|e| Error::task("a writer of states", e))?
    }
}

/// Gives strangers a place, where states are written of them, and sorts them and written states in with the rows.
pub(super) fn settle(sources: &mut [Read], how: &Scattering) -> Result<(Ranges, Option<Keys>)> {
    let strangers = strangers(sources)?;
    let ranges = how.ranges.and_strangers(strangers.as_ref().map_or(0, Keys::len));
    let how = Scattering { ranges, ..how.clone() };
    let strange = strangers.as_ref().map(KeyIndex::new).transpose()?.map(Arc::new);
    for read in sources {
        let Some(stored) = read.stored.take() else { continue };
        if let Some(strange) = &strange {
            let buckets = read.source.has_time.then(|| Arc::new(read.source.buckets.clone()));
            read.rows.settle(&Scattering { index: Arc::clone(strange), buckets, ..how.clone() })?;
        }
        read.rows.add_states(StoredStates::new(stored, &how, strange.as_deref())?);
    }
    Ok((ranges, strangers))
}

/// The keys of a range.
pub(super) fn keys_of(range: usize, ranges: &Ranges, keys: &Keys, strangers: Option<&Keys>) -> Keys {
    let (from, length) = ranges.part(range);
    match strangers {
        Some(strangers) if range >= ranges.of_population() => strangers.slice(from, length),
        _ => keys.slice(from, length),
    }
}

/// The keys that rows or states have and the population has not, where they have to be kept.
fn strangers(sources: &[Read]) -> Result<Option<Keys>> {
    let mut found: Vec<ArrayRef> = sources.iter().flat_map(|read| read.rows.strangers()).cloned().collect();
    let stored = sources.iter().flat_map(|read| &read.stored).flatten();
    for block in stored.filter(|block| block.has_strangers) {
        found.extend(block.strangers()?);
    }
    if found.is_empty() {
        return Ok(None);
    }
    let arrays: Vec<&dyn Array> = found.iter().map(AsRef::as_ref).collect();
    let sorted = sort(&concat(&arrays)?, None)?;
    let firsts = partition(std::slice::from_ref(&sorted))?.ranges();
    let firsts = UInt32Array::from_iter_values(firsts.iter().map(|same| same.start as u32));
    Keys::new(take(&sorted, &firsts, None)?).map(Some)
}
