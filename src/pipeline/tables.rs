//! The tables of a night: which there are, what their columns mean, and the writers that fill them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};

use super::outcomes::{self, Outcomes, TRAINED_AS_OF};
use super::plan::Plan;
use crate::Result;
use crate::lake::publish::{PopulationCount, Publisher, StagedFile, TableMeta, TableWriter, described};
use crate::model::BundleManifest;
use crate::segments::{SEGMENTS, StagePlan, TRANSITIONS};
use crate::spec::{JobSpec, NO_SCORE_REASON};

/// The scored customers.
pub(super) const PREDICTIONS: &str = "predictions";
/// The matrix that was scored.
const FEATURES: &str = "features";
/// Input rows that no feature saw.
const REJECTS: &str = "rejects";
/// Features and scores side by side, for the stages alone; never published.
const SPILL: &str = "scored";

/// Knows every table of one night.
pub(super) struct NightTables<'a> {
    plan: &'a Plan,
    publisher: &'a Publisher,
    job: &'a str,
    model: Option<&'a BundleManifest>,
}

/// What scoring leaves behind.
pub(super) struct ScoredFiles {
    /// `predictions` and, where the job asks for it, `features`.
    pub published: Vec<StagedFile>,
    /// Features and scores side by side.
    pub spill: StagedFile,
    /// Customers without a score, by reason.
    pub unscored: BTreeMap<String, u64>,
    /// The population that they are of.
    pub population: PopulationCount,
    /// What is to be told about the features.
    pub notes: Vec<String>,
    /// The predicted total of each value head.
    pub totals: BTreeMap<String, f64>,
}

impl<'a> NightTables<'a> {
    pub fn new(plan: &'a Plan, publisher: &'a Publisher, spec: &'a JobSpec, model: Option<&'a BundleManifest>) -> Self {
        NightTables { plan, publisher, job: spec.name(), model }
    }

    /// A writer of everything that comes out of scoring.
    pub fn scored_writer(&self, dir: &Path, features: bool) -> Result<ScoredWriter> {
        let key = self.key();
        let predictions = match self.model {
            Some(model) => Some(Predictions {
                writer: self.start(dir, self.predictions())?,
                schema: self.predictions().schema,
                model_version: model.model_version.clone(),
                run_id: self.publisher.run_id(),
            }),
            None => None,
        };
        let matrix = TableMeta {
            schema: in_utc(&self.plan.matrix),
            ..TableMeta::new(FEATURES, "The feature matrix of the night, one row per customer.", vec![])
        };
        let spill = TableMeta { schema: self.plan.scored(), ..TableMeta::new(SPILL, "Features and scores.", vec![]) };
        Ok(ScoredWriter {
            predictions,
            features: features.then(|| self.start(dir, matrix.per_customer(key.clone()))).transpose()?,
            spill: self.start(dir, spill.per_customer(key))?,
            scored: self.plan.scored(),
            unscored: BTreeMap::new(),
            totals: self.plan.value_heads.iter().map(|head| (head.clone(), 0.0)).collect(),
        })
    }

    /// A writer of the segments table.
    pub fn segments_writer(&self, stages: &StagePlan, dir: &Path) -> Result<TableWriter> {
        let meta = TableMeta::new(SEGMENTS, "The stage of life of every customer on the night.", vec![]);
        self.start(dir, TableMeta { schema: stages.segments_schema(), ..meta }.per_customer(self.key()))
    }

    /// The transitions table, whole.
    pub fn write_transitions(&self, stages: &StagePlan, rows: &RecordBatch, dir: &Path) -> Result<StagedFile> {
        let meta = TableMeta::new(TRANSITIONS, "Customers by stage on the night before and on this one.", vec![]);
        let mut writer = self.start(dir, TableMeta { schema: stages.transitions_schema(), ..meta })?;
        writer.write(rows)?;
        writer.finish()
    }

    /// The two tables of outcomes, whole; empty where there was nothing to compare.
    pub fn write_outcomes(&self, outcomes: &Outcomes, dir: &Path) -> Result<[StagedFile; 2]> {
        let write = |meta: TableMeta, rows: RecordBatch| {
            let mut writer = self.start(dir, meta)?;
            writer.write(&rows)?;
            writer.finish()
        };
        let heads = write(outcomes::outcomes_meta(), outcomes::outcome_rows(&outcomes.heads)?)?;
        let deciles = write(outcomes::deciles_meta(), outcomes::decile_rows(&outcomes.deciles)?)?;
        Ok([heads, deciles])
    }

