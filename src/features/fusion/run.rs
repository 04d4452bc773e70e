//! A pass from beginning to end: the populations, the scans, then the rows of the matrices by ranges of customers.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::{Stream, stream, try_join};
use rayon::prelude::*;
use tokio::sync::Mutex;

use super::accumulator::Misfit;
use super::cursor::{Cursor, Twice};
use super::in_order::InOrder;
use super::inputs::Inputs;
use super::keys::{Keys, NOBODY};
use super::read::{Read, Reader, Scan, keys_of, settle};
use super::recipe::Recipe;
use super::scatter::{Ranges, Scattering};
use super::shard::{Excess, Export, Shard};
use super::source::{Share, Source};
use super::state::States;
use super::written::Writing;
use crate::features::bench;
use crate::features::explain::Explainer;
use crate::features::part::PartColumn;
use crate::lake::publish::PopulationCount;
use crate::{Error, Result, failpoint};

/// The name of the key while rows are put together.
const KEY: &str = "__key";
/// How the columns of one feature file come to be.
pub(in crate::features) enum File<'a> {
    /// In a pass shared with others.
    Fused(&'a Recipe),
    /// As it is written: one row per key, which is the first column.
    Alone(DataFrame),
    /// From the columns of the files before it.
    Derived(&'a [Expr]),
}

/// The matrix of one date.
pub(in crate::features) struct Matrix<'a> {
    /// The context that it was planned in.
    pub context: &'a SessionContext,
    /// Key by key; it need not be sorted.
    pub population: DataFrame,
    /// The columns of each file, and how they come to be, in the order of the job; derived files see those before them.
    pub files: Vec<(File<'a>, &'a [PartColumn])>,
    /// What the files are called.
    pub names: Vec<&'a str>,
}

/// What a pass computes.
pub(in crate::features) struct Fusion<'a> {
    /// The matrices, which have the same columns.
    pub matrices: Vec<Matrix<'a>>,
    pub key_type: DataType,
    /// Makes a scan of a plan.
    pub scan: Scan<'a>,
    /// What stands in for the rows of past days, where there is one date.
    pub states: Option<Arc<States>>,
    /// Says which file failed and why.
    pub explainer: Arc<Explainer>,
}

/// The population of each matrix as it was read, and the rows of all of them.
pub(in crate::features) struct Running<S> {
    pub populations: Vec<PopulationCount>,
    pub rows: S,
}

/// The rows of a matrix, or the key that spoils them; and which matrix it is.
pub(in crate::features) type Batch = (usize, std::result::Result<RecordBatch, Twice>);

/// One file while rows come out.
enum Step {
    Fused,
    Alone(Box<Cursor>),
    Derived(Vec<Arc<dyn PhysicalExpr>>),
}

/// One matrix while rows come out.
struct Output {
    keys: Keys,
    steps: Vec<Step>,
    /// The place of its first file among those of all matrices.
    first: usize,
    schema: SchemaRef,
}

/// What the threads share.
struct Pass {
    /// The keys of all matrices.
    keys: Keys,
    ranges: Ranges,
    /// The keys of customers that the population does not have and that states are written of.
    strangers: Option<Keys>,
    sources: Vec<Read>,
    /// Per matrix its customers, by their places among those of all; `None` where it has them all.
    members: Vec<Option<UInt32Array>>,
    /// The matrix of each file.
    matrix_of: Vec<usize>,
    /// Per file of all matrices; `None` where it is not fused.
    selects: Vec<Option<Select>>,
    explainer: Arc<Explainer>,
}

/// What comes of a range of customers: the columns of every fused file, and the states of every source that are written.
struct RangeResult {
    files: Vec<Vec<ArrayRef>>,
    exports: Vec<Vec<Option<Export>>>,
}

/// The columns of a file's aggregates, and its expressions over them.
struct Select {
    schema: SchemaRef,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
}

