//! Numbered pieces of work on threads of their own, whose results come in the order of the numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{Receiver, channel};

use crate::{Error, Result};

/// Results in order. A thread goes from one piece to the next without being woken for it, and waits only where nobody takes what is
/// there. The threads stop where this is dropped.
pub(super) struct InOrder<T> {
    next: usize,
    count: usize,
    /// What came before its turn.
    early: BTreeMap<usize, T>,
    results: Receiver<(usize, T)>,
}

impl<T: Send + 'static> InOrder<T> {
    /// Starts `work(0)`, `work(1)`, … up to `count` on so many threads.
    pub fn start(count: usize, threads: usize, work: impl Fn(usize) -> T + Send + Sync + 'static) -> Self {
        let (sender, results) = channel(1);
        let (work, taken) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
        for _ in 0..threads.max(1) {
            let (sender, work, taken) = (sender.clone(), Arc::clone(&work), Arc::clone(&taken));
            tokio::task::spawn_blocking(move || {
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    if number >= count || sender.blocking_send((number, work(number))).is_err() {
                        break;
                    }
                }
            });
        }
        InOrder { next: 0, count, early: BTreeMap::new(), results }
    }

    /// The next number and its result; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<(usize, T)>> {
        if self.next == self.count {
            return Ok(None);
        }
        loop {
            if let Some(result) = self.early.remove(&self.next) {
                self.next += 1;
                return Ok(Some((self.next - 1, result)));
            }
            // A thread that panicked takes its piece with it.
            let (number, result) = self.results.recv().await.ok_or_else(|| Error::infra("a thread broke down"))?;
            self.early.insert(number, result);
        }
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
            // Earlier ones take longer.
            std::thread::sleep(Duration::from_micros(200 * (50 - number as u64) % 700));
            number * number
        });
        for number in 0..50 {
            assert_eq!(results.next().await.unwrap(), Some((number, number * number)));
            // At work, in the channel, and early ones.
            assert!(*begun.lock().unwrap() <= number + 1 + 3 * threads);
        }
        assert_eq!(results.next().await.unwrap(), None);
        assert_eq!(InOrder::start(0, 2, |_| ()).next().await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_that_breaks_down_is_an_error() {
        let mut results = InOrder::start(10, 2, |number| assert!(number != 3, "on purpose"));
        let mut found = Ok(Some((0, ())));
        while let Ok(Some(_)) = found {
            found = results.next().await;
        }
        assert!(found.is_err());
    }
}
