//! The numbers of a page, any number of them at a time: what is decoded goes where it is used at once. The pages are those of
//! columns without NULL, in the encodings that files of states have.

use bytes::Bytes;
use parquet::basic::Encoding;

use crate::{Error, Result};

/// What is behind the bytes of a page may be looked at, and is not used.
const PADDING: usize = 16;

/// A number of eight bytes.
pub(super) trait Number: Copy + Default {
    fn from_bits(bits: u64) -> Self;

    fn to_bits(self) -> u64;
}

impl Number for i64 {
    fn from_bits(bits: u64) -> Self {
        bits as i64
    }

    fn to_bits(self) -> u64 {
        self as u64
    }
}

impl Number for f64 {
    fn from_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }

    fn to_bits(self) -> u64 {
        f64::to_bits(self)
    }
}

/// The numbers of a page that were not read yet.
pub(super) struct Page {
    pub left: usize,
    values: Values,
}

enum Values {
    /// Eight bytes each.
    Plain(Bytes),
    Deltas(Deltas),
    /// Places in the dictionary of the column.
    Places(Places),
}

impl Page {
    /// A page with so many numbers.
    pub fn new(bytes: Bytes, encoding: Encoding, count: usize) -> Result<Self> {
        let values = match encoding {
            Encoding::PLAIN => Values::Plain(bytes),
            Encoding::DELTA_BINARY_PACKED => Values::Deltas(Deltas::new(bytes)?),
            #[allow(deprecated)]
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => Values::Places(Places::new(bytes)?),
            other => return Err(Error::bug(format!("numbers of states are not written as {other}"))),
        };
        Ok(Page { left: count, values })
    }

    /// Appends the next numbers, at most as many as are left.
    pub fn read<N: Number>(&mut self, count: usize, dictionary: &[N], into: &mut Vec<N>) -> Result<()> {
        let count = count.min(self.left);
        match &mut self.values {
            Values::Plain(bytes) => {
                if bytes.len() < 8 * count {
                    return Err(broken());
                }
                into.extend(plain::<N>(&bytes.split_to(8 * count)));
            }
            Values::Deltas(deltas) => deltas.read(count, into)?,
            Values::Places(places) => places.read(count, dictionary, into)?,
        }
        self.left -= count;
        Ok(())
    }
}

/// Numbers of eight bytes each.
pub(super) fn plain<N: Number>(bytes: &[u8]) -> impl Iterator<Item = N> + '_ {
    bytes.as_chunks().0.iter().map(|number| N::from_bits(u64::from_le_bytes(*number)))
}

fn broken() -> Error {
    Error::bug("a page of numbers is broken")
}

/// Differences of neighbours, in blocks with a least difference each, and in pieces of these with a width of bits each.
struct Deltas {
    bytes: Bytes,
    at: usize,
    /// How many pieces a block has, and how many differences a piece.
    pieces: usize,
    length: usize,
    /// The pieces of the block that are left, the least difference of the block, and where the next width stands.
    left: usize,
    least: i64,
    width_at: usize,
    last: i64,
    /// What was decoded of a piece, and how many of it were read.
    ready: Vec<i64>,
    read: usize,
}

impl Deltas {
    fn new(bytes: Bytes) -> Result<Self> {
        let mut at = 0;
        let block = varint(&bytes, &mut at)? as usize;
        let pieces = varint(&bytes, &mut at)? as usize;
        let _count = varint(&bytes, &mut at)?;
        let first = zigzag(varint(&bytes, &mut at)?);
        let length = block.checked_div(pieces).filter(|length| *length > 0).ok_or_else(broken)?;
        let ready = vec![first];
        Ok(Deltas { bytes, at, pieces, length, left: 0, least: 0, width_at: 0, last: first, ready, read: 0 })
    }

    fn read<N: Number>(&mut self, count: usize, into: &mut Vec<N>) -> Result<()> {
        let end = into.len() + count;
        loop {
            let ready = &self.ready[self.read..];
            let ready = &ready[..ready.len().min(end - into.len())];
            into.extend(ready.iter().map(|number| N::from_bits(*number as u64)));
            self.read += ready.len();
            match end - into.len() {
                0 => return Ok(()),
                missing if missing < self.length => {
                    let mut ready = std::mem::take(&mut self.ready);
                    self.read = 0;
                    ready.clear();
                    self.piece(&mut ready)?;
                    self.ready = ready;
                }
                _ => self.piece(into)?,
            }
        }
    }

