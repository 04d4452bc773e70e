//! Parses the command line, runs the command, prints the error, ends with the exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tenure::cli::Cli;
use tenure::error::ExitStatus;

/// Threads that decode and add up allocate all the time; the system's allocator costs a fifth of a pass over a lake.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // clap would say 2, which stands for a failure that is worth a retry.
            let status = if error.use_stderr() { ExitStatus::User } else { ExitStatus::Done };
            return ExitCode::from(status as u8);
        }
    };
    let printer = cli.global.printer();
    let status = tenure::cli::run(cli, &printer).unwrap_or_else(|error| {
        printer.error(&error);
        error.status()
    });
    end(status)
}

/// Ends the process at once: nothing is left to do, and the destructors of libtorch's libraries take a tenth of a second.
#[allow(unsafe_code)]
fn end(status: ExitStatus) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: the call takes a number and does not return; every value of this program was dropped by its owner before.
    unsafe { libc::_exit(i32::from(status as u8)) }
}
