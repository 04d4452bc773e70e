//! The snapshots that a training learns from: which heads they can teach, which dates they are of, their rows.

use super::btyd::HeadPlan;
use super::dataset::{Dataset, Gatherer};
use super::dates::Dates;
use super::snapshots::SnapshotSource;
use crate::printer::Printer;
use crate::spec::EntityTask;
use crate::{AsOf, Error, Result};

/// Snapshots with all that says how they are to be used.
pub(super) struct Gathered<'a> {
    pub(super) gatherer: Gatherer<'a>,
    pub(super) dates: Dates,
    pub(super) data: Dataset,
}

/// The heads that the history before `as_of` can teach. Reads no rows.
pub(super) async fn plan(source: &dyn SnapshotSource, task: &EntityTask, as_of: AsOf) -> Result<HeadPlan> {
    let model = task.model.as_ref().ok_or_else(|| Error::user("this job has no `model:` to train"))?;
    HeadPlan::new(model, source.labels(), as_of, source.first_event().await?, &task.train)
}

/// Reads the rows of every snapshot of a training as of `as_of`.
pub(super) async fn gather<'a>(
    source: &'a dyn SnapshotSource,
    task: &EntityTask,
    plan: &HeadPlan,
    as_of: AsOf,
    printer: &Printer,
) -> Result<Gathered<'a>> {
    let first_event = source.first_event().await?;
    let mut gatherer = Gatherer::new(source, &plan.trained, &task.entity.key)?;
    let heads = &plan.trained.heads;
    let is_empty = |date: AsOf| heads.iter().all(|head| source.window_is_empty(&head.label, date));
    let dates = Dates::plan_without(as_of, gatherer.horizon(), first_event, &task.train, &is_empty)?;
    // Between the dates that are there.
    let begin = dates.all.last().copied().unwrap_or(as_of);
    let every = u64::from(task.train.every_days);
    let asked = (0..task.train.count).map(|k| as_of.minus_days(u64::from(gatherer.horizon()) + k as u64 * every));
    for date in asked.filter(|date| date.date() >= begin.date() && is_empty(*date)) {
        printer.warn(format!("{date} is left out: the tables of the labels have no row in the days from it on"));
    }
    let progress = printer.progress("snapshots", Some(dates.all.len() as u64));
    let noted = |date: AsOf| {
        progress.note(date.to_string());
        progress.add(1);
    };
    let data = gatherer.gather(&dates.all, first_event, noted).await?;
    progress.done(format!("{} rows of {} snapshots", data.table.rows(), dates.all.len()));
    gatherer.notes(&data).iter().for_each(|note| printer.warn(note));
    if data.table.rows() > 0 {
        gatherer.refuse_constant_labels(&data)?;
    }
    Ok(Gathered { gatherer, dates, data })
}

/// What is wrong where no row trains or none validates.
pub(super) fn nobody() -> Error {
    Error::user("there are too few customers to train on").hint("is the population empty at the first snapshots?")
}
