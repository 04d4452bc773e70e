//! The two programs: they read the command line, run the command, print the error and end with the exit code.
//!
//! libtorch takes a quarter of a second to load, longer than most commands without a model run. So `tenure` is built without it,
//! runs those commands alone, and becomes `tenure-torch`, which lies beside it, for whatever else it is asked.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Process;

use clap::Parser;

use super::data::DataCommand;
use super::{Line, Run, threads};
use crate::error::ExitStatus;
use crate::printer::{Output, Printer, Verbosity};
use crate::{Error, Result, cpu, panics};

/// The program with the model, which lies beside the other one.
const OTHER: &str = "tenure-torch";

/// `tenure`: commands without a model; the other program has the rest, the help and the errors in the command line among it.
pub fn main() -> ! {
    match Line::<DataCommand>::try_parse() {
        Ok(line) => run(line),
        Err(error) => {
            let why = become_the_other();
            let status = tell(&error);
            if error.use_stderr() {
                Printer::new(Verbosity::Normal, Output::Human).error(&why);
            }
            end(status)
        }
    }
}

/// `tenure-torch`: every command.
#[cfg(feature = "torch")]
pub fn main_with_model() -> ! {
    // libgomp reads its settings while libtorch is loaded, which was before this line. Where that fails, it works all the same.
    if threads::environment().is_some()
        && let Ok(own) = std::env::current_exe()
    {
        let _ = replace_process(&own);
    }
    match Line::<super::Command>::try_parse() {
        Ok(line) => run(line),
        Err(error) => end(tell(&error)),
    }
}

fn run(line: Line<impl Run + Send>) -> ! {
    super::init_tracing();
    panics::remember();
    let printer = line.global.printer();
    let Line { command, global } = line;
    let ran = on_a_thread(|| threads::limit(&global).and_then(|()| command.run(&global, &printer)));
    end(ran.unwrap_or_else(|error| {
        printer.error(&error);
        error.status()
    }))
}

/// Runs a command on a thread whose stack has room for deep expressions. A panic is an error: the exit codes of panics and aborts
/// tell the caller nothing.
fn on_a_thread(command: impl FnOnce() -> Result<ExitStatus> + Send) -> Result<ExitStatus> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("command".into()).stack_size(cpu::STACK_BYTES);
        let thread = thread.spawn_scoped(scope, command);
        let thread = thread.map_err(|e| Error::infra("the command's thread cannot be started").because(e))?;
        thread.join().unwrap_or_else(|payload| Err(Error::panicked("the command", &*payload)))
    })
}

/// Runs the same command line in the program with the model; returns why it does not.
fn become_the_other() -> Error {
    let beside = std::env::current_exe().map(|path| path.with_file_name(OTHER));
    let program = beside.unwrap_or_else(|_| OTHER.into());
    let error = replace_process(&program);
    Error::io(program, error)
        .hint("commands with a model, such as `run`, are in this program: `make build` builds both")
}

/// Runs the same command line in a program with libtorch; returns why it does not.
fn replace_process(program: &Path) -> std::io::Error {
    let mut own = std::env::args_os();
    let mut other = Process::new(program);
    other.arg0(own.next().unwrap_or_default()).args(own).envs(threads::environment());
    other.exec()
}

/// Prints what is wrong with a command line, or the help that it asks for.
fn tell(error: &clap::Error) -> ExitStatus {
    let _ = error.print();
    // clap would say 2, which stands for a failure that is worth a retry.
    if error.use_stderr() { ExitStatus::User } else { ExitStatus::Done }
}

/// Ends the process at once: nothing is left to do, and the destructors of libtorch's libraries take a tenth of a second.
#[allow(unsafe_code)]
fn end(status: ExitStatus) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: the call takes a number and does not return; every value of this program was dropped by its owner before.
    unsafe { libc::_exit(i32::from(status as u8)) }
}
