//! A vocabulary of the most frequent words.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Encoding;
use super::table::{MISSING, Words};

/// Words that have a slot of their own.
const VOCABULARY: usize = 32;

/// One slot per word, then one for any other word, then one for NULL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryEncoding {
    words: Vec<String>,
}

impl CategoryEncoding {
    /// The most frequent words of the rows given; equally frequent ones by name.
    pub(super) fn fit(column: &Words, rows: &[usize]) -> Encoding {
        let words = most_frequent(column, rows.iter().copied());
        let missing = rows.iter().any(|row| column.ids()[*row] == MISSING);
        if words.len() + usize::from(missing) < 2 {
            return Encoding::Dropped("it has one value in every training row".into());
        }
        Encoding::Category(CategoryEncoding { words })
    }

    /// The same over the events of a sequence, where one value is no reason to leave it out.
    pub(super) fn of_events(column: &Words, events: impl Iterator<Item = usize>) -> Self {
        CategoryEncoding { words: most_frequent(column, events) }
    }

    pub(super) fn width(&self) -> usize {
        self.words.len() + 2
    }

    /// Sets one slot per row to 1.
    pub(super) fn write<'a>(&self, column: &Words, slots: impl Iterator<Item = &'a mut [f32]>) {
        for (at, slot) in self.places(column).into_iter().zip(slots) {
            slot[at] = 1.0;
        }
    }

    /// Per row, which slot its word has.
    pub(super) fn places(&self, column: &Words) -> Vec<usize> {
        let place: HashMap<&str, usize> = self.words.iter().enumerate().map(|(i, w)| (w.as_str(), i)).collect();
        let unknown = self.words.len();
        let slot_of: Vec<usize> =
            column.words().iter().map(|w| place.get(w.as_str()).copied().unwrap_or(unknown)).collect();
        let of = |id: &u32| if *id == MISSING { unknown + 1 } else { slot_of[*id as usize] };
        column.ids().iter().map(of).collect()
    }
}

/// The words that are there most often among these rows; equally frequent ones by name.
fn most_frequent(column: &Words, rows: impl Iterator<Item = usize>) -> Vec<String> {
    let mut counts = vec![0_usize; column.words().len()];
    for id in rows.map(|row| column.ids()[row]).filter(|id| *id != MISSING) {
        counts[id as usize] += 1;
    }
    let mut seen: Vec<(usize, &String)> = counts.into_iter().zip(column.words()).filter(|(n, _)| *n > 0).collect();
    seen.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    seen.into_iter().take(VOCABULARY).map(|(_, word)| word.clone()).collect()
}
