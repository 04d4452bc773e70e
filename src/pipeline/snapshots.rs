//! Training on the lake: features and labels at past dates, by the SQL of the nightly run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatchReader;
use async_trait::async_trait;
use chrono::NaiveDate;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::check::ready_to_train;
use super::plan::Plan;
use crate::features::{BATCH_ROWS, FeatureColumn, FeatureStream};
use crate::lake::{EngineOptions, Lake, TableHistory, Visibility};
use crate::model::device::DeviceChoice;
use crate::printer::Printer;
use crate::spec::{EntitySource, JobSpec};
use crate::training::{LabelInfo, SnapshotSource, TrainJob, TrainingReport, Watch, train_watched};
use crate::{AsOf, Error, Result, scratch};

/// Days without any event at the end of a lake that are taken for quiet ones, not for missing ones.
const QUIET_DAYS: u64 = 3;

/// Trains the job's model on what lay before `as_of` and writes its bundle; `watch` hears of every epoch.
pub async fn train(
    spec: &JobSpec,
    as_of: AsOf,
    engine: &EngineOptions,
    device: DeviceChoice,
    printer: &Printer,
    watch: &dyn Watch,
) -> Result<TrainingReport> {
    let task = spec.entity_task()?;
    ready_to_train(task)?;
    let plan = Plan::new(spec).await?;
    let device = device.resolve()?;
    // No label window may reach beyond the day of the training, and nothing that became known later counts.
    let source = LakeSnapshots::new(spec, &plan, engine, as_of).await?;
    source.warn_of_passed_over(printer).await?;
    source.notes().await?.iter().for_each(|note| printer.warn(note));
    let job = TrainJob { name: spec.name(), task, device };
    train_watched(&source, job, as_of, printer, watch).await
}

/// The lake at many dates.
pub(super) struct LakeSnapshots<'a> {
    spec: &'a JobSpec,
    plan: &'a Plan,
    lake: Lake,
    labels: Vec<LabelInfo>,
    /// The events of the tables that features and labels read.
    histories: Vec<TableHistory>,
    /// The tables behind each label.
    label_tables: BTreeMap<String, BTreeSet<String>>,
    /// The first day on which both features and labels have events.
    begin: AsOf,
    /// What became known at or after this day does not count, not even as a label.
    known: AsOf,
    /// Matrices of dates that shared a pass, and the folder that they are in.
    ready: Mutex<HashMap<AsOf, PathBuf>>,
    folder: TempDir,
}

impl<'a> LakeSnapshots<'a> {
    /// Refuses a lake whose events end well before `known`: outcomes would be cut off and look like customers who left.
    pub async fn new(spec: &'a JobSpec, plan: &'a Plan, engine: &EngineOptions, known: AsOf) -> Result<Self> {
        super::check::past_is_known(spec)?;
        let lake = Lake::open(spec, engine)?;
        let (of_features, label_tables) = (plan.features.tables(), plan.labels.tables(&plan.features));
        let of_labels: BTreeSet<String> = label_tables.values().flatten().cloned().collect();
        let histories = lake.history(Visibility::at(known), &of_features.union(&of_labels).cloned().collect()).await?;
        let nothing = || {
            Error::user(format!("the tables that features and labels read hold no event before {known}"))
                .hint("`tenure check --online` looks at the tables")
        };
        // The later of the two: before it, features or labels are empty whatever a customer does.
        let first_of = |tables: &BTreeSet<String>| {
            let read = histories.iter().filter(|history| tables.contains(&history.table));
            read.filter_map(TableHistory::first).min()
        };
        let first = first_of(&of_features).max(first_of(&of_labels)).ok_or_else(nothing)?;
        let begin = AsOf::new(first.with_timezone(&spec.timezone()).date_naive(), spec.timezone());
        let last = histories.iter().filter_map(TableHistory::last).max().ok_or_else(nothing)?;
        let newest = last.with_timezone(&spec.timezone()).date_naive();
        if newest < known.minus_days(QUIET_DAYS).date() {
            let latest = AsOf::new(newest, spec.timezone()).plus_days(1);
            let horizon = u64::from(plan.labels.horizon_days());
            return Err(Error::user(format!("outcomes are needed up to {known}, and the newest event is of {newest}"))
                .hint(format!(
                    "`train` knows its outcomes up to `--as-of {latest}`, `evaluate` up to `--as-of {}`",
                    latest.minus_days(horizon)
                )));
        }
        let labels = plan.labels.columns().into_iter().zip(&plan.label_types).map(|(column, data_type)| LabelInfo {
            name: column.name,
            data_type: data_type.clone(),
            horizon_days: column.horizon_days,
            default: column.default,
            default_class: column.default_class,
            place: Some(column.place),
        });
        let folder = scratch::folder("tenure-snapshots-")?;
        let (labels, ready) = (labels.collect(), Mutex::default());
        Ok(LakeSnapshots { spec, plan, lake, labels, histories, label_tables, begin, known, ready, folder })
    }

