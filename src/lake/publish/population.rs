//! How many rows a table of one row per customer has to have.

use std::fmt;

use crate::{Error, Result};

/// How many customers the population has, counted where its rows were read and not where rows of the matrix came out: a night that
/// lost rows on the way shows itself by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PopulationCount(u64);

impl PopulationCount {
    /// So many rows were read, one per customer.
    pub fn of_rows(rows: usize) -> Self {
        PopulationCount(rows as u64)
    }

    /// Refuses another number of rows than customers, which is a bug of ours wherever it happens.
    pub fn check(self, what: &str, rows: u64) -> Result<()> {
        match rows == self.0 {
            true => Ok(()),
            false => Err(Error::bug(format!("{what} has {rows} rows for a population of {self}"))),
        }
    }
}

impl fmt::Display for PopulationCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} customers", self.0)
    }
}
