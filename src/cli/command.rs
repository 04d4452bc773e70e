//! Every command: those with a model, and those that need none.

use clap::Subcommand;

use super::check::{self, CheckArgs};
use super::data::DataCommand;
use super::evaluate::{self, EvaluateArgs};
use super::night::{self, RunArgs};
use super::train::{self, TrainArgs};
use super::tune::{self, TuneArgs};
use super::{GlobalArgs, Run, completions};
use crate::Result;
use crate::error::ExitStatus;
use crate::printer::Printer;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Score, segment and publish one night
    #[command(after_help = "A night that is already published with the same inputs ends with exit code 0 at once.")]
    Run(RunArgs),
    /// Train the job's model on what lay before a day, and write its bundle
    #[command(after_help = train::EXAMPLES)]
    Train(TrainArgs),
    /// Search for better settings of the job's training, and write the best ones as a patch
    #[command(after_help = tune::help())]
    Tune(TuneArgs),
    /// Compare what the model would have said on a past day with what happened
    #[command(after_help = evaluate::HELP)]
    Evaluate(EvaluateArgs),
    /// Check a job: YAML, references and every SQL file
    #[command(
        after_help = "Without `--online` no data is read: SQL is planned on empty tables of the declared schema."
    )]
    Check(CheckArgs),
    /// A command without a model.
    #[command(flatten)]
    Data(DataCommand),
    /// Print the completions of a shell
    #[command(after_help = "Example: tenure completions bash > /etc/bash_completion.d/tenure")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Run for Command {
    fn run(self, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
        match self {
            Command::Run(args) => night::run(&args, global, printer),
            Command::Train(args) => train::run(&args, global, printer),
            Command::Tune(args) => tune::run(&args, global, printer),
            Command::Evaluate(args) => evaluate::run(&args, global, printer),
            Command::Check(args) => check::run(&args, global, printer),
            Command::Data(command) => command.run(global, printer),
            Command::Completions { shell } => completions::run(shell, printer),
        }
    }
}
