//! Streams features through the model on a thread of its own.
//!
//! Rows are cut into blocks of a fixed size whatever the batches they come in, so that the same rows give the same bits. Two
//! blocks may wait on either side of the thread: memory does not grow with the number of customers.
//!
//! A channel that closes does not say that all rows came through it. The stream of scores ends well only where the task that
//! reads the features says how many it passed on, and so many came back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::{Stream, StreamExt};
use tch::Device;
use tokio::sync::mpsc;

use super::bundle::Bundle;
use super::predict::Predictor;
use super::scores::{NOT_FINITE, score_schema, scores};
use crate::features::{FeatureColumn, FeatureStream};
use crate::spec::{JobSpec, ModelSpec};
use crate::{AsOf, Error, Result, cpu, failpoint};

/// Rows that are scored together.
const BLOCK: usize = 2048;
/// Blocks that may wait before and behind the thread.
const WAITING: usize = 2;

/// The feature stream's column that says whether a customer has the model's minimum data; it is not passed on.
pub const MINIMUM_DATA: &str = "__minimum_data";

/// One block of customers with their scores, in the order of the stream.
#[derive(Debug, Clone)]
pub struct ScoredBatch {
    /// The features as they came, key first.
    pub features: RecordBatch,
    /// One row per row of `features`: see [`crate::spec::score_columns`].
    pub scores: RecordBatch,
}

/// A model on its own thread, which ends with it; [`Scorer::finish`] waits for that.
#[derive(Debug)]
pub struct Scorer {
    work: mpsc::Sender<Work>,
    schema: SchemaRef,
    thread: std::thread::JoinHandle<()>,
}

/// A block and where its scores go.
#[derive(Debug)]
struct Work {
    block: RecordBatch,
    as_of: AsOf,
    answer: mpsc::Sender<Result<ScoredBatch>>,
}

impl Scorer {
    /// Loads the bundle on a new thread. Features, SQL or heads that are not those of the training are an error that names
    /// every difference.
    pub fn start(
        bundle: &Bundle,
        spec: &JobSpec,
        columns: &[FeatureColumn],
        sql_hashes: &BTreeMap<String, String>,
        device: Device,
    ) -> Result<Self> {
        let task = spec.entity_task()?;
        let model = task.model.as_ref().ok_or_else(|| Error::user("this job has no `model:` to score with"))?;
        Self::of_model(bundle, model, columns, sql_hashes, device)
    }

    /// As [`Scorer::start`], from the job's model alone.
    pub fn of_model(
        bundle: &Bundle,
        model: &ModelSpec,
        columns: &[FeatureColumn],
        sql_hashes: &BTreeMap<String, String>,
        device: Device,
    ) -> Result<Self> {
        bundle.manifest().check(model, columns, sql_hashes)?;
        let predictor = Predictor::load(bundle, device)?;
        let schema = score_schema(predictor.heads());
        let minimum = model.minimum_data.clone();
        let (work, mut queue) = mpsc::channel::<Work>(WAITING);
        let of_thread = schema.clone();
        let run = move || {
            while let Some(Work { block, as_of, answer }) = queue.blocking_recv() {
                let score = || {
                    let _turns = cpu::all_turns();
                    score_block(&predictor, &of_thread, block, as_of, minimum.as_deref())
                };
                let scored = catch_unwind(AssertUnwindSafe(score));
                let scored = scored.unwrap_or_else(|payload| Err(Error::panicked("the scoring thread", &*payload)));
                // Nobody listens any more: the stream was dropped.
                let _ = answer.blocking_send(scored);
            }
        };
        let thread = std::thread::Builder::new()
            .name("scorer".into())
            .stack_size(cpu::STACK_BYTES)
            .spawn(run)
            .map_err(|e| Error::infra("the scoring thread cannot be started").because(e))?;
        Ok(Scorer { work, schema, thread })
    }

    /// Ends the thread, once every stream has ended or was dropped.
    pub async fn finish(self) -> Result<()> {
        let Scorer { work, thread, .. } = self;
        drop(work);
        let ended = tokio::task::spawn_blocking(move || thread.join());
        let ended = ended.await.map_err(|e| Error::task("the end of the scoring thread", e))?;
        ended.map_err(|payload| Error::panicked("the scoring thread", &*payload))
    }

