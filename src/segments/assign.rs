//! One query over the scored night, joined with an earlier night's segments by key.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, ArrayRef, AsArray, Date32Builder, StringBuilder, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int32Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use chrono::NaiveDate;
use datafusion::common::JoinType;
use datafusion::dataframe::DataFrame;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Expr, cast, lit, when};
use datafusion::prelude::{ParquetReadOptions, SessionContext, ident};
use datafusion::scalar::ScalarValue;
use futures::{Stream, StreamExt};

use super::plan::StagePlan;
use super::reason::{moved_because, printed};
use super::summary::{StageSummary, Tally};
use super::tiers::Thresholds;
use crate::error::Class;
use crate::{AsOf, Error, Result, failpoint};

/// A night's stages.
pub struct Segmented {
    /// One row per customer, sorted by key; see [`StagePlan::segments_schema`].
    pub segments: SegmentStream,
    /// One row per pair of stages, sorted by it; see [`StagePlan::transitions_schema`].
    pub transitions: RecordBatch,
    /// The counts behind the report.
    pub summary: StageSummary,
}

/// The segments table as record batches, sorted by key.
pub struct SegmentStream {
    schema: SchemaRef,
    batches: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
}

impl SegmentStream {
    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Stream for SegmentStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.as_mut().poll_next(cx)
    }
}

// The columns of the query, by place; what the conditions read and the means follow.
const KEY: usize = 0;
const STAGE: usize = 1;
const SCORE: usize = 2;
const PREVIOUS_STAGE: usize = 3;
const PREVIOUS_SINCE: usize = 4;
const NO_SCORE: usize = 5;
const EXTRAS: usize = 6;

const PREVIOUS_KEY: &str = "__previous_key";

