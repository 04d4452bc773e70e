//! Source tables: columns, partitions, time columns and checks.

use url::Url;

use crate::spec::column::{ColumnSpec, ColumnType};
use crate::spec::csv::CsvFormat;
use crate::spec::job::*;
use crate::spec::node::{Key, Pos};
use crate::spec::paths::{Root, url_below};
use crate::spec::problems::Problems;
use crate::spec::raw::{RawBounds, RawChecks, RawColumn, RawColumnOptions, RawTable};
use crate::spec::read::{At, Keyed, OneOrMany};
use crate::spec::values::{Literal, is_column_name, is_name};
use crate::spec::version::TableVersion;

use super::close_or_all;
use super::csv::csv_format;
use super::publish::max_shrink;

/// Names that SQL files use for what the engine makes.
const RESERVED: [&str; 2] = ["features", "population"];

/// A table and the columns that others may refer to.
pub(super) struct Table {
    pub spec: TableSpec,
    /// Every declared column; without a type where that was refused.
    known: Vec<(String, Option<ColumnType>)>,
    /// Whether the columns could be read at all.
    readable: bool,
}

impl Table {
    /// The type of a column that another key refers to, if it is there; tells it when it is not.
    pub fn column(&self, column: &At<String>, problems: &mut Problems) -> Option<ColumnType> {
        let wanted = column.get()?;
        self.column_named(wanted, column.pos, problems)
    }

    fn column_named(&self, wanted: &str, pos: Pos, problems: &mut Problems) -> Option<ColumnType> {
        let found = self.known.iter().find(|(name, _)| name == wanted);
        if found.is_none() && self.readable {
            let names: Vec<&str> = self.known.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("table `{}` has no column `{wanted}`", self.spec.name);
            problems.add(pos, message, close_or_all(wanted, &names, "its columns are"));
        }
        found.and_then(|(_, column_type)| *column_type)
    }

    /// The same for a column that holds a time.
    pub fn time_column(&self, column: &At<String>, key: &str, problems: &mut Problems) {
        if let Some(column_type) = self.column(column, problems) {
            let good = matches!(column_type, ColumnType::Timestamp | ColumnType::Date);
            let message = format!("`{key}` cannot be a column of type `{}`", column_type.name());
            problems.require(good, column.pos, message, "it must be a `timestamp` or a `date`");
        }
    }
}

/// What the job says of the times of all its tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The job's time zone.
    pub timezone: chrono_tz::Tz,
    /// What times without a zone mean where a table does not say.
    pub naive_times: NaiveTimes,
}

/// All tables of a job.
pub(super) fn tables(
    raw: &Keyed<RawTable>,
    lake: &Url,
    clock: Clock,
    root: &Root,
    problems: &mut Problems,
) -> Vec<Table> {
    raw.0
        .iter()
        .map(|(key, raw)| {
            is_name(&key.name, key.pos, problems);
            let reserved = RESERVED.contains(&key.name.as_str());
            let message = format!("a table cannot be called `{}`", key.name);
            problems.require(!reserved, key.pos, message, "SQL files use this name for what is computed");
            match raw.get() {
                Some(raw) => table(key, raw, lake, clock, root, problems),
                None => unreadable(key, lake, problems),
            }
        })
        .collect()
}

/// A table whose declaration was refused: its name is known, nothing else.
fn unreadable(key: &Key, lake: &Url, problems: &Problems) -> Table {
    let spec = TableSpec {
        name: key.name.clone(),
        place: problems.place(key.pos),
        url: lake.clone(),
        format: Format::Parquet,
        version: None,
        partition_by: Vec::new(),
        event_time: None,
        known_at: None,
        columns: Vec::new(),
        csv: CsvFormat::default(),
        checks: Vec::new(),
        timezone: chrono_tz::UTC,
        naive_times: NaiveTimes::default(),
        may_be_empty: false,
        max_shrink: None,
    };
    Table { spec, known: Vec::new(), readable: false }
}

