//! What `check --online` finds: stores that answer, tables that are there and as declared, loads that have run.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::prelude::{SessionContext, ident};

use super::checks::in_words;
use super::files::DataFile;
use super::naive_times;
use super::presence;
use super::provider::LakeTable;
use super::recognize::PassedOver;
use super::report::{is_stale, stale_problem};
use super::tables::file_columns;
use super::{Lake, Table, Visibility, session};
use crate::error::{Class, Problem};
use crate::spec::nearest::listed;
use crate::spec::{CheckRule, ColumnType, Format, NaiveTimes, OnFail};
use crate::{AsOf, Error, Result};

/// What a look at the lake finds.
#[derive(Debug, Default)]
pub struct OnlineReport {
    /// What stands in the way of a run: tables without files, files that are not as declared, and stale tables whose
    /// check says `on_fail: fail`.
    pub problems: Vec<Problem>,
    /// Tables that are not there: another try may find them.
    pub missing: Vec<Problem>,
    /// Stale tables that only raise an alert.
    pub stale: Vec<Problem>,
    /// What is not wrong but good to know: on which clock times without a zone are read.
    pub notes: Vec<String>,
    /// Files in the tables' folders that are no part of them.
    pub passed_over: Vec<PassedOver>,
}

impl Lake {
    /// Looks at every table as a run at `as_of` would find it. A store that cannot be reached is an error, for it says
    /// nothing about the job.
    pub async fn look(&self, as_of: AsOf) -> Result<OnlineReport> {
        let context = session::context_in(&self.options, self.timezone, std::sync::Arc::clone(&self.runtime));
        let mut report = OnlineReport::default();
        for table in &self.tables {
            if let Err(error) = presence::require_place(&table.spec) {
                report.missing.extend(error.into_problems());
                continue;
            }
            match self.look_at(&context, table, as_of, &mut report.stale, &mut report.notes).await {
                Ok(found) => {
                    report.problems.extend(found);
                    report.passed_over.extend(table.files.passed_over(&table.spec).await?.cloned());
                }
                Err(error) if error.class() == Class::User => report.problems.extend(error.into_problems()),
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    async fn look_at(
        &self,
        context: &SessionContext,
        table: &Table,
        as_of: AsOf,
        alerts: &mut Vec<Problem>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Problem>> {
        let spec = &table.spec;
        let files = table.files.all(spec).await?;
        let problems = self.differences(table, files).await?;
        if !problems.is_empty() {
            return Ok(problems);
        }
        notes.extend(naive_note(table, files));
        let mut failed = Vec::new();
        for check in &spec.checks {
            if let CheckRule::FreshWithin(limit) = check.rule {
                let newest = self.newest(context, table, Visibility::at(as_of)).await?;
                if is_stale(newest, limit, as_of.instant()) {
                    let problem = stale_problem(spec, newest, &in_words(limit), as_of.instant());
                    let stands_in_the_way = check.on_fail == OnFail::Fail;
                    let goal = if stands_in_the_way { &mut failed } else { &mut *alerts };
                    goal.push(problem.at(check.place.clone()));
                }
            }
        }
        Ok(failed)
    }

    async fn newest(
        &self,
        context: &SessionContext,
        table: &Table,
        at: Visibility,
    ) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
        let Some(column) = &table.spec.event_time else { return Ok(None) };
        let found = match self.table_at(table, at).await? {
            Ok(found) => found,
            Err(problems) => return Error::all(problems).map(|()| None),
        };
        let rows = context.read_table(std::sync::Arc::new(LakeTable { state: None, ..found }))?;
        let newest = rows.aggregate(Vec::new(), vec![max(ident(column))])?.collect().await?;
        let value = newest.iter().filter(|batch| batch.num_rows() > 0).find_map(|batch| {
            let column = batch.column(0);
            match column.data_type() {
                _ if column.is_null(0) => None,
                DataType::Date32 => Some(i64::from(column.as_primitive::<Date32Type>().value(0))),
                _ => Some(column.as_primitive_opt::<TimestampMicrosecondType>()?.value(0)),
            }
        });
        Ok(value.and_then(|value| self.instant(&table.spec, value)))
    }
}

/// Says on which clock a table's times without a zone are read, where that is not the same for any.
fn naive_note(table: &Table, files: &[DataFile]) -> Option<String> {
    let spec = &table.spec;
    if !naive_times::matter(spec) {
        return None;
    }
    let times: BTreeSet<&str> = file_columns(spec)
        .filter(|column| column.column_type == ColumnType::Timestamp)
        .map(|column| column.name.as_str())
        .collect();
    let naive: BTreeSet<String> = match spec.format {
        Format::Csv => times.iter().map(|name| (*name).to_owned()).collect(),
        Format::Parquet => {
            let opened = files.iter().filter_map(|file| table.files.opened(file));
            let columns = opened.flat_map(|opened| opened.naive.iter().cloned().collect::<Vec<_>>());
            columns.filter(|name| times.contains(name.as_str())).collect()
        }
    };
    if naive.is_empty() {
        return None;
    }
    let columns = listed(naive.iter().map(String::as_str), "and");
    let zone = spec.naive_zone();
    let without = match spec.format {
        Format::Csv => "texts without an offset",
        Format::Parquet => "times without a zone",
    };
    let (word, other) = match spec.naive_times {
        NaiveTimes::Job => ("job", "UTC"),
        NaiveTimes::Utc => ("UTC", "job"),
    };
    Some(format!(
        "in table `{}`, {without} in {columns} are read on the clock of `{zone}` (`naive_times: {word}`); if that is wrong, write \
         `naive_times: {other}`",
        spec.name
    ))
}
