//! One customer's life, day by day.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Exp, Gamma, LogNormal, Normal, Poisson};

use super::shop::{Calendar, DAY, HOUR, SECOND, SignUp};
use super::words::{self, Tone};

/// A row of `orders`.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub id: i64,
    pub customer: Option<i64>,
    pub at: i64,
    pub loaded_at: i64,
    pub category: usize,
    pub items: i32,
    pub amount: f64,
    pub discount: f64,
    pub refunded: bool,
}

/// A row of `events`.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub customer: i64,
    pub at: i64,
    pub kind: &'static str,
    pub device: &'static str,
    pub seconds: i32,
}

/// A row of `reviews`.
#[derive(Debug, Clone)]
pub(super) struct Review {
    pub customer: i64,
    pub order: i64,
    pub at: i64,
    pub rating: i8,
    pub text: String,
}

/// Everything that one customer leaves in the lake.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub orders: Vec<Order>,
    pub events: Vec<Event>,
    pub reviews: Vec<Review>,
    pub bad_rows: u64,
}

/// One row in so many is broken.
const BAD: f64 = 1.0 / 500.0;
/// Orders of one customer are numbered from here within the customer's own range; broken ones from the second number.
const ORDER_RANGE: i64 = 10_000;
const BAD_ORDERS: i64 = 9_000;

/// Lives `who`'s life; the same seed gives the same life whatever the other customers do.
pub(super) fn live(seed: u64, who: &SignUp, calendar: &Calendar) -> Life {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(who.id as u64);
    let traits = Traits::draw(&mut rng, who);
    let mut living = Living { rng, who, calendar, traits, life: Life::default() };
    let left = living.buy();
    living.browse(left);
    living.break_rows();
    let mut life = living.life;
    // Nothing that would happen after the lake's end is in it.
    life.events.retain(|e| (who.at..calendar.end()).contains(&e.at));
    life.reviews.retain(|r| r.at < calendar.end());
    life
}

/// What stays the same all life long.
struct Traits {
    /// Orders a day on an ordinary day; 0 for someone who only looks.
    rate: f64,
    /// The amount of an ordinary order.
    level: f64,
    /// How well the shop suits the customer: around 0, higher is better.
    satisfaction: f64,
    /// The chance that an order is made with a discount.
    bargain: f64,
    /// The instant at which the customer loses interest, if nothing drives them out earlier.
    leaves: i64,
    favourite: usize,
    device: &'static str,
}

impl Traits {
    fn draw(rng: &mut ChaCha8Rng, who: &SignUp) -> Self {
        let satisfaction = sample(Normal::new(0.0, 0.8), rng);
        let days = sample(Exp::new(1.0), rng) * 420.0 * who.staying * (0.7 * satisfaction).exp();
        let rate = sample(Gamma::new(1.4, 1.0 / 21.0 / 1.4), rng) * if who.newsletter { 1.15 } else { 0.9 };
        Traits {
            rate: if rng.random_bool(0.93) { rate } else { 0.0 },
            level: sample(LogNormal::new(3.4, 0.55), rng) * who.spending,
            satisfaction,
            bargain: if who.channel == "coupon_site" { 0.6 } else { 0.2 },
            leaves: who.at + (days.min(10_000.0) * DAY as f64) as i64,
            favourite: rng.random_range(0..words::categories().count()),
            device: ["phone", "phone", "desktop", "tablet"][rng.random_range(0..4)],
        }
    }
}

struct Living<'a> {
    rng: ChaCha8Rng,
    who: &'a SignUp,
    calendar: &'a Calendar,
    traits: Traits,
    life: Life,
}

