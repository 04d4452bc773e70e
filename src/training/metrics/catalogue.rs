//! Every metric by name: which losses it is for, which way is better, what it means.

use super::Interval;
use crate::spec::Loss;

/// A metric of one head's predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Area under the ROC curve.
    Auc,
    /// Area under precision and recall, step by step.
    AveragePrecision,
    /// Mean negative log-likelihood, natural logarithm.
    LogLoss,
    /// Mean squared error of a probability.
    Brier,
    /// Expected calibration error over ten bins.
    CalibrationError,
    /// Spearman's rank correlation.
    Spearman,
    /// Gini of the predicted order over that of the perfect order.
    GiniNorm,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// (total predicted − total) / total.
    TotalBiasSigned,
    /// The same without its sign.
    TotalBias,
    /// Mean relative error of the ten groups of descending prediction.
    DecileMape,
    /// Their absolute errors together over the total.
    DecileWape,
    /// The share of the total that the tenth predicted highest holds.
    TopDecileShare,
    /// How many times its fair share that is.
    TopDecileLift,
    /// How much of the labels lies between p10 and p90: 0.8 is right.
    IntervalCoverage,
    /// The share of classes that are right.
    Accuracy,
}

/// Which way a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher the better.
    Higher,
    /// The lower the better.
    Lower,
    /// It describes and does not rank.
    Neither,
}

impl Metric {
    /// Every metric, in the order of the tables.
    pub const ALL: [Metric; 17] = [
        Metric::Auc,
        Metric::AveragePrecision,
        Metric::LogLoss,
        Metric::Brier,
        Metric::CalibrationError,
        Metric::Spearman,
        Metric::GiniNorm,
        Metric::Mae,
        Metric::Rmse,
        Metric::TotalBiasSigned,
        Metric::TotalBias,
        Metric::DecileMape,
        Metric::DecileWape,
        Metric::TopDecileShare,
        Metric::TopDecileLift,
        Metric::IntervalCoverage,
        Metric::Accuracy,
    ];

    /// The metrics of a loss in the order of the table.
    pub fn of_loss(loss: &Loss) -> &'static [Metric] {
        use Metric::*;
        match loss {
            Loss::Bce => &[Auc, AveragePrecision, LogLoss, Brier, CalibrationError, TopDecileLift],
            Loss::Softmax => &[Accuracy],
            Loss::Mse => &[Spearman, Mae, Rmse],
            Loss::Ziln => &[
                Spearman,
                GiniNorm,
                Mae,
                Rmse,
                TotalBiasSigned,
                TotalBias,
                DecileMape,
                DecileWape,
                TopDecileShare,
                TopDecileLift,
                IntervalCoverage,
            ],
        }
    }

    /// The metrics of a loss that decide who wins: how well it ranks, how well it is calibrated, and the level. The others
    /// repeat one of these, or reward what nobody wants (the mean absolute error of a value that is mostly 0 is least for
    /// predictions of 0).
    pub fn headlines(loss: &Loss) -> &'static [Metric] {
        use Metric::*;
        match loss {
            Loss::Bce => &[Auc, AveragePrecision, LogLoss, Brier],
            Loss::Softmax => &[Accuracy],
            Loss::Mse => &[Spearman, Rmse],
            Loss::Ziln => &[GiniNorm, DecileWape, TotalBias],
        }
    }

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Auc => "auc",
            Metric::AveragePrecision => "average_precision",
            Metric::LogLoss => "log_loss",
            Metric::Brier => "brier",
            Metric::CalibrationError => "calibration_error",
            Metric::Spearman => "spearman",
            Metric::GiniNorm => "gini_norm",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::TotalBiasSigned => "total_bias_signed",
            Metric::TotalBias => "total_bias",
            Metric::DecileMape => "decile_mape",
            Metric::DecileWape => "decile_wape",
            Metric::TopDecileShare => "top_decile_share",
            Metric::TopDecileLift => "top_decile_lift",
            Metric::IntervalCoverage => "interval_coverage",
            Metric::Accuracy => "accuracy",
        }
    }

    /// Which way it gets better.
    pub fn better(self) -> Better {
        use Metric::*;
        match self {
            Auc | AveragePrecision | Spearman | GiniNorm | TopDecileShare | TopDecileLift | Accuracy => Better::Higher,
            LogLoss | Brier | CalibrationError | Mae | Rmse | TotalBias | DecileMape | DecileWape => Better::Lower,
            TotalBiasSigned | IntervalCoverage => Better::Neither,
        }
    }

    /// Its value in the plain form; NaN where it does not exist for these labels. `Accuracy` takes hits (1) and misses (0) as
    /// scores.
    pub fn of(self, labels: &[f64], scores: &[f64], intervals: Option<&[Interval]>) -> f64 {
        match self {
            Metric::Auc => super::auc(labels, scores),
            Metric::AveragePrecision => super::average_precision(labels, scores),
            Metric::LogLoss => super::log_loss(labels, scores),
            Metric::Brier => super::brier(labels, scores),
            Metric::CalibrationError => super::calibration_error(labels, scores),
            Metric::Spearman => super::spearman(labels, scores),
            Metric::GiniNorm => super::normalized_gini(labels, scores),
            Metric::Mae => super::mae(labels, scores),
            Metric::Rmse => super::rmse(labels, scores),
            Metric::TotalBiasSigned => super::total_bias(labels, scores),
            Metric::TotalBias => super::total_bias(labels, scores).abs(),
            Metric::DecileMape => super::deciles(labels, scores).mape,
            Metric::DecileWape => super::deciles(labels, scores).wape,
            Metric::TopDecileShare => super::top_decile_share(labels, scores),
            Metric::TopDecileLift => super::top_decile_lift(labels, scores),
            Metric::IntervalCoverage => intervals.map_or(f64::NAN, |found| super::coverage(labels, found)),
            Metric::Accuracy => super::mean(scores),
        }
    }
}
