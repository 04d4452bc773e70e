//! The part of a job file about how far an encoder learns.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use crate::spec::node::{Kind, Node};
use crate::spec::problems::Problems;
use crate::spec::read::{At, FromNode, read_keys};
use crate::spec::tune::LoraTarget;
use crate::spec::values::TuneMode;

/// How far a pretrained encoder learns, with the settings of `lora`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tune")]
pub(in crate::spec) struct RawTune {
    /// `frozen`: not at all, each distinct text is embedded once. `lora`: by corrections of low rank, which are merged into
    /// its weights in the end. `full`: every weight.
    pub mode: At<TuneMode>,
    /// The rank of a correction. Default: 8.
    #[schemars(range(min = 1, max = 1024), extend("default" = 8))]
    pub rank: Option<At<u64>>,
    /// A correction is scaled by `alpha / rank`. Default: twice the rank.
    pub alpha: Option<At<f64>>,
    /// The layers that are corrected, in every block. Default: `[query, value]`.
    #[schemars(extend("default" = ["query", "value"]))]
    pub targets: Option<At<Vec<At<LoraTarget>>>>,
    /// The share of a correction's inputs that are dropped in training. Default: 0.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.0))]
    pub dropout: Option<At<f64>>,
}

read_keys!(RawTune, "the tuning": mode, rank, alpha, targets, dropout);

/// A mode alone, or with its settings.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(in crate::spec) struct ModeOrTune(pub RawTune);

impl FromNode for ModeOrTune {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(_) => {
                let mode = At { pos: node.pos, key: node.pos, value: TuneMode::from_node(node, problems) };
                Some(ModeOrTune(RawTune { mode, rank: None, alpha: None, targets: None, dropout: None }))
            }
            _ => RawTune::from_node(node, problems).map(ModeOrTune),
        }
    }
}

impl JsonSchema for ModeOrTune {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "ModeOrTune".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (mode, tune) = (generator.subschema_for::<TuneMode>(), generator.subschema_for::<RawTune>());
        json_schema!({"anyOf": [mode, tune]})
    }
}
