//! The part of a job file about what a night publishes.

use schemars::JsonSchema;
use serde::Serialize;

use crate::spec::publish::DEFAULT_MAX_SHRINK;
use crate::spec::read::{At, Keyed, read_keys};

/// Where a night's tables go.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Publish")]
pub(in crate::spec) struct RawPublish {
    /// The folder, relative to the lake, or a URL. It belongs to the job that first publishes there.
    pub path: At<String>,
    /// Whether the feature matrix is published too. Default: false.
    #[schemars(extend("default" = false))]
    pub features: Option<At<bool>>,
    /// Descriptions of published columns beyond those of the feature files.
    pub descriptions: Option<At<Keyed<String>>>,
    /// What a night may lose against the night before; one that loses more is refused unless it runs with
    /// `--accept-shrink`.
    pub max_shrink: Option<At<RawMaxShrink>>,
}

read_keys!(RawPublish, "the publishing": path, features, descriptions, max_shrink);

/// The shares that a night may lose against the newest published night before it, each from 0 to 1; 1 turns a guard off.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "MaxShrink")]
pub(in crate::spec) struct RawMaxShrink {
    /// Of the rows of each source table, or of its bytes where its rows are not known. A table's own `max_shrink` goes
    /// before it.
    #[schemars(range(min = 0, max = 1), extend("default" = DEFAULT_MAX_SHRINK))]
    pub tables: Option<At<f64>>,
    /// Of the customers.
    #[schemars(range(min = 0, max = 1), extend("default" = DEFAULT_MAX_SHRINK))]
    pub population: Option<At<f64>>,
    /// Of the predicted total of each head with the loss `ziln`.
    #[schemars(range(min = 0, max = 1), extend("default" = DEFAULT_MAX_SHRINK))]
    pub totals: Option<At<f64>>,
}

read_keys!(RawMaxShrink, "the guards against shrinking": tables, population, totals);
