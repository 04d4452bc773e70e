//! The small values of a job file: names, durations, and the words for types, losses and formats.

use std::borrow::Cow;
use std::time::Duration;

use chrono::NaiveDate;
use chrono_tz::Tz;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::job::{Bound, Format, Loss, NaiveTimes, OnFail};
use super::nearest::nearest;
use super::network::{Direction, Schedule, SeasonSpec};
use super::node::{Kind, Node, Pos};
use super::problems::Problems;
use super::read::{FromNode, scalar, word};
use super::sequence::{Keep, SequenceEncoder};
use super::tune::LoraTarget;
use super::version::Instant;

/// The longest duration: a century.
const MAX_SECONDS: u64 = 36_525 * 86_400;

/// A name of ours: lower-case letters, digits and `_`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Name(pub String);

impl FromNode for Name {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = String::from_node(node, problems)?;
        is_name(&text, node.pos, problems).then_some(Name(text))
    }
}

/// A value of a column, kept as it was written: `cart`, `3`, `true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Literal(pub String);

impl FromNode for Literal {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        scalar(node, problems, "a value", "write a text, a number, `true` or `false`", |text| {
            Some(Literal(text.to_owned()))
        })
    }
}

impl FromNode for Bound {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let rule = "write a number (`0.5`, `1e6`), or a date (`2000-01-31`) for dates and timestamps";
        scalar(node, problems, "a bound", rule, |text| {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            // `2000-1-1` would be read too, and be written otherwise.
            let day = || text.parse().ok().filter(|day: &NaiveDate| day.to_string() == text);
            number.map(Bound::Number).or_else(|| day().map(Bound::Day))
        })
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Bound::Number(number) => number.serialize(serializer),
            Bound::Day(day) => day.to_string().serialize(serializer),
        }
    }
}

/// Whether a text is a name of ours; tells it otherwise.
pub(super) fn is_name(text: &str, pos: Pos, problems: &mut Problems) -> bool {
    let good = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !good {
        let fitting: String =
            text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let fitting = fitting.trim_matches('_');
        let hint = match fitting.starts_with(|c: char| c.is_ascii_lowercase()) {
            true => format!("names are lower-case letters, digits and `_`: `{fitting}`"),
            false => "names are lower-case letters, digits and `_`, a letter first".to_owned(),
        };
        problems.add(pos, format!("`{text}` is not a name"), hint);
    }
    good
}

/// Whether a text can name a column of a source file; tells it otherwise.
pub(super) fn is_column_name(text: &str, pos: Pos, problems: &mut Problems) -> bool {
    let good = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        problems.add(pos, format!("`{text}` is not a column name"), "columns are letters, digits and `_`");
    }
    good
}

/// A duration with its unit: `45s`, `30m`, `36h`, `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl FromNode for Span {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        duration(node, problems, "a duration", "write it with its unit: `30m`, `36h`, `90d`").map(Span)
    }
}

/// Whole days: `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Days(pub u32);

impl FromNode for Days {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let hint = "write whole days: `30d`, `90d`";
        let seconds = duration(node, problems, "a number of days", hint)?.as_secs();
        match u32::try_from(seconds / 86_400) {
            Ok(days) if seconds % 86_400 == 0 => Some(Days(days)),
            _ => {
                problems.add(node.pos, "this counts whole days", hint);
                None
            }
        }
    }
}

