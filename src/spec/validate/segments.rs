//! Lifecycle stages and value tiers.

use crate::spec::job::*;
use crate::spec::problems::Problems;
use crate::spec::raw::{RawSegments, RawStage, RawTiers};
use crate::spec::read::At;
use crate::spec::values::is_name;

/// Checks the stages and tiers.
pub(super) fn segments(raw: &RawSegments, problems: &mut Problems) -> Option<SegmentsSpec> {
    let list = raw.stages.get()?;
    let hint = "end with a stage for everyone else: `- {name: active}`";
    problems.require(!list.is_empty(), raw.stages.key, "there are no stages", hint);
    let mut stages: Vec<StageSpec> = Vec::new();
    for (index, at) in list.iter().enumerate() {
        let Some(raw) = at.get() else { continue };
        let last = index + 1 == list.len();
        stages.extend(stage(raw, at, last, &stages, problems));
    }
    let value_tiers = raw.value_tiers.as_ref().and_then(|at| tiers(at, problems));
    Some(SegmentsSpec { stages, value_tiers })
}

fn stage(
    raw: &RawStage,
    at: &At<RawStage>,
    last: bool,
    earlier: &[StageSpec],
    problems: &mut Problems,
) -> Option<StageSpec> {
    let name = raw.name.get().map_or("…", |name| name.0.as_str());
    match &raw.when {
        None if !last => {
            let message = format!("stage `{name}` has no `when`, so no later stage is ever reached");
            problems.add(at.pos, message, "only the last stage has no condition: add `when: \"…\"`");
        }
        Some(when) if last => {
            let message = format!("the last stage `{name}` has a `when`, so some customers would have no stage");
            problems.add(when.key, message, "remove it, or add a last stage without one: `- {name: active}`");
        }
        _ => {}
    }
    let twice = earlier.iter().any(|stage| stage.name == name);
    problems.require(!twice, raw.name.pos, format!("two stages are called `{name}`"), "join their conditions with OR");
    let place = problems.place(raw.when.as_ref().map_or(at.pos, |when| when.pos));
    let when = raw.when.as_ref().and_then(At::get).cloned();
    Some(StageSpec { name: raw.name.get()?.0.clone(), when, place })
}

fn tiers(at: &At<RawTiers>, problems: &mut Problems) -> Option<ValueTiersSpec> {
    let raw = at.get()?;
    let tiers = raw.quantiles.get()?;
    let mut quantiles: Vec<(String, f64)> = Vec::new();
    let mut before = 0.0;
    for (key, value) in &tiers.0 {
        is_name(&key.name, key.pos, problems);
        let Some(upper) = value.get().copied() else { continue };
        if problems.require(
            upper > 0.0 && upper <= 1.0,
            value.pos,
            format!("the quantile `{upper}` is out of range"),
            "a quantile lies above 0 and is at most 1.0",
        ) {
            let message = format!("the quantile `{upper}` of tier `{}` does not lie above `{before}`", key.name);
            problems.require(upper > before, value.pos, message, "quantiles ascend: the lowest tier comes first");
            before = upper;
        }
        quantiles.push((key.name.clone(), upper));
    }
    match tiers.0.last() {
        None => problems.add(raw.quantiles.pos, "there are no tiers", "write `{low: 0.5, high: 1.0}`"),
        Some((key, last)) => {
            let good = last.get().is_none_or(|last| *last >= 1.0 || *last <= 0.0);
            let message = format!("the last tier `{}` leaves out the most valuable customers", key.name);
            problems.require(good, last.pos, message, "the last quantile is 1.0");
        }
    }
    Some(ValueTiersSpec { by: raw.by.get()?.clone(), quantiles, place: problems.place(at.pos) })
}
