//! A small shop in memory whose customers can be trained on: features and labels by plain loops over purchases.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Field;
use async_trait::async_trait;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tenure::error::Place;
use tenure::features::{FeatureColumn, FeatureStream};
use tenure::spec::{
    EmbeddingSpec, EntitySource, EntitySpec, EntityTask, HeadSpec, Loss, ModelSpec, OutcomesSpec, RfmSpec, Schedule,
    SeasonSpec, TrainSpec,
};
use tenure::training::{LabelInfo, SnapshotSource};
use tenure::{AsOf, Result};

/// The day on which the shop opens.
pub const OPENING: &str = "2025-01-01";

/// Customers with their purchases: day since opening, and amount.
pub struct Shop {
    customers: Vec<Customer>,
    columns: Vec<FeatureColumn>,
    labels: Vec<LabelInfo>,
    pub hashes: BTreeMap<String, String>,
}

/// Day and amount of each purchase.
type Purchases = [(i64, f64)];

struct Customer {
    id: i64,
    country: Option<&'static str>,
    purchases: Vec<(i64, f64)>,
}

pub fn day(text: &str) -> AsOf {
    AsOf::parse(text, chrono_tz::UTC).unwrap()
}

/// So many days after the opening.
pub fn after(days: u64) -> AsOf {
    day(OPENING).plus_days(days)
}

impl Shop {
    /// Customers differ in how often and for how much they buy, and in when they are lost.
    pub fn new(customers: usize, days: i64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let customers = (0..customers).map(|i| {
            let (rate, level) = (rng.random_range(0.005..0.12), rng.random_range(1.5..4.5_f64));
            let (first, lost) = (rng.random_range(0..days / 2), rng.random_range(0.0005..0.01));
            let mut purchases = vec![(first, level.exp())];
            for day in first + 1..days {
                if rng.random_bool(lost) {
                    break;
                }
                if rng.random_bool(rate) {
                    purchases.push((day, (level + rng.random_range(-0.5..0.5)).exp()));
                }
            }
            let country = [Some("DE"), Some("FR"), None][i % 3];
            Customer { id: i as i64 + 1, country, purchases }
        });
        let mut shop =
            Shop { customers: customers.collect(), columns: Vec::new(), labels: labels(), hashes: BTreeMap::new() };
        shop.hashes.insert("sql/features/orders.sql".into(), "1111".into());
        let schema = shop.features_at(after(10)).schema();
        shop.columns = schema.fields().iter().skip(1).map(|field| column(field)).collect();
        shop
    }

    /// The same shop without anything from this day on.
    pub fn closed_on(mut self, day: i64) -> Self {
        self.customers.iter_mut().for_each(|c| c.purchases.retain(|(d, _)| *d < day));
        self
    }

    /// The features of everyone who bought before `as_of`.
    pub fn features_at(&self, as_of: AsOf) -> RecordBatch {
        let now = (as_of.date() - day(OPENING).date()).num_days();
        let known: Vec<(&Customer, Vec<(i64, f64)>)> = self
            .customers
            .iter()
            .map(|c| (c, c.purchases.iter().copied().filter(|(day, _)| *day < now).collect::<Vec<_>>()))
            .filter(|(_, purchases)| !purchases.is_empty())
            .collect();
        let numbers = |of: &dyn Fn(&Purchases) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(known.iter().map(|(_, p)| of(p))))
        };
        let last = |p: &[(i64, f64)]| p.last().map_or(0, |(day, _)| *day);
        let moment = |p: &[(i64, f64)]| after(last(p) as u64).instant().timestamp_micros();
        let recent = |p: &[(i64, f64)]| p.iter().filter(|(day, _)| *day >= now - 60).map(|(_, a)| a).sum::<f64>();
        let recent_mean = |p: &[(i64, f64)]| {
            let n = p.iter().filter(|(day, _)| *day >= now - 60).count();
            (n > 0).then(|| recent(p) / n as f64)
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(known.iter().map(|(c, _)| c.id)))),
            ("orders", Arc::new(Int64Array::from_iter_values(known.iter().map(|(_, p)| p.len() as i64)))),
            ("mean_amount", numbers(&|p| p.iter().map(|(_, a)| a).sum::<f64>() / p.len() as f64)),
            ("recency", numbers(&|p| (now - last(p)) as f64)),
            ("spend_60d", numbers(&recent)),
            ("mean_amount_60d", Arc::new(Float64Array::from_iter(known.iter().map(|(_, p)| recent_mean(p))))),
            (
                "first_order_at",
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values(known.iter().map(|(_, p)| moment(&p[..1])))
                        .with_timezone("UTC"),
                ),
            ),
            ("country", Arc::new(StringArray::from_iter(known.iter().map(|(c, _)| c.country)))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn outcome_at(&self, as_of: AsOf) -> RecordBatch {
        let now = (as_of.date() - day(OPENING).date()).num_days();
        let spent = |c: &Customer, days: i64| {
            c.purchases.iter().filter(|(day, _)| (now..now + days).contains(day)).map(|(_, a)| a).sum::<f64>()
        };
        let active: Vec<&Customer> = self.customers.iter().filter(|c| spent(c, 60) > 0.0).collect();
        let numbers = |of: &dyn Fn(&Customer) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(active.iter().map(|c| of(c))))
        };
        let tier = |c: &&Customer| if spent(c, 60) > 60.0 { "big" } else { "small" };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("customer_id", Arc::new(Int64Array::from_iter_values(active.iter().map(|c| c.id)))),
            ("spend_30d", numbers(&|c| spent(c, 30))),
            ("spend_60d_next", numbers(&|c| spent(c, 60))),
            ("churned_30d", numbers(&|c| f64::from(spent(c, 30) == 0.0))),
            ("churned_60d", numbers(&|c| f64::from(spent(c, 60) == 0.0))),
            ("tier", Arc::new(StringArray::from_iter_values(active.iter().map(tier)))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    /// A stream of `batch` in pieces of `rows`.
    pub fn stream(batch: &RecordBatch, as_of: AsOf, rows: usize) -> FeatureStream {
        let starts = (0..batch.num_rows()).step_by(rows);
        let pieces: Vec<Result<RecordBatch>> =
            starts.map(|start| Ok(batch.slice(start, rows.min(batch.num_rows() - start)))).collect();
        FeatureStream::new(batch.schema(), as_of, futures::stream::iter(pieces))
    }
}

