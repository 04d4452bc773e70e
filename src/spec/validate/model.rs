//! The model, its heads and how it is trained.

use std::collections::BTreeMap;

use crate::spec::job::*;
use crate::spec::network::{Direction, EmbeddingSpec};
use crate::spec::node::Pos;
use crate::spec::paths::Root;
use crate::spec::problems::Problems;
use crate::spec::raw::{RawBtyd, RawEmbedding, RawHead, RawModel, RawSequence, RawSnapshots, RawText, RawTrain};
use crate::spec::read::At;
use crate::spec::recipe;
use crate::spec::sequence::SequenceSpec;
use crate::spec::text::TextSpec;
use crate::spec::tune::TuneSpec;
use crate::spec::values::{Days, EmbeddingName, LossName};

use super::tune::{layer_decay, tune};
use super::{checked, count, not_negative, positive, share};

/// Checks the model; `key` is the entity's key column.
pub(super) fn model(raw: &RawModel, key: Option<&str>, root: &Root, problems: &mut Problems) -> Option<ModelSpec> {
    let text = raw.text.as_ref().and_then(At::get).and_then(|raw| text(raw, root, problems));
    let sequence = raw.sequence.as_ref().and_then(|at| sequence(at.get()?, at.pos, root, problems));
    let mut heads = Vec::new();
    if let Some(list) = raw.heads.get() {
        let hint = "add one: `{name: churn_90d, label: churned_90d, loss: bce}`";
        problems.require(!list.is_empty(), raw.heads.key, "the model has no heads", hint);
        let known: Vec<(&RawHead, Pos)> = list.iter().filter_map(|head| Some((head.get()?, head.pos))).collect();
        names_and_labels(&known, key, problems);
        families(&known, problems);
        heads = known.iter().filter_map(|(raw, pos)| head(raw, *pos, problems)).collect();
    }
    Some(ModelSpec {
        bundle: root.join(raw.bundle.get()?),
        bundle_place: problems.place(raw.bundle.pos),
        text,
        sequence,
        heads,
        members: few(&raw.members, recipe::MEMBERS, problems),
        embedding: embedding(raw.embedding.as_ref().and_then(At::get), problems),
        hidden: hidden(&raw.hidden, problems),
        dropout: share(&raw.dropout, recipe::DROPOUT, problems),
        minimum_data: raw.minimum_data.as_ref().and_then(At::get).cloned(),
        btyd: raw.btyd.as_ref().and_then(|at| btyd(at.get()?, at.pos, problems)),
    })
}

fn btyd(raw: &RawBtyd, pos: Pos, problems: &mut Problems) -> Option<BtydSpec> {
    let mut taken: Vec<(&str, &str)> = Vec::new();
    let columns = [
        ("first", Some(&raw.first)),
        ("last", Some(&raw.last)),
        ("days", Some(&raw.days)),
        ("spend", raw.spend.as_ref()),
    ];
    for (key, column) in columns {
        let Some((column, at)) = column.and_then(|at| Some((at.get()?.as_str(), at.pos))) else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, name)| *name == column) {
            let hint = "each of them is a feature of its own: days since the first purchase, days since the last, purchase days";
            problems.add(at, format!("`{column}` is both `{other}` and `{key}`"), hint);
        }
        taken.push((key, column));
    }
    Some(BtydSpec {
        first: raw.first.get()?.clone(),
        last: raw.last.get()?.clone(),
        days: raw.days.get()?.clone(),
        spend: raw.spend.as_ref().and_then(At::get).cloned(),
        place: problems.place(pos),
    })
}

