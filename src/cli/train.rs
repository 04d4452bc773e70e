//! `tenure train`.

use super::{GlobalArgs, TrainArgs, block_on};
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::spec::{JobSpec, Task, TextClassifierTask};
use crate::training::text_classifier::{self, LabelledTexts, TextTrainOptions};
use crate::{AsOf, Error, Result, lake, pipeline};

pub(super) fn run(args: &TrainArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    match spec.task() {
        Task::Entity(_) => tabular(&spec, args, global, printer),
        Task::TextClassifier(task) => text(&spec, task, args, global, printer),
    }
}

fn tabular(spec: &JobSpec, args: &TrainArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    if args.limit.is_some() {
        return Err(Error::user("`--limit` is for text classifiers"));
    }
    let as_of = args.as_of.as_deref().ok_or_else(|| {
        Error::user("`--as-of` is missing").hint("name the day of the training, for example `--as-of 2026-07-01`")
    })?;
    let as_of = AsOf::parse(as_of, spec.timezone())?;
    let engine = global.engine()?;
    let report = block_on(&engine, pipeline::train(spec, as_of, &engine, global.device()?, printer))?;
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.table());
    }
    Ok(ExitStatus::Done)
}

fn text(
    spec: &JobSpec,
    task: &TextClassifierTask,
    args: &TrainArgs,
    global: &GlobalArgs,
    printer: &Printer,
) -> Result<ExitStatus> {
    let engine = global.engine()?;
    let (train, test) = block_on(&engine, async {
        let (texts, labels) = lake::read_texts(spec, &engine, &task.train, &task.text, &task.label).await?;
        let train = LabelledTexts { texts, labels };
        let (texts, labels) = lake::read_texts(spec, &engine, &task.test, &task.text, &task.label).await?;
        Ok((train, LabelledTexts { texts, labels }))
    })?;
    let options =
        TextTrainOptions { limit: args.limit, device: global.device()?.resolve()?, threads: Some(engine.threads) };
    let report = text_classifier::train(spec, &train, &test, &options, printer)?;
    if printer.json() {
        printer.data_json(&report)?;
    } else {
        printer.data(report.table());
    }
    Ok(ExitStatus::Done)
}
