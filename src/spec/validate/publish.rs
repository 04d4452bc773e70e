//! What a night publishes: the folder, descriptions, guards against shrinking.

use url::Url;

use super::{Tables, checked, folder_of_its_own};
use crate::spec::paths::Root;
use crate::spec::problems::Problems;
use crate::spec::publish::{MaxShrink, PublishSpec};
use crate::spec::raw::{RawMaxShrink, RawPublish};
use crate::spec::read::At;

/// Checks where a night's tables go.
pub(super) fn publish(
    raw: &RawPublish,
    tables: &Tables,
    lake: &Url,
    root: &Root,
    problems: &mut Problems,
) -> Option<PublishSpec> {
    let max_shrink = match raw.max_shrink.as_ref().and_then(At::get) {
        Some(raw) => max_shrinks(raw, problems),
        None => MaxShrink::default(),
    };
    let url = folder_of_its_own(lake, &raw.path, "the published tables", tables, root, problems)?;
    let descriptions = raw.descriptions.as_ref().and_then(At::get);
    Some(PublishSpec {
        url,
        features: raw.features.as_ref().and_then(At::get).copied().unwrap_or(false),
        descriptions: descriptions
            .map(|keyed| keyed.0.iter())
            .into_iter()
            .flatten()
            .filter_map(|(column, text)| Some((column.name.clone(), text.get()?.clone())))
            .collect(),
        max_shrink,
    })
}

fn max_shrinks(raw: &RawMaxShrink, problems: &mut Problems) -> MaxShrink {
    let default = MaxShrink::default();
    MaxShrink {
        tables: max_shrink(&raw.tables, default.tables, problems),
        population: max_shrink(&raw.population, default.population, problems),
        totals: max_shrink(&raw.totals, default.totals, problems),
    }
}

/// The share of something that a night may lose.
pub(super) fn max_shrink(value: &Option<At<f64>>, default: f64, problems: &mut Problems) -> f64 {
    let rule = "the share that may be lost, from 0 to 1; 1 turns the guard off";
    checked(value, default, rule, |share| (0.0..=1.0).contains(&share), problems)
}
