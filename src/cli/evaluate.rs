//! `tenure evaluate`.

use std::path::PathBuf;

use clap::Args;

use super::{AsOfArgs, GlobalArgs, JobArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::{self, EvaluateOptions};
use crate::printer::Printer;
use crate::training::evaluation::RESAMPLES;

pub(super) const HELP: &str = "\
The day's labels have to be known: it lies at least one horizon before the end of the lake. A model that was
trained after it has seen a part of the answers, and a warning says so.

Examples:
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01 --by country --by ltv_90d
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01 --out evaluations/2026-04-01";

/// `tenure evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Look at groups by this feature (its quartiles or values) or head too; may be repeated
    #[arg(long, value_name = "COLUMN")]
    by: Vec<String>,
    /// Write evaluation.json, metrics.parquet and predictions.parquet into this folder, replacing it
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How often the customers are drawn anew for the intervals; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = RESAMPLES)]
    resamples: usize,
}

pub(super) fn run(args: &EvaluateArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let as_of = args.as_of.of(&spec)?;
    let options = EvaluateOptions {
        engine: global.engine()?,
        device: global.device()?,
        by: args.by.clone(),
        resamples: args.resamples,
        out: args.out.clone(),
    };
    let report = block_on(&options.engine, pipeline::evaluate(&spec, as_of, &options, printer))?;
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.evaluation.table());
    }
    Ok(ExitStatus::Done)
}
