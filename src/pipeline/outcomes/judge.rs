//! One head's past predictions against what happened.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::{Row, RowConverter, SortField};

use chrono::NaiveDate;

use crate::features::LabelColumn;
use crate::lake::PublishedColumns;
use crate::ledger::OutcomeRecord;
use crate::spec::label_rule;
use crate::spec::{HeadSpec, Loss, OutcomeMetric};
use crate::training::metrics::{self, Interval};
use crate::{AsOf, Error, Result};

/// The column of the predictions that names their model.
pub(super) const MODEL_VERSION: &str = "model_version";
/// The entry of a predictions file's footer that says up to which day its model had learned.
pub(crate) const TRAINED_AS_OF: &str = "trained_as_of";
/// The groups into which customers fall by their prediction.
const DECILES: u8 = 10;

/// The published predictions of a night and what happened since.
pub(super) struct PastHead<'a> {
    pub predicted: &'a PublishedColumns,
    pub happened: &'a RecordBatch,
    /// Per predicted row, that of what happened, if the customer has one.
    pub rows: &'a [Option<usize>],
    pub as_of: AsOf,
}

/// A head, judged.
pub(super) struct Judged {
    pub record: OutcomeRecord,
    pub deciles: Vec<Decile>,
}

/// Customers of similar prediction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decile {
    pub head: String,
    /// From 1, the highest predictions, to 10.
    pub decile: u8,
    pub predicted_ds: NaiveDate,
    pub customers: u64,
    pub predicted_sum: f64,
    pub realised_sum: f64,
}

/// Scores beside labels, in the order of the key.
#[derive(Debug, Default)]
struct Pairs {
    scores: Vec<f64>,
    labels: Vec<f64>,
    /// How much of the label lay in the interval, for those that have one.
    covered: Vec<f64>,
    unscored: u64,
    unlabelled: u64,
}

/// The columns of the predictions that a head's judgement looks at, those that it needs first and the score before all.
pub(super) fn columns(head: &HeadSpec) -> Vec<String> {
    let name = &head.name;
    match head.loss {
        Loss::Bce | Loss::Mse => vec![name.clone()],
        Loss::Ziln => {
            vec![name.clone(), format!("{name}_p10"), format!("{name}_p90"), format!("{name}_p_zero")]
        }
        Loss::Softmax => vec![format!("{name}_probability"), name.clone()],
    }
}

/// How many of these it needs. Older predictions have no probability of 0, and then the interval is not judged.
fn needed(head: &HeadSpec) -> usize {
    match head.loss {
        Loss::Bce | Loss::Mse => 1,
        Loss::Ziln => 3,
        Loss::Softmax => 2,
    }
}

/// For every row of `left` that of `right` with the same key.
pub(super) fn rows_of(left: &PublishedColumns, right: &RecordBatch, key: &str) -> Result<Vec<Option<usize>>> {
    let left = column(&left.rows, key)?;
    let right = cast(column(right, key)?, left.data_type())?;
    let converter = RowConverter::new(vec![SortField::new(left.data_type().clone())])?;
    let (left, right) = (converter.convert_columns(std::slice::from_ref(left))?, converter.convert_columns(&[right])?);
    let row_of: HashMap<Row<'_>, usize> = right.iter().enumerate().map(|(row, key)| (key, row)).collect();
    Ok(left.iter().map(|key| row_of.get(&key).copied()).collect())
}

