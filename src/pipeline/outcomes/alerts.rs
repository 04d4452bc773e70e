//! Thresholds: which outcomes somebody has to look at.

use super::Outcomes;
use crate::ledger::OutcomeRecord;
use crate::spec::{OutcomesSpec, ThresholdSpec};

/// Holds every judged head against its thresholds. A head with too few customers, or a metric that its labels do not
/// have, is a note.
pub(super) fn raise(spec: &OutcomesSpec, outcomes: &mut Outcomes) {
    for record in &mut outcomes.heads {
        let thresholds: Vec<&ThresholdSpec> = spec.thresholds.iter().filter(|t| t.head == record.head).collect();
        if thresholds.is_empty() {
            continue;
        }
        if record.judged < spec.minimum_customers {
            outcomes.notes.push(format!(
                "`{}` raises no alert: {} customers were judged, and `minimum_customers` is {}",
                record.head, record.judged, spec.minimum_customers
            ));
            continue;
        }
        for threshold in thresholds {
            match record.metrics.get(threshold.metric.name()).copied() {
                Some(value) => {
                    let crossed = crossed(threshold, value, record);
                    record.alerts.extend(crossed);
                }
                None => outcomes.notes.push(format!(
                    "`{}` has no {}: the labels of {} customers are too much alike",
                    record.head,
                    threshold.metric.words(),
                    record.judged
                )),
            }
        }
    }
}

/// What to tell about a value outside of its bounds.
fn crossed(threshold: &ThresholdSpec, value: f64, record: &OutcomeRecord) -> Option<String> {
    let (side, bound) = match (threshold.min, threshold.max) {
        (Some(min), _) if value < min => ("below", min),
        (_, Some(max)) if value > max => ("above", max),
        _ => return None,
    };
    Some(format!(
        "`{}`: realised {} {} is {side} {bound} ({} customers, predicted on {} by model `{}`)",
        record.head,
        threshold.metric.words(),
        told(value, bound),
        record.judged,
        record.predicted_ds,
        record.model_version
    ))
}

/// Four decimals, or all of them where four would read like the bound.
fn told(value: f64, bound: f64) -> String {
    let short = format!("{value:.4}");
    if short.parse::<f64>() == Ok(bound) { value.to_string() } else { short }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::NaiveDate;

    use super::*;
    use crate::spec::OutcomeMetric;

    fn record(judged: u64, metrics: &[(&str, f64)]) -> OutcomeRecord {
        OutcomeRecord {
            head: "churn_90d".to_owned(),
            label: "churned_90d".to_owned(),
            horizon_days: 90,
            predicted_ds: NaiveDate::from_ymd_opt(2026, 4, 2).unwrap(),
            model_version: "0123abcd".to_owned(),
            trained_as_of: None,
            customers: judged,
            unscored: 0,
            unlabelled: 0,
            judged,
            predicted_mean: Some(0.5),
            predicted_sum: 0.0,
            realised_mean: Some(0.5),
            realised_sum: 0.0,
            metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<BTreeMap<_, _>>(),
            alerts: Vec::new(),
        }
    }

    fn raised(record: OutcomeRecord, metric: OutcomeMetric, min: Option<f64>, max: Option<f64>) -> Outcomes {
        let threshold = ThresholdSpec { head: "churn_90d".to_owned(), metric, min, max };
        let spec =
            OutcomesSpec { heads: vec!["churn_90d".to_owned()], minimum_customers: 100, thresholds: vec![threshold] };
        let mut outcomes = Outcomes { heads: vec![record], ..Outcomes::default() };
        raise(&spec, &mut outcomes);
        outcomes
    }

    #[test]
    fn a_value_outside_of_its_bounds_is_told_in_words() {
        let outcomes = raised(record(1200, &[("auc", 0.61)]), OutcomeMetric::Auc, Some(0.7), None);
        let text = "`churn_90d`: realised AUC 0.6100 is below 0.7 (1200 customers, predicted on 2026-04-02 by model `0123abcd`)";
        assert_eq!(outcomes.heads[0].alerts, [text]);
        let outcomes = raised(record(1200, &[("total_bias", 0.3)]), OutcomeMetric::TotalBias, Some(-0.2), Some(0.2));
        assert!(outcomes.heads[0].alerts[0].contains("total bias 0.3000 is above 0.2"), "{outcomes:?}");
    }

    #[test]
    fn a_value_on_its_bound_is_no_alert() {
        let outcomes = raised(record(100, &[("auc", 0.7)]), OutcomeMetric::Auc, Some(0.7), Some(0.7));
        assert!(outcomes.heads[0].alerts.is_empty() && outcomes.notes.is_empty(), "{outcomes:?}");
    }

    #[test]
    fn a_value_just_beside_its_bound_is_told_in_full() {
        let outcomes = raised(record(100, &[("auc", 0.699_999)]), OutcomeMetric::Auc, Some(0.7), None);
        assert!(outcomes.heads[0].alerts[0].contains("AUC 0.699999 is below 0.7 "), "{outcomes:?}");
    }

    #[test]
    fn few_customers_and_missing_metrics_are_notes() {
        let few = raised(record(99, &[("auc", 0.1)]), OutcomeMetric::Auc, Some(0.7), None);
        assert!(few.heads[0].alerts.is_empty() && few.notes[0].contains("99 customers were judged"), "{few:?}");
        let alike = raised(record(100, &[]), OutcomeMetric::Auc, Some(0.7), None);
        assert!(alike.heads[0].alerts.is_empty() && alike.notes[0].contains("has no AUC"), "{alike:?}");
    }
}
