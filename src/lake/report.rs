//! What the checks found: rejected rows, counts, stale tables.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::check_scan::Sink;
use super::checks::{in_words, rule_name};
use crate::error::Problem;
use crate::spec::{CheckRule, OnFail, TableSpec};
use crate::{Error, Result};

/// Rejected rows that are kept for each table; of more, these many first ones by reason and content.
pub const KEPT_REJECTS: usize = 100_000;

/// What the checks of all tables found, the same for the same data whatever the order in which it was read.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// The rows that no query saw: `table`, `reason`, `row` (JSON), sorted. Of a table with more than
    /// [`KEPT_REJECTS`], a last row without `row` says how many are left out.
    pub rejects: RecordBatch,
    /// Every check with the number of rows that broke it, in the order of the job file.
    pub counts: Vec<CheckCount>,
    /// Tables whose newest event is older than `fresh_within` allows.
    pub stale: Vec<StaleTable>,
    /// What the reader of a log should know.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// What somebody should look at although the run went on: tables that nothing new came into.
    pub fn alerts(&self) -> Vec<String> {
        let alert = |table: &StaleTable| match table.newest {
            Some(newest) => format!("`{}` is stale: newest event {newest}, allowed age {}", table.table, table.limit),
            None => format!("`{}` is stale: it has no event, allowed age {}", table.table, table.limit),
        };
        self.stale.iter().map(alert).collect()
    }

    /// Rejected rows by table and rule.
    pub fn rejected(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut tables: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for check in self.counts.iter().filter(|check| check.rows > 0 && check.on_fail == on_fail_name(OnFail::Reject))
        {
            *tables.entry(check.table.clone()).or_default().entry(check.rule.clone()).or_default() += check.rows;
        }
        tables
    }
}

/// How many rows broke a check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckCount {
    /// The table.
    pub table: String,
    /// The check: `range(amount)`.
    pub rule: String,
    /// `reject`, `fail` or `warn`.
    pub on_fail: String,
    /// The rows that broke it; for `fresh_within` 1 if the table is stale.
    pub rows: u64,
}

/// A table that nothing new came into.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StaleTable {
    /// The table.
    pub table: String,
    /// Its newest visible event, if it has any.
    pub newest: Option<DateTime<Utc>>,
    /// How old that may be.
    pub limit: String,
}

/// The schema of [`CheckReport::rejects`].
pub fn rejects_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("row", DataType::Utf8, true),
    ]))
}

/// The smallest rejects by reason and row; those beyond the cap are counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Rejects {
    kept: BinaryHeap<(String, String)>,
    total: u64,
}

impl Rejects {
    fn and(mut self, others: Rejects) -> Rejects {
        let left_out = others.total - others.kept.len() as u64;
        others.kept.into_iter().for_each(|(reason, row)| self.add(reason, row));
        self.total += left_out;
        self
    }

    pub(super) fn add(&mut self, reason: String, row: String) {
        self.total += 1;
        let reject = (reason, row);
        if self.kept.len() < KEPT_REJECTS {
            self.kept.push(reject);
        } else if self.kept.peek().is_some_and(|greatest| reject < *greatest) {
            self.kept.pop();
            self.kept.push(reject);
        }
    }
}

/// What one complete scan found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub rejects: Rejects,
    /// Broken rows for each row check.
    pub broken: Vec<u64>,
    /// A broken row for each row check that ends the run.
    pub examples: Vec<Option<String>>,
    /// The newest visible event.
    pub newest: Option<i64>,
}

impl Found {
    pub(super) fn new(checks: usize) -> Self {
        Found { broken: vec![0; checks], examples: vec![None; checks], ..Found::default() }
    }

    /// What was found in these rows and in others, by the same checks.
    pub(super) fn and(self, others: Found) -> Found {
        let examples = self.examples.into_iter().zip(others.examples);
        Found {
            rejects: self.rejects.and(others.rejects),
            broken: self.broken.iter().zip(&others.broken).map(|(own, others)| own + others).collect(),
            examples: examples.map(|(own, other)| own.into_iter().chain(other).min()).collect(),
            newest: self.newest.max(others.newest),
        }
    }
}

