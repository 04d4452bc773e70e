//! `DELTA_BINARY_PACKED` of Parquet's format: the differences of neighbours, block by block, each in as few bits as those of
//! its miniblock take (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).

/// Values of a miniblock: any number of bits times 64 is whole words.
const MINIBLOCK: usize = 64;
const MINIBLOCKS: usize = 4;
const BLOCK: usize = MINIBLOCKS * MINIBLOCK;

/// Appends the encoding of some numbers.
pub(super) fn encode(values: &[i64], out: &mut Vec<u8>) {
    [BLOCK, MINIBLOCKS, values.len()].iter().for_each(|number| varint(*number as u64, out));
    zigzag(values.first().copied().unwrap_or(0), out);
    let mut deltas = [0i64; BLOCK];
    // A block's first difference is that to the last value of the block before.
    for from in (0..values.len().saturating_sub(1)).step_by(BLOCK) {
        let pairs = values[from..].windows(2).take(BLOCK);
        let count = pairs.len();
        deltas.iter_mut().zip(pairs).for_each(|(delta, pair)| *delta = pair[1].wrapping_sub(pair[0]));
        let least = deltas[..count].iter().fold(i64::MAX, |least, delta| least.min(*delta));
        deltas[count..].fill(least);
        zigzag(least, out);
        let widths = out.len();
        out.extend([0; MINIBLOCKS]);
        for (place, deltas) in deltas.as_chunks::<MINIBLOCK>().0.iter().take(count.div_ceil(MINIBLOCK)).enumerate() {
            let above = deltas.map(|delta| delta.wrapping_sub(least) as u64);
            let width = u64::BITS - above.iter().fold(0, |bits, delta| bits | delta).leading_zeros();
            out[widths + place] = width as u8;
            pack_any(&above, width as usize, out);
        }
    }
}

/// Packs a miniblock. Counts take a few bits: for those there is code without a shift to compute.
fn pack_any(values: &[u64; MINIBLOCK], width: usize, out: &mut Vec<u8>) {
    match width {
        0 => {}
        1 => pack(values, 1, out),
        2 => pack(values, 2, out),
        3 => pack(values, 3, out),
        4 => pack(values, 4, out),
        5 => pack(values, 5, out),
        6 => pack(values, 6, out),
        7 => pack(values, 7, out),
        8 => pack(values, 8, out),
        _ => pack(values, width, out),
    }
}

#[inline(always)]
fn pack(values: &[u64; MINIBLOCK], width: usize, out: &mut Vec<u8>) {
    let mut words = [0u64; MINIBLOCK];
    for (i, value) in values.iter().enumerate() {
        let (word, shift) = (i * width / 64, i * width % 64);
        words[word] |= value << shift;
        if shift + width > 64 {
            words[word + 1] |= value >> (64 - shift);
        }
    }
    words[..width].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// Seven bits a byte, the lowest first.
pub(super) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn zigzag(number: i64, out: &mut Vec<u8>) {
    varint(((number << 1) ^ (number >> 63)) as u64, out);
}
