//! `config.json` of a BERT checkpoint, as far as the numbers depend on it.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Place, Problem};
use crate::model::files::Files;
use crate::{Error, Result};

/// The shape of a BERT and what it computes. Only what this encoder computes exactly is accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Word pieces.
    pub vocabulary: i64,
    /// Width of a token's vector.
    pub hidden: i64,
    /// Number of layers.
    pub layers: i64,
    /// Attention heads per layer; divides the width.
    pub heads: i64,
    /// Width of the feed-forward layer.
    pub intermediate: i64,
    /// The longest text in tokens.
    pub positions: i64,
    /// Segment types; only the first is used.
    pub types: i64,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Share of values dropped in training.
    pub dropout: f64,
    /// Share of attention weights dropped in training.
    pub attention_dropout: f64,
    /// The token that fills short rows.
    pub pad_token: i64,
}

/// The file; everything that changes no number is left out.
#[derive(Debug, Deserialize)]
struct Raw {
    model_type: Option<String>,
    vocab_size: Option<i64>,
    hidden_size: Option<i64>,
    num_hidden_layers: Option<i64>,
    num_attention_heads: Option<i64>,
    intermediate_size: Option<i64>,
    max_position_embeddings: Option<i64>,
    type_vocab_size: Option<i64>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_dropout_prob: Option<f64>,
    attention_probs_dropout_prob: Option<f64>,
    position_embedding_type: Option<String>,
    pad_token_id: Option<i64>,
    is_decoder: Option<bool>,
    add_cross_attention: Option<bool>,
}

impl BertConfig {
    /// Reads `config.json` of a checkpoint's folder; all that does not fit is said at once.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::read(&Files::of_folder(dir))
    }

    /// The same from the files of a checkpoint.
    pub fn read(files: &Files) -> Result<Self> {
        let text = files
            .read_text("config.json")
            .map_err(|e| e.hint("an encoder is a folder in the layout of Hugging Face"))?;
        Self::parse(&text, &files.path("config.json").display().to_string())
    }

    /// Reads the text of a `config.json`; `file` is for the messages.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_str(text).map_err(|e| {
            Error::user("this is not an encoder's configuration").at(Place::at(file, e.line(), e.column())).because(e)
        })?;
        let mut problems = Problems { file, list: Vec::new() };
        problems.is("model_type", raw.model_type.as_deref(), "bert", None);
        // In these files `gelu` is the exact one (erf); `gelu_new` and others are approximations by tanh.
        problems.is("hidden_act", raw.hidden_act.as_deref(), "gelu", None);
        problems.is("position_embedding_type", raw.position_embedding_type.as_deref(), "absolute", Some("absolute"));
        for (key, value) in [("is_decoder", raw.is_decoder), ("add_cross_attention", raw.add_cross_attention)] {
            if value == Some(true) {
                problems.say(format!("`{key}` is true"), "only plain encoders are known");
            }
        }
        let config = BertConfig {
            vocabulary: problems.count("vocab_size", raw.vocab_size),
            hidden: problems.count("hidden_size", raw.hidden_size),
            layers: problems.count("num_hidden_layers", raw.num_hidden_layers),
            heads: problems.count("num_attention_heads", raw.num_attention_heads),
            intermediate: problems.count("intermediate_size", raw.intermediate_size),
            positions: problems.count("max_position_embeddings", raw.max_position_embeddings),
            types: problems.count("type_vocab_size", raw.type_vocab_size.or(Some(2))),
            layer_norm_eps: raw.layer_norm_eps.unwrap_or(1e-12),
            dropout: problems.share("hidden_dropout_prob", raw.hidden_dropout_prob),
            attention_dropout: problems.share("attention_probs_dropout_prob", raw.attention_probs_dropout_prob),
            pad_token: raw.pad_token_id.unwrap_or(0),
        };
        if config.hidden % config.heads != 0 {
            let (hidden, heads) = (config.hidden, config.heads);
            problems.say(format!("`hidden_size` {hidden} is not a multiple of the {heads} attention heads"), "");
        }
        if !(config.layer_norm_eps > 0.0 && config.layer_norm_eps < 1.0) {
            problems.say(format!("`layer_norm_eps` is {}", config.layer_norm_eps), "it lies between 0 and 1");
        }
        if !(0..config.vocabulary).contains(&config.pad_token) {
            problems.say(format!("`pad_token_id` {} is not in the vocabulary", config.pad_token), "");
        }
        Error::all(problems.list)?;
        Ok(config)
    }
}

