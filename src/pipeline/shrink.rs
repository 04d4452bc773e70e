//! Whether a night is suspiciously smaller than the one before it: a load that is half done, a table that was cut off.
//!
//! Both nights are measured at their own date by what was visible then, so that a backfill compares like with like: the files
//! that can hold rows from before `as_of`, the customers, the predicted totals.

use chrono::NaiveDate;

use crate::error::Problem;
use crate::lake::Store;
use crate::lake::publish;
use crate::ledger::{InputRecord, RunRecord};
use crate::spec::{MaxShrink, TableSpec};
use crate::{Error, Result};

/// What the guards say of something that shrank.
const ACCEPT: &str = "if this is right, run the night with `--accept-shrink`";

/// Compares a night with the newest published one before it.
pub(super) struct ShrinkGuard {
    before: Option<RunRecord>,
    limits: MaxShrink,
    /// Whether what shrank is only noted.
    accepted: bool,
}

impl ShrinkGuard {
    /// A guard against the newest published night before `date` that has a record; the first night has none.
    pub async fn new(store: &Store, date: NaiveDate, limits: MaxShrink, accepted: bool) -> Result<Self> {
        Ok(ShrinkGuard { before: publish::record_before(store, date).await?, limits, accepted })
    }

    /// The source tables that the record names. Call it before anything is computed.
    pub fn check_tables(&self, tables: &[TableSpec], record: &mut RunRecord) -> Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let source = |record: &RunRecord, name: &str| -> Option<InputRecord> {
            record.inputs.iter().find(|input| input.table == name && input.sha256.is_none()).cloned()
        };
        let mut problems = Vec::new();
        for table in tables {
            let (Some(then), Some(now)) = (source(before, &table.name), source(record, &table.name)) else { continue };
            if now.objects == 0 && table.may_be_empty {
                continue;
            }
            let limit = table.max_shrink.unwrap_or(self.limits.tables);
            let (then, now, unit) = match (then.rows, now.rows) {
                (Some(then), Some(now)) => (then, now, "rows"),
                _ => (then.bytes, now.bytes, "bytes"),
            };
            let hint =
                format!("has its load run to its end? {ACCEPT}; `max_shrink` of the table says how much it may lose");
            let problem = self.problem(&format!("table `{}`", table.name), then as f64, now as f64, limit, unit);
            problems.extend(problem.map(|problem| problem.at(table.place.clone()).hint(hint)));
        }
        self.refuse(problems, record)
    }

    /// The customers and the predicted totals that the record names. Call it before anything is committed.
    pub fn check_results(&self, record: &mut RunRecord) -> Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let (then, now) = (before.counts.customers as f64, record.counts.customers as f64);
        let hint =
            |key: &str| format!("are the tables whole? {ACCEPT}; `publish.max_shrink.{key}` says how much may be lost");
        let mut problems = Vec::new();
        let population = self.problem("the population", then, now, self.limits.population, "customers");
        problems.extend(population.map(|problem| problem.hint(hint("population"))));
        for (head, now) in &record.totals {
            let Some(then) = before.totals.get(head) else { continue };
            let total = self.problem(&format!("the predicted total of `{head}`"), *then, *now, self.limits.totals, "");
            problems.extend(total.map(|problem| problem.hint(hint("totals"))));
        }
        self.refuse(problems, record)
    }

    /// What is wrong where more than a share of something was lost.
    fn problem(&self, what: &str, then: f64, now: f64, limit: f64, unit: &str) -> Option<Problem> {
        let night = self.before.as_ref()?.as_of;
        let lost = 1.0 - now / then;
        // Where there was nothing, nothing can be lost.
        (then > 0.0 && lost > limit).then(|| {
            let number = |value: f64| match unit {
                "" => format!("{value:.2}"),
                unit => format!("{value} {unit}"),
            };
            Problem::new(format!(
                "{what} shrank from {} on the night of {night} to {}: {:.1} % are gone, and {} % may go",
                number(then),
                number(now),
                lost * 100.0,
                limit * 100.0
            ))
        })
    }

    fn refuse(&self, problems: Vec<Problem>, record: &mut RunRecord) -> Result<()> {
        if self.accepted {
            record.notes.extend(problems.iter().map(|problem| format!("accepted: {}", problem.message)));
            return Ok(());
        }
        Error::all(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::TableSize;
    use crate::lake::publish::{KeyParts, RunKey};

    fn record(day: u32, customers: u64, total: f64, orders: (u64, Option<u64>)) -> RunRecord {
        let as_of = NaiveDate::from_ymd_opt(2026, 7, day).unwrap();
        let key = RunKey::of(&KeyParts {
            job: String::new(),
            as_of,
            sql: Default::default(),
            model: None,
            inputs: Vec::new(),
            previous: None,
        });
        let mut record = RunRecord::start("shop", as_of, &key);
        record.counts.customers = customers;
        record.totals.insert("ltv".to_owned(), total);
        let (bytes, rows) = orders;
        record.measured(&[TableSize { table: "orders".to_owned(), files: u64::from(bytes > 0), bytes, rows }]);
        record
    }

    fn table() -> TableSpec {
        TableSpec {
            name: "orders".to_owned(),
            place: crate::error::Place::at("jobs/shop.yaml", 7, 3),
            url: "file:///lake/orders/".parse().unwrap(),
            format: crate::spec::Format::Parquet,
            version: None,
            partition_by: Vec::new(),
            event_time: None,
            known_at: None,
            columns: Vec::new(),
            checks: Vec::new(),
            timezone: chrono_tz::UTC,
            naive_times: Default::default(),
            may_be_empty: false,
            max_shrink: None,
            csv: crate::spec::CsvFormat::default(),
        }
    }

    fn guard(before: RunRecord) -> ShrinkGuard {
        ShrinkGuard { before: Some(before), limits: MaxShrink::default(), accepted: false }
    }

    fn tables(then: (u64, Option<u64>), now: (u64, Option<u64>), table: &TableSpec) -> Result<(), String> {
        let guard = guard(record(1, 100, 1.0, then));
        guard
            .check_tables(std::slice::from_ref(table), &mut record(2, 100, 1.0, now))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_is_measured_by_its_rows_where_both_nights_know_them_and_else_by_its_bytes() {
        let table = table();
        assert_eq!(tables((9_000, Some(100)), (1_000, Some(50)), &table), Ok(()));
        let fewer = "jobs/shop.yaml:7:3: table `orders` shrank from 100 rows on the night of 2026-07-01 to 49 rows: \
                     51.0 % are gone, and 50 % may go";
        assert_eq!(tables((1_000, Some(100)), (9_000, Some(49)), &table).unwrap_err(), fewer);
        let smaller = "jobs/shop.yaml:7:3: table `orders` shrank from 1000 bytes on the night of 2026-07-01 to 499 bytes: \
                       50.1 % are gone, and 50 % may go";
        assert_eq!(tables((1_000, None), (499, Some(49)), &table).unwrap_err(), smaller);
        assert_eq!(tables((1_000, Some(100)), (500, None), &table), Ok(()));
    }

    #[test]
    fn a_table_may_have_a_bound_of_its_own_and_may_be_empty() {
        let loose = TableSpec { max_shrink: Some(0.95), ..table() };
        assert_eq!(tables((1_000, Some(100)), (9, Some(5)), &loose), Ok(()));
        assert!(tables((1_000, Some(100)), (9, Some(4)), &loose).is_err());
        let off = TableSpec { max_shrink: Some(1.0), ..table() };
        assert_eq!(tables((1_000, Some(100)), (0, Some(0)), &off), Ok(()));
        let empty = TableSpec { may_be_empty: true, ..table() };
        assert_eq!(tables((1_000, Some(100)), (0, Some(0)), &empty), Ok(()));
        assert!(tables((1_000, Some(100)), (9, Some(4)), &empty).is_err());
        assert_eq!(tables((0, Some(0)), (9, Some(4)), &table()), Ok(()));
    }

    #[test]
    fn customers_and_totals_are_guarded_all_at_once() {
        let guard = guard(record(1, 100, 1_000.0, (1, None)));
        assert!(guard.check_results(&mut record(2, 50, 500.0, (1, None))).is_ok());
        let error = guard.check_results(&mut record(2, 49, 310.5, (1, None))).unwrap_err();
        let said: Vec<&str> = error.problems().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "the population shrank from 100 customers on the night of 2026-07-01 to 49 customers: 51.0 % are gone, \
                 and 50 % may go",
                "the predicted total of `ltv` shrank from 1000.00 on the night of 2026-07-01 to 310.50: 69.0 % are gone, \
                 and 50 % may go",
            ]
        );
        assert!(error.problems().all(|problem| problem.hint.as_ref().unwrap().contains("--accept-shrink")));
    }

    #[test]
    fn what_is_accepted_is_noted_and_the_first_night_has_nothing_to_be_compared_with() {
        let accepting = ShrinkGuard { accepted: true, ..guard(record(1, 100, 1_000.0, (1, None))) };
        let mut accepted = record(2, 1, 1.0, (1, None));
        accepting.check_results(&mut accepted).unwrap();
        assert_eq!(accepted.notes.len(), 2);
        assert!(accepted.notes[0].starts_with("accepted: the population shrank from 100 customers"), "{accepted:?}");
        let first = ShrinkGuard { before: None, limits: MaxShrink::default(), accepted: false };
        first.check_results(&mut record(2, 1, 1.0, (1, None))).unwrap();
        first.check_tables(&[table()], &mut record(2, 1, 1.0, (0, None))).unwrap();
    }
}
