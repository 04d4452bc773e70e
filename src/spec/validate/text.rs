//! Jobs that classify texts.

use crate::spec::column::ColumnType;
use crate::spec::paths::Root;
use crate::spec::problems::Problems;
use crate::spec::raw::RawTextClassifier;
use crate::spec::read::At;
use crate::spec::text::TextClassifierTask;
use crate::spec::tune::TuneSpec;

use super::model::max_length;
use super::tune::{layer_decay, tune};
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
    let [train, test] = [&raw.train, &raw.test].map(|table| tables.find(table, problems));
    for table in [train, test].into_iter().flatten() {
        for column in [&raw.text, &raw.label] {
            is_text(table, column, problems);
        }
    }
    if let (Some(train), Some(test)) = (train, test) {
        let same = train.spec.name != test.spec.name && train.spec.url == test.spec.url;
        let message = format!("`{}` has the files of `{}`, the table to learn from", test.spec.name, train.spec.name);
        problems.require(!same, raw.test.pos, message, "keep the texts to report on in files of their own");
    }
    let tune = tune(&raw.tune, TuneSpec::Full, problems);
    Some(TextClassifierTask {
        train: raw.train.get()?.clone(),
        test: raw.test.get()?.clone(),
        text: raw.text.get()?.clone(),
        label: raw.label.get()?.clone(),
        encoder: root.join(raw.encoder.get()?),
        bundle: root.join(raw.bundle.get()?),
        bundle_place: problems.place(raw.bundle.pos),
        max_length: max_length(&raw.max_length, problems),
        epochs: count(&raw.epochs, 5, problems),
        batch: count(&raw.batch, 16, problems),
        learning_rate: positive(&raw.learning_rate, tune.learning_rate(), problems),
        layer_decay: layer_decay(&raw.layer_decay, &tune, problems),
        tune,
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
