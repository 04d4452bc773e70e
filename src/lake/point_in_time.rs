//! What existed, and what was known, at an instant.

use chrono::{DateTime, Duration, NaiveDate, Utc};
use chrono_tz::Tz;
use datafusion::common::ScalarValue;
use datafusion::prelude::{Expr, ident, lit};

use crate::AsOf;
use crate::spec::{ColumnType, TableSpec};

/// How far the rows of a session reach: those with `event_time < until` and `known_at < known` exist, others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Visibility {
    /// Nothing that happened at or after this instant exists.
    pub until: DateTime<Utc>,
    /// Nothing that became known at or after this instant exists.
    pub known: DateTime<Utc>,
}

impl Visibility {
    /// What had happened and was known at the start of a day.
    pub fn at(as_of: AsOf) -> Self {
        Visibility { until: as_of.instant(), known: as_of.instant() }
    }

    /// Whether everything that `other` sees is seen here too.
    pub(super) fn covers(&self, other: &Visibility) -> bool {
        self.until >= other.until && self.known >= other.known
    }
}

/// The condition under which a row of a table exists; `None` where every row does. A row whose event_time or known_at is
/// NULL does not.
pub(super) fn visible(table: &TableSpec, at: Visibility, timezone: Tz) -> Option<Expr> {
    let event = event_before(table, at, timezone);
    let known = known_before(table, at, timezone);
    event.into_iter().chain(known).reduce(Expr::and)
}

/// The same, but for rows whose event_time is NULL, which are let through for the checks to see.
pub(super) fn visible_or_undated(table: &TableSpec, at: Visibility, timezone: Tz) -> Option<Expr> {
    let event = event_before(table, at, timezone);
    let undated = table.event_time.as_ref().map(|column| ident(column).is_null());
    let event = event.into_iter().chain(undated).reduce(Expr::or);
    event.into_iter().chain(known_before(table, at, timezone)).reduce(Expr::and)
}

fn event_before(table: &TableSpec, at: Visibility, timezone: Tz) -> Option<Expr> {
    table.event_time.as_ref().map(|column| before(table, column, at.until, timezone))
}

fn known_before(table: &TableSpec, at: Visibility, timezone: Tz) -> Option<Expr> {
    table.known_at.as_ref().map(|column| before(table, column, at.known, timezone))
}

fn before(table: &TableSpec, column: &str, instant: DateTime<Utc>, timezone: Tz) -> Expr {
    let bound = match column_type(table, column) {
        Some(ColumnType::Date) => ScalarValue::Date32(Some(days(instant.with_timezone(&timezone).date_naive()))),
        _ => ScalarValue::TimestampMicrosecond(
            Some(micros(instant)),
            Some(crate::local_time::zone_name(timezone).into()),
        ),
    };
    ident(column).lt(lit(bound))
}

/// The declared type of a column or a partition column.
pub(super) fn column_type(table: &TableSpec, column: &str) -> Option<ColumnType> {
    let declared = table.columns.iter().map(|c| (&c.name, c.column_type));
    let partitions = table.partition_by.iter().map(|(name, column_type)| (name, *column_type));
    declared.chain(partitions).find(|(name, _)| *name == column).map(|(_, column_type)| column_type)
}

/// The last date of which a part can have happened before `until`, on the clock of any time zone: the earliest one is 14
/// hours ahead of UTC. A date partition after it holds nothing that exists.
pub(super) fn last_date(until: DateTime<Utc>) -> NaiveDate {
    until.checked_add_signed(Duration::hours(14)).unwrap_or(until).date_naive()
}

/// Days since 1970-01-01, as Arrow counts them.
pub(super) fn days(date: NaiveDate) -> i32 {
    date.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// Microseconds since 1970-01-01; what lies between two of them counts as the later one.
fn micros(instant: DateTime<Utc>) -> i64 {
    let part = instant.timestamp_subsec_nanos() % 1_000;
    instant.timestamp_micros() + i64::from(part > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_partition_is_kept_while_any_clock_on_earth_can_show_it() {
        let until = |text: &str| last_date(text.parse().unwrap()).to_string();
        assert_eq!(until("2026-07-01T00:00:00Z"), "2026-07-01");
        assert_eq!(until("2026-07-01T09:59:59Z"), "2026-07-01");
        assert_eq!(until("2026-07-01T10:00:00Z"), "2026-07-02");
    }

    #[test]
    fn wider_visibility_covers_narrower() {
        let at = |until: &str, known: &str| Visibility { until: until.parse().unwrap(), known: known.parse().unwrap() };
        let day = at("2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z");
        assert!(day.covers(&day));
        assert!(!day.covers(&at("2026-06-01T00:00:00Z", "2026-07-02T00:00:00Z")));
    }
}
