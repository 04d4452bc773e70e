//! The commands that need no model.

use clap::Subcommand;

use super::features::{self, FeaturesCommand};
use super::runs::{self, RunsArgs};
use super::state::{self, StateCommand};
use super::{GlobalArgs, Run, demo};
use crate::Result;
use crate::error::ExitStatus;
use crate::printer::Printer;

/// The commands that need no model.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Test, show and document the feature files
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// List, rebuild and verify the states of past days
    #[command(subcommand)]
    State(StateCommand),
    /// Print the JSON Schema of the job file, for editors
    Schema,
    /// List the runs in the ledger, or show one
    Runs(RunsArgs),
    /// Generate a demo lake
    #[command(subcommand)]
    Demo(demo::DemoCommand),
}

impl Run for DataCommand {
    fn run(self, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
        match self {
            DataCommand::Features(command) => features::run(command, global, printer),
            DataCommand::State(command) => state::run(&command, global, printer),
            DataCommand::Schema => {
                printer.data_json(&crate::spec::json_schema())?;
                Ok(ExitStatus::Done)
            }
            DataCommand::Runs(args) => runs::run(&args, global, printer),
            DataCommand::Demo(command) => demo::run(command, printer),
        }
    }
}
