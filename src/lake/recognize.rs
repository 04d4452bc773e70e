//! Which files of a table's folder hold its rows: by their names, and where a name does not tell by their first bytes.
//!
//! Names that start with `_` or `.` are markers and staging files of whoever writes the lake (Spark's convention), and so
//! are empty files without an ending: they hold no rows and are not mentioned. Every other file either holds rows or is
//! [passed over](PassedOver), which the user is told.

use std::collections::HashSet;

use arrow::datatypes::Schema;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::delta::LOG_FOLDER;
use crate::error::Problem;
use crate::spec::{Format, TableSpec};
use crate::{Error, Result};

/// Files that are looked into at a time.
const LOOKS_IN_FLIGHT: usize = 32;
/// Passed-over files that are named.
const NAMED_FILES: usize = 3;
/// The bytes at which formats are told apart.
const MAGIC_BYTES: usize = 4;

const PARQUET_ENDINGS: [&str; 4] = ["parquet", "parq", "pq", "parqt"];
const CSV_ENDINGS: [&str; 2] = ["csv", "tsv"];
const COMPRESSED_ENDINGS: [&str; 5] = ["gz", "gzip", "zst", "zstd", "z"];
/// Endings of what is neither Parquet nor CSV, and of copies that are not (or no longer) part of a table.
const OTHER_ENDINGS: [&str; 45] = [
    "7z",
    "arrow",
    "asc",
    "avro",
    "avsc",
    "bak",
    "bz2",
    "crc",
    "done",
    "feather",
    "html",
    "inprogress",
    "ipc",
    "json",
    "jsonl",
    "lock",
    "log",
    "lz4",
    "manifest",
    "md",
    "md5",
    "ndjson",
    "old",
    "orc",
    "part",
    "partial",
    "pdf",
    "pkl",
    "py",
    "rar",
    "sha256",
    "snappy",
    "sql",
    "swp",
    "tar",
    "tgz",
    "tmp",
    "temp",
    "txt",
    "xls",
    "xlsx",
    "xml",
    "yaml",
    "yml",
    "zip",
];

/// Files of a table's folder that hold no rows as far as we can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The table.
    pub table: String,
    /// How many they are.
    pub files: usize,
    /// The first of them by name, as paths below the table's folder.
    pub examples: Vec<String>,
    /// What the table reads instead.
    reads: String,
}

impl PassedOver {
    pub(super) fn new(table: &str, format: Format, mut paths: Vec<String>) -> Option<Self> {
        paths.sort();
        let files = paths.len();
        paths.truncate(NAMED_FILES);
        let reads = match format {
            Format::Parquet => "Parquet files (`format: parquet`)",
            Format::Csv => "`.csv`, `.csv.gz` and `.csv.zst` files (`format: csv`)",
        };
        let (table, reads) = (table.to_owned(), reads.to_owned());
        (files > 0).then_some(PassedOver { table, files, examples: paths, reads })
    }
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.examples.iter().map(|path| format!("`{path}`")).collect();
        let (noun, verb) = if self.files == 1 { ("file", "is") } else { ("files", "are") };
        write!(f, "{} {noun} of `{}` {verb} passed over: {}", self.files, self.table, names.join(", "))?;
        match self.files - self.examples.len() {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        write!(f, "; the table reads {}", self.reads)
    }
}

/// What a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Data,
    /// A marker or a staging file.
    Hidden,
    /// Of another format.
    Other,
    /// Nothing: its content has to tell.
    Unclear,
}

fn by_name(format: Format, below: &str, size: u64) -> Name {
    if below.split('/').any(|part| part.starts_with(['_', '.']) && !part.contains('=')) {
        return Name::Hidden;
    }
    let name = below.rsplit('/').next().unwrap_or(below).to_lowercase();
    let mut endings = name.rsplit('.');
    let outer = if name.contains('.') { endings.next().unwrap_or_default() } else { "" };
    let is_compressed = COMPRESSED_ENDINGS.contains(&outer);
    let inner = match is_compressed && name.matches('.').count() > 1 {
        true => endings.next().unwrap_or_default(),
        false => "",
    };
    match format {
        Format::Parquet if PARQUET_ENDINGS.contains(&outer) => Name::Data,
        Format::Csv if CSV_ENDINGS.contains(&outer) => Name::Data,
        _ if size == 0 => Name::Hidden,
        _ if OTHER_ENDINGS.contains(&outer) || OTHER_ENDINGS.contains(&inner) => Name::Other,
        Format::Parquet if CSV_ENDINGS.contains(&outer) || CSV_ENDINGS.contains(&inner) => Name::Other,
        Format::Parquet => Name::Unclear,
        // A compressed file of any other name is opened as CSV: its header line is compared with the declaration.
        Format::Csv if is_compressed && !PARQUET_ENDINGS.contains(&inner) => Name::Data,
        Format::Csv => Name::Other,
    }
}

