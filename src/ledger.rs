//! The record of every run, under `_runs/ds=D/RUN_ID.json` of the published folder.
//!
//! A record is written when a run starts, before it commits, and when it ends, however it ends. It says what was read,
//! with which SQL and model, what came out and where it lies. It is the only published file that knows the clock.

mod list;
mod outcome;
mod show;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

pub use list::{Ledger, Listing, Unreadable};
pub use outcome::{OutcomeRecord, outcome_lines};

use crate::error::{Class, ExitStatus};
use crate::lake::publish::{Commit, CommittedTable, RunKey, night_folder};
use crate::lake::{Store, TableSize, Traffic};
use crate::{Error, Result};

/// The format of a record; raised when a reader of the old one would misunderstand the new one.
pub const VERSION: u32 = 1;

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Under way, or killed.
    Running,
    /// Its tables are in place.
    Done,
    /// It ended with an error and published nothing.
    Failed,
}

/// What the caller has to do: the exit code by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing (0).
    Done,
    /// Mend the job, the SQL or the data (1).
    UserError,
    /// Try again (2).
    InfraError,
    /// Look at the alerts; the tables are in place (3).
    Alert,
}

impl From<ExitStatus> for Verdict {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Done => Verdict::Done,
            ExitStatus::User => Verdict::UserError,
            ExitStatus::Infra => Verdict::InfraError,
            ExitStatus::Alert => Verdict::Alert,
        }
    }
}

impl From<Verdict> for ExitStatus {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => ExitStatus::Done,
            Verdict::UserError => ExitStatus::User,
            Verdict::InfraError => ExitStatus::Infra,
            Verdict::Alert => ExitStatus::Alert,
        }
    }
}

/// All that is known about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The format, [`VERSION`].
    pub version: u32,
    /// The run's name: the night and the start of its key.
    pub run_id: String,
    /// The hash of everything that decides the result.
    pub key: RunKey,
    /// The job's name.
    pub job: String,
    /// The hash of the job file's meaning.
    #[serde(default)]
    pub job_hash: String,
    /// The night.
    pub as_of: NaiveDate,
    /// How far it got.
    pub status: RunStatus,
    /// What the caller has to do, once it ended.
    pub verdict: Option<Verdict>,
    /// The process's exit code, once it ended.
    pub exit_code: Option<u8>,
    /// The version of this program.
    pub engine: String,
    /// When it started.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: Option<DateTime<Utc>>,
    /// What it spent its time on, in order.
    #[serde(default)]
    pub timings: Vec<Timing>,
    /// What it read, by table.
    #[serde(default)]
    pub inputs: Vec<InputRecord>,
    /// What it asked remote stores for, up to its commit.
    #[serde(default)]
    pub traffic: Traffic,
    /// Every SQL file with its hash.
    #[serde(default)]
    pub sql: BTreeMap<String, String>,
    /// The model that scored.
    #[serde(default)]
    pub model: Option<ModelRecord>,
    /// What it counted.
    #[serde(default)]
    pub counts: Counts,
    /// The predicted total of each value head.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub totals: BTreeMap<String, f64>,
    /// The number of its commit, once its tables are in place.
    #[serde(default)]
    pub commit: Option<u32>,
    /// Its tables as they were put in place.
    #[serde(default)]
    pub tables: Vec<PlacedTable>,
    /// What the checks found.
    #[serde(default)]
    pub checks: Vec<CheckRecord>,
    /// Past predictions beside what happened.
    #[serde(default)]
    pub outcomes: Vec<OutcomeRecord>,
    /// What is no reason for an alert but good to know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Thresholds that were crossed; with any of these a finished run ends with exit code 3.
    #[serde(default)]
    pub alerts: Vec<String>,
    /// When its tables were taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<DateTime<Utc>>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ErrorRecord>,
}

/// One part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Its name.
    pub stage: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// A table that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Its name.
    pub table: String,
    /// Its objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// Their rows, where all of them were opened and say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The hash of its bytes, where it is a published table of an earlier night.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its version, where it is a Delta table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// The model that scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Its version, as the predictions name it.
    pub version: String,
    /// The hash of its manifest.
    pub hash: String,
}

/// What a run counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Customers in the population.
    pub customers: u64,
    /// Those with a score.
    pub scored: u64,
    /// Those without, by reason.
    pub unscored: BTreeMap<String, u64>,
    /// Rejected input rows, by table and reason.
    pub rejects: BTreeMap<String, BTreeMap<String, u64>>,
    /// Customers by stage.
    pub stages: BTreeMap<String, u64>,
}

/// A table in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedTable {
    /// Its name.
    pub name: String,
    /// Where it lies, below the published folder.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The hash of its bytes.
    pub sha256: String,
    /// The store's etag right after it was put in place.
    pub etag: Option<String>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// The table.
    pub table: String,
    /// The rule, in words.
    pub check: String,
    /// What a break means: `reject`, `fail`, `warn`.
    pub on_fail: String,
    /// Rows that broke it.
    pub broken: u64,
    /// More, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// Who can mend it: `user`, `infra` or, where this program is at fault, `bug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Every problem, with its place.
    pub problems: Vec<String>,
    /// What lay below the first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to try.
    #[serde(default)]
    pub hint: Option<String>,
}

impl From<&Error> for ErrorRecord {
    fn from(error: &Error) -> Self {
        let first = error.problems().next();
        ErrorRecord {
            class: Some(error.class()),
            problems: error.problems().map(ToString::to_string).collect(),
            causes: first.map(|p| p.causes()).unwrap_or_default(),
            hint: first.and_then(|p| p.hint.clone()),
        }
    }
}