impl Fusion<'_> {
    /// Reads everything, then gives the rows: key and all columns in the order of the files, sorted by key within a matrix.
    pub async fn run(self) -> Result<Running<impl Stream<Item = Result<Batch>> + Send + use<>>> {
        let first = self.matrices.first().ok_or_else(|| Error::bug("a pass without a date"))?;
        let state = first.context.state();
        let threads = state.config().target_partitions();
        let files =
            || self.matrices.iter().enumerate().flat_map(|(m, matrix)| matrix.files.iter().map(move |f| (m, f)));
        let fused = files().enumerate().filter_map(|(place, (matrix, (file, _)))| match file {
            File::Fused(recipe) => Some((place, matrix, *recipe)),
            _ => None,
        });
        let recipes: Vec<(usize, usize, &Recipe)> = fused.collect();
        let matrix_of: Vec<usize> = files().map(|(matrix, _)| matrix).collect();
        let reader = Reader {
            scan: &self.scan,
            states: self.states.as_ref().filter(|_| self.matrices.len() == 1),
            names: &first.names,
            key_type: &self.key_type,
            explainer: &self.explainer,
            runtime: Arc::clone(state.runtime_env()),
            batch: state.config().batch_size(),
            turns: Mutex::default(),
        };
        let found = Source::of(&recipes, self.states.is_some())?;
        let populations: Vec<DataFrame> = self.matrices.iter().map(|matrix| matrix.population.clone()).collect();
        let selects = async {
            let selects = files().map(|(m, (file, _))| match file {
                File::Fused(recipe) => select(self.matrices[m].context, recipe).map(Some),
                _ => Ok(None),
            });
            selects.collect::<Result<Vec<_>>>()
        };
        // The expressions are made while tables and states are read.
        let (inputs, selects) = try_join!(Inputs::read(&reader, found, &populations, &matrix_of), selects)?;
        let Inputs { populations, how, mut sources, nights } = inputs;
        let Scattering { keys, index, .. } = how.clone();
        let (ranges, strangers) = settle(&mut sources, &how)?;
        let mut writing = Vec::new();
        if let Some(states) = &self.states {
            for night in nights {
                writing.push(night.and_then(|night| Writing::new(&night, states)));
            }
        }
        let counts = populations.iter().map(|keys| PopulationCount::of_rows(keys.len())).collect();
        let (mut outputs, mut members) = (Vec::new(), Vec::new());
        let mut place = 0;
        for (matrix, own) in self.matrices.into_iter().zip(populations) {
            let count = matrix.files.len();
            members.push(match own.len() == keys.len() {
                true => None,
                // Rows without a key stand first, for the last look at the rows to find.
                false => {
                    Some(index.places(own.array())?.into_iter().map(|p| if p == NOBODY { 0 } else { p }).collect())
                }
            });
            outputs.push(output(matrix, own, &self.key_type, place).await?);
            place += count;
        }
        drop((index, how));
        let explainer = Arc::clone(&self.explainer);
        let pass = Pass { keys, ranges, strangers, sources, members, matrix_of, selects, explainer };
        Ok(Running { populations: counts, rows: rows(Arc::new(pass), outputs, writing, threads) })
    }
}

async fn output(matrix: Matrix<'_>, keys: Keys, key_type: &DataType, first: usize) -> Result<Output> {
    let mut fields = vec![Field::new(KEY, key_type.clone(), true)];
    let mut steps = Vec::new();
    for (file, columns) in matrix.files {
        steps.push(match file {
            File::Fused(_) => Step::Fused,
            File::Alone(frame) => {
                let rows = frame.execute_stream().await?;
                Step::Alone(Box::new(Cursor::new(rows, key_type.clone(), columns.to_vec())))
            }
            File::Derived(exprs) => Step::Derived(physical(matrix.context, exprs, &fields)?),
        });
        fields.extend(columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)));
    }
    Ok(Output { keys, steps, first, schema: Arc::new(Schema::new(fields)) })
}

fn select(context: &SessionContext, recipe: &Recipe) -> Result<Select> {
    let fields: Vec<Field> = recipe.fields.iter().map(|field| field.clone().with_nullable(true)).collect();
    let exprs = physical(context, &recipe.select, &fields)?;
    Ok(Select { schema: Arc::new(Schema::new(fields)), exprs })
}

fn physical(context: &SessionContext, exprs: &[Expr], fields: &[Field]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    let schema = Arc::new(DFSchema::try_from(Schema::new(fields.to_vec()))?);
    let made = exprs.iter().map(|expr| bench::physical(context, expr.clone().unalias(), &schema));
    Ok(made.collect::<std::result::Result<_, _>>()?)
}

