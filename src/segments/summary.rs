//! What a night's stages add up to: the transitions table and the numbers of the report.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::assign::{number, tally_row};
use super::plan::StagePlan;
use super::tiers::Thresholds;
use crate::Result;

/// The counts of a night, over all its customers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Everyone in the segments table.
    pub customers: u64,
    /// The column whose sums are called value; `None` where the job has no tiers.
    pub value_of: Option<String>,
    /// The stages in the order of the job, empty ones too.
    pub stages: Vec<StageRow>,
    /// The tiers, lowest first, empty ones too.
    pub tiers: Vec<TierRow>,
    /// Customers in another stage than on the night before.
    pub moved: u64,
    /// Customers who were not there on the night before.
    pub arrived: u64,
    /// Customers of the night before who are customers no more.
    pub gone: u64,
    /// Customers without a score, by reason.
    pub no_score: BTreeMap<String, u64>,
}

/// A stage's customers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    /// Its name.
    pub stage: String,
    /// How many there are.
    pub customers: u64,
    /// Their share of all customers, 0 to 1.
    pub share: f64,
    /// The sum of their value; `None` where nobody has one.
    pub value: Option<f64>,
    /// Customers who came here from another stage.
    pub moved_in: u64,
    /// The mean of the asked-for scores over those who have one.
    pub means: Vec<MeanScore>,
}

/// The mean of a score.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanScore {
    /// The score's column.
    pub column: String,
    /// The mean; `None` where nobody has one.
    pub mean: Option<f64>,
}

/// A tier's customers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TierRow {
    /// Its name.
    pub tier: String,
    /// How many there are.
    pub customers: u64,
    /// Their share of the customers that have a value, 0 to 1.
    pub share: f64,
    /// The sum of their value.
    pub value: f64,
    /// The greatest value in the tier; `None` where nobody has one.
    pub up_to: Option<f64>,
}

/// Customers and the sum of their values.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    customers: u64,
    value: f64,
    valued: u64,
}

impl Group {
    fn add(&mut self, value: Option<f64>) {
        self.customers += 1;
        if let Some(value) = value {
            self.value += value;
            self.valued += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.valued > 0).then_some(self.value)
    }
}

/// Adds rows up in the order of their keys, so that sums come out the same every time.
pub(super) struct Tally<'a> {
    plan: &'a StagePlan,
    stages: Vec<Group>,
    moved_in: Vec<u64>,
    means: Vec<Vec<(f64, u64)>>,
    tiers: Vec<Group>,
    pairs: BTreeMap<(Option<String>, Option<String>), Group>,
    no_score: BTreeMap<String, u64>,
    arrived: u64,
}

impl<'a> Tally<'a> {
    pub fn new(plan: &'a StagePlan) -> Self {
        let stages = plan.stages.len();
        Tally {
            plan,
            stages: vec![Group::default(); stages],
            moved_in: vec![0; stages],
            means: vec![vec![(0.0, 0); plan.means.len()]; stages],
            tiers: vec![Group::default(); plan.tiers.as_ref().map_or(0, |t| t.quantiles.len())],
            pairs: BTreeMap::new(),
            no_score: BTreeMap::new(),
            arrived: 0,
        }
    }

    /// Adds rows of the query; `segments` are the same rows as they are published.
    pub fn add(&mut self, rows: &RecordBatch, segments: &RecordBatch) -> Result<()> {
        let first_mean = rows.num_columns() - self.plan.means.len();
        let tiers = segments.column(5).as_string::<i32>();
        for (index, tier) in tiers.iter().enumerate() {
            let row = tally_row(rows, index);
            let name = &self.plan.stages[row.stage].name;
            self.stages[row.stage].add(row.score);
            for (place, (sum, count)) in self.means[row.stage].iter_mut().enumerate() {
                if let Some(value) = number(rows.column(first_mean + place), index) {
                    *sum += value;
                    *count += 1;
                }
            }
            match row.previous {
                None => self.arrived += 1,
                Some(previous) if previous != name => self.moved_in[row.stage] += 1,
                Some(_) => {}
            }
            self.pairs.entry((row.previous.map(str::to_owned), Some(name.clone()))).or_default().add(row.score);
            if let Some(reason) = row.no_score {
                *self.no_score.entry(reason.to_owned()).or_default() += 1;
            }
            let quantiles = self.plan.tiers.as_ref().map(|t| t.quantiles.as_slice()).unwrap_or_default();
            if let Some(place) = tier.and_then(|tier| quantiles.iter().position(|(name, _)| name == tier)) {
                self.tiers[place].add(row.score);
            }
        }
        Ok(())
    }

    /// Adds customers of the night before who are customers no more.
    pub fn gone(&mut self, stage: String, customers: i64) {
        let group = self.pairs.entry((Some(stage), None)).or_default();
        group.customers += u64::try_from(customers).unwrap_or_default();
    }

    /// Everyone added so far, those gone left out.
    pub fn customers(&self) -> usize {
        self.stages.iter().map(|g| g.customers as usize).sum()
    }

    pub fn finish(self, thresholds: &Thresholds) -> Result<(RecordBatch, StageSummary)> {
        let transitions = self.transitions()?;
        let customers = self.customers() as u64;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let stages = self.plan.stages.iter().enumerate().map(|(i, stage)| StageRow {
            stage: stage.name.clone(),
            customers: self.stages[i].customers,
            share: share(self.stages[i].customers, customers),
            value: self.stages[i].value(),
            moved_in: self.moved_in[i],
            means: std::iter::zip(&self.plan.means, &self.means[i])
                .map(|(column, (sum, count))| MeanScore {
                    column: column.clone(),
                    mean: (*count > 0).then(|| sum / *count as f64),
                })
                .collect(),
        });
        let valued = self.tiers.iter().map(|g| g.customers).sum();
        let quantiles = self.plan.tiers.as_ref().map(|t| t.quantiles.as_slice()).unwrap_or_default();
        let tiers = quantiles.iter().enumerate().map(|(i, (tier, _))| TierRow {
            tier: tier.clone(),
            customers: self.tiers[i].customers,
            share: share(self.tiers[i].customers, valued),
            value: self.tiers[i].value,
            up_to: thresholds.bound(i),
        });
        let gone = self.pairs.iter().filter(|((_, stage), _)| stage.is_none()).map(|(_, group)| group.customers).sum();
        let summary = StageSummary {
            customers,
            value_of: self.plan.tiers.as_ref().map(|t| t.by.clone()),
            stages: stages.collect(),
            tiers: tiers.collect(),
            moved: self.moved_in.iter().sum(),
            arrived: self.arrived,
            gone,
            no_score: self.no_score.clone(),
        };
        Ok((transitions, summary))
    }

    fn transitions(&self) -> Result<RecordBatch> {
        let mut from: BTreeMap<&Option<String>, u64> = BTreeMap::new();
        for ((previous, _), group) in &self.pairs {
            *from.entry(previous).or_default() += group.customers;
        }
        let pairs = || self.pairs.iter();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter(pairs().map(|((previous, _), _)| previous.as_deref()))),
            Arc::new(StringArray::from_iter(pairs().map(|((_, stage), _)| stage.as_deref()))),
            Arc::new(Int64Array::from_iter_values(pairs().map(|(_, group)| group.customers as i64))),
            Arc::new(Float64Array::from_iter(pairs().map(|(_, group)| group.value()))),
            Arc::new(Float64Array::from_iter_values(
                pairs().map(|((previous, _), group)| group.customers as f64 / from[previous].max(1) as f64),
            )),
        ];
        Ok(RecordBatch::try_new(self.plan.transitions_schema(), columns)?)
    }
}
