//! Texts among a customer's features: the encoder learns with the network, and the bundle scores with what it learned.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use futures::StreamExt;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};
use tenure::features::{FeatureColumn, FeatureStream};
use tenure::model::encoder::Mode;
use tenure::model::predict::Predictor;
use tenure::model::preprocess::{InputKind, RawTable};
use tenure::model::{Bundle, device, weights};
use tenure::spec::{EntityTask, LoraSpec, LoraTarget, Loss, TextSpec, TuneSpec};
use tenure::training::text_vectors::{TextInputs, TextVectors};
use tenure::training::{LabelInfo, SnapshotSource, TrainingReport, evaluate_from};
use tenure::{AsOf, Result};

use crate::encoder::{distance, fixtures};
use crate::support::purchases::{self, OPENING, Shop, after, day, head};
use crate::training::train;

/// Customers who write one message before every snapshot. Whoever praises before complaining stays: of a message, only the
/// order of two words says so, which the mean of a frozen random encoder's vectors hardly shows.
struct Letters {
    columns: Vec<FeatureColumn>,
    labels: Vec<LabelInfo>,
}

const CUSTOMERS: i64 = 250;

impl Letters {
    fn new() -> Self {
        let churned = LabelInfo {
            name: "churned".into(),
            data_type: DataType::Float64,
            horizon_days: 30,
            default: None,
            default_class: None,
            place: None,
        };
        let mut letters = Letters { columns: Vec::new(), labels: vec![churned] };
        let schema = letters.features_at(after(60)).schema();
        letters.columns = schema.fields().iter().skip(1).map(|field| purchases::column(field)).collect();
        letters
    }

    /// What a customer wrote before a date, and whether that is the last we hear of him.
    fn letter(customer: i64, as_of: AsOf) -> (Option<String>, bool) {
        let date = (as_of.date() - day(OPENING).date()).num_days();
        let mut random = ChaCha8Rng::seed_from_u64((customer * 10_007 + date) as u64);
        let churns = random.random_bool(0.5);
        if random.random_bool(0.1) {
            return (None, churns);
        }
        let mut words = ["the", "order", "my", "card", "red", "size", "small", "gift"];
        words.shuffle(&mut random);
        let (first, second) = if churns { ("bad", "love") } else { ("love", "bad") };
        (Some(format!("{} {first} {} {second} {}", words[0], words[1], words[2])), churns)
    }

    fn features_at(&self, as_of: AsOf) -> RecordBatch {
        let letters: Vec<Option<String>> = (0..CUSTOMERS).map(|customer| Self::letter(customer, as_of).0).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(0..CUSTOMERS))),
            ("orders", Arc::new(Float64Array::from_iter_values((0..CUSTOMERS).map(|c| (c % 7) as f64)))),
            ("letter", Arc::new(StringArray::from_iter(letters))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }
}

#[async_trait(?Send)]
impl SnapshotSource for Letters {
    fn features(&self) -> &[FeatureColumn] {
        &self.columns
    }
    fn feature_hashes(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    fn labels(&self) -> &[LabelInfo] {
        &self.labels
    }
    fn label_hashes(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    async fn first_event(&self) -> Result<AsOf> {
        Ok(day(OPENING))
    }
    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream> {
        Ok(Shop::stream(&self.features_at(as_of), as_of, 97))
    }
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>> {
        let churned = (0..CUSTOMERS).map(|customer| f64::from(Self::letter(customer, as_of).1));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(0..CUSTOMERS))),
            ("churned", Arc::new(Float64Array::from_iter_values(churned))),
        ];
        Ok(vec![Shop::stream(&RecordBatch::try_from_iter(columns).unwrap(), as_of, 50)])
    }
}

fn text(tune: TuneSpec, learning_rate: f64) -> TextSpec {
    let encoder = fixtures().join("tiny-bert");
    TextSpec { columns: vec!["letter".into()], encoder, max_length: 32, tune, learning_rate, layer_decay: 1.0 }
}

fn task(bundle: &Path, text: TextSpec) -> EntityTask {
    let mut task = purchases::task(bundle);
    let model = task.model.as_mut().unwrap();
    model.text = Some(text);
    model.heads = vec![head("churn", "churned", Loss::Bce, None)];
    model.minimum_data = None;
    (task.train.rfm, task.train.batch, task.train.epochs) = (None, 64, 10);
    task
}

fn lora() -> TuneSpec {
    let targets = LoraTarget::NAMES.map(|(_, target)| target).to_vec();
    TuneSpec::Lora(LoraSpec { targets, ..LoraSpec::default() })
}

async fn trained(bundle: &Path, text: TextSpec) -> (TrainingReport, f64, f64) {
    let (letters, task) = (Letters::new(), task(bundle, text));
    let report = train(&letters, &task, after(240)).await.unwrap();
    let loss = report.validation.metric("churn", "model", "log_loss").unwrap();
    let opened = Bundle::open(bundle).unwrap();
    let later = evaluate_from(&letters, &task, &opened, after(270), Device::Cpu).await.unwrap();
    (report, loss, later.metric("churn", "model", "log_loss").unwrap())
}

