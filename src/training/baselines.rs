//! What a simple rule would say, for the same customers: the bar that a model has to pass.
//!
//! Persistence: the next window will be like the last one. RFM: logistic regression, and Gamma regression for the value of
//! those who buy, on recency, frequency and monetary value. Both are fitted on the training snapshots alone. BTYD: the job's
//! buy-till-you-die models, if it has the columns for them.

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::glm::{Family, Glm, Splines};
use super::metrics;
use super::snapshots::LabelInfo;
use crate::model::btyd::{BuyTillYouDie, Customer, Extrapolation, no_order_name};
use crate::model::heads::Head;
use crate::model::preprocess::{RawColumn, RawTable};
use crate::spec::{Loss, RfmSpec};
use crate::{Error, Result};

/// Ridge of the logistic regression, on the sum over rows.
const LOGISTIC_RIDGE: f64 = 1.0;
/// Ridge of the Gamma regression, per row.
const GAMMA_RIDGE: f64 = 0.01;

/// Fitted baselines of all heads, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    heads: Vec<HeadBaselines>,
    rfm_columns: Option<[String; 3]>,
    btyd: Option<BuyTillYouDie>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HeadBaselines {
    name: String,
    /// bce: how often the label is 1 where it was 0 one window before, and where it was 1.
    rates: Option<[f64; 2]>,
    rfm: Option<Rfm>,
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rfm {
    splines: Splines,
    chance: Glm,
    /// ziln: the value of those who have one, and its greatest sensible size.
    value: Option<(Splines, Glm, f64)>,
}

impl Baselines {
    /// Fits the baselines of every head on the rows given.
    pub fn fit(heads: &[Head], data: &Dataset, rows: &[usize], rfm: Option<&RfmSpec>) -> Result<Self> {
        let rfm_columns = rfm.map(|r| [r.recency.clone(), r.frequency.clone(), r.monetary.clone()]);
        if let (Some(spec), Some(columns)) = (rfm, &rfm_columns) {
            for column in columns {
                if !matches!(data.table.column(column), Some(RawColumn::Number(_))) {
                    let error = Error::user(format!(
                        "the RFM baseline needs `{column}`, which is no number among the features"
                    ));
                    return Err(error.at(spec.place.clone()));
                }
            }
        }
        let inputs = match &rfm_columns {
            Some(columns) => rfm_inputs(&data.table, columns)?,
            None => Vec::new(),
        };
        let mut fitted = Vec::new();
        for (i, head) in heads.iter().enumerate() {
            let rates = (head.loss == Loss::Bce).then(|| rates(&data.labels[i], &data.previous[i], rows));
            let rfm = match rfm_columns {
                Some(_) => Rfm::fit(head, &inputs, &data.labels[i], rows)?,
                None => None,
            };
            fitted.push(HeadBaselines { name: head.name.clone(), rates, rfm, btyd: None });
        }
        Ok(Baselines { heads: fitted, rfm_columns, btyd: None })
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
            fitted.push(HeadBaselines { name: e.head.clone(), rates: None, rfm: None, btyd: stretched(e, from) });
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
    pub fn rfm(&self, head: usize, table: &RawTable) -> Result<Option<Vec<f64>>> {
        let (Some(columns), Some(Some(rfm))) = (&self.rfm_columns, self.heads.get(head).map(|h| &h.rfm)) else {
            return Ok(None);
        };
        Ok(Some(rfm_inputs(table, columns)?.iter().map(|row| rfm.predict(row)).collect()))
    }
}

impl Rfm {
    fn fit(head: &Head, inputs: &[Vec<f64>], labels: &[f64], rows: &[usize]) -> Result<Option<Self>> {
        let known: Vec<usize> = rows.iter().copied().filter(|row| !labels[*row].is_nan()).collect();
        if known.is_empty() || !matches!(head.loss, Loss::Bce | Loss::Ziln) {
            return Ok(None);
        }
        let of = |rows: &[usize]| rows.iter().map(|row| inputs[*row].clone()).collect::<Vec<_>>();
        let splines = Splines::fit(&of(&known));
        let design =
            |splines: &Splines, rows: &[usize]| rows.iter().map(|r| splines.apply(&inputs[*r])).collect::<Vec<_>>();
        let positive: Vec<f64> = known.iter().map(|row| f64::from(labels[*row] > 0.0)).collect();
        let chance = Glm::fit(Family::Logistic, &design(&splines, &known), &positive, LOGISTIC_RIDGE)?;
        let buyers: Vec<usize> = known.into_iter().filter(|row| labels[*row] > 0.0).collect();
        let value = if head.loss == Loss::Ziln && !buyers.is_empty() {
            let splines = Splines::fit(&of(&buyers));
            let values: Vec<f64> = buyers.iter().map(|row| labels[*row]).collect();
            let ridge = GAMMA_RIDGE * values.len() as f64;
            let glm = Glm::fit(Family::Gamma, &design(&splines, &buyers), &values, ridge)?;
            Some((splines, glm, 2.0 * values.iter().copied().fold(0.0, f64::max)))
        } else {
            None
        };
        Ok(Some(Rfm { splines, chance, value }))
    }

    fn predict(&self, row: &[f64]) -> f64 {
        let chance = self.chance.predict(&self.splines.apply(row));
        match &self.value {
            Some((splines, value, most)) => chance * value.predict(&splines.apply(row)).min(*most),
            None => chance,
        }
    }
}

fn rfm_inputs(table: &RawTable, columns: &[String; 3]) -> Result<Vec<Vec<f64>>> {
    let mut inputs = vec![Vec::with_capacity(3); table.rows()];
    for name in columns {
        let Some(RawColumn::Number(values)) = table.column(name) else {
            return Err(Error::user(format!("the RFM baseline needs the feature `{name}`")));
        };
        inputs.iter_mut().zip(values).for_each(|(row, value)| row.push(f64::from(*value)));
    }
    Ok(inputs)
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
