//! From what a job file says to what it means: every rule, its message and its hint.
//!
//! Each part is looked at even where another one is wrong, so that all problems come at once. A value that reading
//! refused is left out silently: its problem was told there.

mod bundle;
mod csv;
mod model;
mod outcomes;
mod publish;
mod segments;
mod tables;
mod text;
mod tune;

use std::fmt::Display;

use url::Url;

use self::tables::Table;
use super::job::*;
use super::node::Pos;
use super::paths::{Root, as_folder, files, folder_url, url_below};
use super::problems::Problems;
use super::raw::{RawEntity, RawJobSpec};
use super::read::At;

/// The parts of a job that validation gives.
pub(super) struct Valid {
    pub name: String,
    pub lake: Url,
    pub timezone: chrono_tz::Tz,
    pub tables: Vec<TableSpec>,
    pub task: Task,
}

/// Checks a whole job; `None` only after a problem was told.
pub(super) fn job(raw: &RawJobSpec, start: Pos, root: &Root, problems: &mut Problems) -> Option<Valid> {
    if let Some(version) = raw.version.get() {
        let message = format!("version `{version}` is not known");
        problems.require(*version == 1, raw.version.pos, message, "this Tenure reads `version: 1`");
    }
    let lake = raw.lake.get().and_then(|lake| folder_url(lake, raw.lake.pos, root, problems));
    // Without a lake the paths below it are still checked, against a stand-in that goes nowhere.
    let below = lake.clone().or_else(|| Url::parse("file:///").ok())?;
    let timezone = raw.timezone.as_ref().map_or(Some(chrono_tz::UTC), |zone| zone.get().map(|zone| zone.0));
    let clock = tables::Clock {
        timezone: timezone.unwrap_or(chrono_tz::UTC),
        naive_times: raw.naive_times.as_ref().and_then(At::get).copied().unwrap_or_default(),
    };
    let tables = match raw.tables.get() {
        None => None,
        Some(tables) => {
            let message = "the job has no tables";
            problems.require(
                !tables.0.is_empty(),
                raw.tables.pos,
                message,
                "declare at least one table with its columns",
            );
            Some(tables::tables(tables, &below, clock, root, problems))
        }
    };
    let tables = Tables(tables);
    let task = match (&raw.entity, &raw.text_classifier) {
        (Some(entity), None) => entity_task(raw, entity, &tables, &below, root, problems),
        (None, Some(classifier)) => {
            refuse_entity_keys(raw, problems);
            let raw = classifier.get()?;
            let taken = bundle::Taken { lake: &below, tables: &tables, folders: Vec::new() };
            bundle::check(&raw.bundle, &taken, root, problems);
            text::classifier(raw, &tables, root, problems).map(|task| Task::TextClassifier(Box::new(task)))
        }
        (Some(_), Some(second)) => {
            let hint = "a job is about customers or about texts: make two files";
            problems.add(second.key, "the job has both `entity` and `text_classifier`", hint);
            None
        }
        (None, None) => {
            let hint = "add `entity: {table: …, key: …}` for customers, or `text_classifier: …` for texts";
            problems.add(start, "the job has neither `entity` nor `text_classifier`", hint);
            None
        }
    };
    Some(Valid {
        name: raw.name.get()?.0.clone(),
        lake: lake?,
        timezone: timezone?,
        tables: tables.0?.into_iter().map(|table| table.spec).collect(),
        task: task?,
    })
}

/// The tables, as far as they could be read.
struct Tables(Option<Vec<Table>>);

impl Tables {
    /// The table of this name, if it is there; tells it when it is not.
    fn find(&self, name: &At<String>, problems: &mut Problems) -> Option<&Table> {
        let (tables, wanted) = (self.0.as_ref()?, name.get()?);
        let found = tables.iter().find(|table| table.spec.name == *wanted);
        if found.is_none() {
            let names: Vec<&str> = tables.iter().map(|table| table.spec.name.as_str()).collect();
            problems.add(
                name.pos,
                format!("no table is called `{wanted}`"),
                close_or_all(wanted, &names, "the tables are"),
            );
        }
        found
    }
}

