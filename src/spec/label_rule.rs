//! What a label may be under each loss.
//!
//! A loss takes any number: cross-entropy of a count is below 0 and a log-normal density of a negative value is not a number.
//! Training, evaluation, tuning and the outcomes of past nights judge by these rules, and so does the check of a `@default`.

use arrow::datatypes::DataType;

use crate::spec::Loss;

/// The rule that a finite label breaks, if it does.
pub fn broken_rule(loss: &Loss, label: f64) -> Option<&'static str> {
    match loss {
        Loss::Bce if !(0.0..=1.0).contains(&label) => Some("a label of `bce` lies between 0 and 1"),
        Loss::Ziln if label < 0.0 => Some("a label of `ziln` is 0 or more"),
        Loss::Bce | Loss::Ziln | Loss::Mse | Loss::Softmax => None,
    }
}

/// What to do about a label that breaks the rule of its loss.
pub fn way_out(loss: &Loss) -> &'static str {
    match loss {
        Loss::Bce => {
            "write `CASE WHEN … THEN 1.0 ELSE 0.0 END`, or divide a percentage by 100; a count is learned with `loss: mse`"
        }
        Loss::Ziln => "write `greatest(…, 0.0)`, or learn it with `loss: mse`",
        Loss::Mse | Loss::Softmax => "change the label's expression",
    }
}

/// The rule that a type breaks, if it does.
pub fn broken_type(loss: &Loss, data_type: &DataType) -> Option<&'static str> {
    let number = matches!(data_type, DataType::Boolean | DataType::Int64 | DataType::Float64);
    let class = matches!(data_type, DataType::Boolean | DataType::Int64 | DataType::Utf8);
    match loss {
        Loss::Bce if !number => Some("a label of `bce` is a truth value or a number from 0 to 1"),
        Loss::Ziln if !number => Some("a label of `ziln` is a number"),
        Loss::Mse if !number => Some("a label of `mse` is a number"),
        Loss::Softmax if !class => Some("a label of `softmax` is a text, a whole number or a truth value"),
        Loss::Bce | Loss::Ziln | Loss::Mse | Loss::Softmax => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_learns_from_zero_to_one_and_a_value_from_zero_up() {
        let fits =
            |loss: &Loss| [-1e9, -1.0, 0.0, 0.4, 1.0, 1.5, 100.0].map(|label| broken_rule(loss, label).is_none());
        assert_eq!(fits(&Loss::Bce), [false, false, true, true, true, false, false]);
        assert_eq!(fits(&Loss::Ziln), [false, false, true, true, true, true, true]);
        assert_eq!(fits(&Loss::Mse), [true; 7]);
    }

    #[test]
    fn a_text_is_a_class_and_no_number() {
        assert_eq!(broken_type(&Loss::Softmax, &DataType::Utf8), None);
        assert!(broken_type(&Loss::Softmax, &DataType::Float64).is_some());
        assert!(
            broken_type(&Loss::Bce, &DataType::Utf8).is_some() && broken_type(&Loss::Mse, &DataType::Date32).is_some()
        );
        assert_eq!(broken_type(&Loss::Bce, &DataType::Boolean), None);
    }
}
