//! The states of a block as they come back: row by row, as ranges of customers ask for them. What a night unpacks is then never in
//! memory as a whole.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use arrow::array::ArrayRef;
use datafusion::execution::disk_manager::DiskManager;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::block_file::{ABOUT, About, Layout, PAGE_ROWS};
use super::columns::Columns;
use super::form::{Column, Form};
use super::manifest::BlockState;
use super::packed::Packed;
use crate::{Error, Result};

/// So many rows are unpacked together at least.
const FEWEST_ROWS: usize = 256;

/// The states of a block, whose bytes are those that were written.
pub struct StoredBlock {
    url: String,
    rows: usize,
    file: Packed,
    metadata: ArrowReaderMetadata,
    /// The column of the keys.
    key: usize,
    /// The other columns of the file that are read, and which of them each column of the states is.
    columns: Vec<usize>,
    forms: Vec<Form>,
    places: Vec<usize>,
    passes: [Pass; 2],
}

/// Who asks for rows: customers of the population, then the others, whose rows lie between theirs and who come last. Each go through
/// the block by themselves, so that nothing is held for the others in the meantime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    Population,
    Strangers,
}

/// The rows that are asked for once each, ascending, and how far they are unpacked.
#[derive(Default)]
struct Pass {
    asked: Vec<Range<usize>>,
    unpacked: Mutex<Unpacked>,
}

impl Pass {
    /// How many of some rows are asked for.
    fn asked_of(&self, rows: &Range<usize>) -> usize {
        let first = self.asked.partition_point(|asked| asked.end <= rows.start);
        let some = self.asked[first..].iter().take_while(|asked| asked.start < rows.end);
        some.map(|asked| asked.end.min(rows.end) - asked.start.max(rows.start)).sum()
    }
}

/// What was unpacked and is not taken yet.
#[derive(Default)]
struct Unpacked {
    /// `None` before the first row is asked for.
    columns: Option<Columns>,
    /// How many rows were unpacked.
    rows: usize,
    held: VecDeque<Held>,
}

/// Neighbouring rows.
struct Held {
    rows: Range<usize>,
    columns: Vec<Column>,
    /// How many of them are asked for and not taken yet.
    left: usize,
}

impl std::fmt::Debug for StoredBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredBlock({} rows)", self.rows)
    }
}

impl StoredBlock {
    /// The states in a file, which is in memory; an error says what is wrong with them. Without a layout any columns are right.
    pub fn open(
        url: String,
        packed: Packed,
        state: &BlockState,
        layout: Option<&Layout>,
    ) -> std::result::Result<Self, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let Some(file) = &state.file else { return Err("it has no file".to_owned()) };
        if !packed.bytes().is_some_and(|bytes| bytes.len() as u64 == file.bytes && crc32c::crc32c(bytes) == file.crc32c)
        {
            return Err("its bytes are not those that were written".to_owned());
        }
        let metadata = ArrowReaderMetadata::load(&packed, ArrowReaderOptions::new()).map_err(|e| said(&e))?;
        let about = metadata.metadata().file_metadata();
        let rows = about.num_rows() as usize;
        if rows as u64 != state.rows {
            return Err(format!("it has {rows} rows, and the manifest says {}", state.rows));
        }
        let other = || "it has other columns than the manifest says".to_owned();
        let mut pairs = about.key_value_metadata().into_iter().flatten();
        let words = pairs.find(|pair| pair.key == ABOUT).and_then(|pair| pair.value.as_deref()).ok_or_else(other)?;
        let About { places, forms } = serde_json::from_str(words).map_err(|e| said(&e))?;
        let fields = metadata.schema().fields();
        let (key, states) = places.split_first().ok_or_else(other)?;
        let fits = layout.is_none_or(|layout| {
            fields.get(*key).is_some_and(|field| *field.data_type() == layout.key_type) && states.len() == layout.states
        });
        if !fits || forms.len() != fields.len() || states.iter().any(|place| *place >= fields.len()) {
            return Err(other());
        }
        let mut columns = states.to_vec();
        columns.sort_unstable();
        columns.dedup();
        let places = states.iter().map(|place| columns.partition_point(|column| column < place)).collect();
        let forms = columns.iter().map(|column| forms[*column].clone()).collect();
        let everything = Pass { asked: std::iter::once(0..rows).collect(), ..Pass::default() };
        let passes = [everything, Pass::default()];
        Ok(StoredBlock { url, rows, file: packed, metadata, key: *key, columns, forms, places, passes })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Calls `visit` with the keys of some rows after the other, and with the first of these rows.
    pub fn each_keys(&self, mut visit: impl FnMut(usize, &ArrayRef) -> Result<()>) -> Result<()> {
        let mut columns = self.read_columns(&[self.key])?;
        for first in (0..self.rows).step_by(PAGE_ROWS) {
            let keys = columns.read(PAGE_ROWS.min(self.rows - first)).map_err(|e| self.broken(e))?;
            visit(first, &keys[0])?;
        }
        Ok(())
    }

