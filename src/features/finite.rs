//! Small functions that every column of the matrix goes through, written for arrays that hardly ever need them.
//!
//! `finite(x, …)` is a value as it stands in the matrix, where NaN, infinities and what is made of them are NULL. `filled(x, value)`
//! has a number in place of NULL.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, PrimitiveArray,
};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

/// The finite part of a double.
pub(super) fn finite(expr: Expr) -> Expr {
    Finite::call(Arc::default(), vec![expr])
}

/// A value, or NULL where it, as a double, or one of these doubles that it is made of is NaN or infinite; these are counted.
pub(super) fn finite_with(expr: Expr, sums: Vec<Expr>, count: &Arc<AtomicU64>) -> Expr {
    Finite::call(Arc::clone(count), std::iter::once(expr).chain(sums).collect())
}

static FILLED: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let same = |data_type: &DataType| TypeSignature::Exact(vec![data_type.clone(), data_type.clone()]);
    let signature =
        Signature::one_of([DataType::Int64, DataType::Float64].iter().map(same).collect(), Volatility::Immutable);
    Arc::new(ScalarUDF::from(Filled { signature }))
});

/// A number of type `Int64` or `Float64`, or this one where it is NULL; anything else by `coalesce`.
pub(super) fn filled(expr: Expr, data_type: &DataType, value: ScalarValue) -> Expr {
    match data_type {
        DataType::Int64 | DataType::Float64 => FILLED.call(vec![expr, lit(value)]),
        _ => datafusion::functions::core::expr_fn::coalesce(vec![expr, lit(value)]),
    }
}

fn filled_array<T: ArrowPrimitiveType>(array: &ArrayRef, value: Option<T::Native>) -> Result<ArrayRef> {
    let numbers = array.as_primitive_opt::<T>().ok_or_else(|| exec_datafusion_err!("`filled` is of two numbers"))?;
    let (Some(value), Some(nulls)) = (value, numbers.nulls()) else { return Ok(Arc::clone(array)) };
    // What stands where a sum is NULL is 0 already, and mostly wanted.
    if (!nulls.inner()).set_indices().all(|row| numbers.values()[row].is_eq(value)) {
        return Ok(Arc::new(PrimitiveArray::<T>::new(numbers.values().clone(), None)));
    }
    let filled = numbers.values().iter().zip(nulls).map(|(x, there)| if there { *x } else { value });
    Ok(Arc::new(PrimitiveArray::<T>::from_iter_values(filled)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Filled {
    signature: Signature,
}

impl ScalarUDFImpl for Filled {
    fn name(&self) -> &str {
        "filled"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        arg_types.first().cloned().ok_or_else(|| exec_datafusion_err!("`filled` is of two numbers"))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Scalar(x), ColumnarValue::Scalar(value)] => {
                Ok(ColumnarValue::Scalar(if x.is_null() { value.clone() } else { x.clone() }))
            }
            [ColumnarValue::Array(array), ColumnarValue::Scalar(ScalarValue::Int64(value))] => {
                filled_array::<Int64Type>(array, *value).map(ColumnarValue::Array)
            }
            [ColumnarValue::Array(array), ColumnarValue::Scalar(ScalarValue::Float64(value))] => {
                filled_array::<Float64Type>(array, *value).map(ColumnarValue::Array)
            }
            _ => Err(exec_datafusion_err!("`filled` is of two numbers")),
        }
    }
}

/// `finite(x, sums…)`: `x`, or NULL where it or one of the doubles behind it is NaN or infinite.
#[derive(Debug)]
struct Finite {
    signature: Signature,
    /// How many values became NULL.
    count: Arc<AtomicU64>,
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.count, &other.count)
    }
}

impl Eq for Finite {}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.count).hash(state);
    }
}

impl Finite {
    fn call(count: Arc<AtomicU64>, args: Vec<Expr>) -> Expr {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::from(Finite { signature, count }).call(args)
    }
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &str {
        "finite"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        arg_types.first().cloned().ok_or_else(|| exec_datafusion_err!("`finite` is of a value"))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Scalar(value)] = args.args.as_slice() {
            let is_finite = !matches!(value, ScalarValue::Float64(Some(x)) if !x.is_finite());
            return Ok(ColumnarValue::Scalar(if is_finite { value.clone() } else { ScalarValue::Float64(None) }));
        }
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let value = arrays.first().ok_or_else(|| exec_datafusion_err!("`finite` is of a value"))?;
        let doubles = arrays.iter().filter_map(|array| array.as_primitive_opt::<Float64Type>());
        // Many at once: asking after each number whether to go on would take longer.
        let all = |numbers: &[f64]| numbers.chunks(64).all(|some| some.iter().fold(true, |all, x| all & x.is_finite()));
        let broken: Vec<&Float64Array> = doubles.filter(|numbers| !all(numbers.values())).collect();
        if broken.is_empty() {
            return Ok(ColumnarValue::Array(Arc::clone(value)));
        }
        let is_broken = |row: usize| broken.iter().any(|x| x.is_valid(row) && !x.value(row).is_finite());
        let broken: BooleanArray = (0..value.len()).map(|row| Some(is_broken(row))).collect();
        self.count.fetch_add(broken.true_count() as u64, Ordering::Relaxed);
        Ok(ColumnarValue::Array(nullif(value, &broken)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::col;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::features::bench;

    #[test]
    fn what_is_not_finite_or_made_of_it_is_null_and_counted() {
        let fields = [("n", DataType::Int64), ("x", DataType::Float64)].map(|(name, t)| Field::new(name, t, true));
        let x = vec![Some(f64::NAN), Some(1.0), Some(f64::INFINITY), None, Some(-0.0)];
        let n = Int64Array::from_iter_values(0..5);
        let columns: Vec<ArrayRef> = vec![Arc::new(n), Arc::new(Float64Array::from(x))];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns).unwrap();
        let schema = Arc::new(DFSchema::try_from(batch.schema().as_ref().clone()).unwrap());
        let count = Arc::new(AtomicU64::default());
        let evaluated = |expr: Expr| {
            let expr = bench::physical(&SessionContext::new(), expr, &schema).unwrap();
            expr.evaluate(&batch).unwrap().into_array(5).unwrap()
        };
        let of_sums = evaluated(finite_with(col("n"), vec![col("x")], &count));
        assert_eq!(of_sums.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(1), None, Some(3), Some(4)]));
        let itself = evaluated(finite_with(col("x"), Vec::new(), &count));
        let wanted = Float64Array::from(vec![None, Some(1.0), None, None, Some(-0.0)]);
        assert_eq!((itself.as_primitive::<Float64Type>(), count.load(Ordering::Relaxed)), (&wanted, 4));
        // A customer without rows is not one with broken ones.
        let filled = filled(col("x"), &DataType::Float64, ScalarValue::Float64(Some(7.0)));
        let filled = evaluated(finite_with(filled, Vec::new(), &count));
        let wanted = Float64Array::from(vec![None, Some(1.0), None, Some(7.0), Some(-0.0)]);
        assert_eq!(filled.as_primitive::<Float64Type>(), &wanted);
    }
}
