//! One night, from the job file to the committed tables: the only module that knows the order.
//!
//! [`Plan`] is what a job will do, known without data; [`run`] does it for one day; [`check`] asks whether it could;
//! [`train`], [`tune`] and [`evaluate`] look at past days through the same plan.

mod build;
#[cfg(feature = "torch")]
mod check;
#[cfg(feature = "torch")]
mod evaluate;
#[cfg(feature = "torch")]
mod evaluation_files;
#[cfg(feature = "torch")]
mod night;
#[cfg(feature = "torch")]
mod outcomes;
mod plan;
#[cfg(feature = "torch")]
mod shrink;
#[cfg(feature = "torch")]
mod snapshots;
pub mod state;
#[cfg(feature = "torch")]
mod tables;
#[cfg(feature = "torch")]
mod tune;
#[cfg(feature = "torch")]
mod tune_files;

pub use build::{BuiltMatrix, build, place_of};
#[cfg(feature = "torch")]
pub use check::{CheckReport, check, check_online};
#[cfg(feature = "torch")]
pub use evaluate::{EvaluateOptions, EvaluationReport, evaluate};
#[cfg(feature = "torch")]
pub use night::{NightOptions, NightOutcome, run};
pub use plan::Plan;
#[cfg(feature = "torch")]
pub use snapshots::train;
#[cfg(feature = "torch")]
pub use tune::{TuneLimits, tune};

use crate::Result;
use crate::lake::Lake;
use crate::printer::Printer;

/// Names the files in the tables' folders that are no part of them.
pub async fn warn_of_passed_over(lake: &Lake, printer: &Printer) -> Result<()> {
    lake.passed_over().await?.iter().for_each(|passed_over| printer.warn(passed_over.to_string()));
    Ok(())
}
