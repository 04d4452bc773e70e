//! [`super::exact`] and [`super::whole_sum`] as DataFusion aggregates: `sum`, `avg`, `stddev`, `var` over floats and `sum` over
//! integers under their usual names.
//!
//! Every other type and DISTINCT go to DataFusion's own functions, which these wrap; so do floats in sliding windows.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::functions_aggregate::{average, stddev, sum, variance};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion::prelude::SessionContext;

use super::exact::{self, ExactSum};
use super::whole_sum::{self, OneWholeSum, WholeSums};

/// Replaces the float aggregates of a context by those that give the same bits whatever the order of the rows.
pub(super) fn register(context: &SessionContext) {
    use Moment::{Average, Deviation, Sum, Variance};
    let functions = [
        (sum::sum_udaf(), Sum),
        (average::avg_udaf(), Average),
        (variance::var_samp_udaf(), Variance { correction: 1 }),
        (variance::var_pop_udaf(), Variance { correction: 0 }),
        (stddev::stddev_udaf(), Deviation { correction: 1 }),
        (stddev::stddev_pop_udaf(), Deviation { correction: 0 }),
    ];
    for (inner, moment) in functions {
        context.register_udaf(AggregateUDF::from(ExactMoment { inner, moment }));
    }
}

/// What is made of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Moment {
    Sum,
    Average,
    Variance { correction: u64 },
    Deviation { correction: u64 },
}

impl Moment {
    fn needs_squares(self) -> bool {
        matches!(self, Moment::Variance { .. } | Moment::Deviation { .. })
    }

    fn finish(self, group: &Group) -> Option<f64> {
        match self {
            _ if group.count == 0 => None,
            Moment::Sum => Some(group.sum.value()),
            Moment::Average => Some(group.sum.value() / group.count as f64),
            Moment::Variance { correction } => exact::variance(group.count, &group.sum, &group.squares?, correction),
            Moment::Deviation { correction } => {
                exact::variance(group.count, &group.sum, &group.squares?, correction).map(f64::sqrt)
            }
        }
    }
}

/// One group as it is finished.
struct Group {
    count: u64,
    sum: ExactSum,
    squares: Option<ExactSum>,
}

/// A DataFusion aggregate whose float path is exact.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactMoment {
    inner: Arc<AggregateUDF>,
    moment: Moment,
}

impl ExactMoment {
    fn is_ours(input: Option<&FieldRef>, output: &DataType, distinct: bool) -> bool {
        let float = input.is_some_and(|f| matches!(f.data_type(), DataType::Float64 | DataType::Float32));
        float && !distinct && *output == DataType::Float64
    }

    fn takes(args: &AccumulatorArgs) -> bool {
        Self::is_ours(args.expr_fields.first(), args.return_type(), args.is_distinct)
    }

    /// Whether it is a sum of whole numbers.
    fn is_whole(&self, output: &DataType, distinct: bool) -> bool {
        self.moment == Moment::Sum && !distinct && matches!(output, DataType::Int64 | DataType::UInt64)
    }
}

