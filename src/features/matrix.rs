//! The files joined into one row per customer.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, lit, when};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::{Stream, StreamExt, stream};

use super::bench::Bench;
use super::definition::Definition;
use super::explain::{ExplainedFile, Explainer};
use super::fusion::state::States;
use super::fusion::{Batch, File, Fusion, Matrix, Running, Twice};
use super::key_type::parse_key;
use super::part::{Part, PartColumn};
use super::prepare::{self, FilePlan, Prepared, PreparedFile};
use super::rows::{Checker, Culprit};
use super::sequence;
use super::set::FeatureSet;
use super::{FeatureStream, NotFinite};
use crate::lake::publish::PopulationCount;
use crate::spec::{ColumnType, EntitySource, TableSpec};
use crate::{AsOf, Error, Result};

/// The matrices of some dates.
pub struct Matrices<S> {
    /// The schema of every batch; the key comes first.
    pub schema: SchemaRef,
    /// The population of each date as it was read.
    pub populations: Vec<PopulationCount>,
    /// Batches with the number of their date.
    pub rows: S,
}

impl FeatureSet {
    /// The matrix at `as_of`: one row per customer of the population, sorted by key, the key first; its newest events come
    /// last where the job's model reads them. `context` shows the rows before `as_of`; views that it lacks are added for
    /// this query alone.
    ///
    /// The same rows give the same bits, whatever their order and the number of partitions. NaN and infinities are NULL.
    /// A key that the population or a free SELECT has twice ends the stream with an error that names the file.
    pub async fn matrix(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
    ) -> Result<FeatureStream> {
        self.matrix_with(context, tables, as_of, None).await
    }

    /// The same, with the states of past days in the place of their rows. What is written down of the newest days is put in force
    /// by [`States::commit`], once the stream has ended.
    pub async fn matrix_with(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
        states: Option<Arc<States>>,
    ) -> Result<FeatureStream> {
        let bench = Bench::over(context).await?;
        let prepared = self.prepared(&bench, tables.as_ref(), as_of).await?;
        self.stream(bench, prepared, as_of, None, states).await
    }

    /// The matrices at some dates, from one pass over the tables: batches with the number of their date, those of one date as
    /// [`FeatureSet::matrix`] gives them. Each session shows what was visible at its date.
    ///
    /// States stand in for the rows of past days where there is one date; see [`FeatureSet::matrix_with`].
    ///
    /// The sequence of events is no part of it. A session that cannot share its rows with a later one (a table has a
    /// `known_at`, a view asks for `$as_of`) makes a pass for each date the better choice: see [`FeatureSet::shares_passes`].
    pub async fn matrices(
        &self,
        sessions: &[(AsOf, SessionContext)],
        tables: &[TableSpec],
        states: Option<Arc<States>>,
    ) -> Result<Matrices<impl Stream<Item = Result<(usize, RecordBatch)>> + Send + use<>>> {
        let mut planned = Vec::new();
        for (as_of, context) in sessions {
            let bench = Bench::over(context).await?;
            let prepared = self.prepared(&bench, tables, *as_of).await?;
            planned.push((bench, prepared));
        }
        let Some((_, first)) = planned.first() else { return Err(Error::user("no date is asked for")) };
        let schema = self.matrix_schema(first);
        let Running { populations, rows } = self.passes(&planned, None, &schema, Checker::uncut, states).await?;
        Ok(Matrices { schema, populations, rows })
    }

    /// Whether the rows of one date are among those of a later one.
    pub fn shares_passes(&self, tables: &[TableSpec]) -> bool {
        tables.iter().all(|table| table.known_at.is_none()) && !self.views.iter().any(Definition::asks_for_as_of)
    }

    /// The row of one customer; `None` where the population does not have it. The key is given as text.
    pub async fn show(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
        key: &str,
    ) -> Result<Option<RecordBatch>> {
        let bench = Bench::over(context).await?;
        let prepared = self.prepared(&bench, tables.as_ref(), as_of).await?;
        let declared = self.declared_key(tables.as_ref());
        let key = parse_key(key, &prepared.key_type, declared).ok_or_else(|| {
            let what = match (declared, &prepared.key_type) {
                (Some(declared), _) => format!("of type {declared}"),
                (None, DataType::Int64) => "an integer".to_owned(),
                (None, _) => "a text".to_owned(),
            };
            Error::user(format!("`{key}` is not a key")).hint(format!("`{}` is {what}", self.key()))
        })?;
        self.stream(bench, prepared, as_of, Some(key), None).await?.next().await.transpose()
    }

    /// The type of the key in the entity's table.
    fn declared_key(&self, tables: &[TableSpec]) -> Option<ColumnType> {
        let EntitySource::Table { table, .. } = &self.entity.source else { return None };
        let table = tables.iter().find(|declared| declared.name == *table)?;
        table.columns.iter().find(|column| column.name == self.key()).map(|column| column.column_type)
    }

