//! Snapshots gathered as columns, with their labels and what the labels were one horizon before.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use futures::StreamExt;

use super::snapshots::{LabelInfo, SnapshotSource};
use super::validation::PARTS;
use crate::error::Problem;
use crate::features::FeatureStream;
use crate::model::heads::Head;
use crate::model::preprocess::{InputKind, RawTable};
use crate::spec::label_rule;
use crate::spec::{Loss, ModelSpec};
use crate::{AsOf, Error, Result, hash};

/// Rows of one or several snapshots.
#[derive(Debug)]
pub struct Dataset {
    /// The features.
    pub table: RawTable,
    /// The rows of each snapshot.
    pub snapshots: Vec<(AsOf, Range<usize>)>,
    /// Per head, one label per row: NaN where there is none, a class number for softmax.
    pub labels: Vec<Vec<f64>>,
    /// Per head, the label of the window that ends where the row's begins; NaN where that is not known.
    pub previous: Vec<Vec<f64>>,
    /// Per row, which of five equal parts of the customers it belongs to.
    pub folds: Vec<u8>,
    /// Per row, the same for another parting, which has nothing to do with the folds: that of the validating rows.
    pub parts: Vec<u8>,
    /// Per row, the number of its customer, who has the same at every date.
    pub customers: Vec<u32>,
    /// The key and the columns that [`Gatherer::keep`] asked for, batch by batch; nothing where it did not.
    pub kept: Vec<RecordBatch>,
    /// Per head, the rows without a label, by the reason.
    pub unlabelled: Vec<Unlabelled>,
}

/// How many rows of a head have no label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unlabelled {
    /// The label is NULL, NaN or infinite.
    pub null: usize,
    /// There is no row in the horizon, and the label has no default.
    pub absent: usize,
    /// The trained model does not know the class.
    pub unknown_class: usize,
    /// Dates, not rows, in whose window the tables of the label have no row at all.
    pub empty_windows: usize,
}

impl Unlabelled {
    /// What should be told, for the head's label.
    pub fn notes(&self, head: &str, label: &str, rows: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if self.null > 0 {
            notes.push(format!(
                "`{head}`: the label `{label}` is NULL, NaN or infinite in {} of {rows} rows, which teach it nothing",
                self.null
            ));
        }
        if self.absent > 0 {
            notes.push(format!(
                "`{head}`: {} of {rows} rows have no label `{label}`: there is no row in the horizon, and no `@default`",
                self.absent
            ));
        }
        if self.unknown_class > 0 {
            notes.push(format!(
                "`{head}`: {} of {rows} rows have a class in `{label}` that the model does not know",
                self.unknown_class
            ));
        }
        if self.empty_windows > 0 {
            let dates = if self.empty_windows == 1 { "1 date" } else { &format!("{} dates", self.empty_windows) };
            notes.push(format!(
                "`{head}`: the tables of its label `{label}` have no row in the window of {dates}, which teach it nothing"
            ));
        }
        notes
    }
}

impl Dataset {
    /// Per entry of `rows`, the number of its customer among those that these rows are of, and how many of them there are.
    pub fn people(&self, rows: &[usize]) -> (Vec<u32>, usize) {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let number = |row: &usize| {
            let next = numbers.len() as u32;
            *numbers.entry(self.customers[*row]).or_insert(next)
        };
        let customers = rows.iter().map(number).collect();
        (customers, numbers.len())
    }
}

/// The outcomes at one date: which customers have rows, and their labels.
#[derive(Debug, Default)]
struct Outcome {
    row_of: HashMap<String, usize>,
    /// Per head; NaN where a label is NULL or not finite.
    labels: Vec<Vec<f64>>,
}

/// Stands for a customer without rows in the file of a label; labels themselves are finite.
const ABSENT: f64 = f64::INFINITY;

/// Gathers datasets from a source; outcomes at a date are asked for once.
pub struct Gatherer<'a> {
    source: &'a dyn SnapshotSource,
    heads: Vec<Head>,
    infos: Vec<LabelInfo>,
    /// Class names by head, in the order in which they were met.
    classes: Vec<Vec<String>>,
    kinds: Vec<(String, InputKind)>,
    key: String,
    /// Columns to be kept as they come, the key first.
    keep: Vec<String>,
    numbers: HashMap<String, u32>,
    outcomes: HashMap<AsOf, Arc<Outcome>>,
    /// The classes of a trained model, sorted, if there is one.
    trained: Option<Vec<Vec<String>>>,
}

