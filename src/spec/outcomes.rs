//! Which past predictions are compared with what happened, and what is worth an alert.

use super::job::Loss;

/// The comparison of the predictions made one horizon ago with what happened since.
#[derive(Debug, Clone, Default)]
pub struct OutcomesSpec {
    /// The heads that are compared, in the order of the job file.
    pub heads: Vec<String>,
    /// A head with fewer judged customers raises no alert.
    pub minimum_customers: u64,
    /// Bounds whose crossing ends a night with exit code 3.
    pub thresholds: Vec<ThresholdSpec>,
}

/// The bounds of one metric of one head, both included.
#[derive(Debug, Clone, PartialEq)]
pub struct ThresholdSpec {
    /// The head.
    pub head: String,
    /// The metric.
    pub metric: OutcomeMetric,
    /// The least value that raises no alert.
    pub min: Option<f64>,
    /// The greatest one.
    pub max: Option<f64>,
}

/// A measure of past predictions against what happened. A class is measured by its probability: the event is that the
/// likeliest class was the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum OutcomeMetric {
    TotalBias,
    DecileWape,
    Auc,
    AveragePrecision,
    LogLoss,
    Brier,
    CalibrationError,
    Accuracy,
    GiniNorm,
    Spearman,
    Mae,
    Rmse,
    IntervalCoverage,
}

impl OutcomeMetric {
    /// Every metric, in the order of the published table.
    pub const ALL: [OutcomeMetric; 13] = [
        OutcomeMetric::TotalBias,
        OutcomeMetric::DecileWape,
        OutcomeMetric::Auc,
        OutcomeMetric::AveragePrecision,
        OutcomeMetric::LogLoss,
        OutcomeMetric::Brier,
        OutcomeMetric::CalibrationError,
        OutcomeMetric::Accuracy,
        OutcomeMetric::GiniNorm,
        OutcomeMetric::Spearman,
        OutcomeMetric::Mae,
        OutcomeMetric::Rmse,
        OutcomeMetric::IntervalCoverage,
    ];

    /// Its name in the job file and in the published table.
    pub fn name(self) -> &'static str {
        match self {
            OutcomeMetric::TotalBias => "total_bias",
            OutcomeMetric::DecileWape => "decile_wape",
            OutcomeMetric::Auc => "auc",
            OutcomeMetric::AveragePrecision => "average_precision",
            OutcomeMetric::LogLoss => "log_loss",
            OutcomeMetric::Brier => "brier",
            OutcomeMetric::CalibrationError => "calibration_error",
            OutcomeMetric::Accuracy => "accuracy",
            OutcomeMetric::GiniNorm => "gini_norm",
            OutcomeMetric::Spearman => "spearman",
            OutcomeMetric::Mae => "mae",
            OutcomeMetric::Rmse => "rmse",
            OutcomeMetric::IntervalCoverage => "interval_coverage",
        }
    }

    /// What it is called in a sentence.
    pub fn words(self) -> &'static str {
        match self {
            OutcomeMetric::TotalBias => "total bias",
            OutcomeMetric::DecileWape => "decile WAPE",
            OutcomeMetric::Auc => "AUC",
            OutcomeMetric::AveragePrecision => "average precision",
            OutcomeMetric::LogLoss => "log loss",
            OutcomeMetric::Brier => "Brier score",
            OutcomeMetric::CalibrationError => "calibration error",
            OutcomeMetric::Accuracy => "accuracy",
            OutcomeMetric::GiniNorm => "normalized Gini",
            OutcomeMetric::Spearman => "rank correlation",
            OutcomeMetric::Mae => "mean absolute error",
            OutcomeMetric::Rmse => "root mean squared error",
            OutcomeMetric::IntervalCoverage => "interval coverage",
        }
    }

    /// Whether it says something about a head of this loss.
    pub fn fits(self, loss: &Loss) -> bool {
        use OutcomeMetric as Metric;
        match self {
            Metric::TotalBias => true,
            Metric::DecileWape => *loss != Loss::Mse,
            Metric::Auc | Metric::LogLoss | Metric::Brier | Metric::CalibrationError => {
                matches!(loss, Loss::Bce | Loss::Softmax)
            }
            Metric::AveragePrecision => *loss == Loss::Bce,
            Metric::Accuracy => *loss == Loss::Softmax,
            Metric::GiniNorm | Metric::IntervalCoverage => *loss == Loss::Ziln,
            Metric::Spearman | Metric::Mae | Metric::Rmse => matches!(loss, Loss::Ziln | Loss::Mse),
        }
    }

    /// The least and the greatest value that it can have.
    pub fn range(self) -> (f64, f64) {
        use OutcomeMetric as Metric;
        match self {
            Metric::TotalBias => (-1.0, f64::INFINITY),
            Metric::DecileWape | Metric::LogLoss | Metric::Mae | Metric::Rmse => (0.0, f64::INFINITY),
            Metric::GiniNorm | Metric::Spearman => (-1.0, 1.0),
            Metric::Auc
            | Metric::AveragePrecision
            | Metric::Brier
            | Metric::CalibrationError
            | Metric::Accuracy
            | Metric::IntervalCoverage => (0.0, 1.0),
        }
    }
}
