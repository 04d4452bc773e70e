//! What recency, frequency and monetary value alone say of a head: logistic regression, and for a value Gamma regression of
//! what buyers spend.
//!
//! It is a baseline, and a steady companion of the network: nine coefficients cannot follow noise, so a part of the log-odds
//! and of the log of the expected value is theirs, where validation has nothing against it. Only the order of customers is
//! shared: the level stays the network's, which knows more about why it changes.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::calibration::shift_to;
use super::glm::{Family, Glm, Splines};
use super::heads::{Head, sigmoid, softplus};
use super::preprocess::{RawColumn, RawTable};
use super::season::{of_buyers, shifts};
use crate::spec::{Loss, RfmSpec};
use crate::{Error, Result};

/// Ridge of the logistic regression, on the sum over rows.
const LOGISTIC_RIDGE: f64 = 1.0;
/// Ridge of the Gamma regression, per row.
const GAMMA_RIDGE: f64 = 0.01;

/// How a head takes the regression beside its network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RfmShare {
    /// The regression's part, from 0 to 1.
    pub share: f64,
    /// What is added to its log-odds, for the network's level.
    pub log_odds: f64,
    /// What is added to the log of its expected value, for the network's level.
    pub log_value: f64,
}

/// Fitted regressions of the heads that have one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rfm {
    columns: [String; 3],
    share: f64,
    heads: BTreeMap<String, Regression>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Regression {
    splines: Splines,
    chance: Glm,
    spend: Option<Spend>,
}

/// What buyers spend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Spend {
    splines: Splines,
    glm: Glm,
    /// The log of the greatest sensible value.
    most: f64,
}

/// Recency, frequency and monetary value of one customer.
type Inputs = [f64; 3];

impl Rfm {
    /// Fits a regression for each bce and ziln head on the rows given; `labels` has the labels of all rows per head. What the
    /// season moves is taken off first.
    pub fn fit(spec: &RfmSpec, heads: &[Head], table: &RawTable, labels: &[Vec<f64>], rows: &[usize]) -> Result<Self> {
        let columns = [spec.recency.clone(), spec.frequency.clone(), spec.monetary.clone()];
        let mut rfm = Rfm { columns, share: spec.share, heads: BTreeMap::new() };
        let inputs = rfm.inputs(table).map_err(|error| error.at(spec.place.clone()))?;
        for (place, (head, labels)) in heads.iter().zip(labels).enumerate() {
            let known: Vec<usize> = rows.iter().copied().filter(|row| !labels[*row].is_nan()).collect();
            if known.is_empty() || !matches!(head.loss, Loss::Bce | Loss::Ziln) {
                continue;
            }
            let shift = |row: &usize| shifts(heads, table.dates()[*row])[place];
            rfm.heads.insert(head.name.clone(), Regression::fit(head, &inputs, labels, &known, shift)?);
        }
        Ok(rfm)
    }

    /// How each head shares with the regression: so that what is said together has the level of the network's raw outputs, rows
    /// × members × outputs without the season. `rows` names the table's row of each.
    pub fn shares(
        &self,
        heads: &[Head],
        raw: &[f64],
        members: usize,
        table: &RawTable,
        rows: &[usize],
    ) -> Result<Vec<Option<RfmShare>>> {
        if self.share == 0.0 {
            return Ok(vec![None; heads.len()]);
        }
        let inputs = self.inputs(table)?;
        let outputs: usize = heads.iter().map(Head::width).sum();
        let mut start = 0;
        let of = |head: &Head| {
            let place = start;
            start += head.width();
            let regression = self.heads.get(&head.name)?;
            // Per row and member, what the network says and what is said together.
            let said = |output: usize, of: &dyn Fn(&Inputs) -> f64| -> (Vec<f64>, Vec<f64>) {
                let of_row = |(raw, row): (&[f64], &usize)| {
                    let regression = of(&inputs[*row]);
                    let members = raw.chunks_exact(outputs).map(|member| member[place + output]);
                    members.map(|own| (own, own + self.share * (regression - own))).collect::<Vec<_>>()
                };
                raw.chunks_exact(members * outputs).zip(rows).flat_map(of_row).unzip()
            };
            let (own, joined) = said(0, &|inputs| regression.log_odds(inputs));
            let total = own.iter().map(|logit| sigmoid(*logit)).sum();
            let log_odds = shift_to(total, joined.iter().map(|logit| sigmoid(*logit))) / self.share;
            let mut log_value = 0.0;
            if head.loss == Loss::Ziln {
                let (own, joined) = said(Head::DIRECT, &|inputs| regression.log_mean(inputs, head));
                let total = |logs: &[f64]| logs.iter().map(|log| log.exp()).sum::<f64>();
                log_value = (total(&own) / total(&joined)).ln() / self.share;
            }
            Some(RfmShare { share: self.share, log_odds, log_value })
        };
        Ok(heads.iter().map(of).collect())
    }

