//! The one place where a DataFusion session is built: memory, threads, spilling, the settings every query runs under.

use std::num::NonZeroUsize;
use std::sync::Arc;

use chrono_tz::Tz;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::tables;
use crate::local_time::zone_name;
use crate::spec::JobSpec;
use crate::{Error, Result};

/// The memory that queries may hold where nothing else is said and the machine does not tell how much it has.
pub const DEFAULT_MEMORY: usize = 1 << 30;

/// How much of this machine the queries may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes that sorts, joins and aggregates may hold before they spill to disk; `None` is half of the machine's memory. What a scan decodes
    /// at the moment comes on top: some tens of megabytes per thread.
    pub memory_limit: Option<usize>,
    /// Threads that a query runs on.
    pub threads: usize,
}

impl Default for EngineOptions {
    /// Half of the memory and every core.
    fn default() -> Self {
        EngineOptions { memory_limit: None, threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get) }
    }
}

/// Reads a size: `512MiB`, `4GiB`, `1500MB`, `65536`.
pub fn parse_bytes(text: &str) -> Result<usize> {
    const UNITS: [(&str, usize); 8] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("b", 1),
        ("", 1),
    ];
    let digits = text.trim().find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.trim().len());
    let (number, unit) = text.trim().split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| unit.trim().eq_ignore_ascii_case(name)).map(|(_, factor)| *factor);
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if number > 0. => Ok((number * factor as f64) as usize),
        _ => Err(Error::user(format!("`{text}` is not a size")).hint("write a number and a unit: `512MiB`, `4GiB`")),
    }
}

/// Rows of a batch.
pub(super) const BATCH_ROWS: usize = 8192;

/// A session without tables: the settings that every query of a job in this time zone runs under.
pub fn context(options: &EngineOptions, timezone: Tz) -> Result<SessionContext> {
    Ok(context_in(options, timezone, runtime(options)?))
}

/// Half of what the machine, or the control group that the process lives in, has: the other half is for what scans decode,
/// the model and the page cache.
fn default_memory() -> usize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let total = total.map(|kib: usize| kib << 10);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|max| max.trim().parse().ok());
    total.into_iter().chain(group).min().map_or(DEFAULT_MEMORY, |bytes| (bytes / 2).max(DEFAULT_MEMORY))
}

/// The memory pool and the spill folder (below the system's temporary folder, `TMPDIR`).
pub(super) fn runtime(options: &EngineOptions) -> Result<Arc<RuntimeEnv>> {
    let pool = FairSpillPool::new(options.memory_limit.unwrap_or_else(default_memory));
    // The tracking pool names the greatest consumers when memory runs out.
    let pool = TrackConsumersPool::new(pool, NonZeroUsize::new(5).unwrap_or(NonZeroUsize::MIN));
    Ok(RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()?)
}

/// A session that shares its memory and its stores with others of the same job.
pub(super) fn context_in(options: &EngineOptions, timezone: Tz, runtime: Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.threads.max(1))
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false);
    let settings = config.options_mut();
    settings.sql_parser.collect_spans = true;
    // Whoever plans SQL asks here on whose clock its dates and times are.
    settings.execution.time_zone = Some(zone_name(timezone).to_owned());
    // Spark writes INT96: microseconds hold any date that it can.
    settings.execution.parquet.coerce_int96 = Some("us".to_owned());
    settings.execution.parquet.coerce_int96_tz = Some("UTC".to_owned());
    // Row groups and pages are pruned by their statistics. Decoding the filter columns first (`pushdown_filters`) would
    // cost more than it saves: a point-in-time filter keeps nearly every row of the row groups that it does not prune.
    settings.execution.parquet.pruning = true;
    settings.execution.parquet.pushdown_filters = false;
    SessionContext::new_with_config_rt(config, runtime)
}

/// The declared tables with their declared schemas and no rows: what SQL is planned on when there is no lake.
pub fn empty_session(spec: &JobSpec) -> Result<SessionContext> {
    empty_tables(spec.tables(), spec.timezone())
}

/// The same for some tables.
pub fn empty_tables(tables: &[crate::spec::TableSpec], timezone: Tz) -> Result<SessionContext> {
    let context = context(&EngineOptions { memory_limit: None, threads: 1 }, timezone)?;
    for table in tables {
        context.register_table(tables::reference(&table.name), Arc::new(EmptyTable::new(tables::schema(table))))?;
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_a_number_and_a_unit() {
        assert_eq!(parse_bytes("512MiB").unwrap(), 512 << 20);
        assert_eq!(parse_bytes("1.5 GiB").unwrap(), 3 << 29);
        assert_eq!(parse_bytes("2gb").unwrap(), 2_000_000_000);
        assert_eq!(parse_bytes("65536").unwrap(), 65_536);
        for wrong in ["", "lots", "-1MiB", "0", "5 parsecs"] {
            assert_eq!(parse_bytes(wrong).unwrap_err().to_string(), format!("`{wrong}` is not a size"));
        }
    }
}
