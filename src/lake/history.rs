//! When the events of tables happened: where their history begins, robustly, and which events are dated as if by mistake.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use chrono::{DateTime, NaiveDate, Utc};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::ExprFunctionExt;
use datafusion::prelude::{Expr, SessionContext, lit};
use futures::TryStreamExt;

use super::files::DataFile;
use super::provider::LakeTable;
use super::read::plain_time;
use super::{Lake, Table, Visibility, session, tables};
use crate::spec::{Format, TableSpec};
use crate::{AsOf, Error, Result};

/// An event before this year has a date that stands for none: 0001-01-01, 1900-01-01, 1970-01-01.
const FIRST_YEAR: i32 = 1971;
/// Events are far from the rest if so many days without any lie between.
const MIN_GAP_DAYS: i64 = 180;
/// At most one event in so many may be left aside as far from the rest, …
const ONE_IN: u64 = 100;
/// … or so few of them.
const MAX_FEW: u64 = 3;

/// The events of one table, by day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableHistory {
    /// The table.
    pub table: String,
    /// Its event time.
    pub event_time: String,
    /// Days with events, the oldest first.
    days: Vec<EventDay>,
}

/// The events of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventDay {
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    events: u64,
}

impl TableHistory {
    /// Its newest event.
    pub fn last(&self) -> Option<DateTime<Utc>> {
        self.days.last().map(|day| day.last)
    }

    /// Its first event, but for few that a long gap parts from all others.
    pub fn first(&self) -> Option<DateTime<Utc>> {
        self.days.get(self.isolated()).map(|day| day.first)
    }

    /// What [`Self::first`] leaves aside, in words.
    pub fn note(&self) -> Option<String> {
        let isolated = &self.days[..self.isolated()];
        let (oldest, first) = (isolated.first()?, self.first()?);
        let events = isolated.iter().map(|day| day.events).sum::<u64>();
        let (events, are) =
            if events == 1 { ("1 event".to_owned(), "is") } else { (format!("{events} events"), "are") };
        let Self { table, event_time, .. } = self;
        Some(format!(
            "{events} before {} {are} far from the rest: `{event_time}` {} in `{table}`; the history is taken to begin on {0}",
            first.date_naive(),
            oldest.first.date_naive()
        ))
    }

    /// Whether there is an event from the start of one day to that of another.
    pub fn has_events(&self, from: AsOf, until: AsOf) -> bool {
        self.days.iter().any(|day| day.last >= from.instant() && day.first < until.instant())
    }

    /// How many of the oldest days are far from the rest.
    fn isolated(&self) -> usize {
        let all: u64 = self.days.iter().map(|day| day.events).sum();
        let most = (all / ONE_IN).max(MAX_FEW).min(all / 2);
        let (mut before, mut isolated) = (0, 0);
        for (i, pair) in self.days.windows(2).enumerate() {
            before += pair[0].events;
            if before > most {
                break;
            }
            if (pair[1].first - pair[0].last).num_days() >= MIN_GAP_DAYS {
                isolated = i + 1;
            }
        }
        isolated
    }
}

impl Lake {
    /// The visible events of these tables, as far as they have a time, by day.
    pub async fn history(&self, at: Visibility, wanted: &BTreeSet<String>) -> Result<Vec<TableHistory>> {
        let context = self.session(at).await?;
        let mut found = Vec::new();
        for table in self.tables.iter().map(|table| &table.spec).filter(|table| wanted.contains(&table.name)) {
            let Some(event_time) = &table.event_time else { continue };
            let rows = context.table(tables::reference(&table.name)).await?;
            let time = plain_time(table, event_time);
            let day = time.clone() / lit(self.units_per_day(table));
            let ends =
                vec![min(time.clone()).alias("first"), max(time.clone()).alias("last"), count(time).alias("events")];
            let mut days = Vec::new();
            for batch in rows.aggregate(vec![day.alias("day")], ends)?.collect().await? {
                let column = |i: usize| batch.column(i).as_primitive::<Int64Type>();
                for ((first, last), events) in column(1).iter().zip(column(2)).zip(column(3)) {
                    let instant = |value: Option<i64>| value.and_then(|value| self.instant(table, value));
                    if let (Some(first), Some(last), Some(events)) = (instant(first), instant(last), events) {
                        days.push(EventDay { first, last, events: events.unsigned_abs() });
                    }
                }
            }
            days.sort_by_key(|day| day.first);
            found.push(TableHistory { table: table.name.clone(), event_time: event_time.clone(), days });
        }
        Ok(found)
    }