    fn read_columns(&self, columns: &[usize]) -> Result<Columns> {
        Columns::new(self.file.clone(), self.metadata.clone(), columns)
    }

    fn broken(&self, error: Error) -> Error {
        Error::infra(format!("`{}` cannot be unpacked", self.url)).because(error)
    }

    /// How many bytes of memory it takes, but for what is unpacked at a time.
    pub fn memory(&self) -> usize {
        self.file.bytes().map_or(0, |bytes| bytes.len())
    }

    /// Moves its bytes to disk.
    pub fn spill(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        self.file.spill(disk)
    }

    /// Says which rows will be asked for: all of them by the population, as long as nothing is said.
    pub fn ask(&mut self, who: Asking, rows: Vec<Range<usize>>) {
        self.passes[who as usize].asked = rows;
    }

    /// The states of some rows, in pieces; every row that is asked for is taken once. Rows of earlier ranges are best taken first:
    /// those that are passed over are held until they are.
    pub fn take(&self, who: Asking, rows: Range<usize>) -> Result<Vec<Vec<Column>>> {
        let pass = &self.passes[who as usize];
        self.take_from(pass, pass.unpacked.lock().unwrap_or_else(PoisonError::into_inner), rows)
    }

    /// The same, unless another thread is unpacking some.
    pub fn try_take(&self, who: Asking, rows: Range<usize>) -> Result<Option<Vec<Vec<Column>>>> {
        let pass = &self.passes[who as usize];
        match pass.unpacked.try_lock() {
            Ok(unpacked) => self.take_from(pass, unpacked, rows).map(Some),
            Err(TryLockError::Poisoned(broken)) => self.take_from(pass, broken.into_inner(), rows).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }

    fn take_from(
        &self,
        pass: &Pass,
        mut unpacked: MutexGuard<'_, Unpacked>,
        rows: Range<usize>,
    ) -> Result<Vec<Vec<Column>>> {
        // First what is passed over, some of which another range may take: a page at a time, so that little else is held with that.
        while unpacked.rows < rows.start {
            let end = rows.start.min(unpacked.rows + PAGE_ROWS);
            self.unpack(pass, &mut unpacked, end).map_err(|e| self.broken(e))?;
        }
        self.unpack(pass, &mut unpacked, rows.end).map_err(|e| self.broken(e))?;
        let mut taken = Vec::new();
        for held in &mut unpacked.held {
            let (begin, end) = (held.rows.start.max(rows.start), held.rows.end.min(rows.end));
            if begin < end {
                held.left -= end - begin;
                let slice = |column: &Column| column.slice(begin - held.rows.start, end - begin);
                taken.push(match end - begin == held.rows.len() {
                    true => std::mem::take(&mut held.columns),
                    false => held.columns.iter().map(slice).collect(),
                });
            }
        }
        unpacked.held.retain(|held| held.left > 0);
        Ok(taken)
    }

    /// Unpacks the rows up to some row.
    fn unpack(&self, pass: &Pass, unpacked: &mut Unpacked, end: usize) -> Result<()> {
        if end <= unpacked.rows {
            return Ok(());
        }
        let columns = match &mut unpacked.columns {
            Some(columns) => columns,
            None => {
                let read = self.columns.iter().zip(&self.forms).filter(|(_, form)| form.is_read());
                unpacked.columns.insert(self.read_columns(&read.map(|(column, _)| *column).collect::<Vec<_>>())?)
            }
        };
        let rows = unpacked.rows..end.max(self.rows.min(unpacked.rows + FEWEST_ROWS));
        unpacked.rows = rows.end;
        let left = pass.asked_of(&rows);
        if left == 0 {
            return columns.skip(rows.len());
        }
        let mut read = columns.read(rows.len())?.into_iter();
        let unpacked_columns = self.forms.iter().map(|form| {
            let column = if form.is_read() { read.next() } else { None };
            form.unpacked(column, rows.len())
        });
        let read = unpacked_columns.collect::<Result<Vec<_>>>()?;
        let columns = self.places.iter().map(|place| read[*place].clone()).collect();
        unpacked.held.push_back(Held { rows, columns, left });
        Ok(())
    }

    /// Unpacks everything, to see whether it can be.
    pub fn check(self) -> std::result::Result<(), String> {
        let states = |first: usize| self.take(Asking::Population, first..self.rows.min(first + PAGE_ROWS)).map(drop);
        let all = self.each_keys(|first, _| states(first));
        all.map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{Array, AsArray, Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Float64Type, Int64Type};
    use datafusion::execution::disk_manager::DiskManagerBuilder;

    use super::super::block_file::BlockWriter;
    use super::super::days::Block;
    use super::*;

    const ROWS: usize = 3 * PAGE_ROWS + 100;

    /// A block whose states are the number of the row, and twice the half of it.
    fn block(layout: Option<&Layout>) -> std::result::Result<StoredBlock, String> {
        block_in(layout, |path| Packed::local(path).unwrap())
    }

    fn block_in(layout: Option<&Layout>, pack: impl Fn(&Path) -> Packed) -> std::result::Result<StoredBlock, String> {
        let folder = tempfile::tempdir().unwrap();
        let block = Block { level: 0, index: 7 };
        let mut writer = BlockWriter::new(block, folder.path());
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
        let halves: ArrayRef = Arc::new(Float64Array::from_iter_values((0..ROWS).map(|row| row as f64 / 2.0)));
        writer.add(Arc::clone(&numbers), &[numbers, Arc::clone(&halves), halves]).unwrap();
        let written = writer.finish("group").unwrap();
        StoredBlock::open("file:///block".to_owned(), pack(&written.local), &written.state, layout)
    }

    #[test]
    fn rows_are_unpacked_as_they_are_asked_for_from_memory_and_from_disk() {
        let layout = Layout { key_type: DataType::Int64, states: 3 };
        let disk = Arc::new(DiskManagerBuilder::default().build().unwrap());
        let fetched = |path: &Path| Packed::Here(std::fs::read(path).unwrap().into());
        for (on_disk, mapped) in [(false, true), (true, true), (false, false), (true, false)] {
            let block = if mapped { block(Some(&layout)) } else { block_in(Some(&layout), fetched) };
            let mut block = block.unwrap();
            assert_eq!(block.rows(), ROWS);
            if on_disk {
                assert!(block.memory() > 0);
                block.spill(&disk).unwrap();
                assert_eq!(block.memory(), 0);
            }
            // The second range before the first.
            for rows in [5000..PAGE_ROWS * 2, 0..5000, PAGE_ROWS * 2..ROWS] {
                let mut next = rows.start;
                for columns in block.take(Asking::Population, rows.clone()).unwrap() {
                    let numbers = columns[0].array.as_primitive::<Int64Type>();
                    let halves = columns[1].array.as_primitive::<Float64Type>();
                    assert_eq!(columns[1].array.as_ref(), columns[2].array.as_ref());
                    for row in 0..numbers.len() {
                        assert_eq!((numbers.value(row), halves.value(row)), (next as i64, next as f64 / 2.0));
                        next += 1;
                    }
                }
                assert_eq!(next, rows.end);
            }
            assert_eq!(held(&block, Asking::Population), 0, "what was taken is held no more");
            assert!(block.take(Asking::Population, ROWS..ROWS + 1).is_err());
        }
    }

    fn held(block: &StoredBlock, who: Asking) -> usize {
        block.passes[who as usize].unpacked.lock().unwrap().held.len()
    }

    #[test]
    fn nothing_is_held_for_strangers_until_they_come() {
        let mut block = block(None).unwrap();
        // A stranger in the middle of each page but the last one.
        let strange = |page: usize| page * PAGE_ROWS + 7..page * PAGE_ROWS + 8;
        let known = |page: usize| [page * PAGE_ROWS..strange(page).start, strange(page).end..(page + 1) * PAGE_ROWS];
        block.ask(Asking::Population, (0..3).flat_map(known).collect());
        block.ask(Asking::Strangers, (0..3).map(strange).collect());
        for rows in (0..3).flat_map(known) {
            let taken = block.take(Asking::Population, rows.clone()).unwrap();
            assert_eq!(taken.iter().map(|columns| columns[0].array.len()).sum::<usize>(), rows.len());
            assert!(held(&block, Asking::Population) <= 1);
        }
        assert_eq!(held(&block, Asking::Population), 0);
        for rows in [2, 0, 1].map(strange) {
            let taken = block.take(Asking::Strangers, rows.clone()).unwrap();
            assert_eq!(taken[0][0].array.as_primitive::<Int64Type>().values(), &[rows.start as i64]);
        }
        assert_eq!(held(&block, Asking::Strangers), 0);
    }

    #[test]
    fn little_is_held_of_what_is_passed_over() {
        let mut block = block(None).unwrap();
        block.ask(Asking::Strangers, vec![7..8, ROWS - 1..ROWS]);
        for rows in [ROWS - 1..ROWS, 7..8] {
            let taken = block.take(Asking::Strangers, rows.clone()).unwrap();
            assert_eq!(taken[0][0].array.as_primitive::<Int64Type>().values(), &[rows.start as i64]);
            let unpacked = block.passes[Asking::Strangers as usize].unpacked.lock().unwrap();
            assert!(unpacked.held.iter().map(|held| held.rows.len()).sum::<usize>() <= PAGE_ROWS);
        }
    }

    #[test]
    fn other_columns_are_refused() {
        let other = |key_type: DataType, states: usize| block(Some(&Layout { key_type, states })).unwrap_err();
        assert_eq!(other(DataType::Int64, 2), "it has other columns than the manifest says");
        assert_eq!(other(DataType::Utf8, 3), "it has other columns than the manifest says");
        assert_eq!(block(None).unwrap().check(), Ok(()));
    }
}
