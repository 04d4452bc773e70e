//! What a night's run tells a person: where the tables lie, and what the customers look like.
//!
//! A [`NightReport`] is plain data: `--json` prints it as it is, [`NightReport::text`] as tables for a terminal.

use chrono::NaiveDate;
use comfy_table::{Cell, CellAlignment, Table, TableComponent, presets};
use serde::{Deserialize, Serialize};

use crate::ledger::{OutcomeRecord, outcome_lines};
use crate::segments::StageSummary;

/// A night in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NightReport {
    /// The job's name.
    pub job: String,
    /// The night.
    pub as_of: NaiveDate,
    /// The run that published it.
    pub run_id: String,
    /// The published tables.
    pub tables: Vec<PublishedTable>,
    /// Stages, tiers and moves; `None` for a job without stages.
    pub stages: Option<StageSummary>,
    /// The predictions made one horizon ago, beside what happened.
    #[serde(default)]
    pub outcomes: Vec<OutcomeRecord>,
    /// Rejected input rows by table and reason.
    pub rejects: Vec<RejectRow>,
    /// Good to know, and no reason to worry.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Things to look at.
    pub warnings: Vec<String>,
}

/// A table of the night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedTable {
    /// Its name.
    pub table: String,
    /// Where the night's file lies.
    pub path: String,
    /// Its rows.
    pub rows: u64,
}

/// Input rows that were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectRow {
    /// The source table.
    pub table: String,
    /// The check that failed.
    pub reason: String,
    /// How many.
    pub rows: u64,
}

impl NightReport {
    /// The report as text: tables with a heading each, empty ones left out.
    pub fn text(&self) -> String {
        let mut parts = vec![format!("{} as of {} (run {})", self.job, self.as_of, self.run_id)];
        if let Some(summary) = &self.stages {
            parts.push(stage_table(summary).to_string());
            if !summary.tiers.is_empty() {
                parts.push(tier_table(summary).to_string());
            }
            parts.push(moves(summary));
        }
        parts.extend(outcome_table(&self.outcomes).map(|table| table.to_string()));
        if !self.rejects.is_empty() {
            let mut table = table(&["rejected rows", "reason", "rows"], 2);
            for row in &self.rejects {
                table.add_row([text(&row.table), text(&row.reason), count(row.rows)]);
            }
            parts.push(table.to_string());
        }
        if !self.tables.is_empty() {
            let mut table = table(&["table", "path", "rows"], 2);
            for row in &self.tables {
                table.add_row([text(&row.table), text(&row.path), count(row.rows)]);
            }
            parts.push(table.to_string());
        }
        parts.extend(self.notes.iter().map(|note| format!("note: {note}")));
        parts.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        // Cells are padded to their column's width; nobody needs that at the end of a line.
        parts.join("\n\n").lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

fn stage_table(summary: &StageSummary) -> Table {
    let value = summary.value_of.as_ref().map(|column| format!("value ({column})"));
    let means: Vec<String> =
        summary.stages.first().map_or(&[][..], |s| &s.means).iter().map(|m| format!("mean {}", m.column)).collect();
    let mut header = vec!["stage", "customers", "share", "moved in"];
    header.extend(value.as_deref());
    header.extend(means.iter().map(String::as_str));
    let mut table = table(&header, 1);
    for stage in &summary.stages {
        let mut row = vec![text(&stage.stage), count(stage.customers), percent(stage.share), count(stage.moved_in)];
        if value.is_some() {
            row.push(right(stage.value.map(money)));
        }
        row.extend(stage.means.iter().map(|m| right(m.mean.map(|mean| format!("{mean:.3}")))));
        table.add_row(row);
    }
    let mut total = vec![text("all"), count(summary.customers), percent(1.0), count(summary.moved)];
    if value.is_some() {
        let sum = summary.stages.iter().filter_map(|s| s.value).reduce(|a, b| a + b);
        total.push(right(sum.map(money)));
    }
    total.extend(means.iter().map(|_| text("")));
    table.add_row(total);
    table
}

fn tier_table(summary: &StageSummary) -> Table {
    let mut table = table(&["value tier", "customers", "share", "value", "up to"], 1);
    for tier in &summary.tiers {
        table.add_row([
            text(&tier.tier),
            count(tier.customers),
            percent(tier.share),
            right(Some(money(tier.value))),
            right(tier.up_to.map(money)),
        ]);
    }
    table
}

fn outcome_table(outcomes: &[OutcomeRecord]) -> Option<Table> {
    let mut lines = outcome_lines(outcomes).into_iter();
    let header = lines.next()?;
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    for line in lines {
        let numbers = line.iter().skip(1).map(|value| right(Some(value.clone())));
        table.add_row(line.first().map(|name| text(name)).into_iter().chain(numbers));
    }
    Some(table)
}

fn moves(summary: &StageSummary) -> String {
    let mut line = format!(
        "{} moved to another stage, {} new, {} gone",
        grouped(summary.moved),
        grouped(summary.arrived),
        grouped(summary.gone)
    );
    for (reason, customers) in &summary.no_score {
        line.push_str(&format!("\n{} without a score: {reason}", grouped(*customers)));
    }
    line
}

/// A table whose columns from `numbers` on hold numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    for lines_between_rows in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(lines_between_rows);
    }
    table.set_header(header.iter().enumerate().map(|(i, name)| {
        let alignment = if i < numbers { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(name).set_alignment(alignment)
    }));
    table
}

fn text(value: &str) -> Cell {
    Cell::new(value)
}

fn right(value: Option<String>) -> Cell {
    Cell::new(value.unwrap_or_else(|| "–".to_owned())).set_alignment(CellAlignment::Right)
}

fn count(value: u64) -> Cell {
    right(Some(grouped(value)))
}

fn percent(share: f64) -> Cell {
    right(Some(format!("{:.1} %", share * 100.0)))
}

/// Two decimals, thousands apart: `12,345.60`.
fn money(value: f64) -> String {
    if !value.is_finite() || value.abs() >= 1e15 {
        return value.to_string();
    }
    let cents = (value.abs() * 100.0).round() as u64;
    let sign = if value < 0.0 && cents > 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", grouped(cents / 100), cents % 100)
}

/// Thousands apart: `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::segments::{MeanScore, StageRow, TierRow};

