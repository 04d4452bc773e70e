//! Rows of features to predictions, on whatever thread holds the network.

use tch::{Device, Kind, Tensor};

use super::btyd::BuyTillYouDie;
use super::btyd::extrapolation::{self, Stretcher};
use super::bundle::Bundle;
use super::encoder::Encoder;
use super::heads::{Head, Prediction, make_monotone};
use super::manifest::BundleManifest;
use super::network::{EventTensors, Inputs, Network};
use super::preprocess::{Input, InputKind, MISSING, Preprocess, RawColumn, RawTable};
use super::rfm::Rfm;
use super::season;
use crate::Result;

/// Texts that are embedded at once.
const TEXTS_AT_ONCE: usize = 4096;

/// A network with all that stands before and behind it.
#[derive(Debug)]
pub struct Predictor {
    heads: Vec<Head>,
    trained: Vec<Head>,
    btyd: Option<BuyTillYouDie>,
    stretcher: Option<Stretcher>,
    rfm: Option<Rfm>,
    preprocess: Preprocess,
    network: Network,
    encoder: Option<Encoder>,
    device: Device,
}

impl Predictor {
    /// Loads a bundle onto a device.
    pub fn load(bundle: &Bundle, device: Device) -> Result<Self> {
        let encoder = match (bundle.encoder(), &bundle.manifest().text) {
            (Some(files), Some(text)) => Some(Encoder::read_cut(files, device, text.max_length)?),
            _ => None,
        };
        let BundleManifest { heads, btyd, extrapolations, rfm, .. } = bundle.manifest();
        Ok(Predictor {
            heads: heads.clone(),
            trained: extrapolation::trained(heads, extrapolations),
            btyd: btyd.clone(),
            stretcher: (!extrapolations.is_empty()).then(|| Stretcher::new(heads, extrapolations)),
            rfm: rfm.clone(),
            preprocess: bundle.preprocess().clone(),
            network: bundle.network(device)?,
            encoder,
            device,
        })
    }

    /// The heads in the order of the predictions.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// A table of the features that it needs, without rows.
    pub fn table(&self) -> RawTable {
        let derived = self.btyd.as_ref().map_or_else(Vec::new, BuyTillYouDie::names);
        // Events that the network does not read need not be there.
        let read = |input: &&Input| input.kind != InputKind::Events || self.preprocess.events().is_some();
        let features = self.preprocess.inputs().iter().filter(|input| !derived.contains(&input.name)).filter(read);
        let mut columns: Vec<_> = features.map(|i| (i.name.clone(), i.kind)).collect();
        for name in self.rfm.iter().flat_map(|rfm| rfm.columns()) {
            if columns.iter().all(|(known, _)| known != name) {
                columns.push((name.clone(), InputKind::Number));
            }
        }
        RawTable::new(columns)
    }

    /// One prediction per head for every row; `None` for a row of which one output is not finite.
    pub fn predict(&self, table: &RawTable) -> Result<Vec<Option<Vec<Prediction>>>> {
        let Some(btyd) = &self.btyd else { return Ok(self.of_inputs(table)?.0) };
        let mut extended = table.clone();
        btyd.extend(&mut extended)?;
        let (predicted, raw) = self.of_inputs(&extended)?;
        match &self.stretcher {
            None => Ok(predicted),
            Some(stretcher) => Ok(stretcher.extend(predicted, &raw, table.dates())),
        }
    }

