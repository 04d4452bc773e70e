//! Buy-till-you-die models fitted to the job's customers: maximum likelihood, what the network gets of them, and which heads
//! they have to stretch.

mod fit;
pub mod horizons;
mod optimizer;
#[cfg(test)]
mod tests;

use std::ops::Range;

use chrono::NaiveDate;

pub use horizons::HeadPlan;

use super::dataset::{Dataset, Gatherer};
use super::dates::Dates;
use super::snapshots::LabelInfo;
use crate::model::btyd::{BuyTillYouDie, Columns, Customer, Extrapolation, FitRecord};
use crate::model::preprocess::RawTable;
use crate::spec::BtydSpec;
use crate::{AsOf, Error, Result};

/// The models of both phases of a training: each is fitted on the newest features that its phase may see, without labels.
#[derive(Debug)]
pub struct Phases {
    /// As of the first validating snapshot: for the fit that is judged.
    pub selection: BuyTillYouDie,
    /// As of the training: for the bundle.
    pub last: BuyTillYouDie,
    /// The heads that are not trained.
    pub extrapolations: Vec<Extrapolation>,
    /// The labels of those that are, in their order.
    pub labels: Vec<LabelInfo>,
}

impl Phases {
    /// Fits both; `None` where the job names no columns for them.
    pub async fn fit(
        plan: &HeadPlan,
        gatherer: &Gatherer<'_>,
        data: &Dataset,
        dates: &Dates,
        as_of: AsOf,
    ) -> Result<Option<Self>> {
        let Some(spec) = &plan.trained.btyd else { return Ok(None) };
        let labels = gatherer.labels().to_vec();
        let selection = selection(spec, &labels, data, dates)?;
        let horizons = horizons(&labels);
        let newest = gatherer.features(as_of).await?;
        let (last, customers) = fit(spec, &newest, 0..newest.rows(), as_of.date(), &horizons)?;
        let extrapolations = plan.extrapolated.iter().map(|head| head.with(&last, &customers)).collect();
        Ok(Some(Phases { selection, last, extrapolations, labels }))
    }

    /// What a reader of the report should know: what was fitted, and which heads were not trained.
    pub fn notes(&self) -> Vec<String> {
        let Phases { last, extrapolations, .. } = self;
        let name = last.purchases.name();
        let fitted =
            last.fits.iter().filter(|fit| fit.model == name || last.spend.is_some() && fit.model == "Gamma-Gamma");
        let mut notes: Vec<String> = fitted.map(fit_in_words).collect();
        notes.extend(extrapolations.iter().map(|e| {
            format!(
                "`{}` was not trained, because its {} days leave no snapshot in the history: it is `{}`, stretched by {name} \
                 {:.2} times",
                e.head, e.days, e.from, e.stretch.value
            )
        }));
        notes
    }
}

/// The models of the fit that is judged.
pub(super) fn selection(spec: &BtydSpec, labels: &[LabelInfo], data: &Dataset, dates: &Dates) -> Result<BuyTillYouDie> {
    let validating = dates.validation.last().and_then(|first| data.snapshots.iter().find(|(date, _)| date == first));
    let (date, rows) = validating.ok_or_else(|| Error::bug("no snapshot validates"))?;
    Ok(fit(spec, &data.table, rows.clone(), date.date(), &horizons(labels))?.0)
}

fn horizons(labels: &[LabelInfo]) -> Vec<u32> {
    labels.iter().map(|label| label.horizon_days).collect()
}

/// Fits the models to the customers in `rows` of a feature matrix of `as_of`; gives these too.
pub fn fit(
    spec: &BtydSpec,
    table: &RawTable,
    rows: Range<usize>,
    as_of: NaiveDate,
    horizons: &[u32],
) -> Result<(BuyTillYouDie, Vec<Customer>)> {
    let columns = Columns::from(spec);
    let all = columns.customers(table).map_err(|error| error.at(spec.place.clone()))?;
    let customers: Vec<Customer> = all[rows].iter().flatten().copied().collect();
    let model = fit_customers(columns, &customers, as_of, horizons).ok_or_else(|| {
        Error::user(format!("`model.btyd` finds nobody with a purchase as of {as_of}"))
            .at(spec.place.clone())
            .hint(format!("look at `{}` and `{}` with `tenure features show`", spec.first, spec.days))
    })?;
    Ok((model, customers))
}

/// As [`fit`], from customers.
pub fn fit_customers(
    columns: Columns,
    customers: &[Customer],
    as_of: NaiveDate,
    horizons: &[u32],
) -> Option<BuyTillYouDie> {
    let (purchases, mut fits) = fit::purchases(customers)?;
    let spend = fit::spend(customers);
    fits.extend(spend.iter().map(|(_, record)| record.clone()));
    let mut horizons = horizons.to_vec();
    horizons.sort_unstable();
    horizons.dedup();
    Some(BuyTillYouDie {
        columns,
        fitted_as_of: as_of,
        purchases,
        spend: spend.map(|(model, _)| model),
        horizons,
        fits,
    })
}

fn fit_in_words(fit: &FitRecord) -> String {
    let parameters: Vec<String> = fit.parameters.iter().map(|p| format!("{p:.4}")).collect();
    let rest = if fit.converged { "" } else { "; the fit did not come to rest" };
    format!("{}({}) fitted on {} customers{rest}", fit.model, parameters.join(", "), fit.customers)
}
