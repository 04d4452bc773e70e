//! How far an encoder learns.

use crate::spec::node::Pos;
use crate::spec::problems::Problems;
use crate::spec::raw::{ModeOrTune, RawTune};
use crate::spec::read::At;
use crate::spec::tune::{LoraSpec, LoraTarget, TuneSpec};
use crate::spec::values::TuneMode;

use super::{checked, positive, share};

/// Checks the mode and its settings.
pub(super) fn tune(raw: &Option<At<ModeOrTune>>, default: TuneSpec, problems: &mut Problems) -> TuneSpec {
    let Some(ModeOrTune(raw)) = raw.as_ref().and_then(At::get) else { return default };
    let Some(mode) = raw.mode.get() else { return default };
    if *mode != TuneMode::Lora {
        refuse_settings(raw, problems);
    }
    match mode {
        TuneMode::Frozen => TuneSpec::Frozen,
        TuneMode::Full => TuneSpec::Full,
        TuneMode::Lora => TuneSpec::Lora(lora(raw, problems)),
    }
}

/// The share of the step size that each block has of the one above it.
pub(super) fn layer_decay(raw: &Option<At<f64>>, tune: &TuneSpec, problems: &mut Problems) -> f64 {
    if let (Some(at), TuneSpec::Frozen) = (raw, tune) {
        let hint = "remove it, or let the encoder learn: `tune: full`";
        problems.add(at.key, "`layer_decay` has no meaning for a frozen encoder", hint);
    }
    checked(raw, 1.0, "a share above 0, at most 1", |share| share > 0.0 && share <= 1.0, problems)
}

fn lora(raw: &RawTune, problems: &mut Problems) -> LoraSpec {
    let default = LoraSpec::default();
    let rank = checked(&raw.rank, 8, "a whole number from 1 to 1024", |rank| (1..=1024).contains(&rank), problems);
    LoraSpec {
        rank: rank as usize,
        alpha: positive(&raw.alpha, 2.0 * rank as f64, problems),
        targets: raw.targets.as_ref().map_or(default.targets, |list| targets(list, problems)),
        dropout: share(&raw.dropout, 0.0, problems),
    }
}

fn targets(list: &At<Vec<At<LoraTarget>>>, problems: &mut Problems) -> Vec<LoraTarget> {
    let empty = list.get().is_some_and(Vec::is_empty);
    let hint = "name layers, such as `[query, value]`, or write `mode: frozen`";
    problems.require(!empty, list.key, "no layer is corrected", hint);
    let mut targets = Vec::new();
    for (pos, target) in list.get().into_iter().flatten().filter_map(|at| Some((at.pos, *at.get()?))) {
        let message = format!("the layer `{}` stands here twice", target.name());
        problems.require(!targets.contains(&target), pos, message, "remove one of them");
        targets.push(target);
    }
    targets
}

fn refuse_settings(raw: &RawTune, problems: &mut Problems) {
    let settings: [(&str, Option<Pos>); 4] = [
        ("rank", raw.rank.as_ref().map(|at| at.key)),
        ("alpha", raw.alpha.as_ref().map(|at| at.key)),
        ("targets", raw.targets.as_ref().map(|at| at.key)),
        ("dropout", raw.dropout.as_ref().map(|at| at.key)),
    ];
    for (key, pos) in settings {
        if let Some(pos) = pos {
            let message = format!("`{key}` is a setting of `lora` alone");
            problems.add(pos, message, "remove it, or write `mode: lora`");
        }
    }
}