impl StagePlan {
    /// Assigns stages and tiers to the rows of `scored`, a local Parquet file of the plan's schema. `previous` is the
    /// segments table of an earlier night, if there is one: it gives `previous_stage` and carries `stage_since` on.
    ///
    /// The file is read twice: once for the summary and the transitions, once as the returned stream is drained, so
    /// memory stays bounded whatever the number of customers.
    pub async fn assign(
        &self,
        ctx: &SessionContext,
        scored: &Path,
        previous: Option<DataFrame>,
        as_of: AsOf,
    ) -> Result<Segmented> {
        let scored = self.read(&spilling(ctx), scored).await?;
        let previous = previous.map(|p| self.check_previous(p)).transpose()?;
        let thresholds = match &self.tiers {
            Some(tiers) => Thresholds::compute(scored.clone().select(vec![self.score()])?, &tiers.quantiles).await?,
            None => Thresholds::default(),
        };
        let rows = self.query(scored.clone(), previous.clone())?;
        let view = Arc::new(NightView { plan: self.clone(), thresholds, as_of: as_of.date() });

        let mut tally = Tally::new(self);
        let mut batches = rows.clone().execute_stream().await?;
        while let Some(batch) = batches.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Err(self.explained(scored.clone(), error.into()).await),
            };
            tally.add(&batch, &view.render(&batch)?)?;
        }
        let customers = scored.clone().count().await?;
        if tally.customers() != customers {
            return Err(Error::user(format!("the earlier segments hold a `{}` more than once", self.key.name()))
                .hint("publish that night again with `--force`"));
        }
        if let Some(previous) = previous {
            for (stage, customers) in self.gone(scored, previous).await? {
                tally.gone(stage, customers);
            }
        }
        let (transitions, summary) = tally.finish(&view.thresholds)?;

        let batches = rows.execute_stream().await?;
        let batches = batches.map(move |batch| view.render(&batch?));
        Ok(Segmented {
            segments: SegmentStream { schema: self.segments_schema(), batches: Box::pin(batches) },
            transitions,
            summary,
        })
    }

    /// The error of a condition that fails, if it is one.
    async fn explained(&self, scored: DataFrame, error: Error) -> Error {
        if error.class() != Class::User {
            return error;
        }
        let Ok(mut rows) = scored.execute_stream().await else { return error };
        while let Some(Ok(batch)) = rows.next().await {
            if let Err(found) = self.stages_of(&batch) {
                return found;
            }
        }
        error
    }

    async fn read(&self, ctx: &SessionContext, path: &Path) -> Result<DataFrame> {
        let text = path.to_str().ok_or_else(|| Error::user(format!("`{}` is not UTF-8", path.display())))?;
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let options = ParquetReadOptions::default().file_extension(&extension).schema(&self.scored);
        Ok(ctx.read_parquet(text, options).await?)
    }

    /// The earlier night under names that meet no scored column.
    fn check_previous(&self, previous: DataFrame) -> Result<DataFrame> {
        for name in [self.key.name().as_str(), "stage", "stage_since"] {
            if previous.schema().field_with_unqualified_name(name).is_err() {
                return Err(Error::user(format!("the earlier segments have no column `{name}`"))
                    .hint("was that night published by this job?"));
            }
        }
        Ok(previous.select(vec![
            cast(ident(self.key.name()), self.key.data_type().clone()).alias(PREVIOUS_KEY),
            cast(ident("stage"), DataType::Utf8).alias("__previous_stage"),
            cast(ident("stage_since"), DataType::Date32).alias("__previous_since"),
        ])?)
    }

    /// One row per customer, sorted by key, in the layout of the constants above.
    fn query(&self, scored: DataFrame, previous: Option<DataFrame>) -> Result<DataFrame> {
        let no_score = match self.scored.field_with_name("no_score_reason") {
            Ok(_) => cast(ident("no_score_reason"), DataType::Utf8),
            Err(_) => lit(ScalarValue::Utf8(None)),
        };
        let extras = self.condition_columns();
        let mut columns = vec![
            cast(ident(self.key.name()), self.key.data_type().clone()).alias("__key"),
            self.stage_number()?.alias("__stage"),
            self.score(),
            no_score.alias("__no_score"),
        ];
        columns.extend(extras.iter().enumerate().map(|(i, name)| ident(*name).alias(format!("__condition_{i}"))));
        columns.extend(
            self.means
                .iter()
                .enumerate()
                .map(|(i, name)| cast(ident(name), DataType::Float64).alias(format!("__mean_{i}"))),
        );
        let mut order = vec!["__key", "__stage", "__score", "__previous_stage", "__previous_since", "__no_score"]
            .into_iter()
            .map(ident)
            .collect::<Vec<_>>();
        order.extend((0..extras.len()).map(|i| ident(format!("__condition_{i}"))));
        order.extend((0..self.means.len()).map(|i| ident(format!("__mean_{i}"))));

        let rows = scored.select(columns)?;
        let rows = match previous {
            Some(previous) => rows.join(previous, JoinType::Left, &["__key"], &[PREVIOUS_KEY], None)?,
            None => rows
                .with_column("__previous_stage", lit(ScalarValue::Utf8(None)))?
                .with_column("__previous_since", lit(ScalarValue::Date32(None)))?,
        };
        Ok(rows.select(order)?.sort(vec![ident("__key").sort(true, false)])?)
    }

    /// `CASE WHEN first condition THEN 0 … ELSE last END`.
    fn stage_number(&self) -> Result<Expr> {
        let mut conditions =
            self.stages.iter().enumerate().filter_map(|(i, s)| Some((s.when.as_ref()?.expr.clone(), lit(i as i32))));
        let last = lit(self.stages.len() as i32 - 1);
        let Some((condition, number)) = conditions.next() else { return Ok(last) };
        let mut case = when(condition, number);
        for (condition, number) in conditions {
            case = case.when(condition, number);
        }
        Ok(case.otherwise(last)?)
    }

    fn score(&self) -> Expr {
        match &self.tiers {
            Some(tiers) => cast(ident(&tiers.by), DataType::Float64),
            None => lit(ScalarValue::Float64(None)),
        }
        .alias("__score")
    }

    /// The place of each row's stage among the stages of the job; `scored` has the plan's schema.
    pub fn stages_of(&self, scored: &RecordBatch) -> Result<Vec<u32>> {
        let last = self.stages.len() as u32 - 1;
        let mut places = vec![last; scored.num_rows()];
        // A condition looks at nobody whom an earlier stage has taken: it may fail there.
        let mut left: Vec<u32> = (0..scored.num_rows() as u32).collect();
        for (place, stage) in self.stages.iter().enumerate() {
            let Some(condition) = stage.when.as_ref().filter(|_| !left.is_empty()) else { continue };
            let matches = match left.len() == scored.num_rows() {
                true => condition.matches(scored)?,
                false => condition.matches(&take_record_batch(scored, &UInt32Array::from(left.clone()))?)?,
            };
            let mut rest = Vec::with_capacity(left.len());
            for (row, is) in left.iter().zip(matches.iter()) {
                match is {
                    Some(true) => places[*row as usize] = place as u32,
                    _ => rest.push(*row),
                }
            }
            left = rest;
        }
        Ok(places)
    }

    /// The columns that any condition reads, each once.
    pub fn condition_columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for name in self.stages.iter().filter_map(|s| s.when.as_ref()).flat_map(|c| &c.columns) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        columns
    }

    /// How many customers of each earlier stage are customers no more.
    async fn gone(&self, scored: DataFrame, previous: DataFrame) -> Result<Vec<(String, i64)>> {
        use datafusion::functions_aggregate::expr_fn::count;
        let today = scored.select(vec![cast(ident(self.key.name()), self.key.data_type().clone()).alias("__key")])?;
        let gone = previous
            .join(today, JoinType::LeftAnti, &[PREVIOUS_KEY], &["__key"], None)?
            .aggregate(vec![ident("__previous_stage")], vec![count(lit(1_i64)).alias("__customers")])?
            .select(vec![
                cast(ident("__previous_stage"), DataType::Utf8).alias("stage"),
                ident("__customers").alias("customers"),
            ])?;
        let mut counts = Vec::new();
        for batch in gone.collect().await? {
            let stages = batch.column(0).as_string::<i32>();
            let customers = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
            counts.extend((0..batch.num_rows()).map(|i| (stages.value(i).to_owned(), customers.value(i))));
        }
        Ok(counts)
    }
}

