//! The files behind a scan of a table: what each of them is, which days its rows are of, and the table cut down to some.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::DataType;
use chrono_tz::Tz;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{LogicalPlan, TableScan, TableSource};
use futures::{StreamExt, TryStreamExt, stream};

use super::checks::Checks;
use super::files::{DataFile, FOOTERS_IN_FLIGHT, InputObject};
use super::point_in_time::{column_type, days};
use super::provider::LakeTable;
use crate::local_time::{LocalClock, OnError, instants, is_utc};
use crate::spec::{CheckRule, CheckSpec, ColumnSpec, ColumnType, CsvFormat, Format, OnFail, TableSpec};
use crate::{Error, Result, hash};

/// The days of an object's rows, as Arrow counts days, on the clock of the job; `None` where no row has a time.
pub type ObjectDays = Option<RangeInclusive<i32>>;

/// A declared table at one visibility, behind a scan in a plan.
#[derive(Debug, Clone)]
pub struct TableObjects(LakeTable);

impl TableObjects {
    /// The table that is scanned, if it is one of a [`super::Lake`].
    pub fn behind(scan: &TableScan) -> Option<Self> {
        let provider = source_as_provider(&scan.source).ok()?;
        let any: &dyn Any = provider.as_ref();
        any.downcast_ref::<LakeTable>().cloned().map(TableObjects)
    }

