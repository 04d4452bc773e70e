//! Where panics happened: the payload that whoever catches one gets does not say so.

use std::collections::VecDeque;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// So many panics are remembered; a program that fails of one has few.
const MAX_REMEMBERED: usize = 16;

/// The message of each panic, and its place in the source.
static SEEN: Mutex<VecDeque<(String, String)>> = Mutex::new(VecDeque::new());

/// Remembers where panics happen instead of printing them: they come out as errors, at the end of the run and in its record.
/// `RUST_LOG=error` shows each as it happens.
pub fn remember() {
    std::panic::set_hook(Box::new(|info| {
        let message = message_of(info);
        let place = info.location().map(ToString::to_string).unwrap_or_else(|| "an unknown place".to_owned());
        tracing::error!(place, message, backtrace = %std::backtrace::Backtrace::capture(), "panic");
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        seen.truncate(MAX_REMEMBERED - 1);
        seen.push_front((message, place));
    }));
}

/// The place of the newest panic with this message, where it is known.
pub fn place_of(message: &str) -> Option<String> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.iter().find(|(known, _)| known == message).map(|(_, place)| place.clone())
}

fn message_of(info: &PanicHookInfo<'_>) -> String {
    info.payload_as_str().unwrap_or("without a message").to_owned()
}
