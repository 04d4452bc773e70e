//! `tenure state list | rebuild | verify`.

use clap::Subcommand;
use comfy_table::{CellAlignment, Table, presets};

use super::{AsOfArgs, GlobalArgs, JobArgs, block_on};
use crate::Result;
use crate::error::ExitStatus;
use crate::pipeline::state::{self, StateList};
use crate::printer::Printer;

/// `tenure state`.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// List the states of a job
    List {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
    },
    /// Compute the states of a job anew, from all rows, and remove files that no run put in force
    #[command(after_help = "Example: tenure state rebuild jobs/ltv.yaml --as-of 2026-07-01")]
    Rebuild {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
        /// Which day.
        #[command(flatten)]
        as_of: AsOfArgs,
    },
    /// Read every state, and compare the features that they give with those of all rows
    #[command(after_help = "Exit code 1 says that a state is damaged, or gives other features than all rows do.")]
    Verify {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
        /// The day of the comparison [default: the newest one that states were written at]
        #[arg(long, value_name = "YYYY-MM-DD")]
        as_of: Option<String>,
    },
}

pub(super) fn run(command: &StateCommand, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let engine = global.engine()?;
    match command {
        StateCommand::List { job } => {
            let found = block_on(&engine, state::list(&job.load()?, &engine))?;
            match printer.json() {
                true => printer.data_json(&found)?,
                false => printer.data(table(&found)),
            }
            Ok(ExitStatus::Done)
        }
        StateCommand::Rebuild { job, as_of } => {
            let spec = job.load()?;
            let as_of = as_of.of(&spec)?;
            let report = block_on(&engine, state::rebuild(&spec, as_of, &engine))?;
            if printer.json() {
                printer.data_json(&report)?;
            }
            report.notes.iter().for_each(|note| printer.say(note));
            printer.say(format!("{} blocks of days, {} bytes", report.written, report.bytes));
            Ok(ExitStatus::Done)
        }
        StateCommand::Verify { job, as_of } => {
            let spec = job.load()?;
            let as_of = as_of.as_deref().map(|day| crate::AsOf::parse(day, spec.timezone())).transpose()?;
            let found = block_on(&engine, state::verify(&spec, as_of, &engine))?;
            if printer.json() {
                printer.data_json(&found)?;
            }
            found.damaged.iter().for_each(|block| printer.warn(format!("damaged: {block}")));
            found
                .different
                .iter()
                .for_each(|column| printer.warn(format!("another value than from all rows: {column}")));
            let orphans = match found.orphans {
                0 => String::new(),
                files => {
                    format!("; {files} files are of runs that did not end, and `tenure state rebuild` removes them")
                }
            };
            printer.say(format!(
                "{} blocks of days were read and the features of {} customers at {} compared with those of all rows{orphans}",
                found.blocks, found.customers, found.as_of
            ));
            Ok(if found.is_good() { ExitStatus::Done } else { ExitStatus::User })
        }
    }
}

/// A line per group.
fn table(list: &StateList) -> String {
    let Some(as_of) = list.as_of else { return format!("no states in {}", list.folder) };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["table", "files", "from", "until", "used", "blocks", "rows", "bytes"]);
    for group in &list.groups {
        table.add_row([
            group.table.clone(),
            group.files.join(" "),
            group.from.map(|day| day.to_string()).unwrap_or_default(),
            group.until.map(|day| day.to_string()).unwrap_or_default(),
            group.used.to_string(),
            group.blocks.to_string(),
            group.rows.to_string(),
            group.bytes.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{} as of {as_of}\n{}", list.folder, table.trim_fmt())
}