    /// Refuses a day before which no table has any event, if there are events at all.
    pub async fn refuse_before_first_event(&self, as_of: AsOf) -> Result<()> {
        let context = session::context_in(&self.options, self.timezone, Arc::clone(&self.runtime));
        let dated: Vec<&Table> = self.tables.iter().filter(|table| table.spec.event_time.is_some()).collect();
        for table in &dated {
            let rows = self.plain_rows(&context, table, Visibility::at(as_of), None).await?;
            let Some((rows, time)) = rows else { return Ok(()) };
            let some = rows.filter(time.gt_eq(lit(self.plain_year(&table.spec, FIRST_YEAR))))?.limit(0, Some(1))?;
            let mut stream = some.execute_stream().await?;
            while let Some(batch) = stream.try_next().await? {
                if batch.num_rows() > 0 {
                    return Ok(());
                }
            }
        }
        let everything = Visibility { until: DateTime::<Utc>::MAX_UTC, known: DateTime::<Utc>::MAX_UTC };
        let mut first: Option<(DateTime<Utc>, &str)> = None;
        for table in &dated {
            let Some((rows, time)) = self.plain_rows(&context, table, everything, None).await? else { continue };
            let recent = rows.filter(time.clone().gt_eq(lit(self.plain_year(&table.spec, FIRST_YEAR))))?;
            for batch in recent.aggregate(vec![], vec![min(time)])?.collect().await? {
                let value = batch.column(0).as_primitive::<Int64Type>().iter().flatten().next();
                let found = value.and_then(|value| self.instant(&table.spec, value));
                let found = found.map(|found| (found, table.spec.name.as_str()));
                first = first.into_iter().chain(found).min();
            }
        }
        let Some((first, table)) = first else { return Ok(()) };
        let day = first.with_timezone(&self.timezone).date_naive();
        let next = AsOf::new(day, self.timezone).plus_days(1);
        Err(Error::user(format!("{as_of} lies before the data: the first event is of {day}, in `{table}`"))
            .hint(format!("nothing had happened by then; ask for {next} or later")))
    }

    /// What is to be told of events that are dated long ago or after `as_of`, among the files that this run has looked into:
    /// their footers say which of them to count. Files whose footers were not read were looked into when they were new.
    pub async fn odd_times(&self, as_of: AsOf) -> Result<Vec<String>> {
        let context = session::context_in(&self.options, self.timezone, Arc::clone(&self.runtime));
        let mut notes = Vec::new();
        for table in self.tables.iter().filter(|table| table.spec.format == Format::Parquet) {
            let Some(event_time) = &table.spec.event_time else { continue };
            let Some(column) = table.spec.columns.iter().find(|column| column.name == *event_time) else { continue };
            let old = self.plain_year(&table.spec, FIRST_YEAR);
            let [today, tomorrow, after, week] =
                [0, 1, 2, 8].map(|days| self.plain(&table.spec, as_of.plus_days(days)));
            let mut odd: Vec<DataFile> = Vec::new();
            for file in table.files.before(&table.spec, as_of.instant()).await? {
                if table.files.opened(&file).is_none() {
                    continue;
                }
                // A footer without statistics says nothing.
                let times = table.files.event_times(&file, column, &self.runtime).await.ok().flatten();
                if times.is_some_and(|(first, last)| {
                    Self::plain_of(&first) < Some(old) || Self::plain_of(&last) >= Some(tomorrow)
                }) {
                    odd.push(file);
                }
            }
            if odd.is_empty() {
                continue;
            }
            let everything = Visibility { until: DateTime::<Utc>::MAX_UTC, known: DateTime::<Utc>::MAX_UTC };
            let Some((rows, time)) = self.plain_rows(&context, table, everything, Some(odd)).await? else { continue };
            let counted = |condition: Expr| count(time.clone()).filter(condition).build();
            let least = |condition: Expr| min(time.clone()).filter(condition).build();
            let (is_old, is_later) = (time.clone().lt(lit(old)), time.clone().gt_eq(lit(tomorrow)));
            let is_next = time.clone().gt_eq(lit(today)).and(time.clone().lt(lit(tomorrow)));
            let aggregates = vec![
                counted(is_old.clone())?.alias("old"),
                least(is_old)?.alias("oldest"),
                counted(is_next)?.alias("next"),
                counted(is_later.clone())?.alias("later"),
                least(is_later)?.alias("first_later"),
                max(time.clone()).alias("last"),
            ];
            for batch in rows.aggregate(vec![], aggregates)?.collect().await? {
                let value = |i: usize| batch.column(i).as_primitive::<Int64Type>().iter().flatten().next();
                let day =
                    |i: usize| value(i).and_then(|value| self.instant(&table.spec, value)).map(|at| at.date_naive());
                let (name, old, later) = (&table.spec.name, value(0).unwrap_or(0), value(3).unwrap_or(0));
                if let (true, Some(oldest)) = (old > 0, day(1)) {
                    let events = if old == 1 { "1 event".to_owned() } else { format!("{old} events") };
                    notes.push(format!(
                        "{events} of `{name}` happened before {FIRST_YEAR}, by `{event_time}` (the first on {oldest}): a date that \
                         stands for none belongs out of the table (`checks: {{range: {{{event_time}: {{min: …}}}}}}`)"
                    ));
                }
                // A lake that goes on after `as_of` is one that is looked at in the past.
                let goes_on = (value(2) > Some(0) && value(4) < Some(after))
                    || (later.unsigned_abs() > MAX_FEW && value(4) < Some(week));
                if let (true, false, Some(last)) = (later > 0, goes_on, day(5)) {
                    let events = if later == 1 { "1 event".to_owned() } else { format!("{later} events") };
                    notes.push(format!(
                        "{events} of `{name}` happen more than a day after {as_of}, by `{event_time}` (the last on {last}): no feature \
                         sees them before that"
                    ));
                }
            }
        }
        Ok(notes)
    }

