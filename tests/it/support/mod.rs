//! What several areas' tests need.

pub mod delta;
pub mod flaky;
pub mod job;
pub mod lake;
pub mod memory;
pub mod purchases;
pub mod python;
pub mod s3;
pub mod shop;
pub mod small_job;
