//! Jobs that classify texts.

use crate::spec::job::*;
use crate::spec::paths::Root;
use crate::spec::problems::Problems;
use crate::spec::raw::RawTextClassifier;
use crate::spec::read::At;

use super::model::max_length;
use super::{Tables, checked, count, not_negative, positive};

/// Checks a text classifier's task.
pub(super) fn classifier(
    raw: &RawTextClassifier,
    tables: &Tables,
    root: &Root,
    problems: &mut Problems,
) -> Option<TextClassifierTask> {
    if let (Some(train), Some(test)) = (raw.train.get(), raw.test.get()) {
        let hint = "a report on the texts that were learned from says nothing: name another table";
        problems.require(train != test, raw.test.pos, format!("`{test}` is also the table to learn from"), hint);
    }
    for table in [&raw.train, &raw.test] {
        let Some(table) = tables.find(table, problems) else { continue };
        for column in [&raw.text, &raw.label] {
            is_text(table, column, problems);
        }
    }
    Some(TextClassifierTask {
        train: raw.train.get()?.clone(),
        test: raw.test.get()?.clone(),
        text: raw.text.get()?.clone(),
        label: raw.label.get()?.clone(),
        encoder: root.join(raw.encoder.get()?),
        bundle: root.join(raw.bundle.get()?),
        max_length: max_length(&raw.max_length, problems),
        epochs: count(&raw.epochs, 5, problems),
        batch: count(&raw.batch, 16, problems),
        learning_rate: positive(&raw.learning_rate, 2e-5, problems),
        weight_decay: not_negative(&raw.weight_decay, 0.01, problems),
        warmup: checked(&raw.warmup, 0.1, "a share from 0 to 1", |share| (0.0..=1.0).contains(&share), problems),
        seed: raw.seed.as_ref().and_then(At::get).copied().unwrap_or(0),
    })
}

fn is_text(table: &super::Table, column: &At<String>, problems: &mut Problems) {
    if let Some(column_type) = table.column(column, problems) {
        let name = &table.spec.name;
        let message = format!("this column of table `{name}` is of type `{}`", column_type.name());
        problems.require(column_type == ColumnType::Utf8, column.pos, message, "texts and labels are `utf8`");
    }
}
