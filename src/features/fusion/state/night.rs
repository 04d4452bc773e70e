//! What one night reads of one source: states of past days, and the rows of days that have none.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::{Range, RangeInclusive};

use arrow::datatypes::DataType;
use chrono::NaiveDate;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};

use super::States;
use super::block_file::Layout;
use super::coming::{Broken, Coming};
use super::days::{Block, Calendar, Piece};
use super::manifest::{BlockState, GroupState, SeenObject, TableState, VERSION, overlap};
use crate::error::Class;
use crate::features::fusion::source::{Dated, Source};
use crate::features::part::time_literal;
use crate::lake::{InputObject, TableObjects};
use crate::{AsOf, Error, Result, hash};

/// So many days without states are read on the way; more are caught up with before, slice by slice.
const MOST_MISSING: usize = 3;
/// So many days of files that came or changed since the last night get states at once.
const MOST_NEW: usize = 64;
/// Bytes of Parquet in a slice: some millions of rows.
const SLICE_BYTES: u64 = 96 << 20;

/// What a source reads, and what is written down of it.
#[derive(Debug)]
pub(in crate::features) struct Night {
    /// The rows of days without states; `None` where every day has some.
    pub scan: Option<LogicalPlan>,
    /// The edges of the pieces and of the windows.
    pub edges: Vec<AsOf>,
    /// Stored states, by their buckets between the edges.
    pub blocks: Coming,
    /// What is to be written.
    pub targets: Vec<Target>,
    /// Whether these are only some of the days: states of them come first, and the matrix has to wait.
    pub is_slice: bool,
    pub group: GroupState,
}

/// A block that is to be written: what lies in some buckets.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::features) struct Target {
    pub block: Block,
    pub buckets: Range<usize>,
}

/// A table tonight, beside what its states have seen of it.
#[derive(Debug)]
pub(super) struct TableNight {
    pub state: TableState,
    /// Days whose rows are others now.
    pub changed: Vec<RangeInclusive<i32>>,
    /// Whether no state has seen it before.
    is_new: bool,
}

impl TableNight {
    /// Compares a table with what was seen of it; an error says why its files cannot be told apart by days.
    pub async fn new(
        table: &TableObjects,
        seen: Option<&TableState>,
        runtime: &RuntimeEnv,
    ) -> Result<std::result::Result<Self, String>> {
        let is_new = seen.is_none();
        let seen: BTreeMap<&str, &SeenObject> =
            seen.into_iter().flat_map(|seen| &seen.objects).map(|object| (object.path.as_str(), object)).collect();
        let now = table.all();
        let same = |object: &InputObject| {
            let known = seen.get(object.path.as_str()).copied();
            known.filter(|seen| object.etag.is_some() && seen.size == object.size && seen.etag == object.etag)
        };
        let new: HashSet<String> =
            now.iter().filter(|object| same(object).is_none()).map(|object| object.path.clone()).collect();
        let days = match table.days(&new, runtime).await {
            Ok(days) => days,
            Err(error) if error.class() == Class::User => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        let mut changed: Vec<RangeInclusive<i32>> = Vec::new();
        let mut objects = Vec::new();
        for object in &now {
            objects.push(match same(object) {
                Some(seen) => seen.clone(),
                None => {
                    let days = days.get(&object.path).cloned().flatten();
                    changed.extend(days.clone());
                    let days = days.map(RangeInclusive::into_inner);
                    let InputObject { path, size, etag, .. } = object.clone();
                    SeenObject { path, size, etag, days }
                }
            });
        }
        // What was replaced or removed takes its days with it.
        let here: HashSet<&str> = now.iter().map(|object| object.path.as_str()).collect();
        let gone = seen.values().filter(|seen| !here.contains(seen.path.as_str()) || new.contains(&seen.path));
        changed.extend(gone.filter_map(|seen| seen.range()));
        let (name, identity) = (table.name().to_owned(), table.identity());
        Ok(Ok(TableNight { state: TableState { name, identity, objects }, changed, is_new }))
    }

    /// The same, once states have seen it.
    pub fn settled(&self) -> TableNight {
        TableNight { state: self.state.clone(), changed: Vec::new(), is_new: false }
    }

    /// The bytes of the files that have rows of some days.
    fn bytes_of(&self, days: &Range<i32>) -> u64 {
        let objects = self.state.objects.iter();
        let some = objects.filter(|object| object.range().is_some_and(|range| overlap(days, &range)));
        some.map(|object| object.size).sum()
    }

    /// Whether the rows of some days are those that states of them have seen.
    pub fn is_as_seen(&self, days: &Range<i32>) -> bool {
        !self.changed.iter().any(|changed| overlap(days, changed))
    }
}

/// A source that can have states: the table behind it and the time of its rows.
pub(super) struct Grouped<'a> {
    pub source: &'a Source,
    pub dated: &'a Dated,
    pub table: TableObjects,
    pub identity: String,
}

