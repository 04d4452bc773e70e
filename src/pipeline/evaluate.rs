//! A trained model on a past day of the lake: what it would have said, and what happened.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Schema};
use serde::Serialize;

use super::evaluation_files;
use super::plan::Plan;
use super::snapshots::LakeSnapshots;
use crate::error::Problem;
use crate::lake::EngineOptions;
use crate::model::Bundle;
use crate::model::device::DeviceChoice;
use crate::printer::Printer;
use crate::segments::StagePlan;
use crate::spec::{BTYD_PREFIX, EntityTask, JobSpec, Loss, ModelSpec, nearest};
use crate::training::{Evaluation, Grouping, Hindsight};
use crate::{AsOf, Error, Result};

/// How an evaluation runs, and what it looks at.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Memory and threads of the queries.
    pub engine: EngineOptions,
    /// Where the model runs.
    pub device: DeviceChoice,
    /// Features or heads that part the customers, besides stages and cohorts.
    pub by: Vec<String>,
    /// How often the customers are drawn anew for the intervals.
    pub resamples: usize,
    /// A folder for the results as files.
    pub out: Option<PathBuf>,
}

/// An evaluation with the names of what was evaluated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// The job.
    pub job: String,
    /// The model.
    pub model_version: String,
    /// What came out.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// Compares what the job's model says of `as_of` with what happened from then on.
pub async fn evaluate(
    spec: &JobSpec,
    as_of: AsOf,
    options: &EvaluateOptions,
    printer: &Printer,
) -> Result<EvaluationReport> {
    let task = spec.entity_task()?;
    let model = task.model.as_ref().ok_or_else(|| Error::user("this job has no `model:` to evaluate"))?;
    if let Some(folder) = &options.out {
        evaluation_files::check(folder)?;
    }
    let plan = Plan::new(spec).await?;
    groups_exist(&plan, model, &options.by)?;
    let device = options.device.resolve()?;
    let bundle = Bundle::open(&model.bundle)?;
    let trained = bundle.manifest().trained_as_of;
    if as_of.date() < trained {
        printer.warn(format!(
            "the model was trained as of {trained}: of what followed {as_of} it has seen a part, and looks better than it is"
        ));
    }
    let horizon = u64::from(plan.labels.horizon_days());
    let source = LakeSnapshots::new(spec, &plan, &options.engine, as_of.plus_days(horizon)).await?;
    source.warn_of_passed_over(printer).await?;
    source.notes().await?.iter().for_each(|note| printer.warn(note));

    // The stages' conditions look at features as they come.
    let features = |name: &&str| plan.columns.iter().any(|column| column.name == **name);
    let read = plan.stages.as_ref().map(StagePlan::condition_columns).unwrap_or_default();
    let keep: Vec<String> = read.into_iter().filter(features).map(str::to_owned).collect();
    let hindsight = Hindsight::gather(&source, task, &bundle, as_of, device, &keep).await?;
    hindsight.notes().iter().for_each(|note| printer.warn(note));
    let customers = concat_batches(&hindsight.data().kept[0].schema(), &hindsight.data().kept)?;

    let mut groupings = Vec::new();
    groupings.extend(by_stage(task, &customers, &hindsight.scores()?)?);
    groupings.extend(by_cohort(&source, as_of, &customers).await?);
    for name in &options.by {
        groupings.push(hindsight.grouping(name)?);
    }
    let progress = printer.progress("evaluation", None);
    let evaluation = hindsight.evaluate(&groupings, options.resamples)?;
    progress.done(format!("{} resamples of {} customers", options.resamples, evaluation.customers));

    let model_version = bundle.manifest().model_version.clone();
    let report = EvaluationReport { job: spec.name().to_owned(), model_version, evaluation };
    if let Some(folder) = &options.out {
        evaluation_files::write(folder, &report, &hindsight, customers.column(0), &groupings)?;
        printer.say(format!("wrote {}", folder.display()));
    }
    Ok(report)
}

/// Whether customers can be parted by these names; asked before anything is read.
fn groups_exist(plan: &Plan, model: &ModelSpec, by: &[String]) -> Result<()> {
    let features = plan.matrix.fields().iter().skip(1).map(|field| field.name().as_str());
    let heads = model.heads.iter().filter(|head| head.loss != Loss::Softmax).map(|head| head.name.as_str());
    let known: Vec<&str> = features.chain(heads).collect();
    let unknown = by.iter().filter(|name| !known.contains(&name.as_str()) && !name.starts_with(BTYD_PREFIX));
    let problems = unknown.map(|name| {
        let problem = Problem::new(format!("there is no feature `{name}` to part the customers by, and no head"));
        let hint = nearest(name, known.iter().copied());
        problem.hint(hint.unwrap_or_else(|| "`tenure features docs` lists the columns".to_owned()))
    });
    Error::all(problems.collect())
}

/// The stage that each customer would have been in on that day.
fn by_stage(task: &EntityTask, customers: &RecordBatch, scores: &RecordBatch) -> Result<Option<Grouping>> {
    let Some(segments) = &task.segments else { return Ok(None) };
    let columns = || customers.columns().iter().chain(scores.columns()).cloned().collect();
    let fields = customers.schema().fields().iter().chain(scores.schema().fields()).cloned().collect::<Vec<_>>();
    let scored = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns())?;
    let stages = StagePlan::new(segments, &task.entity.key, scored.schema())?;
    let names = stages.stages().map(str::to_owned).collect();
    Ok(Some(Grouping::new("stage", names, stages.stages_of(&scored)?)))
}

/// The month in which each customer came; `None` where no table tells.
async fn by_cohort(source: &LakeSnapshots<'_>, as_of: AsOf, customers: &RecordBatch) -> Result<Option<Grouping>> {
    let days = source.first_days(as_of).await?;
    if days.is_empty() {
        return Ok(None);
    }
    let keys = cast(customers.column(0), &DataType::Utf8)?;
    let days: Vec<_> = keys.as_string::<i32>().iter().map(|key| days.get(key?).copied()).collect();
    Ok(Some(Grouping::of_days("cohort", &days)))
}
