//! Training on the newest events: they are kept where their order tells something, and left out where it does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, TimestampMicrosecondArray};
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Device;
use tenure::features::{FeatureColumn, FeatureStream, SEQUENCE};
use tenure::model::Bundle;
use tenure::printer::{Output, Printer, Verbosity};
use tenure::spec::{EmbeddingSpec, EntityTask, Keep, Loss, SequenceEncoder, SequenceSpec};
use tenure::training::{LabelInfo, SnapshotSource, TrainJob, TrainingReport, TuneOptions, evaluate_from, tune_from};
use tenure::{AsOf, Result};

use crate::support::purchases::{self, Shop as Purchases, after, head};
use crate::training::train;

/// Days between the purchases of every customer: which come first is all that tells them apart.
const GAPS: [i64; 5] = [2, 5, 11, 23, 40];

/// What decides who leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reason {
    /// Purchases that come at ever longer intervals.
    Slowing,
    /// A feature.
    Feature,
}

/// A shop that is another one on every day; all of its customers have bought six times within 81 days.
struct Shop {
    customers: usize,
    reason: Reason,
    columns: Vec<FeatureColumn>,
    labels: Vec<LabelInfo>,
}

struct Customer {
    x: f64,
    gaps: Vec<i64>,
    amounts: Vec<f64>,
    left: bool,
}

impl Shop {
    fn new(customers: usize, reason: Reason) -> Self {
        let label = LabelInfo {
            name: "left".into(),
            data_type: DataType::Float64,
            horizon_days: 30,
            default: Some(1.0),
            default_class: None,
            place: None,
        };
        let mut shop = Shop { customers, reason, columns: Vec::new(), labels: vec![label] };
        let column = |field: &Arc<Field>| FeatureColumn {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            description: None,
            owner: None,
            file: "sql/features/x.sql".into(),
            window: None,
            source: "orders".into(),
        };
        shop.columns = shop.matrix_at(after(0)).schema().fields().iter().skip(1).map(column).collect();
        shop
    }

    fn at(&self, as_of: AsOf) -> Vec<Customer> {
        let mut rng = ChaCha8Rng::seed_from_u64(as_of.instant().timestamp() as u64);
        let customer = |_| {
            let (x, mut gaps) = (rng.random_range(-1.0..1.0), GAPS.to_vec());
            gaps.shuffle(&mut rng);
            let slowing = gaps.windows(2).filter(|pair| pair[0] < pair[1]).count() >= 2;
            let reason = if self.reason == Reason::Slowing { slowing } else { x > 0.0 };
            let amounts = (0..6).map(|_| rng.random_range(1.0..100.0)).collect();
            Customer { x, gaps, amounts, left: reason ^ rng.random_bool(0.1) }
        };
        (0..self.customers).map(customer).collect()
    }

    fn matrix_at(&self, as_of: AsOf) -> RecordBatch {
        let customers = self.at(as_of);
        let (mut times, mut amounts) = (Vec::new(), Vec::<f64>::new());
        for customer in &customers {
            let mut day = 1 + GAPS.iter().sum::<i64>();
            times.push(day);
            times.extend(customer.gaps.iter().map(|gap| {
                day -= gap;
                day
            }));
            amounts.extend(&customer.amounts);
        }
        let instant = |days: &i64| as_of.minus_days(*days as u64).instant().timestamp_micros();
        let times = TimestampMicrosecondArray::from_iter_values(times.iter().map(instant)).with_timezone("UTC");
        let kinds = StringArray::from_iter_values((0..times.len()).map(|i| ["web", "app"][i % 2]));
        let fields: Vec<(&str, ArrayRef)> = vec![
            ("ordered_at", Arc::new(times)),
            ("amount", Arc::new(Float64Array::from(amounts))),
            ("channel", Arc::new(kinds)),
        ];
        let names = fields.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
        let events = StructArray::new(names, fields.into_iter().map(|(_, values)| values).collect(), None);
        let event = Arc::new(Field::new("event", events.data_type().clone(), false));
        let offsets = OffsetBuffer::from_repeated_length(6, customers.len());
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(0..customers.len() as i64))),
            ("x", Arc::new(Float64Array::from_iter_values(customers.iter().map(|c| c.x)))),
            (SEQUENCE, Arc::new(ListArray::new(event, offsets, Arc::new(events), None))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }
}

#[async_trait(?Send)]
impl SnapshotSource for Shop {
    fn features(&self) -> &[FeatureColumn] {
        &self.columns
    }
    fn feature_hashes(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("sql/sequences/orders.sql".to_owned(), "1111".to_owned())])
    }
    fn labels(&self) -> &[LabelInfo] {
        &self.labels
    }
    fn label_hashes(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    async fn first_event(&self) -> Result<AsOf> {
        Ok(after(0))
    }
    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream> {
        Ok(Purchases::stream(&self.matrix_at(as_of), as_of, 97))
    }
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>> {
        let left: Vec<f64> = self.at(as_of).iter().map(|c| f64::from(c.left)).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(0..left.len() as i64))),
            ("left", Arc::new(Float64Array::from(left))),
        ];
        Ok(vec![Purchases::stream(&RecordBatch::try_from_iter(columns).unwrap(), as_of, 50)])
    }
}