    fn report() -> NightReport {
        let stage = |stage: &str, customers: u64, value: Option<f64>, mean: Option<f64>| StageRow {
            stage: stage.to_owned(),
            customers,
            share: customers as f64 / 1_500.0,
            value,
            moved_in: 3,
            means: vec![MeanScore { column: "churn_90d".to_owned(), mean }],
        };
        NightReport {
            job: "ltv".to_owned(),
            as_of: NaiveDate::from_ymd_opt(2026, 7, 1).unwrap(),
            run_id: "0123abcd".to_owned(),
            tables: vec![PublishedTable {
                table: "segments".to_owned(),
                path: "file:///lake/out/segments/ds=2026-07-01/part-00000.parquet".to_owned(),
                rows: 1_500,
            }],
            stages: Some(StageSummary {
                customers: 1_500,
                value_of: Some("ltv_90d".to_owned()),
                stages: vec![stage("new", 300, None, None), stage("active", 1_200, Some(98_765.432), Some(0.4567))],
                tiers: vec![TierRow {
                    tier: "vip".to_owned(),
                    customers: 60,
                    share: 0.05,
                    value: 40_000.0,
                    up_to: Some(1_234.5),
                }],
                moved: 6,
                arrived: 20,
                gone: 1,
                no_score: BTreeMap::from([("minimum_data".to_owned(), 300)]),
            }),
            outcomes: vec![OutcomeRecord {
                head: "churn_90d".to_owned(),
                label: "churned_90d".to_owned(),
                horizon_days: 90,
                predicted_ds: NaiveDate::from_ymd_opt(2026, 4, 2).unwrap(),
                model_version: "89abcdef".to_owned(),
                trained_as_of: None,
                customers: 1_400,
                unscored: 200,
                unlabelled: 0,
                judged: 1_200,
                predicted_mean: Some(0.65),
                predicted_sum: 780.0,
                realised_mean: Some(0.7),
                realised_sum: 840.0,
                metrics: BTreeMap::from([("auc".to_owned(), 0.61), ("total_bias".to_owned(), -0.071428)]),
                alerts: Vec::new(),
            }],
            rejects: vec![RejectRow { table: "orders".to_owned(), reason: "unique(order_id)".to_owned(), rows: 7 }],
            notes: vec!["nothing was published on 2026-06-01".to_owned()],
            warnings: vec!["`orders` is 40h old".to_owned()],
        }
    }

    #[test]
    fn the_text_shows_stages_tiers_moves_rejects_and_paths() {
        insta::assert_snapshot!(report().text());
    }

    #[test]
    fn the_report_survives_json() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<NightReport>(&text).unwrap(), report());
    }

    #[test]
    fn money_is_rounded_to_cents_with_thousands_apart() {
        assert_eq!(money(1_234_567.891), "1,234,567.89");
        assert_eq!(money(-0.001), "0.00");
        assert_eq!(money(-12.5), "-12.50");
        assert_eq!(money(999.999), "1,000.00");
    }
}
