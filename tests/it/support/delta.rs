//! Delta tables written by hand: commits as lines of JSON, checkpoints as Parquet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::lake::{SmallLake, write_parquet};

/// The table `orders` of a small lake, with its log.
pub struct DeltaTable {
    pub lake: SmallLake,
    next: u64,
}

impl DeltaTable {
    /// A table whose version 0 has no file; its columns are `id long`, `amount double` and the partition columns, texts.
    pub fn new(partition_by: &[&str]) -> Self {
        Self::with(partition_by, json!({"minReaderVersion": 1, "minWriterVersion": 2}), json!({}))
    }

    /// The same with a protocol and a configuration of its own.
    pub fn with(partition_by: &[&str], protocol: Value, configuration: Value) -> Self {
        let mut table = DeltaTable { lake: SmallLake::new(), next: 0 };
        table.commit(&[json!({"protocol": protocol}), metadata(partition_by, configuration)]);
        table
    }

    pub fn folder(&self) -> PathBuf {
        self.lake.folder.path().join("orders")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder().join("_delta_log").join(name)
    }

    /// Writes the next commit; its version is what comes back.
    pub fn commit(&mut self, actions: &[Value]) -> u64 {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        let path = self.log(&format!("{:020}.json", self.next));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
        self.next += 1;
        self.next - 1
    }

    /// Writes a file with the rows of a SELECT, and says how the log adds it.
    pub async fn add(&self, path: &str, partition: Value, select: &str) -> Value {
        let file = self.folder().join(path);
        write_parquet(&file, select).await;
        let size = std::fs::metadata(file).unwrap().len();
        json!({"add": {"path": escaped(path), "partitionValues": partition, "size": size, "modificationTime": 0, "dataChange": true}})
    }

    /// Writes a checkpoint in one part or more, of these actions.
    pub fn checkpoint(&self, version: u64, parts: &[&[Value]]) {
        for (index, actions) in parts.iter().enumerate() {
            let name = match parts.len() {
                1 => format!("{version:020}.checkpoint.parquet"),
                count => format!("{version:020}.checkpoint.{:010}.{count:010}.parquet", index + 1),
            };
            write_actions(&self.log(&name), actions);
        }
    }

    /// What a session at a day sees.
    pub async fn query(&self, sql: &str) -> String {
        self.lake.query("2026-07-01", sql).await
    }
}

/// How the log says what the columns are.
pub fn metadata(partition_by: &[&str], configuration: Value) -> Value {
    let column =
        |name: &str, data_type: &str| json!({"name": name, "type": data_type, "nullable": true, "metadata": {}});
    let mut fields = vec![column("id", "long"), column("amount", "double")];
    fields.extend(partition_by.iter().map(|name| column(name, "string")));
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    json!({"metaData": {
        "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
        "partitionColumns": partition_by, "configuration": configuration, "createdTime": 0,
    }})
}

/// How the log takes a file away.
pub fn remove(add: &Value) -> Value {
    let mut remove = json!({"path": add["add"]["path"], "deletionTimestamp": 0, "dataChange": true});
    if let Some(vector) = add["add"].get("deletionVector") {
        remove["deletionVector"] = vector.clone();
    }
    json!({"remove": remove})
}

/// A path as a URL has it.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/=-_.".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Writes actions as rows of Parquet, as checkpoints have them.
pub fn write_actions(path: &Path, actions: &[Value]) {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    let map = |name: &str| {
        let entries = vec![Field::new("key", DataType::Utf8, false), text("value")];
        let entries = Field::new("key_value", DataType::Struct(Fields::from(entries)), false);
        Field::new(name, DataType::Map(Arc::new(entries), false), true)
    };
    let list = |name: &str| Field::new(name, DataType::List(Arc::new(text("element"))), true);
    let schema = Arc::new(Schema::new(vec![
        group("add", vec![text("path"), map("partitionValues"), long("size"), text("stats")]),
        group("remove", vec![text("path"), long("deletionTimestamp")]),
        group(
            "metaData",
            vec![
                text("id"),
                group("format", vec![text("provider"), map("options")]),
                text("schemaString"),
                list("partitionColumns"),
                map("configuration"),
            ],
        ),
        group("protocol", vec![Field::new("minReaderVersion", DataType::Int32, true), list("readerFeatures")]),
        group("sidecar", vec![text("path"), long("sizeInBytes")]),
    ]));
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    let lines = lines.join("\n");
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).build(lines.as_bytes()).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
    for batch in reader {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}
