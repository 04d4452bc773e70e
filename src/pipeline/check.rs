//! Whether a job could run: offline from its files alone, online against lake and model too.

use std::path::Path;

use serde::Serialize;

use super::plan::Plan;
use crate::error::{Class, Problem};
use crate::lake::{EngineOptions, Lake, Store, publish};
use crate::model::Bundle;
use crate::model::files::check_replaceable;
use crate::spec::{EntitySource, EntityTask, JobSpec, Task};
use crate::{AsOf, Error, Result};

/// What a check that found nothing wrong looked at.
#[derive(Debug, Default, Serialize)]
pub struct CheckReport {
    /// The job's name.
    pub job: String,
    /// Declared tables.
    pub tables: usize,
    /// SQL files that were planned.
    pub sql_files: usize,
    /// Columns of the matrix.
    pub features: usize,
    /// What the model predicts.
    pub heads: Vec<String>,
    /// The lifecycle stages.
    pub stages: Vec<String>,
    /// Whether lake and model were looked at.
    pub online: bool,
    /// Stale tables: a run would end with exit code 3.
    pub alerts: Vec<String>,
    /// What is not wrong but good to know.
    pub notes: Vec<String>,
}

impl std::fmt::Display for CheckReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is right: {} tables", self.job, self.tables)?;
        if self.sql_files > 0 {
            write!(f, ", {} SQL files, {} features", self.sql_files, self.features)?;
        }
        if !self.heads.is_empty() {
            write!(f, ", heads {}", self.heads.join(", "))?;
        }
        if !self.stages.is_empty() {
            write!(f, ", stages {}", self.stages.join(" → "))?;
        }
        if self.online { write!(f, "; lake and model fit") } else { Ok(()) }
    }
}

/// Checks a job without data: YAML, references, every SQL file on empty tables, and the model bundle if there is one.
pub async fn check(spec: &JobSpec) -> Result<CheckReport> {
    checked(spec).await.map(|(report, _)| report)
}

/// The same with the plan, which a text classifier has none of.
async fn checked(spec: &JobSpec) -> Result<(CheckReport, Option<Plan>)> {
    let mut planned = None;
    let mut report = CheckReport { job: spec.name().to_owned(), tables: spec.tables().len(), ..CheckReport::default() };
    match spec.task() {
        Task::Entity(task) => {
            let plan = Plan::new(spec).await?;
            report.sql_files = plan.sql_hashes().len() + plan.labels.hashes().len();
            report.features = plan.columns.len();
            report.heads = task.model.iter().flat_map(|m| &m.heads).map(|head| head.name.clone()).collect();
            report.stages = plan.stages.iter().flat_map(|stages| stages.stages().map(str::to_owned)).collect();
            report.notes.extend(check_bundle(spec, task, &plan)?);
            let timeless = task.model.as_ref().and_then(|_| timeless_population(spec, task));
            report.notes.extend(timeless.map(|problem| problem.to_string()));
            planned = Some(plan);
        }
        Task::TextClassifier(task) => {
            check_replaceable(&task.bundle, spec.name()).map_err(|e| e.at(task.bundle_place.clone()))?;
            Error::all(encoder_problem(&task.encoder).into_iter().collect())?;
        }
    }
    Ok((report, planned))
}

