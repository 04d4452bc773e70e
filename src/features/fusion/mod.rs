//! Many files over one table in one pass: rows are read once, sorted into buckets of time, and windows are merged from them.
//!
//! ```text
//! files ─recipe─▶ aggregates, filters, windows          what a file wants, over the columns of its table
//!       ─source─▶ one scan per table                    every expression once, every row once
//!       ─inputs─▶ its rows, or states of past days      only the days that have no states
//!       ─scatter▶ rows by ranges of customers           on disk where memory is short
//!       ─shard──▶ a state per customer and bucket       7d ⊂ 30d ⊂ …: a row goes to its narrowest bucket alone
//!       ─spans──▶ windows merged from buckets           one column per aggregate and window
//! ```
//! A range of customers is small enough for the cache, so adding a row costs no trip to memory, and what a whole run holds is
//! the scattered rows. The answers are those of one query per window; `tests/it/oracle.rs` compares them.

mod accumulator;
mod aggregate;
mod buckets;
mod cursor;
mod days;
mod decimal_sums;
mod distinct;
mod first;
mod flatten;
mod gaps;
mod in_order;
mod inputs;
mod keys;
mod moments;
mod only;
mod pick;
mod population;
mod quantile;
mod read;
mod recipe;
mod run;
mod scatter;
mod shard;
mod simple;
mod sketch;
mod sketched;
mod slots;
mod source;
mod spill;
pub(super) mod state;
mod stored;
mod written;

pub(super) use cursor::Twice;
pub(super) use recipe::Recipe;
pub(super) use run::{Batch, File, Fusion, Matrix, Running};
pub(super) use source::Source;