fn table(key: &Key, raw: &RawTable, lake: &Url, clock: Clock, root: &Root, problems: &mut Problems) -> Table {
    let mut table = unreadable(key, lake, problems);
    if let Some(path) = raw.path.get() {
        if let Some(url) = url_below(lake, path, raw.path.pos, root, problems) {
            table.spec.url = url;
        }
        let endings = [".csv", ".csv.gz", ".csv.zst"];
        let csv = endings.iter().any(|ending| path.ends_with(ending)) && raw.format.is_none();
        table.spec.format = if csv { Format::Csv } else { Format::Parquet };
    }
    if let Some(format) = raw.format.as_ref().and_then(At::get) {
        table.spec.format = *format;
    }
    table.spec.timezone = clock.timezone;
    table.spec.naive_times = raw.naive_times.as_ref().and_then(At::get).copied().unwrap_or(clock.naive_times);
    table.spec.may_be_empty = raw.may_be_empty.as_ref().and_then(At::get).copied().unwrap_or(false);
    let own = raw.max_shrink.is_some();
    table.spec.max_shrink = own.then(|| max_shrink(&raw.max_shrink, 1.0, problems));
    table.spec.version = version(raw, problems);
    table.spec.csv = csv_format(raw, table.spec.format, problems);
    columns(&mut table, raw, problems);
    partitions(&mut table, raw, problems);
    if let Some(event_time) = &raw.event_time {
        table.time_column(event_time, "event_time", problems);
        table.spec.event_time = event_time.get().cloned();
    }
    if let Some(known_at) = &raw.known_at {
        table.time_column(known_at, "known_at", problems);
        table.spec.known_at = known_at.get().cloned();
    }
    let groups = raw.checks.as_ref().and_then(At::get).map(|groups| groups.0.as_slice());
    for group in groups.unwrap_or_default().iter() {
        if let Some(raw_group) = group.get() {
            checks(&mut table, raw_group, group.pos, raw.event_time.is_some(), problems);
        }
    }
    table
}

/// The version of a Delta table that is named, if any.
fn version(raw: &RawTable, problems: &mut Problems) -> Option<TableVersion> {
    if let (Some(_), Some(timestamp)) = (&raw.version, &raw.timestamp) {
        problems.add(timestamp.key, "both `version` and `timestamp` are given", "name the version by one of them");
    }
    let number = raw.version.as_ref().and_then(At::get).map(|number| TableVersion::Number(*number));
    number.or_else(|| raw.timestamp.as_ref().and_then(At::get).map(|at| TableVersion::Timestamp(at.0)))
}

fn columns(table: &mut Table, raw: &RawTable, problems: &mut Problems) {
    let Some(columns) = raw.columns.get() else { return };
    table.readable = true;
    let message = format!("table `{}` has no columns", table.spec.name);
    let hint = "declare the columns that SQL files read: `columns: {customer_id: int64}`";
    problems.require(!columns.0.is_empty(), raw.columns.pos, message, hint);
    for (key, raw) in &columns.0 {
        is_column_name(&key.name, key.pos, problems);
        let column_type = match raw.get() {
            Some(RawColumn::Type(column_type)) => Some(*column_type),
            Some(RawColumn::Options(options)) => options.column_type.get().copied(),
            None => None,
        };
        table.known.push((key.name.clone(), column_type));
        let Some(column_type) = column_type else { continue };
        let text = table.spec.format == Format::Parquet || column_type != ColumnType::Binary;
        problems.require(
            text,
            key.pos,
            "a column of a CSV file cannot be `binary`",
            "it holds text: declare it as `utf8`",
        );
        let mut column = ColumnSpec::new(key.name.clone(), column_type, problems.place(key.pos));
        if let Some(RawColumn::Options(options)) = raw.get() {
            set_options(&mut column, options, table.spec.format, problems);
        }
        table.spec.columns.push(column);
    }
}