    /// Decodes a piece.
    fn piece<N: Number>(&mut self, into: &mut Vec<N>) -> Result<()> {
        if self.left == 0 {
            self.least = zigzag(varint(&self.bytes, &mut self.at)?);
            (self.left, self.width_at) = (self.pieces, self.at);
            self.at += self.pieces;
        }
        let width = usize::from(*self.bytes.get(self.width_at).ok_or_else(broken)?);
        let begin = self.at;
        self.width_at += 1;
        self.left -= 1;
        self.at += (self.length * width).div_ceil(8);
        let (last, least) = (self.last as u64, self.least as u64);
        if let Some(last) = sums_of_eights(&self.bytes, begin, width, self.length, (last, least), into) {
            self.last = last as i64;
            return Ok(());
        }
        let from = into.len();
        unpack(&self.bytes, 8 * begin, width, self.length, into)?;
        let mut last = last;
        for number in &mut into[from..] {
            last = last.wrapping_add(number.to_bits().wrapping_add(least));
            *number = N::from_bits(last);
        }
        self.last = last as i64;
        Ok(())
    }
}

/// Places in a dictionary: runs of one place, and runs of packed ones.
struct Places {
    bytes: Bytes,
    at: usize,
    width: usize,
    run: Run,
}

enum Run {
    Same {
        place: usize,
        left: usize,
    },
    /// Where it begins, and how many are read.
    Packed {
        begin: usize,
        read: usize,
        count: usize,
    },
}

impl Places {
    fn new(bytes: Bytes) -> Result<Self> {
        let width = usize::from(*bytes.first().ok_or_else(broken)?);
        if width > 32 {
            return Err(broken());
        }
        Ok(Places { bytes, at: 1, width, run: Run::Same { place: 0, left: 0 } })
    }

