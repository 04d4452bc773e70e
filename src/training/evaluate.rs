//! A trained model on any past date, beside the baselines that were fitted with it.

use tch::Device;

use super::dataset::Gatherer;
use super::evaluation::{Evaluation, Judged};
use super::snapshots::SnapshotSource;
use crate::model::Bundle;
use crate::model::predict::Predictor;
use crate::spec::EntityTask;
use crate::{AsOf, Error, Result};

/// Features at `as_of`, labels from then on. The model must not have seen labels of that time to be judged fairly; the
/// caller warns where it has.
pub async fn evaluate_from(
    source: &dyn SnapshotSource,
    task: &EntityTask,
    bundle: &Bundle,
    as_of: AsOf,
    device: Device,
) -> Result<Evaluation> {
    let model = task.model.as_ref().ok_or_else(|| Error::user("this job has no `model:` to evaluate"))?;
    bundle.manifest().check(model, source.features(), &source.feature_hashes())?;
    let predictor = Predictor::load(bundle, device)?;
    let mut gatherer = Gatherer::new(source, model, &task.entity.key)?;
    gatherer.know_classes(predictor.heads());
    let first_event = source.first_event().await?;
    let data = gatherer.gather(&[as_of], first_event, |_| {}).await?;
    if data.table.rows() == 0 {
        return Err(Error::user(format!("there is no customer as of {as_of}")));
    }
    let rows: Vec<usize> = (0..data.table.rows()).collect();
    let predicted = predictor.predict(&data.table)?;
    let baselines = bundle.baselines()?;
    let judged = Judged {
        heads: predictor.heads(),
        table: &data.table,
        rows: &rows,
        labels: &data.labels,
        previous: &data.previous,
        predicted: &predicted,
        baselines: &baselines,
    };
    Evaluation::of(vec![as_of.date()], judged)
}
