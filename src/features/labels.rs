//! What lies ahead: label files, aggregates of the rows in `[as_of, as_of + horizon)`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::datatypes::DataType;
use datafusion::common::{JoinType, ScalarValue};
use datafusion::prelude::{DataFrame, SessionContext};

use super::FeatureStream;
use super::bench::Bench;
use super::definition::{Definition, Role};
use super::explain::{ExplainedFile, Explainer};
use super::matrix::{named, or_empty};
use super::part::{self, Part, PartColumn, Span};
use super::prepare::event_time_of;
use super::rows::{self, Checker};
use super::set::{FeatureSet, unique_columns};
use crate::error::{Place, Problem};
use crate::spec::{EntityTask, TableSpec};
use crate::{AsOf, Error, Result};

/// A column of the labels, as its file declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelColumn {
    /// Its name.
    pub name: String,
    /// What it means.
    pub description: Option<String>,
    /// Who looks after it.
    pub owner: Option<String>,
    /// The SQL file that it comes from.
    pub file: String,
    /// Where it stands in that file.
    pub place: Place,
    /// How many days it looks ahead.
    pub horizon_days: u32,
    /// The label of customers without rows in the horizon, by the file's `@default`; without it they have none. `None` for a
    /// text.
    pub default: Option<f64>,
    /// The same as a text, for classes.
    pub default_class: Option<String>,
}

/// The label files of a job.
#[derive(Debug, Clone)]
pub struct LabelSet {
    key: String,
    files: Vec<Definition>,
}

impl LabelSet {
    /// Reads and checks every label file; all problems come at once.
    pub fn load(task: &EntityTask, root: &Path) -> Result<LabelSet> {
        let (set, problems) = Self::gather(task, root);
        Error::all(problems)?;
        Ok(set)
    }

    pub(super) fn gather(task: &EntityTask, root: &Path) -> (LabelSet, Vec<Problem>) {
        let mut problems = Vec::new();
        let key = task.entity.key.clone();
        let read = |path: &std::path::PathBuf| Definition::read(path, root, Role::Label, &key, &mut problems);
        let files: Vec<Definition> = task.labels.iter().filter_map(read).collect();
        unique_columns(&files, &key, &mut problems);
        (LabelSet { key, files }, problems)
    }

    pub(super) fn of(key: &str, files: Vec<Definition>) -> LabelSet {
        LabelSet { key: key.to_owned(), files }
    }

    pub(super) fn files(&self) -> &[Definition] {
        &self.files
    }

