//! The bytes of a file of states: in memory, or on disk where memory has no room for them.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::spill_file::SpillFile;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use crate::{Error, Result};

/// A page's header is shorter.
const HEADER: usize = 256;

/// The bytes of a file.
#[derive(Clone)]
pub(super) enum Packed {
    Here(Bytes),
    OnDisk(Arc<OnDisk>),
}

/// A file, read in place.
pub(super) struct OnDisk {
    file: File,
    bytes: u64,
    /// The file is there as long as this is.
    _guard: Arc<dyn SpillFile>,
}

impl Packed {
    /// How many bytes are in memory.
    pub fn memory(&self) -> usize {
        match self {
            Packed::Here(bytes) => bytes.len(),
            Packed::OnDisk(_) => 0,
        }
    }

    /// Moves the bytes to disk.
    pub fn spill(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        let Packed::Here(bytes) = self else { return Ok(()) };
        let guard = disk.create_tmp_file("states of past days")?;
        let path =
            guard.path().ok_or_else(|| Error::infra("there is no folder for states that memory has no room for"))?;
        let failed = |e: std::io::Error| Error::io(path, e);
        std::fs::write(path, &*bytes).map_err(failed)?;
        let on_disk =
            OnDisk { file: File::open(path).map_err(failed)?, bytes: bytes.len() as u64, _guard: Arc::clone(&guard) };
        *self = Packed::OnDisk(Arc::new(on_disk));
        Ok(())
    }

    fn read(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Packed::Here(bytes) => bytes.get_bytes(start, length),
            Packed::OnDisk(on_disk) => {
                let mut bytes = vec![0; length];
                on_disk.file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
        }
    }
}

impl Length for Packed {
    fn len(&self) -> u64 {
        match self {
            Packed::Here(bytes) => bytes.len() as u64,
            Packed::OnDisk(on_disk) => on_disk.bytes,
        }
    }
}

impl ChunkReader for Packed {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::with_capacity(HEADER, From { packed: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.read(start, length)
    }
}

/// The bytes from some place on.
pub(super) struct From {
    packed: Packed,
    at: u64,
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = match &self.packed {
            Packed::Here(bytes) => bytes.get(self.at as usize..).unwrap_or_default().read(into)?,
            Packed::OnDisk(on_disk) => on_disk.file.read_at(into, self.at)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}
