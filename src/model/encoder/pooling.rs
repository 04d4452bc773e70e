//! From the tokens' vectors to one vector per text, as the checkpoint's `1_Pooling` and `modules.json` say.

use std::path::Path;

use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::error::Place;
use crate::model::files::Files;
use crate::{Error, Result};

/// How a text's token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// The mean over the text's own tokens, special tokens included.
    Mean,
    /// The first token's.
    Cls,
}

/// Pooling and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooling {
    /// How the vectors become one.
    pub mode: PoolingMode,
    /// Whether that one is scaled to length 1.
    pub normalize: bool,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct RawPooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(flatten)]
    rest: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Pooling {
    /// What a plain checkpoint gets: the mean, not normalised.
    pub const PLAIN: Pooling = Pooling { mode: PoolingMode::Mean, normalize: false };

    /// Reads `1_Pooling/config.json` and `modules.json` of a checkpoint's folder. Without the first, the mean is taken;
    /// without the second, nothing is normalised.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::read(&Files::of_folder(dir))
    }

    /// The same from the files of a checkpoint.
    pub fn read(files: &Files) -> Result<Self> {
        let mut pooling = Pooling::PLAIN;
        let name = "1_Pooling/config.json";
        if let Some(raw) = read_if_there::<RawPooling>(files, name)? {
            pooling.mode = raw.mode().map_err(|e| e.at(Place::file(files.path(name).display().to_string())))?;
        }
        let name = "modules.json";
        for module in read_if_there::<Vec<Module>>(files, name)?.unwrap_or_default() {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" | "Pooling" => {}
                "Normalize" => pooling.normalize = true,
                _ => {
                    return Err(Error::user(format!("module `{}` is not known", module.kind))
                        .at(Place::file(files.path(name).display().to_string()))
                        .hint("known are `Transformer`, `Pooling` and `Normalize`"));
                }
            }
        }
        Ok(pooling)
    }

    /// One vector per row of `hidden` [rows, tokens, width]; `mask` [rows, tokens] has 1 where a row's own tokens are, and
    /// none stands for all ones.
    pub fn apply(&self, hidden: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let pooled = self.pool(hidden, mask)?;
        if !self.normalize {
            return Ok(pooled);
        }
        let length = pooled.f_square()?.f_sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>)?.f_sqrt()?;
        Ok(pooled.f_div(&length.f_clamp_min(1e-12)?)?)
    }

    /// As [`Pooling::apply`], but never normalised: what a classifier's head is fed.
    pub fn pool(&self, hidden: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        match (self.mode, mask) {
            (PoolingMode::Cls, _) => Ok(hidden.f_select(1, 0)?),
            (PoolingMode::Mean, None) => Ok(hidden.f_mean_dim([1i64].as_slice(), false, None::<Kind>)?),
            (PoolingMode::Mean, Some(mask)) => {
                let weight = mask.f_unsqueeze(-1)?.f_to_kind(hidden.f_kind()?)?;
                let sum = hidden.f_mul(&weight)?.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?;
                let count = weight.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?;
                Ok(sum.f_div(&count.f_clamp_min(1.0)?)?)
            }
        }
    }
}

impl RawPooling {
    fn mode(&self) -> Result<PoolingMode> {
        let other = self.rest.iter().find(|(key, value)| key.starts_with("pooling_mode_") && **value == true);
        match (other, self.pooling_mode_cls_token, self.pooling_mode_mean_tokens) {
            (None, false, true) => Ok(PoolingMode::Mean),
            (None, true, false) => Ok(PoolingMode::Cls),
            (Some((key, _)), ..) => {
                Err(Error::user(format!("`{key}` is not known"))
                    .hint("known are the mean of the tokens and the CLS token"))
            }
            (None, true, true) => Err(Error::user("two poolings are asked for at once")),
            (None, false, false) => Err(Error::user("no pooling is asked for")),
        }
    }
}

pub(super) fn read_if_there<T: serde::de::DeserializeOwned>(files: &Files, name: &str) -> Result<Option<T>> {
    let Some(text) = files.find(name)? else { return Ok(None) };
    let value = serde_json::from_slice(&text).map_err(|e| {
        let place = Place::at(files.path(name).display().to_string(), e.line(), e.column());
        Error::user("this file of the encoder cannot be read").at(place).because(e)
    })?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(pooling: &str, modules: &str) -> Result<Pooling> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::write(dir.path().join("1_Pooling/config.json"), pooling).unwrap();
        std::fs::write(dir.path().join("modules.json"), modules).unwrap();
        Pooling::load(dir.path())
    }

    #[test]
    fn the_folder_says_how_to_pool() {
        let pooling =
            folder(r#"{"pooling_mode_cls_token": true}"#, r#"[{"type": "sentence_transformers.models.Normalize"}]"#);
        assert_eq!(pooling.unwrap(), Pooling { mode: PoolingMode::Cls, normalize: true });
        let pooling = folder(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false}"#, "[]");
        assert_eq!(pooling.unwrap(), Pooling::PLAIN);
        assert_eq!(Pooling::load(tempfile::tempdir().unwrap().path()).unwrap(), Pooling::PLAIN);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let max = folder(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#, "[]");
        assert!(max.unwrap_err().to_string().contains("`pooling_mode_max_tokens`"));
        let dense =
            folder(r#"{"pooling_mode_mean_tokens": true}"#, r#"[{"type": "sentence_transformers.models.Dense"}]"#);
        assert!(dense.unwrap_err().to_string().contains("Dense"));
        assert!(folder("{}", "[]").is_err());
    }

    #[test]
    fn padding_has_no_part_in_the_mean() {
        let hidden = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 100.0, 100.0]).reshape([1, 3, 2]);
        let mask = Tensor::from_slice(&[1i64, 1, 0]).reshape([1, 3]);
        let pooled = Pooling::PLAIN.apply(&hidden, Some(&mask)).unwrap();
        assert_eq!(Vec::<f32>::try_from(pooled.select(0, 0)).unwrap(), [2.0, 3.0]);
    }
}