impl<'a> Grouped<'a> {
    /// Looks at a source; an error says why it has no states.
    pub fn of(source: &'a Source, key_type: &DataType) -> std::result::Result<Self, String> {
        if let Some(why) = source.unsteady() {
            return Err(why.to_owned());
        }
        let words = source.identity()?;
        let dated = source.dated().ok_or("its rows are not sorted by an event time")?;
        let table = source.scan().and_then(TableObjects::behind).ok_or("it is no table of the lake by itself")?;
        // Footers say on which days rows happened, not what a view makes of that.
        if !matches!(&dated.time, Expr::Column(time) if Some(time.name()) == table.event_time()) {
            return Err("its windows are of another time than the `event_time` of its table".to_owned());
        }
        let program = env!("CARGO_PKG_VERSION");
        let identity = hash::of_bytes(format!("{VERSION} {program} {} {key_type} {words}", table.identity()));
        Ok(Grouped { source, dated, table, identity })
    }

    /// What is read at its date.
    pub fn night(
        self,
        states: &States,
        table: &TableNight,
        files: Vec<String>,
        layout: &Layout,
        broken: &[Broken],
    ) -> Result<Night> {
        let until = self.dated.until;
        let as_of = day_of(until);
        let edges: Vec<i32> = self.dated.edges.iter().map(|edge| day_of(*edge)).collect();
        let first = table.state.objects.iter().filter_map(|object| Some(*object.range()?.start())).min();
        let calendar = Calendar {
            origin: first.map_or(as_of, |first| first.min(as_of)),
            as_of,
            reach: edges.iter().map(|edge| as_of - edge).max().unwrap_or(0),
        };
        let blocks = states.group(&self.identity).map_or(Vec::new(), |group| group.blocks).into_iter();
        let valid = blocks.filter(|state| {
            let days = state.block.days();
            let is_broken = broken.iter().any(|broken| broken.block == state.block);
            days.end <= as_of && table.is_as_seen(&days) && !is_broken
        });
        let valid: BTreeMap<Block, BlockState> = valid.map(|state| (state.block, state)).collect();
        let (slice, pieces, writes) = reach_out(&calendar, &edges, &valid, states.writes_at(until.date()), table);
        let stored = pieces.iter().enumerate().filter(|(_, piece)| piece.stored);
        let stored = stored.filter_map(|(place, piece)| Some((place + 1, valid.get(&piece.block)?.clone())));
        let blocks = states.opener.open(stored.filter(|(_, state)| state.file.is_some()), Some(layout));
        let mut targets = if writes { targets(&calendar, &pieces, &valid) } else { Vec::new() };
        if let Some(block) = slice.filter(|_| targets.is_empty()) {
            // On the way to a greater block, whose rows are too many.
            targets.push(Target { block, buckets: 1..pieces.len() + 1 });
        }
        // The windows begin somewhere else than the days of a slice.
        let begins = edges.iter().copied().filter(|_| slice.is_none());
        let starts = pieces.iter().map(|piece| piece.block.days().start).chain(begins);
        let day = |day: i32| AsOf::new(NaiveDate::default() + chrono::Duration::days(i64::from(day)), until.timezone());
        let fresh = spans(&pieces);
        tracing::debug!(
            table = table.state.name,
            blocks = pieces.iter().filter(|piece| piece.stored).count(),
            days = fresh.iter().map(ExactSizeIterator::len).sum::<usize>(),
            writes = targets.len(),
            "states stand in for rows"
        );
        let scan = self.rows_of(&fresh, &table.state, day)?;
        let is_slice = slice.is_some();
        let kept = valid.into_values().filter(|state| is_slice || calendar.wants(state.block)).collect();
        let last = pieces.first().map_or(as_of, |piece| piece.block.days().end);
        let edges = [last].into_iter().chain(starts).map(day).collect();
        let (table, used) = (table.state.name.clone(), until.date());
        let group = GroupState { identity: self.identity, table, files, used, blocks: kept };
        Ok(Night { scan, edges, blocks, targets, is_slice, group })
    }

