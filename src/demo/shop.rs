//! What is the same for every customer: the calendar, the choices, and who signs up when.

use chrono::{Datelike, Days, NaiveDate};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::DemoOptions;

/// Microseconds in a second, an hour and a day.
pub(super) const SECOND: i64 = 1_000_000;
pub(super) const HOUR: i64 = 3_600 * SECOND;
pub(super) const DAY: i64 = 24 * HOUR;

/// Customers who were there before the first day signed up at most so many days earlier.
pub(super) const EARLIEST_SIGN_UP: u64 = 300;

/// Countries with the share of customers and how much they spend compared with the first.
const COUNTRIES: [(&str, f64, f64); 6] =
    [("DE", 0.38, 1.0), ("FR", 0.2, 0.95), ("NL", 0.14, 1.1), ("AT", 0.12, 1.05), ("PL", 0.1, 0.7), ("CH", 0.06, 1.5)];

/// Ways into the shop with the share of customers and how long they stay compared with the first.
const CHANNELS: [(&str, f64, f64); 5] = [
    ("search", 0.34, 1.0),
    ("ads", 0.26, 0.75),
    ("friend", 0.18, 1.6),
    ("newsletter", 0.12, 1.3),
    ("coupon_site", 0.1, 0.5),
];

/// The days that the lake spans, with how busy each one is.
pub(super) struct Calendar {
    /// Midnight of the first day, in microseconds.
    pub start: i64,
    /// One factor per day around 1.
    pub busy: Vec<f64>,
}

impl Calendar {
    pub fn new(options: &DemoOptions) -> Self {
        let first = options.end.checked_sub_days(Days::new(u64::from(options.days))).unwrap_or(options.end);
        let busy = first.iter_days().take(options.days as usize).map(season).collect();
        Calendar { start: micros(first), busy }
    }

    pub fn days(&self) -> usize {
        self.busy.len()
    }

    /// Midnight after the last day, in microseconds.
    pub fn end(&self) -> i64 {
        self.start + self.busy.len() as i64 * DAY
    }
}

/// Midnight of a date in microseconds.
pub(super) fn micros(date: NaiveDate) -> i64 {
    date.and_hms_opt(0, 0, 0).map_or(0, |t| t.and_utc().timestamp_micros())
}

/// Weekends are busier, the weeks before Christmas much busier, January and high summer quieter.
fn season(date: NaiveDate) -> f64 {
    let week = [0.92, 0.9, 0.93, 0.98, 1.02, 1.1, 1.15][date.weekday().num_days_from_monday() as usize];
    let year = [0.8, 0.85, 0.95, 1.0, 1.05, 1.0, 0.9, 0.88, 0.95, 1.05, 1.4, 1.5][date.month0() as usize];
    week * year
}

/// What a customer brings along.
#[derive(Debug, Clone)]
pub(super) struct SignUp {
    pub id: i64,
    pub at: i64,
    pub country: &'static str,
    pub spending: f64,
    pub channel: &'static str,
    pub staying: f64,
    pub newsletter: bool,
}

/// Everyone who signs up, in the order in which they do; a third were there before the first day.
pub(super) fn sign_ups(options: &DemoOptions, calendar: &Calendar) -> Vec<SignUp> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut times: Vec<i64> = (0..options.customers)
        .map(|_| match rng.random_bool(0.33) {
            true => calendar.start - rng.random_range(1..EARLIEST_SIGN_UP as i64 * DAY),
            false => rng.random_range(calendar.start..calendar.end()),
        })
        .map(|t| t / SECOND * SECOND)
        .collect();
    times.sort_unstable();
    let mut sign_up = |(index, at): (usize, i64)| {
        let (country, _, spending) = weighted(&mut rng, &COUNTRIES);
        let (channel, _, staying) = weighted(&mut rng, &CHANNELS);
        SignUp { id: index as i64 + 1, at, country, spending, channel, staying, newsletter: rng.random_bool(0.45) }
    };
    times.into_iter().enumerate().map(&mut sign_up).collect()
}

fn weighted(rng: &mut ChaCha8Rng, choices: &[(&'static str, f64, f64)]) -> (&'static str, f64, f64) {
    choices.choose_weighted(rng, |c| c.1).copied().unwrap_or(("", 0.0, 1.0))
}
