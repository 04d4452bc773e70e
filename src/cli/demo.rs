//! `tenure demo generate`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::demo::DemoOptions;
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::{Result, demo};

/// `tenure demo`.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Write a lake of a small shop: customers, orders, events, reviews
    Generate {
        /// The folder
        dir: PathBuf,
        /// How many customers
        #[arg(long, default_value_t = 20_000)]
        customers: u32,
        /// How many days of history
        #[arg(long, default_value_t = 400)]
        days: u32,
        /// The seed of every random choice
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The day after the last one
        #[arg(long, default_value = "2026-07-01", value_name = "YYYY-MM-DD")]
        end: chrono::NaiveDate,
    },
}

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