    fn read<N: Number>(&mut self, count: usize, dictionary: &[N], into: &mut Vec<N>) -> Result<()> {
        let end = into.len() + count;
        while into.len() < end {
            let missing = end - into.len();
            match &mut self.run {
                Run::Same { left: 0, .. } => self.run = self.next()?,
                Run::Packed { read, count, .. } if read == count => self.run = self.next()?,
                Run::Same { place, left } => {
                    let taken = missing.min(*left);
                    *left -= taken;
                    let value = *dictionary.get(*place).ok_or_else(broken)?;
                    into.resize(into.len() + taken, value);
                }
                Run::Packed { begin, read, count } => {
                    let taken = missing.min(*count - *read);
                    let from = 8 * *begin + *read * self.width;
                    *read += taken;
                    let first = into.len();
                    unpack(&self.bytes, from, self.width, taken, into)?;
                    for number in &mut into[first..] {
                        *number = *dictionary.get(number.to_bits() as usize).ok_or_else(broken)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Run> {
        let head = varint(&self.bytes, &mut self.at)?;
        let begin = self.at;
        if head & 1 == 1 {
            let groups = (head >> 1) as usize;
            self.at += groups * self.width;
            return Ok(Run::Packed { begin, read: 0, count: 8 * groups });
        }
        let length = self.width.div_ceil(8);
        self.at += length;
        let place = self.bytes.get(begin..self.at).ok_or_else(broken)?;
        let place = place.iter().rev().fold(0, |place, byte| place << 8 | usize::from(*byte));
        Ok(Run::Same { place, left: (head >> 1) as usize })
    }
}

/// Appends the sums of differences beginning at a byte, and returns the last one; `least` is added to each. `None` where the width is
/// none that is made for, or the page ends.
fn sums_of_eights<N: Number>(
    bytes: &[u8],
    begin: usize,
    width: usize,
    count: usize,
    (last, least): (u64, u64),
    into: &mut Vec<N>,
) -> Option<u64> {
    let packed = bytes.get(begin..begin + (count * width).div_ceil(8) + PADDING)?;
    macro_rules! of_width {
        ($($width:literal)*) => {
            match width {
                $($width => sums_of_width::<$width, N>(packed, count / 8, (last, least), into),)*
                _ => return None,
            }
        };
    }
    if !count.is_multiple_of(8) {
        return None;
    }
    Some(of_width!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56
    ))
}

/// The same for a width that the compiler knows: where each of eight numbers lies in their bytes is then known too.
fn sums_of_width<const WIDTH: usize, N: Number>(
    packed: &[u8],
    eights: usize,
    (mut last, least): (u64, u64),
    into: &mut Vec<N>,
) -> u64 {
    for eight in 0..eights {
        let Some(packed) = packed.get(eight * WIDTH..eight * WIDTH + WIDTH + 8) else { break };
        let mut sums = [N::default(); 8];
        for (i, sum) in sums.iter_mut().enumerate() {
            let difference = word(packed, i * WIDTH / 8) >> (i * WIDTH % 8) & ((1 << WIDTH) - 1);
            last = last.wrapping_add(difference.wrapping_add(least));
            *sum = N::from_bits(last);
        }
        into.extend_from_slice(&sums);
    }
    last
}

/// Appends numbers of so many bits, packed one behind the other from a bit on.
fn unpack<N: Number>(bytes: &[u8], begin: usize, width: usize, count: usize, into: &mut Vec<N>) -> Result<()> {
    let (first, end) = (begin / 8, (begin + count * width).div_ceil(8));
    if width > 64 || bytes.len() < end {
        return Err(broken());
    }
    let padded;
    let packed = match bytes.get(first..end + PADDING) {
        Some(packed) => packed,
        None => {
            padded = [&bytes[first..end], &[0; PADDING]].concat();
            &padded
        }
    };
    let mask = u64::MAX.checked_shr(64 - width as u32).unwrap_or(0);
    let bits = (0..count).map(|i| begin % 8 + i * width);
    // Eight bytes hold a number of so many bits wherever it begins.
    if width <= 57 {
        into.extend(bits.map(|bit| N::from_bits(word(packed, bit / 8) >> (bit % 8) & mask)));
    } else {
        into.extend(bits.map(|bit| {
            let more = word(packed, bit / 8 + 8).checked_shl(64 - (bit % 8) as u32).unwrap_or(0);
            N::from_bits((word(packed, bit / 8) >> (bit % 8) | more) & mask)
        }));
    }
    Ok(())
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// A number of seven bits a byte, the lowest first.
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or_else(broken)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(broken())
}

/// A number whose lowest bit is its sign.
fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What any number of reads of a page say, the second time too.
    fn read(bytes: &[u8], encoding: Encoding, counts: &[usize]) -> Vec<Option<Vec<i64>>> {
        let mut page = Page::new(Bytes::copy_from_slice(bytes), encoding, 200).unwrap();
        let read = counts.iter().map(|count| {
            let mut into = Vec::new();
            page.read(*count, &[5, 6], &mut into).ok().map(|()| into)
        });
        read.collect()
    }

    #[test]
    fn pages_that_end_too_early_are_errors_however_often_they_are_read() {
        // Blocks of 128 in 4 pieces, 200 numbers, the first of them 3; then widths without what they are of.
        let deltas = [0x80, 1, 4, 0xc8, 1, 6, 0, 7, 7, 7, 7];
        let found = read(&deltas, Encoding::DELTA_BINARY_PACKED, &[1, 5, 5, 100]);
        assert_eq!(found, [Some(vec![3]), None, None, None]);
        assert_eq!(read(&[0; 12], Encoding::PLAIN, &[1, 1, 1]), [Some(vec![0]), None, None]);
        // A run of three times the second value, and then a place that the dictionary has not.
        let places = [2, 6, 1, 2, 3];
        assert_eq!(read(&places, Encoding::RLE_DICTIONARY, &[3, 1, 1]), [Some(vec![6, 6, 6]), None, None]);
        assert!(Page::new(Bytes::new(), Encoding::RLE_DICTIONARY, 1).is_err());
        assert!(Page::new(Bytes::new(), Encoding::DELTA_BINARY_PACKED, 1).is_err());
    }
}