/// The columns of a file from what they are made of; the rows are those of `keys`.
fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
    explainer: &Explainer,
    file: usize,
    keys: &ArrayRef,
) -> Result<Vec<ArrayRef>> {
    let array = |(column, expr): (usize, &Arc<dyn PhysicalExpr>)| {
        let array = expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        array.map_err(|error| explainer.column((file, column), expr, batch, keys, error.into()))
    };
    exprs.iter().enumerate().map(array).collect()
}

impl Pass {
    /// The rows of a matrix that are of a range, and where they stand in it; `None` where they are the range.
    fn members(&self, matrix: usize, range: usize) -> (Range<usize>, Option<UInt32Array>) {
        let (from, length) = self.ranges.part(range);
        let Some(members) = &self.members[matrix] else { return (from..from + length, None) };
        let before = |end: usize| members.values().partition_point(|place| (*place as usize) < end);
        let rows = before(from)..before(from + length);
        let places = || members.values()[rows.clone()].iter().map(|place| place - from as u32);
        let places = (rows.len() < length).then(|| UInt32Array::from_iter_values(places()));
        (rows, places)
    }

    /// The error of an aggregate in the words of a file that has it.
    fn explained(&self, source: &Source, job: usize, range: usize, error: Error) -> Error {
        let misfit = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<Misfit>());
        let key =
            misfit.and_then(|misfit| ScalarValue::try_from_array(self.keys_of(range).array(), misfit.customer).ok());
        let mut users = source.shares.iter().filter_map(|share| Some((share.recipe, share.aggregate(job)?)));
        match (key, users.next()) {
            (Some(key), Some(user)) => self.explainer.aggregate(user, &key.to_string(), error),
            _ => error,
        }
    }

    /// The keys of a range.
    fn keys_of(&self, range: usize) -> Keys {
        keys_of(range, &self.ranges, &self.keys, self.strangers.as_ref())
    }

    /// What comes of a range of customers; of strangers only what is written down.
    fn range(&self, range: usize) -> Result<Result<RangeResult, Twice>> {
        failpoint::reach("pass.range");
        let (_, customers) = self.ranges.part(range);
        let known = range < self.ranges.of_population();
        let exports = self.sources.iter().map(|_| Vec::new()).collect();
        let mut found = RangeResult { files: vec![Vec::new(); self.selects.len()], exports };
        let wanted = |share: &Share| known && !self.members(self.matrix_of[share.recipe], range).0.is_empty();
        for (at, Read { source, rows, targets, .. }) in self.sources.iter().enumerate() {
            let (rows, states) = rows.of_range(range)?;
            let shard = match Shard::new(source, customers, &rows, states)? {
                Ok(shard) => shard,
                Err(Excess(customer)) => {
                    let key = ScalarValue::try_from_array(self.keys_of(range).array(), customer)?;
                    return Ok(Err(Twice(key)));
                }
            };
            let columns = shard.columns(wanted).map_err(|(job, error)| self.explained(source, job, range, error))?;
            for share in source.shares.iter().filter(|share| wanted(share)) {
                let Some(Select { schema, exprs }) = &self.selects[share.recipe] else { continue };
                let columns = share.columns.iter().filter_map(|(job, output)| columns[*job][*output].clone());
                let rows = RecordBatchOptions::new().with_row_count(Some(customers));
                let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &rows)?;
                let keys = self.keys_of(range);
                found.files[share.recipe] = evaluate(exprs, &batch, &self.explainer, share.recipe, keys.array())?;
            }
            let exports = targets.iter().map(|target| shard.export(&target.buckets));
            found.exports[at] = exports.collect::<Result<_>>()?;
        }
        Ok(Ok(found))
    }
}

/// The rows of matrices on their way out.
struct Rows {
    pass: Arc<Pass>,
    ranges: InOrder<Result<Result<RangeResult, Twice>>>,
    outputs: Vec<Output>,
    /// The states that are written, source by source.
    writing: Vec<Option<Writing>>,
    /// The range at hand, its columns, and the next matrix that takes some.
    current: Option<(usize, Vec<Vec<ArrayRef>>)>,
    next: usize,
}