/// The same session with joins that sort and merge: those spill, and leave the rows in the order of the key.
fn spilling(ctx: &SessionContext) -> SessionContext {
    let state = ctx.state();
    let mut config = state.config().clone();
    config.options_mut().optimizer.prefer_hash_join = false;
    SessionContext::new_with_state(SessionStateBuilder::new_from_existing(state).with_config(config).build())
}

/// What turns the query's rows into the published ones.
struct NightView {
    plan: StagePlan,
    thresholds: Thresholds,
    as_of: NaiveDate,
}

impl NightView {
    fn render(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        failpoint::reach("segments.assign");
        let stages = rows.column(STAGE).as_primitive::<Int32Type>();
        let scores = rows.column(SCORE).as_primitive::<Float64Type>();
        let previous = rows.column(PREVIOUS_STAGE).as_string::<i32>();
        let previous_since = rows.column(PREVIOUS_SINCE).as_primitive::<Date32Type>();
        let today = Date32Type::from_naive_date(self.as_of);
        let columns = self.plan.condition_columns();

        let mut names = StringBuilder::new();
        let mut since = Date32Builder::with_capacity(rows.num_rows());
        let mut because = StringBuilder::new();
        let mut tiers = StringBuilder::new();
        for row in 0..rows.num_rows() {
            let stage = &self.plan.stages[stages.value(row) as usize];
            let before = previous.is_valid(row).then(|| previous.value(row));
            names.append_value(&stage.name);
            match before {
                Some(before) if before == stage.name => {
                    since.append_value(if previous_since.is_valid(row) { previous_since.value(row) } else { today });
                    because.append_null();
                }
                Some(_) => {
                    since.append_value(today);
                    because.append_value(moved_because(stage, |name| {
                        match columns.iter().position(|column| *column == name) {
                            Some(place) => printed(rows.column(EXTRAS + place), row),
                            None => Ok("NULL".to_owned()),
                        }
                    })?);
                }
                None => {
                    since.append_value(today);
                    because.append_null();
                }
            }
            tiers.append_option(self.tier(scores.is_valid(row).then(|| scores.value(row))));
        }
        let columns: Vec<ArrayRef> = vec![
            rows.column(KEY).clone(),
            Arc::new(names.finish()),
            rows.column(PREVIOUS_STAGE).clone(),
            Arc::new(since.finish()),
            Arc::new(because.finish()),
            Arc::new(tiers.finish()),
        ];
        Ok(RecordBatch::try_new(self.plan.segments_schema(), columns)?)
    }

    fn tier(&self, score: Option<f64>) -> Option<&str> {
        let tier = self.thresholds.tier_of(score?)?;
        let (name, _) = self.plan.tiers.as_ref()?.quantiles.get(tier)?;
        Some(name)
    }
}

/// The query's columns as the summary needs them.
pub(super) struct TallyRow<'a> {
    pub stage: usize,
    pub previous: Option<&'a str>,
    pub score: Option<f64>,
    pub no_score: Option<&'a str>,
}

/// One row of the query.
pub(super) fn tally_row(rows: &RecordBatch, row: usize) -> TallyRow<'_> {
    let text = |column: usize| {
        let values = rows.column(column).as_string::<i32>();
        values.is_valid(row).then(|| values.value(row))
    };
    TallyRow {
        stage: rows.column(STAGE).as_primitive::<Int32Type>().value(row) as usize,
        previous: text(PREVIOUS_STAGE),
        score: number(rows.column(SCORE), row),
        no_score: text(NO_SCORE),
    }
}

/// A number of a Float64 column; NULL and NaN are none.
pub(super) fn number(column: &dyn Array, row: usize) -> Option<f64> {
    let values = column.as_primitive::<Float64Type>();
    values.is_valid(row).then(|| values.value(row)).filter(|v| !v.is_nan())
}