    /// The schema of the scores.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Scores a stream; the result has its rows in its order.
    pub fn score(&self, features: FeatureStream) -> ScoredStream {
        let (answer, answers) = mpsc::channel(WAITING);
        let feeder = tokio::spawn(feed(features, self.work.clone(), answer));
        ScoredStream { answers, feeder, rows: 0, ended: false }
    }
}

/// Cuts the stream into blocks and queues them; says how many rows there were.
async fn feed(
    mut features: FeatureStream,
    work: mpsc::Sender<Work>,
    answer: mpsc::Sender<Result<ScoredBatch>>,
) -> Result<usize> {
    let schema = features.schema().clone();
    let as_of = features.as_of();
    let mut waiting: Vec<RecordBatch> = Vec::new();
    let (mut rows, mut sent) = (0, 0);
    let send = async |block: RecordBatch| {
        let sent = work.send(Work { block, as_of, answer: answer.clone() }).await;
        sent.map_err(|_| Error::bug("the scoring thread ended before its rows did"))
    };
    while let Some(batch) = features.next().await {
        let batch = batch?;
        failpoint::reach("scorer.feed");
        rows += batch.num_rows();
        waiting.push(batch);
        if rows < BLOCK {
            continue;
        }
        let all = concat_batches(&schema, &waiting)?;
        let mut start = 0;
        while rows - start >= BLOCK {
            send(all.slice(start, BLOCK)).await?;
            start += BLOCK;
        }
        waiting = vec![all.slice(start, rows - start)];
        rows -= start;
        sent += start;
    }
    if rows > 0 {
        send(concat_batches(&schema, &waiting)?).await?;
    }
    Ok(sent + rows)
}

fn score_block(
    predictor: &Predictor,
    schema: &SchemaRef,
    block: RecordBatch,
    as_of: AsOf,
    minimum: Option<&str>,
) -> Result<ScoredBatch> {
    failpoint::reach("scorer.score");
    let (features, enough) = split_minimum_data(block)?;
    let mut table = predictor.table();
    table.push(&features, as_of)?;
    let mut predicted = predictor.predict(&table)?;
    let mut reasons: Vec<Option<String>> =
        predicted.iter().map(|p| p.is_none().then(|| NOT_FINITE.to_owned())).collect();
    if let Some(enough) = enough {
        let condition = minimum.unwrap_or("its condition");
        for row in (0..features.num_rows()).filter(|row| enough.is_null(*row) || !enough.value(*row)) {
            predicted[row] = None;
            reasons[row] = Some(format!("below the model's minimum data: {condition}"));
        }
    }
    let scores = scores(predictor.heads(), schema, &predicted, &reasons)?;
    Ok(ScoredBatch { features, scores })
}

/// Takes the marker column out of a block.
fn split_minimum_data(mut block: RecordBatch) -> Result<(RecordBatch, Option<BooleanArray>)> {
    let Ok(index) = block.schema().index_of(MINIMUM_DATA) else { return Ok((block, None)) };
    let column = block.remove_column(index);
    let enough = column.as_boolean_opt().cloned();
    let enough = enough.ok_or_else(|| Error::user("the model's minimum data is not a yes-or-no condition"))?;
    Ok((block, Some(enough)))
}

/// Blocks of scored customers, in order.
#[derive(Debug)]
pub struct ScoredStream {
    answers: mpsc::Receiver<Result<ScoredBatch>>,
    feeder: tokio::task::JoinHandle<Result<usize>>,
    /// Rows that came back.
    rows: usize,
    ended: bool,
}

impl Stream for ScoredStream {
    type Item = Result<ScoredBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(answer) = ready!(self.answers.poll_recv(cx)) {
            self.ended = answer.is_err();
            self.rows += answer.as_ref().map_or(0, |batch| batch.scores.num_rows());
            return Poll::Ready(Some(answer));
        }
        // All senders are gone: the feeder has ended or is about to, and says whether that was all.
        let fed = ready!(Pin::new(&mut self.feeder).poll(cx));
        self.ended = true;
        Poll::Ready(match fed.unwrap_or_else(|error| Err(Error::task("the feature pass", error))) {
            Ok(rows) if rows == self.rows => None,
            Ok(rows) => Some(Err(Error::bug(format!("{rows} customers were to be scored and {} were", self.rows)))),
            Err(error) => Some(Err(error)),
        })
    }
}

impl Drop for ScoredStream {
    fn drop(&mut self) {
        self.feeder.abort();
    }
}