/// Sorts the files of a folder: those that hold rows, and the paths of those that are passed over. `below` is a file's path
/// below the folder. Only files whose names do not tell are looked into.
pub(super) async fn sort_out(
    store: &dyn ObjectStore,
    format: Format,
    metas: Vec<ObjectMeta>,
    below: impl Fn(&Path) -> String,
) -> object_store::Result<(Vec<ObjectMeta>, Vec<String>)> {
    let (mut data, mut other, mut unclear) = (Vec::with_capacity(metas.len()), Vec::new(), Vec::new());
    for meta in metas {
        let path = below(&meta.location);
        match by_name(format, &path, meta.size) {
            Name::Data => data.push(meta),
            Name::Hidden => {}
            Name::Other => other.push(path),
            Name::Unclear => unclear.push((meta, path)),
        }
    }
    let looks = futures::stream::iter(unclear.into_iter().map(|(meta, path)| async move {
        let start = first_bytes(store, &meta).await?;
        Ok::<_, object_store::Error>((meta, path, is_parquet(&start)))
    }));
    let looked: Vec<_> = looks.buffer_unordered(LOOKS_IN_FLIGHT).try_collect().await?;
    for (meta, path, is_data) in looked {
        match is_data {
            true => data.push(meta),
            false => other.push(path),
        }
    }
    Ok((data, other))
}

/// Refuses the folder of a table whose files mean nothing without its metadata, and one that has Delta tables in it.
pub(super) fn refuse_table_formats(table: &TableSpec, paths: impl Iterator<Item = String>) -> Result<()> {
    const EXPORT: &str = "export the table as plain Parquet into a folder of its own, and name that one";
    for path in paths {
        let refused = |what: String, hint: String| {
            Err(Error::user(format!("table `{}`: {what}", table.name)).at(table.place.clone()).hint(hint))
        };
        if path.starts_with(".hoodie/") {
            return refused(format!("`{}` is a Hudi table, which is not supported", table.url), EXPORT.to_owned());
        }
        let in_metadata = path.strip_prefix("metadata/");
        if in_metadata.is_some_and(|name| name.ends_with(".metadata.json") || name == "version-hint.text") {
            return refused(format!("`{}` is an Iceberg table, which is not supported", table.url), EXPORT.to_owned());
        }
        if let Some((folder, _)) = path.split_once(&format!("/{LOG_FOLDER}/"))
            && folder.split('/').all(|part| !part.starts_with(['_', '.']))
        {
            let hint =
                format!("name the folder of the Delta table: `{}/{folder}/`", table.url.path().trim_end_matches('/'));
            return refused(format!("there is a Delta table in its folder, `{folder}`"), hint);
        }
    }
    match table.version {
        Some(_) => Err(Error::user(format!("table `{}`: `{}` is no Delta table", table.name, table.url))
            .at(table.place.clone())
            .hint("only Delta tables have a `version` or a `timestamp`: leave it out")),
        None => Ok(()),
    }
}

/// The bytes at a file's start that tell its format.
pub(super) async fn first_bytes(store: &dyn ObjectStore, meta: &ObjectMeta) -> object_store::Result<bytes::Bytes> {
    match meta.size.min(MAGIC_BYTES as u64) {
        0 => Ok(bytes::Bytes::new()),
        length => store.get_range(&meta.location, 0..length).await,
    }
}

/// Whether a file that starts so is Parquet, encrypted or not.
pub(super) fn is_parquet(start: &[u8]) -> bool {
    start.starts_with(b"PAR1") || start.starts_with(b"PARE")
}