fn duration(node: &Node, problems: &mut Problems, what: &str, hint: &str) -> Option<Duration> {
    let Kind::Scalar(text) = &node.kind else {
        return scalar(node, problems, what, hint, |_| None);
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let hint = match (number.parse::<u64>(), unit.trim().to_lowercase().as_str()) {
        (Err(_), _) => hint.to_owned(),
        (Ok(_), "s" | "m" | "h" | "d") if unit.len() == 1 => match seconds(number, unit) {
            Some(seconds) => return Some(Duration::from_secs(seconds)),
            None => "a century is the longest".to_owned(),
        },
        (Ok(n), "") => format!("add the unit: `{n}h` for hours, `{n}d` for days"),
        (Ok(n), "s" | "sec" | "second" | "seconds") => format!("seconds are written `{n}s`"),
        (Ok(n), "m" | "min" | "mins" | "minute" | "minutes") => format!("minutes are written `{n}m`"),
        (Ok(n), "h" | "hr" | "hrs" | "hour" | "hours") => format!("hours are written `{n}h`"),
        (Ok(n), "d" | "day" | "days") => format!("days are written `{n}d`"),
        (Ok(n), "w" | "week" | "weeks") => format!("weeks are written in days: `{}d`", n.saturating_mul(7)),
        (Ok(n), "mo" | "month" | "months") => {
            format!("months differ in length, write days: `{}d`", n.saturating_mul(30))
        }
        (Ok(n), "y" | "year" | "years") => format!("years are written in days: `{}d`", n.saturating_mul(365)),
        (Ok(_), _) => hint.to_owned(),
    };
    scalar(node, problems, what, &hint, |_| None)
}

fn seconds(number: &str, unit: &str) -> Option<u64> {
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(each).filter(|seconds| *seconds <= MAX_SECONDS)
}

/// The losses by their names in a job file.
pub(super) const LOSSES: [(&str, LossName); 4] =
    [("bce", LossName::Bce), ("ziln", LossName::Ziln), ("mse", LossName::Mse), ("softmax", LossName::Softmax)];

/// A loss as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LossName {
    Bce,
    Ziln,
    Mse,
    Softmax,
}

impl From<LossName> for Loss {
    fn from(name: LossName) -> Self {
        match name {
            LossName::Bce => Loss::Bce,
            LossName::Ziln => Loss::Ziln,
            LossName::Mse => Loss::Mse,
            LossName::Softmax => Loss::Softmax,
        }
    }
}

impl FromNode for LossName {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        const OTHERS: [(&str, &str); 10] = [
            ("logistic", "bce"),
            ("log_loss", "bce"),
            ("logloss", "bce"),
            ("binary_cross_entropy", "bce"),
            ("cross_entropy", "softmax"),
            ("l2", "mse"),
            ("rmse", "mse"),
            ("mean_squared_error", "mse"),
            ("lognormal", "ziln"),
            ("zero_inflated_lognormal", "ziln"),
        ];
        word(node, problems, "a loss", &LOSSES, &OTHERS)
    }
}

/// The embeddings of numbers by their names in a job file.
const EMBEDDINGS: [(&str, EmbeddingName); 3] = [
    ("piecewise_linear", EmbeddingName::PiecewiseLinear),
    ("periodic", EmbeddingName::Periodic),
    ("none", EmbeddingName::None),
];

/// An embedding as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmbeddingName {
    PiecewiseLinear,
    Periodic,
    None,
}

impl FromNode for EmbeddingName {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [
            ("ple", "piecewise_linear"),
            ("bins", "piecewise_linear"),
            ("linear", "piecewise_linear"),
            ("plr", "periodic"),
            ("fourier", "periodic"),
            ("off", "none"),
        ];
        word(node, problems, "an embedding", &EMBEDDINGS, &others)
    }
}

impl FromNode for Schedule {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("cosine_annealing", "cosine"), ("reduce_on_plateau", "plateau"), ("none", "constant")];
        word(node, problems, "a schedule", &Schedule::NAMES, &others)
    }
}

/// What may be known of the year by its name in a job file.
const SEASONS: [(&str, SeasonSpec); 2] = [("retail", SeasonSpec::Retail), ("none", SeasonSpec::None)];

impl FromNode for SeasonSpec {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("ecommerce", "retail"), ("christmas", "retail"), ("off", "none")];
        word(node, problems, "a season", &SEASONS, &others)
    }
}

impl FromNode for Direction {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, "a direction", &Direction::NAMES, &[("up", "rises"), ("down", "falls")])
    }
}

const FORMATS: [(&str, Format); 2] = [("parquet", Format::Parquet), ("csv", Format::Csv)];

impl FromNode for Format {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, "a file format", &FORMATS, &[("pq", "parquet"), ("tsv", "csv")])
    }
}

const NAIVE_TIMES: [(&str, NaiveTimes); 2] = [("job", NaiveTimes::Job), ("UTC", NaiveTimes::Utc)];

impl FromNode for NaiveTimes {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("utc", "UTC"), ("Z", "UTC"), ("local", "job"), ("timezone", "job")];
        word(node, problems, "a value of `naive_times`", &NAIVE_TIMES, &others)
    }
}

const ON_FAIL: [(&str, OnFail); 3] = [("reject", OnFail::Reject), ("fail", OnFail::Fail), ("warn", OnFail::Warn)];

