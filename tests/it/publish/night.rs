//! A small night to publish: two tables whose values tell which run wrote them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use chrono::NaiveDate;
use tenure::Result;
use tenure::lake::Store;
use tenure::lake::publish::{
    Committed, KeyParts, PopulationCount, Publisher, RunKey, StagedFile, TableMeta, described,
};
use tenure::ledger::RunRecord;

pub fn night() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 7, 1).unwrap()
}

/// The key of a run whose inputs differ by `tag` alone.
pub fn key(tag: &str) -> RunKey {
    RunKey::of(&KeyParts {
        job: tag.to_owned(),
        as_of: night(),
        sql: BTreeMap::new(),
        model: None,
        inputs: Vec::new(),
        previous: None,
    })
}

pub fn publisher(store: &Store, tag: &str) -> Publisher {
    Publisher::new(store.clone(), night(), key(tag))
}

pub fn predictions() -> TableMeta {
    TableMeta::new(
        "predictions",
        "one row per customer",
        vec![
            described(Field::new("customer_id", DataType::Int64, true), "who"),
            described(Field::new("churn_90d", DataType::Float64, true), "the chance to leave"),
            described(Field::new("run", DataType::Utf8, false), "which run wrote the row"),
        ],
    )
    .key(["customer_id"])
    .metadata("model_version", "7")
}

pub fn transitions() -> TableMeta {
    TableMeta::new("transitions", "one row per pair", vec![described(Field::new("run", DataType::Utf8, false), "run")])
}

pub fn rows(keys: Vec<Option<i64>>, scores: Vec<Option<f64>>, tag: &str) -> RecordBatch {
    let tags = StringArray::from_iter_values(keys.iter().map(|_| tag));
    let columns =
        vec![Arc::new(Int64Array::from(keys)) as _, Arc::new(Float64Array::from(scores)) as _, Arc::new(tags) as _];
    RecordBatch::try_new(predictions().schema, columns).unwrap()
}

/// The population of nights here: none of their tables has to have a row for each of them.
pub fn everybody() -> PopulationCount {
    PopulationCount::of_rows(100)
}

/// `count` good rows, from key `from` on.
pub fn good_rows(from: i64, count: i64, tag: &str) -> RecordBatch {
    let keys = (from..from + count).map(Some).collect();
    let scores = (from..from + count).map(|k| (k % 7 != 0).then(|| (k as f64 * 0.37).fract())).collect();
    rows(keys, scores, tag)
}

pub fn write_tables(publisher: &Publisher, dir: &Path, tag: &str) -> Result<Vec<StagedFile>> {
    let mut first = publisher.writer(dir, &predictions())?;
    first.write(&good_rows(0, 100, tag))?;
    let mut second = publisher.writer(dir, &transitions())?;
    let pair = RecordBatch::try_new(transitions().schema, vec![Arc::new(StringArray::from(vec![tag])) as _])?;
    second.write(&pair)?;
    Ok(vec![first.finish()?, second.finish()?])
}

/// A whole run as the nightly job does it.
pub async fn run(store: &Store, tag: &str) -> Result<Committed> {
    let publisher = publisher(store, tag);
    match publisher.settle().await? {
        Some(done) => Ok(done),
        None => recompute(&publisher, store, tag).await,
    }
}

/// The same without asking first what is there (`--force`).
pub async fn recompute(publisher: &Publisher, store: &Store, tag: &str) -> Result<Committed> {
    let dir = tempfile::tempdir().unwrap();
    let mut record = RunRecord::start("ltv", night(), publisher.key());
    record.save(store).await?;
    let files = write_tables(publisher, dir.path(), tag)?;
    publisher.staged(files)?.audit(everybody())?.commit(&mut record).await
}

/// A run that is tried again until it succeeds, as Airflow would.
pub async fn run_until_done(store: &Store, tag: &str) -> Committed {
    let mut last = None;
    for _ in 0..50 {
        match run(store, tag).await {
            Ok(done) => return done,
            Err(error) => {
                assert_eq!(error.class(), tenure::error::Class::Infra, "{error}");
                last = Some(error);
            }
        }
    }
    panic!("never done: {last:?}");
}

/// What readers see: every object outside `_runs` and `_staging`.
pub async fn in_place(store: &Store) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for object in store.list("").await.unwrap() {
        if !object.path.starts_with('_') {
            found.insert(object.path.clone(), store.get(&object.path).await.unwrap());
        }
    }
    found
}

/// What a run of this tag, alone in an empty store, puts in place.
pub async fn clean(tag: &str) -> BTreeMap<String, Bytes> {
    let store = Store::memory();
    run(&store, tag).await.unwrap();
    in_place(&store).await
}

pub async fn staged(store: &Store) -> Vec<String> {
    store.list("_staging").await.unwrap().into_iter().map(|object| object.path).collect()
}
