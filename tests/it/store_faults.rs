//! Stores whose connections break: what is read and written is right, or an error that another try mends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tenure::error::Class;
use tenure::lake::{EngineOptions, Lake, PutOutcome, Store, Visibility};

use crate::support::flaky::{Flaky, Spoilt};
use crate::support::lake::{SmallLake, declare, rows};
use crate::support::s3::{S3Server, patient_env_for};

/// A generator of numbers that a test can repeat.
fn random(seed: usize, number: usize) -> u64 {
    let mut x = (seed as u64) << 32 | number as u64;
    for _ in 0..3 {
        x = (x ^ x >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    x >> 20
}

/// One of so many answers is spoilt, in a way of its own.
fn one_in(many: u64, seed: usize) -> impl Fn(usize, &str) -> Option<Spoilt> + Send + Sync {
    move |number, _| {
        let x = random(seed, number);
        x.is_multiple_of(many).then(|| Spoilt::PASSING[(x / many) as usize % Spoilt::PASSING.len()])
    }
}

fn store(server: &S3Server, flaky: &Flaky, folder: &str, seconds: u32) -> Store {
    Store::open_with(&server.url(folder), &patient_env_for(&flaky.endpoint(), seconds)).unwrap()
}

#[tokio::test]
async fn a_store_works_through_broken_connections() {
    let Some(server) = S3Server::start() else { return };
    let large: Vec<u8> = (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect();
    let local = tempfile::tempdir().unwrap();
    let file = local.path().join("large");
    std::fs::write(&file, large.repeat(8)).unwrap();
    for seed in 0..4 {
        let flaky = Flaky::before(server.port(), one_in(5, seed));
        let store = store(&server, &flaky, &format!("seed{seed}"), 30);
        for i in 0..12 {
            store.put(&format!("a/{i}"), large.clone()).await.unwrap();
            assert_eq!(store.put_new(&format!("new/{i}"), format!("{i}")).await.unwrap(), PutOutcome::Created);
            assert_eq!(store.put_new(&format!("new/{i}"), "other").await.unwrap(), PutOutcome::Exists);
            assert_eq!(store.get(&format!("new/{i}")).await.unwrap(), format!("{i}"));
            assert!(store.get(&format!("a/{i}")).await.unwrap() == large, "object {i} of seed {seed}");
            assert_eq!(store.list("a").await.unwrap().len(), i + 1);
        }
        store.put("empty", "").await.unwrap();
        assert_eq!(store.get("empty").await.unwrap(), "");
        store.upload(&file, "parts").await.unwrap();
        assert!(store.get("parts").await.unwrap() == large.repeat(8));
        for i in 0..12 {
            store.delete(&format!("a/{i}")).await.unwrap();
        }
        assert_eq!(store.list("a").await.unwrap(), []);
        assert!(flaky.spoilt() > 5, "{} answers were spoilt", flaky.spoilt());
    }
}

#[tokio::test]
async fn every_kind_of_broken_answer_is_tried_again() {
    let Some(server) = S3Server::start() else { return };
    let path = server.store("kinds");
    path.put("a/x", "0123456789".repeat(100)).await.unwrap();
    path.put("a/y", "y").await.unwrap();
    for fault in Spoilt::PASSING {
        // Every second request goes wrong.
        let flaky = Flaky::before(server.port(), move |number, _| (number % 2 == 1).then_some(fault));
        let store = store(&server, &flaky, "kinds", 30);
        assert_eq!(store.get("a/x").await.unwrap(), "0123456789".repeat(100), "{fault:?}");
        assert_eq!(store.list("a").await.unwrap().len(), 2, "{fault:?}");
        assert_eq!(store.head("a/x").await.unwrap().unwrap().size, 1000, "{fault:?}");
        let new = format!("new/{fault:?}");
        assert_eq!(store.put_new(&new, "mine").await.unwrap(), PutOutcome::Created, "{fault:?}");
        assert_eq!(store.put_new(&new, "yours").await.unwrap(), PutOutcome::Exists, "{fault:?}");
        store.delete(&new).await.unwrap();
        assert_eq!(store.find(&new).await.unwrap(), None, "{fault:?}");
        assert!(flaky.spoilt() >= 5, "{fault:?}");
    }
}

/// A table of some files in a store, and one without faults.
async fn lake(server: &S3Server, flaky: &Flaky, seconds: u32) -> Lake {
    let mut local = SmallLake::new();
    let store = server.store("shop");
    for day in 1..=9 {
        let path = format!("orders/dt=2026-06-0{day}/a.parquet");
        let select = format!(
            "SELECT value AS order_id, arrow_cast('2026-06-0{day}T10:00:00', 'Timestamp(Microsecond, None)') AS ordered_at, \
             value * 0.5 AS amount FROM generate_series(1, 2000)"
        );
        local = local.parquet(&path, &select).await;
        store.upload(&local.folder.path().join(&path), &path).await.unwrap();
    }
    let columns = "order_id int64, ordered_at timestamp, amount float64";
    let table = declare("orders", server.url("shop/orders"), columns, |table| {
        table.event_time = Some("ordered_at".into());
    });
    let env = patient_env_for(&flaky.endpoint(), seconds);
    Lake::over(&[table], chrono_tz::UTC, &EngineOptions::default(), &env).unwrap()
}

fn at() -> Visibility {
    Visibility::at(tenure::AsOf::parse("2026-07-01", chrono_tz::UTC).unwrap())
}

const SUMS: &str = "SELECT count(*), sum(order_id), sum(amount) FROM orders";

#[tokio::test]
async fn a_table_is_read_through_broken_connections() {
    let Some(server) = S3Server::start() else { return };
    for seed in 10..14 {
        let flaky = Flaky::before(server.port(), one_in(4, seed));
        let lake = lake(&server, &flaky, 30).await;
        let context = lake.session(at()).await.unwrap();
        assert_eq!(rows(&context, SUMS).await, "18000|18009000|9004500.0", "seed {seed}");
        assert!(flaky.spoilt() > 1, "{} answers were spoilt", flaky.spoilt());
    }
}

#[tokio::test]
async fn a_store_that_stays_broken_is_given_up_in_time() {
    let Some(server) = S3Server::start() else { return };
    for fault in [Spoilt::Reset, Spoilt::CutOff, Spoilt::Half, Spoilt::Busy, Spoilt::Expired] {
        for from in [1, 2, 12] {
            let count = AtomicUsize::new(0);
            let flaky = Flaky::before(server.port(), move |_, _| {
                (count.fetch_add(1, Ordering::SeqCst) + 1 >= from).then_some(fault)
            });
            let lake = lake(&server, &flaky, 2).await;
            let started = Instant::now();
            let read = async {
                let context = lake.session(at()).await?;
                context.sql(SUMS).await?.collect().await.map_err(tenure::Error::from)
            };
            let error = read.await.unwrap_err();
            assert_eq!(error.class(), Class::Infra, "{fault:?} from {from}: {error:?}");
            assert!(started.elapsed() < Duration::from_secs(20), "{fault:?} from {from}: {:?}", started.elapsed());
        }
    }
}
