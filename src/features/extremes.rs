//! `min` and `max` of doubles as DataFusion aggregates under their usual names: a number that is not finite is the least and the
//! greatest of all, wherever it lies among the rows. The matrix has NULL then, as it has for a sum over such a row.
//!
//! Every other type goes to DataFusion's own functions, which these wrap.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::functions_aggregate::min_max;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion::prelude::SessionContext;

/// Replaces `min` and `max` of a context.
pub(super) fn register(context: &SessionContext) {
    for inner in [min_max::min_udaf(), min_max::max_udaf()] {
        context.register_udaf(AggregateUDF::from(Extreme { inner }));
    }
}

/// Whether a number takes the place of another one.
type Better = fn(f64, f64) -> bool;

/// Whether a number is less than all before it.
pub(super) fn less(new: f64, old: f64) -> bool {
    old.is_finite() && (!new.is_finite() || new.total_cmp(&old).is_lt())
}

/// Whether a number is greater than all before it.
pub(super) fn greater(new: f64, old: f64) -> bool {
    old.is_finite() && (!new.is_finite() || new.total_cmp(&old).is_gt())
}

/// A DataFusion aggregate that takes doubles its own way.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
}

impl Extreme {
    fn is_ours(output: &DataType) -> bool {
        matches!(output, DataType::Float64 | DataType::Float32)
    }

    fn extremes(&self, output: &DataType, groups: usize) -> MinMaxAccumulator {
        let better = if self.inner.name() == "max" { greater } else { less };
        MinMaxAccumulator { better, output: output.clone(), numbers: vec![None; groups] }
    }
}

impl AggregateUDFImpl for Extreme {
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
        match Self::is_ours(args.return_type()) {
            true => Ok(Box::new(OneGroup(self.extremes(args.return_type(), 1)))),
            false => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !Self::is_ours(args.return_type()) {
            return self.inner.state_fields(args);
        }
        let name = format_state_name(args.name, self.name());
        Ok(vec![Arc::new(Field::new(name, DataType::Float64, true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        Self::is_ours(args.return_type()) || self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match Self::is_ours(args.return_type()) {
            true => Ok(Box::new(self.extremes(args.return_type(), 0))),
            false => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
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

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

/// The least or greatest number of each group.
#[derive(Debug)]
struct MinMaxAccumulator {
    better: Better,
    output: DataType,
    numbers: Vec<Option<f64>>,
}

impl MinMaxAccumulator {
    fn add(
        &mut self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let array = values.first().ok_or_else(|| exec_datafusion_err!("`min` and `max` need an argument"))?;
        let array = cast(array, &DataType::Float64)?;
        let numbers = array.as_primitive::<Float64Type>();
        let counts = |row: usize| numbers.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        for row in (0..numbers.len()).filter(|row| counts(*row)) {
            let (new, state) = (numbers.value(row), &mut self.numbers[group(row)]);
            if state.is_none_or(|old| (self.better)(new, old)) {
                *state = Some(new);
            }
        }
        Ok(())
    }

    fn result(&self, numbers: Vec<Option<f64>>) -> Result<ArrayRef> {
        Ok(cast(&Float64Array::from(numbers), &self.output)?)
    }
}

impl GroupsAccumulator for MinMaxAccumulator {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.numbers.resize(total_num_groups, None);
        self.add(values, opt_filter, |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let numbers = emit_to.take_needed(&mut self.numbers);
        self.result(numbers)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Float64Array::from(emit_to.take_needed(&mut self.numbers)))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.numbers.resize(total_num_groups, None);
        self.add(values, None, |row| group_indices[row])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |array| array.len());
        let mut each =
            MinMaxAccumulator { better: self.better, output: self.output.clone(), numbers: vec![None; rows] };
        each.add(values, opt_filter, |row| row)?;
        Ok(vec![Arc::new(Float64Array::from(each.numbers))])
    }

    fn size(&self) -> usize {
        self.numbers.capacity() * size_of::<Option<f64>>()
    }
}

/// A query without GROUP BY: the same with one group.
#[derive(Debug)]
struct OneGroup(MinMaxAccumulator);

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.add(values, None, |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.0.result(self.0.numbers.clone())?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Float64(self.0.numbers.first().copied().flatten())])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.add(states, None, |_| 0)
    }
}