    /// Runs what was planned, for everybody or for one key.
    async fn stream(
        &self,
        bench: Bench,
        prepared: Prepared,
        as_of: AsOf,
        only: Option<ScalarValue>,
        states: Option<Arc<States>>,
    ) -> Result<FeatureStream> {
        let sequence = self.sequence_plan(&bench, &prepared.key_type, as_of).await;
        let sequence = sequence.or_else(|problems| Error::all(problems).map(|()| None))?;
        let schema = self.matrix_schema(&prepared);
        let not_finite = NotFinite::of(&prepared);
        let planned = [(bench, prepared)];
        let Running { populations, rows } = self.passes(&planned, only.clone(), &schema, |c| c, states).await?;
        let rows = rows.map(|batch| Ok(batch?.1));
        let matrix = FeatureStream::new(schema, as_of, rows);
        let matrix = matrix.with_population(populations.first().copied()).with_not_finite(not_finite);
        Ok(match sequence {
            None => matrix,
            Some(plan) => {
                let events = of_key(planned[0].0.frame(plan.plan.clone()), only.clone())?.execute_stream().await?;
                let matrix = sequence::attached(matrix, &plan, events);
                let events = ExplainedFile {
                    definition: plan.events.clone(),
                    columns: Vec::new(),
                    plans: vec![plan.plan.clone()],
                };
                let explainer = Explainer { files: vec![events], ..self.explainer(&planned, only) };
                matrix.explained(explainer)
            }
        })
    }

    /// Who says why a matrix of these fails.
    fn explainer(&self, planned: &[(Bench, Prepared)], only: Option<ScalarValue>) -> Explainer {
        let files = planned.first().map(|(_, first)| {
            in_order(first).enumerate().map(|(place, file)| {
                let at_each_date = planned.iter().filter_map(|(_, prepared)| in_order(prepared).nth(place));
                let plans = at_each_date.filter_map(|file| match &file.plan {
                    FilePlan::Joined(part) => Some(part.plan.clone()),
                    FilePlan::Derived(..) => None,
                });
                ExplainedFile {
                    definition: file.definition.clone(),
                    columns: file.columns().to_vec(),
                    plans: plans.collect(),
                }
            })
        });
        let population = self.population.as_ref().map(|definition| ExplainedFile {
            definition: definition.clone(),
            columns: Vec::new(),
            plans: planned.iter().map(|(_, prepared)| prepared.population.clone()).collect(),
        });
        Explainer {
            key: self.key().to_owned(),
            views: self.views.clone(),
            files: files.into_iter().flatten().collect(),
            population,
            contexts: planned.iter().map(|(bench, _)| bench.context().clone()).collect(),
            only,
        }
    }

    fn matrix_schema(&self, prepared: &Prepared) -> SchemaRef {
        let columns = prepared.columns(self);
        self.schema(&prepared.key_type, columns.iter().map(|c| (c.name.as_str(), &c.data_type)))
    }

    /// The rows of matrices that were planned, in the order of their columns.
    async fn passes(
        &self,
        planned: &[(Bench, Prepared)],
        only: Option<ScalarValue>,
        schema: &SchemaRef,
        cut: fn(Checker) -> Checker,
        states: Option<Arc<States>>,
    ) -> Result<Running<impl Stream<Item = Result<(usize, RecordBatch)>> + Send + use<>>> {
        let matrices = planned.iter().map(|(bench, prepared)| {
            let by_key = |plan: &LogicalPlan| of_key(bench.frame(plan.clone()), only.clone());
            let files = in_order(prepared).map(|file| {
                let how = match &file.plan {
                    FilePlan::Derived(exprs, _) => File::Derived(exprs),
                    FilePlan::Joined(part) => match &part.recipe {
                        Ok(recipe) => File::Fused(recipe),
                        Err(_) => File::Alone(sorted(by_key(&part.plan)?)?),
                    },
                };
                Ok((how, file.columns()))
            });
            let population = by_key(&prepared.population)?;
            let names = in_order(prepared).map(|file| file.definition.file.as_str()).collect();
            Ok(Matrix { context: bench.context(), population, files: files.collect::<Result<_>>()?, names })
        });
        let Some((_, first)) = planned.first() else { return Err(Error::user("no date is asked for")) };
        let own = std::iter::once(Part::KEY).chain(in_order(first).flat_map(|f| f.columns()).map(|c| c.name.as_str()));
        let own: Vec<&str> = own.collect();
        let wanted = schema.fields().iter().skip(1).filter_map(|f| own.iter().position(|name| name == f.name()));
        let order: Vec<usize> = std::iter::once(0).chain(wanted).collect();
        let fusion = Fusion {
            matrices: matrices.collect::<Result<_>>()?,
            key_type: first.key_type.clone(),
            scan: Box::new(|matrix, plan| of_key(planned[matrix].0.frame(plan), only.clone())),
            states,
            explainer: Arc::new(self.explainer(planned, only.clone())),
        };
        let Running { populations, rows } = fusion.run().await?;
        let checkers = planned.iter().zip(&populations).map(|((bench, prepared), population)| {
            let checker = Checker::new(Arc::clone(schema), culprits(self, bench, prepared));
            cut(checker.of_population(*population))
        });
        let rows = looked_at(rows, checkers.collect(), order);
        Ok(Running { populations, rows })
    }

