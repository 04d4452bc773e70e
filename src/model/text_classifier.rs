//! A BERT with a linear head that gives each text one label, and its bundle.
//!
//! The bundle's folder is itself a checkpoint in the layout of Hugging Face (`config.json`, `model.safetensors`,
//! `tokenizer.json`, …) with a `manifest.json` that pins every file by hash and names the labels.

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::encoder::{BertModel, Checkpoint, Linear, Mode, Padded, Pooling, TOLERATED, Tuned, Tuning, dropout};
use super::files::{self, MANIFEST, OpenFolder};
use super::folder::write_whole;
use super::weights::{self, Tolerated};
use crate::error::Place;
use crate::spec::TuneSpec;
use crate::text::Tokenizer;
use crate::text::batching::{Budget, distinct, plan};
use crate::{Error, Result, failpoint, hash};

const FORMAT: u32 = 3;
const KIND: &str = "text_classifier";
/// Batches when no gradient is needed.
const BUDGET: Budget = Budget { tokens: 4096, rows: 256 };

/// The network with its labels and tokenizer.
#[derive(Debug)]
pub struct TextClassifier {
    checkpoint: Checkpoint,
    store: VarStore,
    model: BertModel,
    pooling: Pooling,
    head: Linear,
    tokenizer: Tokenizer,
    labels: Vec<String>,
}

/// What a text was taken for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The label's number in [`TextClassifier::labels`].
    pub label: usize,
    /// Its probability.
    pub probability: f64,
}

/// `manifest.json` of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextManifest {
    /// The layout's version.
    pub format: u32,
    /// `text_classifier`.
    pub kind: String,
    /// The job that it was trained by.
    pub job: String,
    /// SHA-256 of that job's meaning.
    pub job_hash: String,
    /// The labels in the order of the head's outputs.
    pub labels: Vec<String>,
    /// The longest text in tokens; the rest is cut.
    pub max_length: usize,
    /// SHA-256 of the files of the encoder that training began with.
    pub encoder: BTreeMap<String, String>,
    /// SHA-256 of the bundle's own files.
    pub files: BTreeMap<String, String>,
    /// How much of the network learned.
    pub tuned: Tuned,
    /// How it did on the test texts: `accuracy`, `macro_f1`, `weighted_f1`.
    pub metrics: BTreeMap<String, f64>,
}

impl TextManifest {
    /// SHA-256 of all that the manifest says, the weights' hash included: the bundle's name.
    pub fn hash(&self) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|e| Error::bug("the manifest cannot be written").because(e))?;
        Ok(hash::of_bytes(text))
    }

    /// Reads `manifest.json` of a bundle's folder.
    pub fn read(dir: &Path) -> Result<Self> {
        OpenFolder::read_whole(dir, |opened| Self::read_in(dir, opened))
    }

    fn read_in(dir: &Path, opened: &OpenFolder) -> Result<Self> {
        let file = dir.join(MANIFEST);
        let sealed = opened.manifest()?;
        let text = files::unseal(&sealed).ok_or_else(|| files::not_sealed(dir, &sealed))?;
        let manifest: TextManifest = serde_json::from_str(&text).map_err(|e| {
            let place = Place::at(file.display().to_string(), e.line(), e.column());
            Error::user("this is not the manifest of a text classifier").at(place).because(e)
        })?;
        if (manifest.format, manifest.kind.as_str()) != (FORMAT, KIND) {
            return Err(Error::user(format!("the bundle is a `{}` of format {}", manifest.kind, manifest.format))
                .at(Place::file(file.display().to_string()))
                .hint(format!("this program reads a `{KIND}` of format {FORMAT}; train it again")));
        }
        Ok(manifest)
    }
}

/// Where a classifier comes from and how it did: what its manifest says besides itself.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The job's name.
    pub job: String,
    /// SHA-256 of the job's meaning.
    pub job_hash: String,
    /// How much of the network learned.
    pub tuned: Tuned,
    /// Metrics on the test texts.
    pub metrics: BTreeMap<String, f64>,
}

