//! The lake: object stores, point-in-time tables, the commit protocol.
//!
//! A [`Lake`] holds a job's declared tables. [`Lake::session`] gives a DataFusion session in which they stand under their
//! names with exactly the declared columns, and in which rows that had not happened or were not known by the session's
//! [`Visibility`] do not exist, for any SQL. The declared checks run inside these scans: rows that a check rejects are not
//! there either. [`Lake::finish_checks`] says afterwards what the checks found.

mod adapter;
mod check_scan;
mod checks;
mod checksums;
mod conversion;
mod csv;
mod damage;
mod decompress;
mod delta;
mod files;
mod finds;
mod history;
mod http;
mod links;
mod listed;
mod local;
mod matrix_file;
mod naive_times;
mod objects;
mod online;
mod pages;
mod parquet_reader;
mod partitions;
mod point_in_time;
mod presence;
mod provider;
pub mod publish;
mod read;
mod recognize;
mod report;
mod resume;
mod scan_source;
mod session;
mod sizes;
mod spans;
mod store;
mod tables;
mod traffic;
mod unique;
mod uuid;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

pub use checksums::ParquetWriter;
pub use files::InputObject;
pub use finds::forget as forget_finds;
pub use history::TableHistory;
pub use matrix_file::MatrixFile;
pub use objects::{ObjectDays, TableObjects, unsteady};
pub use online::OnlineReport;
pub use point_in_time::Visibility;
pub use read::{PublishedColumns, read_published, read_published_columns, read_texts};
pub use recognize::PassedOver;
pub use report::{CheckCount, CheckReport, KEPT_REJECTS, StaleTable, rejects_schema};
pub use session::{DEFAULT_MEMORY, EngineOptions, context, empty_session, empty_tables, parse_bytes};
pub use sizes::TableSize;
pub use spans::InSpans;
pub use store::{PutOutcome, Store, StoredObject};
pub use tables::{schema, type_name};
pub use traffic::Traffic;
pub use uuid::uuid_text;

use self::checks::Checks;
use self::files::TableFiles;
use self::finds::{Finds, Split};
use self::listed::ListedStore;
use self::provider::LakeTable;
use self::report::{Found, Repeated, TableState, locked};
use self::unique::Repeats;
use crate::error::Problem;
use crate::spec::{ColumnType, JobSpec, OnFail, TableSpec};
use crate::{Error, Result};

/// The declared tables of a job.
#[derive(Debug)]
pub struct Lake {
    tables: Vec<Table>,
    timezone: Tz,
    options: EngineOptions,
    runtime: Arc<RuntimeEnv>,
    nights: Mutex<HashMap<Visibility, Night>>,
    /// Visibilities at which a table's unique checks found nothing: they find nothing at a narrower one.
    unrepeated: Mutex<Vec<(String, Visibility)>>,
}

#[derive(Debug)]
struct Table {
    spec: Arc<TableSpec>,
    checks: Arc<Checks>,
    files: Arc<TableFiles>,
}

/// What a session's tables have found so far.
type Night = Arc<Vec<LakeTable>>;

impl Lake {
    /// The tables of a job. Nothing is contacted yet; credentials come from the environment.
    pub fn open(spec: &JobSpec, options: &EngineOptions) -> Result<Self> {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::over(spec.tables(), spec.timezone(), options, &env.collect::<Vec<_>>())
    }

    /// Some tables, whose days begin in this time zone, with these environment variables instead of the process's.
    pub fn over(specs: &[TableSpec], timezone: Tz, options: &EngineOptions, env: &[(String, String)]) -> Result<Self> {
        let runtime = session::runtime(options)?;
        let mut stores: HashMap<String, Arc<ListedStore>> = HashMap::new();
        let (mut tables, mut problems) = (Vec::new(), Vec::new());
        for spec in specs {
            problems.extend(time_problems(spec));
            let checks = Checks::new(spec, timezone).unwrap_or_else(|found| {
                problems.extend(found);
                Checks::default()
            });
            let bucket = spec.url[..url::Position::BeforePath].to_owned();
            let store = match stores.get(&bucket) {
                Some(store) => Arc::clone(store),
                None => match Store::open_with(&spec.url, env) {
                    Ok(store) => Arc::new(ListedStore::new(&store)),
                    Err(error) => {
                        problems.extend(error.at(spec.place.clone()).into_problems());
                        continue;
                    }
                },
            };
            let files = TableFiles::new(spec, &store)?;
            runtime.register_object_store(files.store_url.as_ref(), Arc::clone(&store) as _);
            stores.insert(bucket, store);
            let spec = TableSpec { timezone, ..spec.clone() };
            tables.push(Table { spec: Arc::new(spec), checks: Arc::new(checks), files: Arc::new(files) });
        }
        Error::all(problems)?;
        let (nights, unrepeated) = (Mutex::default(), Mutex::default());
        Ok(Lake { tables, timezone, options: *options, runtime, nights, unrepeated })
    }

