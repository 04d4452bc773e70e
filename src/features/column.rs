//! What is known about a column of the matrix.

use arrow::datatypes::DataType;

/// A column of the feature matrix or of the labels.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureColumn {
    /// Its name, window included: `orders_30d`.
    pub name: String,
    /// Its Arrow type.
    pub data_type: DataType,
    /// What it means, from the comment behind it.
    pub description: Option<String>,
    /// Who looks after it.
    pub owner: Option<String>,
    /// The SQL file that it comes from, as the job names it.
    pub file: String,
    /// Its window: `30d`, `lifetime`; `None` where the file declares none.
    pub window: Option<String>,
    /// The table or view that it is computed from.
    pub source: String,
}