impl PastHead<'_> {
    /// Judges a head; `Err` says in words why it cannot be.
    pub fn judge(&self, head: &HeadSpec, label: &LabelColumn) -> Result<Result<Judged, String>> {
        let rows = &self.predicted.rows;
        if let Some(lost) = columns(head)[..needed(head)].iter().find(|name| rows.column_by_name(name).is_none()) {
            return Ok(Err(format!("the predictions of {} have no column `{lost}`", self.as_of)));
        }
        if rows.num_rows() == 0 {
            return Ok(Err(format!("the predictions of {} have no customer", self.as_of)));
        }
        let pairs = self.pairs(head, label)?;
        let broken = pairs.labels.iter().find_map(|value| Some((value, label_rule::broken_rule(&head.loss, *value)?)));
        if let Some((value, rule)) = broken {
            return Ok(Err(format!(
                "its label `{}` of `{}` is {value} for somebody, and {rule}",
                label.name, label.file
            )));
        }
        Ok(Ok(Judged {
            deciles: pairs.deciles(&head.name, self.as_of.date()),
            record: self.record(head, label, &pairs)?,
        }))
    }

    fn pairs(&self, head: &HeadSpec, label: &LabelColumn) -> Result<Pairs> {
        let names = columns(head);
        let predicted = |place: usize| numbers(&self.predicted.rows, &names[place]);
        let scores = predicted(0)?;
        let labels = match head.loss {
            Loss::Softmax => self.hits(&names[1], label)?,
            _ => self.labels(label)?,
        };
        let interval = match names.get(3).filter(|zero| self.predicted.rows.column_by_name(zero).is_some()) {
            Some(_) => Some([predicted(1)?, predicted(2)?, predicted(3)?]),
            None => None,
        };
        let mut pairs = Pairs::default();
        for (row, (score, label)) in scores.iter().zip(labels).enumerate() {
            match (score, label) {
                (None, _) => pairs.unscored += 1,
                (Some(_), None) => pairs.unlabelled += 1,
                (Some(score), Some(label)) => {
                    pairs.scores.push(*score);
                    pairs.labels.push(label);
                    if let Some([Some(low), Some(high), Some(zero)]) =
                        interval.as_ref().map(|columns| columns.each_ref().map(|column| column[row]))
                    {
                        pairs.covered.push(Interval { low, high, zero }.covers(label));
                    }
                }
            }
        }
        Ok(pairs)
    }

    /// The label of every predicted customer, as training reads it: without a row the default.
    fn labels(&self, label: &LabelColumn) -> Result<Vec<Option<f64>>> {
        let happened = numbers(self.happened, &label.name)?;
        let of = |row: &Option<usize>| row.map_or(label.default, |row| happened[row]).filter(|value| value.is_finite());
        Ok(self.rows.iter().map(of).collect())
    }

    /// Whether the likeliest class (in the column `class`) was the right one.
    fn hits(&self, class: &str, label: &LabelColumn) -> Result<Vec<Option<f64>>> {
        let text = |rows: &RecordBatch, name: &str| Ok::<_, Error>(cast(column(rows, name)?, &DataType::Utf8)?);
        let (predicted, happened) = (text(&self.predicted.rows, class)?, text(self.happened, &label.name)?);
        let (predicted, happened) = (predicted.as_string::<i32>(), happened.as_string::<i32>());
        let hit = |(place, row): (usize, &Option<usize>)| {
            let came = match row {
                Some(row) => happened.is_valid(*row).then(|| happened.value(*row)),
                None => label.default_class.as_deref(),
            }?;
            predicted.is_valid(place).then(|| f64::from(u8::from(predicted.value(place) == came)))
        };
        Ok(self.rows.iter().enumerate().map(hit).collect())
    }

    fn record(&self, head: &HeadSpec, label: &LabelColumn, pairs: &Pairs) -> Result<OutcomeRecord> {
        let rows = &self.predicted.rows;
        let versions = cast(column(rows, MODEL_VERSION)?, &DataType::Utf8)?;
        let version = versions.as_string::<i32>().iter().flatten().next().unwrap_or_default();
        let judged = pairs.labels.len() as u64;
        let (predicted_sum, realised_sum) = (pairs.scores.iter().sum::<f64>(), pairs.labels.iter().sum::<f64>());
        let mean = |sum: f64| (judged > 0).then(|| sum / judged as f64);
        Ok(OutcomeRecord {
            head: head.name.clone(),
            label: label.name.clone(),
            horizon_days: label.horizon_days,
            predicted_ds: self.as_of.date(),
            model_version: version.to_owned(),
            trained_as_of: self.predicted.footer.get(TRAINED_AS_OF).and_then(|text| text.parse().ok()),
            customers: rows.num_rows() as u64,
            unscored: pairs.unscored,
            unlabelled: pairs.unlabelled,
            judged,
            predicted_mean: mean(predicted_sum),
            predicted_sum,
            realised_mean: mean(realised_sum),
            realised_sum,
            metrics: pairs.metrics(&head.loss),
            alerts: Vec::new(),
        })
    }
}

