//! An evaluation as text.

use comfy_table::{CellAlignment, Table, presets};

use super::{Evaluation, GroupEvaluation, HeadEvaluation, MODEL, ModelMetrics, Standing};
use crate::training::metrics::Metric;

impl Evaluation {
    /// The verdict on each head, then a table per head: a row per metric, a column per model; then the groups.
    pub fn table(&self) -> String {
        let dates: Vec<String> = self.as_of.iter().map(ToString::to_string).collect();
        let mut text = format!("{} customers as of {}\n", self.customers, dates.join(", "));
        if self.resamples > 0 {
            text.push_str(&format!("95 % intervals from {} resamples of the customers\n", self.resamples));
        }
        let verdicts = self.heads.iter().map(|head| (head, head.all.verdict()));
        let verdicts: Vec<_> = verdicts.filter(|(_, verdict)| !verdict.is_empty()).collect();
        if !verdicts.is_empty() {
            text.push_str("\nthe model\n");
        }
        for (head, verdict) in verdicts {
            text.push_str(&format!(" {}: {verdict}\n", head.head));
        }
        for head in &self.heads {
            head.write_to(&mut text);
        }
        // Cells are padded to their column's width; nobody needs that at the end of a line.
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

impl HeadEvaluation {
    fn write_to(&self, text: &mut String) {
        let mean = self.all.label_mean.map_or(String::new(), |mean| format!(", mean {}", number(mean)));
        let from = self.extrapolated_from.iter().map(|from| format!(", extrapolated from {from}")).collect::<String>();
        let Self { head, loss, label, all, .. } = self;
        text.push_str(&format!("\n{head} ({loss}{from}): {} labels `{label}`{mean}\n", all.rows));
        let models = &self.all.models;
        let sure = models.iter().any(|m| !m.intervals.is_empty());
        let mut header = vec!["metric"];
        for model in models {
            header.push(&model.model);
            if sure && model.model == MODEL {
                header.push("95 % interval");
            }
        }
        let mut table = plain(header, 1);
        for metric in Self::metrics(models) {
            let mut row = vec![metric.to_owned()];
            for model in models {
                row.push(model.metrics.get(metric).map_or_else(|| "–".to_owned(), |value| number(*value)));
                if sure && model.model == MODEL {
                    let interval = model.intervals.get(metric);
                    row.push(
                        interval.map_or_else(|| "–".to_owned(), |[l, h]| format!("{} to {}", number(*l), number(*h))),
                    );
                }
            }
            table.add_row(row);
        }
        text.push_str(&format!("{table}\n"));
        for line in self.all.sentences() {
            text.push_str(&format!(" {line}\n"));
        }
        let groups: Vec<&[GroupEvaluation]> = self.groups.chunk_by(|a, b| a.by == b.by).collect();
        for groups in groups {
            text.push_str(&format!("\n{} by {}\n{}\n", self.head, groups[0].by, self.groups_table(groups)));
            if groups.iter().any(|group| group.small) {
                text.push_str(" * a small group: read its numbers with care\n");
            }
        }
    }

    /// The names of the metrics that any of these models has.
    fn metrics(models: &[ModelMetrics]) -> Vec<&'static str> {
        let known = |name: &&str| models.iter().any(|model| model.metrics.contains_key(*name));
        Metric::ALL.iter().map(|metric| metric.name()).filter(known).collect()
    }

    fn groups_table(&self, groups: &[GroupEvaluation]) -> Table {
        let others: Vec<&str> = self.all.models.iter().skip(1).map(|m| m.model.as_str()).collect();
        let models: Vec<ModelMetrics> = groups.iter().flat_map(|g| g.standing.models.clone()).collect();
        let metrics = Self::metrics(&models);
        let mut header = vec!["group".to_owned(), "customers".to_owned(), "mean label".to_owned()];
        header.extend(metrics.iter().map(|metric| (*metric).to_owned()));
        header.extend(others.iter().map(|other| format!("{other} won-tied-lost")));
        let mut table = plain(header, 1);
        for group in groups {
            let standing = &group.standing;
            let mark = if group.small { " *" } else { "" };
            let mean = standing.label_mean.map_or_else(|| "–".to_owned(), number);
            let mut row = vec![format!("{}{mark}", group.group), standing.rows.to_string(), mean];
            row.extend(metrics.iter().map(|metric| standing.with_spread(metric)));
            row.extend(others.iter().map(|other| standing.tally(other).map(|n| n.to_string()).join("-")));
            table.add_row(row);
        }
        table
    }
}

impl Standing {
    /// A sentence per headline metric.
    fn sentences(&self) -> Vec<String> {
        let mut sentences: Vec<(&str, Vec<String>)> = Vec::new();
        for comparison in self.comparisons.iter().filter(|c| c.headline) {
            match sentences.iter_mut().find(|(metric, _)| *metric == comparison.metric) {
                Some((_, words)) => words.push(comparison.in_words()),
                None => sentences.push((&comparison.metric, vec![comparison.in_words()])),
            }
        }
        sentences.into_iter().map(|(metric, words)| format!("{metric}: {}", words.join("; "))).collect()
    }

    /// The model's metric with half the width of its interval.
    fn with_spread(&self, metric: &str) -> String {
        let Some(model) = self.models.first() else { return "–".to_owned() };
        match (model.metrics.get(metric), model.intervals.get(metric)) {
            (Some(value), Some([low, high])) => format!("{} ± {}", number(*value), number((high - low) / 2.0)),
            (Some(value), None) => number(*value),
            _ => "–".to_owned(),
        }
    }
}

/// A table without lines whose columns from `numbers` on hold numbers.
pub(in crate::training) fn plain<T: Into<comfy_table::Cell>>(header: Vec<T>, numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Four decimals, two for what is large.
pub(in crate::training) fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.2}") } else { format!("{value:.4}") }
}
