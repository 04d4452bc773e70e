//! Outcomes: the predictions made one horizon ago beside what happened since.
//!
//! At the night D a head with the horizon H has its published predictions of D − H, and the label SQL over `[D − H, D)`
//! says what came: all of it lies before D, so tonight's view of the lake is enough. What is judged is what was
//! published; no model runs here.

mod alerts;
mod judge;
mod tables;

use std::collections::BTreeMap;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;

use self::judge::{Judged, PastHead};
use super::plan::Plan;
use crate::error::Class;
use crate::features::LabelColumn;
use crate::lake::publish::{self, CommittedTable};
use crate::lake::{EngineOptions, InputObject, Lake, Store, Visibility, read_published_columns};
use crate::ledger::OutcomeRecord;
use crate::spec::{EntityTask, HeadSpec, JobSpec, PublishSpec};
use crate::{AsOf, Result, failpoint, lake};

pub(super) use judge::{Decile, TRAINED_AS_OF};
pub(super) use tables::{decile_rows, deciles_meta, outcome_rows, outcomes_meta};

use super::tables::PREDICTIONS;

/// The predictions that reach their horizon tonight.
pub(super) struct PastPredictions {
    tonight: AsOf,
    nights: Vec<PastNight>,
    /// Nights that should have been there.
    notes: Vec<String>,
}

/// A published night, and the heads whose horizon ends tonight.
struct PastNight {
    as_of: AsOf,
    predictions: CommittedTable,
    heads: Vec<(HeadSpec, LabelColumn)>,
}

/// What became of past predictions.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// One per head, by name.
    pub heads: Vec<OutcomeRecord>,
    /// The deciles of the heads.
    pub deciles: Vec<Decile>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