    /// Predictions of the trained heads, and the raw outputs behind them, with the regression and the season in them.
    #[allow(clippy::type_complexity)]
    fn of_inputs(&self, table: &RawTable) -> Result<(Vec<Option<Vec<Prediction>>>, Vec<f64>)> {
        let numbers = matrix(&self.preprocess.transform(table)?, table.rows(), self.device)?.f_to_kind(Kind::Double)?;
        let mut texts = Vec::new();
        if let Some(encoder) = &self.encoder {
            let found = Texts::of(table, self.device)?;
            let vectors = found.embed(encoder)?.f_to_kind(Kind::Double)?;
            for ids in &found.ids {
                texts.push(vectors.f_index_select(0, ids)?);
            }
        }
        let members = self.network.shape().members;
        let events = self.preprocess.encode_events(table)?;
        let events = events.map(|e| EventTensors::new(&e, Kind::Double, self.device)).transpose()?;
        let events = events.as_ref().map(|events| (events, (0..table.rows() as i64).collect()));
        let mut raw = self.network.outputs(&Inputs { numbers, texts, events })?;
        if let Some(rfm) = &self.rfm {
            rfm.join(&self.trained, &mut raw, members, table, 0..table.rows())?;
        }
        season::apply(&self.trained, &mut raw, members, table.dates());
        Ok((predictions(&self.trained, &raw, members), raw))
    }
}

/// A matrix on a device.
pub fn matrix(values: &[f32], rows: usize, device: Device) -> Result<Tensor> {
    let width = values.len().checked_div(rows).unwrap_or(0);
    Ok(Tensor::f_from_slice(values)?.f_view([rows as i64, width as i64])?.f_to_device(device)?)
}

/// Reads raw outputs, n × members × outputs, head by head; families are made monotone.
pub fn predictions(heads: &[Head], raw: &[f64], members: usize) -> Vec<Option<Vec<Prediction>>> {
    let outputs: usize = heads.iter().map(Head::width).sum();
    let of_row = |row: &[f64]| {
        let mut offset = 0;
        let mut found = Vec::with_capacity(heads.len());
        for head in heads {
            let parts: Vec<&[f64]> = row.chunks_exact(outputs).map(|m| &m[offset..offset + head.width()]).collect();
            found.push(head.predict(&parts)?);
            offset += head.width();
        }
        make_monotone(heads, &mut found);
        Some(found)
    };
    raw.chunks_exact(members * outputs).map(of_row).collect()
}

/// What each member says of one row for one head.
pub fn members_of<'a>(heads: &[Head], raw: &'a [f64], members: usize, row: usize, head: usize) -> Vec<&'a [f64]> {
    let outputs: usize = heads.iter().map(Head::width).sum();
    let start: usize = heads[..head].iter().map(Head::width).sum();
    let of_row = &raw[row * members * outputs..(row + 1) * members * outputs];
    of_row.chunks_exact(outputs).map(|member| &member[start..start + heads[head].width()]).collect()
}

/// The distinct texts of a table.
#[derive(Debug)]
pub struct Texts<'a> {
    /// The texts, column after column.
    pub distinct: Vec<&'a str>,
    /// Per text column, each row's place among them; the place behind the last one stands for no text.
    pub ids: Vec<Tensor>,
}

impl<'a> Texts<'a> {
    /// Those of a table's text columns.
    pub fn of(table: &'a RawTable, device: Device) -> Result<Self> {
        let columns: Vec<_> = table
            .columns()
            .filter_map(|(_, kind, column)| match column {
                RawColumn::Words(words) if kind == InputKind::Text => Some(words),
                _ => None,
            })
            .collect();
        let distinct: Vec<&str> = columns.iter().flat_map(|c| c.words().iter().map(String::as_str)).collect();
        let mut ids = Vec::new();
        let mut first = 0;
        for column in columns {
            let place = |id: &u32| if *id == MISSING { distinct.len() as i64 } else { first + i64::from(*id) };
            ids.push(Tensor::f_from_slice(&column.ids().iter().map(place).collect::<Vec<_>>())?.f_to_device(device)?);
            first += column.words().len() as i64;
        }
        Ok(Texts { distinct, ids })
    }

    /// Their vectors [distinct + 1, width]; the last row, 0, stands for no text.
    pub fn embed(&self, encoder: &Encoder) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let mut parts = Vec::new();
        for chunk in self.distinct.chunks(TEXTS_AT_ONCE) {
            parts.push(encoder.embed(chunk)?);
        }
        parts.push(Tensor::f_zeros([1, encoder.hidden_size() as i64], (Kind::Float, encoder.device()))?);
        Ok(Tensor::f_cat(&parts, 0)?)
    }
}
