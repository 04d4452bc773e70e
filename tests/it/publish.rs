//! The commit protocol: the same behaviour on every store, and killed at every step.

mod faults;
mod files;
mod night;
mod races;
mod withdraw;

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use faults::{Fault, Faulty};
use night::*;
use object_store::memory::InMemory;
use tenure::error::Class;
use tenure::lake::Store;
use tenure::lake::publish::{POINTS, Standing, committed};
use tenure::ledger::{RunRecord, RunStatus};
use url::Url;

use crate::support::s3::S3Server;

/// Runs a test on a store in memory, on a local disk and in S3 (skipped, said so, where no server can start).
macro_rules! on_every_store {
    ($($name:ident)*) => { mod on_every_store {
        $( mod $name {
            #[tokio::test]
            async fn memory() {
                super::super::$name(tenure::lake::Store::memory()).await;
            }

            #[tokio::test]
            async fn local() {
                let folder = tempfile::tempdir().unwrap();
                super::super::$name(super::super::local(folder.path())).await;
            }
        } )*

        #[tokio::test]
        async fn s3() {
            let Some(server) = crate::support::s3::S3Server::start() else { return };
            $( super::$name(server.store(stringify!($name))).await; )*
        }
    } };
}

on_every_store! {
    a_fresh_night_appears_and_is_recorded
    the_same_key_again_is_already_done
    another_key_takes_over_the_night
    two_runs_at_once_leave_one_whole_night
    a_changed_object_is_noticed_and_mended
}

fn local(folder: &std::path::Path) -> Store {
    Store::open(&Url::from_directory_path(folder.join("out")).unwrap()).unwrap()
}

async fn a_fresh_night_appears_and_is_recorded(store: Store) {
    assert_eq!(publisher(&store, "a").standing().await.unwrap(), Standing::Fresh);
    assert_eq!(committed(&store, night()).await.unwrap(), None);

    let done = run(&store, "a").await.unwrap();

    assert_eq!(in_place(&store).await, clean("a").await);
    assert_eq!(staged(&store).await, [""; 0]);
    assert_eq!(committed(&store, night()).await.unwrap(), Some(done.commit.clone()));
    assert_eq!(done.commit.number, 1);
    assert_eq!(done.commit.table("predictions").unwrap().rows, 100);
    assert_eq!(done.commit.table("predictions").unwrap().path, "predictions/ds=2026-07-01/part-00000.parquet");
    let record = RunRecord::load(&store, night(), &done.commit.run_id).await.unwrap().unwrap();
    assert_eq!((record.status, record.exit_code, record.commit), (RunStatus::Done, Some(0), Some(1)));
    assert_eq!(record.tables, done.tables);
}

async fn the_same_key_again_is_already_done(store: Store) {
    let first = run(&store, "a").await.unwrap();
    assert_eq!(publisher(&store, "a").standing().await.unwrap(), Standing::Committed(first.commit.clone()));
    assert_eq!(publisher(&store, "a").settle().await.unwrap(), Some(first.clone()));

    // Computed again nevertheless, the same bytes keep their number.
    let forced = recompute(&publisher(&store, "a"), &store, "a").await.unwrap();
    assert_eq!(forced.commit, first.commit);
    assert_eq!(in_place(&store).await, clean("a").await);
    assert_eq!(publisher(&store, "a").standing().await.unwrap(), Standing::Committed(first.commit));
}

async fn another_key_takes_over_the_night(store: Store) {
    let first = run(&store, "a").await.unwrap();
    assert_eq!(publisher(&store, "b").standing().await.unwrap(), Standing::Superseding(first.commit));

    let second = run(&store, "b").await.unwrap();
    assert_eq!(second.commit.number, 2);
    assert_eq!(in_place(&store).await, clean("b").await);

    // The first run's record still says done; its tables are no longer in force, so it has to work again.
    assert_eq!(publisher(&store, "a").settle().await.unwrap(), None);
    assert_eq!(run(&store, "a").await.unwrap().commit.number, 3);
    assert_eq!(in_place(&store).await, clean("a").await);
}

async fn two_runs_at_once_leave_one_whole_night(store: Store) {
    let (a, b) = tokio::join!(run_until_done(&store, "a"), run_until_done(&store, "b"));
    let winner = if a.commit.number > b.commit.number { "a" } else { "b" };
    assert_ne!(a.commit.number, b.commit.number);
    assert_eq!(in_place(&store).await, clean(winner).await);
    assert_eq!(committed(&store, night()).await.unwrap().unwrap().key, key(winner));
}