impl PastPredictions {
    /// Looks for the committed nights one horizon before `tonight`; reads no table. A night that nobody published, or
    /// that is not whole, is a note.
    pub async fn find(store: &Store, task: &EntityTask, plan: &Plan, tonight: AsOf) -> Result<Self> {
        let horizons = by_horizon(task, plan);
        let looked = horizons.keys().map(|days| async move {
            let as_of = tonight.minus_days(u64::from(*days));
            (as_of, publish::committed(store, as_of.date()).await)
        });
        let looked = futures::future::join_all(looked).await;
        let mut found = PastPredictions { tonight, nights: Vec::new(), notes: Vec::new() };
        for (heads, (as_of, committed)) in horizons.into_values().zip(looked) {
            let names: Vec<String> = heads.iter().map(|(head, _)| format!("`{}`", head.name)).collect();
            let nothing = |why: String| format!("no outcome of {}: {why}", names.join(", "));
            match committed {
                Ok(None) => found.notes.push(nothing(format!("the night of {as_of} was not published"))),
                Ok(Some(commit)) => match commit.table(PREDICTIONS) {
                    Some(table) => found.nights.push(PastNight { as_of, predictions: table.clone(), heads }),
                    None => found.notes.push(nothing(format!("the night of {as_of} has no predictions"))),
                },
                Err(error) if error.class() == Class::User => found.notes.push(nothing(error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The published tables that are read.
    pub fn tables(&self) -> impl Iterator<Item = &CommittedTable> {
        self.nights.iter().map(|night| &night.predictions)
    }

    /// The same as parts of a run's key. The hash stands for the etag: it stays when the same bytes are put in place again.
    pub fn inputs(&self) -> impl Iterator<Item = InputObject> {
        self.tables().map(|table| InputObject {
            table: table.name.clone(),
            path: table.path.clone(),
            size: table.bytes,
            etag: Some(table.sha256.clone()),
        })
    }

    /// The label files that say what happened; none where there is nothing to compare.
    pub fn sql_hashes(&self, plan: &Plan) -> BTreeMap<String, String> {
        self.nights.iter().flat_map(|night| plan.labels.behind(&night.labels()).hashes()).collect()
    }

    /// Compares each head with what happened.
    pub async fn judge(
        self,
        spec: &JobSpec,
        task: &EntityTask,
        publish: &PublishSpec,
        plan: &Plan,
        lake: &Lake,
        engine: &EngineOptions,
    ) -> Result<Outcomes> {
        failpoint::reach("outcomes.judge");
        let mut outcomes = Outcomes { notes: self.notes, ..Outcomes::default() };
        for night in &self.nights {
            let context = lake::context(engine, spec.timezone())?;
            let key = task.entity.key.as_str();
            let columns = night.columns(key);
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let predicted = read_published_columns(&context, &publish.url, &night.predictions.path, &columns).await?;
            let keys = |rows: &RecordBatch| rows.column_by_name(key).map(|column| column.data_type().clone());
            let of_plan = plan.matrix.field(0).data_type();
            if !keys(&predicted.rows).is_some_and(|there| publish::are_keys_alike(&there, of_plan)) {
                let names: Vec<String> = night.heads.iter().map(|(head, _)| format!("`{}`", head.name)).collect();
                outcomes.notes.push(format!(
                    "no outcome of {}: the predictions of {} name customers by another key",
                    names.join(", "),
                    night.as_of
                ));
                continue;
            }
            let happened = night.happened(spec, plan, lake, self.tonight).await?;
            let rows = judge::rows_of(&predicted, &happened, key)?;
            let past = PastHead { predicted: &predicted, happened: &happened, rows: &rows, as_of: night.as_of };
            for (head, label) in &night.heads {
                match past.judge(head, label)? {
                    Ok(judged) => outcomes.add(head, judged),
                    Err(why) => outcomes.notes.push(format!("no outcome of `{}`: {why}", head.name)),
                }
            }
        }
        outcomes.heads.sort_by(|a, b| a.head.cmp(&b.head));
        outcomes.deciles.sort_by(|a, b| (&a.head, a.decile).cmp(&(&b.head, b.decile)));
        alerts::raise(&task.outcomes, &mut outcomes);
        Ok(outcomes)
    }
}

impl PastNight {
    fn labels(&self) -> Vec<&str> {
        self.heads.iter().map(|(_, label)| label.name.as_str()).collect()
    }

    /// The columns of the predictions that are read, key first.
    fn columns(&self, key: &str) -> Vec<String> {
        let heads = self.heads.iter().flat_map(|(head, _)| judge::columns(head));
        [key.to_owned(), judge::MODEL_VERSION.to_owned()].into_iter().chain(heads).collect()
    }

    /// The labels from the past night up to tonight, by what is known tonight.
    async fn happened(&self, spec: &JobSpec, plan: &Plan, lake: &Lake, tonight: AsOf) -> Result<RecordBatch> {
        let session = lake.session(Visibility::at(tonight)).await?;
        let labels = plan.labels.behind(&self.labels());
        let stream = labels.labels(&plan.features, &session, spec, self.as_of).await?;
        let schema = stream.schema().clone();
        let batches: Vec<RecordBatch> = stream.try_collect().await?;
        Ok(concat_batches(&schema, &batches)?)
    }
}

impl Outcomes {
    fn add(&mut self, head: &HeadSpec, judged: Judged) {
        if judged.record.had_seen() {
            self.notes.push(format!(
                "the model `{}` was trained up to {} and had seen a part of what followed {}: `{}` looks better than it is",
                judged.record.model_version,
                judged.record.trained_as_of.unwrap_or_default(),
                judged.record.predicted_ds,
                head.name
            ));
        }
        self.heads.push(judged.record);
        self.deciles.extend(judged.deciles);
    }
}

/// The compared heads with their labels, by horizon.
fn by_horizon(task: &EntityTask, plan: &Plan) -> BTreeMap<u32, Vec<(HeadSpec, LabelColumn)>> {
    let columns = plan.labels.columns();
    let mut horizons: BTreeMap<u32, Vec<(HeadSpec, LabelColumn)>> = BTreeMap::new();
    let heads = task.model.iter().flat_map(|model| &model.heads);
    for head in heads.filter(|head| task.outcomes.heads.contains(&head.name)) {
        if let Some(label) = columns.iter().find(|label| label.name == head.label) {
            horizons.entry(label.horizon_days).or_default().push((head.clone(), label.clone()));
        }
    }
    horizons
}
