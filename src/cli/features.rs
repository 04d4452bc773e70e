//! `tenure features test | docs | plan | build | show`.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, Subcommand};

use super::{AsOfArgs, GlobalArgs, JobArgs, block_on, jobs_or_all};

use crate::error::{ExitStatus, Place};
use crate::features::{self, FeatureColumn};
use crate::lake::{self, Lake, Visibility};
use crate::pipeline::{self, Plan};
use crate::printer::Printer;
use crate::spec::{JobSpec, Task};
use crate::{AsOf, Error, Result};

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

/// A number of days: `30d`.
fn days(text: &str) -> std::result::Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|number| number.parse().ok()).filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| "write days as `30d`".to_owned())
}

pub(super) fn run(command: FeaturesCommand, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let engine = global.engine()?;
    match command {
        FeaturesCommand::Test { job, filter } => {
            let jobs = entity_jobs(job, printer)?;
            block_on(&engine, test(&jobs, filter.as_deref(), printer))
        }
        FeaturesCommand::Docs { job, check } => {
            let jobs = entity_jobs(job, printer)?;
            block_on(&engine, docs(&jobs, check.as_deref(), printer))
        }
        FeaturesCommand::Plan { job } => {
            let spec = job.load()?;
            // Any day will do.
            let day = AsOf::parse("2000-01-01", spec.timezone())?;
            let states = spec.entity_task()?.state.is_some();
            let found = block_on(&engine, async {
                let plan = Plan::new(&spec).await?;
                plan.features.pass_plan(&lake::empty_session(&spec)?, &spec, day, states).await
            })?;
            match printer.json() {
                true => printer.data_json(&found)?,
                false => printer.data(found.to_string().trim_end()),
            }
            Ok(ExitStatus::Done)
        }
        FeaturesCommand::Build { job, as_of, out, dry_run: _, every, count, from_source } => {
            let spec = job.load()?;
            let as_of = as_of.of(&spec)?;
            let files = match (&out, every, count) {
                (Some(out), Some(every), Some(count)) => {
                    let days = (0..u64::from(count)).map(|n| as_of.minus_days(n * every));
                    days.map(|day| (day, Some(pipeline::place_of(out, day)))).collect()
                }
                _ => vec![(as_of, out)],
            };
            let built = block_on(&engine, pipeline::build(&spec, &files, &engine, from_source, printer))?;
            if printer.json() {
                printer.data_json(&built)?;
            }
            for matrix in built {
                let place = matrix.path.map(|path| format!(" in {}", path.display())).unwrap_or_default();
                printer.say(format!("{} customers at {}{place}", matrix.rows, matrix.as_of));
            }
            Ok(ExitStatus::Done)
        }
        FeaturesCommand::Show { job, as_of, key } => {
            let spec = job.load()?;
            let as_of = as_of.of(&spec)?;
            block_on(&engine, async {
                let plan = Plan::new(&spec).await?;
                let lake = Lake::open(&spec, &engine)?;
                pipeline::warn_of_passed_over(&lake, printer).await?;
                lake.refuse_before_first_event(as_of).await?;
                let session = lake.session(Visibility::at(as_of)).await?;
                let row = plan.features.show(&session, &spec, as_of, &key).await?.ok_or_else(|| {
                    Error::user(format!("there is no customer `{key}` at {as_of}"))
                        .hint("the population of that day does not hold it")
                })?;
                show(&row, &plan.columns, printer)
            })
        }
    }
}

fn entity_jobs(job: Option<FeatureJob>, printer: &Printer) -> Result<Vec<JobSpec>> {
    let mut jobs = jobs_or_all(job.as_ref().map(|job| &job.job), printer)?;
    if job.is_none() {
        jobs.retain(|job| matches!(job.task(), Task::Entity(_)));
    }
    Ok(jobs)
}

/// One customer's row, a line per column.
fn show(row: &RecordBatch, columns: &[FeatureColumn], printer: &Printer) -> Result<ExitStatus> {
    let options = FormatOptions::default().with_null("NULL");
    let schema = row.schema();
    let mut values = Vec::with_capacity(row.num_columns());
    for (field, column) in schema.fields().iter().zip(row.columns()) {
        let text = ArrayFormatter::try_new(column, &options)?.value(0).to_string();
        values.push((field.name().as_str(), text));
    }
    if printer.json() {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(row)?;
        printer.data(String::from_utf8_lossy(&writer.into_inner()));
        return Ok(ExitStatus::Done);
    }
    let width = values.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in values {
        let column = columns.iter().find(|column| column.name == name);
        let meaning = column.and_then(|column| column.description.as_deref()).unwrap_or_default();
        printer.data(format!("{name:width$}  {value:>24}  {meaning}").trim_end());
    }
    Ok(ExitStatus::Done)
}

async fn test(jobs: &[JobSpec], filter: Option<&str>, printer: &Printer) -> Result<ExitStatus> {
    let mut results = Vec::new();
    for job in jobs {
        for case in features::run_tests(job, filter).await? {
            // Jobs share SQL files, and so their tests.
            if !results.contains(&case) {
                results.push(case);
            }
        }
    }
    if printer.json() {
        printer.data_json(&results)?;
    }
    let failed = results.iter().filter(|case| !case.passed()).count();
    if !printer.json() {
        for case in &results {
            printer.data(case.to_string());
        }
        printer.say(format!("{} passed, {failed} failed", results.len() - failed));
    }
    if results.is_empty() {
        return Err(Error::user("no test case matches").hint("test cases are YAML files in tests/sql"));
    }
    Ok(if failed == 0 { ExitStatus::Done } else { ExitStatus::User })
}

async fn docs(jobs: &[JobSpec], check: Option<&std::path::Path>, printer: &Printer) -> Result<ExitStatus> {
    let mut page = String::new();
    for job in jobs {
        let plan = Plan::new(job).await?;
        page.push_str(&features::docs::markdown(job.name(), &plan.columns, &plan.labels.columns()));
    }
    let Some(file) = check else {
        printer.data(page);
        return Ok(ExitStatus::Done);
    };
    let standing = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    let Some(line) = features::docs::outdated(standing.trim_end(), page.trim_end()) else {
        return Ok(ExitStatus::Done);
    };
    Err(Error::user("this page does not say what the SQL files say")
        .at(Place::at(file.display().to_string(), line, 1))
        .hint(format!("write it anew: tenure features docs > {}", file.display())))
}
