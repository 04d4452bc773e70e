//! Withdrawals: on every store, killed at every step, against runs of the same night.

use std::future::Future;
use std::sync::{Arc, Mutex};

use object_store::memory::InMemory;
use tenure::error::Class;
use tenure::lake::Store;
use tenure::lake::publish::{Finished, Standing, WithdrawOutcome, committed, finish_pending, withdraw};
use tenure::ledger::RunRecord;

use super::faults::Fault;
use super::night::*;
use super::{faulty, local, operations, whole};
use crate::support::s3::S3Server;

async fn in_force(store: &Store) -> Option<String> {
    committed(store, night()).await.unwrap().map(|commit| commit.run_id)
}

async fn a_withdrawn_night_is_gone_and_can_be_run_again(store: Store) {
    let first = run(&store, "a").await.unwrap();
    let id = first.commit.run_id.as_str();
    assert_eq!(withdraw(&store, night(), id).await.unwrap(), WithdrawOutcome::Withdrawn);
    assert!(in_place(&store).await.is_empty());
    assert_eq!(staged(&store).await, [""; 0]);
    assert_eq!(in_force(&store).await, None);
    assert_eq!(publisher(&store, "a").standing().await.unwrap(), Standing::Fresh);
    assert_eq!(publisher(&store, "a").settle().await.unwrap(), None);
    let record = RunRecord::load(&store, night(), id).await.unwrap().unwrap();
    assert!(record.withdrawn.is_some() && record.finished.is_some(), "{record:?}");
    assert!(record.table().contains("withdrawn"), "{}", record.table());

    // Once more changes nothing.
    assert_eq!(withdraw(&store, night(), id).await.unwrap(), WithdrawOutcome::AlreadyWithdrawn);
    assert_eq!(RunRecord::load(&store, night(), id).await.unwrap(), Some(record));

    let again = run(&store, "a").await.unwrap();
    assert_eq!(again.commit.number, 3);
    assert_eq!(in_place(&store).await, clean("a").await);
    assert_eq!(RunRecord::load(&store, night(), id).await.unwrap().unwrap().withdrawn, None);
    assert_eq!(withdraw(&store, night(), id).await.unwrap(), WithdrawOutcome::Withdrawn);
    assert!(in_place(&store).await.is_empty());
}

#[tokio::test]
async fn a_withdrawn_night_is_gone_in_memory() {
    a_withdrawn_night_is_gone_and_can_be_run_again(Store::memory()).await;
}

#[tokio::test]
async fn a_withdrawn_night_is_gone_on_a_local_disk() {
    let folder = tempfile::tempdir().unwrap();
    a_withdrawn_night_is_gone_and_can_be_run_again(local(folder.path())).await;
}

#[tokio::test]
async fn a_withdrawn_night_is_gone_in_s3() {
    let Some(server) = S3Server::start() else { return };
    a_withdrawn_night_is_gone_and_can_be_run_again(server.store("withdrawn")).await;
}

#[tokio::test]
async fn only_what_is_in_force_can_be_withdrawn() {
    let store = Store::memory();
    let nothing = withdraw(&store, night(), "2026-07-01-x").await.unwrap_err();
    assert_eq!(
        (nothing.class(), nothing.to_string().as_str()),
        (Class::User, "the run `2026-07-01-x` published nothing")
    );
    let a = run(&store, "a").await.unwrap().commit.run_id;
    let b = run(&store, "b").await.unwrap().commit.run_id;
    let replaced = withdraw(&store, night(), &a).await.unwrap_err();
    assert_eq!(replaced.to_string(), format!("the run `{a}` is not in force: `{b}` replaced it"));
    assert_eq!(in_place(&store).await, clean("b").await);
    withdraw(&store, night(), &b).await.unwrap();
    // What b had replaced does not come back.
    assert!(in_place(&store).await.is_empty());
    let gone = withdraw(&store, night(), &a).await.unwrap_err();
    assert_eq!(gone.class(), Class::User);
}

/// How many operations a withdrawal takes.
async fn steps() -> usize {
    let memory = Arc::new(InMemory::new());
    let id = run(&whole(&memory), "a").await.unwrap().commit.run_id;
    let (store, faults) = faulty(&memory, Fault::None, 0);
    withdraw(&store, night(), &id).await.unwrap();
    faults.count()
}

#[tokio::test]
async fn a_withdrawal_that_dies_anywhere_is_finished_by_whoever_looks_or_has_not_begun() {
    for fault in [Fault::Dead, Fault::DeadAfter, Fault::Stumble, Fault::StumbleAfter] {
        for at in 1..=steps().await {
            for look in 0..3 {
                let memory = Arc::new(InMemory::new());
                let store = whole(&memory);
                let id = run(&store, "a").await.unwrap().commit.run_id;
                let died = withdraw(&faulty(&memory, fault.clone(), at).0, night(), &id).await;
                let place = format!("at {at}, look {look}");
                match look {
                    0 => {
                        finish_pending(&store).await.unwrap();
                    }
                    1 => drop(committed(&store, night()).await.unwrap()),
                    _ => drop(publisher(&store, "a").settle().await.unwrap()),
                }
                let there = in_place(&store).await;
                match in_force(&store).await {
                    Some(_) => assert_eq!(there, clean("a").await, "{place}"),
                    None => assert!(there.is_empty(), "{place}: {there:?}"),
                }
                assert!(died.is_err() || there.is_empty(), "{place}");
                withdraw(&store, night(), &id).await.unwrap();
                assert!(in_place(&store).await.is_empty(), "{place}");
                let record = RunRecord::load(&store, night(), &id).await.unwrap().unwrap();
                assert!(record.withdrawn.is_some(), "{place}");
                assert_eq!(staged(&store).await, [""; 0], "{place}");
            }
        }
    }
}

