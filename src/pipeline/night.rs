//! One night: features → scores → stages → commit → record.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::NaiveDate;
use futures::{FutureExt, StreamExt};
use serde::Serialize;

use super::outcomes::{Outcomes, PastPredictions};
use super::plan::{Plan, no_customers};
use super::shrink::ShrinkGuard;
use super::state;
use super::tables::{NightTables, ScoredFiles};
use crate::error::ExitStatus;
use crate::features::{FeatureStream, States};
use crate::lake::publish::{self, Commit, KeyParts, Owner, Publisher, RunKey, StagedFile, are_keys_alike};
use crate::lake::{CheckCount, EngineOptions, Lake, Store, Traffic, Visibility, type_name};
use crate::ledger::{CheckRecord, ModelRecord, PlacedTable, RunRecord};
use crate::model::device::DeviceChoice;
use crate::model::{Bundle, MINIMUM_DATA, Scorer};
use crate::printer::Printer;
use crate::report::{NightReport, PublishedTable, RejectRow};
use crate::segments::{SEGMENTS, StageSummary};
use crate::spec::{EntityTask, JobSpec, PublishSpec};
use crate::{AsOf, Error, Result, cpu, failpoint, lake, scratch};

/// How this machine runs a night.
#[derive(Debug, Clone)]
pub struct NightOptions {
    /// Memory and threads of the queries.
    pub engine: EngineOptions,
    /// Where the model runs.
    pub device: DeviceChoice,
    /// Compute the night even if it is already published.
    pub force: bool,
    /// Read the tables alone, and neither use nor write the job's states.
    pub from_source: bool,
    /// Publish a night even if it is much smaller than the one before.
    pub accept_shrink: bool,
}

/// How a night ended.
#[derive(Debug, Serialize)]
pub struct NightOutcome {
    /// The run whose tables are in force.
    pub run_id: String,
    /// Whether they were there before.
    pub already_done: bool,
    /// The process's exit code.
    pub exit_code: u8,
    /// Thresholds that were crossed.
    pub alerts: Vec<String>,
    /// What was published; `None` where nothing had to be computed.
    pub report: Option<NightReport>,
}

impl NightOutcome {
    /// The exit status that it stands for.
    pub fn status(&self) -> ExitStatus {
        if self.already_done || self.alerts.is_empty() { ExitStatus::Done } else { ExitStatus::Alert }
    }
}

