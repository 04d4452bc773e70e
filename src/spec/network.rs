//! How the network takes numbers in, and how its step size moves while it learns.

use serde::{Deserialize, Serialize};

/// How each number enters the network beside the plain inputs (Gorishniy, Rubachev, Babenko 2022, arXiv 2203.05556).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EmbeddingSpec {
    /// As it is.
    None,
    /// How far it has come through each bin between its quantiles, then a linear layer and ReLU.
    PiecewiseLinear {
        /// Inputs that a number becomes.
        width: usize,
        /// Bins at most; equal quantiles are one.
        bins: usize,
    },
    /// Sines and cosines of trained frequencies, then a linear layer and ReLU.
    Periodic {
        /// Inputs that a number becomes.
        width: usize,
        /// Frequencies of a number.
        frequencies: usize,
    },
}

/// What is known of the course of a year before the shop's own years tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeasonSpec {
    /// Nothing: every window is like every other.
    None,
    /// Sales follow those of all online shops, with their fourth quarter.
    Retail,
}

/// Where a probability goes as its horizon grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It rises: that something happens, such as a purchase.
    Rises,
    /// It falls: that nothing happens, such as churn.
    Falls,
}

impl Direction {
    /// Its names in a job file.
    pub(super) const NAMES: [(&str, Direction); 2] = [("rises", Direction::Rises), ("falls", Direction::Falls)];

    /// That of a label whose customers without any row get `default`: who is 1 by doing nothing is so less and less.
    pub fn of_default(default: Option<f64>) -> Option<Self> {
        match default {
            Some(0.0) => Some(Direction::Rises),
            Some(1.0) => Some(Direction::Falls),
            _ => None,
        }
    }
}

/// How the step size moves from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls along half a cosine, to nothing after the last epoch.
    Cosine,
    /// It halves when the validation loss has not become better for half of `patience`.
    Plateau,
}

impl Schedule {
    /// Every schedule with its name in a job file.
    pub const NAMES: [(&'static str, Schedule); 3] =
        [("constant", Schedule::Constant), ("cosine", Schedule::Cosine), ("plateau", Schedule::Plateau)];
}