    /// The features that it needs.
    pub fn columns(&self) -> &[String; 3] {
        &self.columns
    }

    /// What the regression says for a head, for every row of the table: a probability or an expected value.
    pub fn predict(&self, head: &Head, table: &RawTable) -> Result<Option<Vec<f64>>> {
        let Some(regression) = self.heads.get(&head.name) else { return Ok(None) };
        let inputs = self.inputs(table)?;
        let rows = inputs.iter().zip(table.dates());
        Ok(Some(rows.map(|(inputs, date)| regression.predict(inputs, season(head, *date))).collect()))
    }

    /// Gives the regression its share of raw outputs, n × members × outputs, before the season is added; `rows` names the
    /// table's row of each.
    pub fn join(
        &self,
        heads: &[Head],
        raw: &mut [f64],
        members: usize,
        table: &RawTable,
        rows: impl Iterator<Item = usize>,
    ) -> Result<()> {
        if heads.iter().all(|head| head.rfm.is_none()) {
            return Ok(());
        }
        let inputs = self.inputs(table)?;
        let outputs: usize = heads.iter().map(Head::width).sum();
        for (raw, row) in raw.chunks_exact_mut((members * outputs).max(1)).zip(rows) {
            let mut start = 0;
            for head in heads {
                if let (Some(of), Some(regression)) = (&head.rfm, self.heads.get(&head.name)) {
                    let join = |said: &mut f64, regression: f64| *said += of.share * (regression - *said);
                    let log_odds = regression.log_odds(&inputs[row]) + of.log_odds;
                    let log_mean = regression.log_mean(&inputs[row], head) + of.log_value;
                    for member in raw.chunks_exact_mut(outputs) {
                        join(&mut member[start], log_odds);
                        if head.loss == Loss::Ziln {
                            join(&mut member[start + Head::DIRECT], log_mean);
                        }
                    }
                }
                start += head.width();
            }
        }
        Ok(())
    }

    fn inputs(&self, table: &RawTable) -> Result<Vec<Inputs>> {
        let column = |name: &String| match table.column(name) {
            Some(RawColumn::Number(values)) => Ok(values),
            _ => Err(Error::user(format!("the RFM regression needs `{name}`, which is no number among the features"))),
        };
        let [recency, frequency, monetary] = &self.columns;
        let (recency, frequency, monetary) = (column(recency)?, column(frequency)?, column(monetary)?);
        let rows = recency.iter().zip(frequency).zip(monetary);
        Ok(rows.map(|((r, f), m)| [f64::from(*r), f64::from(*f), f64::from(*m)]).collect())
    }
}

fn season(head: &Head, date: NaiveDate) -> f64 {
    shifts(std::slice::from_ref(head), date)[0]
}

impl Regression {
    fn fit(
        head: &Head,
        inputs: &[Inputs],
        labels: &[f64],
        rows: &[usize],
        shift: impl Fn(&usize) -> f64,
    ) -> Result<Self> {
        let of = |rows: &[usize]| rows.iter().map(|row| inputs[*row].to_vec()).collect::<Vec<_>>();
        let design = |splines: &Splines, rows: &[usize]| -> Vec<Vec<f64>> {
            rows.iter().map(|row| splines.apply(&inputs[*row])).collect()
        };
        let splines = Splines::fit(&of(rows));
        let positive: Vec<f64> = rows.iter().map(|row| f64::from(labels[*row] > 0.0)).collect();
        let offsets: Vec<f64> = rows.iter().map(&shift).collect();
        let chance = Glm::fit(Family::Logistic, &design(&splines, rows), &offsets, &positive, LOGISTIC_RIDGE)?;
        let mut fitted = Regression { splines, chance, spend: None };
        let buyers: Vec<usize> = rows.iter().copied().filter(|row| labels[*row] > 0.0).collect();
        if head.loss == Loss::Ziln && !buyers.is_empty() {
            let splines = Splines::fit(&of(&buyers));
            let values: Vec<f64> = buyers.iter().map(|row| labels[*row]).collect();
            let offsets: Vec<f64> =
                buyers.iter().map(|row| of_buyers(fitted.log_odds(&inputs[*row]), shift(row))).collect();
            let ridge = GAMMA_RIDGE * values.len() as f64;
            let glm = Glm::fit(Family::Gamma, &design(&splines, &buyers), &offsets, &values, ridge)?;
            let most = (2.0 * values.iter().copied().fold(0.0, f64::max)).ln();
            fitted.spend = Some(Spend { splines, glm, most });
        }
        Ok(fitted)
    }

