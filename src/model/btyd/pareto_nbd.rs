//! Pareto/NBD (Schmittlein, Morrison, Colombo 1987).
//!
//! While alive a customer buys at a rate λ ~ Gamma(r, α); it leaves at a rate μ ~ Gamma(s, β), whether it buys or not. The
//! usual form of the likelihood (Fader, Hardie 2005, "A note on deriving the Pareto/NBD model") has Gauss' hypergeometric
//! function, the difference of two of which loses all digits for some customers. Here the integral that it stands for, over
//! the time of leaving, is taken by quadrature: every term is positive, and so the gradients are quadratures too.

use serde::{Deserialize, Serialize};

use super::History;
use super::special::{digamma, legendre, ln_gamma};

/// A panel of the quadrature spans at most this much of ln(time).
const PANEL: f64 = 1.5;
/// … and over it the integrand falls by at most about this many powers of e.
const DECAY: f64 = 4.0;
/// A panel that adds less than this share is the last.
const REST: f64 = 1e-14;

/// The parameters of a Pareto/NBD; all are positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ParetoNbd {
    /// Shape of the purchase rate.
    pub r: f64,
    /// Its inverse scale, in days.
    pub alpha: f64,
    /// Shape of the rate of leaving.
    pub s: f64,
    /// Its inverse scale, in days.
    pub beta: f64,
}

/// ∫ f dτ with the moments that the gradients need.
#[derive(Debug, Clone, Copy, Default)]
struct Integral {
    /// ∫ f
    total: f64,
    /// ∫ f ln(α + τ), ∫ f / (α + τ), ∫ f ln(β + τ), ∫ f / (β + τ)
    moments: [f64; 4],
}

impl ParetoNbd {
    /// ln of P(still alive at t and no purchase since) up to a constant: −(r + x) ln(α + t) − s ln(β + t).
    fn ln_alive(&self, repeats: f64, t: f64) -> f64 {
        -(self.r + repeats) * (self.alpha + t).ln() - self.s * (self.beta + t).ln()
    }

    /// Leaving between `from` and `until`, relative to being alive at time `unit`.
    fn leaving(&self, repeats: f64, from: f64, until: f64, unit: f64) -> Integral {
        let Self { r, alpha, s, beta } = *self;
        let reference = self.ln_alive(repeats, unit);
        // In w = ln(c + τ) with the smaller of α and β as c, the integrand has no singularity near the axis.
        let c = alpha.min(beta);
        let (start, end) = ((c + from).ln(), (c + until).ln());
        let step = PANEL.min(DECAY / (r + repeats + s + 1.0));
        let mut sum = Integral::default();
        let mut left = start;
        while left < end {
            let width = step.min(end - left);
            let before = sum.total;
            for (x, weight) in legendre() {
                let base = (left + width * x).exp();
                let (buying, leaving) = (base + (alpha - c), base + (beta - c));
                let (ln_buying, ln_leaving) = (buying.ln(), leaving.ln());
                let ln_f = -(r + repeats) * ln_buying - s * ln_leaving - reference;
                let f = weight * width * base * s / leaving * ln_f.exp();
                sum.total += f;
                let values = [ln_buying, 1.0 / buying, ln_leaving, 1.0 / leaving];
                sum.moments.iter_mut().zip(values).for_each(|(m, v)| *m += f * v);
            }
            if sum.total - before <= REST * sum.total {
                break;
            }
            left += step;
        }
        sum
    }

    /// The weights of a customer who is alive and of one who has left, relative to being alive at the last purchase.
    fn weights(&self, history: &History) -> (f64, Integral) {
        let History { repeats, last, age } = *history;
        let alive = (self.ln_alive(repeats, age) - self.ln_alive(repeats, last)).exp();
        (alive, self.leaving(repeats, last, age, last))
    }

    /// ln L of a customer.
    pub fn log_likelihood(&self, history: &History) -> f64 {
        self.value_and_gradient(history).0
    }

    /// ln L and its derivatives by r, α, s, β.
    pub fn value_and_gradient(&self, history: &History) -> (f64, [f64; 4]) {
        let Self { r, alpha, s, beta } = *self;
        let x = history.repeats;
        let (alive, left) = self.weights(history);
        let total = alive + left.total;
        let value = ln_gamma(r + x) - ln_gamma(r)
            + r * alpha.ln()
            + s * beta.ln()
            + self.ln_alive(x, history.last)
            + total.ln();
        let (buying, leaving) = (alpha + history.age, beta + history.age);
        let [ln_buying, per_buying, ln_leaving, per_leaving] = left.moments;
        let gradient = [
            digamma(r + x) - digamma(r) + alpha.ln() - (alive * buying.ln() + ln_buying) / total,
            r / alpha - (r + x) * (alive / buying + per_buying) / total,
            beta.ln() + (left.total / s - alive * leaving.ln() - ln_leaving) / total,
            s / beta - (s * alive / leaving + (s + 1.0) * per_leaving) / total,
        ];
        (value, gradient)
    }

    /// The probability that the customer is still one.
    pub fn p_alive(&self, history: &History) -> f64 {
        let (alive, left) = self.weights(history);
        alive / (alive + left.total)
    }

    /// Expected purchases in the `days` that follow.
    pub fn expected_purchases(&self, history: &History, days: f64) -> f64 {
        let rate = (self.r + history.repeats) / (self.alpha + history.age);
        let log = (days / (self.beta + history.age)).ln_1p();
        // (1 − e^(−u)) / u with u = (s − 1) log: 1 where s is 1.
        let u = (self.s - 1.0) * log;
        let share = if u.abs() < 1e-12 { 1.0 } else { -(-u).exp_m1() / u };
        self.p_alive(history) * rate * (self.beta + history.age) * log * share
    }

    /// P(no purchase in the `days` that follow).
    pub fn p_none(&self, history: &History, days: f64) -> f64 {
        let History { repeats, last, age } = *history;
        let (alive, left) = self.weights(history);
        let later = (self.ln_alive(repeats, age + days) - self.ln_alive(repeats, last)).exp();
        let meanwhile = self.leaving(repeats, age, age + days, last).total;
        ((left.total + meanwhile + later) / (left.total + alive)).min(1.0)
    }
}