impl FromNode for OnFail {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("error", "fail"), ("abort", "fail"), ("drop", "reject"), ("skip", "reject"), ("ignore", "warn")];
        word(node, problems, "a value of `on_fail`", &ON_FAIL, &others)
    }
}

const TUNE_MODES: [(&str, TuneMode); 3] =
    [("frozen", TuneMode::Frozen), ("lora", TuneMode::Lora), ("full", TuneMode::Full)];

/// How far an encoder learns, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TuneMode {
    Frozen,
    Lora,
    Full,
}

impl FromNode for TuneMode {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("freeze", "frozen"), ("none", "frozen"), ("false", "frozen"), ("all", "full"), ("true", "full")];
        word(node, problems, "a mode of tuning", &TUNE_MODES, &others)
    }
}

impl FromNode for LoraTarget {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        const OTHERS: [(&str, &str); 10] = [
            ("q", "query"),
            ("q_proj", "query"),
            ("k", "key"),
            ("k_proj", "key"),
            ("v", "value"),
            ("v_proj", "value"),
            ("o_proj", "attention_output"),
            ("up_proj", "intermediate"),
            ("down_proj", "output"),
            ("dense", "output"),
        ];
        word(node, problems, "a layer of an encoder's blocks", &LoraTarget::NAMES, &OTHERS)
    }
}

const ENCODERS: [(&str, SequenceEncoder); 2] =
    [("gru", SequenceEncoder::Gru), ("transformer", SequenceEncoder::Transformer)];

impl FromNode for SequenceEncoder {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let others = [("rnn", "gru"), ("lstm", "gru"), ("attention", "transformer"), ("bert", "transformer")];
        word(node, problems, "an encoder of sequences", &ENCODERS, &others)
    }
}

const KEEP: [(&str, Keep); 2] = [("auto", Keep::Auto), ("always", Keep::Always)];

impl FromNode for Keep {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, "a value of `keep`", &KEEP, &[("true", "always"), ("yes", "always")])
    }
}

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone(pub Tz);

impl FromNode for Zone {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = String::from_node(node, problems)?;
        let zone = text.parse().ok().map(Zone);
        if zone.is_none() {
            let hint = nearest(&text, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name()))
                .unwrap_or_else(|| "write an IANA name such as `UTC` or `Europe/Berlin`".to_owned());
            problems.add(node.pos, format!("`{text}` is not a time zone"), hint);
        }
        zone
    }
}

// For the hash of a job and for its JSON Schema.

macro_rules! as_text {
    ($($kind:ty => $text:expr),+ $(,)?) => {
        $(impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text: fn(&$kind) -> String = $text;
                text(self).serialize(serializer)
            }
        })+
    };
}

as_text! {
    Span => |span| format!("{}s", span.0.as_secs()),
    LossName => |loss| name_in(&LOSSES, *loss),
    EmbeddingName => |embedding| name_in(&EMBEDDINGS, *embedding),
    Schedule => |schedule| name_in(&Schedule::NAMES, *schedule),
    SeasonSpec => |season| name_in(&SEASONS, *season),
    Format => |format| name_in(&FORMATS, *format),
    OnFail => |on_fail| name_in(&ON_FAIL, *on_fail),
    NaiveTimes => |times| name_in(&NAIVE_TIMES, *times),
    TuneMode => |mode| name_in(&TUNE_MODES, *mode),
    LoraTarget => |target| target.name().to_owned(),
    Keep => |keep| name_in(&KEEP, *keep),
    Zone => |zone| zone.0.name().to_owned(),
}

fn name_in<T: PartialEq>(names: &[(&'static str, T)], wanted: T) -> String {
    names.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name).to_owned()
}

macro_rules! inline_schema {
    ($($kind:ty => $schema:expr),+ $(,)?) => {
        $(impl JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        })+
    };
}