/// Everything that [`check`] does, then: is the lake there, are its tables as declared and fresh, does the model fit?
pub async fn check_online(spec: &JobSpec, as_of: AsOf, engine: &EngineOptions) -> Result<CheckReport> {
    let (mut report, plan) = checked(spec).await?;
    report.online = true;
    let mut problems = Vec::new();
    if let (Task::Entity(task), Some(plan)) = (spec.task(), &plan)
        && let Some(publish) = &task.publish
    {
        let store = Store::open(&publish.url)?;
        match plan.owner(spec).check(&store).await {
            Ok(_) => report.notes.extend(publish::finish_pending(&store).await?.iter().map(ToString::to_string)),
            Err(error) if error.class() == Class::User => problems.extend(error.into_problems()),
            Err(error) => return Err(error),
        }
    }
    let lake = Lake::open(spec, engine)?;
    let found = lake.look(as_of).await?;
    report.notes.extend(found.passed_over.iter().map(ToString::to_string));
    report.alerts = found.stale.iter().map(ToString::to_string).collect();
    report.notes.extend(found.notes);
    problems.extend(found.problems);
    if problems.is_empty() {
        report.notes.extend(lake.odd_times(as_of).await?);
    }
    if let Task::Entity(task) = spec.task()
        && let Some(model) = &task.model
        && let Err(error) = Bundle::open(&model.bundle)
    {
        problems.extend(error.into_problems());
    }
    // What retrying mends is told apart from what it does not.
    if problems.is_empty() {
        Error::all_of(Class::Infra, found.missing)?;
    } else {
        problems.extend(found.missing);
    }
    Error::all(problems)?;
    Ok(report)
}

/// A bundle that is there has to fit; one that is not there yet is only worth a note.
fn check_bundle(spec: &JobSpec, task: &EntityTask, plan: &Plan) -> Result<Option<String>> {
    let Some(model) = &task.model else { return Ok(None) };
    check_replaceable(&model.bundle, spec.name()).map_err(|e| e.at(model.bundle_place.clone()))?;
    if !model.bundle.join("manifest.json").exists() {
        let missing = model.text.as_ref().and_then(|text| encoder_problem(&text.encoder));
        let needed = missing.map(|problem| format!(" (but {problem})")).unwrap_or_default();
        return Ok(Some(format!(
            "there is no model in `{}` yet; `tenure train {}` makes one{needed}",
            model.bundle.display(),
            spec.file().display()
        )));
    }
    Bundle::open(&model.bundle)?.manifest().check(model, &plan.columns, &plan.sql_hashes())?;
    Ok(None)
}

/// What is wrong with the folder of a pretrained encoder, as far as can be told without reading its weights.
pub(super) fn encoder_problem(folder: &Path) -> Option<Problem> {
    let hint = "`scripts/encoder.sh FOLDER` fetches all-MiniLM-L6-v2";
    let missing = |name: &&&str| !folder.join(**name).exists();
    let what = match ["config.json", "model.safetensors", "tokenizer.json"].iter().find(missing) {
        None => return None,
        Some(_) if !folder.exists() => {
            format!("there is no encoder in `{}`: there is no such folder", folder.display())
        }
        Some(name) => format!("there is no encoder in `{}`: it has no `{name}`", folder.display()),
    };
    Some(Problem::new(what).hint(hint))
}

/// Whether everything that a training reads beside the lake is there.
pub(super) fn ready_to_train(task: &EntityTask) -> Result<()> {
    let text = task.model.as_ref().and_then(|model| model.text.as_ref());
    Error::all(text.and_then(|text| encoder_problem(&text.encoder)).into_iter().collect())
}

/// A population that is the same at every date: who came later is in past snapshots too, and has done nothing there.
fn timeless_population(spec: &JobSpec, task: &EntityTask) -> Option<Problem> {
    let EntitySource::Table { table, since: None } = &task.entity.source else { return None };
    let table = spec.tables().iter().find(|known| known.name == *table)?;
    if table.event_time.is_some() || table.known_at.is_some() {
        return None;
    }
    let message = format!(
        "nothing says when a row of `{}` came: customers of later days are in every past snapshot, and `train` and `evaluate` \
         refuse that",
        table.name
    );
    let hint = "name the time column in which they came by `since`, or as the table's `event_time`; or give a `query` of who had \
                come by `$as_of`";
    Some(Problem::new(message).at(task.entity.place.clone()).hint(hint))
}

/// Whether the customers of a past date can be told.
pub(super) fn past_is_known(spec: &JobSpec) -> Result<()> {
    Error::all(timeless_population(spec, spec.entity_task()?).into_iter().collect())
}
