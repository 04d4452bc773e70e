//! `tenure features test | docs | plan | build | show`.

use super::{FeatureJob, FeaturesCommand, GlobalArgs, block_on, jobs_or_all};
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{ExitStatus, Place};
use crate::features::{self, FeatureColumn};
use crate::lake::{self, Lake, Visibility};
use crate::pipeline::{self, Plan};
use crate::printer::Printer;
use crate::spec::{JobSpec, Task};
use crate::{AsOf, Error, Result};

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