impl TextClassifier {
    /// A pretrained encoder with a fresh head: small normal weights from the seed, biases of 0.
    pub fn fresh(
        checkpoint: Checkpoint,
        labels: Vec<String>,
        max_length: usize,
        device: Device,
        seed: u64,
    ) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer(max_length)?;
        let store = VarStore::new(device);
        let model = BertModel::new(&store.root(), checkpoint.config().clone())?;
        checkpoint.load_weights(&store, &TOLERATED)?;
        let head = Linear::new(&(store.root() / "classifier"), model.config().hidden, labels.len() as i64)?;
        let pooling = checkpoint.pooling();
        let classifier = TextClassifier { checkpoint, store, model, pooling, head, tokenizer, labels };
        classifier.draw_head(seed)?;
        Ok(classifier)
    }

    /// The classifier of a bundle's folder; every file must be as it was written.
    pub fn open(dir: &Path, device: Device) -> Result<Self> {
        let (manifest, files) = OpenFolder::read_whole(dir, |opened| {
            let manifest = TextManifest::read_in(dir, opened)?;
            let files = opened.pin(&manifest.files)?;
            Ok((manifest, files))
        })?;
        let checkpoint = Checkpoint::read(files)?;
        let tokenizer = checkpoint.tokenizer(manifest.max_length)?;
        let store = VarStore::new(device);
        let model = BertModel::new(&store.root(), checkpoint.config().clone())?;
        let head = Linear::new(&(store.root() / "classifier"), model.config().hidden, manifest.labels.len() as i64)?;
        checkpoint.load_weights(&store, &Tolerated::NOTHING)?;
        let pooling = checkpoint.pooling();
        Ok(TextClassifier { checkpoint, store, model, pooling, head, tokenizer, labels: manifest.labels })
    }

    /// Writes the bundle's folder, whole or not at all, and gives its manifest. The same weights give the same bytes.
    pub fn save(&self, dir: &Path, origin: &Origin) -> Result<TextManifest> {
        let mut manifest = TextManifest {
            format: FORMAT,
            kind: KIND.into(),
            job: origin.job.clone(),
            job_hash: origin.job_hash.clone(),
            labels: self.labels.clone(),
            max_length: self.tokenizer.max_length(),
            encoder: self.checkpoint.hashes()?,
            files: BTreeMap::new(),
            tuned: origin.tuned.clone(),
            metrics: origin.metrics.clone(),
        };
        let is_ours = |there: &Path| files::check_replaceable(there, &origin.job);
        write_whole(dir, is_ours, |part| {
            self.checkpoint.copy_without_weights(part)?;
            weights::save(&weights::variables(&self.store), &part.join("model.safetensors"))?;
            manifest.files = Checkpoint::open(part)?.hashes()?;
            let text = serde_json::to_string_pretty(&manifest)
                .map_err(|e| Error::bug("the manifest cannot be written").because(e))?;
            let file = part.join(MANIFEST);
            failpoint::reach("bundle.written");
            std::fs::write(&file, files::seal(&(text + "\n"))).map_err(|e| Error::io(&file, e))
        })?;
        Ok(manifest)
    }

    /// The labels in the order of the head's outputs.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Every variable.
    pub fn store(&self) -> &VarStore {
        &self.store
    }

    /// Begins to learn. What the encoder learns by corrections is in its weights once [`TextClassifier::merge`] was called.
    pub fn tune(&mut self, spec: &TuneSpec, seed: u64) -> Result<Tuning> {
        Tuning::begin(&mut self.model, &self.store, spec, seed)
    }

    /// Puts into the encoder's weights what it learned by corrections; the scores stay.
    pub fn merge(&mut self) -> Result<()> {
        self.model.merge()
    }

    /// Scores before the softmax, [rows, labels], for rows of token ids.
    pub fn logits(&self, rows: &[&[u32]], mode: Mode) -> Result<Tensor> {
        self.of_pooled(self.pool(rows, mode)?, mode)
    }

    /// Scores before the softmax for pooled vectors, which are not normalised; with dropout in training.
    pub fn of_pooled(&self, pooled: Tensor, mode: Mode) -> Result<Tensor> {
        self.head.forward(&dropout(pooled, self.model.config().dropout, mode)?, mode)
    }

    fn pool(&self, rows: &[&[u32]], mode: Mode) -> Result<Tensor> {
        let input = Padded::new(rows, self.model.config().pad_token, self.store.device())?;
        let hidden = self.model.forward(&input.ids, input.mask.as_ref(), mode)?;
        self.pooling.pool(&hidden, input.mask.as_ref())
    }

    /// The pooled vectors of texts, [texts, width], as the encoder is now; equal texts are computed once.
    pub fn pooled(&self, texts: &[&str]) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let (texts, which) = distinct(texts);
        let tokens = self.tokenizer.encode(&texts)?;
        let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
        let (mut parts, mut place, mut next) = (Vec::new(), vec![0i64; texts.len()], 0);
        for batch in plan(&lengths, BUDGET) {
            let rows: Vec<&[u32]> = batch.iter().map(|&row| tokens[row].as_slice()).collect();
            parts.push(self.pool(&rows, Mode::Infer)?);
            for row in batch {
                place[row] = next;
                next += 1;
            }
        }
        let which: Vec<i64> = which.into_iter().map(|text| place[text]).collect();
        let which = Tensor::f_from_slice(&which)?.f_to_device(self.store.device())?;
        Ok(Tensor::f_cat(&parts, 0)?.f_index_select(0, &which)?)
    }

    /// The most probable label of every text, in order.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<Prediction>> {
        let _guard = tch::no_grad_guard();
        let tokens = self.tokenizer.encode(texts)?;
        let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
        let mut predictions = vec![Prediction { label: 0, probability: 0.0 }; texts.len()];
        for batch in plan(&lengths, BUDGET) {
            let rows: Vec<&[u32]> = batch.iter().map(|&row| tokens[row].as_slice()).collect();
            let logits = self.logits(&rows, Mode::Infer)?;
            let (best, label) = logits.f_softmax(-1, Kind::Double)?.f_max_dim(1, false)?;
            let best = Vec::<f64>::try_from(best.f_to_device(Device::Cpu)?)?;
            let label = Vec::<i64>::try_from(label.f_to_device(Device::Cpu)?)?;
            for ((&row, probability), label) in batch.iter().zip(best).zip(label) {
                predictions[row] = Prediction { label: usize::try_from(label).unwrap_or_default(), probability };
            }
        }
        Ok(predictions)
    }

    /// Drawn here and not by libtorch, so that the head depends on the seed alone and not on who else draws.
    fn draw_head(&self, seed: u64) -> Result<()> {
        let normal = Normal::new(0f32, 0.02).map_err(|e| Error::bug("no initial weights").because(e))?;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let _guard = tch::no_grad_guard();
        if let Some(weight) = self.store.variables().get_mut("classifier.weight") {
            let values: Vec<f32> = (0..weight.numel()).map(|_| normal.sample(&mut random)).collect();
            weight.f_copy_(&Tensor::f_from_slice(&values)?.f_view(weight.size().as_slice())?)?;
        }
        Ok(())
    }
}