    /// The rows of a table, or of some of its files, and its event time as a number; `None` where files are not as declared,
    /// which whoever reads the table says.
    async fn plain_rows(
        &self,
        context: &SessionContext,
        table: &Table,
        at: Visibility,
        files: Option<Vec<DataFile>>,
    ) -> Result<Option<(datafusion::prelude::DataFrame, Expr)>> {
        let Some(event_time) = &table.spec.event_time else { return Ok(None) };
        let Ok(mut found) = self.table_at(table, at).await? else { return Ok(None) };
        if let Some(files) = files {
            found.parts = Arc::new(files);
        }
        let rows = context.read_table(Arc::new(LakeTable { state: None, ..found }))?;
        Ok(Some((rows, plain_time(&table.spec, event_time))))
    }

    /// What a day is in the numbers of [`plain_time`].
    fn units_per_day(&self, table: &TableSpec) -> i64 {
        if self.is_date(table) { 1 } else { 86_400_000_000 }
    }

    fn is_date(&self, table: &TableSpec) -> bool {
        let declared = |column: &String| super::point_in_time::column_type(table, column);
        table.event_time.as_ref().and_then(declared) == Some(crate::spec::ColumnType::Date)
    }

    /// The start of a day in these numbers.
    fn plain(&self, table: &TableSpec, day: AsOf) -> i64 {
        if self.is_date(table) {
            return i64::from(super::point_in_time::days(day.date()));
        }
        day.instant().timestamp_micros()
    }

    fn plain_year(&self, table: &TableSpec, year: i32) -> i64 {
        let day = NaiveDate::from_yo_opt(year, 1).unwrap_or_default();
        self.plain(table, AsOf::new(day, self.timezone))
    }

    /// A time of a footer in these numbers.
    fn plain_of(value: &ScalarValue) -> Option<i64> {
        match value {
            ScalarValue::Date32(days) => days.map(i64::from),
            ScalarValue::Date64(millis) => millis.map(|millis| millis / 86_400_000),
            ScalarValue::TimestampSecond(time, _) => time.map(|time| time.saturating_mul(1_000_000)),
            ScalarValue::TimestampMillisecond(time, _) => time.map(|time| time.saturating_mul(1_000)),
            ScalarValue::TimestampMicrosecond(time, _) => *time,
            ScalarValue::TimestampNanosecond(time, _) => time.map(|time| time.div_euclid(1_000)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(days: &[(&str, u64)]) -> TableHistory {
        let day = |(text, events): &(&str, u64)| {
            let first = text.parse::<NaiveDate>().unwrap().and_hms_opt(12, 0, 0).unwrap().and_utc();
            EventDay { first, last: first, events: *events }
        };
        let days = days.iter().map(day).collect();
        TableHistory { table: "orders".into(), event_time: "ordered_at".into(), days }
    }

    fn first(days: &[(&str, u64)]) -> String {
        history(days).first().unwrap().date_naive().to_string()
    }

    #[test]
    fn dates_that_stand_for_none_do_not_begin_a_history() {
        let shop = [("2026-04-12", 40), ("2026-04-13", 30), ("2026-06-30", 50)];
        assert_eq!(first(&shop), "2026-04-12");
        for sentinel in ["0001-01-01", "1900-01-01", "1970-01-01"] {
            let with: Vec<_> = [(sentinel, 1)].into_iter().chain(shop).collect();
            assert_eq!(first(&with), "2026-04-12");
            let note = history(&with).note().unwrap();
            let said = format!("1 event before 2026-04-12 is far from the rest: `ordered_at` {sentinel} in `orders`");
            assert!(note.starts_with(&said), "{note}");
        }
        let several: Vec<_> =
            [("0001-01-01", 1), ("1970-01-01", 1), ("1999-12-31", 1)].into_iter().chain(shop).collect();
        assert_eq!(first(&several), "2026-04-12");
        assert_eq!(history(&shop).note(), None);
    }

    #[test]
    fn a_history_with_gaps_begins_where_it_begins() {
        assert_eq!(
            first(&[("2024-12-01", 40), ("2025-12-01", 50), ("2026-06-30", 60)]),
            "2024-12-01",
            "every Christmas"
        );
        assert_eq!(first(&[("2026-01-01", 1), ("2026-03-01", 1), ("2026-06-30", 500)]), "2026-01-01", "a slow start");
        assert_eq!(first(&[("2020-01-01", 1)]), "2020-01-01");
        assert_eq!(history(&[]).first(), None);
    }

    #[test]
    fn a_day_is_found_between_two_others() {
        let shop = history(&[("2026-04-12", 40), ("2026-06-30", 50)]);
        let day = |text| AsOf::parse(text, chrono_tz::UTC).unwrap();
        assert!(
            shop.has_events(day("2026-04-12"), day("2026-04-13"))
                && !shop.has_events(day("2026-04-13"), day("2026-06-30"))
        );
    }
}
