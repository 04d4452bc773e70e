//! BG/NBD (Fader, Hardie, Lee 2005) and MBG/NBD (Batislam, Denizel, Filiztekin 2007).
//!
//! While alive a customer buys at a rate λ ~ Gamma(r, α); after a purchase it leaves with probability p ~ Beta(a, b). In the
//! BG/NBD the first purchase never is the last, so that every one-time buyer counts as alive; in the MBG/NBD it may be. No
//! hypergeometric function is needed: expected purchases are a sum over the number that an immortal customer would make.

use serde::{Deserialize, Serialize};

use super::History;
use super::special::{digamma, ln_gamma, ln_sum};

/// Terms of the sum of expected purchases at most.
const TERMS: usize = 200_000;
/// What is left of that sum, relative to it, where it ends.
const REST: f64 = 1e-13;

/// The parameters of a BG/NBD or MBG/NBD; all are positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BetaGeometric {
    /// Shape of the purchase rate.
    pub r: f64,
    /// Its inverse scale, in days.
    pub alpha: f64,
    /// First parameter of the probability to leave after a purchase.
    pub a: f64,
    /// Its second parameter.
    pub b: f64,
    /// Whether a customer may leave after the very first purchase: MBG/NBD, else BG/NBD.
    pub first_may_be_last: bool,
}

impl BetaGeometric {
    /// Purchases after which the customer has had the chance to leave.
    fn chances(&self, history: &History) -> f64 {
        history.repeats + if self.first_may_be_last { 1.0 } else { 0.0 }
    }

    /// Logs of the weights of a customer who is alive and of one who left with the last purchase.
    fn weights(&self, history: &History) -> (f64, f64) {
        let shape = self.r + history.repeats;
        let alive = -shape * (self.alpha + history.age).ln();
        let chances = self.chances(history);
        if chances < 1.0 {
            return (alive, f64::NEG_INFINITY);
        }
        let gone = self.a.ln() - (self.b + chances - 1.0).ln() - shape * (self.alpha + history.last).ln();
        (alive, gone)
    }

    /// ln L of a customer.
    pub fn log_likelihood(&self, history: &History) -> f64 {
        let Self { r, alpha, a, b, .. } = *self;
        let (x, chances) = (history.repeats, self.chances(history));
        let (alive, gone) = self.weights(history);
        let purchases = ln_gamma(r + x) - ln_gamma(r) + r * alpha.ln();
        let stays = ln_gamma(a + b) + ln_gamma(b + chances) - ln_gamma(b) - ln_gamma(a + b + chances);
        purchases + stays + ln_sum(alive, gone)
    }

    /// The derivatives of ln L by r, α, a, b.
    pub fn gradient(&self, history: &History) -> [f64; 4] {
        let Self { r, alpha, a, b, .. } = *self;
        let (x, chances) = (history.repeats, self.chances(history));
        let alive = self.p_alive(history);
        let gone = 1.0 - alive;
        let (until, last) = (alpha + history.age, alpha + history.last);
        let both = digamma(a + b) - digamma(a + b + chances);
        let left = if chances < 1.0 { 0.0 } else { gone / (b + chances - 1.0) };
        [
            digamma(r + x) - digamma(r) + alpha.ln() - alive * until.ln() - gone * last.ln(),
            r / alpha - (r + x) * (alive / until + gone / last),
            both + gone / a,
            both + digamma(b + chances) - digamma(b) - left,
        ]
    }

    /// The probability that the customer is still one.
    pub fn p_alive(&self, history: &History) -> f64 {
        let (alive, gone) = self.weights(history);
        1.0 / (1.0 + (gone - alive).exp())
    }

    /// Expected purchases in the `days` that follow.
    pub fn expected_purchases(&self, history: &History, days: f64) -> f64 {
        self.p_alive(history) * self.expected_if_alive(history, days)
    }

    /// Σ P(N = n) D(n): N is what a customer who never leaves would buy, negative binomial; D(n) = Σ E[(1 − p)^k], k < n,
    /// is how many of n purchases are made before leaving. All terms are positive.
    fn expected_if_alive(&self, history: &History, days: f64) -> f64 {
        let shape = self.r + history.repeats;
        let beta = self.b + self.chances(history);
        let z = days / (self.alpha + history.age + days);
        // Weights start at 1 and are scaled down where they grow out of bounds.
        let mut ln_scale = shape * (-z).ln_1p();
        let (mut weight, mut made, mut stays, mut sum) = (1.0, 0.0, 1.0, 0.0);
        for n in 1..=TERMS {
            let n = n as f64;
            weight *= (shape + n - 1.0) / n * z;
            made += stays;
            stays *= (beta + n - 1.0) / (self.a + beta + n - 1.0);
            sum += weight * made;
            if sum > 1e200 {
                (weight, sum, ln_scale) = (weight * 1e-200, sum * 1e-200, ln_scale + 200.0 * std::f64::consts::LN_10);
            }
            let ratio = (shape + n) / (n + 1.0) * z;
            if ratio < 1.0 && weight * made <= REST * sum * (1.0 - ratio) * (1.0 - ratio) {
                break;
            }
        }
        (sum.ln() + ln_scale).exp()
    }
}