/// What is known of one table at one visibility.
#[derive(Debug, Default)]
pub(super) struct TableState {
    collected: Mutex<Option<Found>>,
    collector: Mutex<Weak<Sink>>,
    repeated: Mutex<Repeated>,
}

/// What the `unique` checks found.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    pub rejects: Vec<(String, String)>,
    /// For each unique check its place among the table's checks and the rows beyond the first of their key.
    pub counts: Vec<(usize, u64)>,
}

impl TableState {
    /// Whether a scan has been seen through to its end.
    pub(super) fn is_collected(&self) -> bool {
        locked(&self.collected).is_some()
    }

    /// A sink for a scan that is about to be planned, if no other one collects. A plan that is dropped gives its place
    /// up.
    pub(super) fn claim(&self, make: impl FnOnce() -> Sink) -> Option<Arc<Sink>> {
        if self.is_collected() {
            return None;
        }
        let mut collector = locked(&self.collector);
        if collector.upgrade().is_some() {
            return None;
        }
        let sink = Arc::new(make());
        *collector = Arc::downgrade(&sink);
        Some(sink)
    }

    /// Takes what a scan found that was seen through; the first one counts.
    pub(super) fn commit(&self, found: Found) {
        locked(&self.collected).get_or_insert(found);
    }

    /// What was found, if a scan has been seen through.
    pub(super) fn take(&self) -> Option<Found> {
        locked(&self.collected).take()
    }

    pub(super) fn set_repeated(&self, repeated: Repeated) {
        *locked(&self.repeated) = repeated;
    }

    /// The checks that end the run and were broken, as errors.
    pub(super) fn failures(&self, table: &TableSpec, checks: &super::checks::Checks) -> Vec<Problem> {
        match locked(&self.collected).as_ref() {
            Some(found) => failures(table, checks, found),
            None => Vec::new(),
        }
    }

    /// The broken rows of a check.
    fn broken(&self, checks: &super::checks::Checks, index: usize) -> u64 {
        let repeated = locked(&self.repeated).counts.iter().find(|(i, _)| *i == index).map(|(_, rows)| *rows);
        let in_scan = checks.rows.iter().position(|check| check.index == index);
        let scanned = in_scan.and_then(|at| locked(&self.collected).as_ref().map(|found| found.broken[at]));
        repeated.or(scanned).unwrap_or(0)
    }

    /// The rejected rows, sorted, and how many more there are.
    fn rejects(&self) -> (Vec<(String, String)>, u64) {
        let mut all = Rejects::default();
        for (reason, row) in locked(&self.repeated).rejects.iter().cloned() {
            all.add(reason, row);
        }
        if let Some(found) = locked(&self.collected).as_ref() {
            all = all.and(found.rejects.clone());
        }
        let more = all.total - all.kept.len() as u64;
        (all.kept.into_sorted_vec(), more)
    }
}

/// What stands in the way of going on: the broken checks of kind `fail`.
pub(super) fn failures(table: &TableSpec, checks: &super::checks::Checks, found: &Found) -> Vec<Problem> {
    let failing = checks.rows.iter().enumerate().filter(|(_, check)| check.on_fail == OnFail::Fail);
    failing
        .filter(|(at, _)| found.broken[*at] > 0)
        .map(|(at, check)| {
            let spec = &table.checks[check.index];
            let example = found.examples[at].as_deref().unwrap_or_default();
            broken_problem(table, &rule_name(&spec.rule), found.broken[at], example).at(spec.place.clone())
        })
        .collect()
}

pub(super) fn broken_problem(table: &TableSpec, rule: &str, rows: u64, example: &str) -> Problem {
    let rows = if rows == 1 { "1 row breaks".to_owned() } else { format!("{rows} rows break") };
    Problem::new(format!("in table `{}`, {rows} `{rule}`, for example {example}", table.name))
        .hint("mend the data, or set the check's `on_fail` to `reject` or `warn`")
}