/// What a file that starts so looks like, in words.
pub(super) fn looks_like(start: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 10] = [
        (b"PARE", "an encrypted Parquet file"),
        (b"PAR1", "a Parquet file"),
        (b"\x1f\x8b", "a gzip-compressed file"),
        (b"\x28\xb5\x2f\xfd", "a zstd-compressed file"),
        (b"ORC", "an ORC file"),
        (b"Obj\x01", "an Avro file"),
        (b"ARRO", "an Arrow IPC file"),
        (b"PK\x03\x04", "a zip file"),
        (b"{", "a JSON file"),
        (b"[", "a JSON file"),
    ];
    match MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, name)) => Some(name),
        None if start.is_empty() => Some("an empty file"),
        None if start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => Some("a text file"),
        None => None,
    }
}

/// Two columns of one name: which of them is meant, nobody can tell. Names that differ in case are two names; columns without
/// a name cannot be declared.
pub(super) fn repeated_column(table: &TableSpec, file: &str, found: &Schema) -> Option<Problem> {
    let mut names = HashSet::new();
    let repeated = found.fields().iter().find(|field| !names.insert(field.name()) && !field.name().is_empty())?;
    let message = format!("in table `{}`, `{file}` has two columns called `{}`", table.name, repeated.name());
    Some(Problem::new(message).at(table.place.clone()).hint("write the file with one column of each name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_parquet_table_reads() {
        let name = |path| by_name(Format::Parquet, path, 100);
        for data in ["a.parquet", "dt=2026-07-01/A.PARQUET", "a.snappy.parquet", "a.gz.parquet", "a.parq", "_k=1/a.pq"]
        {
            assert_eq!(name(data), Name::Data, "{data}");
        }
        for hidden in ["_SUCCESS", ".a.parquet.crc", "_delta_log/00000000000000000000.json", "_tmp/a.parquet"] {
            assert_eq!(name(hidden), Name::Hidden, "{hidden}");
        }
        for other in
            ["a.json", "a.csv", "a.csv.gz", "a.orc", "a.parquet.crc", "a.parquet.tmp", "x/manifest.JSON", "a.json.gz"]
        {
            assert_eq!(name(other), Name::Other, "{other}");
        }
        for unclear in ["000000_0", "20260701_101010_00001_abcde", "part-00000.c000", "dt=2026-07-01/v1.2", "a.gz"] {
            assert_eq!(name(unclear), Name::Unclear, "{unclear}");
        }
        assert_eq!(by_name(Format::Parquet, "dt=2026-07-01_$folder$", 0), Name::Hidden);
        // It should hold rows: its reader says what is wrong with it.
        assert_eq!(by_name(Format::Parquet, "a.parquet", 0), Name::Data);
    }

    #[test]
    fn names_tell_what_a_csv_table_reads() {
        let name = |path| by_name(Format::Csv, path, 100);
        for data in ["a.csv", "a.CSV", "a.csv.gz", "a.csv.zst", "a.tsv", "0000_part_00.gz", "data.2026.gz"] {
            assert_eq!(name(data), Name::Data, "{data}");
        }
        for other in
            ["a.parquet", "a.json.gz", "a.tar.gz", "a.parquet.gz", "a.csv.tmp", "0000_part_00", "a.txt", "a.csv.bz2"]
        {
            assert_eq!(name(other), Name::Other, "{other}");
        }
        assert_eq!(name("_SUCCESS"), Name::Hidden);
    }

    #[test]
    fn the_first_files_that_are_passed_over_are_named() {
        let paths = ["d.json", "a.orc", "c.crc", "b.csv"].map(str::to_owned).to_vec();
        let passed_over = PassedOver::new("orders", Format::Parquet, paths).unwrap();
        let expected = "4 files of `orders` are passed over: `a.orc`, `b.csv`, `c.crc` and 1 more; the table reads Parquet files \
                        (`format: parquet`)";
        assert_eq!(passed_over.to_string(), expected);
        let one = PassedOver::new("orders", Format::Csv, vec!["a.orc".to_owned()]).unwrap().to_string();
        assert!(one.starts_with("1 file of `orders` is passed over: `a.orc`; the table reads `.csv`"), "{one}");
        assert_eq!(PassedOver::new("orders", Format::Csv, Vec::new()), None);
    }
}
