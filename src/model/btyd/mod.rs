//! What parametric models of buying know: a purchase process (BG/NBD, MBG/NBD or Pareto/NBD) and a spend model
//! (Gamma-Gamma), from how often, how recently and for how long somebody has bought. Pure Rust in f64, no network.
//!
//! A fitted [`BuyTillYouDie`] stands in the bundle. It turns three or four feature columns into further inputs of the
//! network, the same way in training and in scoring, serves as a baseline, and says how a head's prediction stretches to a
//! horizon that no past snapshot could show ([`extrapolation`]).

mod beta_geometric;
pub mod extrapolation;
mod gamma_gamma;
mod inputs;
mod pareto_nbd;
mod special;

use serde::{Deserialize, Serialize};

pub use beta_geometric::BetaGeometric;
pub use extrapolation::Extrapolation;
pub use gamma_gamma::GammaGamma;
pub use inputs::{Columns, Customer, derived_names, no_order_name};
pub use pareto_nbd::ParetoNbd;

/// What a purchase process sees of a customer. Times are in days; several purchases on one day are one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct History {
    /// x: purchase days after the first.
    pub repeats: f64,
    /// t_x: days from the first purchase day to the last.
    pub last: f64,
    /// T: days from the first purchase day to as_of.
    pub age: f64,
}

/// A purchase process with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurchaseModel {
    /// A customer may leave after each purchase.
    BetaGeometric(BetaGeometric),
    /// A customer may leave at any time.
    ParetoNbd(ParetoNbd),
}

impl PurchaseModel {
    /// What the literature calls it.
    pub fn name(&self) -> &'static str {
        match self {
            PurchaseModel::BetaGeometric(model) if model.first_may_be_last => "MBG/NBD",
            PurchaseModel::BetaGeometric(_) => "BG/NBD",
            PurchaseModel::ParetoNbd(_) => "Pareto/NBD",
        }
    }

    /// Its four parameters in the order of its fields.
    pub fn parameters(&self) -> [f64; 4] {
        match self {
            PurchaseModel::BetaGeometric(m) => [m.r, m.alpha, m.a, m.b],
            PurchaseModel::ParetoNbd(m) => [m.r, m.alpha, m.s, m.beta],
        }
    }

    /// The same model with other parameters.
    pub fn with(&self, [r, alpha, third, fourth]: [f64; 4]) -> Self {
        match self {
            PurchaseModel::BetaGeometric(m) => {
                PurchaseModel::BetaGeometric(BetaGeometric { r, alpha, a: third, b: fourth, ..*m })
            }
            PurchaseModel::ParetoNbd(_) => PurchaseModel::ParetoNbd(ParetoNbd { r, alpha, s: third, beta: fourth }),
        }
    }

    /// ln L of a customer.
    pub fn log_likelihood(&self, history: &History) -> f64 {
        match self {
            PurchaseModel::BetaGeometric(model) => model.log_likelihood(history),
            PurchaseModel::ParetoNbd(model) => model.log_likelihood(history),
        }
    }

    /// ln L and its derivatives by the parameters.
    pub fn value_and_gradient(&self, history: &History) -> (f64, [f64; 4]) {
        match self {
            PurchaseModel::BetaGeometric(model) => (model.log_likelihood(history), model.gradient(history)),
            PurchaseModel::ParetoNbd(model) => model.value_and_gradient(history),
        }
    }

    /// The probability that the customer is still one.
    pub fn p_alive(&self, history: &History) -> f64 {
        match self {
            PurchaseModel::BetaGeometric(model) => model.p_alive(history),
            PurchaseModel::ParetoNbd(model) => model.p_alive(history),
        }
    }

    /// Expected purchase days in the `days` that follow.
    pub fn expected_purchases(&self, history: &History, days: f64) -> f64 {
        match self {
            PurchaseModel::BetaGeometric(model) => model.expected_purchases(history, days),
            PurchaseModel::ParetoNbd(model) => model.expected_purchases(history, days),
        }
    }

    /// P(no purchase in the `days` that follow): how much less likely the history is with that much more silence.
    pub fn p_none(&self, history: &History, days: f64) -> f64 {
        match self {
            PurchaseModel::BetaGeometric(model) => {
                let later = History { age: history.age + days, ..*history };
                (model.log_likelihood(&later) - model.log_likelihood(history)).exp().min(1.0)
            }
            PurchaseModel::ParetoNbd(model) => model.p_none(history, days),
        }
    }
}

/// The fit of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitRecord {
    /// The model.
    pub model: String,
    /// Its parameters, in the order of its fields.
    pub parameters: Vec<f64>,
    /// ln L of all customers, without the penalty that keeps the fit from running away.
    pub log_likelihood: f64,
    /// Customers that it was fitted on.
    pub customers: usize,
    /// Steps of the optimiser, over all starts.
    pub iterations: usize,
    /// Whether the gradient came to nothing.
    pub converged: bool,
}

/// Fitted models with the columns that feed them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuyTillYouDie {
    /// The features that hold what the models see.
    pub columns: Columns,
    /// The day before which everything was seen that they were fitted on.
    pub fitted_as_of: chrono::NaiveDate,
    /// When somebody buys: of the models tried, that of the greatest likelihood.
    pub purchases: PurchaseModel,
    /// What a purchase day is worth; absent without the column of spend, or without any spend in it.
    pub spend: Option<GammaGamma>,
    /// The horizons of the heads, in days, ascending: what the further inputs are about.
    pub horizons: Vec<u32>,
    /// Every model that was tried.
    pub fits: Vec<FitRecord>,
}

#[cfg(test)]
mod tests;
