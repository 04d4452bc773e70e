//! The commit protocol: a night's tables appear together, and a run that was killed anywhere can simply run again.
//!
//! A run writes its tables to local files ([`TableWriter`]), audits them ([`StagedFiles::audit`]), uploads them to
//! `_staging/`, and takes the next number of the night with a conditional put of `_runs/ds=D/commit-NNNNN.json`
//! ([`AuditedFiles::commit`]). The highest number is in force. Its tables are then copied to
//! `TABLE/ds=D/part-00000.parquet`, one step each for whoever reads, and the run's record is written as done. Why it is
//! safe stands in `docs/adr/001-commit-protocol.md`.
//!
//! ```text
//! TableWriter ──finish──▶ StagedFiles ──audit──▶ AuditedFiles ──commit──▶ Committed
//! ```

mod audit;
mod commit;
mod owner;
mod pending;
mod place;
mod population;
mod table;
mod withdraw;

use std::path::{Path, PathBuf};

use chrono::NaiveDate;

pub use commit::{Commit, CommittedTable, KeyParts, RunKey, Withdrawal, place_of};
pub(crate) use commit::{night_folder, number_of};
pub use owner::{Owner, are_keys_alike};
pub use pending::{Finished, PendingNight, finish_pending};
pub use population::PopulationCount;
pub use table::{DESCRIPTION, StagedFile, TableMeta, TableWriter, described};
pub use withdraw::{WITHDRAW_POINTS, WithdrawOutcome, withdraw};

use super::{PutOutcome, Store};
use crate::error::Class;
use crate::ledger::{PlacedTable, RunRecord};
use crate::{Error, Result, failpoint};

/// Every place of the protocol at which a test can kill the process, in the order of a run.
pub const POINTS: &[&str] = &[
    "publish.writing",
    "publish.written",
    "publish.audited",
    "publish.placing",
    "publish.staging",
    "publish.staged",
    "publish.committing",
    "publish.committed",
    "publish.promoting",
    "publish.promoted",
    "publish.recording",
    "publish.recorded",
    "publish.cleaned",
];

/// How often a run tries for a number before it says that the night is contended.
const CLAIMS: usize = 100;

/// Where a night stands, seen from one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has committed the night, or it was withdrawn.
    Fresh,
    /// This run's key is in force and every table is in place: there is nothing to do.
    Committed(Commit),
    /// This run's key is in force, but it is not known that every table is in place.
    HalfPlaced(Commit),
    /// Another key is in force; a commit of this run will take over.
    Superseding(Commit),
}

/// Publishes the tables of one run.
#[derive(Debug, Clone)]
pub struct Publisher {
    store: Store,
    as_of: NaiveDate,
    key: RunKey,
    owner: Option<Owner>,
}

impl Publisher {
    /// A publisher of the night `as_of` into `store` (the job's `publish.path`).
    pub fn new(store: Store, as_of: NaiveDate, key: RunKey) -> Self {
        Publisher { store, as_of, key, owner: None }
    }

    /// Makes the folder this job's with the first commit, and refuses one of another job.
    pub fn owned_by(self, owner: Owner) -> Self {
        Publisher { owner: Some(owner), ..self }
    }

    /// The run's name.
    pub fn run_id(&self) -> String {
        self.key.run_id(self.as_of)
    }

    /// The run's key.
    pub fn key(&self) -> &RunKey {
        &self.key
    }

    /// Where the night stands. Reads no table.
    pub async fn standing(&self) -> Result<Standing> {
        let Some(commit) = commit::highest(&self.store, self.as_of).await? else { return Ok(Standing::Fresh) };
        if commit.withdraws.is_some() {
            return Ok(Standing::Fresh);
        }
        if commit.key != self.key {
            return Ok(Standing::Superseding(commit));
        }
        Ok(match recorded_in_place(&self.store, &commit).await? {
            Some(_) => Standing::Committed(commit),
            None => Standing::HalfPlaced(commit),
        })
    }

    /// Finishes what a dead run of this night left half in place, whoever's it was. `Some` means that this run's tables
    /// are in place and there is nothing to do; `None` that they have to be computed.
    pub async fn settle(&self) -> Result<Option<Committed>> {
        let Some(commit) = commit::highest(&self.store, self.as_of).await? else { return Ok(None) };
        if commit.withdraws.is_some() {
            withdraw::finish(&self.store, &commit).await?;
            return Ok(None);
        }
        let finished = resume(&self.store, &commit).await;
        if commit.key == self.key { finished } else { finished.map(|_| None) }
    }

