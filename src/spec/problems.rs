//! What is wrong with a file, gathered while reading goes on.

use crate::error::{Place, Problem};

use super::node::{Pos, Source};

/// The problems of a job file and of its patch.
#[derive(Debug)]
pub(super) struct Problems {
    file: String,
    patch: String,
    list: Vec<(Pos, String, String)>,
}

impl Problems {
    /// No problems yet; `file` is its name in messages.
    pub fn of(file: impl Into<String>) -> Self {
        Problems { file: file.into(), patch: String::new(), list: Vec::new() }
    }

    /// Takes over what is wrong with the patch, gathered by itself.
    pub fn with_patch(mut self, patch: Problems) -> Self {
        self.patch = patch.file;
        self.list.extend(patch.list.into_iter().map(|(pos, message, hint)| (pos.in_patch(), message, hint)));
        self
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

    /// A position as a place in its file.
    pub fn place(&self, pos: Pos) -> Place {
        let file = match pos.source {
            Source::Job => &self.file,
            Source::Patch => &self.patch,
        };
        Place::at(file.clone(), pos.line, pos.column)
    }

    /// All of them in the order of the file, those of the patch last.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        let mut list = std::mem::take(&mut self.list);
        list.sort_by_key(|(pos, ..)| *pos);
        let problem =
            |(pos, message, hint): (Pos, String, String)| Problem::new(message).at(self.place(pos)).hint(hint);
        list.into_iter().map(problem).collect()
    }
}
