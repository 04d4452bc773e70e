//! CSV bytes as records: fields, and the line on which each record begins.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use crate::Result;
use crate::spec::CsvFormat;

/// A record never has more fields than this.
const MAX_FIELDS: usize = 1 << 20;

/// A record of a CSV file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// The line on which it begins, counted from 1.
    pub line: usize,
    data: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field, its quotes taken off.
    pub fn field(&self, index: usize) -> &'a [u8] {
        let from = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[from..self.ends[index]]
    }
}

/// Splits a file that comes piece by piece.
pub(super) struct Records {
    reader: Reader,
    quote: Option<u8>,
    data: Vec<u8>,
    ends: Vec<usize>,
    filled: usize,
    fields: usize,
    /// The line of the next byte.
    line: usize,
    /// The line on which the record begins that is being read.
    first_line: usize,
    /// Quotes so far.
    quotes: usize,
    started: bool,
}

impl Records {
    /// A reader of files in this format.
    pub fn new(format: &CsvFormat) -> Self {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(format.delimiter).escape(format.escape);
        match format.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        Records {
            reader: builder.build(),
            quote: format.quote.filter(|_| format.escape.is_none()),
            data: vec![0; 1 << 12],
            ends: vec![0; 64],
            filled: 0,
            fields: 0,
            line: 1,
            first_line: 1,
            quotes: 0,
            started: false,
        }
    }

    /// Reads the next piece of the file.
    pub fn feed(&mut self, mut input: &[u8], visit: &mut impl FnMut(Record<'_>) -> Result<()>) -> Result<()> {
        if let Some(quote) = self.quote {
            self.quotes += input.iter().filter(|byte| **byte == quote).count();
        }
        while !input.is_empty() {
            if !self.started {
                // Line ends between records: the reader would skip them too, but not say how many.
                let ends = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.line += input[..ends].iter().filter(|byte| **byte == b'\n').count();
                input = &input[ends..];
                if input.is_empty() {
                    return Ok(());
                }
                (self.first_line, self.started) = (self.line, true);
            }
            let read = self.step(input, visit)?;
            input = &input[read..];
        }
        Ok(())
    }

    /// The file is over. Where a quote was never closed, the line of its record is returned.
    pub fn end(&mut self, visit: &mut impl FnMut(Record<'_>) -> Result<()>) -> Result<Option<usize>> {
        if !self.started {
            return Ok(None);
        }
        if self.quotes % 2 == 1 && self.line > self.first_line {
            return Ok(Some(self.first_line));
        }
        while self.started {
            self.step(&[], visit)?;
        }
        Ok(None)
    }

    fn step(&mut self, input: &[u8], visit: &mut impl FnMut(Record<'_>) -> Result<()>) -> Result<usize> {
        let before = self.reader.line();
        let (result, read, written, fields) =
            self.reader.read_record(input, &mut self.data[self.filled..], &mut self.ends[self.fields..]);
        self.line += (self.reader.line() - before) as usize;
        self.filled += written;
        self.fields += fields;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => self.data.resize(2 * self.data.len(), 0),
            ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_FIELDS => {
                self.ends.resize(2 * self.ends.len(), 0)
            }
            ReadRecordResult::OutputEndsFull => {
                return Err(crate::Error::user(format!("line {} has more than {MAX_FIELDS} fields", self.first_line)));
            }
            ReadRecordResult::Record => {
                let record =
                    Record { line: self.first_line, data: &self.data[..self.filled], ends: &self.ends[..self.fields] };
                visit(record)?;
                (self.filled, self.fields, self.started) = (0, 0, false);
            }
            ReadRecordResult::End => self.started = false,
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines and fields of a text that comes in pieces of some bytes.
    fn records(text: &str, size: usize, format: &CsvFormat) -> (Vec<String>, Option<usize>) {
        let (mut records, mut found) = (Records::new(format), Vec::new());
        let mut visit = |record: Record<'_>| {
            let fields = (0..record.len()).map(|i| String::from_utf8_lossy(record.field(i)).into_owned());
            found.push(format!("{}: {}", record.line, fields.collect::<Vec<_>>().join("|")));
            Ok(())
        };
        for piece in text.as_bytes().chunks(size) {
            records.feed(piece, &mut visit).unwrap();
        }
        let open = records.end(&mut visit).unwrap();
        (found, open)
    }

    #[test]
    fn every_record_knows_its_line_whatever_the_pieces() {
        let text = "a,b\r\n1,\"two\nlines\"\r\n\r\n3,\"say \"\"hi\"\"\"\n\n,5\" pipe";
        let expected = ["1: a|b", "2: 1|two\nlines", "5: 3|say \"hi\"", "7: |5\" pipe"];
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(
                records(text, size, &CsvFormat::default()),
                (expected.map(str::to_owned).to_vec(), None),
                "{size}"
            );
        }
    }

    #[test]
    fn a_quote_that_swallows_the_file_is_told() {
        let text = "a,b\n1,x\n2,\"never closed\n3,y\n4,z\n";
        for size in [1, 5, 1000] {
            assert_eq!(records(text, size, &CsvFormat::default()).1, Some(3));
        }
    }

    #[test]
    fn other_delimiters_and_quotes() {
        let format = CsvFormat { delimiter: b';', quote: Some(b'\''), ..CsvFormat::default() };
        assert_eq!(records("a;b\n1,5;'x;y'\n", 1000, &format).0, ["1: a|b", "2: 1,5|x;y"]);
        let none = CsvFormat { delimiter: b'\t', quote: None, ..CsvFormat::default() };
        assert_eq!(records("a\tb\n\"1\tx\n", 1000, &none).0, ["1: a|b", "2: \"1|x"]);
        let escaped = CsvFormat { escape: Some(b'\\'), ..CsvFormat::default() };
        assert_eq!(records("a,b\n\"x \\\" y\",2\n", 1000, &escaped).0, ["1: a|b", "2: x \" y|2"]);
    }
}