impl<'a> Gatherer<'a> {
    /// Checks that every head's label exists and every feature has a way into the network.
    pub fn new(source: &'a dyn SnapshotSource, model: &ModelSpec, key: &str) -> Result<Self> {
        let mut problems = Vec::new();
        let mut infos = Vec::new();
        for head in &model.heads {
            match source.labels().iter().find(|l| l.name == head.label) {
                Some(info) => infos.push(info.clone()),
                None => {
                    let problem = Problem::new(format!("no label file has a column `{}`", head.label));
                    problems.push(
                        problem.at(head.place.clone()).hint("labels are the columns of the files under `labels:`"),
                    );
                }
            }
        }
        let texts = model.text.as_ref().map_or(&[][..], |t| &t.columns);
        let mut kinds = Vec::new();
        for column in source.features() {
            match InputKind::of(&column.name, &column.data_type, texts.contains(&column.name)) {
                Ok(kind) => kinds.push((column.name.clone(), kind)),
                Err(error) => problems.extend(error.into_problems()),
            }
        }
        for text in texts.iter().filter(|t| kinds.iter().all(|(name, _)| name != *t)) {
            problems.push(Problem::new(format!("the text column `{text}` is not among the features")));
        }
        Error::all(problems)?;
        let heads: Vec<Head> = model.heads.iter().map(Head::new).collect();
        let classes = vec![Vec::new(); heads.len()];
        Ok(Gatherer {
            source,
            heads,
            infos,
            classes,
            kinds,
            key: key.to_owned(),
            keep: Vec::new(),
            numbers: HashMap::new(),
            outcomes: HashMap::new(),
            trained: None,
        })
    }

    /// The heads, with the classes met so far in sorted order.
    pub fn heads(&self) -> Vec<Head> {
        let with = |(head, classes): (&Head, &Vec<String>)| {
            let mut classes = classes.clone();
            classes.sort();
            Head { classes, ..head.clone() }
        };
        self.heads.iter().zip(&self.classes).map(with).collect()
    }

    /// Takes the classes of a trained model in place of those met; a label of another class is no label.
    pub fn know_classes(&mut self, trained: &[Head]) {
        self.trained = Some(trained.iter().map(|head| head.classes.clone()).collect());
    }

    /// Keeps the key and these feature columns as they come.
    pub fn keep(&mut self, columns: &[String]) {
        self.keep = std::iter::once(&self.key).chain(columns).cloned().collect();
    }

    /// The label columns of the heads.
    pub fn labels(&self) -> &[LabelInfo] {
        &self.infos
    }

    /// The longest horizon in days.
    pub fn horizon(&self) -> u32 {
        self.infos.iter().map(|l| l.horizon_days).max().unwrap_or(0)
    }

    /// The rows of these dates. Previous labels are found where their window begins at `first_event` or later.
    pub async fn gather(&mut self, dates: &[AsOf], first_event: AsOf, note: impl Fn(AsOf)) -> Result<Dataset> {
        let heads = self.heads.len();
        let mut data = Dataset {
            table: RawTable::new(self.kinds.clone()),
            snapshots: Vec::new(),
            labels: vec![Vec::new(); heads],
            previous: vec![Vec::new(); heads],
            folds: Vec::new(),
            parts: Vec::new(),
            customers: Vec::new(),
            kept: Vec::new(),
            unlabelled: vec![Unlabelled::default(); heads],
        };
        self.source.prepare(dates).await?;
        for date in dates {
            note(*date);
            let keys = self.add_features(&mut data, *date).await?;
            for head in 0..heads {
                let outcome = self.outcome(*date).await?;
                let start = data.labels[head].len();
                let default = self.default_of(head);
                let (mut labels, mut unlabelled) = outcome.of(head, default, &keys);
                if self.source.window_is_empty(&self.infos[head].name, *date) {
                    labels.fill(f64::NAN);
                    unlabelled = Unlabelled::default();
                    data.unlabelled[head].empty_windows += 1;
                }
                data.labels[head].extend(labels);
                data.unlabelled[head].null += unlabelled.null;
                data.unlabelled[head].absent += unlabelled.absent;
                self.check_labels(head, &data.labels[head][start..], &keys, *date)?;
                let before = date.minus_days(u64::from(self.infos[head].horizon_days));
                if before.date() >= first_event.date() {
                    let outcome = self.outcome(before).await?;
                    data.previous[head].extend(outcome.of(head, default, &keys).0);
                } else {
                    data.previous[head].resize(data.labels[head].len(), f64::NAN);
                }
            }
        }
        self.sort_classes(&mut data);
        for (head, previous) in self.heads.iter().zip(&mut data.previous) {
            let broken = |label: &&mut f64| label_rule::broken_rule(&head.loss, **label).is_some();
            previous.iter_mut().filter(broken).for_each(|label| *label = f64::NAN);
        }
        Ok(data)
    }

