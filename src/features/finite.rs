//! `finite(x)`: a double as it stands in the matrix, where NaN and infinities are NULL. Most columns pass as they are.

use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

static FINITE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
    Arc::new(ScalarUDF::from(Finite { signature }))
});

/// The finite part of a double.
pub(super) fn finite(expr: Expr) -> Expr {
    FINITE.call(vec![expr])
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
                if numbers.values().iter().all(|x| x.is_finite()) {
                    return Ok(ColumnarValue::Array(Arc::clone(array)));
                }
                let kept = numbers.iter().map(|x| x.filter(|x| x.is_finite()));
                Ok(ColumnarValue::Array(Arc::new(kept.collect::<Float64Array>())))
            }
            _ => Err(exec_datafusion_err!("`finite` is of one double")),
        }
    }
}
