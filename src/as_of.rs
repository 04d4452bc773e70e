//! The day a run speaks for.

use chrono::{DateTime, Days, LocalResult, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;

use crate::{Error, Result};

/// Midnight at the start of a named day in the job's time zone: nothing at or after it is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AsOf {
    date: NaiveDate,
    instant: DateTime<Utc>,
    timezone: Tz,
}

impl AsOf {
    /// The start of `date` in `timezone`. Where a clock change skips midnight, the day starts with its first instant;
    /// where midnight comes twice, with the earlier one.
    pub fn new(date: NaiveDate, timezone: Tz) -> Self {
        let midnight = date.and_hms_opt(0, 0, 0).unwrap_or_default();
        let instant = match timezone.from_local_datetime(&midnight) {
            LocalResult::Single(t) => t,
            LocalResult::Ambiguous(first, _) => first,
            LocalResult::None => (1..=24 * 4)
                .find_map(|q| timezone.from_local_datetime(&(midnight + chrono::Duration::minutes(15 * q))).earliest())
                .unwrap_or_else(|| timezone.from_utc_datetime(&midnight)),
        };
        AsOf { date, instant: instant.with_timezone(&Utc), timezone }
    }

    /// Reads `YYYY-MM-DD`.
    pub fn parse(text: &str, timezone: Tz) -> Result<Self> {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| {
            Error::user(format!("`{text}` is not a date")).hint("write it as YYYY-MM-DD, for example 2026-07-01")
        })?;
        Ok(Self::new(date, timezone))
    }

    /// The named day.
    pub fn date(&self) -> NaiveDate {
        self.date
    }

    /// The instant at which it starts.
    pub fn instant(&self) -> DateTime<Utc> {
        self.instant
    }

    /// The job's time zone.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The start of the day `days` calendar days later.
    pub fn plus_days(&self, days: u64) -> Self {
        Self::new(self.date.checked_add_days(Days::new(days)).unwrap_or(NaiveDate::MAX), self.timezone)
    }

    /// The start of the day `days` calendar days earlier.
    pub fn minus_days(&self, days: u64) -> Self {
        Self::new(self.date.checked_sub_days(Days::new(days)).unwrap_or(NaiveDate::MIN), self.timezone)
    }
}

impl std::fmt::Display for AsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.date.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_starts_at_midnight_of_its_time_zone() {
        let new_york = AsOf::parse("2026-07-01", chrono_tz::America::New_York).unwrap();
        assert_eq!(new_york.instant().to_rfc3339(), "2026-07-01T04:00:00+00:00");
        assert_eq!(new_york.minus_days(120).instant().to_rfc3339(), "2026-03-03T05:00:00+00:00");
    }

    #[test]
    fn a_day_whose_midnight_is_skipped_starts_with_its_first_instant() {
        let cairo = AsOf::parse("2024-04-26", chrono_tz::Africa::Cairo).unwrap();
        assert_eq!(cairo.instant().to_rfc3339(), "2024-04-25T22:00:00+00:00");
    }

    #[test]
    fn a_wrong_date_says_what_a_date_looks_like() {
        let error = AsOf::parse("yesterday", chrono_tz::UTC).unwrap_err();
        assert_eq!(error.to_string(), "`yesterday` is not a date");
    }
}