/// Publishes the night of `as_of`. A night whose inputs, SQL, model and job are those of the commit in force is done at
/// once; a run that fails leaves its error in the ledger and the published tables as they were.
pub async fn run(spec: &JobSpec, as_of: AsOf, options: &NightOptions, printer: &Printer) -> Result<NightOutcome> {
    let task = spec.entity_task()?;
    let publish = task.publish.as_ref().ok_or_else(|| {
        Error::user("the job publishes nothing")
            .at(crate::error::Place::file(spec.file().display().to_string()))
            .hint("add `publish: {path: out/}`")
    })?;
    let start = Instant::now();
    let plan = Plan::new(spec).await?;
    let bundle = task.model.as_ref().map(|model| Bundle::open(&model.bundle)).transpose()?;
    failpoint::reach("night.planned");

    let store = Store::open(&publish.url)?;
    let owner = plan.owner(spec);
    let is_owned = owner.check(&store).await?;
    for pending in publish::finish_pending(&store).await? {
        printer.warn(pending.to_string());
    }
    let lake = Lake::open(spec, &options.engine)?;
    let inputs = lake.inputs(as_of.instant()).await?;
    let previous = match task.segments {
        Some(_) => night_before(&store, as_of.date()).await?,
        None => None,
    };
    let past = PastPredictions::find(&store, task, &plan, as_of).await?;
    let mut sql = plan.sql_hashes();
    sql.extend(past.sql_hashes(&plan));
    let key = RunKey::of(&KeyParts {
        job: spec.hash().to_owned(),
        as_of: as_of.date(),
        sql: sql.clone(),
        model: bundle.as_ref().map(|bundle| bundle.hash().to_owned()),
        inputs: inputs.iter().cloned().chain(past.inputs()).collect(),
        previous: previous.as_ref().map(|commit| commit.key.as_str().to_owned()),
    });
    let publisher = Publisher::new(store.clone(), as_of.date(), key).owned_by(owner.clone());
    if !options.force
        && let Some(committed) = publisher.settle().await?
    {
        printer.say(format!("the night of {as_of} is already published by run `{}`", committed.commit.run_id));
        return Ok(NightOutcome {
            run_id: committed.commit.run_id,
            already_done: true,
            exit_code: ExitStatus::Done as u8,
            alerts: Vec::new(),
            report: None,
        });
    }

    let mut record = RunRecord::start(spec.name(), as_of.date(), publisher.key());
    record.job_hash = spec.hash().to_owned();
    record.sql = sql;
    record.read(inputs.iter().map(|input| (input.table.as_str(), input.size)));
    lake.versions().await?.into_iter().for_each(|(table, version)| record.read_version(table, version));
    for passed_over in lake.passed_over().await? {
        printer.warn(passed_over.to_string());
        record.notes.push(passed_over.to_string());
    }
    past.tables().for_each(|table| record.read_published(table));
    if let Some(bundle) = &bundle {
        let version = bundle.manifest().model_version.clone();
        record.model = Some(ModelRecord { version, hash: bundle.hash().to_owned() });
    }
    record.took("plan", start.elapsed());
    record.save(&store).await?;

    let owner = is_owned.then_some(owner);
    let (plan, lake) = (&plan, &lake);
    let mut night = Night { spec, task, publish, as_of, options, printer, plan, lake, publisher, owner, record };
    // A panic is recorded like any other failure.
    let computed = AssertUnwindSafe(night.compute(bundle.as_ref(), previous.as_ref(), past)).catch_unwind().await;
    match computed.unwrap_or_else(|payload| Err(Error::panicked("the night", &*payload))) {
        Ok(report) => Ok(NightOutcome {
            run_id: night.record.run_id.clone(),
            already_done: false,
            exit_code: night.record.exit_code.unwrap_or_default(),
            alerts: night.record.alerts.clone(),
            report: Some(report),
        }),
        Err(error) => {
            night.record.failed(&error);
            if let Err(lost) = night.record.save(&store).await {
                printer.warn(format!("the failure could not be recorded: {lost}"));
            }
            Err(error)
        }
    }
}

/// The newest published night before `date`: what stages look back on.
async fn night_before(store: &Store, date: NaiveDate) -> Result<Option<Commit>> {
    for night in publish::nights(store).await?.into_iter().rev().filter(|night| *night < date) {
        if let Some(commit) = publish::committed(store, night).await?
            && commit.table(SEGMENTS).is_some()
        {
            return Ok(Some(commit));
        }
    }
    Ok(None)
}

fn check_record(check: &CheckCount) -> CheckRecord {
    CheckRecord {
        table: check.table.clone(),
        check: check.rule.clone(),
        on_fail: check.on_fail.clone(),
        broken: check.rows,
        note: None,
    }
}

struct Night<'a> {
    spec: &'a JobSpec,
    task: &'a EntityTask,
    publish: &'a PublishSpec,
    as_of: AsOf,
    options: &'a NightOptions,
    printer: &'a Printer,
    plan: &'a Plan,
    lake: &'a Lake,
    publisher: Publisher,
    /// Who owns the folder, where that is recorded: nights under another key are then known to be past.
    owner: Option<Owner>,
    record: RunRecord,
}

