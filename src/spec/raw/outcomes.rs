//! The part of a job file about past predictions and what happened.

use schemars::JsonSchema;
use serde::Serialize;

use super::RawRange;
use crate::spec::outcomes::OutcomeMetric;
use crate::spec::read::{At, Keyed, read_keys};

/// Past predictions beside what happened: every night compares those made one horizon ago.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Outcomes")]
pub(in crate::spec) struct RawOutcomes {
    /// The heads that are compared. Default: all of them; `[]` compares none.
    pub heads: Option<At<Vec<At<String>>>>,
    /// With fewer judged customers than this, a head raises no alert. Default: 100.
    #[schemars(range(min = 1), extend("default" = 100))]
    pub minimum_customers: Option<At<u64>>,
    /// Bounds by head and metric; crossing one ends the published night with exit code 3:
    /// `{churn_90d: {auc: {min: 0.7}}, ltv_90d: {total_bias: {min: -0.2, max: 0.2}}}`.
    pub alert: Option<At<Keyed<RawAlert>>>,
}

read_keys!(RawOutcomes, "the outcomes": heads, minimum_customers, alert);

/// The bounds of a head's metrics.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub(in crate::spec) struct RawAlert {
    /// Predicted total over the realised one, minus 1: `-0.2` is a fifth too little.
    pub total_bias: Option<At<RawRange>>,
    /// Differences of the deciles' totals over the realised total.
    pub decile_wape: Option<At<RawRange>>,
    /// Area under the ROC curve; for `bce` and `softmax`.
    pub auc: Option<At<RawRange>>,
    /// Area under precision and recall; for `bce`.
    pub average_precision: Option<At<RawRange>>,
    /// Mean negative log-likelihood; for `bce` and `softmax`.
    pub log_loss: Option<At<RawRange>>,
    /// Mean squared error of the probabilities; for `bce` and `softmax`.
    pub brier: Option<At<RawRange>>,
    /// Expected calibration error over ten bins; for `bce` and `softmax`.
    pub calibration_error: Option<At<RawRange>>,
    /// The share of customers whose likeliest class was the right one; for `softmax`.
    pub accuracy: Option<At<RawRange>>,
    /// Normalized Gini; for `ziln`.
    pub gini_norm: Option<At<RawRange>>,
    /// Rank correlation; for `ziln` and `mse`.
    pub spearman: Option<At<RawRange>>,
    /// Mean absolute error; for `ziln` and `mse`.
    pub mae: Option<At<RawRange>>,
    /// Root of the mean squared error; for `ziln` and `mse`.
    pub rmse: Option<At<RawRange>>,
    /// How much of the values lay from p10 to p90, where 0.8 is right; for `ziln`.
    pub interval_coverage: Option<At<RawRange>>,
}

read_keys!(RawAlert, "the alerts of a head": total_bias, decile_wape, auc, average_precision, log_loss, brier,
    calibration_error, accuracy, gini_norm, spearman, mae, rmse, interval_coverage);

impl RawAlert {
    /// The bounds that are there.
    pub fn ranges(&self) -> impl Iterator<Item = (OutcomeMetric, &At<RawRange>)> {
        OutcomeMetric::ALL.into_iter().filter_map(move |metric| Some((metric, self.range(metric)?)))
    }

    fn range(&self, metric: OutcomeMetric) -> Option<&At<RawRange>> {
        let range = match metric {
            OutcomeMetric::TotalBias => &self.total_bias,
            OutcomeMetric::DecileWape => &self.decile_wape,
            OutcomeMetric::Auc => &self.auc,
            OutcomeMetric::AveragePrecision => &self.average_precision,
            OutcomeMetric::LogLoss => &self.log_loss,
            OutcomeMetric::Brier => &self.brier,
            OutcomeMetric::CalibrationError => &self.calibration_error,
            OutcomeMetric::Accuracy => &self.accuracy,
            OutcomeMetric::GiniNorm => &self.gini_norm,
            OutcomeMetric::Spearman => &self.spearman,
            OutcomeMetric::Mae => &self.mae,
            OutcomeMetric::Rmse => &self.rmse,
            OutcomeMetric::IntervalCoverage => &self.interval_coverage,
        };
        range.as_ref()
    }
}
