//! The vectors of a table's texts while a network is fitted: as a frozen encoder has them, or from an encoder that learns
//! with the network. Then every step computes those of its own rows anew, with gradients.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::adamw::Parameter;
use crate::Result;
use crate::model::bundle::EncoderPart;
use crate::model::encoder::{Encoder, Learner, Mode, Tuned, Tuning};
use crate::model::manifest::TextEntry;
use crate::model::predict::Texts;
use crate::model::preprocess::RawTable;
use crate::spec::{TextSpec, TuneSpec};

/// The texts of a table, and the encoder as the job has it.
#[derive(Debug)]
pub struct TextInputs {
    spec: TextSpec,
    encoder: Encoder,
    ids: Vec<Tensor>,
    tokens: Vec<Vec<u32>>,
    /// The vectors of the texts, if the encoder does not learn.
    stored: Option<Tensor>,
}

impl TextInputs {
    /// Those of a table's text columns. Each distinct text is tokenized once, and for a frozen encoder embedded.
    pub fn new(spec: &TextSpec, table: &RawTable, device: Device) -> Result<Rc<Self>> {
        let encoder = Encoder::load_cut(&spec.encoder, device, spec.max_length)?;
        let texts = Texts::of(table, device)?;
        let (tokens, stored) = match spec.tune {
            TuneSpec::Frozen => (Vec::new(), Some(texts.embed(&encoder)?)),
            TuneSpec::Lora(_) | TuneSpec::Full => (encoder.tokenizer().encode(&texts.distinct)?, None),
        };
        Ok(Rc::new(TextInputs { spec: spec.clone(), encoder, ids: texts.ids, tokens, stored }))
    }

    /// Per text column, the id of each row's text; the one behind the last text stands for no text.
    pub fn ids(&self) -> &[Tensor] {
        &self.ids
    }

    /// The width of a vector.
    pub fn width(&self) -> usize {
        self.encoder.hidden_size()
    }

    /// Where a fit has its vectors from. An encoder that learns begins anew in each fit.
    pub fn vectors(self: &Rc<Self>, seed: u64) -> Result<TextVectors> {
        let inputs = self.clone();
        if let Some(table) = &self.stored {
            return Ok(TextVectors::Stored { inputs, table: table.shallow_clone() });
        }
        let mut encoder = Encoder::load_cut(&self.spec.encoder, self.encoder.device(), self.spec.max_length)?;
        let tuning = encoder.tune(&self.spec.tune, seed)?;
        Ok(TextVectors::Learning(Box::new(LearningEncoder { inputs, encoder, tuning })))
    }
}

/// Where the vectors of texts come from; that of no text is 0.
#[derive(Debug)]
pub enum TextVectors {
    /// They are there.
    Stored {
        /// The texts.
        inputs: Rc<TextInputs>,
        /// [distinct + 1, width], the last row 0.
        table: Tensor,
    },
    /// An encoder that learns.
    Learning(Box<LearningEncoder>),
}

/// An encoder that learns, beside the one that it began as.
#[derive(Debug)]
pub struct LearningEncoder {
    inputs: Rc<TextInputs>,
    encoder: Encoder,
    tuning: Tuning,
}

impl LearningEncoder {
    /// Vectors [ids, width] of ids in ascending order, none of them twice.
    fn vectors(&self, ids: &[i64], mode: Mode) -> Result<Tensor> {
        let text = |id: &i64| usize::try_from(*id).ok().and_then(|id| self.inputs.tokens.get(id));
        let rows: Vec<&[u32]> = ids.iter().filter_map(text).map(Vec::as_slice).collect();
        let found = self.encoder.embed_tokens(&rows, mode)?;
        let none = (ids.len() - rows.len()) as i64;
        let none = Tensor::f_zeros([none, self.inputs.width() as i64], (Kind::Float, self.encoder.device()))?;
        Ok(Tensor::f_cat(&[found, none], 0)?)
    }
}

impl TextVectors {
    /// What of the encoder learns, beside a network that learns at `learning_rate`.
    pub fn parameters(&self, learning_rate: f64, weight_decay: f64) -> Vec<Parameter> {
        let TextVectors::Learning(learning) = self else { return Vec::new() };
        let LearningEncoder { inputs, tuning, .. } = learning.as_ref();
        let parameter = |learner: Learner| {
            let depth = i32::try_from(learner.above).unwrap_or(i32::MAX);
            Parameter {
                rate: inputs.spec.learning_rate / learning_rate * inputs.spec.layer_decay.powi(depth),
                weight_decay: if learner.decays { weight_decay } else { 0.0 },
                variable: learner.variable,
            }
        };
        tuning.learners().into_iter().map(parameter).collect()
    }

    /// The vectors of texts: for each column of ids `[rows]` one [rows, width].
    pub fn of(&self, columns: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        let learning = match self {
            TextVectors::Stored { table, .. } => {
                return columns.iter().map(|ids| Ok(table.f_index_select(0, ids)?)).collect();
            }
            TextVectors::Learning(learning) => learning,
        };
        let (distinct, places, _) = Tensor::f_cat(columns, 0)?.f_unique_dim(0, true, true, false)?;
        let ids = Vec::<i64>::try_from(&distinct.f_to_device(Device::Cpu)?)?;
        let vectors = learning.vectors(&ids, mode)?;
        let mut first = 0;
        let part = |column: &Tensor| {
            let rows = column.size1()?;
            first += rows;
            Ok(vectors.f_index_select(0, &places.f_narrow(0, first - rows, rows)?)?)
        };
        columns.iter().map(part).collect()
    }

    /// Puts into the encoder's weights what it learned by corrections; the vectors stay.
    pub fn merge(&mut self) -> Result<()> {
        match self {
            TextVectors::Stored { .. } => Ok(()),
            TextVectors::Learning(learning) => learning.encoder.merge(),
        }
    }

    /// The encoder for a bundle.
    pub fn part(&self) -> EncoderPart<'_> {
        match self {
            TextVectors::Stored { inputs, .. } => EncoderPart::Found(inputs.encoder.checkpoint()),
            TextVectors::Learning(learning) => EncoderPart::Tuned(&learning.encoder),
        }
    }

    /// What a manifest says of it.
    pub fn entry(&self, columns: Vec<String>) -> TextEntry {
        let inputs = match self {
            TextVectors::Stored { inputs, .. } => inputs,
            TextVectors::Learning(learning) => &learning.inputs,
        };
        TextEntry { columns, max_length: inputs.spec.max_length, tuned: self.tuned() }
    }

    /// What is worth knowing of an encoder that learned.
    pub fn note(&self) -> Option<String> {
        matches!(self, TextVectors::Learning(_)).then(|| format!("the text encoder: {}", self.tuned()))
    }

    fn tuned(&self) -> Tuned {
        match self {
            TextVectors::Stored { inputs, .. } => Tuned::frozen(inputs.encoder.parameters()),
            TextVectors::Learning(learning) => learning.tuning.tuned(),
        }
    }
}