    /// The label of customers without rows, as a number.
    fn default_of(&mut self, head: usize) -> f64 {
        let info = &self.infos[head];
        match (&self.heads[head].loss, &info.default_class) {
            (Loss::Softmax, Some(class)) => class_number(&mut self.classes[head], class),
            (Loss::Softmax, None) => f64::NAN,
            _ => info.default.unwrap_or(f64::NAN),
        }
    }

    /// Refuses labels that do not fit the loss of their head.
    fn check_labels(&self, head: usize, labels: &[f64], keys: &[String], date: AsOf) -> Result<()> {
        let (head, info) = (&self.heads[head], &self.infos[head]);
        let mut broken = labels.iter().zip(keys).filter_map(|(label, key)| {
            let rule = (!label.is_nan()).then(|| label_rule::broken_rule(&head.loss, *label)).flatten()?;
            Some((label, key, rule))
        });
        let Some((label, key, rule)) = broken.next() else { return Ok(()) };
        let others = match broken.count() {
            0 => String::new(),
            others => format!(", and {others} more of {} customers have such a label", labels.len()),
        };
        let error = Error::user(format!(
            "the head `{}` cannot learn the label `{}`: it is {label} for customer `{key}` as of {date}{others}",
            head.name, info.name
        ));
        let error = info.place.iter().fold(error, |error, place| error.at(place.clone()));
        Err(error.hint(format!("{rule}: {}", label_rule::way_out(&head.loss))))
    }

    /// What should be told of rows without a label.
    pub fn notes(&self, data: &Dataset) -> Vec<String> {
        let rows = data.table.rows();
        let of = |(head, found): (&Head, &Unlabelled)| found.notes(&head.name, &head.label, rows);
        self.heads.iter().zip(&data.unlabelled).flat_map(of).collect()
    }

    /// Refuses a label that says the same of everybody: there is nothing to learn from it, and a mistake in it shows nowhere
    /// else.
    pub fn refuse_constant_labels(&self, data: &Dataset) -> Result<()> {
        let mut problems = Vec::new();
        for ((head, info), labels) in self.heads().iter().zip(&self.infos).zip(&data.labels) {
            let mut known = labels.iter().filter(|label| !label.is_nan());
            let first = known.next();
            if known.any(|label| Some(label) != first) {
                continue;
            }
            let (head_name, label) = (&head.name, &info.name);
            let problem = match first {
                None => Problem::new(format!("the head `{head_name}` has no label `{label}` in any training row"))
                    .hint("no customer has a row in the horizon; `-- @default COLUMN VALUE` says what that means"),
                Some(value) => {
                    let value = match head.loss {
                        Loss::Softmax => head.classes.get(*value as usize).cloned().unwrap_or_default(),
                        _ => value.to_string(),
                    };
                    let rows = labels.iter().filter(|label| !label.is_nan()).count();
                    let hint = match info.default {
                        None => {
                            "a customer without rows in the horizon has no label here: `-- @default COLUMN VALUE` gives it one"
                        }
                        Some(_) => "look at its condition and its `@default`",
                    };
                    let message = format!(
                        "the head `{head_name}` has nothing to learn: its label `{label}` is {value} in all {rows} rows of {} \
                         snapshots",
                        data.snapshots.len()
                    );
                    Problem::new(message).hint(hint)
                }
            };
            problems.push(info.place.iter().fold(problem, |problem, place| problem.at(place.clone())));
        }
        Error::all(problems)
    }

    /// The features of one more date, without labels.
    pub async fn features(&self, date: AsOf) -> Result<RawTable> {
        let mut table = RawTable::new(self.kinds.clone());
        let mut stream = self.source.matrix(date).await?;
        while let Some(batch) = stream.next().await {
            table.push(&batch?, date)?;
        }
        Ok(table)
    }

    async fn add_features(&mut self, data: &mut Dataset, date: AsOf) -> Result<Vec<String>> {
        let start = data.table.rows();
        let mut keys = Vec::new();
        let mut stream = self.source.matrix(date).await?;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            data.table.push(&batch, date)?;
            keys.extend(self.keys(&batch)?);
            if !self.keep.is_empty() {
                let places = self.keep.iter().map(|name| batch.schema().index_of(name));
                data.kept.push(batch.project(&places.collect::<Result<Vec<_>, _>>()?)?);
            }
        }
        for key in &keys {
            let next = self.numbers.len() as u32;
            data.customers.push(*self.numbers.entry(key.clone()).or_insert(next));
        }
        for key in &keys {
            let (fold, part) = fold_and_part(key);
            data.folds.push(fold);
            data.parts.push(part);
        }
        data.snapshots.push((date, start..data.table.rows()));
        Ok(keys)
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Vec<String>> {
        let column = batch.column_by_name(&self.key);
        let column = column.ok_or_else(|| Error::user(format!("the key `{}` is not in the result", self.key)))?;
        let texts = cast(column, &DataType::Utf8)?;
        Ok(texts.as_string::<i32>().iter().map(|key| key.unwrap_or_default().to_owned()).collect())
    }