fn before(act: impl Future<Output = ()> + Send + 'static) -> Fault {
    Fault::Before(Arc::new(Mutex::new(Some(Box::pin(act)))))
}

#[tokio::test]
async fn a_run_within_a_withdrawal_leaves_a_whole_night_or_one_that_must_run_again() {
    let (mut won, mut lost) = (0, 0);
    for at in 1..=steps().await {
        let memory = Arc::new(InMemory::new());
        let id = run(&whole(&memory), "a").await.unwrap().commit.run_id;
        let other = whole(&memory);
        let act = before(async move {
            run_until_done(&other, "b").await;
        });
        let withdrawn = withdraw(&faulty(&memory, act, at).0, night(), &id).await;
        let store = whole(&memory);
        match withdrawn {
            Ok(_) => won += 1,
            Err(error) => {
                assert!([Class::User, Class::Infra].contains(&error.class()), "at {at}: {error}");
                lost += 1;
            }
        }
        // The run came last or was refused its number: what is there is its night, or whoever looks is told to run.
        match committed(&store, night()).await {
            Ok(None) => assert!(in_place(&store).await.is_empty(), "at {at}"),
            Ok(Some(commit)) => {
                assert_eq!(commit.key, key("b"), "at {at}");
                assert_eq!(in_place(&store).await, clean("b").await, "at {at}");
            }
            Err(error) => assert!(error.to_string().contains("half in place"), "at {at}: {error}"),
        }
        run_until_done(&store, "b").await;
        assert_eq!(in_place(&store).await, clean("b").await, "at {at}");
        assert_eq!(staged(&store).await, [""; 0], "at {at}");
    }
    assert!(won > 0 && lost > 0, "{won} {lost}");
}

#[tokio::test]
async fn a_withdrawal_within_a_run_takes_the_night_back_or_is_overtaken() {
    let operations = operations(Some("old")).await;
    for at in 1..=operations {
        let memory = Arc::new(InMemory::new());
        let id = run(&whole(&memory), "old").await.unwrap().commit.run_id;
        let other = whole(&memory);
        let act = before(async move {
            let _ = withdraw(&other, night(), &id).await;
        });
        let result = run(&faulty(&memory, act, at).0, "a").await;
        let store = whole(&memory);
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                assert_eq!(error.class(), Class::Infra, "at {at}: {error}");
                run_until_done(&store, "a").await
            }
        };
        assert_eq!(in_place(&store).await, clean("a").await, "at {at}");
        assert_eq!(in_force(&store).await, Some(done.commit.run_id), "at {at}");
    }
    // Its own night is taken back while it is being placed.
    let id = publisher(&Store::memory(), "a").run_id();
    let mut taken_back = 0;
    for at in 1..=operations {
        let memory = Arc::new(InMemory::new());
        let (other, id) = (whole(&memory), id.clone());
        let act = before(async move {
            let _ = withdraw(&other, night(), &id).await;
        });
        let result = run(&faulty(&memory, act, at).0, "a").await;
        let store = whole(&memory);
        match in_force(&store).await {
            Some(_) => assert_eq!(in_place(&store).await, clean("a").await, "at {at}"),
            None => {
                assert!(in_place(&store).await.is_empty(), "at {at}");
                taken_back += 1;
            }
        }
        if let Err(error) = result {
            assert_eq!(error.class(), Class::Infra, "at {at}: {error}");
        }
        run_until_done(&store, "a").await;
        assert_eq!(in_place(&store).await, clean("a").await, "at {at}");
    }
    assert!(taken_back > 3, "{taken_back}");
}

#[tokio::test]
async fn what_is_pending_is_found_without_looking_at_nights_that_are_whole() {
    let memory = Arc::new(InMemory::new());
    run(&whole(&memory), "a").await.unwrap();
    let (store, faults) = faulty(&memory, Fault::None, 0);
    assert_eq!(finish_pending(&store).await.unwrap(), []);
    assert_eq!(faults.log(), ["list _staging"]);

    let at = super::position("copy").await + 1;
    let memory = Arc::new(InMemory::new());
    let _ = run(&faulty(&memory, Fault::Dead, at).0, "a").await;
    let pending = finish_pending(&whole(&memory)).await.unwrap();
    let id = publisher(&Store::memory(), "a").run_id();
    assert_eq!(pending.iter().map(|night| &night.finished).collect::<Vec<_>>(), [&Finished::Placed(id)]);
    assert_eq!(in_place(&whole(&memory)).await, clean("a").await);
    assert_eq!(finish_pending(&whole(&memory)).await.unwrap(), []);
}
