//! Local time: instants as the clock of a time zone shows them, and back. Everything is in microseconds since 1970-01-01.
//!
//! Where clocks are set back an hour comes twice, and a local time in it is the earlier of the two instants. Where they are set
//! forward an hour is missing, and a local time in it moves on by what is missing: 02:30 is 03:30.

mod values;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::compute::kernels::cast_utils::string_to_datetime;
use chrono::{DateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

pub use values::{OnError, instants};

/// Microseconds of a day without a change of clocks.
pub const DAY: i64 = 86_400_000_000;
/// The days from 1970-01-01 on whose offsets are looked up once: 130 years.
const DAYS: i64 = 47_482;
/// A day on which clocks change: its offsets are looked up one by one.
const CHANGES: i32 = i32::MIN;

/// The clock of a time zone, fast for many instants.
pub struct LocalClock {
    timezone: Tz,
    /// Of each day of UTC, how many seconds the clock is ahead.
    offsets: Box<[i32]>,
}

impl LocalClock {
    /// The clock of this time zone; made once for all who ask.
    pub fn of(timezone: Tz) -> Arc<LocalClock> {
        static CLOCKS: LazyLock<Mutex<HashMap<Tz, Arc<LocalClock>>>> = LazyLock::new(Mutex::default);
        let mut clocks = CLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clocks.entry(timezone).or_insert_with(|| Arc::new(LocalClock::new(timezone))))
    }

    fn new(timezone: Tz) -> Self {
        let mut offsets = Vec::with_capacity(DAYS as usize);
        let mut begin = looked_up(timezone, 0);
        for day in 1..=DAYS {
            let end = looked_up(timezone, day * DAY);
            offsets.push(if begin == end { begin } else { CHANGES });
            begin = end;
        }
        LocalClock { timezone, offsets: offsets.into() }
    }

    /// The time zone.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// Whether it shows UTC at all times.
    pub fn is_utc(&self) -> bool {
        is_utc(self.timezone)
    }

    /// How far the clock is ahead of UTC at an instant.
    #[inline]
    pub fn offset(&self, instant: i64) -> i64 {
        let known = usize::try_from(instant.div_euclid(DAY)).ok().and_then(|day| self.offsets.get(day).copied());
        match known {
            Some(seconds) if seconds != CHANGES => i64::from(seconds) * 1_000_000,
            _ => i64::from(looked_up(self.timezone, instant)) * 1_000_000,
        }
    }

    /// What the clock shows at an instant, as if it were UTC.
    #[inline]
    pub fn local(&self, instant: i64) -> i64 {
        instant.saturating_add(self.offset(instant))
    }

    /// The instant at which the clock shows this.
    pub fn instant(&self, local: i64) -> i64 {
        // No clock is further from UTC than a day, and none changes twice within two days.
        let before = self.offset(local.saturating_sub(DAY));
        let after = self.offset(local.saturating_add(DAY));
        let earlier = local.saturating_sub(before);
        if before == after || self.offset(earlier) == before {
            return earlier;
        }
        let later = local.saturating_sub(after);
        if self.offset(later) == after { later } else { earlier }
    }

    /// The local day of an instant, counted from 1970-01-01.
    #[inline]
    pub fn day(&self, instant: i64) -> i64 {
        self.local(instant).div_euclid(DAY)
    }

    /// The first instant of a local day.
    pub fn start_of_day(&self, day: i64) -> i64 {
        self.instant(day.saturating_mul(DAY))
    }
}

/// Whether a time zone is UTC, by any of its names.
pub fn is_utc(timezone: Tz) -> bool {
    matches!(
        timezone,
        Tz::UTC | Tz::Etc__UTC | Tz::Etc__UCT | Tz::UCT | Tz::Zulu | Tz::Etc__Zulu | Tz::Universal | Tz::Etc__Universal
    )
}

/// The name of a time zone in Arrow's types; UTC has one name only.
pub fn zone_name(timezone: Tz) -> &'static str {
    if is_utc(timezone) { "UTC" } else { timezone.name() }
}

