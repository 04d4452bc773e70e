//! `tenure demo generate`.

use super::DemoCommand;
use crate::demo::DemoOptions;
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::{Result, demo};

pub(super) fn run(command: DemoCommand, printer: &Printer) -> Result<ExitStatus> {
    let DemoCommand::Generate { dir, customers, days, seed, end } = command;
    let summary = demo::generate(&dir, DemoOptions { customers, days, seed, end })?;
    if printer.json() {
        printer.data_json(&summary)?;
    } else {
        let what = if summary.was_there { "is there already" } else { "is written" };
        printer.say(format!(
            "the demo lake {what}: {} customers, {} orders, {} events, {} reviews ({} bad rows), {:.1} MB; as of {}",
            summary.customers,
            summary.orders,
            summary.events,
            summary.reviews,
            summary.bad_rows,
            summary.bytes as f64 / 1e6,
            summary.as_of
        ));
    }
    Ok(ExitStatus::Done)
}
