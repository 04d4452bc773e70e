//! Bundles and scoring.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Float64Type, Schema};
use futures::StreamExt;
use tch::Device;
use tenure::error::{Class, ExitStatus};
use tenure::features::FeatureColumn;
use tenure::model::{Bundle, MINIMUM_DATA, Scorer};
use tenure::printer::render_error;
use tenure::spec::{EntityTask, score_columns};
use tenure::training::SnapshotSource;
use tenure::{Error, Result};

use crate::support::purchases::{self, Shop, after};
use crate::training::train;

struct Trained {
    shop: Shop,
    task: EntityTask,
    folder: PathBuf,
    _dir: tempfile::TempDir,
}

impl Trained {
    async fn new() -> Self {
        let (shop, dir) = (Shop::new(400, 300), tempfile::tempdir().unwrap());
        let folder = dir.path().join("bundle");
        let mut task = purchases::task(&folder);
        task.train.epochs = 3;
        train(&shop, &task, after(240)).await.unwrap();
        Trained { shop, task, folder, _dir: dir }
    }

    fn scorer(&self) -> Scorer {
        self.start(self.shop.features()).unwrap()
    }

    fn start(&self, columns: &[FeatureColumn]) -> Result<Scorer> {
        let bundle = Bundle::open(&self.folder)?;
        Scorer::of_model(&bundle, self.task.model.as_ref().unwrap(), columns, &self.shop.hashes, Device::Cpu)
    }

    async fn scores(&self, features: &RecordBatch, rows: usize) -> RecordBatch {
        let scorer = self.scorer();
        let mut scored = scorer.score(Shop::stream(features, after(240), rows));
        let mut batches = Vec::new();
        while let Some(batch) = scored.next().await {
            let batch = batch.unwrap();
            assert_eq!(batch.features.num_rows(), batch.scores.num_rows());
            batches.push(batch.scores);
        }
        drop(scored);
        scorer.finish().await.unwrap();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }
}

fn numbers(batch: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    batch.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn reasons(batch: &RecordBatch) -> Vec<Option<String>> {
    let column = batch.column_by_name("no_score_reason").unwrap();
    column.as_string::<i32>().iter().map(|r| r.map(str::to_owned)).collect()
}

#[tokio::test]
async fn scores_have_the_columns_that_are_promised() {
    let trained = Trained::new().await;
    let scores = trained.scores(&trained.shop.features_at(after(240)), 64).await;
    let promised = score_columns(trained.task.model.as_ref().unwrap());
    let found: Vec<_> = scores.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
    assert_eq!(found, promised.into_iter().map(|(name, data_type, _)| (name, data_type)).collect::<Vec<_>>());
    for column in ["churn_30d", "churn_60d", "tier_60d_probability"] {
        assert!(numbers(&scores, column).iter().all(|p| p.is_some_and(|p| (0.0..=1.0).contains(&p))), "{column}");
    }
    for (p10, p90) in numbers(&scores, "ltv_60d_p10").into_iter().zip(numbers(&scores, "ltv_60d_p90")) {
        assert!(p10.unwrap() >= 0.0 && p10 <= p90);
    }
    for (column, level) in [("ltv_60d_p10", 0.1), ("ltv_60d_p50", 0.5), ("ltv_60d_p90", 0.9)] {
        for (quantile, zero) in numbers(&scores, column).into_iter().zip(numbers(&scores, "ltv_60d_p_zero")) {
            let zero = zero.unwrap();
            assert!(
                (0.0..=1.0).contains(&zero) && (quantile == Some(0.0)) == (zero >= level),
                "{column}: {quantile:?} {zero}"
            );
        }
    }
    let tiers = scores.column_by_name("tier_60d").unwrap();
    assert!(tiers.as_string::<i32>().iter().all(|t| matches!(t, Some("big" | "small"))));
    assert!(reasons(&scores).iter().all(Option::is_none));
}

#[tokio::test]
async fn horizons_of_one_family_are_monotone() {
    let trained = Trained::new().await;
    let scores = trained.scores(&trained.shop.features_at(after(240)), 64).await;
    for (shorter, longer) in [("churn_30d", "churn_60d"), ("ltv_30d_p_zero", "ltv_60d_p_zero")] {
        for (shorter, longer) in numbers(&scores, shorter).into_iter().zip(numbers(&scores, longer)) {
            assert!(shorter >= longer);
        }
    }
    for suffix in ["", "_p10", "_p50", "_p90"] {
        let (shorter, longer) = (format!("ltv_30d{suffix}"), format!("ltv_60d{suffix}"));
        for (shorter, longer) in numbers(&scores, &shorter).into_iter().zip(numbers(&scores, &longer)) {
            assert!(shorter <= longer);
        }
    }
}

#[tokio::test]
async fn a_row_alone_scores_as_in_a_batch_and_batches_do_not_matter() {
    let trained = Trained::new().await;
    let features = trained.shop.features_at(after(240));
    let together = trained.scores(&features, 10_000).await;
    assert_eq!(trained.scores(&features, 7).await, together, "the same bits, however the rows come");
    for row in [0, 100, 250] {
        let alone = trained.scores(&features.slice(row, 1), 1).await;
        for column in ["churn_30d", "ltv_60d", "ltv_60d_p90", "tier_60d_probability", "spend_mean"] {
            let (a, b) = (numbers(&alone, column)[0].unwrap(), numbers(&together, column)[row].unwrap());
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{column}: {a} {b}");
        }
    }
}

#[tokio::test]
async fn many_blocks_keep_their_order() {
    let trained = Trained::new().await;
    let once = trained.shop.features_at(after(240));
    let many = concat_batches(&once.schema(), std::iter::repeat_n(&once, 40)).unwrap();
    let scores = trained.scores(&many, 1000).await;
    assert_eq!(scores.num_rows(), many.num_rows());
    let (all, values) = (trained.scores(&once, 64).await, numbers(&scores, "ltv_60d"));
    for (i, value) in values.iter().enumerate() {
        let expected = numbers(&all, "ltv_60d")[i % once.num_rows()].unwrap();
        assert!((value.unwrap() - expected).abs() < 1e-6 * expected.max(1.0));
        if i > 3 * once.num_rows() {
            break;
        }
    }
}

#[tokio::test]
async fn a_customer_below_the_minimum_data_has_a_reason_instead_of_scores() {
    let trained = Trained::new().await;
    let features = trained.shop.features_at(after(240));
    let enough = BooleanArray::from_iter((0..features.num_rows()).map(|row| match row {
        0 => Some(false),
        1 => None,
        _ => Some(true),
    }));
    let mut fields = features.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(MINIMUM_DATA, arrow::datatypes::DataType::Boolean, true)));
    let mut columns = features.columns().to_vec();
    columns.push(Arc::new(enough));
    let marked = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();

    let scores = trained.scores(&marked, 64).await;
    for row in [0, 1] {
        assert_eq!(reasons(&scores)[row].as_deref(), Some("below the model's minimum data: orders >= 2"));
        assert!(scores.columns()[..scores.num_columns() - 1].iter().all(|c| c.is_null(row)));
    }
    assert!(numbers(&scores, "ltv_60d")[2].is_some());

    let mut scored = trained.scorer().score(Shop::stream(&marked, after(240), 64));
    let first = scored.next().await.unwrap().unwrap();
    assert_eq!(first.features.schema(), features.schema(), "the marker is not passed on");
}

