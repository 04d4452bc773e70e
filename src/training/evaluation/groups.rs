//! Ways to part the customers of an evaluation: by a name, by quartiles of a number, by the month in which they came.

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate};

use super::bootstrap::quantile;
use crate::model::preprocess::{InputKind, MISSING, RawColumn};
use crate::spec::nearest::nearest;
use crate::training::dataset::Dataset;
use crate::{Error, Result};

/// More groups than this tell nobody anything: names are pooled, months become quarters or years.
const MOST_GROUPS: usize = 12;
/// A number with so many values or fewer is parted by value.
const FEW_VALUES: usize = 6;
/// Customers of whom the column says nothing.
const NOT_KNOWN: &str = "not known";

/// The rows of a dataset in groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    /// What parts them: `stage`, `cohort`, a column.
    pub by: String,
    /// The groups' names, in their order.
    pub groups: Vec<String>,
    /// Per row of the table, its group.
    of_row: Vec<u32>,
}

impl Grouping {
    /// Named groups in an order of their own; `of_row` has the place of each row's group.
    pub fn new(by: impl Into<String>, groups: Vec<String>, of_row: Vec<u32>) -> Self {
        Grouping { by: by.into(), groups, of_row }
    }

    /// By a feature: its quartiles, its values, or its months.
    pub fn of_column(data: &Dataset, name: &str) -> Result<Self> {
        let Some((_, kind, column)) = data.table.columns().find(|(column, ..)| *column == name) else {
            let error = Error::user(format!("there is no feature `{name}` to part the customers by"));
            let names = data.table.columns().map(|(name, ..)| name);
            return Err(match nearest(name, names) {
                Some(hint) => error.hint(hint),
                None => error.hint("`tenure features docs` lists the columns"),
            });
        };
        Ok(match column {
            RawColumn::Words(words) => {
                let word = |id: &u32| (*id != MISSING).then(|| words.words()[*id as usize].as_str());
                Self::of_names(name, words.ids().iter().map(word))
            }
            RawColumn::Number(values) if kind == InputKind::Moment => {
                let mut days = vec![None; values.len()];
                for (as_of, rows) in &data.snapshots {
                    for row in rows.clone().filter(|row| values[*row].is_finite()) {
                        let ago = chrono::TimeDelta::try_days(f64::from(values[row]).ceil() as i64);
                        days[row] = ago.and_then(|ago| as_of.date().checked_sub_signed(ago));
                    }
                }
                Self::of_days(name, &days)
            }
            RawColumn::Events(_) => {
                return Err(Error::user(format!("`{name}` holds events, which part no customers"))
                    .hint("name a feature that is a number, a word or a time"));
            }
            RawColumn::Number(values) => Self::of_numbers(name, values.iter().map(|v| f64::from(*v))),
        })
    }

