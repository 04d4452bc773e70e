//! How large tables are, for a comparison with the night before.

use std::sync::PoisonError;

use super::{Lake, Visibility};
use crate::{Error, Result};

/// The files of a table that can hold visible rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// How many files there are.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Their rows; `None` where a file was not opened or does not say.
    pub rows: Option<u64>,
}

impl Lake {
    /// The sizes of all tables as a session at `at` sees them, in the order of their declaration.
    pub async fn sizes(&self, at: Visibility) -> Result<Vec<TableSize>> {
        self.session(at).await?;
        let nights = self.nights.lock().unwrap_or_else(PoisonError::into_inner);
        let night = nights.get(&at).ok_or_else(|| Error::bug("the session of these sizes is lost"))?;
        let sizes = night.iter().map(|table| {
            let rows = |file| table.files.opened(file).and_then(|opened| opened.rows).map(|rows| rows as u64);
            TableSize {
                table: table.spec.name.clone(),
                files: table.parts.len() as u64,
                bytes: table.parts.iter().map(|file| file.meta.size).sum(),
                rows: table.parts.iter().map(rows).sum(),
            }
        });
        Ok(sizes.collect())
    }
}