fn labels() -> Vec<LabelInfo> {
    let label = |name: &str, horizon_days, default| LabelInfo {
        name: name.into(),
        data_type: arrow::datatypes::DataType::Float64,
        horizon_days,
        default,
        default_class: None,
        place: None,
    };
    vec![
        label("spend_30d", 30, Some(0.0)),
        label("spend_60d_next", 60, Some(0.0)),
        label("churned_30d", 30, Some(1.0)),
        label("churned_60d", 60, Some(1.0)),
        label("tier", 60, None),
    ]
}

pub fn column(field: &Field) -> FeatureColumn {
    FeatureColumn {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        description: None,
        owner: None,
        file: "sql/features/orders.sql".into(),
        window: None,
        source: "orders".into(),
    }
}

#[async_trait(?Send)]
impl SnapshotSource for Shop {
    fn features(&self) -> &[FeatureColumn] {
        &self.columns
    }
    fn feature_hashes(&self) -> BTreeMap<String, String> {
        self.hashes.clone()
    }
    fn labels(&self) -> &[LabelInfo] {
        &self.labels
    }
    fn label_hashes(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("sql/labels/next.sql".to_owned(), "2222".to_owned())])
    }
    async fn first_event(&self) -> Result<AsOf> {
        Ok(day(OPENING))
    }
    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream> {
        Ok(Shop::stream(&self.features_at(as_of), as_of, 97))
    }
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>> {
        Ok(vec![Shop::stream(&self.outcome_at(as_of), as_of, 50)])
    }
}

pub fn head(name: &str, label: &str, loss: Loss, family: Option<(&str, u32)>) -> HeadSpec {
    let family = family.map(|(name, days)| (name.to_owned(), days));
    HeadSpec {
        name: name.into(),
        label: label.into(),
        loss,
        weight: 1.0,
        family,
        direction: None,
        place: Place::file("job.yaml"),
    }
}

/// A job with churn and value over two horizons and a class.
pub fn task(bundle: &Path) -> EntityTask {
    EntityTask {
        entity: EntitySpec {
            source: EntitySource::Table { table: "customers".into(), since: None },
            key: "customer_id".into(),
            place: Place::file("job.yaml"),
        },
        views: Vec::new(),
        features: Vec::new(),
        labels: Vec::new(),
        model: Some(ModelSpec {
            bundle: bundle.to_path_buf(),
            bundle_place: tenure::error::Place::file("job.yaml"),
            text: None,
            sequence: None,
            heads: vec![
                head("churn_30d", "churned_30d", Loss::Bce, Some(("churn", 30))),
                head("churn_60d", "churned_60d", Loss::Bce, Some(("churn", 60))),
                head("ltv_30d", "spend_30d", Loss::Ziln, Some(("ltv", 30))),
                head("ltv_60d", "spend_60d_next", Loss::Ziln, Some(("ltv", 60))),
                head("tier_60d", "tier", Loss::Softmax, None),
                head("spend_mean", "spend_60d_next", Loss::Mse, None),
            ],
            members: 4,
            embedding: EmbeddingSpec::PiecewiseLinear { width: 2, bins: 6 },
            hidden: vec![16],
            dropout: 0.1,
            btyd: None,
            minimum_data: Some("orders >= 2".into()),
        }),
        train: TrainSpec {
            every_days: 30,
            count: 5,
            warmup_days: 40,
            validation_snapshots: 1,
            epochs: 12,
            batch: 128,
            learning_rate: 4e-3,
            schedule: Schedule::Cosine,
            season: SeasonSpec::None,
            weight_decay: 1e-2,
            clip_norm: 1.0,
            patience: 4,
            seed: 1,
            rfm: Some(RfmSpec {
                recency: "recency".into(),
                frequency: "orders".into(),
                monetary: "mean_amount".into(),
                share: 0.3,
                place: Place::file("job.yaml"),
            }),
        },
        segments: None,
        outcomes: OutcomesSpec::default(),
        state: None,
        publish: None,
    }
}