/// What is said of a column beside its type.
fn set_options(column: &mut ColumnSpec, raw: &RawColumnOptions, format: Format, problems: &mut Problems) {
    column.optional = raw.optional.as_ref().and_then(At::get).copied().unwrap_or_default();
    let Some(from) = &raw.from else { return };
    let names: Vec<&At<String>> = from.get().map(|names| names.0.iter().collect()).unwrap_or_default();
    let path: Vec<String> = match names.as_slice() {
        // The header line of a CSV file has names alone, no structs.
        [name] if format == Format::Parquet && name.pos == from.pos => {
            name.get().map(|name| name.split('.').map(str::to_owned).collect()).unwrap_or_default()
        }
        names => names.iter().filter_map(|name| name.get().cloned()).collect(),
    };
    if path.is_empty() || names.len() != names.iter().filter(|name| name.get().is_some()).count() {
        let message = format!("`from` of column `{}` names no column of the files", column.name);
        // A value that could not be read was told already.
        problems.require(!names.is_empty(), from.pos, message, "write the name in the files: `from: \"Order ID\"`");
        return;
    }
    let message = format!("`{}` is no path to a column", path.join("."));
    let whole = path.iter().all(|name| !name.is_empty());
    problems.require(whole, from.pos, message, "a name with a dot of its own stands in a list: `from: [\"order.\"]`");
    let message = format!("`{}` goes into a struct, and CSV has none", path.join("."));
    let flat = format == Format::Parquet || path.len() == 1;
    problems.require(flat, from.pos, message, "write the name that stands in the header line");
    column.from = path;
}

fn partitions(table: &mut Table, raw: &RawTable, problems: &mut Problems) {
    let Some(partitions) = raw.partition_by.as_ref().and_then(At::get) else { return };
    for (key, column_type) in &partitions.0 {
        is_column_name(&key.name, key.pos, problems);
        if table.known.iter().any(|(name, _)| *name == key.name) {
            let message = format!("`{}` is both a column and a partition column", key.name);
            problems.add(key.pos, message, "a partition column stands in the folder's name: remove it from `columns`");
        }
        table.known.push((key.name.clone(), column_type.get().copied()));
        if let Some(found) = column_type.get() {
            use ColumnType::{Date, Utf8};
            let good = found.integers().is_some() || matches!(found, Date | Utf8);
            let message = format!("a partition column cannot be of type `{}`", found.name());
            problems.require(good, column_type.pos, message, "it is a `date`, a whole number or `utf8`");
            table.spec.partition_by.push((key.name.clone(), *found));
        }
    }
}

/// Adds one group of checks, each rule with its column.
fn checks(table: &mut Table, raw: &RawChecks, pos: Pos, has_event_time: bool, problems: &mut Problems) {
    let on_fail = raw.on_fail.as_ref().and_then(At::get).copied();
    let mut found: Vec<(CheckRule, Pos)> = Vec::new();
    for column in many(&raw.not_null) {
        table.column(column, problems);
        found.extend(column.get().map(|name| (CheckRule::NotNull(name.clone()), column.pos)));
    }
    let mut unique: Vec<String> = Vec::new();
    for column in many(&raw.unique) {
        table.column(column, problems);
        unique.extend(column.get().cloned());
    }
    if let (Some(at), false) = (&raw.unique, unique.is_empty()) {
        found.push((CheckRule::Unique(unique), at.key));
    }
    for (column, range) in raw.range.as_ref().and_then(At::get).map(|keyed| &keyed.0).into_iter().flatten() {
        found.extend(range_check(table, column, range, problems).map(|rule| (rule, column.pos)));
    }
    for (column, values) in raw.accepted_values.as_ref().and_then(At::get).map(|keyed| &keyed.0).into_iter().flatten() {
        found.extend(accepted_check(table, column, values, problems).map(|rule| (rule, column.pos)));
    }
    if let Some(span) = &raw.fresh_within {
        let hint = "add `event_time: …`: a table is as fresh as its newest event";
        problems.require(has_event_time, span.key, "`fresh_within` needs a table with an `event_time`", hint);
        found.extend(span.get().map(|span_of| (CheckRule::FreshWithin(span_of.0), span.key)));
    }
    let nothing = raw.not_null.is_none() && raw.unique.is_none() && raw.range.is_none();
    if nothing && raw.accepted_values.is_none() && raw.fresh_within.is_none() {
        problems.add(
            pos,
            "nothing is checked here",
            "add `not_null`, `unique`, `range`, `accepted_values` or `fresh_within`",
        );
    }
    table.spec.checks.extend(found.into_iter().map(|(rule, pos)| {
        let default = match rule {
            CheckRule::FreshWithin(_) => OnFail::Warn,
            _ => OnFail::Reject,
        };
        CheckSpec { rule, on_fail: on_fail.unwrap_or(default), place: problems.place(pos) }
    }));
}

