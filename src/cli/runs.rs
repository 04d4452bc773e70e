//! `tenure runs` and `tenure runs show | withdraw | adopt`.

use std::path::PathBuf;

use chrono::NaiveDate;
use clap::{Args, Subcommand};

use super::{GlobalArgs, JobArgs, block_on, jobs_or_all};
use crate::error::{Class, ExitStatus};
use crate::lake::Store;
use crate::lake::publish::{self, WithdrawOutcome};
use crate::ledger::{Ledger, Listing, RunRecord};
use crate::pipeline::Plan;
use crate::printer::Printer;
use crate::spec::JobSpec;
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
    /// Take a published night back: its tables are deleted, and a run of that night computes it again
    #[command(after_help = "Example: tenure runs withdraw 2026-07-01 --job jobs/ltv.yaml\n\n\
        The run has to be the one in force. What it had replaced does not come back. Nights after it that looked back on it have \
        to be run again.")]
    Withdraw {
        /// The run's ID, or the start of it
        id: String,
        /// Whose ledger.
        #[command(flatten)]
        ledger: LedgerArgs,
    },
    /// Make a published folder this job's: after the job was renamed, or its key changed
    #[command(after_help = "Example: tenure runs adopt jobs/ltv.yaml")]
    Adopt {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
    },
}

pub(super) fn run(args: &RunsArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let engine = global.engine()?;
    match &args.command {
        None => block_on(&engine, list(&args.ledger, args.limit, printer)),
        Some(RunsCommand::Show { id, ledger }) => block_on(&engine, show(id, ledger, printer)),
        Some(RunsCommand::Withdraw { id, ledger }) => block_on(&engine, withdraw(id, ledger, printer)),
        Some(RunsCommand::Adopt { job }) => block_on(&engine, adopt(&job.load()?, printer)),
    }
}

async fn list(args: &LedgerArgs, limit: usize, printer: &Printer) -> Result<ExitStatus> {
    let mut all = Listing::default();
    for (_, store) in published(args, printer)? {
        finish_pending(&store, printer).await;
        let listing = Ledger::new(store).list(limit).await?;
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

/// Finishes what killed runs left; who may only read is told of it.
async fn finish_pending(store: &Store, printer: &Printer) {
    match publish::finish_pending(store).await {
        Ok(pending) => pending.iter().for_each(|night| printer.warn(night.to_string())),
        Err(error) => printer.warn(format!("whether a night is half in place is not known: {error}")),
    }
}

async fn show(id: &str, args: &LedgerArgs, printer: &Printer) -> Result<ExitStatus> {
    let mut missing = None;
    for (_, store) in published(args, printer)? {
        finish_pending(&store, printer).await;
        match Ledger::new(store).show(id).await {
            Ok(run) if printer.json() => {
                printer.data_json(&run)?;
                return Ok(ExitStatus::Done);
            }
            Ok(run) => {
                printer.data(run.table());
                return Ok(ExitStatus::Done);
            }
            Err(error) if error.class() == Class::User => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(missing.unwrap_or_else(|| Error::user(format!("there is no run `{id}`"))))
}

async fn withdraw(id: &str, args: &LedgerArgs, printer: &Printer) -> Result<ExitStatus> {
    let (mut found, mut missing) = (Vec::new(), None);
    for (spec, store) in published(args, printer)? {
        match Ledger::new(store.clone()).show(id).await {
            // Jobs of one folder have one ledger.
            Ok(run) if !found.iter().any(|(_, known, _): &(JobSpec, Store, RunRecord)| known.url() == store.url()) => {
                found.push((spec, store, run));
            }
            Ok(_) => {}
            Err(error) if error.class() == Class::User => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    let (spec, store, run) = match (found.pop(), found.is_empty()) {
        (Some(only), true) => only,
        (Some(_), false) => {
            let message = format!("`{id}` is the beginning of runs of several jobs");
            return Err(Error::user(message).hint("say which job: `--job jobs/JOB.yaml`"));
        }
        (None, _) => return Err(missing.unwrap_or_else(|| Error::user(format!("there is no run `{id}`")))),
    };
    Plan::new(&spec).await?.owner(&spec).check(&store).await?;
    finish_pending(&store, printer).await;
    let outcome = publish::withdraw(&store, run.as_of, &run.run_id).await?;
    let later: Vec<NaiveDate> = publish::nights(&store).await?.into_iter().filter(|night| *night > run.as_of).collect();
    if printer.json() {
        let outcome = match outcome {
            WithdrawOutcome::Withdrawn => "withdrawn",
            WithdrawOutcome::AlreadyWithdrawn => "already withdrawn",
        };
        printer.data_json(&serde_json::json!({ "run_id": run.run_id, "as_of": run.as_of, "outcome": outcome }))?;
    }
    printer.say(match outcome {
        WithdrawOutcome::Withdrawn => format!("the night of {} is withdrawn: its tables are gone", run.as_of),
        WithdrawOutcome::AlreadyWithdrawn => format!("the night of {} was withdrawn before", run.as_of),
    });
    if let (Some(first), Some(last)) = (later.first(), later.last()) {
        printer.say(format!(
            "nights after it, {first} to {last}, may have looked back on it: run them again, oldest first"
        ));
    }
    Ok(ExitStatus::Done)
}

async fn adopt(spec: &JobSpec, printer: &Printer) -> Result<ExitStatus> {
    let publish = spec.entity_task()?.publish.as_ref().ok_or_else(|| Error::user("the job publishes nothing"))?;
    let owner = Plan::new(spec).await?.owner(spec);
    let store = Store::open(&publish.url)?;
    let before = owner.adopt(&store).await?;
    if printer.json() {
        printer.data_json(&owner)?;
    }
    let url = store.url();
    printer.say(match before.filter(|before| before.job != owner.job) {
        Some(before) => format!("`{url}` belonged to `{}` and belongs to `{}` now", before.job, owner.job),
        None => format!("`{url}` belongs to `{}`, whose key is `{}` ({})", owner.job, owner.key, owner.key_type),
    });
    Ok(ExitStatus::Done)
}

/// The jobs that publish, each with its folder.
fn published(args: &LedgerArgs, printer: &Printer) -> Result<Vec<(JobSpec, Store)>> {
    let mut found = Vec::new();
    for spec in jobs_or_all(args.job.as_ref(), printer)? {
        let publish = spec.entity_task().ok().and_then(|task| task.publish.as_ref().map(|publish| publish.url.clone()));
        if let Some(url) = publish {
            found.push((spec, Store::open(&url)?));
        }
    }
    Ok(found)
}
