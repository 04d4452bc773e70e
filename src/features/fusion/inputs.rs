//! Everything that a pass reads, as much of it at once as there is memory for.

use std::sync::Arc;
use std::time::Instant;

use datafusion::prelude::DataFrame;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream, try_join};

use super::keys::{KeyIndex, Keys};
use super::population::{self, Partitions};
use super::read::{Read, Reader};
use super::scatter::{Ranges, Scattering};
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

impl Inputs {
    /// Reads the sources for matrices of these populations; `matrix_of` has the matrix of each file.
    pub async fn read(
        reader: &Reader<'_>,
        sources: Vec<Source>,
        populations: &[DataFrame],
        matrix_of: &[usize],
    ) -> Result<Inputs> {
        let before = Before { reader, sources: &sources, populations, matrix_of };
        let states = try_join_all(sources.iter().map(|source| reader.night(source, &[])));
        let ((populations, how, mut entity), nights) = try_join!(before.read(), states)?;
        // States leave few rows to read. Where there are none yet, a source alone takes the memory that there is.
        let few = |(source, night): (&Source, &Option<Night>)| {
            reader.reads_all(source) || night.as_ref().is_some_and(|night| !night.is_slice)
        };
        let few = sources.iter().zip(&nights).all(few) && nights.iter().any(Option::is_some);
        let at_once = if few { sources.len() } else { 1 };
        let reads = sources.into_iter().zip(nights).enumerate().map(|(at, (source, night))| {
            let (how, own) = (&how, entity.take_if(|(entity, _)| *entity == at));
            async move {
                let (matrix, planned) = (matrix_of[source.newest], source.clone());
                let read = match own {
                    Some((_, rows)) => reader.scattered(source, rows, how).await.map(|read| (read, None)),
                    None => reader.read(source, night, matrix, how).await,
                };
                match read {
                    Ok(read) => Ok(read),
                    Err(error) => Err(reader.explained(matrix, &planned, error).await),
                }
            }
        });
        let found: Vec<(Read, Option<Night>)> = stream::iter(reads).buffered(at_once).try_collect().await?;
        let (sources, nights) = found.into_iter().unzip();
        Ok(Inputs { populations, how, sources, nights })
    }
}

/// What is read while states come: the populations, and the rows of the source whose rows are theirs.
struct Before<'a> {
    reader: &'a Reader<'a>,
    sources: &'a [Source],
    populations: &'a [DataFrame],
    matrix_of: &'a [usize],
}

impl Before<'_> {
    async fn read(&self) -> Result<(Vec<Keys>, Scattering, Option<(usize, Partitions)>)> {
        let began = Instant::now();
        let Before { reader, sources, .. } = self;
        let entity = sources.iter().position(|source| match self.populations {
            [one] => reader.reads_all(source) && source.has_keys_of(one.logical_plan()),
            _ => false,
        });
        let rows = match entity.map(|at| &sources[at]) {
            Some(source) => {
                let matrix = self.matrix_of[source.newest];
                match reader.at_once(source, matrix).await {
                    Ok(rows) => rows,
                    Err(error) => return Err(reader.explained(matrix, source, error).await),
                }
            }
            None => None,
        };
        let mut populations = Vec::new();
        for (matrix, own) in self.populations.iter().enumerate() {
            let keys = match &rows {
                Some(rows) => population::keys_of(rows, reader.key_type),
                None => population::keys(own.clone(), reader.key_type).await,
            };
            populations.push(match keys {
                Ok(keys) => keys,
                Err(error) => return Err(reader.explainer.population(matrix, error).await),
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
        Ok((populations, how, entity.zip(rows)))
    }
}
