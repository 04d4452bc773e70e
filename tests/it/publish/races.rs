//! Two runs of one night at once, led step by step.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use object_store::memory::InMemory;
use tenure::Result;
use tenure::error::Class;
use tenure::lake::publish::{Committed, committed};

use super::faults::{Fault, Faulty};
use super::night::*;
use super::{faulty, local, operations, position, whole};

/// Lets somebody act right before an operation.
fn before(act: impl Future<Output = ()> + Send + 'static) -> Fault {
    Fault::Before(Arc::new(Mutex::new(Some(Box::pin(act)))))
}

#[tokio::test]
async fn a_run_that_is_overtaken_at_any_step_leaves_the_winners_night_or_its_own() {
    let (a, b) = (clean("a").await, clean("b").await);
    let mut overtaken = 0;
    for at in 1..=operations(None).await {
        let memory = Arc::new(InMemory::new());
        let other = whole(&memory);
        let act = before(async move {
            run_until_done(&other, "b").await;
        });
        let (store, faults) = faulty(&memory, act, at);
        let result = run(&store, "a").await;
        let in_force = committed(&whole(&memory), night()).await.unwrap().unwrap();
        let expected = if in_force.key == key("a") { &a } else { &b };
        assert_eq!(&in_place(&whole(&memory)).await, expected, "at {at}: {:#?}", faults.log());
        match result {
            Ok(done) if done.commit != in_force => {
                // It was done when the other came, and nothing was left to do but to clear up.
                assert_eq!(in_force.key, key("b"), "at {at}");
            }
            Ok(_) => {}
            Err(error) => {
                overtaken += 1;
                assert_eq!(error.class(), Class::Infra, "at {at}: {error}");
                assert_eq!(in_force.key, key("b"), "at {at}");
                run(&whole(&memory), "a").await.unwrap();
                assert_eq!(in_place(&whole(&memory)).await, a, "at {at}");
            }
        }
    }
    assert!(overtaken >= 4, "{overtaken}");
}

#[tokio::test]
async fn a_run_that_dies_inside_another_run_harms_neither() {
    let (a, b) = (clean("a").await, clean("b").await);
    let operations = operations(None).await;
    for at in 1..=operations {
        for dies_at in 1..=operations {
            let memory = Arc::new(InMemory::new());
            let (dying, _) = faulty(&memory, Fault::Dead, dies_at);
            let act = before(async move {
                let _ = run(&dying, "b").await;
            });
            let (store, _) = faulty(&memory, act, at);
            let result = run(&store, "a").await;
            let place = format!("at {at}, dies at {dies_at}");
            // Nobody has to come back for the loser: whoever looks at the night finds it whole, or that it must run.
            match committed(&whole(&memory), night()).await {
                Ok(Some(commit)) if commit.key == key("a") => {
                    assert_eq!(in_place(&whole(&memory)).await, a, "{place}");
                }
                Ok(Some(_)) => {
                    assert_eq!(in_place(&whole(&memory)).await, b, "{place}");
                }
                Ok(None) => panic!("{place}: one of the two got as far as its commit"),
                Err(error) => assert!(result.is_err(), "{place}: {error}"),
            }
            run(&whole(&memory), "a").await.unwrap();
            assert_eq!(in_place(&whole(&memory)).await, a, "{place}");
            run(&whole(&memory), "c").await.unwrap();
            assert_eq!(staged(&whole(&memory)).await, [""; 0], "{place}");
        }
    }
}

/// One of two runs that a test leads step by step.
struct Led {
    run: Pin<Box<dyn Future<Output = Result<Committed>>>>,
    faults: Faulty,
    ended: Option<Result<Committed>>,
}

impl Led {
    /// A run that stands right before its first conditional put: it has seen an empty night.
    fn before_its_commit(memory: &Arc<InMemory>, tag: &'static str, put: usize) -> Self {
        let (store, faults) = faulty(memory, Fault::Waits, 0);
        let mut led = Led { run: Box::pin(async move { run(&store, tag).await }), faults, ended: None };
        led.steps(put);
        assert!(led.faults.log().last().unwrap().contains("commit-00001"));
        led
    }

    fn steps(&mut self, steps: usize) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..steps {
            if self.ended.is_none()
                && let Poll::Ready(ended) = self.run.as_mut().poll(&mut context)
            {
                self.ended = Some(ended);
            }
        }
    }

    /// Whether anything was still to be copied at this point.
    fn has_to_copy(&self, copies: usize) -> bool {
        self.faults.log().iter().filter(|entry| entry.starts_with("copy")).count() < copies
    }
}