fn text(raw: &RawText, root: &Root, problems: &mut Problems) -> Option<TextSpec> {
    let mut columns: Vec<String> = Vec::new();
    let list = raw.columns.get();
    let empty = list.is_some_and(Vec::is_empty);
    problems.require(!empty, raw.columns.key, "the text inputs have no columns", "name at least one feature column");
    for (pos, column) in list.into_iter().flatten().filter_map(|at| Some((at.pos, at.get()?))) {
        if columns.contains(column) {
            problems.add(pos, format!("the text column `{column}` stands here twice"), "remove one of them");
        }
        columns.push(column.clone());
    }
    let max_length = max_length(&raw.max_length, problems);
    let tune = tune(&raw.tune, TuneSpec::Frozen, problems);
    if let (Some(at), TuneSpec::Frozen) = (&raw.learning_rate, &tune) {
        let hint = "remove it (the network's is `train.learning_rate`), or let the encoder learn: `tune: lora`";
        problems.add(at.key, "`learning_rate` has no meaning for a frozen encoder", hint);
    }
    Some(TextSpec {
        columns,
        encoder: root.join(raw.encoder.get()?),
        max_length,
        learning_rate: positive(&raw.learning_rate, tune.learning_rate(), problems),
        layer_decay: layer_decay(&raw.layer_decay, &tune, problems),
        tune,
    })
}

fn sequence(raw: &RawSequence, pos: Pos, root: &Root, problems: &mut Problems) -> Option<SequenceSpec> {
    let length = "a whole number from 2 to 256: events per customer";
    let width = "a multiple of 4 from 4 to 256";
    let layers = "1, 2, 3 or 4";
    let length = checked(&raw.length, recipe::SEQUENCE_LENGTH, length, |n| (2..=256).contains(&n), problems) as usize;
    let of_heads = |n: u64| (4..=256).contains(&n) && n.is_multiple_of(4);
    let width = checked(&raw.width, recipe::SEQUENCE_WIDTH, width, of_heads, problems) as usize;
    let layers = checked(&raw.layers, recipe::SEQUENCE_LAYERS, layers, |n| (1..=4).contains(&n), problems) as usize;
    let events = root.join(raw.events.get()?);
    let message = format!("there is no file `{}`", raw.events.get()?);
    problems.require(events.is_file(), raw.events.pos, message, "it is a SQL file with one row per event");
    Some(SequenceSpec {
        events,
        length,
        encoder: raw.encoder.as_ref().and_then(At::get).copied().unwrap_or(recipe::SEQUENCE_ENCODER),
        width,
        layers,
        keep: raw.keep.as_ref().and_then(At::get).copied().unwrap_or(recipe::SEQUENCE_KEEP),
        place: problems.place(pos),
    })
}

/// The longest text in tokens.
pub(super) fn max_length(raw: &Option<At<u64>>, problems: &mut Problems) -> usize {
    let rule = "a whole number from 3 (two tokens frame each text) to 8192";
    checked(raw, 128, rule, |length| (3..=8192).contains(&length), problems) as usize
}

/// A small count: every one of them costs time at every row.
fn few(raw: &Option<At<u64>>, default: u64, problems: &mut Problems) -> usize {
    checked(raw, default, "a whole number from 1 to 256", |n| (1..=256).contains(&n), problems) as usize
}

fn embedding(raw: Option<&RawEmbedding>, problems: &mut Problems) -> EmbeddingSpec {
    let nothing = RawEmbedding::default();
    let raw = raw.unwrap_or(&nothing);
    let width = few(&raw.width, recipe::EMBEDDING_WIDTH, problems);
    let bins = few(&raw.bins, recipe::EMBEDDING_BINS, problems);
    match raw.kind.as_ref().and_then(At::get).copied().unwrap_or(recipe::EMBEDDING) {
        EmbeddingName::PiecewiseLinear => EmbeddingSpec::PiecewiseLinear { width, bins },
        EmbeddingName::Periodic => EmbeddingSpec::Periodic { width, frequencies: bins },
        EmbeddingName::None => {
            for (key, at) in [("width", &raw.width), ("bins", &raw.bins)] {
                if let Some(at) = at {
                    let message = format!("`{key}` has no meaning with the embedding `none`");
                    problems.add(at.key, message, "remove it, or write `kind: piecewise_linear`");
                }
            }
            EmbeddingSpec::None
        }
    }
}

