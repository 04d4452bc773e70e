//! The folder that training writes and scoring reads.
//!
//! ```text
//! manifest.json        what it is, with the SHA-256 of every other file and a checksum of its own
//! preprocess.json      fitted preprocessing
//! weights.safetensors  the network
//! baselines.json       fitted baselines, for `tenure evaluate`
//! encoder/             the text encoder as it was used: config, tokenizer, weights (only with text)
//! ```
//! A new bundle is written beside the old one and then put in its place. No clock is in it: the same training gives
//! the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor};

use super::encoder::{Checkpoint, Encoder};
use super::files::{self, Files, MANIFEST, OpenFolder};
use super::folder::write_whole;
use super::manifest::{BundleManifest, LAYOUT};
use super::network::Network;
use super::preprocess::Preprocess;
use super::weights;
use crate::error::Place;
use crate::training::Baselines;
use crate::{Error, Result, failpoint, hash};

const PREPROCESS: &str = "preprocess.json";
const WEIGHTS: &str = "weights.safetensors";
const BASELINES: &str = "baselines.json";
const ENCODER: &str = "encoder";

/// A bundle whose files have the hashes that its manifest names.
#[derive(Debug, Clone)]
pub struct Bundle {
    files: Files,
    hash: String,
    manifest: BundleManifest,
    preprocess: Preprocess,
}

/// What goes into a bundle besides its manifest.
#[derive(Debug)]
pub struct BundleParts<'a> {
    /// Fitted preprocessing.
    pub preprocess: &'a Preprocess,
    /// The network's variables.
    pub weights: Vec<(String, Tensor)>,
    /// Fitted baselines.
    pub baselines: &'a Baselines,
    /// The text encoder, if there is one.
    pub encoder: Option<EncoderPart<'a>>,
}

/// The text encoder of a bundle.
#[derive(Debug, Clone, Copy)]
pub enum EncoderPart<'a> {
    /// As it was found: its checkpoint, copied file by file.
    Found(&'a Checkpoint),
    /// With weights that it learned.
    Tuned(&'a Encoder),
}

impl EncoderPart<'_> {
    /// Writes it into a folder; gives the SHA-256 of its files.
    fn write(self, folder: &Path) -> Result<BTreeMap<String, String>> {
        match self {
            EncoderPart::Found(checkpoint) => {
                checkpoint.copy_to(folder)?;
                checkpoint.hashes()
            }
            EncoderPart::Tuned(encoder) => encoder.save(folder),
        }
    }
}

impl Bundle {
    /// Opens the bundle of a folder and checks every file against the manifest, and the manifest against its checksum. A training
    /// that replaces the folder from here on changes nothing of what was opened.
    pub fn open(folder: &Path) -> Result<Self> {
        OpenFolder::read_whole(folder, |opened| {
            let sealed = opened.manifest()?;
            let text = files::unseal(&sealed).ok_or_else(|| files::not_sealed(folder, &sealed))?;
            let manifest: BundleManifest = parse_json(text.as_bytes(), &folder.join(MANIFEST))?;
            if manifest.layout != LAYOUT {
                let what = format!("the bundle has layout {}, this program knows {LAYOUT}", manifest.layout);
                return Err(Error::user(what)
                    .at(Place::file(folder.display().to_string()))
                    .hint("train again with `tenure train JOB`"));
            }
            let files = opened.pin(&manifest.files)?;
            let preprocess = parse_json(&files.read(PREPROCESS)?, &files.path(PREPROCESS))?;
            Ok(Bundle { files, hash: hash::of_bytes(&sealed), manifest, preprocess })
        })
    }

    /// Writes a bundle in the place of the one that is there, which stays as it was until everything is written.
    pub fn write(folder: &Path, mut manifest: BundleManifest, parts: BundleParts<'_>) -> Result<BundleManifest> {
        let weights_by_name = parts.weights.into_iter().collect();
        let job = manifest.job.clone();
        let is_ours = |there: &Path| files::check_replaceable(there, &job);
        write_whole(folder, is_ours, |new| {
            write_json(&new.join(PREPROCESS), parts.preprocess)?;
            write_json(&new.join(BASELINES), parts.baselines)?;
            weights::save(&weights_by_name, &new.join(WEIGHTS))?;
            for file in [PREPROCESS, BASELINES, WEIGHTS] {
                manifest.files.insert(file.to_owned(), hash::of_file(&new.join(file))?);
            }
            if let Some(encoder) = parts.encoder {
                let hashes = encoder.write(&new.join(ENCODER))?.into_iter();
                let hashes = hashes.map(|(file, hash)| (format!("{ENCODER}/{file}"), hash));
                manifest.files.extend(hashes);
            }
            manifest.name_version();
            let path = new.join(MANIFEST);
            std::fs::write(&path, files::seal(&manifest.to_json())).map_err(|e| Error::io(&path, e))?;
            failpoint::reach("bundle.written");
            Ok(())
        })?;
        Ok(manifest)
    }

    /// SHA-256 of its manifest's bytes, which name those of all other files.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What it knows about itself.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// Its preprocessing.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The files of its encoder, if it has one.
    pub fn encoder(&self) -> Option<Files> {
        self.manifest.text.as_ref().map(|_| self.files.below(ENCODER))
    }

    /// The baselines that were fitted with it.
    pub fn baselines(&self) -> Result<Baselines> {
        parse_json(&self.files.read(BASELINES)?, &self.files.path(BASELINES))
    }

    /// Its network on a device, ready to score.
    pub fn network(&self, device: Device) -> Result<Network> {
        let start = vec![0.0; self.manifest.network.outputs];
        // A new network draws weights, only to be overwritten; a training beside it in the process keeps its own random numbers.
        let seeded = super::device::seed(0);
        let network = Network::new(&self.manifest.network, 0.0, &start, device)?;
        drop(seeded);
        weights::load_from(network.store(), &self.files, WEIGHTS, &weights::Tolerated::NOTHING)?;
        Ok(network.for_scoring())
    }
}

fn parse_json<T: DeserializeOwned>(text: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        Error::user("this is not a file of a model bundle")
            .at(Place::at(path.display().to_string(), e.line(), e.column()))
            .because(e)
            .hint("train again with `tenure train JOB`")
    })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::bug("the bundle cannot be written").because(e))?;
    std::fs::write(path, text + "\n").map_err(|e| Error::io(path, e))
}