impl Night<'_> {
    async fn compute(
        &mut self,
        bundle: Option<&Bundle>,
        previous: Option<&Commit>,
        past: PastPredictions,
    ) -> Result<NightReport> {
        failpoint::reach("night.started");
        let dir = scratch::folder("tenure-")?;
        let tables = NightTables::new(self.plan, &self.publisher, self.spec, bundle.map(|b| b.manifest()));

        let start = Instant::now();
        let states = match self.options.from_source {
            true => None,
            false => state::open(self.spec, &self.options.engine, self.lake, self.printer).await?,
        };
        self.lake.refuse_before_first_event(self.as_of).await?;
        let visible = Visibility::at(self.as_of);
        let store = Store::open(&self.publish.url)?;
        let shrink = (self.publish.max_shrink, self.options.accept_shrink);
        let guard = ShrinkGuard::new(&store, self.as_of.date(), shrink.0, shrink.1).await?;
        self.record.measured(&self.lake.sizes(visible).await?);
        guard.check_tables(self.spec.tables(), &mut self.record)?;
        let scored = self.score(bundle, &tables, dir.path(), states.clone()).await?;
        for note in self.lake.odd_times(self.as_of).await? {
            self.printer.warn(&note);
            self.record.notes.push(note);
        }
        scored.notes.iter().for_each(|note| self.printer.warn(note));
        self.record.notes.extend(scored.notes.iter().cloned());
        self.record.counts.customers = scored.spill.rows();
        if self.record.counts.customers == 0 {
            return Err(no_customers(self.as_of));
        }
        self.record.totals = scored.totals;
        guard.check_results(&mut self.record)?;
        self.record.took("features and scores", start.elapsed());
        failpoint::reach("night.scored");

        let start = Instant::now();
        let mut files = scored.published;
        let summary = self.segment(&tables, &scored.spill, previous, dir.path(), &mut files).await?;
        self.record.took("segments", start.elapsed());
        failpoint::reach("night.segmented");

        let start = Instant::now();
        if !self.task.outcomes.heads.is_empty() {
            let outcomes = self.compare(past).await?;
            files.extend(tables.write_outcomes(&outcomes, dir.path())?);
            self.record.outcomes = outcomes.heads;
            self.record.notes.extend(outcomes.notes);
        }
        self.record.took("outcomes", start.elapsed());
        failpoint::reach("night.compared");

        let start = Instant::now();
        let kept = states.as_ref().map(|states| states.store());
        let checks = self.lake.finish_checks(Visibility::at(self.as_of), kept).await?;
        checks.notes.iter().for_each(|note| self.printer.warn(note));
        files.push(tables.write_rejects(&checks.rejects, dir.path())?);
        self.record.alerts = checks.alerts();
        self.record.alerts.extend(self.record.outcomes.iter().flat_map(|outcome| outcome.alerts.iter().cloned()));
        self.record.checks = checks.counts.iter().map(check_record).collect();
        self.record.counts.rejects = checks.rejected();
        self.record.counts.unscored = scored.unscored;
        self.record.counts.scored = scored.spill.rows() - self.record.counts.unscored.values().sum::<u64>();
        if let Some(summary) = &summary {
            self.record.counts.stages = summary.stages.iter().map(|s| (s.stage.clone(), s.customers)).collect();
        }
        self.record.took("checks", start.elapsed());

        let start = Instant::now();
        let audited = self.publisher.staged(files)?.audit(scored.population)?;
        self.record.took("audit", start.elapsed());
        self.record.traffic = Traffic::so_far();
        let committed = audited.commit(&mut self.record).await?;
        let published = |table: &PlacedTable| PublishedTable {
            table: table.name.clone(),
            path: store.url_of(&table.path),
            rows: table.rows,
        };
        let rejects = self.record.counts.rejects.iter().flat_map(|(table, reasons)| {
            reasons.iter().map(|(reason, rows)| RejectRow { table: table.clone(), reason: reason.clone(), rows: *rows })
        });
        Ok(NightReport {
            job: self.record.job.clone(),
            as_of: self.record.as_of,
            run_id: self.record.run_id.clone(),
            tables: committed.tables.iter().map(published).collect(),
            stages: summary,
            outcomes: self.record.outcomes.clone(),
            rejects: rejects.collect(),
            notes: self.record.notes.clone(),
            warnings: self.record.alerts.clone(),
        })
    }

    /// Features → scores, written as they come: the published tables and the scored rows for the stages.
    async fn score(
        &self,
        bundle: Option<&Bundle>,
        tables: &NightTables<'_>,
        dir: &Path,
        states: Option<Arc<States>>,
    ) -> Result<ScoredFiles> {
        // A device that is not there is told before the lake is read.
        let scored_on = bundle.map(|bundle| Ok::<_, Error>((bundle, self.options.device.resolve()?))).transpose()?;
        let session = self.lake.session(Visibility::at(self.as_of)).await?;
        let read = bundle.is_some_and(|bundle| bundle.manifest().network.sequence.is_some());
        let features = if read { self.plan.features.clone() } else { self.plan.features.without_sequence() };
        let features = features.matrix_with(&session, self.spec, self.as_of, states.clone()).await?;
        let population = features.population().ok_or_else(|| Error::bug("the population was not counted"))?;
        let not_finite = features.not_finite().clone();
        let mut writer = tables.scored_writer(dir, self.publish.features)?;
        let progress = self.printer.progress("scoring", None);
        match scored_on {
            None => {
                let mut features = features;
                while let Some(batch) = features.next().await {
                    let batch = batch?;
                    let _turn = cpu::turn();
                    writer.write(&batch, None)?;
                    progress.add(batch.num_rows() as u64);
                }
            }
            Some((bundle, device)) => {
                let scorer = Scorer::start(bundle, self.spec, &self.plan.columns, &self.plan.sql_hashes(), device)?;
                let mut scored = scorer.score(self.with_minimum_data(features)?);
                while let Some(batch) = scored.next().await {
                    let batch = batch?;
                    let _turn = cpu::turn();
                    writer.write(&batch.features, Some(&batch.scores))?;
                    progress.add(batch.features.num_rows() as u64);
                }
                drop(scored);
                scorer.finish().await?;
            }
        }
        let files = ScoredFiles { notes: not_finite.notes(), ..writer.finish(population)? };
        progress.done(format!("{} customers", files.spill.rows()));
        if let Some(states) = states {
            state::commit(&states, self.printer).await?;
            failpoint::reach("night.states");
        }
        Ok(files)
    }

    /// Adds the flag that tells the scorer who has enough data.
    fn with_minimum_data(&self, features: FeatureStream) -> Result<FeatureStream> {
        let Some(condition) = self.plan.minimum_data.clone() else { return Ok(features) };
        let flag = Field::new(MINIMUM_DATA, DataType::Boolean, false);
        let fields = features.schema().fields().iter().cloned().chain([flag.into()]).collect::<Vec<_>>();
        let (schema, population) = (Arc::new(Schema::new(fields)), features.population());
        let with_flag = Arc::clone(&schema);
        let batches = features.map(move |batch| {
            let batch: RecordBatch = batch?;
            let flags: BooleanArray = condition.matches(&batch)?;
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(flags));
            Ok(RecordBatch::try_new(Arc::clone(&with_flag), columns)?)
        });
        Ok(FeatureStream::new(schema, self.as_of, batches).with_population(population))
    }

    async fn segment(
        &self,
        tables: &NightTables<'_>,
        scored: &StagedFile,
        previous: Option<&Commit>,
        dir: &Path,
        files: &mut Vec<StagedFile>,
    ) -> Result<Option<StageSummary>> {
        let Some(stages) = &self.plan.stages else { return Ok(None) };
        let context = lake::context(&self.options.engine, self.spec.timezone())?;
        let previous = match previous.and_then(|commit| commit.table(SEGMENTS)) {
            Some(table) => {
                let key = self.plan.matrix.field(0);
                let rows = lake::read_published(&context, &self.publish.url, &table.path).await?;
                let there =
                    rows.schema().field_with_unqualified_name(key.name()).map(|field| field.data_type().clone());
                match (there, &self.owner) {
                    (Ok(there), _) if are_keys_alike(&there, key.data_type()) => Some(rows),
                    // The owner of the folder was recorded with tonight's key: the nights before it are another story.
                    (_, Some(_)) => None,
                    (there, None) => {
                        let first = rows.schema().field(0);
                        let (name, there) = match there {
                            Ok(there) => (key.name(), there),
                            Err(_) => (first.name(), first.data_type().clone()),
                        };
                        let store = Store::open(&self.publish.url)?;
                        return Err(self.plan.owner(self.spec).other_key(name, &type_name(&there), &store));
                    }
                }
            }
            None => None,
        };
        let mut segmented = stages.assign(&context, scored.path(), previous, self.as_of).await?;
        let mut writer = tables.segments_writer(stages, dir)?;
        while let Some(batch) = segmented.segments.next().await {
            writer.write(&batch?)?;
        }
        files.push(writer.finish()?);
        files.push(tables.write_transitions(stages, &segmented.transitions, dir)?);
        Ok(Some(segmented.summary))
    }

    /// Past predictions beside what happened.
    async fn compare(&self, past: PastPredictions) -> Result<Outcomes> {
        let progress = past.tables().next().map(|_| self.printer.progress("outcomes", None));
        let engine = &self.options.engine;
        let outcomes = past.judge(self.spec, self.task, self.publish, self.plan, self.lake, engine).await?;
        if let Some(progress) = progress {
            progress.done(format!("{} heads compared with what happened", outcomes.heads.len()));
        }
        Ok(outcomes)
    }
}
