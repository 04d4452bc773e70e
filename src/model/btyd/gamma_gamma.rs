//! Gamma-Gamma (Fader, Hardie, Lee 2005; Fader, Hardie 2013, "The Gamma-Gamma model of monetary value").
//!
//! What a customer spends on a purchase day is Gamma(p, ν), ν ~ Gamma(q, v). The mean over customers, p v / (q − 1), exists
//! only for q > 1, so that is where it is fitted. The usual practice leaves the first purchase out and then knows nothing of
//! a one-time buyer but the population's mean; here every purchase day counts, the first one too.

use serde::{Deserialize, Serialize};

use super::special::{digamma, ln_gamma};

/// The parameters; all are positive, and q is above 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GammaGamma {
    /// Shape of the spend of one purchase day.
    pub p: f64,
    /// Shape of its inverse scale among customers.
    pub q: f64,
    /// Inverse scale of that, in money.
    pub v: f64,
}

impl GammaGamma {
    /// ln L of a customer who spent `mean` > 0 per purchase day on `days` of them.
    pub fn log_likelihood(&self, days: f64, mean: f64) -> f64 {
        let Self { p, q, v } = *self;
        let shape = p * days;
        ln_gamma(shape + q) - ln_gamma(shape) - ln_gamma(q) + q * v.ln() - mean.ln() + shape * (days * mean).ln()
            - (shape + q) * (v + days * mean).ln()
    }

    /// Its derivatives by p, q, v.
    pub fn gradient(&self, days: f64, mean: f64) -> [f64; 3] {
        let Self { p, q, v } = *self;
        let (shape, spent) = (p * days, days * mean);
        let all = v + spent;
        [
            days * (digamma(shape + q) - digamma(shape) + spent.ln() - all.ln()),
            digamma(shape + q) - digamma(q) + v.ln() - all.ln(),
            q / v - (shape + q) / all,
        ]
    }

    /// Expected spend of a purchase day: between the customer's own mean and that of all, by how often it bought. A customer
    /// whose spend is not known (`days` 0) gets the mean of all.
    pub fn expected_spend(&self, days: f64, mean: f64) -> f64 {
        self.p * (self.v + days * mean) / (self.p * days + self.q - 1.0)
    }
}