struct Problems<'a> {
    file: &'a str,
    list: Vec<Problem>,
}

impl Problems<'_> {
    fn say(&mut self, message: String, hint: &str) {
        let problem = Problem::new(message).at(Place::file(self.file));
        self.list.push(if hint.is_empty() { problem } else { problem.hint(hint) });
    }

    fn is(&mut self, key: &str, value: Option<&str>, right: &str, default: Option<&str>) {
        match value.or(default) {
            Some(value) if value == right => {}
            Some(value) => {
                self.say(format!("`{key}` is `{value}`"), &format!("only encoders with `{key}: {right}` are known"));
            }
            None => self.say(format!("`{key}` is missing"), &format!("only encoders with `{key}: {right}` are known")),
        }
    }

    /// A number of things, at least one; 1 in place of a wrong one.
    fn count(&mut self, key: &str, value: Option<i64>) -> i64 {
        match value {
            Some(value) if (1..=1 << 24).contains(&value) => value,
            Some(value) => {
                self.say(format!("`{key}` is {value}"), "it is at least 1 and at most 2^24");
                1
            }
            None => {
                self.say(format!("`{key}` is missing"), "");
                1
            }
        }
    }

    fn share(&mut self, key: &str, value: Option<f64>) -> f64 {
        match value.unwrap_or(0.1) {
            share if (0.0..1.0).contains(&share) => share,
            share => {
                self.say(format!("`{key}` is {share}"), "a share is at least 0 and less than 1");
                0.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::render_error;

    const GOOD: &str = r#"{"model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64, "hidden_act": "gelu"}"#;

    #[test]
    fn what_is_not_said_has_berts_default() {
        let config = BertConfig::parse(GOOD, "config.json").unwrap();
        assert_eq!((config.types, config.pad_token), (2, 0));
        assert_eq!((config.layer_norm_eps, config.dropout, config.attention_dropout), (1e-12, 0.1, 0.1));
    }

    #[test]
    fn everything_that_would_change_the_numbers_is_refused_at_once() {
        let text = GOOD
            .replace("\"bert\"", "\"roberta\"")
            .replace("\"gelu\"", "\"gelu_new\"")
            .replace("\"hidden_size\": 32", "\"hidden_size\": 33, \"position_embedding_type\": \"relative_key\"");
        let told = render_error(&BertConfig::parse(&text, "config.json").unwrap_err());
        for part in [
            "config.json: `model_type` is `roberta`",
            "`hidden_act` is `gelu_new`",
            "`position_embedding_type` is `relative_key`",
            "`hidden_size` 33 is not a multiple of the 2 attention heads",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn missing_and_senseless_sizes_are_named() {
        let text =
            GOOD.replace("\"vocab_size\": 100,", "").replace("\"intermediate_size\": 64", "\"intermediate_size\": 0");
        let told = render_error(&BertConfig::parse(&text, "config.json").unwrap_err());
        assert!(told.contains("`vocab_size` is missing") && told.contains("`intermediate_size` is 0"), "{told}");
    }

    #[test]
    fn a_torn_file_is_named_with_the_position() {
        let told = BertConfig::parse("{\"model_type\":", "config.json").unwrap_err().to_string();
        assert!(told.starts_with("config.json:1:"), "{told}");
    }
}
