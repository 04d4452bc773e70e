//! What the columns of a model are called: known from the job alone, before there is a model.

use arrow::datatypes::DataType;

use super::{Loss, ModelSpec};

/// The column that says why a customer has no scores.
pub const NO_SCORE_REASON: &str = "no_score_reason";

/// What the names of the network's inputs begin with that `model.btyd` makes.
pub const BTYD_PREFIX: &str = "btyd_";

/// The columns that scoring adds, with their types and what they mean.
pub fn score_columns(model: &ModelSpec) -> Vec<(String, DataType, String)> {
    let heads: Vec<(&str, &str, &Loss)> =
        model.heads.iter().map(|h| (h.name.as_str(), h.label.as_str(), &h.loss)).collect();
    columns_of(&heads)
}

/// The same for heads by name, label and loss.
pub fn columns_of(heads: &[(&str, &str, &Loss)]) -> Vec<(String, DataType, String)> {
    let mut columns = Vec::new();
    for (name, label, loss) in heads {
        let mut number = |name: String, meaning: String| columns.push((name, DataType::Float64, meaning));
        match loss {
            Loss::Bce => number(name.to_string(), format!("predicted probability that `{label}` is 1")),
            Loss::Mse => number(name.to_string(), format!("predicted `{label}`")),
            Loss::Ziln => {
                number(name.to_string(), format!("expected `{label}`"));
                for (suffix, share) in [("p10", "a tenth"), ("p50", "half"), ("p90", "nine tenths")] {
                    number(
                        format!("{name}_{suffix}"),
                        format!("`{label}` stays at or below this with a chance of {share}"),
                    );
                }
                number(format!("{name}_p_zero"), format!("predicted probability that `{label}` is 0"));
            }
            Loss::Softmax => {
                columns.push((name.to_string(), DataType::Utf8, format!("likeliest `{label}`")));
                let meaning = format!("predicted probability of the likeliest `{label}`");
                columns.push((format!("{name}_probability"), DataType::Float64, meaning));
            }
        }
    }
    columns.push((NO_SCORE_REASON.into(), DataType::Utf8, "why there are no scores; NULL where there are".into()));
    columns
}
