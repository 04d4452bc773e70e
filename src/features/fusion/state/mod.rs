//! Daily partial states: what the rows of past days add up to, kept in the lake, so that a night reads one day and not history.
//!
//! ```text
//! _state/JOB/manifests/00000042.json     what is in force: every block of days, and the files that it was made of
//! _state/JOB/3f2a…/20634-20635_9c1d….parquet    the states of one day, a row per customer; greater blocks alike
//! ```
//! Blocks of 1, 4, 16, … days are kept, so that any window is made of a few; those that no window's edge can cut any more go
//! when the greater one is there. A file of a table that came, went or changed makes its days, and the blocks that hold them,
//! be computed again. Blocks never change; a manifest that names other ones is put in force by one conditional put, as the
//! tables of a night are. Whatever is missing or damaged is read from the tables: states change how long an answer takes and
//! never what it is.

mod block_file;
mod columns;
mod coming;
mod days;
mod form;
mod manifest;
mod night;
mod packed;
mod page;
mod stored_block;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::DataType;
use chrono::NaiveDate;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use block_file::Layout;
pub(super) use block_file::{BlockWriter, WrittenBlock};
use coming::Opener;
pub(super) use coming::{Broken, Coming};
pub use days::Block;
pub(super) use form::{Column, lists_of_bits, ones};
pub use manifest::{BlockState, GroupState, Manifest, StateFile};
use manifest::{Newest, Retired, SeenObject, TableState};
use night::{Grouped, TableNight};
pub(super) use night::{Night, Target};
pub(super) use stored_block::{Asking, StoredBlock};

use super::source::Source;
use crate::lake::{InputObject, Lake, PutOutcome, Store, TableObjects};
use crate::spec::JobSpec;
use crate::{Error, Result, failpoint};

/// Files that are read or written at a time.
const IN_FLIGHT: usize = 16;
/// A group that no night used for so long is forgotten.
const UNUSED_DAYS: i64 = 30;
/// A file that is in force no more is kept for so many nights, for runs that began before.
const RETIRED_DAYS: i64 = 2;

/// The states of a job.
pub struct States {
    store: Store,
    opener: Arc<Opener>,
    standing: Mutex<Standing>,
    today: Mutex<Today>,
}

/// What is in force, as far as this run knows.
#[derive(Clone)]
struct Standing {
    number: u64,
    manifest: Option<Arc<Manifest>>,
    /// Whether it is used, or computed again.
    trusted: bool,
    /// Whether another run has put something else in force since.
    lost: bool,
}

/// What a run has found out and written.
#[derive(Default)]
struct Today {
    notes: Vec<String>,
    tables: BTreeMap<String, Arc<OnceCell<LookedAt>>>,
    groups: Vec<(GroupState, Vec<WrittenBlock>)>,
    /// Where written blocks are until they are committed.
    folders: Vec<TempDir>,
    as_of: Option<NaiveDate>,
    report: StateReport,
}

/// A table tonight, or why it has no states.
type LookedAt = std::result::Result<Arc<TableNight>, String>;

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct StateReport {
    /// Blocks that were written.
    pub written: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the reader of a log should know.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "States({:?})", self.store)
    }
}

impl States {
    /// The states of a job; `None` where the job keeps none. States that cannot be read are as good as none.
    pub async fn open(spec: &JobSpec, threads: usize) -> Result<Option<States>> {
        let Some(state) = &spec.entity_task()?.state else { return Ok(None) };
        let store = Store::open(&state.url)?;
        let Newest { number, manifest } = manifest::newest(&store).await?;
        let mut today = Today::default();
        let manifest = manifest.unwrap_or_else(|why| {
            today.notes.push(format!("states are computed again: {why}"));
            None
        });
        let standing = Standing { number, manifest: manifest.map(Arc::new), trusted: true, lost: false };
        let (standing, today) = (Mutex::new(standing), Mutex::new(today));
        let opener = Arc::new(Opener::new(store.clone(), threads));
        Ok(Some(States { store, opener, standing, today }))
    }

    /// Writes nothing.
    pub fn only_read(&self) {
        self.standing().lost = true;
    }

