//! Event files of TensorBoard: scalars by tag and step.
//!
//! The format is TFRecord (length, its checksum, the bytes, their checksum; all little-endian, checksums CRC-32C, masked)
//! around protobuf messages of type `Event`. Scalars need five fields of it; docs/adr/006-event-files.md says why no crate writes
//! them.
//!
//! Sources: tensorflow/core/lib/io/record_writer.h, tensorboard/compat/proto/event.proto and summary.proto.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The version that TensorBoard expects in the first record.
const VERSION: &str = "brain.Event:2";
const MASK: u32 = 0xa282_ead8;

/// An event file that grows.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a file in `folder`, which is made where it is missing. `wall_time` is in seconds since 1970.
    pub fn create(folder: &Path, wall_time: f64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        // TensorBoard knows the file by `tfevents` in its name and reads the files of a folder in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:010}.tenure", wall_time as u64));
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = EventFile { path, file };
        events.write(&version_event(wall_time))?;
        Ok(events)
    }

    /// Adds scalars of one step. Whoever reads the file sees all of them or none.
    pub fn scalars(&mut self, wall_time: f64, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        self.write(&scalar_event(wall_time, step, scalars))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&record(event)).map_err(|e| Error::io(&self.path, e))
    }
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&masked_crc(&length).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&masked_crc(data).to_le_bytes());
    bytes
}

/// A checksum of bytes that hold checksums themselves is weak, so TFRecord rotates it and adds a constant.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(MASK)
}

/// `Event {wall_time: 1, file_version: 3}`.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, VERSION.as_bytes());
    event
}

/// `Event {wall_time: 1, step: 2, summary: 5 {value: 1 {tag: 1, simple_value: 2} …}}`.
fn scalar_event(wall_time: f64, step: u64, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut scalar = Vec::new();
        bytes(&mut scalar, 1, tag.as_bytes());
        // Part of a `oneof`, so it is written even where it is 0.
        key(&mut scalar, 2, 5);
        scalar.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    if step != 0 {
        key(&mut event, 2, 0);
        varint(&mut event, step);
    }
    bytes(&mut event, 5, &summary);
    event
}

// The wire format of protobuf: a key of field number and type, then the value.

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    if value != 0.0 {
        key(out, field, 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_one_that_tensorboard_itself_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&folder.path().join("run"), 1_700_000_000.25).unwrap();
        let scalars = |all: &[(&str, f64)]| all.iter().map(|(tag, v)| ((*tag).to_owned(), *v)).collect::<Vec<_>>();
        events.scalars(1_700_000_001.5, 0, &scalars(&[("loss/training", 0.0)])).unwrap();
        let second = scalars(&[("loss/training", 0.693), ("loss/validation", -1.5e-7), ("größe", 1e30)]);
        events.scalars(1_700_000_002.0, 1, &second).unwrap();
        events.scalars(1_700_000_003.0, 300, &scalars(&[("learning_rate", 0.001)])).unwrap();
        let golden = include_bytes!("../../fixtures/tensorboard/golden.tfevents");
        let written = std::fs::read(&events.path).unwrap();
        assert_eq!(written, golden);
        assert_eq!(events.path.file_name().unwrap(), "events.out.tfevents.1700000000.tenure");
    }
}
