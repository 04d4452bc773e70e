//! Places at which a test can break the process, to prove that a run survives it.
//!
//! `TENURE_ABORT_AT=publish.staged` makes the process abort (no destructors, no clean-up, as a kill would) when it gets there,
//! `TENURE_PANIC_AT=publish.staged` makes the thread panic; `publish.promoted:2` on the second visit. Unset, a visit costs one
//! look at a static.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
static VISITS: AtomicUsize = AtomicUsize::new(0);

/// What the environment asks for.
#[derive(Debug)]
struct Wanted {
    how: How,
    name: String,
    visit: usize,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Abort,
    Panic,
}

/// Aborts the process or panics here if the environment asks for it.
pub fn reach(name: &str) {
    let Some(wanted) = WANTED.get_or_init(wanted) else { return };
    if wanted.name == name && VISITS.fetch_add(1, Ordering::Relaxed) + 1 == wanted.visit {
        match wanted.how {
            How::Abort => std::process::abort(),
            How::Panic => std::panic::panic_any(format!("the failpoint `{name}` was asked to panic")),
        }
    }
}

fn wanted() -> Option<Wanted> {
    [("TENURE_ABORT_AT", How::Abort), ("TENURE_PANIC_AT", How::Panic)].into_iter().find_map(|(variable, how)| {
        let text = std::env::var(variable).ok()?;
        let (name, visit) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Wanted { how, name: name.to_owned(), visit: visit.parse().ok()? })
    })
}
