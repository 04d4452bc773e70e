//! Feature extraction: SQL files → windows → one row per customer.
//!
//! [`FeatureSet::load`] reads the population, the views and the feature files and says everything that is wrong with
//! them; [`FeatureSet::resolve`] plans them on empty tables; [`FeatureSet::matrix`] streams the matrix, with each customer's
//! newest events behind it where the job's model reads them. Files over one table are computed in one pass (`fusion`).
//! [`LabelSet`] does the same for what lies ahead of a date. The point-in-time cut of tables is made by the [`crate::lake`];
//! windows and views make it once more for themselves.

mod aggregates;
mod approximate;
mod bench;
mod case_rows;
pub mod cases;
mod checked;
mod column;
mod condition;
mod definition;
pub mod docs;
mod exact;
mod explain;
mod extremes;
mod failure_words;
mod filter_first;
mod finite;
mod fusion;
mod gap;
mod great_sum;
mod header;
mod key_type;
mod labels;
mod letter_case;
mod limited;
mod local_time;
mod matrix;
mod moments;
mod nearest_double;
mod nesting;
mod not_finite;
mod part;
mod pass_plan;
mod prepare;
mod refuse;
mod rows;
mod sequence;
mod set;
mod stream;
mod types;
mod whole_sum;
mod window;
mod written;

pub use cases::{CaseResult, run_tests};
pub use column::FeatureColumn;
pub use condition::{Condition, ConditionParser};
pub use fusion::state::{Block, BlockState, GroupState, Manifest, StateFile, StateReport, States};
pub use labels::{LabelColumn, LabelSet};
pub use matrix::Matrices;
pub use not_finite::NotFinite;
pub use pass_plan::{LoneFile, PassPlan, SharedScan};
pub use rows::BATCH_ROWS;
pub use sequence::SEQUENCE;
pub use set::FeatureSet;
pub use stream::FeatureStream;
pub use window::Window;

impl AsRef<[crate::spec::TableSpec]> for crate::spec::JobSpec {
    fn as_ref(&self) -> &[crate::spec::TableSpec] {
        self.tables()
    }
}
