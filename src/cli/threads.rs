//! `--threads`: every pool of threads in the process, before any of them is used.

use super::GlobalArgs;
use crate::{Error, Result, cpu};

/// Says how libgomp's threads wait for each other.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Bounds the pools that a command shares: rayon's, which tokenizers use too, and libtorch's two. Without `--threads` they take all
/// cores.
pub(super) fn limit(global: &GlobalArgs) -> Result<()> {
    let threads = global.threads.map(usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .stack_size(cpu::STACK_BYTES)
        .thread_name(|number| format!("rayon-{number}"))
        .build_global()
        .map_err(|e| Error::infra("the threads cannot be started").because(e))?;
    let Some(threads) = threads else { return Ok(()) };
    #[cfg(feature = "torch")]
    crate::model::device::limit_threads(threads);
    if std::thread::available_parallelism().is_ok_and(|all| threads < all.get()) {
        cpu::limit(u32::try_from(threads).unwrap_or(u32::MAX));
    }
    Ok(())
}

/// What a process with libtorch has to find in its environment, but for what the user has set: idle threads of libgomp spin by
/// default, and take the time of those that work.
pub(super) fn environment() -> Option<(&'static str, &'static str)> {
    std::env::var_os(WAIT_POLICY).is_none().then_some((WAIT_POLICY, "passive"))
}