    /// The rejected rows, whole.
    pub fn write_rejects(&self, rows: &RecordBatch, dir: &Path) -> Result<StagedFile> {
        let meta = TableMeta::new(
            REJECTS,
            "Input rows that broke a check and were seen by no feature.",
            vec![
                described(Field::new("table", DataType::Utf8, false), "the source table"),
                described(Field::new("reason", DataType::Utf8, false), "the check that the row broke"),
                described(Field::new("row", DataType::Utf8, true), "the row as JSON; NULL where rows are only counted"),
            ],
        );
        let rows = RecordBatch::try_new(Arc::clone(&meta.schema), rows.columns().to_vec())?;
        let mut writer = self.start(dir, meta)?;
        writer.write(&rows)?;
        writer.finish()
    }

    fn predictions(&self) -> TableMeta {
        let mut fields: Vec<Field> = vec![self.plan.matrix.field(0).clone()];
        fields.extend(self.plan.scores.fields().iter().map(|field| field.as_ref().clone()));
        fields.push(described(Field::new("model_version", DataType::Utf8, false), "the bundle that scored"));
        fields.push(described(Field::new("run_id", DataType::Utf8, false), "the run in the ledger"));
        TableMeta::new(PREDICTIONS, "What the model says of every customer.", fields).per_customer(self.key())
    }

    fn key(&self) -> String {
        self.plan.matrix.field(0).name().clone()
    }

    fn start(&self, dir: &Path, meta: TableMeta) -> Result<TableWriter> {
        let mut meta = meta.metadata("job", self.job);
        if let Some(model) = self.model {
            meta = meta.metadata("model_version", &model.model_version);
            meta = meta.metadata(TRAINED_AS_OF, model.trained_as_of.to_string());
        }
        self.publisher.writer(dir, &meta)
    }
}

/// Writes what comes out of scoring, batch by batch.
pub(super) struct ScoredWriter {
    predictions: Option<Predictions>,
    features: Option<TableWriter>,
    spill: TableWriter,
    scored: SchemaRef,
    unscored: BTreeMap<String, u64>,
    totals: BTreeMap<String, f64>,
}

struct Predictions {
    writer: TableWriter,
    schema: SchemaRef,
    model_version: String,
    run_id: String,
}

impl ScoredWriter {
    /// One batch of the matrix with its scores, if there is a model.
    pub fn write(&mut self, features: &RecordBatch, scores: Option<&RecordBatch>) -> Result<()> {
        let score_columns = scores.map(|scores| scores.columns()).unwrap_or_default();
        // Behind these columns stand the events that the model alone reads.
        let width = self.scored.fields().len() - score_columns.len();
        let matrix = &features.columns()[..width];
        let side_by_side = matrix.iter().chain(score_columns).cloned().collect();
        self.spill.write(&RecordBatch::try_new(Arc::clone(&self.scored), side_by_side)?)?;
        if let Some(writer) = &mut self.features {
            let schema: Schema = self.scored.project(&(0..width).collect::<Vec<_>>())?;
            writer.write(&RecordBatch::try_new(Arc::new(schema), matrix.to_vec())?)?;
        }
        if let (Some(predictions), Some(scores)) = (&mut self.predictions, scores) {
            predictions.write(&features.columns()[0], scores)?;
            count_unscored(scores, &mut self.unscored);
            add_totals(scores, &mut self.totals);
        }
        Ok(())
    }

    /// Closes the files.
    pub fn finish(self, population: PopulationCount) -> Result<ScoredFiles> {
        let mut published = Vec::new();
        if let Some(predictions) = self.predictions {
            published.push(predictions.writer.finish()?);
        }
        if let Some(features) = self.features {
            published.push(features.finish()?);
        }
        let (unscored, totals, notes) = (self.unscored, self.totals, Vec::new());
        Ok(ScoredFiles { published, spill: self.spill.finish()?, unscored, totals, population, notes })
    }
}

impl Predictions {
    fn write(&mut self, key: &ArrayRef, scores: &RecordBatch) -> Result<()> {
        let repeat = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; scores.num_rows()])) };
        let mut columns = vec![Arc::clone(key)];
        columns.extend(scores.columns().iter().cloned());
        columns.push(repeat(&self.model_version));
        columns.push(repeat(&self.run_id));
        self.writer.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Published timestamps are shown in UTC, whatever the clock of the job.
fn in_utc(schema: &Schema) -> SchemaRef {
    let field = |field: &Field| match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            field.clone().with_data_type(DataType::Timestamp(*unit, Some("UTC".into())))
        }
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(|own| field(own)).collect::<Vec<_>>()))
}

fn count_unscored(scores: &RecordBatch, unscored: &mut BTreeMap<String, u64>) {
    let Some(reasons) = scores.column_by_name(NO_SCORE_REASON) else { return };
    for reason in reasons.as_string::<i32>().iter().flatten() {
        *unscored.entry(reason.to_owned()).or_default() += 1;
    }
}

fn add_totals(scores: &RecordBatch, totals: &mut BTreeMap<String, f64>) {
    for (head, total) in totals {
        let column = scores.column_by_name(head).and_then(|column| column.as_primitive_opt::<Float64Type>());
        *total += column.and_then(arrow::compute::sum).unwrap_or_default();
    }
}
