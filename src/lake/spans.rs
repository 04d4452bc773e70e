//! Few files for many threads: each thread reads a span of their rows.
//!
//! DataFusion shares files out by row groups, and many writers make a file of one: a table of a million customers is then read
//! by one thread. Whoever reads a span passes over the pages before it without unpacking them.

use std::ops::Range;

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use parquet::arrow::arrow_reader::RowSelection;

/// Marks a session whose scans read few files in spans. Sorts want it the other way round: each thread's share takes memory of its own.
#[derive(Debug)]
pub struct InSpans;

/// A span has no fewer rows than this: opening a file once more is little beside reading them.
const LEAST_ROWS: usize = 1 << 16;

/// Groups of these Parquet files, which have so many rows each: as many as there are threads and rows for, of equally many rows.
pub(super) fn groups(files: &[PartitionedFile], rows: &[usize], threads: usize) -> Vec<FileGroup> {
    let all: usize = rows.iter().sum();
    let spans = threads.min(all / LEAST_ROWS).max(1);
    let edge = |span: usize| (all as u128 * span as u128 / spans as u128) as usize;
    (0..spans).map(|span| FileGroup::new(parts(files, rows, edge(span)..edge(span + 1)))).collect()
}

/// The parts of files that some of their rows, counted through all of them, are in.
fn parts(files: &[PartitionedFile], rows: &[usize], wanted: Range<usize>) -> Vec<PartitionedFile> {
    let mut first = 0;
    let mut found = Vec::new();
    for (file, rows) in files.iter().zip(rows) {
        let part = wanted.start.saturating_sub(first)..wanted.end.saturating_sub(first).min(*rows);
        first += rows;
        if part.is_empty() {
            continue;
        }
        if part.len() == *rows {
            found.push(file.clone());
        } else {
            let rows = RowSelection::from_consecutive_ranges(std::iter::once(part), *rows);
            found.push(file.clone().with_extension(ParquetRowSelection::new(rows)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first row and the number of rows of every part, group by group, by name.
    fn shared_out(files: &[(&str, usize)], threads: usize) -> Vec<Vec<(String, usize, usize)>> {
        let rows_of = |name: &str| files.iter().find(|(known, _)| *known == name).map(|(_, rows)| *rows);
        let part = |file: &PartitionedFile| {
            let name = file.object_meta.location.to_string();
            let Some(rows) = file.extension::<ParquetRowSelection>() else {
                let rows = rows_of(&name).unwrap();
                return (name, 0, rows);
            };
            let skipped = rows.selection().iter().take_while(|rows| rows.skip).map(|rows| rows.row_count).sum();
            (name, skipped, rows.selection().row_count())
        };
        let (parts, rows): (Vec<_>, Vec<_>) =
            files.iter().map(|(name, rows)| (PartitionedFile::new(*name, 1), *rows)).unzip();
        groups(&parts, &rows, threads).iter().map(|group| group.iter().map(part).collect()).collect()
    }

    #[test]
    fn threads_read_equally_many_rows_and_each_row_once() {
        const K: usize = LEAST_ROWS;
        let part = |name: &str, first, rows| (name.to_owned(), first, rows);
        assert_eq!(shared_out(&[("a", 3 * K)], 2), [[part("a", 0, 3 * K / 2)], [part("a", 3 * K / 2, 3 * K / 2)]]);
        let three = shared_out(&[("a", K), ("none", 0), ("b", 5 * K)], 3);
        assert_eq!(
            three,
            [vec![part("a", 0, K), part("b", 0, K)], vec![part("b", K, 2 * K)], vec![part("b", 3 * K, 2 * K)],]
        );
    }

    #[test]
    fn few_rows_are_read_by_few_threads() {
        assert_eq!(shared_out(&[("a", LEAST_ROWS + 1)], 8), [[("a".to_owned(), 0, LEAST_ROWS + 1)]]);
        assert_eq!(shared_out(&[("a", 2 * LEAST_ROWS)], 8).len(), 2);
    }
}
