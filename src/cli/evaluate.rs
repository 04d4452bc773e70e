//! `tenure evaluate`.

use super::{EvaluateArgs, GlobalArgs, block_on};
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::{Result, pipeline};

pub(super) fn run(args: &EvaluateArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let as_of = args.as_of.of(&spec)?;
    let engine = global.engine()?;
    let evaluation = block_on(&engine, pipeline::evaluate(&spec, as_of, &engine, global.device()?, printer))?;
    if printer.json() {
        printer.data_json(&evaluation)?;
    } else {
        printer.data(evaluation.table());
    }
    Ok(ExitStatus::Done)
}
