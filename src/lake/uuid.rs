//! UUIDs as SQL sees them: text of 36 characters in lower case.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Bytes of a UUID.
pub(super) const UUID_BYTES: usize = 16;
/// Where the hyphens of a UUID stand.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// UUIDs as text in lower case, from their bytes or from any way to write them.
pub(super) fn uuids(array: &ArrayRef) -> Result<Result<ArrayRef, usize>, ArrowError> {
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 36);
    let mut text = String::with_capacity(36);
    if let Some(bytes) = array.as_fixed_size_binary_opt() {
        for value in bytes.iter() {
            match value {
                Some(bytes) => {
                    write_uuid(bytes, &mut text);
                    texts.append_value(&text);
                }
                None => texts.append_null(),
            }
        }
        return Ok(Ok(Arc::new(texts.finish())));
    }
    let plain = cast(array, &DataType::Utf8)?;
    for (row, value) in plain.as_string::<i32>().iter().enumerate() {
        match value.map(|value| (value, parse_uuid(value))) {
            Some((_, Some(bytes))) => {
                write_uuid(&bytes, &mut text);
                texts.append_value(&text);
            }
            Some((_, None)) => return Ok(Err(row)),
            None => texts.append_null(),
        }
    }
    Ok(Ok(Arc::new(texts.finish())))
}

fn write_uuid(bytes: &[u8], text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.clear();
    for byte in bytes {
        if UUID_HYPHENS.contains(&text.len()) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The bytes of a UUID: 32 hexadecimal digits, with hyphens or without, in braces or not.
fn parse_uuid(text: &str) -> Option<[u8; UUID_BYTES]> {
    let text = text.trim();
    let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let hyphenated = text.len() == 36;
    let mut bytes = [0; UUID_BYTES];
    let mut digits = 0;
    for (i, byte) in text.bytes().enumerate() {
        if hyphenated && UUID_HYPHENS.contains(&i) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(byte).to_digit(16)? as u8;
        *bytes.get_mut(digits / 2)? |= if digits % 2 == 0 { digit << 4 } else { digit };
        digits += 1;
    }
    (digits == 2 * UUID_BYTES).then_some(bytes)
}

/// A UUID, written in any way, as SQL sees it: 36 characters in lower case. `None` where it is no UUID.
pub fn uuid_text(text: &str) -> Option<String> {
    let mut written = String::with_capacity(36);
    write_uuid(&parse_uuid(text)?, &mut written);
    Some(written)
}
