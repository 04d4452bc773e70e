//! The files joined into one row per customer.

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, lit, when};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;

use super::FeatureStream;
use super::bench::Bench;
use super::part::{Part, PartColumn};
use super::prepare::{self, FilePlan, Prepared};
use super::rows::{self, Culprit};
use super::sequence;
use super::set::FeatureSet;
use crate::spec::TableSpec;
use crate::{AsOf, Error, Result};

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
        let bench = Bench::over(context).await?;
        let prepared = self.prepared(&bench, tables.as_ref(), as_of).await?;
        self.stream(&bench, &prepared, as_of, None).await
    }

    /// Runs what was planned, for everybody or for one key.
    async fn stream(
        &self,
        bench: &Bench,
        prepared: &Prepared,
        as_of: AsOf,
        only: Option<ScalarValue>,
    ) -> Result<FeatureStream> {
        let sequence = self.sequence_plan(bench, &prepared.key_type, as_of).await;
        let sequence = sequence.or_else(|problems| Error::all(problems).map(|()| None))?;
        let columns = prepared.columns(self);
        let schema = self.schema(&prepared.key_type, columns.iter().map(|c| (c.name.as_str(), &c.data_type)));
        let frame = joined(self, bench, prepared, only.clone())?;
        let rows = rows::checked(frame.execute_stream().await?, schema.clone(), culprits(self, bench, prepared));
        let matrix = FeatureStream::new(schema, as_of, rows);
        Ok(match sequence {
            None => matrix,
            Some(plan) => {
                let events = of_key(bench.frame(plan.plan.clone()), only)?.execute_stream().await?;
                sequence::attached(matrix, &plan, events)
            }
        })
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
        let key = match (&prepared.key_type, key.parse::<i64>()) {
            (DataType::Int64, Ok(number)) => ScalarValue::Int64(Some(number)),
            (DataType::Int64, Err(_)) => {
                return Err(
                    Error::user(format!("`{key}` is not a key")).hint(format!("`{}` is an integer", self.key()))
                );
            }
            _ => ScalarValue::Utf8(Some(key.to_owned())),
        };
        self.stream(&bench, &prepared, as_of, Some(key)).await?.next().await.transpose()
    }

    /// The physical plan behind the matrix, as text.
    pub async fn explain(
        &self,
        context: &SessionContext,
        tables: &(impl AsRef<[TableSpec]> + Sync + ?Sized),
        as_of: AsOf,
    ) -> Result<String> {
        let bench = Bench::over(context).await?;
        let prepared = self.prepared(&bench, tables.as_ref(), as_of).await?;
        let plan = joined(self, &bench, &prepared, None)?.create_physical_plan().await?;
        Ok(datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string())
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

/// Population ⟕ files, derived columns on top, sorted by key; `only` restricts it to one key.
fn joined(set: &FeatureSet, bench: &Bench, prepared: &Prepared, only: Option<ScalarValue>) -> Result<DataFrame> {
    let source = |plan: &LogicalPlan| of_key(bench.frame(plan.clone()), only.clone());
    let mut frame = source(&prepared.population)?;
    for (i, file) in prepared.files.iter().enumerate() {
        let FilePlan::Joined(part) = &file.plan else { continue };
        let right_key = format!("{}_{i}", Part::KEY);
        let mut select = vec![named(Part::KEY).alias(right_key.clone())];
        select.extend(part.columns.iter().map(|column| named(&column.name)));
        let right = source(&part.plan)?.select(select)?;
        frame = frame.join(right, JoinType::Left, &[Part::KEY], &[right_key.as_str()], None)?;
    }
    let mut select = vec![named(Part::KEY).alias(set.key())];
    for (i, file) in prepared.files.iter().enumerate() {
        if let FilePlan::Joined(part) = &file.plan {
            let right_key = named(&format!("{}_{i}", Part::KEY));
            for column in &part.columns {
                select.push(or_empty(column, &right_key)?);
            }
        }
    }
    let mut names: Vec<String> = select.iter().map(|e| e.schema_name().to_string()).collect();
    frame = frame.select(select)?;
    for file in &prepared.files {
        if let FilePlan::Derived(exprs, columns) = &file.plan {
            let all = names.iter().map(|name| named(name)).chain(exprs.iter().cloned());
            frame = frame.select(all.collect::<Vec<_>>())?;
            names.extend(columns.iter().map(|c| c.name.clone()));
        }
    }
    let order = prepared.columns(set);
    let last = std::iter::once(set.key()).chain(order.iter().map(|c| c.name.as_str()));
    let frame = frame.select(last.map(named).collect::<Vec<_>>())?;
    Ok(frame.sort(vec![named(set.key()).sort(true, true)])?)
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
