//! Scattered rows on disk: where each range of customers lies in a file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::spill_file::SpillFile;

use super::scatter::Piece;
use crate::{Error, Result};

/// The rows of all shards, written one after the other.
pub(super) struct Spill {
    /// The file is there as long as this is.
    _file: Arc<dyn SpillFile>,
    path: PathBuf,
    places: Vec<Range<u64>>,
}

impl Spill {
    /// Writes the pieces of every shard and lets go of them.
    pub fn write(disk: &Arc<DiskManager>, shards: &mut [Vec<Piece>]) -> Result<Spill> {
        let file = disk.create_tmp_file("rows of a feature pass")?;
        let path =
            file.path().ok_or_else(|| Error::infra("there is no folder for rows that memory has no room for"))?;
        let path = path.to_owned();
        let failed = |e: std::io::Error| Error::io(&path, e);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(failed)?);
        let mut places = Vec::with_capacity(shards.len());
        let mut end = 0;
        for pieces in shards {
            let begin = end;
            if let Some(first) = pieces.first() {
                let parts: Vec<RecordBatch> =
                    pieces.iter().map(|p| p.batch.slice(p.rows.start, p.rows.len())).collect();
                let whole = concat_batches(&first.batch.schema(), &parts)?;
                pieces.clear();
                let mut writer = StreamWriter::try_new(&mut out, &whole.schema())?;
                writer.write(&whole)?;
                writer.finish()?;
                drop(writer);
                end = out.stream_position().map_err(failed)?;
            }
            places.push(begin..end);
        }
        out.flush().map_err(failed)?;
        drop(out);
        Ok(Spill { _file: file, path, places })
    }

    /// The rows of a shard.
    pub fn read(&self, shard: usize) -> Result<Vec<RecordBatch>> {
        let Some(place) = self.places.get(shard).filter(|place| !place.is_empty()) else { return Ok(Vec::new()) };
        let failed = |e: std::io::Error| Error::io(&self.path, e);
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        let rows = StreamReader::try_new(BufReader::new(file.take(place.end - place.start)), None)?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }
}
