//! The SQL files of a job, read together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::datatypes::Field;
use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;

use super::bench::Bench;
use super::definition::{Definition, Kind, Role};
use super::{FeatureColumn, prepare, sequence};
use crate::error::Problem;
use crate::spec::{EntitySource, EntitySpec, EntityTask, TableSpec};
use crate::{AsOf, Error, Result};

/// The population, views and feature files of a job, and the events of its model's sequence.
#[derive(Debug, Clone)]
pub struct FeatureSet {
    pub(super) entity: EntitySpec,
    pub(super) population: Option<Definition>,
    pub(super) views: Vec<Definition>,
    pub(super) features: Vec<Definition>,
    pub(super) sequence: Option<Sequence>,
}

/// The events file, and how many events of a customer are wanted.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub events: Definition,
    pub length: usize,
}

impl FeatureSet {
    /// Reads and checks every file; all problems come at once, each with its place in its file. Positions name the
    /// files relative to `root`.
    pub fn load(task: &EntityTask, root: &Path) -> Result<FeatureSet> {
        let (set, problems) = Self::gather(task, root);
        Error::all(problems)?;
        Ok(set)
    }

    /// Reads every file and leaves out those with problems.
    pub(super) fn gather(task: &EntityTask, root: &Path) -> (FeatureSet, Vec<Problem>) {
        let mut problems = Vec::new();
        let key = &task.entity.key;
        let mut read = |paths: &[std::path::PathBuf], role| -> Vec<Definition> {
            paths.iter().filter_map(|path| Definition::read(path, root, role, key, &mut problems)).collect()
        };
        let views = read(&task.views, Role::View);
        let features = read(&task.features, Role::Feature);
        let population = match &task.entity.source {
            EntitySource::Query(path) => read(std::slice::from_ref(path), Role::Population).pop(),
            EntitySource::Table { .. } => None,
        };
        let sequence = task.model.as_ref().and_then(|model| model.sequence.as_ref());
        let sequence = sequence.and_then(|spec| {
            let events = read(std::slice::from_ref(&spec.events), Role::Events).pop()?;
            Some(Sequence { events, length: spec.length })
        });
        unique_views(&views, &mut problems);
        unique_columns(&features, key, &mut problems);
        if sequence.is_some() {
            name_is_free(&features, key, &mut problems);
        }
        (FeatureSet { entity: task.entity.clone(), population, views, features, sequence }, problems)
    }

    /// The declared tables behind the feature files and the model's events, through views.
    pub fn tables(&self) -> BTreeSet<String> {
        let files = self.features.iter().chain(self.sequence.as_ref().map(|sequence| &sequence.events));
        self.tables_behind(files)
    }

