//! `tenure run`.

use clap::Args;

use super::{AsOfArgs, GlobalArgs, JobArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::{self, NightOptions};
use crate::printer::Printer;

/// `tenure run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Compute the night again, even if it is already published
    #[arg(long)]
    force: bool,
    /// Read the tables alone, and neither use nor write the job's states
    #[arg(long)]
    from_source: bool,
    /// Publish the night even if a table, the population or a predicted total is much smaller than the night before
    #[arg(long)]
    accept_shrink: bool,
}

pub(super) fn run(args: &RunArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let as_of = args.as_of.of(&spec)?;
    let engine = global.engine()?;
    let options = NightOptions {
        engine,
        device: global.device()?,
        force: args.force,
        from_source: args.from_source,
        accept_shrink: args.accept_shrink,
    };
    let verdict = block_on(&engine, pipeline::run(&spec, as_of, &options, printer))?;
    if printer.json() {
        printer.data_json(&verdict)?;
        verdict.alerts.iter().for_each(|alert| printer.warn(alert));
    } else if let Some(report) = &verdict.report {
        printer.data(report.text());
    }
    Ok(verdict.status())
}
