//! The states of a job by themselves: what there is, whether it is right, and all of it anew.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::NaiveDate;
use futures::StreamExt;
use serde::Serialize;

use super::Plan;
use crate::error::{Class, Place};
use crate::features::{FeatureStream, GroupState, Manifest, StateReport, States};
use crate::lake::{self, EngineOptions, Lake, Visibility};
use crate::printer::Printer;
use crate::spec::JobSpec;
use crate::{AsOf, Error, Result};

/// The states of a job.
#[derive(Debug, Clone, Serialize)]
pub struct StateList {
    /// Their folder.
    pub folder: String,
    /// The newest date that they were written at; `None` where there are none.
    pub as_of: Option<NaiveDate>,
    /// What is added up together.
    pub groups: Vec<ListedGroup>,
}

/// The states of what some feature files ask of a table.
#[derive(Debug, Clone, Serialize)]
pub struct ListedGroup {
    /// The table.
    pub table: String,
    /// The feature files.
    pub files: Vec<String>,
    /// The first day.
    pub from: Option<NaiveDate>,
    /// The day after the last one.
    pub until: Option<NaiveDate>,
    /// The last date at which they were used.
    pub used: NaiveDate,
    /// Blocks of days.
    pub blocks: usize,
    /// Rows: a customer in a block.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a look at all states found.
#[derive(Debug, Clone, Serialize)]
pub struct StateVerdict {
    /// Blocks that were read.
    pub blocks: usize,
    /// What is wrong with some of them.
    pub damaged: Vec<String>,
    /// The date at which the features from states were compared with those from all rows.
    pub as_of: NaiveDate,
    /// Customers.
    pub customers: u64,
    /// Columns that differ, with the first key that shows it.
    pub different: Vec<String>,
    /// Files that no manifest names: left by runs that did not end.
    pub orphans: usize,
}

impl StateVerdict {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.damaged.is_empty() && self.different.is_empty()
    }
}

/// The states of a job for a run over this lake, if it keeps any. They save time and nothing else: a run goes on without them.
pub(super) async fn open(
    spec: &JobSpec,
    engine: &EngineOptions,
    lake: &Lake,
    printer: &Printer,
) -> Result<Option<Arc<States>>> {
    match States::open(spec, engine.threads).await {
        Ok(Some(states)) => {
            states.vouch(lake);
            Ok(Some(Arc::new(states)))
        }
        Ok(None) => Ok(None),
        Err(error) if error.class() == Class::Bug => Err(error),
        Err(error) => {
            printer.warn(format!("states are not used and not kept: {error}"));
            Ok(None)
        }
    }
}

/// Puts in force what a run has written; a run whose states cannot be written goes on without them.
pub(super) async fn commit(states: &States, printer: &Printer) -> Result<()> {
    match states.commit().await {
        Ok(report) => report.notes.iter().for_each(|note| printer.warn(note)),
        Err(error) if error.class() == Class::Bug => return Err(error),
        Err(error) => printer.warn(format!("states are not kept: {error}")),
    }
    Ok(())
}

/// The states of a job; an error where it keeps none.
pub async fn list(spec: &JobSpec, engine: &EngineOptions) -> Result<StateList> {
    let states = states(spec, engine).await?;
    let manifest = states.manifest();
    let groups = manifest.iter().flat_map(|manifest| manifest.groups.iter().map(|group| listed(manifest, group)));
    let folder = states.store().url().to_string();
    Ok(StateList { folder, as_of: manifest.as_ref().map(|manifest| manifest.as_of), groups: groups.collect() })
}

fn listed(manifest: &Manifest, group: &GroupState) -> ListedGroup {
    let date = |days: i32| NaiveDate::default() + chrono::Duration::days(i64::from(days));
    let days = || group.blocks.iter().filter(|state| state.rows > 0).map(|state| state.block.days());
    ListedGroup {
        table: group.table.clone(),
        files: group.files.clone(),
        // The oldest block may begin before the first row does.
        from: days().map(|days| days.start).min().max(manifest.first_day(&group.table)).map(date),
        until: days().map(|days| days.end).max().map(date),
        used: group.used,
        blocks: group.blocks.len(),
        rows: group.blocks.iter().map(|state| state.rows).sum(),
        bytes: group.blocks.iter().filter_map(|state| Some(state.file.as_ref()?.bytes)).sum(),
    }
}