    /// Starts a table of this run in the local folder `dir`.
    pub fn writer(&self, dir: &Path, table: &TableMeta) -> Result<TableWriter> {
        let run = [("as_of".to_owned(), self.as_of.to_string()), ("run_id".to_owned(), self.run_id())];
        TableWriter::create(dir, table, &run)
    }

    /// Gathers the finished tables of this run.
    pub fn staged(&self, files: impl IntoIterator<Item = StagedFile>) -> Result<StagedFiles> {
        let mut files: Vec<StagedFile> = files.into_iter().collect();
        files.sort_by(|a, b| a.table().cmp(b.table()));
        if let Some(twice) = files.windows(2).find(|pair| pair[0].table() == pair[1].table()) {
            return Err(Error::user(format!("the table `{}` was written twice", twice[0].table())));
        }
        Ok(StagedFiles { publisher: self.clone(), files })
    }

    /// Takes the night's next number; a set that is in force already, byte for byte, keeps its number.
    async fn claim(&self, tables: &[CommittedTable]) -> Result<Commit> {
        for _ in 0..CLAIMS {
            let highest = commit::highest(&self.store, self.as_of).await?;
            let number = match highest {
                Some(highest) if highest.key == self.key && highest.tables == tables => return Ok(highest),
                Some(highest) => highest.number + 1,
                None => 1,
            };
            let commit = Commit {
                version: 1,
                number,
                run_id: self.run_id(),
                key: self.key.clone(),
                as_of: self.as_of,
                tables: tables.to_vec(),
                withdraws: None,
            };
            failpoint::reach("publish.committing");
            if commit::put(&self.store, &commit).await? == PutOutcome::Created {
                return Ok(commit);
            }
        }
        Err(Error::infra(format!("too many runs commit the night of {} at once", self.as_of)))
    }
}

/// The local files of a run; nobody has looked into them yet.
#[derive(Debug)]
pub struct StagedFiles {
    publisher: Publisher,
    files: Vec<StagedFile>,
}

impl StagedFiles {
    /// Reads every file back and holds it against its table: schema, rows as written, key present, unique and strictly
    /// ascending, no NaN and no infinity. All problems at once, as the user's fault. A table of one row per customer that has
    /// another number of rows than the population is a bug.
    pub fn audit(self, population: PopulationCount) -> Result<AuditedFiles> {
        let mut problems = Vec::new();
        let mut files = Vec::with_capacity(self.files.len());
        for file in self.files {
            match audit::audit(&file, population) {
                Ok(sha256) => files.push(AuditedFile { file, sha256 }),
                Err(error) if error.class() == Class::User => problems.extend(error.into_problems()),
                Err(error) => return Err(error),
            }
        }
        Error::all(problems)?;
        failpoint::reach("publish.audited");
        Ok(AuditedFiles { publisher: self.publisher, files })
    }
}

/// The local files of a run, each known to keep its table's promises.
#[derive(Debug)]
pub struct AuditedFiles {
    publisher: Publisher,
    files: Vec<AuditedFile>,
}

#[derive(Debug)]
struct AuditedFile {
    file: StagedFile,
    sha256: String,
}

impl AuditedFiles {
    /// Stages the files, commits them and puts them in place; `record` ends up in the ledger as done.
    ///
    /// An error is the infrastructure's, or says that another run took over: running again is always safe.
    pub async fn commit(self, record: &mut RunRecord) -> Result<Committed> {
        let Publisher { store, as_of, .. } = &self.publisher;
        let run_id = self.publisher.run_id();
        let tables: Vec<CommittedTable> = self
            .files
            .iter()
            .map(|AuditedFile { file, sha256 }| CommittedTable {
                name: file.table().to_owned(),
                path: place_of(file.table(), *as_of),
                staged: commit::staged_path(&run_id, file.table(), sha256),
                rows: file.rows,
                bytes: file.bytes,
                sha256: sha256.clone(),
            })
            .collect();
        let files = self.files.iter().map(|f| (f.file.table().to_owned(), PathBuf::from(f.file.path()))).collect();

        if let Some(owner) = &self.publisher.owner {
            owner.claim(store).await?;
        }
        for table in &tables {
            store.refuse_links(&table.path)?;
            store.refuse_links(&table.staged)?;
        }
        // Whoever has to finish this commit finds the run's counts here.
        record.save(store).await?;
        place::stage(store, &tables, &files).await?;
        let commit = self.publisher.claim(&tables).await?;
        failpoint::reach("publish.committed");
        place::fence(store, &commit).await?;
        let placed = place::promote(store, &commit, &files).await?;
        finish(store, &commit, placed, record).await
    }
}

