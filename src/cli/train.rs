//! `tenure train`.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;

use super::{GlobalArgs, JobArgs, block_on, load_patched};
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::spec::{JobSpec, Task, TextClassifierTask};
use crate::training::text_classifier::{self, LabelledTexts, TextTrainOptions};
use crate::training::{TensorBoard, Unwatched, Watch};
use crate::{AsOf, Error, Result, lake, pipeline};

pub(super) const EXAMPLES: &str = "\
Examples:
  tenure train jobs/ltv.yaml --as-of 2026-07-01
  tenure train jobs/ltv.yaml --as-of 2026-07-01 --log-dir runs    then: tensorboard --logdir runs
  tenure train jobs/ltv.yaml --as-of 2026-07-01 --patch out/tune/ltv/2026-07-01/best.yaml";

/// `tenure train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The day of the training: only what happened before its midnight counts (not for text classifiers)
    #[arg(long, value_name = "YYYY-MM-DD")]
    as_of: Option<String>,
    /// Train a text classifier on so many texts only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write event files for TensorBoard below this folder: JOB/DAY-START, with the losses of every epoch (not for text
    /// classifiers)
    #[arg(long, value_name = "FOLDER", env = "TENURE_LOG_DIR")]
    log_dir: Option<PathBuf>,
    /// Lay the keys of this YAML file over those of the job, such as the best.yaml of `tenure tune`
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
}

pub(super) fn run(args: &TrainArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = load_patched(&args.job.job, args.patch.as_deref())?;
    match spec.task() {
        Task::Entity(_) => tabular(&spec, args, global, printer),
        Task::TextClassifier(task) => text(&spec, task, args, global, printer),
    }
}

fn tabular(spec: &JobSpec, args: &TrainArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    if args.limit.is_some() {
        return Err(Error::user("`--limit` is for text classifiers"));
    }
    let as_of = args.as_of.as_deref().ok_or_else(|| {
        Error::user("`--as-of` is missing").hint("name the day of the training, for example `--as-of 2026-07-01`")
    })?;
    let as_of = AsOf::parse(as_of, spec.timezone())?;
    let engine = global.engine()?;
    let board =
        args.log_dir.as_deref().map(|folder| TensorBoard::new(folder, spec.name(), &as_of.date().to_string(), now()));
    let watch: &dyn Watch = match &board {
        Some(board) => board,
        None => &Unwatched,
    };
    let report = block_on(&engine, pipeline::train(spec, as_of, &engine, global.device()?, printer, watch))?;
    if let (Some(board), Some(folder)) = (&board, &args.log_dir) {
        printer.say(format!(
            "event files in {}; look at them with `tensorboard --logdir {}`",
            board.folder().display(),
            folder.display()
        ));
    }
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.table());
    }
    Ok(ExitStatus::Done)
}

/// The event files of a training are named after the moment at which it began.
#[allow(clippy::disallowed_methods)]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn text(
    spec: &JobSpec,
    task: &TextClassifierTask,
    args: &TrainArgs,
    global: &GlobalArgs,
    printer: &Printer,
) -> Result<ExitStatus> {
    if args.log_dir.is_some() {
        printer.warn("a text classifier leaves no event files");
    }
    let engine = global.engine()?;
    let (train, test) = block_on(&engine, async {
        let (texts, labels) = lake::read_texts(spec, &engine, &task.train, &task.text, &task.label).await?;
        let train = LabelledTexts { texts, labels };
        let (texts, labels) = lake::read_texts(spec, &engine, &task.test, &task.text, &task.label).await?;
        Ok((train, LabelledTexts { texts, labels }))
    })?;
    let options =
        TextTrainOptions { limit: args.limit, device: global.device()?.resolve()?, threads: Some(engine.threads) };
    let report = text_classifier::train(spec, &train, &test, &options, printer)?;
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.table());
    }
    Ok(ExitStatus::Done)
}
