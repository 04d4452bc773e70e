//! Which columns of a matrix have NULL in the place of NaN or infinite numbers, and for how many customers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::definition::{Definition, Kind};
use super::prepare::Prepared;

/// What was counted so far, item by item; complete once the matrix is.
#[derive(Debug, Clone, Default)]
pub struct NotFinite {
    items: Vec<Item>,
}

/// A column of a file, in all of its windows.
#[derive(Debug, Clone)]
struct Item {
    name: String,
    file: String,
    /// What the file reads; nothing where it derives columns from others.
    sources: Vec<String>,
    counts: Vec<Arc<AtomicU64>>,
}

impl NotFinite {
    pub(super) fn of(prepared: &Prepared) -> Self {
        let mut items: Vec<Item> = Vec::new();
        for file in &prepared.files {
            let Definition { file: name, kind, tables, .. } = &file.definition;
            let first = items.len();
            for column in file.columns() {
                let known = items[first..].iter_mut().find(|item| item.name == column.item.name);
                let count = Arc::clone(&column.not_finite);
                match known {
                    Some(item) => item.counts.push(count),
                    None => items.push(Item {
                        name: column.item.name.clone(),
                        file: name.clone(),
                        sources: match kind {
                            Kind::Derived => Vec::new(),
                            _ => tables.iter().map(|(table, _)| format!("`{table}`")).collect(),
                        },
                        counts: vec![count],
                    }),
                }
            }
        }
        NotFinite { items }
    }

    /// What is to be told, a line for each item.
    pub fn notes(&self) -> Vec<String> {
        let note = |item: &Item| {
            let customers = item.counts.iter().map(|count| count.load(Ordering::Relaxed)).max().filter(|n| *n > 0)?;
            let customers = if customers == 1 { "1 customer".to_owned() } else { format!("{customers} customers") };
            let Item { name, file, sources, .. } = item;
            let why = match sources.is_empty() {
                true => {
                    "it divides by zero or leaves the range of doubles: `nullif(…, 0)` says that it is meant".to_owned()
                }
                false => format!(
                    "it is made of numbers of {} that are NaN or infinite, or divides by zero: a check (`range`, `not_null`) \
                     rejects such rows, `nullif(…, 0)` avoids the division",
                    sources.join(", ")
                ),
            };
            Some(format!("`{name}` of `{file}` is NULL for {customers}: {why}"))
        };
        self.items.iter().filter_map(note).collect()
    }
}