impl AggregateUDFImpl for ExactMoment {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if self.is_whole(args.return_type(), args.is_distinct) {
            return Ok(Box::new(OneWholeSum::new(args.return_type())));
        }
        match Self::takes(&args) {
            true => Ok(Box::new(OneGroup(Groups::new(self.moment, 1)))),
            false => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if self.is_whole(args.return_type(), args.is_distinct) {
            return Ok(whole_sum::state_fields(&args));
        }
        if !Self::is_ours(args.input_fields.first(), args.return_type(), args.is_distinct) {
            return self.inner.state_fields(args);
        }
        let parts = if self.moment.needs_squares() { 6 } else { 3 };
        let count = Field::new(format_state_name(args.name, "count"), DataType::UInt64, true);
        let sums =
            (0..parts).map(|i| Field::new(format_state_name(args.name, &format!("part {i}")), DataType::Float64, true));
        Ok(std::iter::once(count).chain(sums).map(Arc::new).collect())
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        let whole = self.is_whole(args.return_type(), args.is_distinct);
        whole || Self::takes(&args) || self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if self.is_whole(args.return_type(), args.is_distinct) {
            return Ok(Box::new(WholeSums::new(args.return_type(), 0)));
        }
        match Self::takes(&args) {
            true => Ok(Box::new(Groups::new(self.moment, 0))),
            false => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if self.is_whole(args.return_type(), args.is_distinct) {
            return Ok(Box::new(OneWholeSum::new(args.return_type())));
        }
        self.inner.create_sliding_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

/// The state of all groups.
#[derive(Debug)]
struct Groups {
    moment: Moment,
    counts: Vec<u64>,
    sums: Vec<ExactSum>,
    squares: Vec<ExactSum>,
}

impl Groups {
    fn new(moment: Moment, groups: usize) -> Self {
        let mut new = Groups { moment, counts: Vec::new(), sums: Vec::new(), squares: Vec::new() };
        new.resize(groups);
        new
    }

    fn resize(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        self.sums.resize(groups, ExactSum::default());
        if self.moment.needs_squares() {
            self.squares.resize(groups, ExactSum::default());
        }
    }

    #[inline]
    fn add(&mut self, group: usize, x: f64) {
        self.counts[group] += 1;
        self.sums[group].add(x);
        if self.moment.needs_squares() {
            self.squares[group].add_square(x);
        }
    }

    fn finish(&self, group: usize) -> Option<f64> {
        let squares = self.squares.get(group).copied();
        self.moment.finish(&Group { count: self.counts[group], sum: self.sums[group], squares })
    }

    fn merge(&mut self, states: &[ArrayRef], group_of: impl Fn(usize) -> usize) -> Result<()> {
        let wrong = || exec_datafusion_err!("the state of a sum has the wrong shape");
        let (counts, parts) = states.split_first().ok_or_else(wrong)?;
        let counts = counts.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
        let parts: Vec<&Float64Array> = parts.iter().filter_map(|a| a.as_primitive_opt()).collect();
        if parts.len() != if self.moment.needs_squares() { 6 } else { 3 } {
            return Err(wrong());
        }
        let sum_at = |from: usize, row: usize| ExactSum::from_parts([0, 1, 2].map(|i| parts[from + i].value(row)));
        for row in (0..counts.len()).filter(|&row| counts.is_valid(row) && counts.value(row) > 0) {
            let group = group_of(row);
            self.counts[group] += counts.value(row);
            self.sums[group].merge(&sum_at(0, row));
            if self.moment.needs_squares() {
                self.squares[group].merge(&sum_at(3, row));
            }
        }
        Ok(())
    }
}

/// Calls `visit` with every row that counts and its number.
fn each_number(values: &[ArrayRef], filter: Option<&BooleanArray>, mut visit: impl FnMut(usize, f64)) -> Result<()> {
    let array = values.first().ok_or_else(|| exec_datafusion_err!("a sum needs an argument"))?;
    let cast_array;
    let numbers: &Float64Array = match array.as_primitive_opt::<Float64Type>() {
        Some(numbers) => numbers,
        None => {
            cast_array = cast(array, &DataType::Float64)?;
            cast_array.as_primitive()
        }
    };
    let counts = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
    if numbers.null_count() == 0 && filter.is_none() {
        numbers.values().iter().enumerate().for_each(|(row, x)| visit(row, *x));
    } else {
        for row in (0..numbers.len()).filter(|&row| numbers.is_valid(row) && counts(row)) {
            visit(row, numbers.value(row));
        }
    }
    Ok(())
}

fn state_arrays(moment: Moment, counts: Vec<u64>, sums: &[ExactSum], squares: &[ExactSum]) -> Vec<ArrayRef> {
    let part =
        |sums: &[ExactSum], i: usize| Arc::new(Float64Array::from_iter_values(sums.iter().map(|s| s.parts()[i])));
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(counts))];
    arrays.extend((0..3).map(|i| part(sums, i) as ArrayRef));
    if moment.needs_squares() {
        arrays.extend((0..3).map(|i| part(squares, i) as ArrayRef));
    }
    arrays
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        each_number(values, opt_filter, |row, x| self.add(group_indices[row], x))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let emitted = Groups {
            moment: self.moment,
            counts: emit_to.take_needed(&mut self.counts),
            sums: emit_to.take_needed(&mut self.sums),
            squares: self.take_squares(emit_to),
        };
        Ok(Arc::new((0..emitted.counts.len()).map(|group| emitted.finish(group)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = emit_to.take_needed(&mut self.counts);
        let sums = emit_to.take_needed(&mut self.sums);
        let squares = self.take_squares(emit_to);
        Ok(state_arrays(self.moment, counts, &sums, &squares))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.resize(total_num_groups);
        self.merge(values, |row| group_indices[row])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut rows = Groups::new(self.moment, values.first().map_or(0, |a| a.len()));
        each_number(values, opt_filter, |row, x| rows.add(row, x))?;
        Ok(state_arrays(self.moment, rows.counts, &rows.sums, &rows.squares))
    }

    fn size(&self) -> usize {
        self.counts.capacity() * size_of::<u64>()
            + (self.sums.capacity() + self.squares.capacity()) * size_of::<ExactSum>()
    }
}

impl Groups {
    fn take_squares(&mut self, emit_to: EmitTo) -> Vec<ExactSum> {
        match self.moment.needs_squares() {
            true => emit_to.take_needed(&mut self.squares),
            false => Vec::new(),
        }
    }
}

/// A query without GROUP BY: the same state with one group.
#[derive(Debug)]
struct OneGroup(Groups);

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each_number(values, None, |_, x| self.0.add(0, x))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.0.finish(0)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sums = [self.0.sums.first(), self.0.squares.first()];
        let parts = sums.into_iter().flatten().flat_map(ExactSum::parts).map(|part| ScalarValue::Float64(Some(part)));
        Ok(std::iter::once(ScalarValue::UInt64(self.0.counts.first().copied())).chain(parts).collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge(states, |_| 0)
    }
}