#[tokio::test]
async fn an_encoder_that_learns_with_the_network_reads_what_a_frozen_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name);
    let (report, frozen, frozen_later) = trained(&folder("frozen"), text(TuneSpec::Frozen, 1e-2)).await;
    assert!(!report.table().contains("the text encoder"));
    for (name, tune, learning_rate) in [("lora", lora(), 1e-2), ("full", TuneSpec::Full, 3e-3)] {
        let (report, loss, later) = trained(&folder(name), text(tune, learning_rate)).await;
        assert!(loss < 0.7 * frozen, "{name}: {loss} and {frozen}");
        assert!(later < 0.7 * frozen_later, "the bundle has not what was learned: {later} and {frozen_later}");
        assert!(report.table().contains(&format!("note: the text encoder: {name}, trainable")), "{}", report.table());
        let bundle = Bundle::open(&folder(name)).unwrap();
        assert_eq!(bundle.manifest().text.as_ref().unwrap().tuned.mode, name);
    }
    let weight = |folder: &Path| {
        let file = folder.join("model.safetensors");
        weights::read(&file).unwrap()["encoder.layer.1.attention.self.query.weight"].shallow_clone()
    };
    let before = weight(&fixtures().join("tiny-bert"));
    let moved = ["frozen", "lora", "full"].map(|name| distance(&weight(&folder(name).join("encoder")), &before));
    assert!(moved[0] == 0.0 && moved[1] > 1e-3 && moved[2] > 1e-3, "{moved:?}");
}

#[tokio::test]
async fn a_row_alone_scores_as_in_a_batch_with_what_the_encoder_learned() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = task(&dir.path().join("bundle"), text(TuneSpec::Full, 3e-3));
    task.train.epochs = 2;
    let letters = Letters::new();
    train(&letters, &task, after(240)).await.unwrap();
    let bundle = Bundle::open(&dir.path().join("bundle")).unwrap();
    let predictor = Predictor::load(&bundle, Device::Cpu).unwrap();
    let batch = letters.features_at(after(240));
    let scores = |batch: &RecordBatch| -> Vec<f64> {
        let mut table = predictor.table();
        table.push(batch, after(240)).unwrap();
        predictor.predict(&table).unwrap().into_iter().map(|row| row.unwrap()[0].point()).collect()
    };
    let together = scores(&batch);
    for (row, together) in together.iter().enumerate().take(30) {
        let alone = scores(&batch.slice(row, 1))[0];
        assert!((alone - together).abs() < 1e-5, "row {row}: {alone} and {together}");
    }
}

#[tokio::test]
async fn the_same_seed_tunes_the_same_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let mut bundles = Vec::new();
    for name in ["one", "two"] {
        let mut task = task(&dir.path().join(name), text(lora(), 1e-2));
        task.train.epochs = 2;
        bundles.push(train(&Letters::new(), &task, after(200)).await.unwrap().model_version);
    }
    assert_eq!(bundles[0], bundles[1]);
}

#[tokio::test]
async fn vectors_of_a_learning_encoder_begin_as_those_of_a_frozen_one() {
    let mut table = RawTable::new(vec![("letter".into(), InputKind::Text)]);
    let mut stream = Letters::new().matrix(after(90)).await.unwrap();
    while let Some(batch) = stream.next().await {
        table.push(&batch.unwrap(), after(90)).unwrap();
    }
    let _seeded = device::seed(1);
    let vectors = |tune: TuneSpec| -> (TextVectors, Vec<Tensor>) {
        let inputs = TextInputs::new(&text(tune, 1e-3), &table, Device::Cpu).unwrap();
        (inputs.vectors(1).unwrap(), inputs.ids().iter().map(Tensor::shallow_clone).collect())
    };
    let (frozen, ids) = vectors(TuneSpec::Frozen);
    // Rows in any order, some twice, some without a text.
    let rows = Tensor::from_slice(&[5i64, 1, 1, 17, 40, 39, 5, 248]);
    let columns = [ids[0].index_select(0, &rows), ids[0].narrow(0, 0, 100)];
    let right = frozen.of(&columns, Mode::Infer).unwrap();
    assert!(right[1].abs().sum_dim_intlist([1i64].as_slice(), false, None).eq(0.0).any().int64_value(&[]) == 1);
    for tune in [lora(), TuneSpec::Full] {
        let (learning, _) = vectors(tune);
        let found = learning.of(&columns, Mode::Infer).unwrap();
        assert!(found.iter().zip(&right).all(|(a, b)| a.size() == b.size() && distance(a, b) < 1e-5));
        assert!(found[0].requires_grad());
        let dropped = learning.of(&columns, Mode::Train).unwrap();
        assert!(distance(&dropped[0], &right[0]) > 1e-3, "in training there is dropout");
    }
}
