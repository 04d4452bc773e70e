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
    /// Negative labels of ziln heads, which count as 0.
    pub negative: usize,
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
    /// Per head.
    labels: Vec<Vec<f64>>,
}

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
            negative: 0,
        };
        self.source.prepare(dates).await?;
        for date in dates {
            note(*date);
            let keys = self.add_features(&mut data, *date).await?;
            for head in 0..heads {
                let outcome = self.outcome(*date).await?;
                data.labels[head].extend(outcome.of(head, &self.infos[head], &keys));
                let before = date.minus_days(u64::from(self.infos[head].horizon_days));
                if before.date() >= first_event.date() {
                    let outcome = self.outcome(before).await?;
                    data.previous[head].extend(outcome.of(head, &self.infos[head], &keys));
                } else {
                    data.previous[head].resize(data.labels[head].len(), f64::NAN);
                }
            }
        }
        self.sort_classes(&mut data);
        for (head, _) in self.heads.iter().enumerate().filter(|(_, h)| h.loss == Loss::Ziln) {
            for label in data.labels[head].iter_mut().chain(&mut data.previous[head]).filter(|l| **l < 0.0) {
                *label = 0.0;
                data.negative += 1;
            }
        }
        Ok(data)
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
        let stream = self.source.outcome(date).await?;
        let found = Arc::new(self.read_outcome(stream).await?);
        self.outcomes.insert(date, found.clone());
        Ok(found)
    }

    async fn read_outcome(&mut self, mut stream: FeatureStream) -> Result<Outcome> {
        let mut outcome = Outcome { labels: vec![Vec::new(); self.heads.len()], ..Outcome::default() };
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            for key in self.keys(&batch)? {
                let row = outcome.row_of.len();
                outcome.row_of.insert(key, row);
            }
            for (i, head) in self.heads.iter().enumerate() {
                let column = batch.column_by_name(&head.label);
                let column =
                    column.ok_or_else(|| Error::user(format!("the label `{}` is not in the result", head.label)))?;
                if head.loss == Loss::Softmax {
                    let texts = cast(column, &DataType::Utf8)?;
                    let class =
                        |text: Option<&str>| text.map_or(f64::NAN, |text| class_number(&mut self.classes[i], text));
                    outcome.labels[i].extend(texts.as_string::<i32>().iter().map(class));
                } else {
                    let numbers = cast(column, &DataType::Float64)?;
                    let number = |value: Option<f64>| value.filter(|v| v.is_finite()).unwrap_or(f64::NAN);
                    outcome.labels[i].extend(numbers.as_primitive::<Float64Type>().iter().map(number));
                }
            }
        }
        Ok(outcome)
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
            for label in data.labels[head].iter_mut().chain(&mut data.previous[head]) {
                *label = place.get(*label as usize).copied().filter(|_| !label.is_nan()).unwrap_or(f64::NAN);
            }
        }
    }
}

impl Outcome {
    /// The labels of these customers; the label's default for those without rows.
    fn of<'a>(&'a self, head: usize, info: &'a LabelInfo, keys: &'a [String]) -> impl Iterator<Item = f64> + 'a {
        let default = info.default.unwrap_or(f64::NAN);
        keys.iter().map(move |key| self.row_of.get(key).map_or(default, |row| self.labels[head][*row]))
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