    async fn outcome(&mut self, date: AsOf) -> Result<Arc<Outcome>> {
        if let Some(known) = self.outcomes.get(&date) {
            return Ok(known.clone());
        }
        let mut outcome = Outcome { labels: vec![Vec::new(); self.heads.len()], ..Outcome::default() };
        for stream in self.source.outcomes(date).await? {
            self.read_outcome(stream, &mut outcome).await?;
        }
        let found = Arc::new(outcome);
        self.outcomes.insert(date, found.clone());
        Ok(found)
    }

    /// Adds the labels of one file.
    async fn read_outcome(&mut self, mut stream: FeatureStream, outcome: &mut Outcome) -> Result<()> {
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let here = |head: &Head| batch.column_by_name(&head.label).cloned();
            let columns: Vec<_> = self.heads.iter().map(here).collect();
            if columns.iter().all(Option::is_none) {
                return Ok(());
            }
            let mut rows = Vec::with_capacity(batch.num_rows());
            for key in self.keys(&batch)? {
                let next = outcome.row_of.len();
                rows.push(*outcome.row_of.entry(key).or_insert(next));
            }
            outcome.labels.iter_mut().for_each(|labels| labels.resize(outcome.row_of.len(), ABSENT));
            for (i, column) in columns.into_iter().enumerate() {
                let Some(column) = column else { continue };
                let labels = &mut outcome.labels[i];
                if self.heads[i].loss == Loss::Softmax {
                    let texts = cast(&column, &DataType::Utf8)?;
                    for (row, text) in rows.iter().zip(texts.as_string::<i32>()) {
                        labels[*row] = text.map_or(f64::NAN, |text| class_number(&mut self.classes[i], text));
                    }
                } else {
                    let numbers = cast(&column, &DataType::Float64)?;
                    for (row, value) in rows.iter().zip(numbers.as_primitive::<Float64Type>()) {
                        labels[*row] = value.filter(|value| value.is_finite()).unwrap_or(f64::NAN);
                    }
                }
            }
        }
        Ok(())
    }

    /// Class numbers so far are in the order of meeting; from here on they are in the order of the names.
    fn sort_classes(&mut self, data: &mut Dataset) {
        for (head, met) in self.classes.iter().enumerate().filter(|(_, met)| !met.is_empty()) {
            let mut sorted = met.clone();
            sorted.sort();
            if let Some(trained) = &self.trained {
                sorted.clone_from(&trained[head]);
            }
            let place: Vec<f64> =
                met.iter().map(|class| sorted.binary_search(class).map_or(f64::NAN, |place| place as f64)).collect();
            let sorted =
                |label: f64| place.get(label as usize).copied().filter(|_| !label.is_nan()).unwrap_or(f64::NAN);
            data.previous[head].iter_mut().for_each(|label| *label = sorted(*label));
            for label in &mut data.labels[head] {
                let class = sorted(*label);
                data.unlabelled[head].unknown_class += usize::from(class.is_nan() && !label.is_nan());
                *label = class;
            }
        }
    }
}

impl Outcome {
    /// The labels of these customers, `default` for those without rows; and how many have none.
    fn of(&self, head: usize, default: f64, keys: &[String]) -> (Vec<f64>, Unlabelled) {
        let mut unlabelled = Unlabelled::default();
        let label = |key: &String| {
            let found = self.row_of.get(key).map_or(ABSENT, |row| self.labels[head][*row]);
            unlabelled.null += usize::from(found.is_nan());
            if found != ABSENT {
                return found;
            }
            unlabelled.absent += usize::from(default.is_nan());
            default
        };
        (keys.iter().map(label).collect(), unlabelled)
    }
}

fn class_number(classes: &mut Vec<String>, text: &str) -> f64 {
    let place = classes.iter().position(|c| c == text).unwrap_or_else(|| {
        classes.push(text.to_owned());
        classes.len() - 1
    });
    place as f64
}

/// Two numbers below five by the key alone: a customer has the same at every date.
fn fold_and_part(key: &str) -> (u8, u8) {
    let digest = hash::of_bytes(key);
    let number = |digits: &str| u16::from_str_radix(digits, 16).unwrap_or(0);
    ((number(&digest[..2]) % 5) as u8, (number(&digest[2..6]) % u16::from(PARTS)) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_and_parts_are_equal_and_independent() {
        let mut counts = [[0; 5]; 5];
        for key in 0..25_000 {
            let (fold, part) = fold_and_part(&key.to_string());
            counts[usize::from(fold)][usize::from(part)] += 1;
        }
        assert!(counts.as_flattened().iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