    /// The tables behind files, through views.
    pub(super) fn tables_behind<'a>(&'a self, files: impl Iterator<Item = &'a Definition>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting: Vec<&str> = files.flat_map(|file| file.tables.iter().map(|(name, _)| name.as_str())).collect();
        while let Some(name) = waiting.pop() {
            if found.insert(name.to_owned())
                && let Some(view) = self.views.iter().find(|view| view.stem == name)
            {
                waiting.extend(view.tables.iter().map(|(name, _)| name.as_str()));
            }
        }
        found
    }

    /// Whether the newest events of a customer are read.
    pub fn has_sequence(&self) -> bool {
        self.sequence.is_some()
    }

    /// The same without the events, for a model that does not read them.
    pub fn without_sequence(&self) -> FeatureSet {
        FeatureSet { sequence: None, ..self.clone() }
    }

    /// The key column's name.
    pub fn key(&self) -> &str {
        &self.entity.key
    }

    /// SHA-256 of every file that the matrix depends on, by its name in the job.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let files = self.population.iter().chain(&self.views).chain(&self.features);
        let files = files.chain(self.sequence.as_ref().map(|sequence| &sequence.events));
        files.map(|definition| (definition.file.clone(), definition.hash.clone())).collect()
    }

    /// Plans everything on `context` (its tables may be empty) and says which columns come out, in the order of the
    /// matrix, without the key; [`super::SEQUENCE`] comes last where the job's model reads one. Problems of all files come at once.
    pub async fn resolve(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
    ) -> Result<Vec<FeatureColumn>> {
        Ok(self.resolve_with_key(context, tables).await?.1)
    }

    /// As [`Self::resolve`], with the field of the key.
    pub async fn resolve_with_key(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
    ) -> Result<(Field, Vec<FeatureColumn>)> {
        let bench = Bench::over(context).await?;
        let as_of = AsOf::new(chrono::NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default(), chrono_tz::UTC);
        let mut problems = self.add_views(&bench, as_of.instant()).await?;
        let prepared = prepare::prepare(self, &bench, tables.as_ref(), as_of, &mut problems).await?;
        for (definition, plan) in prepared.plans() {
            if let Err(error) = bench.context().state().create_physical_plan(plan).await {
                problems.push(super::bench::problem(definition, &error, definition.begin));
            }
        }
        let mut columns = prepared.columns(self);
        match self.sequence_plan(&bench, &prepared.key_type, as_of).await {
            Ok(Some(sequence)) => {
                if let Err(error) = bench.context().state().create_physical_plan(&sequence.plan).await {
                    problems.push(super::bench::problem(sequence.events, &error, sequence.events.begin));
                }
                columns.push(sequence.column());
            }
            Ok(None) => {}
            Err(more) => problems.extend(more),
        }
        Error::all(problems)?;
        let key = self.schema(&prepared.key_type, std::iter::empty()).field(0).clone();
        Ok((key, columns))
    }

    /// Adds the views that are not there yet to the bench; views see tables and the views before them.
    pub(super) async fn add_views(&self, bench: &Bench, until: DateTime<Utc>) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for view in &self.views {
            if bench.names()?.contains(&view.stem) {
                continue;
            }
            match prepare::view(bench, view, until).await {
                Ok(plan) => bench.register(&view.stem, bench.frame(plan).into_view())?,
                Err(more) => problems.extend(more),
            }
        }
        Ok(problems)
    }

    /// The column that says when a row of a table or view happened.
    pub(super) fn event_time(&self, table: &str, tables: &[TableSpec]) -> Option<String> {
        let view = self.views.iter().find(|view| view.stem == table);
        match view {
            Some(view) => view.header.event_time.as_ref().map(|(name, _)| name.clone()),
            None => tables.iter().find(|t| t.name == table)?.event_time.clone(),
        }
    }
}

/// The column of the events has its name to itself.
fn name_is_free(features: &[Definition], key: &str, problems: &mut Vec<Problem>) {
    for definition in features {
        let outputs = definition.outputs(key);
        if let Some((_, item, _)) = outputs.iter().find(|(name, ..)| name == sequence::SEQUENCE) {
            problems.push(
                Problem::new(format!("`{}` is the name of the events that `model.sequence` reads", sequence::SEQUENCE))
                    .at(definition.place(item.name_at))
                    .hint("give the feature another name"),
            );
        }
    }
}

fn unique_views(views: &[Definition], problems: &mut Vec<Problem>) {
    for (i, view) in views.iter().enumerate() {
        if let Some(earlier) = views[..i].iter().find(|earlier| earlier.stem == view.stem) {
            problems.push(
                Problem::new(format!("there are two views `{}`; the other is `{}`", view.stem, earlier.file))
                    .at(crate::error::Place::file(&view.file))
                    .hint("a view is named after its file: rename one"),
            );
        }
    }
}

/// No two files may make the same column.
pub(super) fn unique_columns(files: &[Definition], key: &str, problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<String, &Definition> = BTreeMap::new();
    for definition in files {
        let mut said: Vec<&str> = Vec::new();
        for (name, item, _) in definition.outputs(key) {
            match owners.get(&name) {
                Some(owner) if owner.file != definition.file && !said.contains(&item.name.as_str()) => {
                    said.push(&item.name);
                    problems.push(
                        Problem::new(format!("the column `{name}` is already made by `{}`", owner.file))
                            .at(definition.place(item.name_at))
                            .hint("give one of them another name"),
                    );
                }
                Some(_) => {}
                None => {
                    owners.insert(name, definition);
                }
            }
        }
        // `orders_7d` beside `orders` with the window `7d` in one file.
        if definition.kind == Kind::Windowed {
            let mut seen: Vec<String> = Vec::new();
            for (name, item, _) in definition.outputs(key) {
                if seen.contains(&name)
                    && !definition.items.iter().any(|i| i.name == item.name && i.name_at != item.name_at)
                {
                    problems.push(
                        Problem::new(format!("the column `{name}` is made twice"))
                            .at(definition.place(item.name_at))
                            .hint("a window's name is part of the column's"),
                    );
                }
                seen.push(name);
            }
        }
    }
}