async fn a_changed_object_is_noticed_and_mended(store: Store) {
    let done = run(&store, "a").await.unwrap();
    store.put("predictions/ds=2026-07-01/part-00000.parquet", "something else").await.unwrap();
    assert_eq!(publisher(&store, "a").standing().await.unwrap(), Standing::HalfPlaced(done.commit));
    let error = committed(&store, night()).await.unwrap_err();
    assert_eq!(error.to_string(), "the night of 2026-07-01 is only half in place");
    run(&store, "a").await.unwrap();
    assert_eq!(in_place(&store).await, clean("a").await);
}

/// A store over `memory` that fails as told, and the wrapper to ask what happened.
fn faulty(memory: &Arc<InMemory>, fault: Fault, at: usize) -> (Store, Faulty) {
    let faulty = Faulty::new(memory.clone(), fault, at);
    (Store::over(Arc::new(faulty.clone()), Url::parse("memory:///").unwrap()), faulty)
}

fn whole(memory: &Arc<InMemory>) -> Store {
    faulty(memory, Fault::None, 0).0
}

/// How many operations a run in a store that holds `before` takes.
async fn operations(before: Option<&str>) -> usize {
    let memory = Arc::new(InMemory::new());
    if let Some(tag) = before {
        run(&whole(&memory), tag).await.unwrap();
    }
    let (store, faulty) = faulty(&memory, Fault::None, 0);
    run(&store, "a").await.unwrap();
    faulty.count()
}

#[tokio::test]
async fn wherever_a_run_dies_the_next_one_gives_the_bytes_of_a_clean_run() {
    let clean = clean("a").await;
    for before in [None, Some("old")] {
        let operations = operations(before).await;
        assert!(operations > 20, "{operations}");
        for fault in [Fault::Dead, Fault::DeadAfter, Fault::Stumble, Fault::StumbleAfter] {
            for at in 1..=operations {
                let memory = Arc::new(InMemory::new());
                if let Some(tag) = before {
                    run(&whole(&memory), tag).await.unwrap();
                }
                let (store, faults) = faulty(&memory, fault.clone(), at);
                match run(&store, "a").await {
                    // Some operations may fail without harm: a copy is then relayed.
                    Ok(_) => assert_eq!(in_place(&whole(&memory)).await, clean, "at {at}"),
                    Err(error) => assert_eq!(error.class(), Class::Infra, "at {at}: {error}"),
                }
                let done = run(&whole(&memory), "a").await.unwrap();
                assert_eq!(in_place(&whole(&memory)).await, clean, "at {at}: {:?}", faults.log());
                assert_eq!(staged(&whole(&memory)).await, [""; 0], "at {at}");
                assert_eq!(committed(&whole(&memory), night()).await.unwrap(), Some(done.commit), "at {at}");
            }
        }
    }
}

#[tokio::test]
async fn another_run_finishes_or_replaces_what_a_dead_one_left() {
    let (a, b) = (clean("a").await, clean("b").await);
    for at in 1..=operations(None).await {
        let memory = Arc::new(InMemory::new());
        let (store, _) = faulty(&memory, Fault::Dead, at);
        let _ = run(&store, "a").await;
        // Whoever looks at the night first finds nothing, or makes it whole: the staged tables were whole.
        match committed(&whole(&memory), night()).await.unwrap() {
            None => assert!(in_place(&whole(&memory)).await.is_empty(), "at {at}"),
            Some(commit) => {
                assert_eq!(commit.key, key("a"));
                assert_eq!(in_place(&whole(&memory)).await, a, "at {at}");
            }
        }
        run(&whole(&memory), "b").await.unwrap();
        assert_eq!(in_place(&whole(&memory)).await, b, "at {at}");
        assert_eq!(staged(&whole(&memory)).await, [""; 0], "at {at}");
    }
}

#[tokio::test]
async fn a_night_whose_staged_tables_are_lost_is_computed_again() {
    for lost in 0..2 {
        let memory = Arc::new(InMemory::new());
        let store = whole(&memory);
        let at = position("copy").await;
        let _ = run(&faulty(&memory, Fault::Dead, at).0, "a").await;
        let staged = staged(&store).await;
        store.put(&staged[lost], "half").await.unwrap();
        assert!(matches!(publisher(&store, "a").standing().await.unwrap(), Standing::HalfPlaced(_)));
        assert_eq!(publisher(&store, "a").settle().await.unwrap(), None);
        run(&store, "a").await.unwrap();
        assert_eq!(in_place(&store).await, clean("a").await);
    }
}

