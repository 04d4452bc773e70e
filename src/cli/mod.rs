//! The command line: clap types here, one file per command beside it.

#[cfg(feature = "torch")]
mod check;
#[cfg(feature = "torch")]
mod command;
#[cfg(feature = "torch")]
mod completions;
mod data;
mod demo;
#[cfg(feature = "torch")]
mod evaluate;
mod features;
#[cfg(feature = "torch")]
mod night;
mod program;
mod runs;
mod state;
mod threads;
#[cfg(feature = "torch")]
mod train;
#[cfg(feature = "torch")]
mod tune;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[cfg(feature = "torch")]
pub use command::Command;
pub use data::DataCommand;
pub use program::main;
#[cfg(feature = "torch")]
pub use program::main_with_model;

use crate::error::ExitStatus;
use crate::lake::{EngineOptions, parse_bytes};
#[cfg(feature = "torch")]
use crate::model::device::DeviceChoice;
use crate::printer::{Output, Printer, Verbosity};
use crate::spec::JobSpec;
use crate::{AsOf, Error, Result, cpu};

/// What each customer is worth, who is about to leave, and which stage of life each one is in: every night.
///
/// One YAML job drives it all: SQL features over a Parquet lake, a trained model, lifecycle stages, plain Parquet out.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Line<C: Subcommand> {
    /// The command.
    #[command(subcommand)]
    pub command: C,
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// A line with any command.
#[cfg(feature = "torch")]
pub type Cli = Line<Command>;

const EXAMPLES: &str = "\
Examples:
  tenure check jobs/ltv.yaml                        is the job right? (reads no data)
  tenure check jobs/ltv.yaml --online               … and do lake and model fit it?
  tenure train jobs/ltv.yaml --as-of 2026-07-01     learn from what lay before that day
  tenure tune jobs/ltv.yaml --as-of 2026-07-01      look for better settings of that training
  tenure run jobs/ltv.yaml --as-of 2026-07-01       score, segment and publish one night
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01  compare a past prediction with what happened
  tenure runs                                       what ran, and how it ended

Exit codes:
  0  done, or already done
  1  the job's or the data's fault, or a bug of ours: retrying does not help
  2  the infrastructure's fault: retry
  3  done, and an alert was raised (stale data, say)

RUST_LOG=tenure=debug shows what goes on inside.";

/// Commands that can be run.
trait Run: Subcommand {
    /// Runs it to its exit status.
    fn run(self, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus>;
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors and warnings only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Where the model runs: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, global = true, default_value = "auto", env = "TENURE_DEVICE", value_name = "DEVICE")]
    pub device: String,
    /// Memory for queries before they spill to disk, such as `512MiB` or `4GiB` [default: half of the machine's]
    #[arg(long, global = true, env = "TENURE_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// Threads for queries, tokenizing and the model [default: all cores]
    #[arg(long, global = true, env = "TENURE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

impl GlobalArgs {
    /// The printer that these options ask for.
    pub fn printer(&self) -> Printer {
        let verbosity = if self.quiet { Verbosity::Quiet } else { Verbosity::Normal };
        Printer::new(verbosity, if self.json { Output::Json } else { Output::Human })
    }

    fn engine(&self) -> Result<EngineOptions> {
        let mut options = EngineOptions::default();
        if let Some(size) = &self.memory_limit {
            options.memory_limit = Some(memory_limit(size)?);
        }
        if let Some(threads) = self.threads {
            options.threads = usize::from(threads);
        }
        Ok(options)
    }

    #[cfg(feature = "torch")]
    fn device(&self) -> Result<DeviceChoice> {
        self.device.parse()
    }
}

/// The least memory that queries do something useful with.
const MIN_MEMORY: usize = 16 << 20;

/// Reads `--memory-limit`; a number without a unit is most likely one whose unit was forgotten.
fn memory_limit(size: &str) -> Result<usize> {
    let bytes = parse_bytes(size).map_err(|e| e.context("`--memory-limit` cannot be used"))?;
    if bytes >= MIN_MEMORY {
        return Ok(bytes);
    }
    let number = size.trim();
    let hint = match number.chars().all(|c| c.is_ascii_digit() || c == '.') && !number.is_empty() {
        true => format!("did you mean `{number}GiB`? it wants a unit, and `16MiB` is the least"),
        false => "`16MiB` is the least; `4GiB` is usual".to_owned(),
    };
    Err(Error::user(format!("`--memory-limit {number}` is {bytes} bytes: no query runs in so few")).hint(hint))
}

/// Which job.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,
}

impl JobArgs {
    fn load(&self) -> Result<JobSpec> {
        load_job(&self.job)
    }
}

fn load_job(path: &std::path::Path) -> Result<JobSpec> {
    load_patched(path, None)
}

/// A job with the keys of a patch laid over its own.
fn load_patched(path: &std::path::Path, patch: Option<&std::path::Path>) -> Result<JobSpec> {
    crate::spec::load_patched(path, patch, &|name| std::env::var(name).ok())
}

/// Which day.
#[derive(Debug, Args)]
pub struct AsOfArgs {
    /// The day that the command speaks for: only what happened before its midnight counts
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub as_of: String,
}

impl AsOfArgs {
    fn of(&self, spec: &JobSpec) -> Result<AsOf> {
        AsOf::parse(&self.as_of, spec.timezone()).map_err(|e| e.context("`--as-of` cannot be used"))
    }
}

fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Runs async work on a runtime of as many threads as the engine has.
fn block_on<T>(engine: &EngineOptions, work: impl Future<Output = Result<T>>) -> Result<T> {
    // With one thread, the one that waits for the work does it.
    let mut runtime = match engine.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime
        .worker_threads(engine.threads)
        .thread_stack_size(cpu::STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|e| Error::infra("the async runtime cannot start").because(e))?
        .block_on(work)
}

/// The job named, or every job file in ./jobs that loads (a broken one is only warned of).
fn jobs_or_all(job: Option<&PathBuf>, printer: &Printer) -> Result<Vec<JobSpec>> {
    if let Some(job) = job {
        return Ok(vec![load_job(job)?]);
    }
    let folder = std::path::Path::new("jobs");
    let entries = std::fs::read_dir(folder)
        .map_err(|e| Error::io(folder, e).hint("name a job file, or start from the folder that holds `jobs/`"))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    paths.sort();
    let mut jobs = Vec::new();
    for path in paths {
        match load_job(&path) {
            Ok(job) => jobs.push(job),
            Err(error) => printer.warn(format!("`{}` is left out: {error}", path.display())),
        }
    }
    Ok(jobs)
}