    /// What should be told of the events: those that are far from the rest, and dates that cannot be.
    pub async fn notes(&self) -> Result<Vec<String>> {
        let mut notes: Vec<String> = self.histories.iter().filter_map(TableHistory::note).collect();
        notes.extend(self.lake.odd_times(self.known).await?);
        Ok(notes)
    }

    fn histories_of<'b>(&'b self, tables: Option<&'b BTreeSet<String>>) -> impl Iterator<Item = &'b TableHistory> {
        self.histories.iter().filter(move |history| tables.is_some_and(|tables| tables.contains(&history.table)))
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<AsOf, PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the files in the tables' folders that are no part of them.
    pub async fn warn_of_passed_over(&self, printer: &Printer) -> Result<()> {
        super::warn_of_passed_over(&self.lake, printer).await
    }

    /// The day on which each customer known at `as_of` came, by the key as text.
    pub async fn first_days(&self, as_of: AsOf) -> Result<HashMap<String, NaiveDate>> {
        let entity = &self.spec.entity_task()?.entity;
        let since = match &entity.source {
            EntitySource::Table { table, since: Some(since) } => Some((table.as_str(), since.as_str())),
            _ => None,
        };
        let instants = self.lake.first_days(Visibility::at(as_of), &entity.key, since).await?;
        let timezone = self.spec.timezone();
        Ok(instants.into_iter().map(|(key, at)| (key, at.with_timezone(&timezone).date_naive())).collect())
    }
}

/// A matrix that was written to a local file.
fn read_matrix(path: &Path, as_of: AsOf) -> Result<FeatureStream> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS).build()?;
    let schema = reader.schema();
    let batches = futures::stream::iter(reader.map(|batch| batch.map_err(Error::from)));
    Ok(FeatureStream::new(schema, as_of, batches))
}

#[async_trait(?Send)]
impl SnapshotSource for LakeSnapshots<'_> {
    fn features(&self) -> &[FeatureColumn] {
        &self.plan.columns
    }

    fn feature_hashes(&self) -> BTreeMap<String, String> {
        self.plan.sql_hashes()
    }

    fn labels(&self) -> &[LabelInfo] {
        &self.labels
    }

    fn label_hashes(&self) -> BTreeMap<String, String> {
        self.plan.labels.hashes()
    }

    async fn first_event(&self) -> Result<AsOf> {
        Ok(self.begin)
    }

    fn window_is_empty(&self, label: &str, as_of: AsOf) -> bool {
        let days = self.labels.iter().find(|known| known.name == label).map_or(0, |label| label.horizon_days);
        let until = as_of.plus_days(u64::from(days));
        let mut behind = self.histories_of(self.label_tables.get(label)).peekable();
        behind.peek().is_some() && !behind.any(|history| history.has_events(as_of, until))
    }

    /// Reads the tables once for all dates, where a later date sees all that an earlier one sees. The newest events of a customer
    /// are not part of such a pass.
    async fn prepare(&self, dates: &[AsOf]) -> Result<()> {
        let features = &self.plan.features;
        let new: Vec<AsOf> = dates.iter().filter(|date| !self.ready().contains_key(date)).copied().collect();
        if new.len() < 2 || features.has_sequence() || !features.shares_passes(self.spec.tables()) {
            return Ok(());
        }
        let files = new.iter().map(|date| (*date, Some(super::build::place_of(self.folder.path(), *date))));
        let files: Vec<(AsOf, Option<PathBuf>)> = files.collect();
        super::build::pass(features, self.spec, &self.lake, &files, None).await?;
        self.ready().extend(files.into_iter().filter_map(|(date, path)| Some((date, path?))));
        Ok(())
    }

    async fn matrix(&self, as_of: AsOf) -> Result<FeatureStream> {
        if let Some(path) = self.ready().get(&as_of) {
            return read_matrix(path, as_of);
        }
        let session = self.lake.session(Visibility::at(as_of)).await?;
        self.plan.features.matrix(&session, self.spec, as_of).await
    }

    /// Each file sees the rows of its own days, as far as they were known at their end: a label is the same whatever other files
    /// the job has, and the same as an outcome of that night.
    async fn outcomes(&self, as_of: AsOf) -> Result<Vec<FeatureStream>> {
        let mut streams = Vec::new();
        for labels in self.plan.labels.by_file() {
            let until = as_of.plus_days(u64::from(labels.horizon_days())).instant();
            let session = self.lake.session(Visibility { until, known: until.min(self.known.instant()) }).await?;
            streams.push(labels.labels(&self.plan.features, &session, self.spec, as_of).await?);
        }
        Ok(streams)
    }
}
