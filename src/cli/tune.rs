//! `tenure tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{AsOfArgs, GlobalArgs, JobArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::{self, TuneLimits};
use crate::printer::Printer;
use crate::training::tune::space;

/// `tenure tune`.
#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Settings to try, the job's own among them
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    trials: u32,
    /// Begin no training after this time, such as `90s`, `30m` or `2h`
    #[arg(long, value_name = "T", value_parser = time)]
    time: Option<Duration>,
    /// Where the table of trials and the patch go [default: out/tune/JOB/DAY below the job's root]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The seed of the values that are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(args: &TuneArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let as_of = args.as_of.of(&spec)?;
    let limits = TuneLimits { trials: args.trials as usize, time: args.time, seed: args.seed, out: args.out.clone() };
    let engine = global.engine()?;
    let report = block_on(&engine, pipeline::tune(&spec, as_of, &engine, global.device()?, &limits, printer))?;
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.table());
    }
    Ok(ExitStatus::Done)
}

/// The help of `tune` below its options: the values that are tried come from the code that draws them.
pub(super) fn help() -> String {
    let rows = space::described();
    let width = rows.iter().map(|[key, ..]| key.len()).max().unwrap_or(0);
    let ranges = rows.iter().map(|[_, range, _]| range.len()).max().unwrap_or(0);
    let lines: String =
        rows.iter().map(|[key, range, what]| format!("  {key:width$}  {range:ranges$}  {what}\n")).collect();
    format!(
        "\
Trial 0 is the job's own setting. Every other one keeps a third of the job's values and draws the rest:
{lines}
Each setting is trained for a ninth of the job's epochs, the best third of them anew for a third, and the best
third of those for all. Customers of the validating snapshots who stop a training early do not choose between
settings, and those who choose do not say whether the winner beats the job's own setting.

The same command goes on where it was stopped or killed. Below --out stand trials.jsonl and trials.parquet (a row
per training) and best.yaml: the keys that differ from the job's.

Examples:
  tenure tune jobs/ltv.yaml --as-of 2026-07-01 --trials 30 --time 2h
  tenure train jobs/ltv.yaml --as-of 2026-07-01 --patch out/tune/ltv/2026-07-01/best.yaml"
    )
}

/// Reads `30m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    crate::spec::duration(text).map_err(|error| {
        let hint = error.problems().find_map(|problem| problem.hint.clone()).unwrap_or_default();
        format!("{error}: {hint}")
    })
}