impl Pairs {
    fn metrics(&self, loss: &Loss) -> BTreeMap<String, f64> {
        if self.labels.is_empty() {
            return BTreeMap::new();
        }
        let fitting = OutcomeMetric::ALL.into_iter().filter(|metric| metric.fits(loss));
        let values = fitting.map(|metric| (metric.name().to_owned(), self.metric(metric)));
        values.filter(|(_, value)| value.is_finite()).collect()
    }

    /// One metric; NaN where these labels have none.
    fn metric(&self, metric: OutcomeMetric) -> f64 {
        let (labels, scores) = (&self.labels, &self.scores);
        match metric {
            OutcomeMetric::TotalBias => metrics::total_bias(labels, scores),
            OutcomeMetric::DecileWape => metrics::deciles(labels, scores).wape,
            OutcomeMetric::Auc => metrics::auc(labels, scores),
            OutcomeMetric::AveragePrecision => metrics::average_precision(labels, scores),
            OutcomeMetric::LogLoss => metrics::log_loss(labels, scores),
            OutcomeMetric::Brier => metrics::brier(labels, scores),
            OutcomeMetric::CalibrationError => metrics::calibration_error(labels, scores),
            OutcomeMetric::Accuracy => labels.iter().sum::<f64>() / labels.len() as f64,
            OutcomeMetric::GiniNorm => metrics::normalized_gini(labels, scores),
            OutcomeMetric::Spearman => metrics::spearman(labels, scores),
            OutcomeMetric::Mae => metrics::mae(labels, scores),
            OutcomeMetric::Rmse => metrics::rmse(labels, scores),
            OutcomeMetric::IntervalCoverage => self.covered.iter().sum::<f64>() / self.covered.len() as f64,
        }
    }

    /// The deciles by descending prediction, equal ones in the order of the key; sizes differ by at most one, the larger
    /// ones first. Fewer customers than deciles leave the last ones out.
    fn deciles(&self, head: &str, predicted_ds: NaiveDate) -> Vec<Decile> {
        let (n, tenths) = (self.scores.len(), usize::from(DECILES));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let mut rest = order.as_slice();
        let mut deciles = Vec::new();
        for decile in 1..=DECILES {
            let (rows, others) = rest.split_at(n / tenths + usize::from(usize::from(decile) <= n % tenths));
            rest = others;
            if rows.is_empty() {
                break;
            }
            deciles.push(Decile {
                head: head.to_owned(),
                decile,
                predicted_ds,
                customers: rows.len() as u64,
                predicted_sum: rows.iter().map(|row| self.scores[*row]).sum(),
                realised_sum: rows.iter().map(|row| self.labels[*row]).sum(),
            });
        }
        deciles
    }
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| Error::user(format!("the column `{name}` is not there")))
}

