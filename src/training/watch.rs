//! Who looks on while a model is trained: nobody, or TensorBoard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::Evaluation;
use super::event_file::EventFile;
use crate::Result;

/// Hears how a training goes.
pub trait Watch: Debug {
    /// A fit has done an epoch.
    fn epoch(&self, _epoch: &Epoch<'_>) -> Result<()> {
        Ok(())
    }

    /// The model that was chosen, on rows that it had not seen.
    fn validated(&self, _epochs: usize, _validation: &Evaluation) -> Result<()> {
        Ok(())
    }
}

/// What an epoch came to.
#[derive(Debug, Clone, Copy)]
pub struct Epoch<'a> {
    /// Which fit it belongs to.
    pub fit: &'a str,
    /// Its number, from 1.
    pub number: usize,
    /// The mean loss of its steps.
    pub training_loss: f64,
    /// Each head's name with its loss on the validation rows, where there are any.
    pub validation_losses: &'a [(&'a str, f64)],
    /// The step size that it ended with.
    pub learning_rate: f64,
}

/// Nobody looks on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Event files for TensorBoard: a run per fit with a point per epoch, and a run per model with its final metrics.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    began: DateTime<Utc>,
    clock: Instant,
    runs: RefCell<BTreeMap<String, EventFile>>,
}

impl TensorBoard {
    /// Writes below `folder`, into a folder of its own for each training: `JOB/AS_OF-BEGAN`.
    pub fn new(folder: &Path, job: &str, as_of: &str, began: DateTime<Utc>) -> Self {
        let name = format!("{as_of}-{}", began.format("%Y%m%dT%H%M%SZ"));
        TensorBoard { folder: folder.join(job).join(name), began, clock: Instant::now(), runs: RefCell::default() }
    }

    /// Where the event files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn scalars(&self, run: &str, step: usize, scalars: &[(String, f64)]) -> Result<()> {
        let now = self.began.timestamp_millis() as f64 / 1e3 + self.clock.elapsed().as_secs_f64();
        let mut runs = self.runs.borrow_mut();
        if !runs.contains_key(run) {
            runs.insert(run.to_owned(), EventFile::create(&self.folder.join(run), now)?);
        }
        match runs.get_mut(run) {
            Some(file) => file.scalars(now, step as u64, scalars),
            None => Ok(()),
        }
    }
}

impl Watch for TensorBoard {
    fn epoch(&self, epoch: &Epoch<'_>) -> Result<()> {
        let mut scalars =
            vec![("loss/training".to_owned(), epoch.training_loss), ("learning_rate".to_owned(), epoch.learning_rate)];
        if !epoch.validation_losses.is_empty() {
            let total = epoch.validation_losses.iter().map(|(_, loss)| loss).sum();
            scalars.push(("loss/validation".to_owned(), total));
            let each = epoch.validation_losses.iter();
            scalars.extend(each.map(|(head, loss)| (format!("validation_loss/{head}"), *loss)));
        }
        self.scalars(&epoch.fit.replace(' ', "_"), epoch.number, &scalars)
    }

    fn validated(&self, epochs: usize, validation: &Evaluation) -> Result<()> {
        let mut by_model: BTreeMap<&str, Vec<(String, f64)>> = BTreeMap::new();
        for head in &validation.heads {
            for model in &head.all.models {
                let scalars = model.metrics.iter().map(|(name, value)| (format!("{}/{name}", head.head), *value));
                by_model.entry(&model.model).or_default().extend(scalars);
            }
        }
        by_model.iter().try_for_each(|(model, scalars)| self.scalars(&format!("metrics/{model}"), epochs, scalars))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scalars of an event file by tag, read by the letter of the format.
    fn read(path: &Path) -> BTreeMap<String, Vec<(u64, f32)>> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut scalars) = (bytes.as_slice(), BTreeMap::<String, Vec<(u64, f32)>>::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let (mut step, mut summaries) = (0, Vec::new());
            for (field, value) in fields(&rest[12..12 + length]) {
                match (field, value) {
                    (2, Value::Varint(number)) => step = number,
                    (5, Value::Bytes(bytes)) => summaries.push(bytes),
                    _ => {}
                }
            }
            for value in summaries.iter().flat_map(|summary| fields(summary)) {
                let (1, Value::Bytes(value)) = value else { panic!("{value:?}") };
                let [(1, Value::Bytes(tag)), (2, Value::Fixed32(bits))] = fields(value)[..] else { panic!() };
                let tag = String::from_utf8(tag.to_vec()).unwrap();
                scalars.entry(tag).or_default().push((step, f32::from_le_bytes(bits)));
            }
            rest = &rest[16 + length..];
        }
        scalars
    }

    #[derive(Debug, Clone, Copy)]
    enum Value<'a> {
        Varint(u64),
        Fixed64,
        Bytes(&'a [u8]),
        Fixed32([u8; 4]),
    }

    fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Varint(varint(&mut bytes)),
                1 => {
                    bytes = &bytes[8..];
                    Value::Fixed64
                }
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value)
                }
                _ => {
                    let (value, rest) = bytes.split_at(4);
                    bytes = rest;
                    Value::Fixed32(value.try_into().unwrap())
                }
            };
            found.push((key >> 3, value));
        }
        found
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    #[test]
    fn each_fit_is_a_run_with_a_point_per_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let began = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let board = TensorBoard::new(dir.path(), "ltv", "2026-07-01", began);
        for number in 1..=3 {
            let validation_losses = [("churn", 0.5 / number as f64), ("ltv", 2.0)];
            let epoch = Epoch {
                fit: "search",
                number,
                training_loss: 1.0,
                validation_losses: &validation_losses,
                learning_rate: 0.001,
            };
            board.epoch(&epoch).unwrap();
            board.epoch(&Epoch { fit: "final fit", validation_losses: &[], ..epoch }).unwrap();
        }
        let run = dir.path().join("ltv/2026-07-01-20231114T221320Z");
        assert_eq!(board.folder(), run);
        let file = |fit: &str| run.join(fit).join("events.out.tfevents.1700000000.tenure");
        let search = read(&file("search"));
        assert_eq!(search["loss/validation"], [(1, 2.5), (2, 2.25), (3, 2.0 + 0.5 / 3.0)]);
        assert_eq!(search["validation_loss/ltv"], [(1, 2.0), (2, 2.0), (3, 2.0)]);
        let last = read(&file("final_fit"));
        assert_eq!(last.keys().collect::<Vec<_>>(), ["learning_rate", "loss/training"]);
    }
}
