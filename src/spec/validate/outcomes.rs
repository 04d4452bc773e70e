//! Which past predictions are compared with what happened, and what is worth an alert.

use crate::spec::job::{HeadSpec, Loss, ModelSpec};
use crate::spec::nearest::listed;
use crate::spec::node::{Key, Pos};
use crate::spec::outcomes::{OutcomeMetric, OutcomesSpec, ThresholdSpec};
use crate::spec::problems::Problems;
use crate::spec::raw::{RawAlert, RawJobSpec, RawOutcomes, RawRange};
use crate::spec::read::At;

use super::{checked, close_or_all};

/// Judged customers below which no alert is raised, where nothing is said.
const MINIMUM_CUSTOMERS: u64 = 100;

/// The heads by name; one that could not be read whole, which was told, is known by its name alone.
struct Heads<'a> {
    names: Vec<&'a str>,
    whole: &'a [HeadSpec],
}

impl Heads<'_> {
    /// The head that a key or an item names, if it is there and whole; tells a name that no head has.
    fn find(&self, name: &str, pos: Pos, problems: &mut Problems) -> Option<&HeadSpec> {
        if !self.names.contains(&name) {
            let hint = close_or_all(name, &self.names, "the heads are");
            problems.add(pos, format!("no head is called `{name}`"), hint);
        }
        self.whole.iter().find(|head| head.name == name)
    }
}

/// Checks the outcomes; without the key every head is compared and nothing raises an alert.
pub(super) fn outcomes(raw: &RawJobSpec, model: Option<&ModelSpec>, problems: &mut Problems) -> OutcomesSpec {
    let whole = model.map_or(&[][..], |model| &model.heads);
    let all = || whole.iter().map(|head| head.name.clone()).collect();
    let Some(at) = &raw.outcomes else {
        return OutcomesSpec { heads: all(), minimum_customers: MINIMUM_CUSTOMERS, thresholds: Vec::new() };
    };
    let hint = "add `model: …`, or remove `outcomes`";
    problems.require(raw.model.is_some(), at.key, "there is no model whose predictions could be compared", hint);
    let message = "`outcomes` compares published predictions, and the job publishes nothing";
    problems.require(raw.publish.is_some(), at.key, message, "add `publish: {path: out/}`");
    let Some(outcomes) = at.get() else { return OutcomesSpec::default() };
    let rule = "a whole number, 1 or more";
    let minimum_customers = checked(&outcomes.minimum_customers, MINIMUM_CUSTOMERS, rule, |n| n >= 1, problems);
    let Some(list) = raw.model.as_ref().and_then(At::get).and_then(|model| model.heads.get()) else {
        return OutcomesSpec::default(); // That there are no heads was told.
    };
    let names = list.iter().filter_map(|head| Some(head.get()?.name.get()?.0.as_str())).collect();
    let heads = Heads { names, whole };
    let compared = match &outcomes.heads {
        Some(list) => compared(list, &heads, problems),
        None => heads.names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let thresholds = thresholds(outcomes, &heads, &compared, problems);
    OutcomesSpec { heads: compared, minimum_customers, thresholds }
}

fn compared(list: &At<Vec<At<String>>>, heads: &Heads<'_>, problems: &mut Problems) -> Vec<String> {
    let mut compared: Vec<String> = Vec::new();
    for (pos, name) in list.get().into_iter().flatten().filter_map(|at| Some((at.pos, at.get()?))) {
        heads.find(name, pos, problems);
        let message = format!("the head `{name}` stands here twice");
        problems.require(!compared.contains(name), pos, message, "remove one of them");
        compared.push(name.clone());
    }
    compared
}

fn thresholds(
    raw: &RawOutcomes,
    heads: &Heads<'_>,
    compared: &[String],
    problems: &mut Problems,
) -> Vec<ThresholdSpec> {
    let mut thresholds = Vec::new();
    for (key, alert) in raw.alert.as_ref().and_then(At::get).map(|keyed| &keyed.0).into_iter().flatten() {
        let Some(head) = heads.find(&key.name, key.pos, problems) else { continue };
        let message = format!("the head `{}` is not compared, so it raises no alert", head.name);
        problems.require(compared.contains(&head.name), key.pos, message, "add it to `heads`, or remove its alerts");
        if let Some(raw) = alert.get() {
            thresholds.extend(of_head(raw, key, head, problems));
        }
    }
    thresholds
}

fn of_head(raw: &RawAlert, key: &Key, head: &HeadSpec, problems: &mut Problems) -> Vec<ThresholdSpec> {
    let good = raw.ranges().next().is_some();
    let message = format!("`{}` has no bounds", head.name);
    problems.require(good, key.pos, message, format!("write a metric with its bounds: `{}`", example(&head.loss)));
    let mut thresholds = Vec::new();
    for (metric, range) in raw.ranges() {
        let message = format!("`{}` does not measure `{}`", metric.name(), head.name);
        let fitting = OutcomeMetric::ALL.into_iter().filter(|metric| metric.fits(&head.loss));
        let hint = format!("its metrics are {}", listed(fitting.map(OutcomeMetric::name), "and"));
        problems.require(metric.fits(&head.loss), range.key, message, hint);
        let bound = |bound: &Option<At<f64>>| bound.as_ref().and_then(At::get).copied();
        if let Some(bounds) = range.get() {
            bounds_of(metric, bounds, range, problems);
            let (min, max) = (bound(&bounds.min), bound(&bounds.max));
            thresholds.push(ThresholdSpec { head: head.name.clone(), metric, min, max });
        }
    }
    thresholds
}

fn example(loss: &Loss) -> &'static str {
    match loss {
        Loss::Bce => "auc: {min: 0.7}",
        Loss::Softmax => "accuracy: {min: 0.6}",
        Loss::Ziln | Loss::Mse => "total_bias: {min: -0.2, max: 0.2}",
    }
}

fn bounds_of(metric: OutcomeMetric, bounds: &RawRange, at: &At<RawRange>, problems: &mut Problems) {
    let (least, greatest) = metric.range();
    let rule = match greatest.is_finite() {
        true => format!("the {} lies between {least} and {greatest}", metric.words()),
        false => format!("the {} is {least} or more", metric.words()),
    };
    let mut values = Vec::new();
    for (pos, bound) in [&bounds.min, &bounds.max].into_iter().flatten().filter_map(|at| Some((at.pos, *at.get()?))) {
        let good = (least..=greatest).contains(&bound);
        problems.require(good, pos, format!("`{bound}` is out of range"), rule.clone());
        values.push(bound);
    }
    if bounds.min.is_none() && bounds.max.is_none() {
        problems.add(at.pos, "the range has no bounds", "write `{min: 0.7}`, `{max: 0.1}` or both");
    }
    if let [min, max] = values[..] {
        problems.require(min <= max, at.pos, format!("no number lies between `{min}` and `{max}`"), "swap them");
    }
}
