//! A search for better settings of a job's training, on the lake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::ready_to_train;
use super::plan::Plan;
use super::snapshots::LakeSnapshots;
use super::tune_files;
use crate::lake::EngineOptions;
use crate::model::device::DeviceChoice;
use crate::printer::Printer;
use crate::spec::JobSpec;
use crate::training::{TrainJob, TuneOptions, TuneReport, tune_from};
use crate::{AsOf, Result};

/// How far a search goes.
#[derive(Debug, Clone)]
pub struct TuneLimits {
    /// Settings, the job's own among them.
    pub trials: usize,
    /// No training begins after this time.
    pub time: Option<Duration>,
    /// The seed of the draws.
    pub seed: u64,
    /// The folder of the table and the patch; else `out/tune/JOB/DAY` below the job's root.
    pub out: Option<PathBuf>,
}

/// Searches around the job's own setting on what lay before `as_of`, or goes on with a search; leaves the table of trainings
/// and a patch for the job.
pub async fn tune(
    spec: &JobSpec,
    as_of: AsOf,
    engine: &EngineOptions,
    device: DeviceChoice,
    limits: &TuneLimits,
    printer: &Printer,
) -> Result<TuneReport> {
    let task = spec.entity_task()?;
    let day = as_of.date().to_string();
    let folder = match &limits.out {
        Some(folder) => folder.clone(),
        None => ["out", "tune", spec.name(), &day].iter().fold(spec.root().to_owned(), |at, name| at.join(name)),
    };
    ready_to_train(task)?;
    let plan = Plan::new(spec).await?;
    let device = device.resolve()?;
    let source = LakeSnapshots::new(spec, &plan, engine, as_of).await?;
    source.warn_of_passed_over(printer).await?;
    source.notes().await?.iter().for_each(|note| printer.warn(note));
    let job = TrainJob { name: spec.name(), task, device };
    let options = TuneOptions {
        folder: &folder,
        trials: limits.trials,
        time: limits.time,
        seed: limits.seed,
        job_hash: spec.hash(),
    };
    let report = tune_from(&source, job, as_of, &options, printer).await?;
    tune_files::write(&folder, &report)?;
    if !report.finished {
        printer.warn("the time is over before all settings were tried: the same command goes on");
    }
    if report.verdict.is_some() {
        printer.say(next_steps(spec.file(), &day, &folder));
    }
    Ok(report)
}

/// What can be done with what was found.
fn next_steps(job: &Path, day: &str, folder: &Path) -> String {
    let (job, patch) = (job.display(), folder.join(tune_files::PATCH));
    let patch = patch.display();
    format!(
        "every training is in {}\nthe best setting is in {patch}; train with it by\n  tenure train {job} --as-of {day} --patch \
         {patch}\nor copy its keys into the job",
        folder.display()
    )
}