/// The nearest name, or all of them.
fn close_or_all(wrong: &str, names: &[&str], are: &str) -> String {
    super::nearest::nearest(wrong, names.iter().copied())
        .unwrap_or_else(|| format!("{are} {}", super::nearest::listed(names.iter().copied(), "and")))
}

/// The value under an optional key, or the default; tells it when it breaks the rule.
fn checked<T: Copy + Display>(
    value: &Option<At<T>>,
    default: T,
    rule: &str,
    good: impl Fn(T) -> bool,
    problems: &mut Problems,
) -> T {
    let Some((pos, value)) = value.as_ref().and_then(|at| Some((at.pos, *at.get()?))) else { return default };
    problems.require(good(value), pos, format!("`{value}` is out of range"), format!("write {rule}"));
    value
}

/// A count of things: from 1 up.
fn count(value: &Option<At<u64>>, default: u64, problems: &mut Problems) -> usize {
    let good = |count: u64| (1..=1_000_000_000).contains(&count);
    checked(value, default, "a whole number, 1 or more", good, problems) as usize
}

/// A number above 0.
fn positive(value: &Option<At<f64>>, default: f64, problems: &mut Problems) -> f64 {
    checked(value, default, "a number above 0", |number| number > 0.0, problems)
}

/// A number from 0 up.
fn not_negative(value: &Option<At<f64>>, default: f64, problems: &mut Problems) -> f64 {
    checked(value, default, "0 or a number above it", |number| number >= 0.0, problems)
}

/// A part of a whole that leaves something of it.
fn share(value: &Option<At<f64>>, default: f64, problems: &mut Problems) -> f64 {
    checked(value, default, "a share from 0 to below 1", |share| (0.0..1.0).contains(&share), problems)
}

fn entity_task(
    raw: &RawJobSpec,
    entity: &At<RawEntity>,
    tables: &Tables,
    lake: &Url,
    root: &Root,
    problems: &mut Problems,
) -> Option<Task> {
    let source = entity.get().and_then(|raw| entity_spec(raw, entity.key, tables, root, problems));
    let mut patterns = |key: &Option<At<Vec<At<String>>>>| match key.as_ref().and_then(At::get) {
        Some(patterns) => files(patterns, root, problems),
        None => Vec::new(),
    };
    let (views, features, labels) = (patterns(&raw.views), patterns(&raw.features), patterns(&raw.labels));
    match &raw.features {
        None => problems.add(entity.key, "the job has no `features`", "add `features: [sql/features/*.sql]`"),
        Some(list) => {
            let none = list.get().is_some_and(Vec::is_empty);
            problems.require(!none, list.key, "`features` is empty", "name at least one file: `[sql/features/*.sql]`");
        }
    }
    if let (Some(model), None) = (&raw.model, &raw.labels) {
        problems.add(
            model.key,
            "the model has no `labels` to learn from",
            "add `labels: [sql/labels/*.sql]` to the job",
        );
    }
    let key = source.as_ref().map(|source| source.key.as_str());
    let model = raw.model.as_ref().and_then(At::get).and_then(|raw| model::model(raw, key, root, problems));
    let segments = raw.segments.as_ref().and_then(At::get).and_then(|raw| segments::segments(raw, problems));
    let name = raw.name.get();
    let state = raw.state.as_ref().and_then(At::get).and_then(|raw| {
        let url = folder_of_its_own(lake, &raw.path, "the states", tables, root, problems)?;
        Some(StateSpec { url: url.join(&format!("{}/", name?.0)).ok()? })
    });
    let publish =
        raw.publish.as_ref().and_then(At::get).and_then(|raw| publish::publish(raw, tables, lake, root, problems));
    if let Some(raw) = raw.model.as_ref().and_then(At::get) {
        let published = publish.iter().map(|publish| ("the published tables", &publish.url));
        let states = state.iter().map(|state: &StateSpec| ("the states", &state.url));
        let taken = bundle::Taken { lake, tables, folders: published.chain(states).collect() };
        bundle::check(&raw.bundle, &taken, root, problems);
    }
    let outcomes = outcomes::outcomes(raw, model.as_ref(), problems);
    let train = model::train(raw.train.as_ref().and_then(At::get), problems);
    Some(Task::Entity(Box::new(EntityTask {
        entity: source?,
        views,
        features,
        labels,
        model,
        train,
        segments,
        outcomes,
        state,
        publish,
    })))
}

