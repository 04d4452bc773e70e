//! The command line: clap types here, one file per command beside it.

mod check;
mod completions;
mod demo;
mod evaluate;
mod features;
mod night;
mod runs;
mod state;
mod train;
mod tune;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::ExitStatus;
use crate::lake::{EngineOptions, parse_bytes};
use crate::model::device::DeviceChoice;
use crate::printer::{Output, Printer, Verbosity};
use crate::spec::JobSpec;
use crate::{AsOf, Error, Result};

/// What each customer is worth, who is about to leave, and which stage of life each one is in: every night.
///
/// One YAML job drives it all: SQL features over a Parquet lake, a trained model, lifecycle stages, plain Parquet out.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
}

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
  1  the job's or the data's fault: retrying does not help
  2  the infrastructure's fault: retry
  3  done, and an alert was raised (stale data, say)

RUST_LOG=tenure=debug shows what goes on inside.";

const TRAIN_EXAMPLES: &str = "\
Examples:
  tenure train jobs/ltv.yaml --as-of 2026-07-01
  tenure train jobs/ltv.yaml --as-of 2026-07-01 --log-dir runs    then: tensorboard --logdir runs
  tenure train jobs/ltv.yaml --as-of 2026-07-01 --patch out/tune/ltv/2026-07-01/best.yaml";

const EVALUATE_EXAMPLES: &str = "\
The day's labels have to be known: it lies at least one horizon before the end of the lake. A model that was
trained after it has seen a part of the answers, and a warning says so.

Examples:
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01 --by country --by ltv_90d
  tenure evaluate jobs/ltv.yaml --as-of 2026-04-01 --out evaluations/2026-04-01";

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
            options.memory_limit = Some(parse_bytes(size)?);
        }
        if let Some(threads) = self.threads {
            options.threads = usize::from(threads);
        }
        Ok(options)
    }

    fn device(&self) -> Result<DeviceChoice> {
        self.device.parse()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Score, segment and publish one night
    #[command(after_help = "A night that is already published with the same inputs ends with exit code 0 at once.")]
    Run(RunArgs),
    /// Train the job's model on what lay before a day, and write its bundle
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(TrainArgs),
    /// Search for better settings of the job's training, and write the best ones as a patch
    #[command(after_help = tune::help())]
    Tune(TuneArgs),
    /// Compare what the model would have said on a past day with what happened
    #[command(after_help = EVALUATE_EXAMPLES)]
    Evaluate(EvaluateArgs),
    /// Check a job: YAML, references and every SQL file
    #[command(
        after_help = "Without `--online` no data is read: SQL is planned on empty tables of the declared schema."
    )]
    Check(CheckArgs),
    /// Test, show and document the feature files
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// List, rebuild and verify the states of past days
    #[command(subcommand)]
    State(state::StateCommand),
    /// Print the JSON Schema of the job file, for editors
    Schema,
    /// List the runs in the ledger, or show one
    Runs(RunsArgs),
    /// Generate a demo lake
    #[command(subcommand)]
    Demo(DemoCommand),
    /// Print the completions of a shell
    #[command(after_help = "Example: tenure completions bash > /etc/bash_completion.d/tenure")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
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

/// A number of days: `30d`.
fn days(text: &str) -> std::result::Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|number| number.parse().ok()).filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| "write days as `30d`".to_owned())
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

/// `tenure run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Compute the night again, even if it is already published
    #[arg(long)]
    force: bool,
    /// Read the tables alone, and neither use nor write the job's states
    #[arg(long)]
    from_source: bool,
}

/// `tenure train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The day of the training: only what happened before its midnight counts (not for text classifiers)
    #[arg(long, value_name = "YYYY-MM-DD")]
    as_of: Option<String>,
    /// Train a text classifier on so many texts only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write event files for TensorBoard below this folder: JOB/DAY-START, with the losses of every epoch (not for text
    /// classifiers)
    #[arg(long, value_name = "FOLDER", env = "TENURE_LOG_DIR")]
    log_dir: Option<PathBuf>,
    /// Lay the keys of this YAML file over those of the job, such as the best.yaml of `tenure tune`
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
}

