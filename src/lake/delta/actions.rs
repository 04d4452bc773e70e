//! The actions of a Delta log, as far as they say what a table consists of: lines of JSON in commits, rows of Parquet in
//! checkpoints.

use std::collections::HashMap;

use bytes::Bytes;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use crate::spec::TableSpec;
use crate::{Error, Result};

/// Features of a table that a reader has to know, and that are read right: the others are refused by name.
const READ_FEATURES: [&str; 11] = [
    // Whether columns are mapped says the table's metadata.
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    // Older files hold narrower types, which are widened to the declared one.
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    // No job file can declare such a column.
    "variantType",
    "variantType-preview",
    "variantShredding",
    "variantShredding-preview",
];
/// The newest reader version: from then on features are named.
const MAX_READER_VERSION: i32 = 3;

/// One line: one of these is there.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Action {
    #[serde(default)]
    pub add: Option<Add>,
    #[serde(default)]
    pub remove: Option<Remove>,
    #[serde(default, rename = "metaData")]
    pub metadata: Option<Metadata>,
    #[serde(default)]
    pub protocol: Option<Protocol>,
    #[serde(default)]
    pub sidecar: Option<Sidecar>,
    #[serde(default, rename = "commitInfo")]
    pub commit_info: Option<CommitInfo>,
}

/// A file that is part of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub partition_values: HashMap<String, Option<String>>,
    pub size: i64,
    #[serde(default)]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
}

/// A file that is no part of it any more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub path: String,
    #[serde(default)]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
}

impl Add {
    pub fn key(&self) -> super::FileKey {
        key(&self.path, &self.deletion_vector)
    }
}

impl Remove {
    pub fn key(&self) -> super::FileKey {
        key(&self.path, &self.deletion_vector)
    }
}

/// Writers differ in which characters of a path they escape.
fn key(path: &str, vector: &Option<DeletionVectorDescriptor>) -> super::FileKey {
    let path = object_store::path::Path::from_url_path(path).map_or_else(|_| path.to_owned(), |path| path.to_string());
    (path, vector.as_ref().map(super::deletion::unique_id))
}

/// More files of a checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Sidecar {
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommitInfo {
    #[serde(default)]
    pub in_commit_timestamp: Option<i64>,
}

/// What a reader has to know.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    min_reader_version: i32,
    #[serde(default)]
    reader_features: Option<Vec<String>>,
}

impl Protocol {
    /// Why the table is not read right, and what to do, where that is so.
    pub fn refusal(&self) -> Option<(String, &'static str)> {
        const HINT: &str = "drop the feature (`ALTER TABLE … DROP FEATURE …`), or export the table as plain Parquet";
        let unknown = |feature: &&String| !READ_FEATURES.contains(&feature.as_str());
        if self.min_reader_version > MAX_READER_VERSION {
            let message =
                format!("it wants readers of version {}, and {MAX_READER_VERSION} is known", self.min_reader_version);
            return Some((message, HINT));
        }
        let features: Vec<String> =
            self.reader_features.iter().flatten().filter(unknown).map(|name| format!("`{name}`")).collect();
        match features.as_slice() {
            [] => None,
            [feature] => Some((format!("it uses the feature {feature}, which is not supported"), HINT)),
            _ => Some((format!("it uses the features {}, which are not supported", features.join(", ")), HINT)),
        }
    }
}

/// What the table's columns are.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    schema_string: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub partition_columns: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    configuration: HashMap<String, Option<String>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    format: FileFormat,
}

#[derive(Debug, Default, Deserialize)]
struct FileFormat {
    #[serde(default)]
    provider: Option<String>,
}

impl Metadata {
    /// Why the table is not read right, and what to do, where that is so.
    pub fn refusal(&self) -> Option<(String, &'static str)> {
        match self.property("delta.columnMapping.mode") {
            None | Some("none") => {}
            Some(mode) => {
                let hint = "set it to `none` (`ALTER TABLE … SET TBLPROPERTIES ('delta.columnMapping.mode' = 'none')`), or export \
                            the table as plain Parquet";
                return Some((
                    format!("it uses column mapping (mode `{mode}`): its files name columns otherwise"),
                    hint,
                ));
            }
        }
        let provider = self.format.provider.as_deref().filter(|provider| !provider.eq_ignore_ascii_case("parquet"))?;
        Some((format!("its files are in the format `{provider}`"), "convert the table to Parquet"))
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.configuration.get(name)?.as_deref()
    }

    /// Whether commits say when they were made.
    pub fn has_commit_times(&self) -> bool {
        self.property("delta.enableInCommitTimestamps").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The columns with their types; nested ones have none.
    pub fn columns(&self) -> Result<HashMap<String, Option<String>>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Struct {
            fields: Vec<Column>,
        }
        #[derive(Deserialize)]
        struct Column {
            name: String,
            #[serde(rename = "type")]
            data_type: serde_json::Value,
        }
        let schema: Struct = serde_json::from_str(&self.schema_string)?;
        let column = |column: Column| (column.name, column.data_type.as_str().map(str::to_owned));
        Ok(schema.fields.into_iter().map(column).collect())
    }
}

fn null_is_empty<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The actions in lines of JSON.
pub(super) fn parse(bytes: &[u8], url: &str, table: &TableSpec) -> Result<Vec<Action>> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let action = |(index, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|e| {
            let message =
                format!("the Delta table `{}` cannot be read: line {} of `{url}` is no action", table.name, index + 1);
            Error::user(message)
                .at(table.place.clone())
                .because(e)
                .hint("the log is damaged, or was not written whole: restore it")
        })
    };
    lines.map(action).collect()
}

/// The rows of a checkpoint as lines of JSON, without what is not needed (statistics above all).
pub(super) fn json_of_checkpoint(bytes: Bytes) -> Result<Vec<u8>> {
    const COLUMNS: [&str; 7] =
        ["add.path", "add.partitionValues", "add.size", "add.deletionVector", "metaData", "protocol", "sidecar"];
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let mask = ProjectionMask::columns(reader.parquet_schema(), COLUMNS);
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    for batch in reader.with_projection(mask).build()? {
        writer.write(&batch?)?;
    }
    writer.finish()?;
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(json: &str) -> Option<String> {
        serde_json::from_str::<Protocol>(json).unwrap().refusal().map(|(message, _)| message)
    }

    #[test]
    fn what_a_reader_has_to_know_and_does_not_is_refused_by_name() {
        assert_eq!(
            protocol(r#"{"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"]}"#),
            None
        );
        assert_eq!(protocol(r#"{"minReaderVersion": 3, "readerFeatures": ["timestampNtz", "deletionVectors"]}"#), None);
        assert_eq!(
            protocol(r#"{"minReaderVersion": 3, "readerFeatures": ["timestampNtz", "catalogManaged"]}"#).unwrap(),
            "it uses the feature `catalogManaged`, which is not supported"
        );
        assert_eq!(protocol(r#"{"minReaderVersion": 4}"#).unwrap(), "it wants readers of version 4, and 3 is known");
    }
}
