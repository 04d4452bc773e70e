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
        let mut counts = vec![0_usize; column.words().len()];
        let mut missing = 0;
        for row in rows {
            match column.ids()[*row] {
                MISSING => missing += 1,
                id => counts[id as usize] += 1,
            }
        }
        let mut seen: Vec<(usize, &String)> = counts.into_iter().zip(column.words()).filter(|(n, _)| *n > 0).collect();
        if seen.len() + usize::from(missing > 0) < 2 {
            return Encoding::Dropped("it has one value in every training row".into());
        }
        seen.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let words = seen.into_iter().take(VOCABULARY).map(|(_, word)| word.clone()).collect();
        Encoding::Category(CategoryEncoding { words })
    }

    pub(super) fn width(&self) -> usize {
        self.words.len() + 2
    }

    /// Sets one slot per row to 1.
    pub(super) fn write<'a>(&self, column: &Words, slots: impl Iterator<Item = &'a mut [f32]>) {
        let place: HashMap<&str, usize> = self.words.iter().enumerate().map(|(i, w)| (w.as_str(), i)).collect();
        let unknown = self.words.len();
        let slot_of: Vec<usize> =
            column.words().iter().map(|w| place.get(w.as_str()).copied().unwrap_or(unknown)).collect();
        for (id, slot) in column.ids().iter().zip(slots) {
            let at = if *id == MISSING { unknown + 1 } else { slot_of[*id as usize] };
            slot[at] = 1.0;
        }
    }
}