/// The number of the first operation of this kind in a run of `a` in an empty store.
async fn position(operation: &str) -> usize {
    let (store, faults) = faulty(&Arc::new(InMemory::new()), Fault::None, 0);
    run(&store, "a").await.unwrap();
    faults.log().iter().position(|entry| entry.starts_with(operation)).unwrap() + 1
}

#[tokio::test]
async fn a_done_night_is_recognised_without_reading_a_table() {
    let memory = Arc::new(InMemory::new());
    run(&whole(&memory), "a").await.unwrap();
    let (store, faults) = faulty(&memory, Fault::None, 0);
    assert!(publisher(&store, "a").settle().await.unwrap().is_some());
    let log = faults.log();
    assert!(!log.iter().any(|entry| entry.starts_with("get") && entry.ends_with(".parquet")), "{log:?}");
    assert!(!log.iter().any(|entry| entry.starts_with("put")), "{log:?}");
}

#[tokio::test]
async fn a_store_that_cannot_copy_still_gets_its_night() {
    let memory = Arc::new(InMemory::new());
    let at = position("copy").await;
    let (store, faults) = faulty(&memory, Fault::Stumble, at);
    run(&store, "a").await.unwrap();
    assert!(faults.log().iter().any(|entry| entry.starts_with("multipart predictions/")), "{:?}", faults.log());
    assert_eq!(in_place(&whole(&memory)).await, clean("a").await);
}

#[tokio::test]
async fn a_run_dropped_at_any_wait_on_a_local_disk_is_made_good_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    dropped_at_every(1, |waits| local(&folder.path().join(waits.to_string()))).await;
}

#[tokio::test]
async fn a_run_dropped_at_some_waits_in_s3_is_made_good_by_the_next_one() {
    let Some(server) = S3Server::start() else { return };
    dropped_at_every(7, |waits| server.store(&format!("dropped-{waits}"))).await;
}

async fn dropped_at_every(step: usize, fresh_store: impl Fn(usize) -> Store) {
    let clean = clean("a").await;
    for waits in (0..).step_by(step) {
        let store = fresh_store(waits);
        let finished = drop_after(waits, run(&store, "a")).await;
        let done = run_until_done(&store, "a").await;
        assert_eq!(in_place(&store).await, clean, "after {waits} waits");
        assert_eq!(committed(&store, night()).await.unwrap(), Some(done.commit), "after {waits} waits");
        if let Some(finished) = finished {
            finished.unwrap();
            assert!(waits > 10, "{waits}");
            return;
        }
    }
}

/// Polls a future until it has waited so often, then drops it where it stands.
async fn drop_after<F: Future>(waits: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = waits;
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The process that the next test starts and kills; among the other tests it has nothing to do.
#[tokio::test]
async fn a_run_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os("TENURE_TEST_FOLDER") else { return };
    run(&local(folder.as_ref()), "a").await.unwrap();
}

#[tokio::test]
async fn a_process_killed_at_any_point_is_made_good_by_the_next_one() {
    let clean = clean("a").await;
    for (point, visit) in POINTS.iter().flat_map(|point| [(point, 1), (point, 2)]) {
        let folder = tempfile::tempdir().unwrap();
        let killed = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "publish::a_run_in_a_process_of_its_own"])
            .env("TENURE_TEST_FOLDER", folder.path())
            .env("TENURE_ABORT_AT", format!("{point}:{visit}"))
            .output()
            .unwrap();
        // Some points are passed once in a run: its second visit never comes.
        assert!(!killed.status.success() || visit == 2, "`{point}` is never reached");

        let store = local(folder.path());
        run(&store, "a").await.unwrap();
        assert_eq!(in_place(&store).await, clean, "{point}:{visit}");
        assert_eq!(staged(&store).await, [""; 0], "{point}:{visit}");
    }
}

#[test]
fn every_kill_point_has_its_own_name() {
    let mut names = POINTS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), POINTS.len());
    assert!(POINTS.iter().all(|name| name.starts_with("publish.")) && POINTS.len() >= 8);
}