/// Ranges of customers one after the other, so many of them at work at once.
fn rows(
    pass: Arc<Pass>,
    outputs: Vec<Output>,
    writing: Vec<Option<Writing>>,
    threads: usize,
) -> impl Stream<Item = Result<Batch>> + Send {
    let work = Arc::clone(&pass);
    let ranges = InOrder::start(pass.ranges.count(), threads, move |range| work.range(range));
    let rows = Rows { pass, ranges, outputs, writing, current: None, next: 0 };
    stream::unfold(Some(rows), |rows| async move {
        let mut rows = rows?;
        match rows.next().await {
            Ok(Some((matrix, Ok(batch)))) => Some((Ok((matrix, Ok(batch))), Some(rows))),
            Ok(Some(twice)) => Some((Ok(twice), None)),
            Ok(None) => rows.end().await.err().map(|error| (Err(error), None)),
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Rows {
    async fn next(&mut self) -> Result<Option<Batch>> {
        // A range's rows of one matrix after the other.
        while self.current.is_none() || self.next == self.outputs.len() {
            let Some((range, found)) = self.ranges.next().await? else { return Ok(None) };
            let RangeResult { files, exports } = match found? {
                Ok(found) => found,
                Err(twice) => return Ok(Some((0, Err(twice)))),
            };
            self.write(range, exports)?;
            self.current = (range < self.pass.ranges.of_population()).then_some((range, files));
            self.next = 0;
        }
        let Some((range, columns)) = &mut self.current else { return Ok(None) };
        let matrix = self.next;
        self.next += 1;
        let batch = self.outputs[matrix].rows(&self.pass, (matrix, *range), columns).await?;
        Ok(Some((matrix, batch)))
    }

    /// Keeps the states of a range.
    fn write(&mut self, range: usize, exports: Vec<Vec<Option<Export>>>) -> Result<()> {
        let keys = self.pass.keys_of(range);
        for (writing, exports) in self.writing.iter_mut().zip(exports) {
            if let Some(writing) = writing {
                writing.add(keys.array(), exports)?;
            }
        }
        Ok(())
    }

    /// Writes the files of states, and gives back what the pass held in the meantime.
    async fn end(self) -> Result<()> {
        let Rows { pass, ranges, writing, .. } = self;
        let write = move || writing.into_par_iter().flatten_iter().for_each(Writing::finish);
        let task = move || rayon::join(write, || drop((ranges, pass)));
        tokio::task::spawn_blocking(task).await.map(drop).map_err(|e| Error::task("a writer of states", e))
    }
}

impl Output {
    /// Its rows in a range.
    async fn rows(
        &mut self,
        pass: &Pass,
        (matrix, range): (usize, usize),
        fused: &mut [Vec<ArrayRef>],
    ) -> Result<std::result::Result<RecordBatch, Twice>> {
        let (rows, places) = pass.members(matrix, range);
        if rows.is_empty() {
            return Ok(Ok(RecordBatch::new_empty(Arc::clone(&self.schema))));
        }
        let keys = self.keys.slice(rows.start, rows.len());
        let mut columns = vec![Arc::clone(keys.array())];
        for (file, step) in self.steps.iter_mut().enumerate() {
            let more = match step {
                Step::Fused => {
                    let all = std::mem::take(&mut fused[self.first + file]);
                    match &places {
                        None => all,
                        Some(places) => {
                            all.iter().map(|array| take(array, places, None)).collect::<std::result::Result<_, _>>()?
                        }
                    }
                }
                Step::Alone(cursor) => match cursor.attach(&keys).await {
                    Ok(Ok(columns)) => columns,
                    Ok(Err(twice)) => return Ok(Err(twice)),
                    Err(error) => return Err(pass.explainer.file(matrix, file, error).await),
                },
                Step::Derived(exprs) => {
                    failpoint::reach("pass.derive");
                    let so_far = Arc::new(Schema::new(self.schema.fields()[..columns.len()].to_vec()));
                    let batch = RecordBatch::try_new(so_far, columns.clone())?;
                    evaluate(exprs, &batch, &pass.explainer, file, keys.array())?
                }
            };
            let fields = &self.schema.fields()[columns.len()..];
            let typed = more.iter().zip(fields).map(|(array, field)| cast(array, field.data_type()));
            let typed: Vec<ArrayRef> = typed.collect::<std::result::Result<_, _>>()?;
            columns.extend(typed);
        }
        Ok(Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}
