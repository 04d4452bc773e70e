//! Times without a zone: which instants they are is for the job to say, and clocks that change make some of them ambiguous.
//!
//! Arrow reads a column without a zone as if it were on the clock of the column's declared type, and fails where that clock shows a
//! time twice or never. Here such a time is an instant by the rules of [`crate::local_time`], for Parquet (see
//! [`super::conversion`]) and CSV (see [`super::csv`]) alike. A job in UTC reads them as Arrow does: there the two are the same.

use arrow::datatypes::{DataType, Schema};

use super::tables::{file_columns, find_type};
use crate::local_time::is_utc;
use crate::spec::{ColumnSpec, TableSpec};

/// Whether a table's times without a zone are more than a label away from what SQL sees.
pub(super) fn matter(table: &TableSpec) -> bool {
    !is_utc(table.timezone)
}

/// The names of the declared columns that are times without a zone in a file.
pub(super) fn columns_of<'a>(table: &'a TableSpec, found: &Schema) -> impl Iterator<Item = &'a str> {
    let naive = |column: &&ColumnSpec| matches!(find_type(found, &column.from), Ok(DataType::Timestamp(_, None)));
    file_columns(table).filter(naive).map(|column| column.name.as_str())
}