inline_schema! {
    Name => json_schema!({"type": "string", "pattern": "^([a-z][a-z0-9_]*|.*\\$\\{.*)$"}),
    Literal => json_schema!({"type": ["string", "number", "boolean"]}),
    Bound => json_schema!({"type": ["number", "string"], "examples": ["2000-01-01"]}),
    Span => json_schema!({"type": "string", "pattern": "^([0-9]+[smhd]|.*\\$\\{.*)$", "examples": ["36h", "30d"]}),
    Days => json_schema!({"type": "string", "pattern": "^([0-9]+[smhd]|.*\\$\\{.*)$", "examples": ["30d", "90d"]}),
    LossName => words(&LOSSES),
    EmbeddingName => words(&EMBEDDINGS),
    Schedule => words(&Schedule::NAMES),
    SeasonSpec => words(&SEASONS),
    Direction => words(&Direction::NAMES),
    Format => words(&FORMATS),
    OnFail => words(&ON_FAIL),
    NaiveTimes => words(&NAIVE_TIMES),
    TuneMode => words(&TUNE_MODES),
    LoraTarget => words(&LoraTarget::NAMES),
    SequenceEncoder => words(&ENCODERS),
    Keep => words(&KEEP),
    Instant => json_schema!({"type": "string", "examples": ["2026-06-30T00:00:00Z"]}),
    Zone => json_schema!({"type": "string", "examples": ["UTC", "Europe/Berlin", "America/New_York"]}),
}

pub(super) fn words<T>(names: &[(&'static str, T)]) -> Schema {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    json_schema!({"type": "string", "enum": names})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::column::ColumnType;

    fn read<T: FromNode>(text: &str) -> Result<T, String> {
        let node = Node { pos: Pos::START, kind: Kind::Scalar(text.to_owned()) };
        let mut problems = Problems::of("job.yaml");
        let value = T::from_node(&node, &mut problems);
        let hints: Vec<String> = problems.into_sorted().into_iter().filter_map(|problem| problem.hint).collect();
        value.ok_or_else(|| hints.join("; "))
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(read("36h"), Ok(Span(Duration::from_secs(36 * 3600))));
        assert_eq!(read("30m"), Ok(Span(Duration::from_secs(1800))));
        assert_eq!(read("90d"), Ok(Days(90)));
        assert_eq!(read("48h"), Ok(Days(2)));
    }

    #[test]
    fn wrong_units_are_answered_with_the_right_one() {
        assert_eq!(read::<Span>("36 hours").unwrap_err(), "hours are written `36h`");
        assert_eq!(read::<Days>("2w").unwrap_err(), "weeks are written in days: `14d`");
        assert_eq!(read::<Days>("30").unwrap_err(), "add the unit: `30h` for hours, `30d` for days");
        assert_eq!(read::<Days>("36h").unwrap_err(), "write whole days: `30d`, `90d`");
        assert_eq!(read::<Span>("99999999999999999999d").unwrap_err(), "write it with its unit: `30m`, `36h`, `90d`");
        assert_eq!(read::<Span>("999999999999d").unwrap_err(), "a century is the longest");
    }

    const DECIMALS: &str = "write its digits in all, at most 76, and those behind the point: `decimal(18, 2)`";

    #[test]
    fn words_of_other_tools_are_translated() {
        assert_eq!(read::<ColumnType>("string").unwrap_err(), "here it is called `utf8`");
        assert_eq!(read::<ColumnType>("Int").unwrap_err(), "here it is called `int64`");
        assert_eq!(read::<ColumnType>("timestamp[ns]").unwrap_err(), "here it is called `timestamp`");
        assert_eq!(read::<ColumnType>("numeric(18)"), Err(DECIMALS.to_owned()));
        assert_eq!(read::<ColumnType>("decimal"), Err(DECIMALS.to_owned()));
        assert_eq!(read::<ColumnType>("decimal(90, 2)"), Err(DECIMALS.to_owned()));
        assert!(read::<ColumnType>("decimal(10").unwrap_err().starts_with("between `{` and `}` it wants quotes"));
        assert!(read::<ColumnType>("struct<a: int64>").unwrap_err().contains("from: address.city"));
        assert_eq!(read("decimal(18, 2)"), Ok(ColumnType::Decimal(18, 2)));
        assert_eq!(read::<ColumnType>("flaot64").unwrap_err(), "did you mean `float64`?");
        assert_eq!(read::<LossName>("logistic").unwrap_err(), "here it is called `bce`");
    }

    #[test]
    fn a_time_zone_is_an_iana_name() {
        assert_eq!(read("Europe/Berlin"), Ok(Zone(Tz::Europe__Berlin)));
        assert_eq!(read::<Zone>("Europe/Berln").unwrap_err(), "did you mean `Europe/Berlin`?");
    }
}