impl Living<'_> {
    /// Places the orders and returns when the customer left.
    fn buy(&mut self) -> i64 {
        let mut left = self.traits.leaves;
        for day in 0..self.calendar.days() {
            let midnight = self.calendar.start + day as i64 * DAY;
            if midnight + DAY <= self.who.at {
                continue;
            }
            if midnight > left {
                break;
            }
            // Many sign up because they want to buy something.
            let fresh = midnight - self.who.at < 7 * DAY && self.life.orders.is_empty();
            let rate =
                self.traits.rate * self.calendar.busy[day] + if fresh && self.traits.rate > 0.0 { 0.2 } else { 0.0 };
            if self.rng.random::<f64>() >= 1.0 - (-rate).exp() {
                continue;
            }
            let at = self.time_of_day(midnight);
            if at <= self.who.at || self.life.orders.len() as i64 >= BAD_ORDERS {
                continue;
            }
            if self.order(at) {
                left = left.min(at + HOUR);
            }
        }
        left
    }

    /// One order with the visits before it and the review after it; true when the customer had enough.
    fn order(&mut self, at: i64) -> bool {
        let experience = 0.8 * self.traits.satisfaction + sample(Normal::new(0.0, 0.8), &mut self.rng);
        let enough = self.rng.random_bool(sigmoid(-3.7 - 1.6 * experience));
        let category = match self.rng.random_bool(0.55) {
            true => self.traits.favourite,
            false => self.rng.random_range(0..words::categories().count()),
        };
        let items = 1 + sample(Poisson::new(0.9), &mut self.rng) as i32;
        let price = self.traits.level * f64::from(items).powf(0.7) * sample(LogNormal::new(0.0, 0.35), &mut self.rng);
        let off =
            if self.rng.random_bool(self.traits.bargain) { [0.1, 0.15, 0.2][self.rng.random_range(0..3)] } else { 0.0 };
        let id = self.who.id * ORDER_RANGE + self.life.orders.len() as i64;
        self.life.orders.push(Order {
            id,
            customer: Some(self.who.id),
            at,
            loaded_at: at + self.rng.random_range(20 * 60..9 * 3_600) * SECOND,
            category,
            items,
            amount: cents(price * (1.0 - off)),
            discount: cents(price * off),
            refunded: self.rng.random_bool(sigmoid(-3.4 - 0.9 * experience)),
        });
        for _ in 0..sample(Poisson::new(1.6), &mut self.rng) as i64 {
            let before = (sample(Exp::new(1.0), &mut self.rng) * 2.0 * DAY as f64) as i64;
            let kind = if self.rng.random_bool(0.25) { "search" } else { "view" };
            self.event(at - SECOND * 60 - before, kind);
        }
        if self.rng.random_bool(0.8) {
            let before = self.rng.random_range(30..3_000) * SECOND;
            self.event(at - before, "cart");
        }
        if experience < -0.7 && self.rng.random_bool(0.5) {
            let after = self.rng.random_range(DAY..6 * DAY);
            self.event(at + after, "support");
        }
        if self.rng.random_bool((0.05 + 0.05 * experience.abs()).min(0.5)) {
            self.review(id, at, category, experience, enough);
        }
        enough
    }

    fn review(&mut self, order: i64, ordered_at: i64, category: usize, experience: f64, enough: bool) {
        let tone = match experience {
            _ if enough && self.rng.random_bool(0.8) => Tone::Leaving,
            e if e > 0.9 => Tone::Delighted,
            e if e > 0.1 => Tone::Content,
            e if e > -0.6 => Tone::Indifferent,
            _ => Tone::Annoyed,
        };
        let stars = 3.6 + experience + if tone == Tone::Leaving { -1.0 } else { 0.0 };
        let stars = stars + sample(Normal::new(0.0, 0.5), &mut self.rng);
        let at = ordered_at + self.rng.random_range(2 * DAY..9 * DAY) / SECOND * SECOND;
        let text = words::review(&mut self.rng, category, tone);
        self.life.reviews.push(Review {
            customer: self.who.id,
            order,
            at,
            rating: stars.round().clamp(1.0, 5.0) as i8,
            text,
        });
    }

    /// Visits without a purchase: often while the customer is around, rarely afterwards.
    fn browse(&mut self, left: i64) {
        let around = (0.015 + 0.6 * self.traits.rate).min(0.5);
        for day in 0..self.calendar.days() {
            let midnight = self.calendar.start + day as i64 * DAY;
            let chance = if midnight < left { around * self.calendar.busy[day] } else { 0.004 };
            if midnight + DAY <= self.who.at || self.rng.random::<f64>() >= chance {
                continue;
            }
            let at = self.time_of_day(midnight);
            for step in 0..1 + sample(Poisson::new(0.6), &mut self.rng) as i64 {
                let kind = match self.rng.random_range(0..10) {
                    0..6 => "view",
                    6..9 => "search",
                    _ => "cart",
                };
                self.event(at + step * 90 * SECOND, kind);
            }
        }
    }

    fn event(&mut self, at: i64, kind: &'static str) {
        let seconds = sample(LogNormal::new(3.4, 0.8), &mut self.rng).min(3_600.0) as i32;
        let device = if self.rng.random_bool(0.85) { self.traits.device } else { "desktop" };
        self.life.events.push(Event { customer: self.who.id, at, kind, device, seconds });
    }

    /// Adds broken copies of rows: every kind of break that the job's checks know.
    fn break_rows(&mut self) {
        let mut broken = Vec::new();
        for (index, order) in self.life.orders.iter().enumerate() {
            if !self.rng.random_bool(BAD) {
                continue;
            }
            let fresh = Order { id: self.who.id * ORDER_RANGE + BAD_ORDERS + index as i64 % 1_000, ..order.clone() };
            broken.push(match self.rng.random_range(0..4) {
                0 => Order { amount: -order.amount, ..fresh },
                1 => Order { amount: f64::NAN, ..fresh },
                2 => Order { customer: None, ..fresh },
                _ => order.clone(),
            });
        }
        let mut unknown = Vec::new();
        for event in &self.life.events {
            if (self.who.at..self.calendar.end()).contains(&event.at) && self.rng.random_bool(BAD) {
                unknown.push(Event { kind: "tap", ..event.clone() });
            }
        }
        self.life.bad_rows += (broken.len() + unknown.len()) as u64;
        self.life.orders.extend(broken);
        self.life.events.extend(unknown);
    }

    /// An instant of a day, in the afternoon more often than at night, in whole seconds.
    fn time_of_day(&mut self, midnight: i64) -> i64 {
        let hour = sample(Normal::new(14.5, 4.0), &mut self.rng).clamp(0.0, 23.9);
        midnight + (hour * 3_600.0) as i64 * SECOND
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

/// A draw from a distribution whose parameters are constants; 0 if they were wrong.
fn sample<D: Distribution<f64>, E>(distribution: Result<D, E>, rng: &mut ChaCha8Rng) -> f64 {
    distribution.map_or(0.0, |d| d.sample(rng))
}
