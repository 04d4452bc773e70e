//! Everything that a pass reads, as much of it at once as there is memory for.

use std::sync::Arc;
use std::time::Instant;

use datafusion::prelude::DataFrame;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream, try_join};

use super::keys::{KeyIndex, Keys};
use super::population;
use super::read::{Read, Reader};
use super::scatter::{Ranges, Scattered, Scattering};
use super::source::Source;
use super::state::Night;
use crate::Result;

/// The keys of every matrix, and every source with its rows.
pub(super) struct Inputs {
    pub populations: Vec<Keys>,
    pub how: Scattering,
    pub sources: Vec<Read>,
    pub nights: Vec<Option<Night>>,
}

/// A source, what stands in for some of its rows, and the others.
type Found = (Source, Option<Night>, Scattered);

impl Inputs {
    /// Reads the sources for matrices of these populations; `matrix_of` has the matrix of each file.
    pub async fn read(
        reader: &Reader<'_>,
        sources: Vec<Source>,
        populations: &[DataFrame],
        matrix_of: &[usize],
    ) -> Result<Inputs> {
        let before = Before { reader, sources: &sources, populations, matrix_of };
        let states = try_join_all(sources.iter().map(|source| reader.night(source)));
        let ((populations, how, early), nights) = try_join!(before.read(), states)?;
        // States leave few rows to read. Where there are none yet, a source alone takes the memory that there is.
        let few = |(night, early): (&Option<Night>, &Option<Found>)| {
            early.is_some() || night.as_ref().is_some_and(|night| !night.is_slice)
        };
        let at_once = if nights.iter().zip(&early).all(few) { sources.len().max(1) } else { 1 };
        let rest = sources.iter().zip(nights).zip(early).map(|((source, night), early)| {
            let how = &how;
            async move {
                match early {
                    Some(found) => Ok(found),
                    None => reader.read(source.clone(), night, matrix_of[source.newest], how).await,
                }
            }
        });
        let found: Vec<Found> = stream::iter(rest).buffered(at_once).try_collect().await?;
        let (mut sources, mut nights) = (Vec::new(), Vec::new());
        for (source, night, rows) in found {
            sources.push(Read { source, rows, targets: night.as_ref().map_or(Vec::new(), |n| n.targets.clone()) });
            nights.push(night);
        }
        Ok(Inputs { populations, how, sources, nights })
    }
}

/// What is read while states come: the populations, and what no states stand in for.
struct Before<'a> {
    reader: &'a Reader<'a>,
    sources: &'a [Source],
    populations: &'a [DataFrame],
    matrix_of: &'a [usize],
}

impl Before<'_> {
    async fn read(&self) -> Result<(Vec<Keys>, Scattering, Vec<Option<Found>>)> {
        let began = Instant::now();
        let Before { reader, sources, .. } = self;
        let entity = sources.iter().position(|source| match self.populations {
            [one] => reader.reads_all(source) && source.has_keys_of(one.logical_plan()),
            _ => false,
        });
        let matrix = |source: &Source| self.matrix_of[source.newest];
        let mut rows = match entity.map(|at| &sources[at]) {
            Some(source) => reader.at_once(source, matrix(source)).await?,
            None => None,
        };
        let mut populations = Vec::new();
        for own in self.populations {
            populations.push(match &rows {
                Some(rows) => population::keys_of(rows, reader.key_type)?,
                None => population::keys(own.clone(), reader.key_type).await?,
            });
        }
        let keys = population::union(&populations)?;
        let how = Scattering {
            index: Arc::new(KeyIndex::new(&keys)?),
            ranges: Ranges::new(keys.len(), 2 * reader.batch),
            keys,
            buckets: None,
            runtime: Arc::clone(&reader.runtime),
            keep_strangers: false,
        };
        tracing::debug!(seconds = began.elapsed().as_secs_f64(), "populations were read");
        let mut early = Vec::new();
        for (at, source) in sources.iter().enumerate() {
            early.push(match rows.take_if(|_| entity == Some(at)) {
                Some(rows) => Some((source.clone(), None, reader.scattered(source, rows, &how).await?)),
                None if reader.reads_all(source) => {
                    Some(reader.read(source.clone(), None, matrix(source), &how).await?)
                }
                None => None,
            });
        }
        Ok((populations, how, early))
    }
}
