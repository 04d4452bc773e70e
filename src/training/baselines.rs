//! What a simple rule would say, for the same customers: the bar that a model has to pass.
//!
//! Persistence: the next window will be like the last one. RFM: regression on recency, frequency and monetary value. Both are
//! fitted on the training snapshots alone. BTYD: the job's buy-till-you-die models, if it has the columns for them.

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::metrics;
use super::snapshots::LabelInfo;
use crate::Result;
use crate::model::btyd::{BuyTillYouDie, Customer, Extrapolation, no_order_name};
use crate::model::heads::Head;
use crate::model::preprocess::{RawColumn, RawTable};
use crate::model::rfm::Rfm;
use crate::spec::Loss;

/// Fitted baselines of all heads, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    heads: Vec<HeadBaselines>,
    rfm: Option<Rfm>,
    btyd: Option<BuyTillYouDie>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HeadBaselines {
    name: String,
    /// bce: how often the label is 1 where it was 0 one window before, and where it was 1.
    rates: Option<[f64; 2]>,
    btyd: Option<BtydScore>,
}

/// What buy-till-you-die models can say of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BtydScore {
    /// P(no purchase) over so many days.
    NoPurchase(u32),
    /// Expected spend over so many days.
    Spend(u32),
}

impl Baselines {
    /// Fits the baselines of every head on the rows given, on which `rfm` was fitted as well.
    pub fn fit(heads: &[Head], data: &Dataset, rows: &[usize], rfm: Option<&Rfm>) -> Self {
        let of = |(i, head): (usize, &Head)| {
            let rates = (head.loss == Loss::Bce).then(|| rates(&data.labels[i], &data.previous[i], rows));
            HeadBaselines { name: head.name.clone(), rates, btyd: None }
        };
        Baselines { heads: heads.iter().enumerate().map(of).collect(), rfm: rfm.cloned(), btyd: None }
    }

    /// Adds what buy-till-you-die models say: of a value, its expectation; of a probability, that of no purchase, where the
    /// label is the likelier the likelier that is.
    pub fn with_btyd(
        &mut self,
        model: &BuyTillYouDie,
        heads: &[Head],
        labels: &[LabelInfo],
        data: &Dataset,
        rows: &[usize],
    ) {
        for (i, ((fitted, head), label)) in self.heads.iter_mut().zip(heads).zip(labels).enumerate() {
            let days = label.horizon_days;
            fitted.btyd = match head.loss {
                Loss::Ziln if model.spend.is_some() => Some(BtydScore::Spend(days)),
                Loss::Bce => match data.table.column(&no_order_name(days)) {
                    Some(RawColumn::Number(none)) => {
                        let known = rows.iter().filter(|row| !data.labels[i][**row].is_nan() && !none[**row].is_nan());
                        let (labels, scores): (Vec<f64>, Vec<f64>) =
                            known.map(|row| (data.labels[i][*row], f64::from(none[*row]))).unzip();
                        (metrics::auc(&labels, &scores) > 0.5).then_some(BtydScore::NoPurchase(days))
                    }
                    _ => None,
                },
                _ => None,
            };
        }
        self.btyd = Some(model.clone());
    }

    /// Gives heads that were not trained their place among the others; only the models that stretch them speak of them.
    pub fn with_extrapolated(&mut self, heads: &[Head], extrapolations: &[Extrapolation]) {
        let mut fitted = std::mem::take(&mut self.heads);
        let stretched = |e: &Extrapolation, from: Option<BtydScore>| match from {
            Some(BtydScore::NoPurchase(_)) => Some(BtydScore::NoPurchase(e.days)),
            Some(BtydScore::Spend(_)) => Some(BtydScore::Spend(e.days)),
            None => None,
        };
        for e in extrapolations {
            let from = fitted.iter().find(|head| head.name == e.from).and_then(|head| head.btyd);
            fitted.push(HeadBaselines { name: e.head.clone(), rates: None, btyd: stretched(e, from) });
        }
        fitted.sort_by_key(|fitted| heads.iter().position(|head| head.name == fitted.name));
        self.heads = fitted;
    }

    /// What the buy-till-you-die models say for a head, for every row of the table; NaN of somebody who has bought nothing.
    pub fn btyd(&self, head: usize, table: &RawTable) -> Result<Option<Vec<f64>>> {
        let (Some(model), Some(Some(score))) = (&self.btyd, self.heads.get(head).map(|h| h.btyd)) else {
            return Ok(None);
        };
        let of = |customer: Option<Customer>| match (customer, score) {
            (None, _) => f64::NAN,
            (Some(customer), BtydScore::NoPurchase(days)) => model.p_none(&customer, days),
            (Some(customer), BtydScore::Spend(days)) => model.expected_value(&customer, days),
        };
        Ok(Some(model.columns.customers(table)?.into_iter().map(of).collect()))
    }

    /// What persistence says for a head: the previous label; for a probability, how often the label followed it.
    pub fn persistence(&self, head: usize, loss: &Loss, previous: &[f64]) -> Option<Vec<f64>> {
        match loss {
            Loss::Ziln | Loss::Mse => Some(previous.to_vec()),
            Loss::Bce => {
                let rates = self.heads.get(head)?.rates?;
                let rate = |p: &f64| if p.is_nan() { f64::NAN } else { rates[usize::from(*p > 0.5)] };
                Some(previous.iter().map(rate).collect())
            }
            Loss::Softmax => None,
        }
    }

    /// What the RFM regression says for a head, for every row of the table.
    pub fn rfm(&self, head: &Head, table: &RawTable) -> Result<Option<Vec<f64>>> {
        self.rfm.as_ref().map_or(Ok(None), |rfm| rfm.predict(head, table))
    }
}

/// How often the label is 1 after a 0 and after a 1. Where no previous label is known, half way between the mean label and
/// the certain answer.
fn rates(labels: &[f64], previous: &[f64], rows: &[usize]) -> [f64; 2] {
    let mut counts = [(0.0, 0.0); 2];
    let (mut ones, mut known) = (0.0, 0.0);
    for row in rows.iter().filter(|row| !labels[**row].is_nan()) {
        ones += labels[*row];
        known += 1.0;
        if !previous[*row].is_nan() {
            let group = &mut counts[usize::from(previous[*row] > 0.5)];
            group.0 += labels[*row];
            group.1 += 1.0;
        }
    }
    let mean = (ones + 1.0) / (known + 2.0);
    if counts.iter().all(|(_, n)| *n == 0.0) {
        return [mean / 2.0, (1.0 + mean) / 2.0];
    }
    counts.map(|(ones, n)| (ones + 1.0) / (n + 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_previous_label() {
        let labels = [1.0, 1.0, 0.0, 0.0, 1.0, f64::NAN];
        let previous = [1.0, 1.0, 1.0, 0.0, f64::NAN, 0.0];
        assert_eq!(rates(&labels, &previous, &[0, 1, 2, 3, 4, 5]), [1.0 / 3.0, 3.0 / 5.0]);
    }

    #[test]
    fn without_history_rates_stand_half_way_to_certainty() {
        let nothing = [f64::NAN; 4];
        assert_eq!(rates(&[1.0, 0.0, 1.0, 0.0], &nothing, &[0, 1, 2, 3]), [0.25, 0.75]);
    }
}