fn numbers(rows: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    let numbers = cast(column(rows, name)?, &DataType::Float64)?;
    Ok(numbers.as_primitive::<Float64Type>().iter().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray};

    use super::*;
    use crate::error::Place;

    const KEYS: [i64; 6] = [1, 2, 3, 4, 5, 6];

    fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn floats<const N: usize>(values: [Option<f64>; N]) -> ArrayRef {
        Arc::new(Float64Array::from_iter(values))
    }

    fn texts<const N: usize>(values: [Option<&str>; N]) -> ArrayRef {
        Arc::new(StringArray::from_iter(values))
    }

    /// Predictions of six customers.
    fn predicted(mut columns: Vec<(&str, ArrayRef)>) -> PublishedColumns {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(KEYS));
        columns.insert(0, ("customer_id", keys));
        columns.push((MODEL_VERSION, texts([Some("m"); 6])));
        let footer = HashMap::from([(TRAINED_AS_OF.to_owned(), "2026-04-01".to_owned())]);
        PublishedColumns { rows: rows(columns), footer }
    }

    /// What came for customers 2, 4 and 9, whose keys are of another type than those of the predictions.
    fn happened(label: ArrayRef) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int32Array::from_iter_values([2, 4, 9]));
        rows(vec![("customer_id", keys), ("label", label)])
    }

    fn head(loss: Loss) -> HeadSpec {
        let (name, label) = ("head".to_owned(), "label".to_owned());
        HeadSpec { name, label, loss, weight: 1.0, family: None, direction: None, place: Place::file("job.yaml") }
    }

    fn label(default: Option<f64>) -> LabelColumn {
        let (name, file) = ("label".to_owned(), "next.sql".to_owned());
        LabelColumn {
            name,
            description: None,
            owner: None,
            file,
            place: Place::file("next.sql"),
            horizon_days: 90,
            default,
            default_class: None,
        }
    }

    fn judge(predicted: PublishedColumns, happened: RecordBatch, loss: Loss, default: Option<f64>) -> Judged {
        let (head, label) = (head(loss), label(default));
        let rows = rows_of(&predicted, &happened, "customer_id").unwrap();
        let as_of = AsOf::parse("2026-04-02", chrono_tz::UTC).unwrap();
        let past = PastHead { predicted: &predicted, happened: &happened, rows: &rows, as_of };
        past.judge(&head, &label).unwrap().unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn who_has_no_row_gets_the_default_and_who_has_no_score_is_only_counted() {
        let scores = floats([Some(0.9), Some(0.2), None, Some(0.4), Some(0.8), Some(0.6)]);
        let found = judge(
            predicted(vec![("head", scores)]),
            happened(floats([Some(0.0), Some(0.0), Some(1.0)])),
            Loss::Bce,
            Some(1.0),
        );
        let record = found.record;
        assert_eq!((record.customers, record.unscored, record.unlabelled, record.judged), (6, 1, 0, 5));
        assert_eq!((record.realised_sum, record.realised_mean), (3.0, Some(0.6)), "2 and 4 stayed, 1, 5 and 6 left");
        assert!((record.predicted_sum - 2.9).abs() < 1e-12);
        assert_eq!((record.metrics["auc"], record.model_version.as_str()), (1.0, "m"));
        assert!((record.metrics["brier"] - (0.01 + 0.04 + 0.16 + 0.04 + 0.16) / 5.0).abs() < 1e-12);
        assert!(!record.metrics.contains_key("gini_norm"));
        assert_eq!(record.trained_as_of, NaiveDate::from_ymd_opt(2026, 4, 1));
    }

    #[test]
    fn a_label_that_does_not_fit_is_not_judged_and_without_a_default_it_is_not_known() {
        let value = floats([Some(5.0), Some(10.0), Some(1.0), Some(3.0), Some(4.0), Some(6.0)]);
        let zero = floats([Some(0.5), Some(0.1), Some(0.1), Some(0.2), Some(0.1), Some(0.1)]);
        let columns = vec![
            ("head", value),
            ("head_p10", floats([Some(0.0); 6])),
            ("head_p90", floats([Some(19.0); 6])),
            ("head_p_zero", zero),
        ];
        let came = || happened(floats([Some(20.0), Some(0.0), Some(f64::NAN)]));
        let found = judge(predicted(columns.clone()), came(), Loss::Ziln, None);
        let record = found.record;
        assert_eq!((record.judged, record.unlabelled), (2, 4));
        assert_eq!((record.predicted_sum, record.realised_sum), (13.0, 20.0));
        let covered = record.metrics["interval_coverage"];
        assert!((covered - 0.25).abs() < 1e-12, "20 lies above the interval, half of the atom at 0 within: {covered}");
        assert_eq!(record.metrics["total_bias"], -0.35);
        let negative = happened(floats([Some(20.0), Some(-3.0), Some(1.0)]));
        let (ltv, came_label) = (head(Loss::Ziln), label(None));
        let all = predicted(columns.clone());
        let rows = rows_of(&all, &negative, "customer_id").unwrap();
        let as_of = AsOf::parse("2026-04-02", chrono_tz::UTC).unwrap();
        let past = PastHead { predicted: &all, happened: &negative, rows: &rows, as_of };
        let why = past.judge(&ltv, &came_label).unwrap().err().unwrap();
        assert_eq!(why, "its label `label` of `next.sql` is -3 for somebody, and a label of `ziln` is 0 or more");
        let older = judge(predicted(columns[..3].to_vec()), came(), Loss::Ziln, None).record;
        assert!(!older.metrics.contains_key("interval_coverage") && older.metrics["total_bias"] == -0.35);
    }

    #[test]
    fn a_class_is_judged_by_its_probability() {
        let classes = texts([Some("a"), Some("a"), Some("b"), Some("b"), None, Some("a")]);
        let p = floats([Some(0.9), Some(0.8), Some(0.7), Some(0.6), None, Some(0.5)]);
        let found = judge(
            predicted(vec![("head_probability", p), ("head", classes)]),
            happened(texts([Some("a"), Some("c"), Some("a")])),
            Loss::Softmax,
            None,
        );
        let record = found.record;
        assert_eq!((record.judged, record.unscored, record.unlabelled), (2, 1, 3));
        assert_eq!((record.metrics["accuracy"], record.metrics["auc"]), (0.5, 1.0));
        assert_eq!(record.predicted_mean, Some(0.7));
    }

    #[test]
    fn a_class_may_have_a_default_of_its_own() {
        let columns = vec![("head_probability", floats([Some(0.5); 6])), ("head", texts([Some("none"); 6]))];
        let (predicted, happened) = (predicted(columns), happened(texts([Some("a"), None, Some("b")])));
        let label = LabelColumn { default_class: Some("none".into()), ..label(None) };
        let rows = rows_of(&predicted, &happened, "customer_id").unwrap();
        let as_of = AsOf::parse("2026-04-02", chrono_tz::UTC).unwrap();
        let past = PastHead { predicted: &predicted, happened: &happened, rows: &rows, as_of };
        let record = past.judge(&head(Loss::Softmax), &label).unwrap().unwrap().record;
        assert_eq!((record.judged, record.unlabelled), (5, 1), "customer 4 has a row and no label");
        assert_eq!(record.metrics["accuracy"], 0.8);
    }

    #[test]
    fn labels_that_are_all_alike_have_no_auc() {
        let scores = floats([Some(0.9); 6]);
        let alike = judge(predicted(vec![("head", scores)]), happened(floats([Some(1.0); 3])), Loss::Bce, Some(1.0));
        let metrics = alike.record.metrics;
        assert!(!metrics.contains_key("auc") && metrics.contains_key("brier"), "{metrics:?}");
    }

    #[test]
    fn predictions_without_the_head_are_not_judged() {
        let predicted = predicted(vec![("other", floats([Some(0.9); 6]))]);
        let happened = happened(floats([Some(0.0); 3]));
        let (head, label) = (head(Loss::Bce), label(None));
        let as_of = AsOf::parse("2026-04-02", chrono_tz::UTC).unwrap();
        let past = PastHead { predicted: &predicted, happened: &happened, rows: &[None; 6], as_of };
        let why = past.judge(&head, &label).unwrap().err().unwrap();
        assert_eq!(why, "the predictions of 2026-04-02 have no column `head`");
    }

    #[test]
    fn deciles_add_up_to_the_whole_and_to_the_wape() {
        let pairs = Pairs {
            scores: (0..37).map(|i| f64::from(i * 7 % 37)).collect(),
            labels: (0..37).map(|i| f64::from(i * 11 % 5)).collect(),
            ..Pairs::default()
        };
        let deciles = pairs.deciles("head", NaiveDate::default());
        assert_eq!(deciles.iter().map(|d| d.customers).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 4, 3, 3, 3]);
        assert_eq!(deciles.iter().map(|d| d.predicted_sum).sum::<f64>(), pairs.scores.iter().sum::<f64>());
        let total: f64 = deciles.iter().map(|d| d.realised_sum).sum();
        let gap: f64 = deciles.iter().map(|d| (d.predicted_sum - d.realised_sum).abs()).sum();
        assert!((gap / total - pairs.metric(OutcomeMetric::DecileWape)).abs() < 1e-12);
        assert!(
            deciles
                .windows(2)
                .all(|d| d[0].predicted_sum / d[0].customers as f64 > d[1].predicted_sum / d[1].customers as f64)
        );
        let few = Pairs { scores: vec![1.0, 2.0], labels: vec![0.0, 1.0], ..Pairs::default() };
        assert_eq!(few.deciles("head", NaiveDate::default()).len(), 2);
    }
}
