//! Places at which a test can kill the process, to prove that a run survives it.
//!
//! `TENURE_ABORT_AT=publish.staged` makes the process abort (no destructors, no clean-up, as a kill would) when it gets
//! there; `publish.promoted:2` on the second visit. Unset, a visit costs one look at a static.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static WANTED: OnceLock<Option<(String, usize)>> = OnceLock::new();
static VISITS: AtomicUsize = AtomicUsize::new(0);

/// Aborts the process here if the environment asks for it.
pub fn reach(name: &str) {
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("TENURE_ABORT_AT").ok()?;
        match text.split_once(':') {
            Some((name, visit)) => Some((name.to_owned(), visit.parse().ok()?)),
            None => Some((text, 1)),
        }
    });
    if let Some((wanted, visit)) = wanted
        && wanted == name
        && VISITS.fetch_add(1, Ordering::Relaxed) + 1 == *visit
    {
        std::process::abort();
    }
}
