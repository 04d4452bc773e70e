//! The bytes of a file of states: in memory, or on disk where memory has no room for them.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::spill_file::SpillFile;
use memmap2::{Mmap, MmapOptions};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use crate::{Error, Result};

/// A page's header is shorter.
const HEADER: usize = 256;

/// The bytes of a file.
#[derive(Clone)]
pub enum Packed {
    Here(Bytes),
    /// A local file that is in memory as the system has it: reading it would copy every page into another.
    Mapped(Bytes, Arc<OnDisk>),
    OnDisk(Arc<OnDisk>),
}

/// A file, read in place.
pub struct OnDisk {
    file: File,
    bytes: u64,
    /// The file is there as long as this is; that of a store has none.
    _guard: Option<Arc<dyn SpillFile>>,
}

impl OnDisk {
    fn open(path: &Path, guard: Option<Arc<dyn SpillFile>>) -> std::io::Result<Self> {
        let file = File::open(path)?;
        Ok(OnDisk { bytes: file.metadata()?.len(), file, _guard: guard })
    }
}

#[allow(unsafe_code)]
fn mapped(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: what is mapped must not change or be cut short. Files of states get their names, which have their hashes in them, once
    // they are written as a whole; then they are read, and at some time removed, which leaves what is mapped as it is.
    unsafe { MmapOptions::new().populate().map(file) }
}

impl Packed {
    /// A local file; where the file system maps none, it is read.
    pub fn local(path: &Path) -> std::io::Result<Self> {
        let on_disk = OnDisk::open(path, None)?;
        Ok(match mapped(&on_disk.file) {
            Ok(bytes) => Packed::Mapped(Bytes::from_owner(bytes), Arc::new(on_disk)),
            Err(_) => Packed::Here(std::fs::read(path)?.into()),
        })
    }

    /// What is in memory.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Packed::Here(bytes) | Packed::Mapped(bytes, _) => Some(bytes),
            Packed::OnDisk(_) => None,
        }
    }

    /// Moves the bytes to disk.
    pub fn spill(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        let bytes = match self {
            Packed::Here(bytes) => bytes,
            Packed::Mapped(_, on_disk) => {
                *self = Packed::OnDisk(Arc::clone(on_disk));
                return Ok(());
            }
            Packed::OnDisk(_) => return Ok(()),
        };
        let guard = disk.create_tmp_file("states of past days")?;
        let path =
            guard.path().ok_or_else(|| Error::infra("there is no folder for states that memory has no room for"))?;
        let failed = |e: std::io::Error| Error::io(path, e);
        std::fs::write(path, &*bytes).map_err(failed)?;
        let on_disk = OnDisk::open(path, Some(Arc::clone(&guard))).map_err(failed)?;
        *self = Packed::OnDisk(Arc::new(on_disk));
        Ok(())
    }

    fn read(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Packed::Here(bytes) | Packed::Mapped(bytes, _) => bytes.get_bytes(start, length),
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
            Packed::Here(bytes) | Packed::Mapped(bytes, _) => bytes.len() as u64,
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
pub struct From {
    packed: Packed,
    at: u64,
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = match &self.packed {
            Packed::Here(bytes) | Packed::Mapped(bytes, _) => {
                bytes.get(self.at as usize..).unwrap_or_default().read(into)?
            }
            Packed::OnDisk(on_disk) => on_disk.file.read_at(into, self.at)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}