    /// Reads every block of a manifest, and says what is wrong with some of them.
    pub async fn damaged(&self, manifest: &Manifest) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for group in &manifest.groups {
            let blocks = group.blocks.iter().filter(|state| state.file.is_some()).cloned().enumerate();
            let mut coming = self.opener.open(blocks, None);
            while let Some((_, opened)) = coming.next().await? {
                wrong.extend(opened.map_err(|broken| broken.why).and_then(StoredBlock::check).err());
            }
        }
        // They come in any order.
        wrong.sort();
        Ok(wrong)
    }

    /// Computes everything again.
    pub fn distrust(&self) {
        self.standing().trusted = false;
    }

    /// What is in force and used.
    pub fn manifest(&self) -> Option<Arc<Manifest>> {
        let standing = self.standing();
        standing.manifest.clone().filter(|_| standing.trusted)
    }

    /// Where the states are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Tells a lake which of its files were looked at already.
    pub fn vouch(&self, lake: &Lake) {
        lake.vouch(|table, identity| {
            let input = |object: &SeenObject| InputObject {
                table: table.to_owned(),
                path: object.path.clone(),
                size: object.size,
                etag: object.etag.clone(),
            };
            self.table(table, identity).map_or(Vec::new(), |state| state.objects.iter().map(input).collect())
        });
    }

    /// What a source reads tonight, but for some blocks, which are broken; `None` where it reads all of its rows, and a note says why.
    pub(super) async fn night(
        &self,
        source: &Source,
        files: &[String],
        key_type: &DataType,
        broken: &[Broken],
        runtime: &RuntimeEnv,
    ) -> Result<Option<Night>> {
        let grouped = match Grouped::of(source, key_type) {
            Ok(grouped) => grouped,
            Err(why) => {
                tracing::debug!(reads = source.reads(), why, "no states");
                return Ok(None);
            }
        };
        let as_of = grouped.dated.until.date();
        let table = match self.table_tonight(&grouped.table, runtime).await? {
            Ok(table) => table,
            Err(why) => {
                self.note(format!("no states of `{}`: {why}", grouped.table.name()));
                return Ok(None);
            }
        };
        self.today().as_of = Some(as_of);
        let layout = Layout { key_type: key_type.clone(), states: source.state_columns() };
        grouped.night(self, &table, files.to_vec(), &layout, broken).map(Some)
    }

    /// A folder for blocks until they are committed.
    pub(super) fn folder(&self) -> Result<std::path::PathBuf> {
        let folder = crate::scratch::folder("tenure-state-")?;
        let path = folder.path().to_owned();
        self.today().folders.push(folder);
        Ok(path)
    }

    /// Takes the blocks of a group that went through to its end.
    pub(super) fn wrote(&self, group: GroupState, blocks: Vec<WrittenBlock>) {
        self.today().groups.push((group, blocks));
    }

    /// Puts in force what was written since it was opened, or since the last time. States save time and nothing else: whoever
    /// calls this goes on where it fails.
    pub async fn commit(&self) -> Result<StateReport> {
        let today = std::mem::take(&mut *self.today());
        self.today().as_of = today.as_of;
        let mut report = today.report;
        report.notes.extend(today.notes);
        let standing = self.standing().clone();
        let Some(as_of) = today.as_of.filter(|as_of| standing.takes(*as_of)) else { return Ok(report) };
        let tables: BTreeMap<&str, &TableNight> = today
            .tables
            .iter()
            .filter_map(|(name, table)| Some((name.as_str(), table.get()?.as_ref().ok()?.as_ref())))
            .collect();
        let mut uploads: Vec<(&Path, &str)> = Vec::new();
        let mut groups: Vec<GroupState> = Vec::new();
        for (group, written) in &today.groups {
            let mut group = group.clone();
            group.blocks.extend(written.iter().map(|block| block.state.clone()));
            group.blocks.sort_by_key(|state| state.block);
            groups.push(group);
            report.written += written.len();
            let files = written.iter().filter_map(|block| Some((block.local.as_path(), block.state.file.as_ref()?)));
            report.bytes += files.clone().map(|(_, file)| file.bytes).sum::<u64>();
            uploads.extend(files.map(|(local, file)| (local, file.path.as_str())));
        }
        let mut new = standing.followed_by(as_of, &tables, groups);
        let old = standing.manifest.as_deref();
        // A file that was broken may have been written again with the bytes that it had.
        if uploads.is_empty() && old.is_some_and(|old| old.groups == new.groups && old.tables == new.tables) {
            return Ok(report);
        }
        failpoint::reach("state.writing");
        stream::iter(uploads.into_iter().map(|(from, to)| self.store.upload(from, to)))
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        failpoint::reach("state.written");
        let expired = retire(old, &mut new);
        let outcome = manifest::commit(&self.store, standing.number, &new).await?;
        // What this run has seen is what its own states have seen from now on.
        let settled = |found: LookedAt| OnceCell::new_with(Some(found.map(|table| Arc::new(table.settled()))));
        let tables = today.tables.into_iter().filter_map(|(name, table)| Some((name, table.get().cloned()?)));
        self.today().tables = tables.map(|(name, found)| (name, Arc::new(settled(found)))).collect();
        let lost = outcome == PutOutcome::Exists;
        let number = standing.number + 1;
        *self.standing() = Standing { number, manifest: Some(Arc::new(new)), trusted: true, lost };
        if lost {
            report.notes.push("another run has written states: these are dropped".to_owned());
            return Ok(report);
        }
        failpoint::reach("state.committed");
        stream::iter(expired.iter().map(|path| self.store.delete(path)))
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        Ok(report)
    }

    /// Puts the states of some days in force, while others are still to come; what is to be said of it is said at the end.
    /// Where they cannot be written, a note says so and no others are.
    pub(super) async fn commit_slice(&self) {
        match self.commit().await {
            Ok(report) => self.today().report = report,
            Err(error) => self.give_up(&error),
        }
    }

    /// Writes nothing any more, and says why.
    pub(super) fn give_up(&self, error: &Error) {
        self.only_read();
        self.note(format!("states are not kept: {error}"));
    }

    /// Whether states of this date are written.
    fn writes_at(&self, as_of: NaiveDate) -> bool {
        self.standing().takes(as_of)
    }

    fn group(&self, identity: &str) -> Option<GroupState> {
        self.manifest()?.groups.iter().find(|group| group.identity == identity).cloned()
    }

    fn table(&self, name: &str, identity: &str) -> Option<TableState> {
        self.manifest()?.tables.iter().find(|table| table.name == name && table.identity == identity).cloned()
    }

    async fn table_tonight(&self, table: &TableObjects, runtime: &RuntimeEnv) -> Result<LookedAt> {
        let looked_at = Arc::clone(self.today().tables.entry(table.name().to_owned()).or_default());
        let look = || async {
            let seen = self.table(table.name(), &table.identity());
            Ok(TableNight::new(table, seen.as_ref(), runtime).await?.map(Arc::new))
        };
        looked_at.get_or_try_init(look).await.cloned()
    }

    /// Keeps what the reader of a log should know.
    pub(super) fn note(&self, words: String) {
        self.today().notes.push(words);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn today(&self) -> MutexGuard<'_, Today> {
        self.today.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Whether states of this date are written: older ones would drop what newer nights need.
    fn takes(&self, as_of: NaiveDate) -> bool {
        !self.lost && self.manifest.as_ref().is_none_or(|manifest| manifest.as_of <= as_of)
    }

    /// The next manifest: these groups, and what is still true of the others.
    fn followed_by(&self, as_of: NaiveDate, tables: &BTreeMap<&str, &TableNight>, groups: Vec<GroupState>) -> Manifest {
        let old = self.manifest.as_deref();
        let mut new = Manifest::new(as_of);
        let unused = old.iter().filter(|_| self.trusted).flat_map(|old| &old.groups);
        for group in unused.filter(|group| !groups.iter().any(|own| own.identity == group.identity)) {
            new.groups.extend(carried_over(group, tables, old, as_of));
        }
        new.groups.extend(groups);
        new.groups.sort_by(|a, b| (&a.table, &a.identity).cmp(&(&b.table, &b.identity)));
        new.tables = tables.values().map(|table| table.state.clone()).collect();
        let others = old.iter().flat_map(|old| &old.tables).filter(|table| !tables.contains_key(table.name.as_str()));
        new.tables.extend(others.cloned());
        new
    }
}