fn many(columns: &Option<At<OneOrMany<String>>>) -> &[At<String>] {
    columns.as_ref().and_then(At::get).map(|columns| columns.0.as_slice()).unwrap_or_default()
}

fn range_check(table: &Table, column: &Key, range: &At<RawBounds>, problems: &mut Problems) -> Option<CheckRule> {
    let column_type = table.column_named(&column.name, column.pos, problems);
    if let Some(column_type) = column_type {
        use ColumnType::{Binary, Bool, Utf8, Uuid};
        let good = !matches!(column_type, Bool | Utf8 | Uuid | Binary);
        let message = format!("a column of type `{}` has no `range`", column_type.name());
        let hint = "a range bounds numbers, dates and timestamps; for text use `accepted_values`";
        problems.require(good, column.pos, message, hint);
    }
    let raw = range.get()?;
    let (min, max) = [&raw.min, &raw.max].map(|bound| fitting_bound(bound.as_ref()?, column_type, problems)).into();
    if raw.min.is_none() && raw.max.is_none() {
        problems.add(range.pos, "the range has no bounds", "write `{min: 0}`, `{max: 1e6}` or both");
    }
    if let (Some(min), Some(max)) = (min, max) {
        let what = if matches!(min, Bound::Day(_)) { "day" } else { "number" };
        problems.require(min <= max, range.pos, format!("no {what} lies between `{min}` and `{max}`"), "swap them");
    }
    Some(CheckRule::Range { column: column.name.clone(), min, max })
}

/// A bound that is of its column's kind.
fn fitting_bound(bound: &At<Bound>, column_type: Option<ColumnType>, problems: &mut Problems) -> Option<Bound> {
    let found = *bound.get()?;
    let column_type = column_type?;
    let of_time = matches!(column_type, ColumnType::Date | ColumnType::Timestamp);
    // Of a column that has no range at all that was said.
    use ColumnType::{Binary, Bool, Utf8, Uuid};
    let has_none = matches!(column_type, Bool | Utf8 | Uuid | Binary);
    let (good, rule) = match found {
        Bound::Day(_) => (of_time || has_none, "write a number"),
        Bound::Number(_) => (!of_time, "write a date: `2000-01-31`"),
    };
    let message = format!("`{found}` is no bound of a column of type `{}`", column_type.name());
    problems.require(good, bound.pos, message, rule);
    good.then_some(found)
}

fn accepted_check(
    table: &Table,
    column: &Key,
    values: &At<Vec<At<Literal>>>,
    problems: &mut Problems,
) -> Option<CheckRule> {
    if let Some(column_type) = table.column_named(&column.name, column.pos, problems) {
        let good = !column_type.is_float() && !matches!(column_type, ColumnType::Timestamp | ColumnType::Binary);
        let message = format!("a column of type `{}` has no `accepted_values`", column_type.name());
        problems.require(good, column.pos, message, "values are compared as text; for numbers use `range`");
    }
    let list = values.get()?;
    problems.require(!list.is_empty(), values.pos, "no value would be accepted", "list the values: `[view, cart]`");
    let values = list.iter().filter_map(|value| Some(value.get()?.0.clone())).collect();
    Some(CheckRule::Accepted { column: column.name.clone(), values })
}
