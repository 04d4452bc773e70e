//! What the user sees: data on stdout, talk on stderr.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Error;

/// How much talk there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Errors and warnings alone.
    Quiet,
    /// Progress too.
    #[default]
    Normal,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Tables for people.
    #[default]
    Human,
    /// JSON for machines.
    Json,
}

/// The one place that writes to the terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Printer {
    verbosity: Verbosity,
    output: Output,
}

impl Printer {
    /// A printer of this verbosity and form.
    pub fn new(verbosity: Verbosity, output: Output) -> Self {
        Printer { verbosity, output }
    }

    /// Whether data goes out as JSON.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }

    /// Data, on stdout. A closed pipe (`| head`) is not an error.
    pub fn data(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.as_ref().trim_end_matches('\n'));
    }

    /// Data as JSON, on stdout.
    pub fn data_json(&self, value: &impl serde::Serialize) -> crate::Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::bug("the result cannot be written as JSON").because(e))?;
        self.data(text);
        Ok(())
    }

    /// What is going on, on stderr; silent with `--quiet`.
    pub fn say(&self, text: impl AsRef<str>) {
        if self.verbosity == Verbosity::Normal {
            self.line(text.as_ref());
        }
    }

    /// Something to look at, on stderr, even with `--quiet`.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.line(&format!("warning: {}", text.as_ref()));
    }

    /// Every problem of an error with its causes and hint, on stderr.
    pub fn error(&self, error: &Error) {
        self.line(render_error(error).trim_end());
    }

    /// A progress bar over `total` units (a spinner where the total is unknown). Plain lines when stderr is no terminal.
    pub fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        if self.verbosity == Verbosity::Quiet {
            return Progress { bar: ProgressBar::hidden(), plain: None };
        }
        if !std::io::stderr().is_terminal() {
            self.line(&format!("{what} …"));
            return Progress { bar: ProgressBar::hidden(), plain: Some((*self, what)) };
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{prefix:16} {bar:30} {pos}/{len} {msg} ({eta} left)",
            None => "{prefix:16} {spinner} {human_pos} {msg} ({elapsed})",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, plain: None }
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _ = writeln!(out, "{text}");
    }
}

/// Work under way.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: Option<(Printer, &'static str)>,
}

impl Progress {
    /// So many units more are done.
    pub fn add(&self, units: u64) {
        self.bar.inc(units);
    }

    /// What it is at.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        if let Some((printer, what)) = &self.plain {
            printer.say(format!("{what}: {text}"));
        }
        self.bar.set_message(text);
    }

    /// It is done; the bar goes, one line stays.
    pub fn done(self, summary: impl AsRef<str>) {
        self.bar.finish_and_clear();
        if let Some((printer, what)) = &self.plain {
            printer.say(format!("{what}: {}", summary.as_ref()));
        } else if !self.bar.is_hidden() {
            Printer::default().say(format!("{:16} {}", self.bar.prefix(), summary.as_ref()));
        }
    }
}

/// The text of an error: every problem with its place, what caused it and what to do.
pub fn render_error(error: &Error) -> String {
    let mut text = String::new();
    for problem in error.problems() {
        text.push_str(&format!("error: {problem}\n"));
        for cause in problem.causes() {
            text.push_str(&format!("  caused by: {}\n", cause.replace('\n', "\n    ")));
        }
        if let Some(hint) = &problem.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    text
}