/// What is still true of a group that tonight did not use.
fn carried_over(
    group: &GroupState,
    tables: &BTreeMap<&str, &TableNight>,
    old: Option<&Manifest>,
    as_of: NaiveDate,
) -> Option<GroupState> {
    if (as_of - group.used).num_days() > UNUSED_DAYS {
        return None;
    }
    let Some(table) = tables.get(group.table.as_str()) else { return Some(group.clone()) };
    let before = old.into_iter().flat_map(|old| &old.tables).find(|before| before.name == group.table);
    let same = before.is_some_and(|before| before.identity == table.state.identity);
    let mut group = group.clone();
    group.blocks.retain(|state| table.is_as_seen(&state.block.days()));
    same.then_some(group)
}

/// Notes which files are in force no more, and returns those that nobody can be reading any more.
fn retire(old: Option<&Manifest>, new: &mut Manifest) -> Vec<String> {
    let Some(old) = old else { return Vec::new() };
    let used: std::collections::HashSet<String> = new.files().map(|file| file.path.clone()).collect();
    let dropped = old.files().filter(|file| !used.contains(&file.path));
    let dropped = dropped.map(|file| Retired { path: file.path.clone(), since: new.as_of });
    let all = old.retired.iter().filter(|retired| !used.contains(&retired.path)).cloned().chain(dropped);
    let (expired, kept): (Vec<Retired>, Vec<Retired>) =
        all.partition(|retired| (new.as_of - retired.since).num_days() >= RETIRED_DAYS);
    new.retired = kept;
    expired.into_iter().map(|retired| retired.path).collect()
}