#[tokio::test]
async fn an_error_of_the_stream_comes_through() {
    let trained = Trained::new().await;
    let features = trained.shop.features_at(after(240));
    let pieces = vec![Ok(features.slice(0, 10)), Err(Error::infra("the lake is gone"))];
    let stream = tenure::features::FeatureStream::new(features.schema(), after(240), futures::stream::iter(pieces));
    let mut scored = trained.scorer().score(stream);
    let error = scored.next().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the lake is gone");
    assert!(scored.next().await.is_none());
}

#[tokio::test]
async fn features_that_panic_are_an_error_and_no_end() {
    let trained = Trained::new().await;
    let features = trained.shop.features_at(after(240));
    // More than a block, so that some rows are scored before.
    let many = concat_batches(&features.schema(), &vec![features.clone(); 6]).unwrap();
    let broken = futures::stream::iter(0..2).map(move |piece| match piece {
        0 => Ok(many.clone()),
        _ => panic!("byte array offset overflow"),
    });
    let scorer = trained.scorer();
    let mut scored = scorer.score(tenure::features::FeatureStream::new(features.schema(), after(240), broken));
    assert!(scored.next().await.unwrap().is_ok());
    let error = scored.next().await.unwrap().unwrap_err();
    assert_eq!((error.class(), error.status()), (Class::Bug, ExitStatus::User));
    assert!(error.to_string().contains("byte array offset overflow"), "{error}");
    assert!(render_error(&error).contains("please report it"));
    assert!(scored.next().await.is_none());
    drop(scored);
    scorer.finish().await.unwrap();
}

#[tokio::test]
async fn every_difference_between_training_and_scoring_is_named() {
    let mut trained = Trained::new().await;
    let mut columns = trained.shop.features().to_vec();
    columns[0].name = "orders_lifetime".into();
    columns[1].data_type = arrow::datatypes::DataType::Int64;
    trained.shop.hashes.insert("sql/features/orders.sql".into(), "3333".into());
    trained.shop.hashes.insert("sql/features/new.sql".into(), "4444".into());
    trained.task.model.as_mut().unwrap().heads.pop();
    let text = render_error(&trained.start(&columns).unwrap_err());
    for part in [
        "the model learned the feature `orders`, which is gone",
        "was it renamed to `orders_lifetime`?",
        "the feature `mean_amount` was Float64 in training and is Int64 now",
        "the feature `orders_lifetime` is new; the model has not learned it",
        "`sql/features/orders.sql` has changed since the model was trained",
        "`sql/features/new.sql` is new since the model was trained",
        "the model has a head `spend_mean`, which the job does not name",
        "tenure train JOB",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[tokio::test]
async fn features_in_another_order_score_the_same() {
    let trained = Trained::new().await;
    let features = trained.shop.features_at(after(240));
    let mut order: Vec<usize> = (0..features.num_columns()).collect();
    order[1..].reverse();
    let turned = features.project(&order).unwrap();
    assert_eq!(trained.scores(&turned, 64).await, trained.scores(&features, 64).await);
}

#[test]
fn a_missing_bundle_says_how_to_get_one() {
    let error = Bundle::open(std::path::Path::new("/nowhere/models/ltv")).unwrap_err();
    let text = render_error(&error);
    assert!(
        text.contains("there is no model bundle here") && text.contains("hint: train one with `tenure train JOB`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let trained = Trained::new().await;
    for file in ["weights.safetensors", "preprocess.json", "baselines.json"] {
        let path = trained.folder.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = Bundle::open(&trained.folder).unwrap_err();
        assert!(error.to_string().ends_with(&format!("`{file}` is not the file that the manifest names")), "{error}");
        std::fs::write(&path, &whole).unwrap();
    }
    Bundle::open(&trained.folder).unwrap();
}