fn hidden(raw: &Option<At<Vec<At<u64>>>>, problems: &mut Problems) -> Vec<usize> {
    let Some(widths) = raw.as_ref().and_then(At::get) else {
        return recipe::HIDDEN.map(|width| width as usize).to_vec();
    };
    let mut hidden = Vec::new();
    for (pos, width) in widths.iter().filter_map(|at| Some((at.pos, *at.get()?))) {
        let good = (1..=16_384).contains(&width);
        problems.require(good, pos, format!("`{width}` is out of range"), "a layer is 1 to 16384 wide");
        hidden.push(width as usize);
    }
    hidden
}

fn head(raw: &RawHead, pos: Pos, problems: &mut Problems) -> Option<HeadSpec> {
    let family = match raw.family.as_ref() {
        None => None,
        Some(at) => {
            at.get().and_then(|family| Some((family.name.get()?.0.clone(), u32::try_from(*family.days.get()?).ok()?)))
        }
    };
    let weight = positive(&raw.weight, 1.0, problems);
    if let Some(at) = &raw.direction {
        let probability = !matches!(raw.loss.get(), Some(LossName::Ziln | LossName::Mse | LossName::Softmax));
        let hint = "remove it: it says where the probability of a `bce` head goes as its horizon grows";
        problems.require(probability && family.is_some(), at.key, "`direction` has no meaning here", hint);
    }
    Some(HeadSpec {
        name: raw.name.get()?.0.clone(),
        label: raw.label.get()?.clone(),
        loss: (*raw.loss.get()?).into(),
        weight,
        family,
        direction: raw.direction.as_ref().and_then(At::get).copied(),
        place: problems.place(pos),
    })
}

/// The columns that a head adds to the predictions.
fn outputs(name: &str, loss: Option<&LossName>) -> Vec<String> {
    let mut outputs = vec![name.to_owned()];
    match loss {
        Some(LossName::Ziln) => outputs.extend(["p10", "p50", "p90", "p_zero"].map(|q| format!("{name}_{q}"))),
        Some(LossName::Softmax) => outputs.push(format!("{name}_probability")),
        Some(LossName::Bce | LossName::Mse) | None => {}
    }
    outputs
}

fn names_and_labels(heads: &[(&RawHead, Pos)], key: Option<&str>, problems: &mut Problems) {
    const OURS: [&str; 5] = ["no_score_reason", "model_version", "run_id", "ds", "as_of"];
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut labels: BTreeMap<&str, Pos> = BTreeMap::new();
    for (head, _) in heads {
        if let Some(name) = head.name.get().map(|name| name.0.as_str()) {
            for output in outputs(name, head.loss.get()) {
                let ours = OURS.contains(&output.as_str()) || key == Some(output.as_str());
                let message = format!("the column `{output}` of head `{name}` is the job's own");
                problems.require(!ours, head.name.pos, message, "give the head another name");
                match taken.get(&output) {
                    None => {
                        taken.insert(output, name.to_owned());
                    }
                    Some(other) if other == name => {
                        problems.add(head.name.pos, format!("two heads are called `{name}`"), "give one another name");
                        break;
                    }
                    Some(other) => {
                        let message = format!("the heads `{other}` and `{name}` both make a column `{output}`");
                        problems.add(head.name.pos, message, "give one another name");
                    }
                }
            }
        }
        if let Some(label) = head.label.get() {
            if let Some(first) = labels.get(label.as_str()) {
                let message = format!("two heads learn the label `{label}`");
                let hint = format!("the first one is in line {}: one head per label", first.line);
                problems.add(head.label.pos, message, hint);
            } else {
                labels.insert(label, head.label.pos);
            }
        }
    }
}

