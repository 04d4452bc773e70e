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
    /// Nothing where a shard has no rows.
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
                let whole = concat_batches(first.batch.schema_ref(), &parts)?;
                let mut writer = StreamWriter::try_new(&mut out, whole.schema_ref())?;
                writer.write(&whole)?;
                writer.finish()?;
                drop(writer);
                end = out.stream_position().map_err(failed)?;
            }
            pieces.clear();
            places.push(begin..end);
        }
        out.flush().map_err(failed)?;
        drop(out);
        Ok(Spill { _file: file, path, places })
    }

    /// The rows of a shard.
    pub fn read(&self, shard: usize) -> Result<Vec<RecordBatch>> {
        let failed = |e: std::io::Error| Error::io(&self.path, e);
        let Some(place) = self.places.get(shard).filter(|place| !place.is_empty()) else { return Ok(Vec::new()) };
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        let rows = StreamReader::try_new(BufReader::new(file.take(place.end - place.start)), None)?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use datafusion::execution::disk_manager::DiskManagerBuilder;

    use super::*;

    #[test]
    fn what_was_written_comes_back_range_by_range() {
        let batch = |numbers: Vec<i64>| RecordBatch::try_from_iter([("c0", Arc::new(Int64Array::from(numbers)) as _)]);
        let (three, two) = (Arc::new(batch(vec![1, 2, 3]).unwrap()), Arc::new(batch(vec![4, 5]).unwrap()));
        let piece = |batch: &Arc<RecordBatch>, rows: Range<usize>| Piece { batch: Arc::clone(batch), rows };
        let mut ranges = vec![
            vec![piece(&three, 0..2), piece(&three, 2..3), piece(&two, 1..2)],
            Vec::new(),
            vec![piece(&two, 0..1)],
        ];
        let disk = Arc::new(DiskManagerBuilder::default().build().unwrap());
        let spill = Spill::write(&disk, &mut ranges).unwrap();
        assert!(ranges.iter().all(Vec::is_empty));
        let read = |range: usize| spill.read(range).unwrap();
        assert_eq!(read(0), [batch(vec![1, 2, 3, 5]).unwrap()]);
        assert_eq!(read(2), [batch(vec![4]).unwrap()]);
        assert!(read(1).is_empty() && read(9).is_empty());
    }
}
