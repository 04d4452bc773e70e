//! What is wrong with a file, gathered while reading goes on.

use crate::error::{Place, Problem};

use super::node::Pos;

/// The problems of one file.
#[derive(Debug)]
pub(super) struct Problems {
    file: String,
    list: Vec<(Pos, String, String)>,
}

impl Problems {
    /// No problems yet; `file` is its name in messages.
    pub fn of(file: impl Into<String>) -> Self {
        Problems { file: file.into(), list: Vec::new() }
    }

    /// One problem more: where, what, and what to do about it.
    pub fn add(&mut self, pos: Pos, message: impl Into<String>, hint: impl Into<String>) {
        self.list.push((pos, message.into(), hint.into()));
    }

    /// Tells a problem unless `good` holds; gives `good` back.
    pub fn require(&mut self, good: bool, pos: Pos, message: impl Into<String>, hint: impl Into<String>) -> bool {
        if !good {
            self.add(pos, message, hint);
        }
        good
    }

    /// A position as a place in this file.
    pub fn place(&self, pos: Pos) -> Place {
        Place::at(self.file.clone(), pos.line, pos.column)
    }

    /// All of them in the order of the file.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.list.sort_by_key(|(pos, ..)| *pos);
        let file = self.file;
        self.list
            .into_iter()
            .map(|(pos, message, hint)| {
                Problem::new(message).at(Place::at(file.clone(), pos.line, pos.column)).hint(hint)
            })
            .collect()
    }
}