    /// ln(p / (1 - p)) of a positive label, without the season.
    fn log_odds(&self, inputs: &Inputs) -> f64 {
        self.chance.linear(&self.splines.apply(inputs))
    }

    /// The log of what somebody who buys is expected to spend, without the season; of a bce head, where a label is 1, 0.
    fn log_spend(&self, inputs: &Inputs) -> f64 {
        self.spend.as_ref().map_or(0.0, |spend| spend.glm.linear(&spend.splines.apply(inputs)).min(spend.most))
    }

    /// The log of the expected value in the units that a ziln head states it in, without the season.
    fn log_mean(&self, inputs: &Inputs, head: &Head) -> f64 {
        self.log_spend(inputs) - softplus(-self.log_odds(inputs)) - head.scale.1.ln()
    }

    fn predict(&self, inputs: &Inputs, shift: f64) -> f64 {
        let logit = self.log_odds(inputs);
        match self.spend {
            Some(_) => sigmoid(logit + shift) * (self.log_spend(inputs) + of_buyers(logit, shift)).exp(),
            None => sigmoid(logit + shift),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, RecordBatch};

    use super::*;
    use crate::AsOf;
    use crate::error::Place;
    use crate::model::preprocess::InputKind;
    use crate::model::season::Season;
    use crate::spec::HeadSpec;

    const ROWS: usize = 2000;
    const DAYS: [&str; 2] = ["2026-06-01", "2026-10-01"];

    fn spec() -> RfmSpec {
        let [recency, frequency, monetary] = ["recency", "orders", "amount"].map(str::to_owned);
        RfmSpec { recency, frequency, monetary, share: 0.3, place: Place::file("job.yaml") }
    }

    fn head(name: &str, loss: Loss) -> Head {
        let (name, label) = (name.to_owned(), name.to_owned());
        let spec =
            HeadSpec { name, label, loss, family: None, direction: None, weight: 1.0, place: Place::file("job.yaml") };
        Head { scale: (0.0, 10.0), ..Head::new(&spec) }
    }

    /// Customers of two days; their labels are what they are expected to do: a chance of buying, and a value.
    fn customers(season: impl Fn(usize) -> f64) -> (RawTable, Vec<Vec<f64>>) {
        let names = ["recency", "orders", "amount"];
        let mut table = RawTable::new(names.map(|name| (name.to_owned(), InputKind::Number)).to_vec());
        let column = |day: usize, of: &dyn Fn(usize) -> f64| -> Arc<Float64Array> {
            Arc::new((0..ROWS).map(|i| of(day * ROWS + i)).collect())
        };
        for (day, date) in DAYS.iter().enumerate() {
            let columns = [
                column(day, &|i| (i * 37 % 200) as f64),
                column(day, &|i| (1 + i * 11 % 9) as f64),
                column(day, &|i| (5 + i * 7 % 60) as f64),
            ];
            let columns = names.iter().zip(columns).map(|(name, column)| (*name, column as _));
            let as_of = AsOf::parse(date, chrono_tz::UTC).unwrap();
            table.push(&RecordBatch::try_from_iter(columns).unwrap(), as_of).unwrap();
        }
        let logit = |i: usize| 1.0 - 0.8 * ((i * 37 % 200) as f64).ln_1p() + ((1 + i * 11 % 9) as f64).ln_1p();
        let shift = |i: usize| season(i / ROWS);
        // Every tenth of a chance is a row that buys.
        let buys = |i: usize| f64::from((i * 29 % 100) as f64 + 0.5 < 100.0 * sigmoid(logit(i) + shift(i)));
        let spend = |i: usize| ((5 + i * 7 % 60) as f64) * of_buyers(logit(i), shift(i)).exp();
        let all = || 0..2 * ROWS;
        (table, vec![all().map(buys).collect(), all().map(|i| buys(i) * spend(i)).collect()])
    }

    fn heads() -> Vec<Head> {
        vec![head("buys", Loss::Bce), head("value", Loss::Ziln)]
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let n = values.len() as f64;
        values.sum::<f64>() / n
    }

    #[test]
    fn it_finds_what_recency_frequency_and_monetary_value_say() {
        let (table, labels) = customers(|_| 0.0);
        let rows: Vec<usize> = (0..2 * ROWS).collect();
        let heads = heads();
        let rfm = Rfm::fit(&spec(), &heads, &table, &labels, &rows).unwrap();
        for (head, labels) in heads.iter().zip(&labels) {
            let said = rfm.predict(head, &table).unwrap().unwrap();
            assert!((mean(said.iter().copied()) / mean(labels.iter().copied()) - 1.0).abs() < 0.02);
            let better = said.iter().zip(labels).filter(|(_, label)| **label > 0.0).map(|(said, _)| *said);
            assert!(mean(better.collect::<Vec<_>>().into_iter()) > 1.2 * mean(said.iter().copied()));
        }
        assert_eq!(rfm.predict(&head("other", Loss::Bce), &table).unwrap(), None);
    }

    #[test]
    fn the_season_is_no_part_of_what_it_learns_and_comes_back_in_what_it_says() {
        let days = 90;
        let mut heads = heads();
        heads[0].season = Season::of(&Loss::Bce, days, Some(0.0));
        heads[1].season = Season::of(&Loss::Ziln, days, None);
        let shift = |day: usize| season(&heads[0], DAYS[day].parse().unwrap());
        let (table, labels) = customers(shift);
        let rows: Vec<usize> = (0..2 * ROWS).collect();
        let rfm = Rfm::fit(&spec(), &heads, &table, &labels, &rows).unwrap();
        for (head, labels) in heads.iter().zip(&labels) {
            let said = rfm.predict(head, &table).unwrap().unwrap();
            for day in [0..ROWS, ROWS..2 * ROWS] {
                let (said, label) = (mean(said[day.clone()].iter().copied()), mean(labels[day].iter().copied()));
                assert!((said / label - 1.0).abs() < 0.03, "{}: {said} {label}", head.name);
            }
        }
    }

    #[test]
    fn it_shares_the_order_of_customers_and_leaves_the_level_to_the_network() {
        let (table, labels) = customers(|_| 0.0);
        let rows: Vec<usize> = (0..2 * ROWS).collect();
        let mut heads = heads();
        let rfm = Rfm::fit(&spec(), &heads, &table, &labels, &rows).unwrap();
        // A network that knows nothing of customers, and another level: one per mill buys, at 2 per head.
        let raw: Vec<f64> = rows.iter().flat_map(|_| [-6.9, -6.9, 3.0, 0.5, 0.2_f64.ln()]).collect();
        let shares = rfm.shares(&heads, &raw, 1, &table, &rows).unwrap();
        heads.iter_mut().zip(&shares).for_each(|(head, share)| head.rfm = *share);
        let mut joined = raw.clone();
        rfm.join(&heads, &mut joined, 1, &table, rows.iter().copied()).unwrap();
        let total = |at: usize, of: fn(f64) -> f64| mean(joined.chunks_exact(5).map(|raw| of(raw[at])));
        assert!((total(0, sigmoid) / sigmoid(-6.9) - 1.0).abs() < 1e-6);
        assert!((total(4, f64::exp) / 0.2 - 1.0).abs() < 1e-6);
        let said = rfm.predict(&heads[1], &table).unwrap().unwrap();
        let order = |values: &[f64], a: usize, b: usize| values[a].total_cmp(&values[b]);
        let direct: Vec<f64> = joined.chunks_exact(5).map(|raw| raw[4]).collect();
        assert!((1..said.len()).all(|row| order(&said, row - 1, row) == order(&direct, row - 1, row)));
        // Of a value, mu and sigma stay the network's.
        assert!(joined.chunks_exact(5).all(|raw| raw[2] == 3.0 && raw[3] == 0.5));
    }

    #[test]
    fn a_share_of_nothing_and_a_column_that_is_not_there() {
        let (table, labels) = customers(|_| 0.0);
        let rows: Vec<usize> = (0..2 * ROWS).collect();
        let none = RfmSpec { share: 0.0, ..spec() };
        let rfm = Rfm::fit(&none, &heads(), &table, &labels, &rows).unwrap();
        let raw = vec![0.0; 5 * rows.len()];
        assert_eq!(rfm.shares(&heads(), &raw, 1, &table, &rows).unwrap(), [None, None]);
        let wrong = RfmSpec { monetary: "amuont".to_owned(), ..spec() };
        let error = Rfm::fit(&wrong, &heads(), &table, &labels, &rows).unwrap_err().to_string();
        assert!(error.contains("`amuont`"), "{error}");
    }
}
