//! Tenure: what each customer is worth, who is about to leave, and which stage of life each one is in, every night.
//!
//! ```text
//! jobs/ltv.yaml ──spec──▶ JobSpec                      valid by construction, every error with file:line:col
//!       │
//!       ▼
//! lake::session ──▶ SessionContext                     rows at or after as_of do not exist for any SQL
//!       │
//!       ▼
//! features ──▶ FeatureStream (one row per customer)    SQL files → windows → one scan per file
//!       │
//!       ▼
//! text + model::scorer ──▶ ScoredBatch                 tokens (rayon) → encoder → heads, on its own thread
//!       │
//!       ▼
//! segments ──▶ stages, transitions                     stage, previous stage, since, why it moved
//!       │
//!       ▼
//! lake::publish ──▶ Committed ──▶ ledger, report       all or nothing, one night = one commit
//! ```
//!
//! [`pipeline`] is the only module that knows this order. [`training`] reuses [`features`] unchanged, with many as-of
//! dates and label queries, and writes the model bundle whose manifest scoring checks.
//!
//! `tch` is imported only under [`model`] and [`training`]; `datafusion` only under [`lake`], [`features`],
//! [`segments`] and [`error`]. Plain data (`Vec`, Arrow arrays) crosses between them. The model, the training and what needs them
//! are there with the feature `torch`: see [`cli::main`].

pub mod as_of;
pub mod cli;
pub mod cpu;
pub mod demo;
pub mod error;
pub mod failpoint;
pub mod features;
pub mod hash;
pub mod lake;
pub mod ledger;
pub mod local_time;
#[cfg(feature = "torch")]
pub mod model;
pub mod panics;
pub mod pipeline;
pub mod printer;
pub mod report;
mod scratch;
pub mod segments;
pub mod spec;
#[cfg(feature = "torch")]
pub mod text;
#[cfg(feature = "torch")]
pub mod training;

pub use as_of::AsOf;
pub use error::{Error, Result};

/// Threads that decode and add up allocate all the time; the system's allocator costs a fifth of a pass over a lake.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
