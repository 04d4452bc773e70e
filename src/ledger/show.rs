//! Records as text for people.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use comfy_table::{CellAlignment, Table, presets};

use super::{Listing, RunRecord, RunStatus, Verdict, outcome_lines};
use crate::error::Class;

impl Listing {
    /// One line per run, newest first, then a line per file that cannot be read.
    pub fn table(&self) -> String {
        if self.runs.is_empty() && self.unreadable.is_empty() {
            return "no runs yet".to_owned();
        }
        let mut table = plain(["run", "as of", "job", "result", "started", "took", "customers", "scored", "remarks"]);
        for run in &self.runs {
            let remarks = match &run.error {
                Some(error) => error.problems.first().cloned().unwrap_or_default(),
                None => run.alerts.join("; "),
            };
            table.add_row([
                run.run_id.clone(),
                run.as_of.to_string(),
                run.job.clone(),
                result(run).to_owned(),
                moment(run.started),
                run.finished.map(|end| took((end - run.started).as_seconds_f64())).unwrap_or_default(),
                count(run.counts.customers),
                count(run.counts.scored),
                shorten(&remarks, 60),
            ]);
        }
        for column in [6, 7] {
            align_right(&mut table, column);
        }
        let mut text = table.to_string();
        for file in &self.unreadable {
            let _ = write!(text, "\nwarning: `{}` is not the record of a run: {}", file.url, file.reason);
        }
        let shown = self.runs.len() + self.unreadable.len();
        if self.total > shown {
            let _ = write!(text, "\n{shown} of {} runs; `--limit` shows more", count(self.total as u64));
        }
        text
    }
}

impl RunRecord {
    /// Everything about the run.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, "{name:10} {value}");
            }
        };
        line("run", &self.run_id);
        line("job", &self.job);
        line("as of", &self.as_of.to_string());
        line(
            "result",
            &self.exit_code.map_or(result(self).to_owned(), |code| format!("{} (exit {code})", result(self))),
        );
        line("started", &moment(self.started));
        line("finished", &self.finished.map(moment).unwrap_or_default());
        line("withdrawn", &self.withdrawn.map(moment).unwrap_or_default());
        line("engine", &self.engine);
        line("model", &self.model.as_ref().map(|m| format!("{} ({})", m.version, short(&m.hash))).unwrap_or_default());
        line("key", self.key.as_str());
        line("stores", &self.traffic.words());
        line("commit", &self.commit.map(|number| number.to_string()).unwrap_or_default());
        self.failure(&mut text);
        for alert in &self.alerts {
            let _ = writeln!(text, "alert      {alert}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note       {note}");
        }
        self.numbers(&mut text);
        self.outcomes(&mut text);
        self.sections(&mut text);
        text
    }

    fn failure(&self, text: &mut String) {
        let Some(error) = &self.error else { return };
        for problem in &error.problems {
            let _ = writeln!(text, "error      {problem}");
        }
        for cause in &error.causes {
            let _ = writeln!(text, "  caused by: {cause}");
        }
        if let Some(hint) = &error.hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
    }

    fn numbers(&self, text: &mut String) {
        let counts = &self.counts;
        let mut table = plain(["customers", "number"]);
        table.add_row(["all".to_owned(), count(counts.customers)]);
        table.add_row(["scored".to_owned(), count(counts.scored)]);
        for (reason, customers) in &counts.unscored {
            table.add_row([format!("not scored: {reason}"), count(*customers)]);
        }
        for (stage, customers) in &counts.stages {
            table.add_row([format!("stage {stage}"), count(*customers)]);
        }
        section(text, table);
    }

    fn outcomes(&self, text: &mut String) {
        let mut lines = outcome_lines(&self.outcomes).into_iter();
        let Some(header) = lines.next() else { return };
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(header).add_rows(lines);
        for column in 2..=self.outcomes.len() {
            align_right(&mut table, column);
        }
        section(text, table);
    }

    fn sections(&self, text: &mut String) {
        let mut tables = plain(["published", "rows", "bytes", "sha256"]);
        for table in &self.tables {
            tables.add_row([table.path.clone(), count(table.rows), count(table.bytes), short(&table.sha256)]);
        }
        section(text, tables);

        let mut inputs = plain(["read", "objects", "bytes", "rows"]);
        for input in &self.inputs {
            let name = match input.version {
                Some(version) => format!("{} (version {version})", input.table),
                None => input.table.clone(),
            };
            let rows = input.rows.map(count).unwrap_or_default();
            inputs.add_row([name, count(input.objects), count(input.bytes), rows]);
        }
        section(text, inputs);

        let mut rejects = plain(["rejected", "rows", "reason"]);
        for (table, reasons) in &self.counts.rejects {
            for (reason, rows) in reasons {
                rejects.add_row([table.clone(), count(*rows), reason.clone()]);
            }
        }
        section(text, rejects);

        let mut checks = plain(["check", "broken", "rule", "then", "note"]);
        for check in &self.checks {
            let note = check.note.clone().unwrap_or_default();
            checks.add_row([
                check.table.clone(),
                count(check.broken),
                check.check.clone(),
                check.on_fail.clone(),
                note,
            ]);
        }
        section(text, checks);

        let mut timings = plain(["part", "took"]);
        for timing in &self.timings {
            timings.add_row([timing.stage.clone(), took(timing.seconds)]);
        }
        section(text, timings);

        let mut sql = plain(["sql", "sha256"]);
        for (file, hash) in &self.sql {
            sql.add_row([file.clone(), short(hash)]);
        }
        section(text, sql);
    }
}

fn result(run: &RunRecord) -> &'static str {
    match (run.status, run.verdict) {
        _ if run.withdrawn.is_some() => "withdrawn",
        (RunStatus::Running, _) => "running",
        (RunStatus::Done, Some(Verdict::Alert)) => "done, alert",
        (RunStatus::Done, _) => "done",
        (RunStatus::Failed, Some(Verdict::InfraError)) => "failed, retry",
        (RunStatus::Failed, _) if run.error.as_ref().is_some_and(|error| error.class == Some(Class::Bug)) => {
            "failed, bug"
        }
        (RunStatus::Failed, _) => "failed",
    }
}

fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// A table with a blank line before it; one without rows is left out. The second column of each is a number.
fn section(text: &mut String, mut table: Table) {
    if table.is_empty() {
        return;
    }
    align_right(&mut table, 1);
    let _ = writeln!(text, "\n{table}");
}

fn align_right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn moment(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn took(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        assert_eq!([0.04, 61.0, 7325.0].map(took), ["0.0 s", "1 min 01 s", "2 h 02 min"]);
    }
}