    pub(super) async fn prepared(&self, bench: &Bench, tables: &[TableSpec], as_of: AsOf) -> Result<Prepared> {
        let mut problems = self.add_views(bench, as_of.instant()).await?;
        let prepared = prepare::prepare(self, bench, tables, as_of, &mut problems).await?;
        Error::all(problems)?;
        Ok(prepared)
    }

    pub(super) fn schema<'a>(
        &self,
        key_type: &DataType,
        columns: impl Iterator<Item = (&'a str, &'a DataType)>,
    ) -> SchemaRef {
        use arrow::datatypes::Field;
        let key = Field::new(self.key(), key_type.clone(), false);
        let rest = columns.map(|(name, data_type)| Field::new(name, data_type.clone(), true));
        std::sync::Arc::new(Schema::new(std::iter::once(key).chain(rest).collect::<Vec<_>>()))
    }
}

/// A column by its bare name.
pub(super) fn named(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Rows that have a key, by it.
fn sorted(frame: DataFrame) -> Result<DataFrame> {
    Ok(frame.filter(named(Part::KEY).is_not_null())?.sort(vec![named(Part::KEY).sort(true, true)])?)
}

/// The files in an order in which each finds what it looks at: derived ones come last.
fn in_order(prepared: &Prepared) -> impl Iterator<Item = &PreparedFile> {
    let derived = |file: &&PreparedFile| matches!(file.plan, FilePlan::Derived(..));
    prepared.files.iter().filter(move |file| !derived(file)).chain(prepared.files.iter().filter(derived))
}

/// Rows of several matrices, each looked at by its own checker.
fn looked_at(
    batches: impl Stream<Item = Result<Batch>> + Send,
    checkers: Vec<Checker>,
    order: Vec<usize>,
) -> impl Stream<Item = Result<(usize, RecordBatch)>> + Send {
    let state = Some((Box::pin(batches), checkers, VecDeque::new(), false));
    stream::unfold(state, move |state| {
        let order = order.clone();
        async move {
            let (mut batches, mut checkers, mut ready, mut ended): (_, Vec<Checker>, VecDeque<_>, bool) = state?;
            loop {
                if let Some(found) = ready.pop_front() {
                    return Some((Ok(found), Some((batches, checkers, ready, ended))));
                }
                if ended {
                    return None;
                }
                let more = match batches.next().await {
                    Some(batch) => next_rows(batch, &mut checkers, &order).await,
                    None => {
                        ended = true;
                        last_rows(&mut checkers).await
                    }
                };
                match more {
                    Ok(more) => ready.extend(more),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        }
    })
}

async fn next_rows(
    batch: Result<Batch>,
    checkers: &mut [Checker],
    order: &[usize],
) -> Result<Vec<(usize, RecordBatch)>> {
    let (matrix, batch) = batch?;
    let checker = &mut checkers[matrix];
    match batch {
        Ok(batch) => {
            let batches = checker.push(batch.project(order)?).await?;
            Ok(batches.into_iter().map(|batch| (matrix, batch)).collect())
        }
        Err(Twice(key)) => Err(checker.blame(&key).await?),
    }
}

async fn last_rows(checkers: &mut [Checker]) -> Result<Vec<(usize, RecordBatch)>> {
    let mut last = Vec::new();
    for (matrix, checker) in checkers.iter_mut().enumerate() {
        last.extend(checker.finish().await?.map(|batch| (matrix, batch)));
    }
    Ok(last)
}

/// The rows of one key, where one is asked for.
fn of_key(frame: DataFrame, only: Option<ScalarValue>) -> Result<DataFrame> {
    Ok(match only {
        Some(key) => frame.filter(named(Part::KEY).eq(lit(key)))?,
        None => frame,
    })
}

/// The column, or its value over no rows where the join found none.
pub(super) fn or_empty(column: &PartColumn, right_key: &Expr) -> Result<Expr> {
    let own = named(&column.name);
    Ok(match column.empty.is_null() {
        true => own,
        false => {
            when(right_key.clone().is_null(), lit(column.empty.clone())).otherwise(own)?.alias(column.name.clone())
        }
    })
}

/// Who may have a key twice: the population and the free SELECTs, in this order.
fn culprits(set: &FeatureSet, bench: &Bench, prepared: &Prepared) -> Vec<Culprit> {
    use super::definition::Kind;
    let population = Culprit {
        file: set.population.as_ref().map(|d| d.file.clone()),
        what: "the population".to_owned(),
        frame: bench.frame(prepared.population.clone()),
    };
    let files = prepared.plans().filter(|(definition, _)| definition.kind == Kind::Free);
    let files = files.map(|(definition, plan)| Culprit {
        file: Some(definition.file.clone()),
        what: format!("`{}`", definition.file),
        frame: bench.frame(plan.clone()),
    });
    std::iter::once(population).chain(files).collect()
}
