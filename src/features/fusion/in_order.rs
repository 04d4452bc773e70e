//! Numbered pieces of work on threads of their own, whose results come in the order of the numbers.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::mpsc::{Receiver, channel};

use crate::{Error, Result, cpu};

/// Per thread so many pieces may be under way or wait for an earlier one.
const AHEAD: usize = 4;

/// Results in order. A thread goes from one piece to the next without being woken for it, and waits only where nobody takes what is
/// there, or where one piece takes much longer than others. The threads stop where this is dropped.
pub(super) struct InOrder<T> {
    next: usize,
    count: usize,
    /// What came before its turn.
    early: BTreeMap<usize, Result<T>>,
    results: Receiver<(usize, Result<T>)>,
    gate: Arc<Gate>,
}

/// How many results were given.
#[derive(Default)]
struct Gate {
    given: Mutex<usize>,
    moved: Condvar,
}

/// Nothing is wanted any more.
const STOPPED: usize = usize::MAX;

impl Gate {
    /// Waits until a piece is no further ahead than it may be; `false` where it is not wanted any more.
    fn pass(&self, number: usize, ahead: usize) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |given: &mut usize| number >= given.saturating_add(ahead);
        *self.moved.wait_while(given, waits).unwrap_or_else(PoisonError::into_inner) != STOPPED
    }

    fn open(&self, given: usize) {
        let mut known = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        *known = given.max(*known);
        self.moved.notify_all();
    }
}

impl<T: Send + 'static> InOrder<T> {
    /// Starts `work(0)`, `work(1)`, … up to `count` on so many threads.
    pub fn start(count: usize, threads: usize, work: impl Fn(usize) -> T + Send + Sync + 'static) -> Self {
        let threads = threads.max(1);
        let (sender, results) = channel(1);
        let (work, taken, gate) = (Arc::new(work), Arc::new(AtomicUsize::new(0)), Arc::new(Gate::default()));
        for _ in 0..threads {
            let (sender, work, taken) = (sender.clone(), Arc::clone(&work), Arc::clone(&taken));
            let gate = Arc::clone(&gate);
            tokio::task::spawn_blocking(move || {
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    if number >= count || !gate.pass(number, AHEAD * threads) {
                        break;
                    }
                    // A panic is the result of its piece: nobody is to wait for it.
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        let _turn = cpu::turn();
                        work(number)
                    }));
                    let result = result.map_err(|payload| Error::panicked("a thread of the feature pass", &*payload));
                    if sender.blocking_send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        InOrder { next: 0, count, early: BTreeMap::new(), results, gate }
    }

    /// The next number and its result; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<(usize, T)>> {
        if self.next == self.count {
            return Ok(None);
        }
        loop {
            if let Some(result) = self.early.remove(&self.next) {
                self.next += 1;
                self.gate.open(self.next);
                return Ok(Some((self.next - 1, result?)));
            }
            let (number, result) =
                self.results.recv().await.ok_or_else(|| Error::bug("the threads of the feature pass ended early"))?;
            self.early.insert(number, result);
        }
    }
}

impl<T> Drop for InOrder<T> {
    fn drop(&mut self) {
        self.gate.open(STOPPED);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn results_come_in_order_and_threads_do_not_run_away() {
        let (threads, begun) = (3, Arc::new(Mutex::new(0)));
        let count = Arc::clone(&begun);
        let mut results = InOrder::start(50, threads, move |number| {
            *count.lock().unwrap() += 1;
            // Some take longer than all others that may begin in the meantime.
            std::thread::sleep(Duration::from_micros(if number.is_multiple_of(20) { 20_000 } else { 10 }));
            number * number
        });
        for number in 0..50 {
            assert_eq!(results.next().await.unwrap(), Some((number, number * number)));
            assert!(*begun.lock().unwrap() <= number + 1 + AHEAD * threads);
        }
        assert_eq!(results.next().await.unwrap(), None);
        assert_eq!(InOrder::start(0, 2, |_| ()).next().await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_that_breaks_down_is_an_error() {
        let mut results = InOrder::start(100, 2, |number| assert!(number != 3, "on purpose"));
        let mut found = Ok(Some((0, ())));
        while let Ok(Some(_)) = found {
            found = results.next().await;
        }
        let error = found.unwrap_err();
        assert_eq!(error.class(), crate::error::Class::Bug);
        assert!(error.to_string().contains("panicked: on purpose"), "{error}");
    }
}
