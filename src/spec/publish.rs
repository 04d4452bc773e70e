//! What a night publishes, and how much less than the night before it may be.

use std::collections::BTreeMap;

use url::Url;

/// The share that a table, the population or a total may lose from one night to the next, if the job does not say.
pub(super) const DEFAULT_MAX_SHRINK: f64 = 0.5;

/// Where a night's tables go.
#[derive(Debug, Clone)]
pub struct PublishSpec {
    /// The folder; absolute, under the lake unless it was given as a URL; always ends with `/`.
    pub url: Url,
    /// Whether the feature matrix is published too.
    pub features: bool,
    /// Column descriptions for the published tables beyond those of the feature files.
    pub descriptions: BTreeMap<String, String>,
    /// What a night may lose against the night before.
    pub max_shrink: MaxShrink,
}

/// The shares that may be lost from one night to the next, from 0 to 1; at 1 nothing is guarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxShrink {
    /// Of the rows or bytes of each source table that has no bound of its own.
    pub tables: f64,
    /// Of the customers.
    pub population: f64,
    /// Of the predicted total of each value head.
    pub totals: f64,
}

impl Default for MaxShrink {
    fn default() -> Self {
        MaxShrink { tables: DEFAULT_MAX_SHRINK, population: DEFAULT_MAX_SHRINK, totals: DEFAULT_MAX_SHRINK }
    }
}