    /// The rows of some days, from the files that have any.
    fn rows_of(
        &self,
        days: &[Range<i32>],
        table: &TableState,
        day: impl Fn(i32) -> AsOf,
    ) -> Result<Option<LogicalPlan>> {
        let has_some =
            |object: &&SeenObject| object.range().is_some_and(|range| days.iter().any(|days| overlap(days, &range)));
        let paths: HashSet<String> = table.objects.iter().filter(has_some).map(|object| object.path.clone()).collect();
        let Some(scan) = self.source.scan().filter(|_| !paths.is_empty()) else { return Ok(None) };
        let Dated { time, time_type, .. } = self.dated;
        let literal = |at: i32| {
            let literal = time_literal(day(at), time_type).map(lit);
            literal.ok_or_else(|| Error::bug(format!("`{time_type}` is no time")))
        };
        let mut condition: Option<Expr> = None;
        for days in days {
            let within = time.clone().gt_eq(literal(days.start)?).and(time.clone().lt(literal(days.end)?));
            condition = Some(condition.map_or(within.clone(), |condition| condition.or(within)));
        }
        let Some(condition) = condition else { return Ok(None) };
        Ok(Some(self.source.reading_from(self.table.only(&paths, scan), condition)?))
    }
}

/// A day as Arrow counts them.
fn day_of(day: AsOf) -> i32 {
    day.date().signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// The pieces of a night, and whether their states are written; where too many days have none, the pieces of a block of days that
/// come first.
///
/// Files that came or changed since the last night may change again the next one, as a table in a single file does: states of many
/// such days are not worth their while.
fn reach_out(
    calendar: &Calendar,
    edges: &[i32],
    valid: &BTreeMap<Block, BlockState>,
    writes: bool,
    table: &TableNight,
) -> (Option<Block>, Vec<Piece>, bool) {
    let stored = |block: Block| valid.contains_key(&block);
    let pieces = calendar.pieces(edges, &stored);
    let missing = spans(&pieces);
    let days = missing.iter().map(ExactSizeIterator::len).sum::<usize>();
    let steady = table.is_new || missing.iter().all(|days| table.is_as_seen(days));
    let writes = writes && (steady || days <= MOST_NEW);
    let few = |days: &Range<i32>| table.bytes_of(days) <= SLICE_BYTES;
    let Some(slice) = calendar.slice(&pieces, &few).filter(|_| writes && steady && days > MOST_MISSING) else {
        return (None, pieces, writes);
    };
    let days = slice.days();
    let mut own = calendar.pieces(&[days.start, days.end], &stored);
    own.retain(|piece| days.start <= piece.block.days().start && piece.block.days().end <= days.end);
    (Some(slice), own, writes)
}

/// The days whose rows are read, in spans.
fn spans(pieces: &[Piece]) -> Vec<Range<i32>> {
    let mut spans: Vec<Range<i32>> = Vec::new();
    for days in pieces.iter().rev().filter(|piece| !piece.stored).map(|piece| piece.block.days()) {
        match spans.last_mut().filter(|last| last.end == days.start) {
            Some(last) => last.end = days.end,
            None => spans.push(days),
        }
    }
    spans
}

/// The wanted blocks that are not there and can be put together from the pieces. One that is lost within a greater one that is
/// there cannot; it is wanted again once the greater one is taken apart, and then it can.
fn targets(calendar: &Calendar, pieces: &[Piece], stored: &BTreeMap<Block, BlockState>) -> Vec<Target> {
    let missing: BTreeSet<Block> = calendar.wanted().filter(|block| !stored.contains_key(block)).collect();
    let target = |block: Block| {
        let days = block.days();
        let first = pieces.partition_point(|piece| piece.block.days().start >= days.end);
        let end = pieces.partition_point(|piece| piece.block.days().end > days.start);
        let inside = |piece: &Piece| {
            let own = piece.block.days();
            days.start <= own.start && own.end <= days.end
        };
        let own = pieces.get(first..end)?;
        let newest = own.first()?.block.days().end == days.end;
        let oldest = own.last()?.block.days().start <= days.start.max(calendar.origin);
        let whole = newest && oldest && own.iter().all(inside);
        whole.then_some(Target { block, buckets: first + 1..end + 1 })
    };
    missing.into_iter().filter_map(target).collect()
}