    /// Lists the files of all tables, which sessions then find known.
    pub async fn list(&self) -> Result<()> {
        let all = self.tables.iter().map(|table| table.files.all(&table.spec));
        futures::future::try_join_all(all).await.map(drop)
    }

    /// The files in the tables' folders that are no part of them, by table.
    pub async fn passed_over(&self) -> Result<Vec<PassedOver>> {
        let all = self.tables.iter().map(|table| table.files.passed_over(&table.spec));
        let found = futures::future::try_join_all(all).await?;
        Ok(found.into_iter().flatten().cloned().collect())
    }

    /// The versions of the Delta tables, by table.
    pub async fn versions(&self) -> Result<Vec<(&str, u64)>> {
        let mut found = Vec::new();
        for table in &self.tables {
            let version = table.files.version(&table.spec).await?;
            found.extend(version.map(|version| (table.spec.name.as_str(), version)));
        }
        Ok(found)
    }

    /// A session in which the tables are as they were at `at`. Every file's schema is compared with the declaration here,
    /// and the `unique` checks run here; the other checks run within the queries.
    pub async fn session(&self, at: Visibility) -> Result<SessionContext> {
        let context = session::context_in(&self.options, self.timezone, Arc::clone(&self.runtime));
        self.register(&context, at).await?;
        Ok(context)
    }

    async fn register(&self, context: &SessionContext, at: Visibility) -> Result<()> {
        let known = locked(&self.nights).get(&at).cloned();
        let night = match known {
            Some(night) => night,
            None => self.night(context, at).await?,
        };
        for table in night.iter() {
            context.register_table(tables::reference(&table.spec.name), Arc::new(table.clone()))?;
        }
        Ok(())
    }

    async fn night(&self, context: &SessionContext, at: Visibility) -> Result<Night> {
        let looked = self.tables.iter().map(|table| self.table_at(table, at));
        let (mut tables, mut problems) = (Vec::new(), Vec::new());
        for found in futures::future::join_all(looked).await {
            match found? {
                Ok(table) => tables.push(table),
                Err(found) => problems.extend(found),
            }
        }
        Error::all(problems)?;
        for table in &mut tables {
            self.set_repeats_aside(context, table).await?;
        }
        let night = Arc::new(tables);
        // Two sessions at one visibility that are opened at once share what the first one finds.
        Ok(Arc::clone(locked(&self.nights).entry(at).or_insert(night)))
    }

