//! One night, from the job file to the committed tables: the only module that knows the order.
//!
//! [`Plan`] is what a job will do, known without data; [`run`] does it for one day; [`check`] asks whether it could;
//! [`train`], [`tune`] and [`evaluate`] look at past days through the same plan.

mod build;
mod check;
mod evaluate;
mod evaluation_files;
mod night;
mod outcomes;
mod plan;
mod snapshots;
pub mod state;
mod tables;
mod tune;
mod tune_files;

pub use build::{BuiltMatrix, build, place_of};
pub use check::{CheckReport, check, check_online};
pub use evaluate::{EvaluateOptions, EvaluationReport, evaluate};
pub use night::{NightOptions, NightOutcome, run};
pub use plan::Plan;
pub use snapshots::train;
pub use tune::{TuneLimits, tune};