/// A commit whose tables are all in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The commit in force.
    pub commit: Commit,
    /// Its tables as the store holds them.
    pub tables: Vec<PlacedTable>,
}

/// The nights that somebody has run, oldest first.
pub async fn nights(store: &Store) -> Result<Vec<NaiveDate>> {
    let folders = store.folders("_runs/").await?;
    let date = |folder: &String| folder.trim_end_matches('/').rsplit("ds=").next()?.parse::<NaiveDate>().ok();
    let mut nights: Vec<NaiveDate> = folders.iter().filter_map(date).collect();
    nights.sort();
    Ok(nights)
}

/// What is in force for a night, whole and in place; what a dead run left half in place is finished first. `None` for one that
/// nobody published, or that was withdrawn.
///
/// A night that can neither be trusted nor finished is an error: whoever builds on it has to run it again.
pub async fn committed(store: &Store, date: NaiveDate) -> Result<Option<Commit>> {
    let Some(commit) = commit::highest(store, date).await? else { return Ok(None) };
    if commit.withdraws.is_some() {
        withdraw::finish(store, &commit).await?;
        return Ok(None);
    }
    match resume(store, &commit).await? {
        Some(committed) => Ok(Some(committed.commit)),
        None => Err(Error::user(format!("the night of {date} is only half in place"))
            .hint(format!("run it again: `tenure run JOB --as-of {date}`"))),
    }
}

/// The record of what is in force for the newest night before `date` that has one. Nothing is finished, and no table is read.
pub async fn record_before(store: &Store, date: NaiveDate) -> Result<Option<RunRecord>> {
    for night in nights(store).await?.into_iter().rev().filter(|night| *night < date) {
        if let Some(commit) = commit::highest(store, night).await?
            && commit.withdraws.is_none()
            && let Some(record) = record_of(store, &commit).await?
        {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Puts a commit's tables in place without computing them: `None` where the staged objects are no longer whole.
pub async fn resume(store: &Store, commit: &Commit) -> Result<Option<Committed>> {
    if let Some(tables) = recorded_in_place(store, commit).await? {
        place::clean(store, commit).await?; // A run that was killed in its very last step left its staged objects.
        return Ok(Some(Committed { commit: commit.clone(), tables }));
    }
    if !place::can_finish(store, commit).await? {
        return Ok(None);
    }
    place::fence(store, commit).await?;
    let placed = place::promote(store, commit, &place::LocalFiles::new()).await?;
    let mut record = match record_of(store, commit).await? {
        // A copied folder has other etags. When the run ended, and how, stays as it was.
        Some(mut record) if record.finished_commit(commit.number) => {
            record.tables = placed.clone();
            record.save(store).await?;
            place::clean(store, commit).await?;
            return Ok(Some(Committed { commit: commit.clone(), tables: placed }));
        }
        Some(record) => record,
        None => RunRecord::of_commit(commit),
    };
    finish(store, commit, placed, &mut record).await.map(Some)
}

/// The tables in place, where the run's record says that this commit was finished and the objects are still those.
async fn recorded_in_place(store: &Store, commit: &Commit) -> Result<Option<Vec<PlacedTable>>> {
    let Some(record) = record_of(store, commit).await? else { return Ok(None) };
    let same =
        |(placed, table): (&PlacedTable, &CommittedTable)| placed.path == table.path && placed.sha256 == table.sha256;
    let finished = record.finished_commit(commit.number)
        && record.tables.len() == commit.tables.len()
        && record.tables.iter().zip(&commit.tables).all(same);
    if !finished {
        return Ok(None);
    }
    Ok(place::are_in_place(store, &record.tables).await?.then_some(record.tables))
}

/// The record of a commit's run; one that cannot be understood counts as none, and is written again.
async fn record_of(store: &Store, commit: &Commit) -> Result<Option<RunRecord>> {
    record_at(store, commit.as_of, &commit.run_id).await
}

/// The same of a run by its name.
async fn record_at(store: &Store, as_of: NaiveDate, run_id: &str) -> Result<Option<RunRecord>> {
    match RunRecord::load(store, as_of, run_id).await {
        Err(error) if error.class() == Class::User => Ok(None),
        loaded => loaded,
    }
}

async fn finish(store: &Store, commit: &Commit, placed: Vec<PlacedTable>, record: &mut RunRecord) -> Result<Committed> {
    failpoint::reach("publish.recording");
    record.done(commit.number, placed.clone());
    record.save(store).await?;
    failpoint::reach("publish.recorded");
    place::clean(store, commit).await?;
    failpoint::reach("publish.cleaned");
    Ok(Committed { commit: commit.clone(), tables: placed })
}