    async fn table_at(&self, table: &Table, at: Visibility) -> Result<Result<LakeTable, Vec<Problem>>> {
        let parts = table.files.before(&table.spec, at.until).await?;
        let problems = self.differences(table, &parts).await?;
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(LakeTable {
            read_as: table.files.read_as(&table.spec).await?,
            spec: Arc::clone(&table.spec),
            checks: Arc::clone(&table.checks),
            files: Arc::clone(&table.files),
            parts: Arc::new(parts),
            at,
            timezone: self.timezone,
            repeats: Repeats::default(),
            state: Some(Arc::default()),
            schema: tables::schema(&table.spec),
        }))
    }

    /// How some files of a table differ from its declaration.
    async fn differences(&self, table: &Table, files: &[files::DataFile]) -> Result<Vec<Problem>> {
        let read_as = table.files.read_as(&table.spec).await?;
        table.files.check(&read_as, files, &self.runtime).await
    }

    async fn set_repeats_aside(&self, context: &SessionContext, table: &mut LakeTable) -> Result<()> {
        let name = &table.spec.name;
        let covered = |(known, at): &(String, Visibility)| known == name && at.covers(&table.at);
        if table.checks.unique.is_empty() || locked(&self.unrepeated).iter().any(covered) {
            return Ok(());
        }
        let (mut found, mut problems) = (Repeated::default(), Vec::new());
        for check in &table.checks.unique {
            let rows = context.read_table(Arc::new(LakeTable { state: None, ..table.clone() }))?;
            let Some(repeated) = unique::repeated(&table.spec, check, rows).await? else { continue };
            let rows = repeated.others.len() as u64;
            found.counts.push((check.index, rows));
            match check.on_fail {
                OnFail::Reject => {
                    found.rejects.extend(repeated.others.iter().cloned());
                    table.repeats.leave_out(check, repeated)?;
                }
                OnFail::Fail => {
                    let rule = checks::rule_name(&table.spec.checks[check.index].rule);
                    let example = repeated.others.first().map_or("", |(_, row)| row);
                    problems.push(report::broken_problem(&table.spec, &rule, rows, example).at(check.place.clone()));
                }
                OnFail::Warn => {}
            }
        }
        Error::all(problems)?;
        if found.counts.is_empty() {
            locked(&self.unrepeated).push((name.clone(), table.at));
        }
        if let Some(state) = &table.state {
            state.set_repeated(found);
        }
        Ok(())
    }

    /// Takes files as known that an earlier run compared with the declarations: a session does not look at their footers.
    /// `known` gives those of a table with this name whose declaration has this identity.
    pub fn vouch(&self, known: impl Fn(&str, &str) -> Vec<InputObject>) {
        for table in &self.tables {
            let identity = objects::identity(&table.spec, &table.checks, self.timezone);
            // A file without an etag may have been replaced by one of the same size.
            let known = known(&table.spec.name, &identity).into_iter().filter(|object| object.etag.is_some());
            table.files.vouch(known);
        }
    }

    /// The files that a session up to `until` reads, sorted by table and path; nothing of them is read.
    pub async fn inputs(&self, until: DateTime<Utc>) -> Result<Vec<InputObject>> {
        let listed = self.tables.iter().map(|table| table.files.inputs(&table.spec, until));
        let mut inputs: Vec<InputObject> = futures::future::try_join_all(listed).await?.into_iter().flatten().collect();
        inputs.sort();
        Ok(inputs)
    }

    /// Runs the checks that no query of the sessions at `at` saw through to the end, and says what all of them found. A
    /// broken check with `on_fail: fail` is an error. Call it before anything is published.
    ///
    /// With a store for what was found before, files that it knows are not read again; it is brought up to date.
    pub async fn finish_checks(&self, at: Visibility, kept: Option<&Store>) -> Result<CheckReport> {
        let context = self.session(at).await?;
        let Some(night) = locked(&self.nights).get(&at).cloned() else {
            return Err(Error::bug("the session of these checks is lost"));
        };
        let mut notes = Vec::new();
        for table in night.iter() {
            let Some(state) = table.state.as_ref().filter(|s| table.checks.in_scan() && !s.is_collected()) else {
                continue;
            };
            let split = match kept {
                Some(store) => Finds::split(store, table, &self.runtime).await?.map(|split| (store, split)),
                None => None,
            };
            state.commit(match split {
                Some((store, split)) => self.with_known(&context, table, store, split, &mut notes).await?,
                None => found(&context, table).await?,
            });
        }
        let states = night.iter().filter_map(|t| Some((t.spec.as_ref(), t.checks.as_ref(), t.state.as_deref()?)));
        let report = report::report(states, at.until, |table, newest| self.instant(table, newest))?;
        Ok(CheckReport { notes, ..report })
    }

    /// What the checks find in a table some of whose files are known.
    async fn with_known(
        &self,
        context: &SessionContext,
        table: &LakeTable,
        store: &Store,
        split: Split,
        notes: &mut Vec<String>,
    ) -> Result<Found> {
        let Split { known, complete, open } = split;
        let objects = TableObjects::of(table);
        let of_open = found(context, &objects.cut(&open)).await?;
        let finds = match (known, complete.is_empty()) {
            (Some(known), true) => known,
            (known, _) => {
                let finds = Finds::and(known, table, &complete, found(context, &objects.cut(&complete)).await?);
                // They save time and nothing else.
                if let Err(error) = finds.write(store, &table.spec).await {
                    notes.push(format!("what the checks of `{}` found is not kept: {error}", table.spec.name));
                }
                finds
            }
        };
        Ok(finds.found.and(of_open))
    }

    /// An event time as it stands in the data, as an instant; a date is the start of its day.
    fn instant(&self, table: &TableSpec, value: i64) -> Option<DateTime<Utc>> {
        let declared = table.event_time.as_ref().and_then(|column| point_in_time::column_type(table, column));
        self.instant_of(declared, value)
    }

    /// The same for a time of this type.
    fn instant_of(&self, declared: Option<ColumnType>, value: i64) -> Option<DateTime<Utc>> {
        match declared {
            Some(ColumnType::Date) => {
                let date = chrono::NaiveDate::default() + chrono::Duration::days(value);
                Some(crate::AsOf::new(date, self.timezone).instant())
            }
            _ => Utc.timestamp_micros(value).single(),
        }
    }
}

/// What the checks find in a table. That some are broken which may not be is said with those of all tables.
async fn found(context: &SessionContext, table: &LakeTable) -> Result<Found> {
    let state = Arc::new(TableState::default());
    let plan = table.collecting(&context.state(), &[], Arc::new(table.sink(&state)))?;
    let mut rows = execute_stream(plan, context.task_ctx())?;
    let seen = loop {
        match rows.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(Error::from(error)),
        }
    };
    match state.take() {
        Some(found) => Ok(found),
        None => Err(seen.err().unwrap_or_else(|| Error::bug("what the checks found is lost"))),
    }
}

fn time_problems(spec: &TableSpec) -> Vec<Problem> {
    let roles = [("event_time", &spec.event_time), ("known_at", &spec.known_at)];
    let wrong = roles.into_iter().filter_map(|(role, column)| {
        let column = column.as_ref()?;
        let message = match point_in_time::column_type(spec, column) {
            Some(ColumnType::Timestamp | ColumnType::Date) => return None,
            Some(other) => format!("`{role}` of table `{}` is `{column}`, a {}", spec.name, other.name()),
            None => format!("`{role}` of table `{}` is `{column}`, which is no column of it", spec.name),
        };
        Some(Problem::new(message).at(spec.place.clone()).hint("it must be a column of type `timestamp` or `date`"))
    });
    wrong.collect()
}