#[tokio::test]
async fn two_runs_that_both_saw_an_empty_night_leave_one_whole_night_however_they_interleave() {
    let (a, b) = (clean("a").await, clean("b").await);
    let put = position("put _runs/ds=2026-07-01/commit").await;
    let left = operations(None).await - put + 4;
    let mut overtaken = 0;
    for (first, second) in (0..left).flat_map(|first| (0..left).map(move |second| (first, second))) {
        let place = format!("{first} steps of a, {second} steps of b");
        let memory = Arc::new(InMemory::new());
        let mut one = Led::before_its_commit(&memory, "a", put);
        let mut two = Led::before_its_commit(&memory, "b", put);
        one.steps(first);
        let before_two = one.has_to_copy(2);
        two.steps(second);
        let number = commits(&memory).await;
        one.steps(100);
        // The other one is dead from here on, or goes on after this one.
        let lives = (first + second) % 2 == 0;
        if lives {
            two.steps(100);
        }
        let result = one.ended.unwrap();
        if first > 1 && number == 2 && before_two {
            overtaken += 1;
            assert!(result.is_err(), "{place}: done, though overtaken before its last copy");
        }
        if lives {
            let commit = committed(&whole(&memory), night()).await;
            if let Ok(commit) = commit {
                let expected = if commit.unwrap().key == key("a") { &a } else { &b };
                assert_eq!(&in_place(&whole(&memory)).await, expected, "{place}");
            } else {
                assert!(result.is_err() || two.ended.unwrap().is_err(), "{place}: nobody would come back to mend it");
            }
        }
        run(&whole(&memory), "a").await.unwrap();
        assert_eq!(in_place(&whole(&memory)).await, a, "{place}");
    }
    assert!(overtaken > 10, "{overtaken}");
}

/// How many commits the night has.
async fn commits(memory: &Arc<InMemory>) -> usize {
    let runs = whole(memory).list("_runs").await.unwrap();
    runs.iter().filter(|object| object.path.contains("/commit-")).count()
}

#[tokio::test]
async fn a_lost_number_is_followed_by_the_next_one() {
    let put = position("put _runs/ds=2026-07-01/commit").await;
    let memory = Arc::new(InMemory::new());
    let rival = whole(&memory);
    let act = before(async move {
        run(&rival, "b").await.unwrap();
    });
    let (store, faults) = faulty(&memory, act, put);
    let done = run(&store, "a").await.unwrap();
    let puts: Vec<String> =
        faults.log().into_iter().filter(|entry| entry.starts_with("put _runs/ds=2026-07-01/commit")).collect();
    assert_eq!(puts, ["put _runs/ds=2026-07-01/commit-00001.json", "put _runs/ds=2026-07-01/commit-00002.json"]);
    assert_eq!(done.commit.number, 2);
    assert_eq!(in_place(&whole(&memory)).await, clean("a").await);
}

#[tokio::test]
async fn a_copy_of_a_loser_that_lands_late_is_put_right() {
    let memory = Arc::new(InMemory::new());
    let (store, faults) = faulty(&memory, Fault::None, 0);
    run(&store, "a").await.unwrap();
    let last_look = faults.log().iter().rposition(|entry| entry.starts_with("list _runs")).unwrap() + 1;

    for late in clean("b").await {
        let memory = Arc::new(InMemory::new());
        let other = whole(&memory);
        let act = before(async move {
            other.put(&late.0, late.1).await.unwrap();
        });
        let (store, _) = faulty(&memory, act, last_look);
        run(&store, "a").await.unwrap();
        assert_eq!(in_place(&whole(&memory)).await, clean("a").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_whole_objects_while_runs_replace_them() {
    let (a, b) = (clean("a").await, clean("b").await);
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    run(&store, "a").await.unwrap();
    let path = "predictions/ds=2026-07-01/part-00000.parquet";
    let file = folder.path().join("out").join(path);
    let writing = tokio::spawn(async move {
        for tag in ["b", "a", "b", "a", "b"] {
            run(&store, tag).await.unwrap();
        }
    });
    let mut seen = 0;
    while !writing.is_finished() {
        let read = std::fs::read(&file).unwrap();
        assert!(read == a[path] || read == b[path], "after {seen} reads");
        seen += 1;
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    assert!(seen > 5, "{seen}");
}
