//! `tenure runs` and `tenure runs show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{GlobalArgs, block_on, jobs_or_all};
use crate::error::ExitStatus;
use crate::lake::Store;
use crate::ledger::{Ledger, Listing};
use crate::printer::Printer;
use crate::{Error, Result};

/// `tenure runs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// At most so many, newest nights first
    #[arg(long, default_value_t = 30)]
    limit: usize,
}

/// Whose ledger.
#[derive(Debug, Args)]
pub struct LedgerArgs {
    /// The job whose ledger is read [default: every job in ./jobs]
    #[arg(long, value_name = "JOB", env = "TENURE_JOB")]
    job: Option<PathBuf>,
}

/// `tenure runs …`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Tell all about one run
    Show {
        /// The run's ID, or the start of it
        id: String,
        /// Whose ledger.
        #[command(flatten)]
        ledger: LedgerArgs,
    },
}

pub(super) fn run(args: &RunsArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let engine = global.engine()?;
    match &args.command {
        None => block_on(&engine, list(&args.ledger, args.limit, printer)),
        Some(RunsCommand::Show { id, ledger }) => block_on(&engine, show(id, ledger, printer)),
    }
}

async fn list(args: &LedgerArgs, limit: usize, printer: &Printer) -> Result<ExitStatus> {
    let mut all = Listing::default();
    for ledger in ledgers(args, printer)? {
        let listing = ledger.list(limit).await?;
        all.runs.extend(listing.runs);
        all.unreadable.extend(listing.unreadable);
        all.total += listing.total;
    }
    all.runs.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| b.run_id.cmp(&a.run_id)));
    all.runs.truncate(limit);
    if printer.json() {
        printer.data_json(&all)?;
    } else {
        printer.data(all.table());
    }
    Ok(ExitStatus::Done)
}

async fn show(id: &str, args: &LedgerArgs, printer: &Printer) -> Result<ExitStatus> {
    let mut missing = None;
    for ledger in ledgers(args, printer)? {
        match ledger.show(id).await {
            Ok(run) if printer.json() => {
                printer.data_json(&run)?;
                return Ok(ExitStatus::Done);
            }
            Ok(run) => {
                printer.data(run.table());
                return Ok(ExitStatus::Done);
            }
            Err(error) if error.class() == crate::error::Class::User => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(missing.unwrap_or_else(|| Error::user(format!("there is no run `{id}`"))))
}

fn ledgers(args: &LedgerArgs, printer: &Printer) -> Result<Vec<Ledger>> {
    let mut ledgers = Vec::new();
    for spec in jobs_or_all(args.job.as_ref(), printer)? {
        if let Some(publish) = spec.entity_task().ok().and_then(|task| task.publish.clone()) {
            ledgers.push(Ledger::new(Store::open(&publish.url)?));
        }
    }
    Ok(ledgers)
}
