//! Small functions that every column of the matrix goes through, written for arrays that hardly ever need them.
//!
//! `finite(x)` is a double as it stands in the matrix, where NaN and infinities are NULL. `filled(x, value)` has a number in
//! place of NULL.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

static FINITE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
    Arc::new(ScalarUDF::from(Finite { signature }))
});

/// The finite part of a double.
pub(super) fn finite(expr: Expr) -> Expr {
    FINITE.call(vec![expr])
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

#[derive(Debug, PartialEq, Eq, Hash)]
struct Finite {
    signature: Signature,
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &str {
        "finite"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Scalar(ScalarValue::Float64(x))] => {
                Ok(ColumnarValue::Scalar(ScalarValue::Float64(x.filter(|x| x.is_finite()))))
            }
            [ColumnarValue::Array(array)] => {
                let numbers = array
                    .as_primitive_opt::<Float64Type>()
                    .ok_or_else(|| exec_datafusion_err!("`finite` is of doubles, not of `{}`", array.data_type()))?;
                // Many at once: asking after each number whether to go on would take longer.
                if numbers.values().chunks(64).all(|some| some.iter().fold(true, |all, x| all & x.is_finite())) {
                    return Ok(ColumnarValue::Array(Arc::clone(array)));
                }
                let kept = numbers.iter().map(|x| x.filter(|x| x.is_finite()));
                Ok(ColumnarValue::Array(Arc::new(kept.collect::<Float64Array>())))
            }
            _ => Err(exec_datafusion_err!("`finite` is of one double")),
        }
    }
}
