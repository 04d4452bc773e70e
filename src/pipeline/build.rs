//! The matrix by itself, as a Parquet file: for notebooks, for training sets, and for a look at what a night would score.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{Stream, StreamExt, join, try_join};

use super::plan::no_customers;
use super::{Plan, state};
use crate::features::{FeatureSet, Matrices, States};
use crate::lake::publish::PopulationCount;
use crate::lake::{EngineOptions, Lake, MatrixFile, Visibility};
use crate::printer::Printer;
use crate::spec::JobSpec;
use crate::{AsOf, Error, Result, cpu};

/// Batches that wait for the file at most.
const WAITING: usize = 4;

/// A matrix that was written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BuiltMatrix {
    /// Its date.
    pub as_of: chrono::NaiveDate,
    /// Its file, if it was written.
    pub path: Option<PathBuf>,
    /// Customers.
    pub rows: u64,
}

/// Writes the features of everyone known at each date, one row per customer, sorted by key, into the file of the date; without one, it
/// does everything but write. The dates share one pass over the tables, where what is visible at one of them is among what is visible
/// later; one date alone uses the job's states, if there are any.
pub async fn build(
    spec: &JobSpec,
    files: &[(AsOf, Option<PathBuf>)],
    engine: &EngineOptions,
    from_source: bool,
    printer: &Printer,
) -> Result<Vec<BuiltMatrix>> {
    let lake = Lake::open(spec, engine)?;
    let look = async {
        let open = async {
            match files {
                [_] if !from_source => state::open(spec, engine, &lake, printer).await,
                _ => Ok(None),
            }
        };
        // What the folders hold is read while the job is planned: later sessions find it known. States vouch for files that they
        // know, so that these are not looked into.
        let (states, ()) = try_join!(open, lake.list())?;
        super::warn_of_passed_over(&lake, printer).await?;
        for (as_of, _) in files {
            lake.session(Visibility::at(*as_of)).await?;
        }
        Ok::<_, Error>(states)
    };
    // Beside each other, not in turns: both are work for a processor more than for a disk.
    let spec_of_plan = spec.clone();
    let plan = tokio::spawn(async move { Plan::new(&spec_of_plan).await });
    let plan = async { plan.await.map_err(|e| Error::task("the planning", e))? };
    // What is wrong with the job is said rather than what is wrong with the lake.
    let (plan, states) = join!(plan, look);
    let (plan, states) = (plan?, states?);
    for (as_of, _) in files {
        lake.refuse_before_first_event(*as_of).await?;
    }
    let features = plan.features.without_sequence();
    if let Some(states) = states {
        let built = pass(&features, spec, &lake, files, Some(Arc::clone(&states))).await?;
        state::commit(&states, printer).await?;
        return refuse_empty(files, built);
    }
    let passes = if features.shares_passes(spec.tables()) { files.len().max(1) } else { 1 };
    let mut built = Vec::new();
    for together in files.chunks(passes) {
        built.extend(pass(&features, spec, &lake, together, None).await?);
    }
    refuse_empty(files, built)
}

/// A matrix without a customer is a mistake somewhere: its file goes.
fn refuse_empty(files: &[(AsOf, Option<PathBuf>)], built: Vec<BuiltMatrix>) -> Result<Vec<BuiltMatrix>> {
    let Some((matrix, (as_of, _))) = built.iter().zip(files).find(|(matrix, _)| matrix.rows == 0) else {
        return Ok(built);
    };
    if let Some(path) = &matrix.path {
        std::fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    }
    Err(no_customers(*as_of))
}

/// Writes matrices in one pass.
pub(super) async fn pass(
    features: &FeatureSet,
    spec: &JobSpec,
    lake: &Lake,
    files: &[(AsOf, Option<PathBuf>)],
    states: Option<Arc<States>>,
) -> Result<Vec<BuiltMatrix>> {
    let mut sessions = Vec::new();
    for (as_of, _) in files {
        sessions.push((*as_of, lake.session(Visibility::at(*as_of)).await?));
    }
    let Matrices { schema, populations, rows } = features.matrices(&sessions, spec.tables(), states).await?;
    let open = |(_, path): &(AsOf, Option<PathBuf>)| match path {
        Some(path) => Ok(Sink::File(Box::new(MatrixFile::create(path, &schema)?))),
        None => Ok(Sink::Nothing(0)),
    };
    let open = files.iter().map(open).collect::<Result<Vec<_>>>()?;
    let counts = write(rows, open, &populations).await?;
    let built = files.iter().zip(counts).map(|((as_of, path), rows)| BuiltMatrix {
        as_of: as_of.date(),
        path: path.clone(),
        rows,
    });
    Ok(built.collect())
}

/// Where rows go.
enum Sink {
    File(Box<MatrixFile>),
    /// They are counted.
    Nothing(u64),
}

impl Sink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Sink::File(file) => file.write(batch),
            Sink::Nothing(rows) => {
                *rows += batch.num_rows() as u64;
                Ok(())
            }
        }
    }

    /// The rows so far.
    fn rows(&self) -> u64 {
        match self {
            Sink::File(file) => file.rows(),
            Sink::Nothing(rows) => *rows,
        }
    }

    fn finish(self) -> Result<u64> {
        match self {
            Sink::File(file) => file.finish(),
            Sink::Nothing(rows) => Ok(rows),
        }
    }
}

/// Writes rows while the next ones are made; files with another number of rows than there are customers get no name.
async fn write(
    rows: impl Stream<Item = Result<(usize, RecordBatch)>>,
    mut files: Vec<Sink>,
    populations: &[PopulationCount],
) -> Result<Vec<u64>> {
    let (sender, mut waiting) = tokio::sync::mpsc::channel::<(usize, RecordBatch)>(WAITING);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some((file, batch)) = waiting.blocking_recv() {
            let _turns = cpu::all_turns();
            files[file].write(&batch)?;
        }
        Ok::<_, Error>(files)
    });
    let mut rows = std::pin::pin!(rows);
    let mut failed = None;
    while let Some(batch) = rows.next().await {
        match batch {
            // A closed channel is a writer that failed; it says why below.
            Ok(batch) => {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let files = writer.await.map_err(|e| Error::task("the writer of the matrix", e))?;
    if let Some(error) = failed {
        return Err(error);
    }
    let files = files?;
    for (file, population) in files.iter().zip(populations) {
        population.check("the matrix", file.rows())?;
    }
    files.into_iter().map(Sink::finish).collect()
}

/// Where the matrix of a date stands in a folder of several.
pub fn place_of(folder: &Path, as_of: AsOf) -> PathBuf {
    folder.join(format!("as_of={as_of}")).join("part-0.parquet")
}
