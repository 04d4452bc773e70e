//! `tenure completions`.

use clap::CommandFactory;

use crate::Result;
use crate::error::ExitStatus;
use crate::printer::Printer;

pub(super) fn run(shell: clap_complete::Shell, printer: &Printer) -> Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Cli::command(), "tenure", &mut script);
    printer.data(String::from_utf8_lossy(&script));
    Ok(ExitStatus::Done)
}