/// Puts the report together; the broken checks of kind `fail` as an error.
pub(super) fn report<'a>(
    tables: impl Iterator<Item = (&'a TableSpec, &'a super::checks::Checks, &'a TableState)>,
    until: DateTime<Utc>,
    newest: impl Fn(&TableSpec, i64) -> Option<DateTime<Utc>>,
) -> Result<CheckReport> {
    let (mut names, mut reasons, mut rows) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut counts, mut stale, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut tables: Vec<_> = tables.collect();
    for (table, checks, state) in &tables {
        problems.extend(state.failures(table, checks));
        let newest = locked(&state.collected).as_ref().and_then(|found| newest(table, found.newest?));
        for (index, check) in table.checks.iter().enumerate() {
            let mut broken = state.broken(checks, index);
            if let CheckRule::FreshWithin(limit) = check.rule
                && is_stale(newest, limit, until)
            {
                broken = 1;
                let limit = in_words(limit);
                let said = stale_problem(table, newest, &limit, until).at(check.place.clone());
                match check.on_fail {
                    OnFail::Fail => problems.push(said),
                    OnFail::Reject | OnFail::Warn => {
                        stale.push(StaleTable { table: table.name.clone(), newest, limit });
                    }
                }
            }
            let (rule, on_fail) = (rule_name(&check.rule), on_fail_name(check.on_fail).to_owned());
            counts.push(CheckCount { table: table.name.clone(), rule, on_fail, rows: broken });
        }
    }
    Error::all(problems)?;
    tables.sort_by(|(a, ..), (b, ..)| a.name.cmp(&b.name));
    for (table, _, state) in tables {
        let (kept, more) = state.rejects();
        for (reason, row) in kept {
            names.append_value(&table.name);
            reasons.append_value(reason);
            rows.append_value(row);
        }
        if more > 0 {
            names.append_value(&table.name);
            reasons.append_value(format!("and {more} more rows, which are not listed"));
            rows.append_null();
        }
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(names.finish()), Arc::new(reasons.finish()), Arc::new(rows.finish())];
    Ok(CheckReport { rejects: RecordBatch::try_new(rejects_schema(), columns)?, counts, stale, notes: Vec::new() })
}

pub(super) fn is_stale(newest: Option<DateTime<Utc>>, limit: Duration, until: DateTime<Utc>) -> bool {
    let limit = chrono::Duration::from_std(limit).unwrap_or(chrono::Duration::MAX);
    newest.is_none_or(|newest| until - newest > limit)
}

pub(super) fn stale_problem(
    table: &TableSpec,
    newest: Option<DateTime<Utc>>,
    limit: &str,
    until: DateTime<Utc>,
) -> Problem {
    let until = until.format("%Y-%m-%dT%H:%M:%SZ");
    let what = match newest {
        Some(newest) => format!("its newest event before {until} is of {}", newest.format("%Y-%m-%dT%H:%M:%SZ")),
        None => format!("it has no event before {until}"),
    };
    Problem::new(format!("table `{}` is stale: {what}, and `fresh_within` is {limit}", table.name))
        .hint("has the load into the lake run?")
}

fn on_fail_name(on_fail: OnFail) -> &'static str {
    match on_fail {
        OnFail::Reject => "reject",
        OnFail::Fail => "fail",
        OnFail::Warn => "warn",
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rejects_are_kept_in_whatever_order_they_come() {
        let keep = |numbers: &mut dyn Iterator<Item = usize>| {
            let mut rejects = Rejects::default();
            numbers.for_each(|n| rejects.add("broken".to_owned(), format!("{n:07}")));
            (rejects.total, rejects.kept.into_sorted_vec())
        };
        let (total, kept) = keep(&mut (0..KEPT_REJECTS + 50));
        assert_eq!((total as usize, kept.len()), (KEPT_REJECTS + 50, KEPT_REJECTS));
        assert_eq!(keep(&mut (0..KEPT_REJECTS + 50).rev()), (total, kept));
    }
}
