//! `tenure evaluate`.

use super::{EvaluateArgs, GlobalArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::{self, EvaluateOptions};
use crate::printer::Printer;

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