    /// Every label column, in the order of the files.
    pub fn columns(&self) -> Vec<LabelColumn> {
        let of_file = |file: &Definition| {
            let default = |name: &str, data_type: &DataType| {
                let (value, _) = file.header.defaults.get(name)?;
                value.cast_to(data_type).ok().filter(|value| !value.is_null())
            };
            let column = |(name, item, _): (String, &super::definition::Item, _)| LabelColumn {
                default: match default(&name, &DataType::Float64) {
                    Some(ScalarValue::Float64(number)) => number,
                    _ => None,
                },
                default_class: match default(&name, &DataType::Utf8) {
                    Some(ScalarValue::Utf8(text)) => text,
                    _ => None,
                },
                place: file.place(item.name_at),
                name,
                description: item.description.clone(),
                owner: file.header.owner.clone(),
                file: file.file.clone(),
                horizon_days: horizon_of(file),
            };
            file.outputs(&self.key).into_iter().map(column).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    /// The declared tables behind each label column, through views.
    pub fn tables(&self, features: &FeatureSet) -> BTreeMap<String, BTreeSet<String>> {
        let of_file = |file: &Definition| {
            let tables = features.tables_behind(std::iter::once(file));
            file.outputs(&self.key).into_iter().map(|(name, ..)| (name, tables.clone())).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    /// The longest horizon, in days: what must have passed before a label is known.
    pub fn horizon_days(&self) -> u32 {
        self.files.iter().map(horizon_of).max().unwrap_or(0)
    }

    /// One set per file, the longest horizon first: each is to be computed by itself, over its own days.
    pub fn by_file(&self) -> Vec<LabelSet> {
        let mut files: Vec<&Definition> = self.files.iter().collect();
        files.sort_by_key(|file| std::cmp::Reverse(horizon_of(file)));
        files.into_iter().map(|file| LabelSet { key: self.key.clone(), files: vec![file.clone()] }).collect()
    }

    /// The files behind these columns, and no others.
    pub fn behind(&self, columns: &[&str]) -> LabelSet {
        let wanted =
            |file: &&Definition| file.outputs(&self.key).iter().any(|(name, ..)| columns.contains(&name.as_str()));
        LabelSet { key: self.key.clone(), files: self.files.iter().filter(wanted).cloned().collect() }
    }

    /// SHA-256 of every label file, by its name in the job.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.files.iter().map(|file| (file.file.clone(), file.hash.clone())).collect()
    }

    /// Plans every label file on `context` and says what is wrong.
    pub async fn check(
        &self,
        features: &FeatureSet,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
    ) -> Result<Vec<Problem>> {
        let bench = Bench::over(context).await?;
        let as_of = AsOf::new(chrono::NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default(), chrono_tz::UTC);
        // The views' own problems are told by the features.
        features.add_views(&bench, as_of.instant()).await?;
        let mut problems = Vec::new();
        for file in &self.files {
            if let Err(more) = part_of(file, features, &bench, tables.as_ref(), as_of).await {
                problems.extend(more);
            }
        }
        Ok(problems)
    }

    /// The labels at `as_of`, for the keys that have rows in the horizon of any file, sorted by key; a key without rows in that of
    /// a file has its `@default`s there, or NULL. `context` shows rows up to `as_of` plus the longest horizon; the windows cut off
    /// what lies before and after by themselves, but views and joined tables do not: files of different horizons are computed
    /// apart ([`Self::by_file`]).
    pub async fn labels(
        &self,
        features: &FeatureSet,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
    ) -> Result<FeatureStream> {
        let bench = Bench::over(context).await?;
        let until = as_of.plus_days(u64::from(self.horizon_days()));
        let mut problems = features.add_views(&bench, until.instant()).await?;
        let mut parts = Vec::new();
        for file in &self.files {
            match part_of(file, features, &bench, tables.as_ref(), as_of).await {
                Ok(part) => parts.push(part),
                Err(more) => problems.extend(more),
            }
        }
        Error::all(problems)?;
        let key_type = parts.first().map_or(DataType::Int64, |part| part.key_type.clone());
        let columns: Vec<PartColumn> = parts.iter().flat_map(|part| part.columns.clone()).collect();
        let files = self.files.iter().zip(&parts).map(|(file, part)| ExplainedFile {
            definition: file.clone(),
            columns: part.columns.clone(),
            plans: vec![part.plan.clone()],
        });
        let explainer = Explainer {
            key: self.key.clone(),
            views: features.views.clone(),
            files: files.collect(),
            population: None,
            contexts: vec![bench.context().clone()],
            only: None,
        };
        let schema = features.schema(&key_type, columns.iter().map(|c| (c.name.as_str(), &c.data_type)));
        let Some(frame) = joined(&bench, &self.key, parts)? else {
            return Ok(FeatureStream::new(schema, as_of, futures::stream::empty()));
        };
        let stream = rows::checked(frame.execute_stream().await?, Checker::new(schema.clone(), Vec::new()));
        Ok(FeatureStream::new(schema, as_of, stream).explained(explainer))
    }
}

fn horizon_of(file: &Definition) -> u32 {
    file.header.horizon.map_or(0, |(days, _)| days)
}

async fn part_of(
    file: &Definition,
    features: &FeatureSet,
    bench: &Bench,
    tables: &[TableSpec],
    as_of: AsOf,
) -> Result<Part, Vec<Problem>> {
    let plan = bench.plan(file, as_of.instant()).await?;
    let event_time = event_time_of(features, tables, file)?;
    let until = as_of.plus_days(u64::from(horizon_of(file)));
    let span = Span { window: None, from: Some(as_of), until: Some(until) };
    part::windowed(bench, file, plan, features.key(), &event_time, &[span])
}

/// Every key that any file has, with all columns, sorted by key.
fn joined(bench: &Bench, key: &str, parts: Vec<Part>) -> Result<Option<DataFrame>> {
    let mut whole: Option<(DataFrame, Vec<PartColumn>)> = None;
    for (i, part) in parts.into_iter().enumerate() {
        let right_key = format!("{}_{i}", Part::KEY);
        let mut select = vec![named(Part::KEY).alias(right_key.clone())];
        select.extend(part.columns.iter().map(|c| named(&c.name)));
        let right = bench.frame(part.plan).filter(named(Part::KEY).is_not_null())?.select(select)?;
        whole = Some(match whole {
            None => {
                let select =
                    std::iter::once(named(&right_key).alias(key)).chain(part.columns.iter().map(|c| named(&c.name)));
                (right.select(select.collect::<Vec<_>>())?, part.columns)
            }
            Some((left, mut columns)) => {
                let both = left.join_on(right, JoinType::Full, [named(key).eq(named(&right_key))])?;
                let either = vec![named(key), named(&right_key)];
                let mut select = vec![datafusion::functions::core::expr_fn::coalesce(either).alias(key)];
                for column in &columns {
                    select.push(or_empty(column, &named(key))?);
                }
                for column in &part.columns {
                    select.push(or_empty(column, &named(&right_key))?);
                }
                columns.extend(part.columns);
                (both.select(select)?, columns)
            }
        });
    }
    whole.map(|(frame, _)| frame.sort(vec![named(key).sort(true, true)])).transpose().map_err(Error::from)
}