fn entity_spec(raw: &RawEntity, pos: Pos, tables: &Tables, root: &Root, problems: &mut Problems) -> Option<EntitySpec> {
    let source = match (&raw.table, &raw.query) {
        (Some(table), None) => {
            let table = tables.find(table, problems)?;
            if let Some(column_type) = table.column(&raw.key, problems) {
                let message = format!("a key cannot be of type `{}`", column_type.name());
                let hint = "a key is a whole number, `utf8`, `uuid`, `binary` or a `date`";
                problems.require(column_type.can_be_key(), raw.key.pos, message, hint);
            }
            if let Some(since) = &raw.since {
                table.time_column(since, "since", problems);
            }
            let since = raw.since.as_ref().and_then(At::get).cloned();
            EntitySource::Table { table: table.spec.name.clone(), since }
        }
        (None, Some(query)) => {
            if let Some(since) = &raw.since {
                let hint = "a query says in its WHERE who belongs: remove `since`";
                problems.add(since.key, "`since` has no meaning beside `query`", hint);
            }
            let file = root.join(query.get()?);
            let message = format!("there is no file `{}`", query.get()?);
            problems.require(file.is_file(), query.pos, message, "it is a SQL file with one row per customer");
            super::values::is_column_name(raw.key.get()?, raw.key.pos, problems);
            EntitySource::Query(file)
        }
        (Some(_), Some(second)) => {
            problems.add(second.key, "the entity has both `table` and `query`", "remove one of them");
            return None;
        }
        (None, None) => {
            let hint = "add `table: customers`, or `query: sql/population.sql`";
            problems.add(pos, "the entity has neither `table` nor `query`", hint);
            return None;
        }
    };
    Some(EntitySpec { source, key: raw.key.get()?.clone(), place: problems.place(pos) })
}

/// A folder that is not within that of a table.
fn folder_of_its_own(
    lake: &Url,
    path: &At<String>,
    what: &str,
    tables: &Tables,
    root: &Root,
    problems: &mut Problems,
) -> Option<Url> {
    let url = as_folder(url_below(lake, path.get()?, path.pos, root, problems)?);
    for table in tables.0.iter().flatten() {
        let inside = url.as_str().starts_with(as_folder(table.spec.url.clone()).as_str());
        let message = format!("{what} would lie in the folder of table `{}`", table.spec.name);
        problems.require(!inside, path.pos, message, "give them a folder of their own, such as `out/`");
    }
    Some(url)
}

fn refuse_entity_keys(raw: &RawJobSpec, problems: &mut Problems) {
    let keys = [
        ("views", raw.views.as_ref().map(|at| at.key)),
        ("features", raw.features.as_ref().map(|at| at.key)),
        ("labels", raw.labels.as_ref().map(|at| at.key)),
        ("model", raw.model.as_ref().map(|at| at.key)),
        ("train", raw.train.as_ref().map(|at| at.key)),
        ("segments", raw.segments.as_ref().map(|at| at.key)),
        ("outcomes", raw.outcomes.as_ref().map(|at| at.key)),
        ("state", raw.state.as_ref().map(|at| at.key)),
        ("publish", raw.publish.as_ref().map(|at| at.key)),
    ];
    for (key, pos) in keys {
        if let Some(pos) = pos {
            let message = format!("`{key}` has no meaning in a text classifier's job");
            problems.add(pos, message, "remove it; what is learned stands under `text_classifier`");
        }
    }
}
