//! Planning under a limit: constants are worked out while a query is planned, and SQL can ask for any size of them.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::{Error, Result};

/// Planning one query takes milliseconds.
const MAX_TIME: Duration = Duration::from_secs(10);
/// More memory than this while a query is planned is that of its constants.
const MAX_MEMORY: usize = 1 << 30;
/// A constant of a plan takes at most so many bytes.
const MAX_CONSTANT: usize = 16 << 20;
/// How often is looked at what a plan has taken so far.
const INTERVAL: Duration = Duration::from_millis(20);

const HINT: &str = "make it smaller, or compute it from the rows of a table";

/// Runs planning on a thread of its own, and leaves it to itself where it takes too long or too much memory: nothing stops it, but
/// the process need not wait for it.
pub(super) fn within_limits<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    run(work, MAX_TIME, MAX_MEMORY)
}

fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    max_time: Duration,
    max_memory: usize,
) -> Result<T> {
    let (begin, memory) = (Instant::now(), resident());
    let (sender, results) = channel();
    let thread = std::thread::Builder::new().name("planning".to_owned()).spawn(move || {
        let _ = sender.send(work());
    });
    let thread = thread.map_err(|e| Error::infra("there is no thread to plan on").because(e))?;
    loop {
        match results.recv_timeout(INTERVAL) {
            Ok(planned) => return Ok(planned),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(match thread.join() {
                    Err(payload) => Error::panicked("planning", payload.as_ref()),
                    Ok(()) => Error::bug("planning ended without a plan"),
                });
            }
            Err(RecvTimeoutError::Timeout) if begin.elapsed() > max_time => {
                let message = format!("the constants take more than {} s to work out", max_time.as_secs());
                return Err(Error::user(message).hint(HINT));
            }
            Err(RecvTimeoutError::Timeout) if resident().saturating_sub(memory) > max_memory => {
                let message = format!("the constants take more than {} MiB of memory", max_memory >> 20);
                return Err(Error::user(message).hint(HINT));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The memory that the process holds.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) << 12
}

/// Refuses a plan with a constant that is too large.
pub(super) fn small_constants(plan: &LogicalPlan) -> Result<()> {
    let mut largest = 0;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Literal(value, _) = part {
                    largest = largest.max(value.size());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked?;
    match largest > MAX_CONSTANT {
        true => Err(Error::user(format!("a constant takes {} MiB", largest >> 20)).hint(HINT)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_left_to_itself() {
        let long = || std::thread::sleep(Duration::from_secs(3600));
        let begin = Instant::now();
        let error = run(long, Duration::from_millis(50), usize::MAX).unwrap_err();
        assert_eq!(error.to_string(), "the constants take more than 0 s to work out");
        assert!(begin.elapsed() < Duration::from_secs(600));
        assert_eq!(run(|| 7, MAX_TIME, MAX_MEMORY).unwrap(), 7);
    }

    #[test]
    fn what_takes_too_much_memory_too() {
        let greedy = || {
            let bytes = vec![1u8; 256 << 20];
            std::thread::sleep(Duration::from_secs(3600));
            bytes.len()
        };
        let error = run(greedy, Duration::from_secs(3600), 64 << 20).unwrap_err();
        assert_eq!(error.to_string(), "the constants take more than 64 MiB of memory");
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = run::<()>(|| panic!("on purpose"), MAX_TIME, MAX_MEMORY).unwrap_err();
        assert_eq!(error.class(), crate::error::Class::Bug);
        assert!(error.to_string().contains("on purpose"));
    }
}