/// Computes all states of a job anew, as they are at `as_of`, and deletes files that no manifest names.
pub async fn rebuild(spec: &JobSpec, as_of: AsOf, engine: &EngineOptions) -> Result<StateReport> {
    let states = states(spec, engine).await?;
    if let Some(newer) = states.manifest().map(|manifest| manifest.as_of).filter(|newer| *newer > as_of.date()) {
        let error = Error::user(format!("there are states of {newer}, and those of {as_of} would be older"));
        return Err(error.hint(format!("rebuild them with `--as-of {newer}` or a later day")));
    }
    states.distrust();
    lake::forget_finds(states.store()).await?;
    let states = Arc::new(states);
    let mut rows = features(spec, as_of, engine, Some(Arc::clone(&states))).await?;
    while let Some(batch) = rows.next().await {
        batch?;
    }
    let report = states.commit().await?;
    for orphan in orphans(&states).await? {
        states.store().delete(&orphan).await?;
    }
    Ok(report)
}

/// Reads every state, and compares the features that they give with those of all rows, at `as_of` or at the date of the states.
pub async fn verify(spec: &JobSpec, as_of: Option<AsOf>, engine: &EngineOptions) -> Result<StateVerdict> {
    let states = states(spec, engine).await?;
    let manifest = states.manifest().ok_or_else(|| {
        Error::user(format!("there are no states in `{}`", states.store().url()))
            .hint("a night writes them, and so does `tenure state rebuild`")
    })?;
    let as_of = as_of.unwrap_or_else(|| AsOf::new(manifest.as_of, spec.timezone()));
    let damaged = states.damaged(&manifest).await?;
    let orphans = orphans(&states).await?.len();
    states.only_read();
    let blocks = manifest.groups.iter().map(|group| group.blocks.len()).sum();
    let quick = features(spec, as_of, engine, Some(Arc::new(states))).await?;
    let (customers, different) = compared(quick, features(spec, as_of, engine, None).await?).await?;
    Ok(StateVerdict { blocks, damaged, as_of: as_of.date(), customers, different, orphans })
}

async fn states(spec: &JobSpec, engine: &EngineOptions) -> Result<States> {
    States::open(spec, engine.threads).await?.ok_or_else(|| {
        Error::user("the job keeps no states")
            .at(Place::file(spec.file().display().to_string()))
            .hint("add `state: {path: _state/}`")
    })
}

async fn features(
    spec: &JobSpec,
    as_of: AsOf,
    engine: &EngineOptions,
    states: Option<Arc<States>>,
) -> Result<FeatureStream> {
    let plan = Plan::new(spec).await?;
    let lake = Lake::open(spec, engine)?;
    if let Some(states) = &states {
        states.vouch(&lake);
    }
    let session = lake.session(Visibility::at(as_of)).await?;
    plan.features.without_sequence().matrix_with(&session, spec, as_of, states).await
}

/// Compares two matrices, which come in batches of one size; says how many rows there are and which columns differ.
async fn compared(mut one: FeatureStream, mut other: FeatureStream) -> Result<(u64, Vec<String>)> {
    let (mut rows, mut different, mut known) = (0, Vec::new(), HashSet::new());
    loop {
        let (a, b) = match (one.next().await.transpose()?, other.next().await.transpose()?) {
            (Some(a), Some(b)) if a.num_rows() == b.num_rows() => (a, b),
            (None, None) => return Ok((rows, different)),
            _ => {
                different.push("there are other customers".to_owned());
                return Ok((rows, different));
            }
        };
        rows += a.num_rows() as u64;
        for (i, field) in a.schema().fields().iter().enumerate() {
            if a.column(i) == b.column(i) || !known.insert(i) {
                continue;
            }
            let row = (0..a.num_rows()).find(|row| a.column(i).slice(*row, 1) != b.column(i).slice(*row, 1));
            let key = row.map(|row| key_of(&a, row)).unwrap_or_default();
            different.push(format!("`{}`, first of the customer `{key}`", field.name()));
        }
    }
}

/// The key of a row as text.
fn key_of(batch: &arrow::array::RecordBatch, row: usize) -> String {
    arrow::util::display::array_value_to_string(batch.column(0), row).unwrap_or_default()
}

/// Files of states that neither are in force nor were until lately.
async fn orphans(states: &States) -> Result<Vec<String>> {
    let manifest: Option<Arc<Manifest>> = states.manifest();
    let known: HashSet<&str> = manifest.iter().flat_map(|manifest| manifest.known()).collect();
    let files = states.store().list("").await?.into_iter().map(|object| object.path);
    Ok(files.filter(|path| path.ends_with(".parquet") && !known.contains(path.as_str())).collect())
}