/// Heads of one family share a loss and differ in their horizons.
fn families(heads: &[(&RawHead, Pos)], problems: &mut Problems) {
    let mut seen: BTreeMap<&str, (LossName, Option<Direction>, Vec<u64>)> = BTreeMap::new();
    for (head, _) in heads {
        let Some(at) = &head.family else { continue };
        let Some(family) = at.get() else { continue };
        let (Some(name), Some(days), Some(loss)) = (family.name.get(), family.days.get(), head.loss.get()) else {
            continue;
        };
        let hint = "write the horizon in days, such as `days: 90`";
        problems.require((1..=36_525).contains(days), family.days.pos, format!("`{days}` is out of range"), hint);
        let ordered = *loss != LossName::Softmax;
        let hint = "a family orders numbers: use it with `bce`, `ziln` or `mse`";
        problems.require(ordered, at.pos, "classes have no order over horizons", hint);
        let direction = head.direction.as_ref().and_then(At::get).copied();
        let (first, known, horizons) = seen.entry(&name.0).or_insert((*loss, direction, Vec::new()));
        if let (Some(at), Some(direction)) = (&head.direction, direction) {
            let message = format!("the heads of family `{}` have different directions", name.0);
            let same = known.replace(direction).is_none_or(|known| known == direction);
            problems.require(same, at.pos, message, "all horizons of one outcome rise, or all of them fall");
        }
        let message = format!("the heads of family `{}` have different losses", name.0);
        problems.require(first == loss, at.pos, message, "horizons can only be compared under one loss");
        let message = format!("family `{}` has two heads for {days} days", name.0);
        problems.require(
            !horizons.contains(days),
            family.days.pos,
            message,
            "each head of a family has its own horizon",
        );
        horizons.push(*days);
    }
}

/// Checks how the model is trained; what is not said has its default.
pub(super) fn train(raw: Option<&RawTrain>, problems: &mut Problems) -> TrainSpec {
    let nothing = RawTrain::default();
    let raw = raw.unwrap_or(&nothing);
    let no_snapshots = RawSnapshots::default();
    let snapshots = raw.snapshots.as_ref().and_then(At::get).unwrap_or(&no_snapshots);
    let rule = "a whole number, 2 or more: one snapshot learns and one validates";
    let snapshot_count = checked(&snapshots.count, 12, rule, |n| (2..=100_000).contains(&n), problems) as usize;
    let validation_snapshots = count(&raw.validation_snapshots, 1, problems);
    if let Some(at) = &raw.validation_snapshots {
        let good = validation_snapshots < snapshot_count || snapshot_count < 2;
        let message = format!("all {snapshot_count} snapshots would validate and none would be learned from");
        problems.require(good, at.pos, message, format!("write {} or less", snapshot_count.saturating_sub(1).max(1)));
    }
    TrainSpec {
        every_days: days(&snapshots.every, 30, 1, problems),
        count: snapshot_count,
        warmup_days: days(&snapshots.warmup, 60, 0, problems),
        validation_snapshots,
        epochs: count(&raw.epochs, recipe::EPOCHS, problems),
        batch: count(&raw.batch, recipe::BATCH, problems),
        learning_rate: positive(&raw.learning_rate, recipe::LEARNING_RATE, problems),
        schedule: raw.schedule.as_ref().and_then(At::get).copied().unwrap_or(recipe::SCHEDULE),
        season: raw.season.as_ref().and_then(At::get).copied().unwrap_or(recipe::SEASON),
        weight_decay: not_negative(&raw.weight_decay, recipe::WEIGHT_DECAY, problems),
        clip_norm: positive(&raw.clip_norm, recipe::CLIP_NORM, problems),
        patience: count(&raw.patience, recipe::PATIENCE, problems),
        seed: raw.seed.as_ref().and_then(At::get).copied().unwrap_or(0),
        rfm: raw.rfm.as_ref().and_then(|at| {
            let rfm = at.get()?;
            Some(RfmSpec {
                recency: rfm.recency.get()?.clone(),
                frequency: rfm.frequency.get()?.clone(),
                monetary: rfm.monetary.get()?.clone(),
                share: share(&rfm.share, recipe::RFM_SHARE, problems),
                place: problems.place(at.pos),
            })
        }),
    }
}

fn days(raw: &Option<At<Days>>, default: u32, least: u32, problems: &mut Problems) -> u32 {
    let Some((pos, days)) = raw.as_ref().and_then(|at| Some((at.pos, at.get()?.0))) else { return default };
    problems.require(days >= least, pos, format!("`{days}d` is too short"), format!("write `{least}d` or more"));
    days
}