/// `tenure tune`.
#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Settings to try, the job's own among them
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    trials: u32,
    /// Begin no training after this time, such as `90s`, `30m` or `2h`
    #[arg(long, value_name = "T", value_parser = tune::time)]
    time: Option<Duration>,
    /// Where the table of trials and the patch go [default: out/tune/JOB/DAY below the job's root]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The seed of the values that are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// `tenure evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Look at groups by this feature (its quartiles or values) or head too; may be repeated
    #[arg(long, value_name = "COLUMN")]
    by: Vec<String>,
    /// Write evaluation.json, metrics.parquet and predictions.parquet into this folder, replacing it
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How often the customers are drawn anew for the intervals; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = crate::training::evaluation::RESAMPLES)]
    resamples: usize,
}

/// `tenure check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Look at the lake and the model too
    #[arg(long)]
    online: bool,
    /// The day for `--online` [default: today]
    #[arg(long, value_name = "YYYY-MM-DD", requires = "online")]
    as_of: Option<String>,
}

/// `tenure features`.
#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Run the unit tests in tests/sql
    Test {
        /// Whose features.
        #[command(flatten)]
        job: Option<FeatureJob>,
        /// Only cases whose file or name contains this
        #[arg(long)]
        filter: Option<String>,
    },
    /// Write the Markdown page of every column
    Docs {
        /// Whose features.
        #[command(flatten)]
        job: Option<FeatureJob>,
        /// Compare with this file instead of printing; exit code 1 where they differ
        #[arg(long, value_name = "FILE")]
        check: Option<PathBuf>,
    },
    /// Print which files are computed in one pass over their table, and which are not and why
    Plan {
        /// Whose features.
        #[command(flatten)]
        job: JobArgs,
    },
    /// Write the features of every customer at one day, or at several, into Parquet files
    #[command(after_help = "Examples:
  tenure features build jobs/ltv.yaml --as-of 2026-07-01 --out matrix.parquet
  tenure features build jobs/ltv.yaml --as-of 2026-07-01 --every 30d --count 12 --out training")]
    Build {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
        /// Which day.
        #[command(flatten)]
        as_of: AsOfArgs,
        /// The file; of several days the folder, which gets as_of=DAY/part-0.parquet for each. What is there is replaced once
        /// the new file is whole
        #[arg(long, value_name = "PATH", required_unless_present = "dry_run")]
        out: Option<PathBuf>,
        /// Do everything but write the matrix; states are written
        #[arg(long, conflicts_with_all = ["out", "every"])]
        dry_run: bool,
        /// How far apart several days lie, the last one being --as-of: `30d`
        #[arg(long, value_name = "DAYS", requires = "count", value_parser = days)]
        every: Option<u64>,
        /// How many days
        #[arg(long, value_name = "N", requires = "every", value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: Option<u32>,
        /// Read the tables alone, and neither use nor write the job's states
        #[arg(long)]
        from_source: bool,
    },
    /// Print the features of one customer at one day
    #[command(after_help = "Example: tenure features show jobs/ltv.yaml --key 42 --as-of 2026-07-01")]
    Show {
        /// Which job.
        #[command(flatten)]
        job: JobArgs,
        /// Which day.
        #[command(flatten)]
        as_of: AsOfArgs,
        /// The customer's key
        #[arg(long)]
        key: String,
    },
}

/// The job whose features are meant.
#[derive(Debug, Args)]
pub struct FeatureJob {
    /// The job file [default: every job in ./jobs]
    #[arg(value_name = "JOB")]
    job: PathBuf,
}

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

/// Runs a command to its exit status.
pub fn run(cli: Cli, printer: &Printer) -> Result<ExitStatus> {
    init_tracing();
    let global = &cli.global;
    match cli.command {
        Command::Run(args) => night::run(&args, global, printer),
        Command::Train(args) => train::run(&args, global, printer),
        Command::Tune(args) => tune::run(&args, global, printer),
        Command::Evaluate(args) => evaluate::run(&args, global, printer),
        Command::Check(args) => check::run(&args, global, printer),
        Command::Features(command) => features::run(command, global, printer),
        Command::State(command) => state::run(&command, global, printer),
        Command::Schema => {
            printer.data_json(&crate::spec::json_schema())?;
            Ok(ExitStatus::Done)
        }
        Command::Runs(args) => runs::run(&args, global, printer),
        Command::Demo(command) => demo::run(command, printer),
        Command::Completions { shell } => completions::run(shell, printer),
    }
}

fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Runs async work on a runtime of as many threads as the engine has.
fn block_on<T>(engine: &EngineOptions, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(engine.threads)
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
