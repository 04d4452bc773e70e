//! Where training and evaluation get their rows: features and labels at a date.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use async_trait::async_trait;

use crate::error::Place;
use crate::features::{FeatureColumn, FeatureStream};
use crate::{AsOf, Result};

/// A label column.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// The days that it looks ahead.
    pub horizon_days: u32,
    /// What customers without rows in those days get; no label where there is none.
    pub default: Option<f64>,
    /// The same for classes.
    pub default_class: Option<String>,
    /// Where it is declared.
    pub place: Option<Place>,
}

/// Features and labels at any date, by the same SQL. Tensors stay on their thread, and so does whoever asks here.
#[async_trait(?Send)]
pub trait SnapshotSource: Send + Sync {
    /// The feature columns, without the key.
    fn features(&self) -> &[FeatureColumn];
    /// SHA-256 of the files behind them.
    fn feature_hashes(&self) -> BTreeMap<String, String>;
    /// The label columns, without the key.
    fn labels(&self) -> &[LabelInfo];
    /// SHA-256 of the files behind them.
    fn label_hashes(&self) -> BTreeMap<String, String>;
    /// The first day of which there is any event.
    async fn first_event(&self) -> Result<AsOf>;
    /// Whether the tables behind a label have no row at all in its days from `as_of` on: then nobody knows what happened.
    fn window_is_empty(&self, _label: &str, _as_of: AsOf) -> bool {
        false
    }
    /// Hears of dates whose features are asked for next: what they share can be read once.
    async fn prepare(&self, _dates: &[AsOf]) -> Result<()> {
        Ok(())
    }
    /// The features of everyone known at `as_of`, sorted by key.
    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream>;
    /// The labels over their own days from `as_of` on, file by file: each stream has the customers that have rows in the days of
    /// its labels.
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>>;
}