impl RunRecord {
    /// A run that starts now.
    pub fn start(job: impl Into<String>, as_of: NaiveDate, key: &RunKey) -> Self {
        RunRecord {
            version: VERSION,
            run_id: key.run_id(as_of),
            key: key.clone(),
            job: job.into(),
            job_hash: String::new(),
            as_of,
            status: RunStatus::Running,
            verdict: None,
            exit_code: None,
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            started: clock(),
            finished: None,
            timings: Vec::new(),
            inputs: Vec::new(),
            traffic: Traffic::default(),
            sql: BTreeMap::new(),
            model: None,
            counts: Counts::default(),
            totals: BTreeMap::new(),
            commit: None,
            tables: Vec::new(),
            checks: Vec::new(),
            outcomes: Vec::new(),
            notes: Vec::new(),
            alerts: Vec::new(),
            withdrawn: None,
            error: None,
        }
    }

    /// What a commit alone tells, for a run whose record was lost.
    pub fn of_commit(commit: &Commit) -> Self {
        Self::start("", commit.as_of, &commit.key)
    }

    /// Adds what a part of the run took.
    pub fn took(&mut self, stage: impl Into<String>, time: Duration) {
        self.timings.push(Timing { stage: stage.into(), seconds: (time.as_secs_f64() * 1e3).round() / 1e3 });
    }

    /// Adds objects that were read, gathered by table; `objects` gives table and size of each.
    pub fn read<'a>(&mut self, objects: impl IntoIterator<Item = (&'a str, u64)>) {
        for (table, size) in objects {
            match self.inputs.iter_mut().find(|input| input.table == table) {
                Some(input) => {
                    input.objects += 1;
                    input.bytes += size;
                }
                None => self.inputs.push(InputRecord {
                    table: table.to_owned(),
                    objects: 1,
                    bytes: size,
                    rows: None,
                    sha256: None,
                    version: None,
                }),
            }
        }
    }

    /// Says which version of a Delta table was read.
    pub fn read_version(&mut self, table: &str, version: u64) {
        match self.inputs.iter_mut().find(|input| input.table == table) {
            Some(input) => input.version = Some(version),
            None => {
                let table = table.to_owned();
                self.inputs.push(InputRecord {
                    table,
                    objects: 0,
                    bytes: 0,
                    rows: None,
                    sha256: None,
                    version: Some(version),
                });
            }
        }
    }

    /// Says how large the source tables are; those without files too.
    pub fn measured(&mut self, sizes: &[TableSize]) {
        for size in sizes {
            let known = |input: &&mut InputRecord| input.table == size.table && input.sha256.is_none();
            match self.inputs.iter_mut().find(known) {
                Some(input) => input.rows = size.rows,
                None => self.inputs.push(InputRecord {
                    table: size.table.clone(),
                    objects: size.files,
                    bytes: size.bytes,
                    rows: size.rows,
                    sha256: None,
                    version: None,
                }),
            }
        }
    }

    /// Adds a published table of an earlier night that was read.
    pub fn read_published(&mut self, table: &CommittedTable) {
        let (path, bytes, sha256) = (table.path.clone(), table.bytes, Some(table.sha256.clone()));
        self.inputs.push(InputRecord { table: path, objects: 1, bytes, rows: Some(table.rows), sha256, version: None });
    }

    /// It is done: its tables are in place. The verdict is `alert` where a threshold was crossed.
    pub fn done(&mut self, commit: u32, tables: Vec<PlacedTable>) {
        self.commit = Some(commit);
        self.tables = tables;
        self.error = None;
        self.status = RunStatus::Done;
        self.end(if self.alerts.is_empty() { ExitStatus::Done } else { ExitStatus::Alert });
    }

    /// It failed; what went wrong decides the verdict.
    pub fn failed(&mut self, error: &Error) {
        self.error = Some(ErrorRecord::from(error));
        self.status = RunStatus::Failed;
        self.end(error.status());
    }

    fn end(&mut self, status: ExitStatus) {
        self.verdict = Some(status.into());
        self.exit_code = Some(status as u8);
        self.finished = Some(clock());
    }

    /// Whether this run put the commit of this number in place.
    pub fn finished_commit(&self, number: u32) -> bool {
        self.status == RunStatus::Done && self.commit == Some(number)
    }

    /// Where the record lies, below the published folder.
    pub fn path(&self) -> String {
        record_path(self.as_of, &self.run_id)
    }

    /// Writes the record, replacing the one of this run.
    pub async fn save(&self, store: &Store) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::bug("a record cannot be written").because(e))?;
        store.put(&self.path(), text).await
    }

    /// The record of a run, if there is one; one that cannot be understood is the user's fault.
    pub async fn load(store: &Store, as_of: NaiveDate, run_id: &str) -> Result<Option<Self>> {
        let path = record_path(as_of, run_id);
        match store.find(&path).await? {
            Some(bytes) => Self::parse(&bytes)
                .map(Some)
                .map_err(|e| Error::user(format!("`{}` is not the record of a run", store.url_of(&path))).because(e)),
            None => Ok(None),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let record: RunRecord = serde_json::from_slice(bytes).map_err(|e| Error::user(e.to_string()))?;
        match record.version {
            VERSION => Ok(record),
            newer => Err(Error::user(format!("its version is {newer}, and this program knows {VERSION}"))),
        }
    }
}

fn record_path(as_of: NaiveDate, run_id: &str) -> String {
    format!("{}/{run_id}.json", night_folder(as_of))
}

/// The time, in whole milliseconds. Nothing but records may depend on it.
#[allow(clippy::disallowed_methods)] // The one reader of the clock: when a run started and ended.
pub fn clock() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