    /// By name; of very many the largest stay, and the others are pooled.
    pub fn of_names<'a>(by: &str, names: impl Iterator<Item = Option<&'a str>>) -> Self {
        let names: Vec<Option<&str>> = names.collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        names.iter().flatten().for_each(|name| *counts.entry(name).or_default() += 1);
        let mut largest: Vec<(&str, usize)> = counts.into_iter().collect();
        largest.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let pooled = largest.len() > MOST_GROUPS;
        if pooled {
            largest.truncate(MOST_GROUPS - 1);
        }
        let mut groups: Vec<String> = largest.iter().map(|(name, _)| (*name).to_owned()).collect();
        groups.sort();
        let kept = groups.len() as u32;
        if pooled {
            groups.push("others".to_owned());
        }
        groups.push(NOT_KNOWN.to_owned());
        let of = |name: &Option<&str>| match name {
            None => groups.len() as u32 - 1,
            Some(name) => groups[..kept as usize].binary_search_by(|g| g.as_str().cmp(name)).map_or(kept, |g| g as u32),
        };
        Grouping { by: by.to_owned(), of_row: names.iter().map(of).collect(), groups }
    }

    /// By quartiles of a number, or by its values where there are few.
    pub fn of_numbers(by: &str, values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        let mut known: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        known.sort_by(f64::total_cmp);
        let mut distinct = known.clone();
        distinct.dedup();
        let few = distinct.len() <= FEW_VALUES;
        // A row belongs to the first bound that it does not exceed; the last group has none.
        let mut bounds = match (few, known.is_empty()) {
            (true, _) => distinct.clone(),
            (false, false) => [0.25, 0.5, 0.75].map(|q| quantile(&known, q)).to_vec(),
            (false, true) => Vec::new(),
        };
        bounds.dedup();
        bounds.retain(|bound| distinct.last().is_none_or(|last| few || bound < last));
        let mut groups: Vec<String> = match few {
            true => bounds.iter().map(|value| short(*value)).collect(),
            false => {
                let between =
                    bounds.windows(2).map(|pair| format!("over {}, up to {}", short(pair[0]), short(pair[1])));
                let first = bounds.first().map(|bound| format!("up to {}", short(*bound)));
                first.into_iter().chain(between).chain(bounds.last().map(|b| format!("over {}", short(*b)))).collect()
            }
        };
        groups.push(NOT_KNOWN.to_owned());
        let of = |value: &f64| match value.is_finite() {
            true => bounds.partition_point(|bound| bound < value) as u32,
            false => groups.len() as u32 - 1,
        };
        Grouping { by: by.to_owned(), of_row: values.iter().map(of).collect(), groups }
    }

    /// By month, or by quarter or year where there would be too many.
    pub fn of_days(by: &str, days: &[Option<NaiveDate>]) -> Self {
        let month = |day: &NaiveDate| day.format("%Y-%m").to_string();
        let quarter = |day: &NaiveDate| format!("{}-Q{}", day.year(), day.month0() / 3 + 1);
        let year = |day: &NaiveDate| day.year().to_string();
        let kinds: [&dyn Fn(&NaiveDate) -> String; 3] = [&month, &quarter, &year];
        let mut names: Vec<Option<String>> = Vec::new();
        for kind in kinds {
            names = days.iter().map(|day| day.as_ref().map(kind)).collect();
            let distinct: std::collections::BTreeSet<&String> = names.iter().flatten().collect();
            if distinct.len() <= MOST_GROUPS {
                break;
            }
        }
        Self::of_names(by, names.iter().map(Option::as_deref))
    }

    /// The name of a row's group.
    pub fn name_of(&self, row: usize) -> &str {
        &self.groups[self.of_row[row] as usize]
    }

    /// Per group, the places within `rows` that belong to it.
    pub(super) fn members(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.groups.len()];
        rows.iter().enumerate().for_each(|(place, row)| members[self.of_row[*row] as usize].push(place));
        members
    }
}

/// A number with at most four decimals.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(grouping: &Grouping) -> Vec<(&str, usize)> {
        let rows: Vec<usize> = (0..grouping.of_row.len()).collect();
        grouping.groups.iter().map(String::as_str).zip(grouping.members(&rows).iter().map(Vec::len)).collect()
    }

    #[test]
    fn a_number_is_parted_into_quartiles() {
        let grouping = Grouping::of_numbers("spend", (1..=100).map(f64::from).chain([f64::NAN]));
        let names = ["up to 25.75", "over 25.75, up to 50.5", "over 50.5, up to 75.25", "over 75.25"];
        assert_eq!(sizes(&grouping), [&names.map(|name| (name, 25))[..], &[("not known", 1)]].concat());
    }

    #[test]
    fn quartiles_that_fall_together_are_one_group() {
        let values = [0.0; 80].into_iter().chain((1..=20).map(f64::from));
        assert_eq!(sizes(&Grouping::of_numbers("spend", values)), [("up to 0", 80), ("over 0", 20), ("not known", 0)]);
    }

    #[test]
    fn a_number_of_few_values_is_parted_by_value() {
        let grouping = Grouping::of_numbers("newsletter", [1.0, 0.0, 1.0].into_iter());
        assert_eq!(sizes(&grouping), [("0", 1), ("1", 2), ("not known", 0)]);
        assert_eq!(grouping.name_of(1), "0");
    }

    #[test]
    fn of_many_names_the_largest_stay() {
        let names: Vec<String> = (0..20).flat_map(|i| std::iter::repeat_n(format!("n{i:02}"), i + 1)).collect();
        let grouping = Grouping::of_names("country", names.iter().map(|n| Some(n.as_str())).chain([None]));
        let sizes = sizes(&grouping);
        assert_eq!((sizes.len(), sizes[0], sizes[10]), (13, ("n09", 10), ("n19", 20)));
        assert_eq!(sizes[11..], [("others", (1..=9).sum()), ("not known", 1)]);
    }

    #[test]
    fn days_are_parted_by_month_and_more_coarsely_where_there_are_many() {
        let day = |month: u32| NaiveDate::from_ymd_opt(2020 + month as i32 / 12, month % 12 + 1, 5);
        let few = Grouping::of_days("cohort", &[day(0), day(1), day(1), None]);
        assert_eq!(sizes(&few), [("2020-01", 1), ("2020-02", 2), ("not known", 1)]);
        let many = Grouping::of_days("cohort", &(0..24).map(day).collect::<Vec<_>>());
        assert_eq!((many.groups.len(), many.groups[7].as_str()), (9, "2021-Q4"));
    }
}
