//! What went wrong, in the terms of whoever has to act on it.
//!
//! Every module folds its own errors into one [`Error`], whose [`Class`] decides the exit code: the user's or the data's
//! fault (1, retrying does not help), the infrastructure's (2, retry) or our own (1, please report it). The class stays typed on
//! its way through a DataFusion stream: an `Error` wrapped in `DataFusionError::External` comes out as it went in.

mod convert;

use std::fmt;

pub(crate) use convert::{class_of, find};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What to do about a [`Class::Bug`].
const REPORT_IT: &str = "this is a bug in tenure, please report it";

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The job file, the SQL or the data: retrying does not help.
    User,
    /// Network, disk, memory, a lost race: the same command may succeed later.
    Infra,
    /// A broken invariant of this program, or a panic: retrying does not help, and whoever sees it should report it.
    Bug,
}

/// How the process ends; the same verdict stands in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done, or already done.
    Done = 0,
    /// The user's or the data's fault.
    User = 1,
    /// The infrastructure's fault: retry.
    Infra = 2,
    /// Done, and an alert threshold was crossed.
    Alert = 3,
}

/// A place in a file; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// The file as the user named it.
    pub file: String,
    /// Line and column, where they are known.
    pub at: Option<(usize, usize)>,
}

impl Place {
    /// A whole file.
    pub fn file(file: impl Into<String>) -> Self {
        Place { file: file.into(), at: None }
    }

    /// A position in a file, both counted from 1.
    pub fn at(file: impl Into<String>, line: usize, column: usize) -> Self {
        Place { file: file.into(), at: Some((line, column)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

/// One thing that is wrong: where, what, why, and what to do about it.
#[derive(Debug)]
pub struct Problem {
    /// Where, if it is in a file.
    pub place: Option<Place>,
    /// What: lower case, no final period, values in backticks.
    pub message: String,
    /// What to try next.
    pub hint: Option<String>,
    source: Option<Source>,
}

impl Problem {
    /// A problem without a place or a hint yet.
    pub fn new(message: impl Into<String>) -> Self {
        Problem { place: None, message: message.into(), hint: None, source: None }
    }

    /// Says where it is.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Says what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says first what it is about: `what: message`.
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The messages below this one, outermost first, each said once.
    pub fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static));
        while let Some(error) = next {
            let text = error.to_string();
            // Many libraries repeat the inner error in the outer one's text.
            let said = self.message.contains(&text) || causes.iter().any(|c| c.contains(&text));
            if !said && !text.is_empty() {
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// One or more problems of one class. At least one is always there.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    first: Problem,
    rest: Vec<Problem>,
}

impl Error {
    /// The user's or the data's fault.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(Class::User, Problem::new(message))
    }

    /// The infrastructure's fault: worth another try.
    pub fn infra(message: impl Into<String>) -> Self {
        Self::new(Class::Infra, Problem::new(message))
    }

    /// An invariant of this program does not hold.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Class::Bug, Problem::new(message).hint(REPORT_IT))
    }

    /// A task of the runtime that did not end by itself: it panicked, or was aborted.
    pub fn task(what: &str, error: tokio::task::JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::panicked(what, payload.as_ref()),
            Err(cancelled) => Error::bug(format!("{what} was torn down")).because(cancelled),
        }
    }

    /// A panic that was caught, as [`std::thread::JoinHandle::join`] or [`std::panic::catch_unwind`] give it.
    pub fn panicked(what: &str, payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let text = text.as_deref().unwrap_or("without a message");
        match crate::panics::place_of(text) {
            Some(place) => Error::bug(format!("{what} panicked at {place}: {text}")),
            None => Error::bug(format!("{what} panicked: {text}")),
        }
    }

    /// One problem of a class.
    pub fn new(class: Class, problem: Problem) -> Self {
        Error(Box::new(Inner { class, first: problem, rest: Vec::new() }))
    }

    /// A failed read or write of `path`: a file that is missing, or that no retry will make readable (a folder, a symbolic link
    /// that leads back to itself, text that is not UTF-8), is the user's fault, the rest the infrastructure's.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let class = match source.kind() {
            std::io::ErrorKind::NotFound => Class::User,
            _ => convert::class_of_io(&source, Class::Infra),
        };
        Self::new(class, Problem::new(format!("`{}` cannot be used", path.as_ref().display()))).because(source)
    }

    /// All of `problems` at once, as the user's fault; `Ok` when there are none.
    pub fn all(problems: Vec<Problem>) -> Result<()> {
        Self::all_of(Class::User, problems)
    }

    /// The same of any class.
    pub fn all_of(class: Class, problems: Vec<Problem>) -> Result<()> {
        let mut problems = problems.into_iter();
        match problems.next() {
            None => Ok(()),
            Some(first) => Err(Error(Box::new(Inner { class, first, rest: problems.collect() }))),
        }
    }

    /// Says where it is.
    pub fn at(mut self, place: Place) -> Self {
        self.0.first.place = Some(place);
        self
    }

    /// Says what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.first.hint = Some(hint.into());
        self
    }

    /// Names the error below.
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.first.source = Some(source.into());
        self
    }

    /// Wraps this error in a message that says what was being done; class, places and hints stay.
    pub fn context(self, message: impl Into<String>) -> Self {
        let class = self.class();
        let hint = self.0.first.hint.clone();
        let mut outer = Error::new(class, Problem::new(message)).because(self);
        outer.0.first.hint = hint;
        outer
    }

    /// Says first what it is about: `what: message`.
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.0.first = self.0.first.about(what);
        self
    }

    /// The same error again, where it is shared with others: its causes stay as text.
    fn copied(&self) -> Self {
        let copied = |problem: &Problem| Problem {
            place: problem.place.clone(),
            message: problem.message.clone(),
            hint: problem.hint.clone(),
            source: Cause::chain(problem.causes()),
        };
        let mut problems = self.problems().map(copied);
        let first = problems.next().unwrap_or_else(|| Problem::new(self.to_string()));
        Error(Box::new(Inner { class: self.class(), first, rest: problems.collect() }))
    }

    /// Who can mend it.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The exit code's name.
    pub fn status(&self) -> ExitStatus {
        match self.class() {
            Class::User | Class::Bug => ExitStatus::User,
            Class::Infra => ExitStatus::Infra,
        }
    }

    /// Everything that is wrong, in the order in which it was found.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.0.first).chain(&self.0.rest)
    }

    /// The problems themselves, to be gathered with others.
    pub fn into_problems(self) -> Vec<Problem> {
        let inner = *self.0;
        std::iter::once(inner.first).chain(inner.rest).collect()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.first.fmt(f)?;
        match self.0.rest.len() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.first.source.as_deref().map(|s| s as _)
    }
}

/// The text of an error that caused another one.
#[derive(Debug)]
struct Cause {
    text: String,
    next: Option<Source>,
}

impl Cause {
    fn chain(causes: Vec<String>) -> Option<Source> {
        causes.into_iter().rev().fold(None, |next, text| Some(Box::new(Cause { text, next }) as Source))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|s| s as _)
    }
}