/// An instant written as text: with an offset or `Z` it says itself which one it is, without it is on this clock. `None` where it
/// is no time.
pub fn parse_instant(text: &str, clock: &LocalClock) -> Option<i64> {
    let text = text.trim();
    let shown = |hours: i32| {
        let zone = chrono::FixedOffset::east_opt(hours * 3_600)?;
        let instant = string_to_datetime(&zone, text);
        // `2026-06-30 12:00` is a time too.
        let instant = instant.or_else(|error| match text.len() == 16 {
            true => string_to_datetime(&zone, &format!("{text}:00")),
            false => Err(error),
        });
        let instant = instant.ok()?;
        Some(instant.naive_utc().and_utc().timestamp_micros())
    };
    let as_utc = shown(0)?;
    // Only a text without an offset is another instant on another clock.
    let is_naive = shown(1)? != as_utc;
    Some(if is_naive { clock.instant(as_utc) } else { as_utc })
}

fn looked_up(timezone: Tz, instant: i64) -> i32 {
    let utc = DateTime::<Utc>::from_timestamp_micros(instant).unwrap_or(match instant < 0 {
        true => DateTime::<Utc>::MIN_UTC,
        false => DateTime::<Utc>::MAX_UTC,
    });
    timezone.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::AsOf;

    fn clock(name: &str) -> Arc<LocalClock> {
        LocalClock::of(name.parse().unwrap())
    }

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
    }

    #[test]
    fn a_missing_hour_moves_on_and_an_hour_that_comes_twice_is_the_earlier_one() {
        for (zone, local, instant) in [
            ("Europe/Berlin", "2026-03-29T01:59:59Z", "2026-03-29T00:59:59Z"),
            ("Europe/Berlin", "2026-03-29T02:30:00Z", "2026-03-29T01:30:00Z"), // 03:30 in summer time
            ("Europe/Berlin", "2026-03-29T03:00:00Z", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T02:30:00Z", "2026-10-25T00:30:00Z"), // in summer time
            ("Europe/Berlin", "2026-10-25T03:00:00Z", "2026-10-25T02:00:00Z"),
            ("America/New_York", "2026-03-08T02:15:00Z", "2026-03-08T07:15:00Z"),
            ("America/New_York", "2026-11-01T01:15:00Z", "2026-11-01T05:15:00Z"),
            ("Asia/Kolkata", "2026-06-01T00:00:00Z", "2026-05-31T18:30:00Z"),
            ("Africa/Cairo", "2024-04-26T00:00:00Z", "2024-04-25T22:00:00Z"),
            ("America/Havana", "2026-11-01T00:00:00Z", "2026-11-01T04:00:00Z"), // midnight comes twice
            ("Pacific/Apia", "2011-12-30T12:00:00Z", "2011-12-30T22:00:00Z"),   // a day that is not there
        ] {
            assert_eq!(clock(zone).instant(at(local)), at(instant), "{local} in {zone}");
        }
    }

    #[test]
    fn a_text_without_an_offset_is_on_the_clock() {
        let berlin = clock("Europe/Berlin");
        for (text, instant) in [
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("2026-07-01 00:30:00", "2026-06-30T22:30:00Z"),
            ("2026-07-01T00:30", "2026-06-30T22:30:00Z"),
            ("2026-07-01T00:30:00Z", "2026-07-01T00:30:00Z"),
            ("2026-07-01T00:30:00+01:00", "2026-06-30T23:30:00Z"),
            ("2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),
            ("2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),
        ] {
            assert_eq!(parse_instant(text, &berlin), Some(at(instant)), "{text}");
        }
        assert_eq!(parse_instant("yesterday", &berlin), None);
    }

    proptest! {
        #[test]
        fn a_clock_shows_what_the_calendar_of_its_zone_says(
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "America/Havana", "Africa/Cairo",
                "Australia/Lord_Howe", "America/St_Johns",
            ]),
            instant in at("1969-01-01T00:00:00Z")..at("2110-01-01T00:00:00Z"),
        ) {
            let clock = clock(zone);
            let local = DateTime::<Utc>::from_timestamp_micros(instant).unwrap().with_timezone(&clock.timezone());
            prop_assert_eq!(clock.local(instant), local.naive_local().and_utc().timestamp_micros());
            // Back again: the same instant, or the one before it at which the clock showed the same.
            let again = clock.instant(clock.local(instant));
            prop_assert!(again <= instant && clock.local(again) == clock.local(instant));
            prop_assert_eq!(clock.start_of_day(clock.day(instant)), AsOf::new(local.date_naive(), clock.timezone()).instant().timestamp_micros());
        }
    }
}