    /// A table by itself.
    pub(super) fn of(table: &LakeTable) -> Self {
        TableObjects(table.clone())
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// The column that says when a row happened.
    pub fn event_time(&self) -> Option<&str> {
        self.0.spec.event_time.as_deref()
    }

    /// What the rows of a file depend on beside the file.
    pub fn identity(&self) -> String {
        identity(&self.0.spec, &self.0.checks, self.0.timezone)
    }

    /// The files that can hold visible rows, sorted by path.
    pub fn all(&self) -> Vec<InputObject> {
        self.0.parts.iter().map(|file| self.0.files.input(&self.0.spec, file)).collect()
    }

    /// The days of the rows of these files, by their paths, from the statistics in their footers; an error says which file has
    /// none.
    pub async fn days(&self, paths: &HashSet<String>, runtime: &RuntimeEnv) -> Result<HashMap<String, ObjectDays>> {
        match &self.0.spec.event_time {
            Some(column) => self.days_by(column, paths, runtime).await,
            None => Ok(HashMap::new()),
        }
    }

    /// The same of another time of the rows.
    async fn days_by(
        &self,
        column: &str,
        paths: &HashSet<String>,
        runtime: &RuntimeEnv,
    ) -> Result<HashMap<String, ObjectDays>> {
        let partition = self.0.read_as.partition_by.iter().position(|(name, _)| name == column);
        let declared = self.0.spec.columns.iter().find(|declared| declared.name == column);
        let days = self.named(paths).map(|(path, file)| async move {
            let days = match (partition, declared) {
                (Some(i), _) => self.days_of(column, &file.values[i], &file.values[i]),
                (None, Some(declared)) => match self.0.files.event_times(file, declared, runtime).await? {
                    Some((least, most)) => self.days_of(column, &least, &most),
                    None => Some(None),
                },
                (None, None) => None,
            };
            let url = self.0.files.url_of(&file.meta.location);
            let days = days.ok_or_else(|| Error::user(format!("`{url}` does not say when its rows happened")))?;
            Ok((path, days))
        });
        stream::iter(days).buffered(FOOTERS_IN_FLIGHT).try_collect().await
    }

    /// Those of some files whose rows had all happened and were known before the day of the visibility; an error says which file
    /// does not tell.
    pub(super) async fn complete(&self, paths: &HashSet<String>, runtime: &RuntimeEnv) -> Result<HashSet<String>> {
        let LakeTable { spec, at, timezone, .. } = &self.0;
        let mut complete = paths.clone();
        for (column, before) in [(&spec.event_time, at.until), (&spec.known_at, at.known)] {
            let Some(column) = column else { continue };
            let day = days(before.with_timezone(timezone).date_naive());
            let found = self.days_by(column, &complete, runtime).await?;
            complete.retain(|path| found.get(path).is_some_and(|days| days.as_ref().is_none_or(|d| *d.end() < day)));
        }
        Ok(complete)
    }

    /// The table cut down to these files.
    pub(super) fn cut(&self, paths: &HashSet<String>) -> LakeTable {
        let parts = self.named(paths).map(|(_, file)| file.clone()).collect();
        LakeTable { parts: Arc::new(parts), state: None, ..self.0.clone() }
    }

    fn named(&self, paths: &HashSet<String>) -> impl Iterator<Item = (String, &DataFile)> {
        let named = self.0.parts.iter().map(|file| (self.0.files.below_root(&file.meta.location), file));
        named.filter(|(path, _)| paths.contains(path))
    }

    /// The days between two times; `None` where they are no times.
    fn days_of(&self, column: &str, least: &ScalarValue, most: &ScalarValue) -> Option<ObjectDays> {
        let declared = column_type(&self.0.spec, column)?;
        let (written, clock) = (LocalClock::of(self.0.spec.naive_zone()), LocalClock::of(self.0.timezone));
        let day = |value: &ScalarValue| match declared {
            ColumnType::Date => match value.cast_to(&DataType::Date32).ok()? {
                ScalarValue::Date32(day) => day,
                _ => None,
            },
            _ => {
                let found = instants(&value.to_array().ok()?, &written, 1, OnError::Null).ok()?;
                found.is_valid(0).then(|| clock.day(found.value(0)) as i32)
            }
        };
        Some(Some(day(least)?..=day(most)?))
    }

    /// A scan of the table that reads these files alone, as `plan` scans it; what its checks see is no part of a report.
    pub fn only(&self, paths: &HashSet<String>, scan: &TableScan) -> LogicalPlan {
        let provider: Arc<dyn TableProvider> = Arc::new(self.cut(paths));
        let source: Arc<dyn TableSource> = provider_as_source(provider);
        LogicalPlan::TableScan(TableScan { source, ..scan.clone() })
    }
}

/// What the rows of a table's file depend on beside the file: the declaration and the checks that reject rows.
pub(super) fn identity(spec: &TableSpec, checks: &Checks, timezone: Tz) -> String {
    let columns: Vec<_> = spec.columns.iter().map(column_identity).collect();
    let good = checks.good().map(|good| good.to_string());
    let identity = (spec.url.as_str(), columns, &spec.partition_by, &spec.event_time, good, timezone.name());
    // A clock other than UTC has a say in what SQL makes of a time, and in what a time without a zone is.
    let clock = if is_utc(timezone) { String::new() } else { format!("local times, {:?}", spec.naive_times) };
    let csv = if spec.csv == CsvFormat::default() { String::new() } else { format!("{:?}", spec.csv) };
    hash::of_bytes(format!("{identity:?}{clock}{csv}"))
}

/// What the values of a column depend on: a column that every file holds under its own name says that and its type.
fn column_identity(column: &ColumnSpec) -> String {
    let mut identity = format!("{} {}", column.name, column.column_type);
    if column.from != [column.name.clone()] {
        identity.push_str(&format!(" from {:?}", column.from));
    }
    if column.optional {
        identity.push_str(" optional");
    }
    identity
}

/// Why what a file of a table says today may not be what it says tomorrow, where that is so.
pub fn unsteady(spec: &TableSpec) -> Option<&'static str> {
    let repeats = |check: &CheckSpec| matches!(check.rule, CheckRule::Unique(_)) && check.on_fail == OnFail::Reject;
    match () {
        () if spec.event_time.is_none() => Some("its table has no `event_time`"),
        () if spec.known_at.is_some() => Some("its table has a `known_at`: rows of old days appear in old files"),
        () if spec.format != Format::Parquet => {
            Some("its table is CSV, which does not say which days a file's rows are of")
        }
        () if spec.checks.iter().any(repeats) => {
            Some("which rows the `unique` check of its table rejects depends on all other rows")
        }
        () => None,
    }
}
