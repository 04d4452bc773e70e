//! Life stages: which one each customer is in, since when, and why it changed.
//!
//! Works on the scored night (one local Parquet file: features and scores side by side) and, if there is one, on the
//! segments of an earlier night. A [`StagePlan`] holds the checked conditions of a job; [`StagePlan::assign`] gives
//! three things:
//!
//! - the segments, one row per customer sorted by key, as a stream of batches;
//! - the transitions, one row per pair of stages;
//! - a [`StageSummary`], from which the report is printed.
//!
//! The first stage whose condition is true wins, a condition that is NULL is not true, and the last stage has none: so
//! every customer is in exactly one stage. Where the tables go is the business of `lake::publish`.

mod assign;
mod plan;
mod reason;
mod summary;
mod tiers;

/// The table of stages, one row per customer.
pub const SEGMENTS: &str = "segments";
/// The table of moves between stages.
pub const TRANSITIONS: &str = "transitions";

pub use assign::{SegmentStream, Segmented};
pub use plan::StagePlan;

pub use summary::{MeanScore, StageRow, StageSummary, TierRow};
