//! `tenure run`.

use super::{GlobalArgs, RunArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::{self, NightOptions};
use crate::printer::Printer;

pub(super) fn run(args: &RunArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let as_of = args.as_of.of(&spec)?;
    let engine = global.engine()?;
    let options = NightOptions { engine, device: global.device()?, force: args.force, from_source: args.from_source };
    let verdict = block_on(&engine, pipeline::run(&spec, as_of, &options, printer))?;
    if printer.json() {
        printer.data_json(&verdict)?;
        verdict.alerts.iter().for_each(|alert| printer.warn(alert));
    } else if let Some(report) = &verdict.report {
        printer.data(report.text());
    }
    Ok(verdict.status())
}