fn task(bundle: &Path, encoder: SequenceEncoder, keep: Keep) -> EntityTask {
    let mut task = purchases::task(bundle);
    let model = task.model.as_mut().unwrap();
    model.heads = vec![head("churn_30d", "left", Loss::Bce, None)];
    model.members = 4;
    model.embedding = EmbeddingSpec::None;
    model.minimum_data = None;
    model.sequence = Some(SequenceSpec {
        events: "sql/sequences/orders.sql".into(),
        length: 8,
        encoder,
        width: 16,
        layers: 1,
        keep,
        place: tenure::error::Place::at("jobs/shop.yaml", 20, 13),
    });
    task.train.rfm = None;
    task.train.epochs = 15;
    task.train.patience = 15;
    task
}

fn log_loss(report: &TrainingReport) -> f64 {
    report.validation.metric("churn_30d", "model", "log_loss").unwrap()
}

fn notes(report: &TrainingReport) -> String {
    report.training.notes.join("\n")
}

#[tokio::test]
async fn where_only_the_order_of_events_tells_both_encoders_see_it_and_stay() {
    let (shop, dir) = (Shop::new(1500, Reason::Slowing), tempfile::tempdir().unwrap());
    for encoder in [SequenceEncoder::Gru, SequenceEncoder::Transformer] {
        let folder = dir.path().join(format!("{encoder:?}"));
        let task = task(&folder, encoder, Keep::Auto);
        let report = train(&shop, &task, after(330)).await.unwrap();
        // Nothing else says anything: without the events the loss would be that of the mean, about 0.69.
        assert!(log_loss(&report) < 0.5, "{encoder:?}: {}", log_loss(&report));
        assert!(
            notes(&report).contains("`sequence` stays in the model: the validation loss is 0."),
            "{}",
            notes(&report)
        );

        let bundle = Bundle::open(&folder).unwrap();
        assert_eq!(bundle.manifest().network.sequence.as_ref().unwrap().vocabularies, [4]);
        assert_eq!(bundle.manifest().sql["sql/sequences/orders.sql"], "1111");
        let later = evaluate_from(&shop, &task, &bundle, after(330), Device::Cpu).await.unwrap();
        assert!(later.metric("churn_30d", "model", "log_loss").unwrap() < 0.5, "{}", later.table());
    }
}

#[tokio::test]
async fn where_the_order_of_events_tells_nothing_they_are_left_out_unless_the_job_insists() {
    let (shop, dir) = (Shop::new(800, Reason::Feature), tempfile::tempdir().unwrap());
    let auto = task(&dir.path().join("auto"), SequenceEncoder::Gru, Keep::Auto);
    let report = train(&shop, &auto, after(330)).await.unwrap();
    assert!(notes(&report).contains("`sequence` is not used: the validation loss is 0."), "{}", notes(&report));
    let bundle = Bundle::open(&dir.path().join("auto")).unwrap();
    assert!(bundle.manifest().network.sequence.is_none());
    let later = evaluate_from(&shop, &auto, &bundle, after(330), Device::Cpu).await.unwrap();
    assert!(later.metric("churn_30d", "model", "log_loss").unwrap() < 0.45, "{}", later.table());

    let always = task(&dir.path().join("always"), SequenceEncoder::Gru, Keep::Always);
    let report = train(&shop, &always, after(330)).await.unwrap();
    assert!(!notes(&report).contains("sequence"), "{}", notes(&report));
    let bundle = Bundle::open(&dir.path().join("always")).unwrap();
    assert!(bundle.manifest().network.sequence.is_some());
}

/// The loss of the job's own setting in a search.
async fn searched(shop: &Shop, task: &EntityTask, folder: &Path) -> f64 {
    let job = TrainJob { name: "shop", task, device: Device::Cpu };
    let options = TuneOptions { folder, trials: 1, time: None, seed: 3, job_hash: "job" };
    let printer = Printer::new(Verbosity::Quiet, Output::Human);
    let report = tune_from(shop, job, after(330), &options, &printer).await.unwrap();
    report.trainings.last().and_then(|training| training.result.loss).unwrap()
}

#[tokio::test]
async fn trials_read_the_events_only_where_the_jobs_own_setting_gains_by_them() {
    for (customers, reason) in [(1500, Reason::Slowing), (800, Reason::Feature)] {
        let (shop, dir) = (Shop::new(customers, reason), tempfile::tempdir().unwrap());
        let own = |keep| task(&dir.path().join("bundle"), SequenceEncoder::Gru, keep);
        let auto = searched(&shop, &own(Keep::Auto), &dir.path().join("auto")).await;
        let with = searched(&shop, &own(Keep::Always), &dir.path().join("always")).await;
        let mut never = own(Keep::Always);
        never.model.as_mut().unwrap().sequence = None;
        let without = searched(&shop, &never, &dir.path().join("never")).await;
        assert_ne!(with, without);
        assert_eq!(auto, if reason == Reason::Slowing { with } else { without }, "{reason:?}");
    }
}

#[tokio::test]
async fn a_job_that_asks_for_more_events_than_the_model_learned_is_told_so() {
    let (shop, dir) = (Shop::new(300, Reason::Feature), tempfile::tempdir().unwrap());
    let mut task = task(&dir.path().join("bundle"), SequenceEncoder::Gru, Keep::Always);
    task.train.epochs = 1;
    train(&shop, &task, after(330)).await.unwrap();
    let bundle = Bundle::open(&dir.path().join("bundle")).unwrap();
    let model = task.model.as_mut().unwrap();
    model.sequence.as_mut().unwrap().length = 16;
    let error = bundle.manifest().check(model, shop.features(), &shop.feature_hashes()).unwrap_err();
    let wanted = "the model was trained on the 8 newest events of a customer, and the job asks for 16";
    assert!(error.to_string().ends_with(wanted), "{error}");
}
