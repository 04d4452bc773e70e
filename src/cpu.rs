//! How many threads compute at once, where `--threads` asks for fewer than the machine has.
//!
//! A pass, a model and a writer each have threads of their own, so that a machine's cores are never idle. Whoever asks for fewer
//! threads shares the machine: then they take turns. Without a limit a turn costs nothing.

use std::sync::OnceLock;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of stack of every thread that plans or evaluates SQL: expressions may be some thousands of operators deep.
pub const STACK_BYTES: usize = 64 << 20;

static TURNS: OnceLock<(Semaphore, u32)> = OnceLock::new();

/// The right to compute; it ends where this is dropped. Hold it while computing, never while waiting for another thread.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code)] Option<SemaphorePermit<'static>>); // Held for its drop alone.

/// Lets so many threads compute at once from now on; the first call counts.
pub fn limit(threads: u32) {
    TURNS.get_or_init(|| (Semaphore::new(threads as usize), threads));
}

/// Waits for the turn of one thread.
pub fn turn() -> Turn {
    wait(|_| 1)
}

/// Waits for the turns of all threads: for work that is spread over all of them.
pub fn all_turns() -> Turn {
    wait(|threads| threads)
}

fn wait(of: impl Fn(u32) -> u32) -> Turn {
    // It is fair: who asks for many turns gets them in the order of asking. It is never closed.
    Turn(TURNS.get().and_then(|(turns, all)| futures::executor::block_on(turns.acquire_many(of(*all))).ok()))
}
