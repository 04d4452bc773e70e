//! The integration tests: one binary, so that DataFusion is linked once.
#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test, in helpers too.

mod airflow;
mod boundary;
mod cases;
mod check_finds;
mod demo;
mod duckdb;
mod encoder;
mod evaluation;
mod features;
mod invalid_sql;
mod jobs;
mod lake;
mod lake_checks;
mod ledger;
mod model;
mod nightly;
mod oracle;
mod outcomes;
mod passes;
mod program;
mod publish;
mod readme;
mod real_lakes;
mod segments;
mod sequence_training;
mod sequences;
mod spec;
mod states;
mod store;
mod support;
mod text_classifier;
mod text_mixed;
mod text_tuning;
mod training;
mod tune;
