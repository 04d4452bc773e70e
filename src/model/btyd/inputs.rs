//! From feature columns to what the models see, and back to columns for the network.

use serde::{Deserialize, Serialize};

use super::{BuyTillYouDie, History};
use crate::model::preprocess::{RawColumn, RawTable};
use crate::spec::{BTYD_PREFIX, BtydSpec};
use crate::{Error, Result};

/// The features that hold what the models see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Days since the first purchase.
    pub first: String,
    /// Days since the last one.
    pub last: String,
    /// Number of purchase days.
    pub days: String,
    /// Mean spend of a purchase day.
    pub spend: Option<String>,
}

impl From<&BtydSpec> for Columns {
    fn from(spec: &BtydSpec) -> Self {
        let BtydSpec { first, last, days, spend, .. } = spec.clone();
        Columns { first, last, days, spend }
    }
}

/// A customer as the models see one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Customer {
    /// When it bought.
    pub history: History,
    /// What it spent per purchase day; `None` where that is not known or not above 0.
    pub spend: Option<f64>,
}

impl Customer {
    /// From the values of the columns: days since the first and since the last purchase, purchase days, spend. Parts of days
    /// count as whole ones, as the day of the purchase does. `None` for somebody who has bought nothing yet.
    pub fn of(first: f32, last: f32, days: f32, spend: Option<f32>) -> Option<Self> {
        if !(first.is_finite() && last.is_finite() && days >= 1.0) {
            return None;
        }
        let age = f64::from(first).ceil().max(0.0);
        let repeats = f64::from(days).round() - 1.0;
        // Two purchase days are at least a day apart; a lone one is its own last.
        let between = (age - f64::from(last).ceil()).min(age).max(0.0);
        let last = if repeats < 1.0 { 0.0 } else { between.max(1.0) };
        let spend = spend.map(f64::from).filter(|spend| spend.is_finite() && *spend > 0.0);
        Some(Customer { history: History { repeats, last, age: age.max(last) }, spend })
    }
}

impl Columns {
    /// The customers of a table, row by row.
    pub fn customers(&self, table: &RawTable) -> Result<Vec<Option<Customer>>> {
        let column = |name: &str| match table.column(name) {
            Some(RawColumn::Number(values)) => Ok(values),
            _ => Err(Error::user(format!("`model.btyd` needs `{name}`, which is no number among the features"))
                .hint("name features: days since the first and since the last purchase, purchase days, spend per day")),
        };
        let (first, last, days) = (column(&self.first)?, column(&self.last)?, column(&self.days)?);
        let spend = self.spend.as_deref().map(column).transpose()?;
        let of_row = |row: usize| Customer::of(first[row], last[row], days[row], spend.map(|spend| spend[row]));
        Ok((0..table.rows()).map(of_row).collect())
    }
}

/// The names of the further inputs for heads of these horizons.
pub fn derived_names(horizons: &[u32], spend: bool) -> Vec<String> {
    let mut names = vec![format!("{BTYD_PREFIX}p_alive")];
    for days in horizons {
        names.push(format!("{BTYD_PREFIX}orders_{days}d"));
        names.push(no_order_name(*days));
        if spend {
            names.push(format!("{BTYD_PREFIX}spend_{days}d"));
        }
    }
    names
}

/// The input that holds P(no purchase) over so many days.
pub fn no_order_name(days: u32) -> String {
    format!("{BTYD_PREFIX}no_order_{days}d")
}

impl BuyTillYouDie {
    /// Expected spend of one purchase day; 1 where no spend is known to the models, so that values are counts.
    pub fn expected_spend(&self, customer: &Customer) -> f64 {
        match (&self.spend, customer.spend) {
            (None, _) => 1.0,
            (Some(model), Some(mean)) => model.expected_spend(customer.history.repeats + 1.0, mean),
            (Some(model), None) => model.expected_spend(0.0, 0.0),
        }
    }

    /// Expected spend in the `days` that follow.
    pub fn expected_value(&self, customer: &Customer, days: u32) -> f64 {
        self.purchases.expected_purchases(&customer.history, f64::from(days)) * self.expected_spend(customer)
    }

    /// P(no purchase in the `days` that follow).
    pub fn p_none(&self, customer: &Customer, days: u32) -> f64 {
        self.purchases.p_none(&customer.history, f64::from(days))
    }

    /// The names of the further inputs, in order.
    pub fn names(&self) -> Vec<String> {
        derived_names(&self.horizons, self.spend.is_some())
    }

    /// Appends the further inputs to a table; a customer without purchases has none of them.
    pub fn extend(&self, table: &mut RawTable) -> Result<()> {
        let customers = self.columns.customers(table)?;
        let mut columns = vec![Vec::with_capacity(customers.len()); self.names().len()];
        for customer in &customers {
            let values = customer.as_ref().map_or_else(|| vec![f32::NAN; columns.len()], |c| self.inputs(c));
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        self.names().into_iter().zip(columns).for_each(|(name, column)| table.set_number(&name, column));
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)]
    fn inputs(&self, customer: &Customer) -> Vec<f32> {
        let mut values = vec![self.purchases.p_alive(&customer.history) as f32];
        let spend = self.spend.is_some().then(|| self.expected_spend(customer));
        for days in &self.horizons {
            let orders = self.purchases.expected_purchases(&customer.history, f64::from(*days));
            values.push(orders as f32);
            values.push(self.p_none(customer, *days) as f32);
            values.extend(spend.map(|spend| (orders * spend) as f32));
        }
        values
    }
}
