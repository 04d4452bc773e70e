//! Small lakes for tests: Parquet files made from SELECTs, tables declared in a line.

use std::path::Path;

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use chrono_tz::Tz;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tenure::AsOf;
use tenure::error::Place;
use tenure::lake::{EngineOptions, Lake, Visibility};
use tenure::spec::{CheckRule, CheckSpec, ColumnSpec, ColumnType, Format, OnFail, TableSpec};
use url::Url;

/// A lake in a folder of its own.
pub struct SmallLake {
    pub folder: TempDir,
    pub tables: Vec<TableSpec>,
    pub timezone: Tz,
    pub options: EngineOptions,
}

impl SmallLake {
    pub fn new() -> Self {
        let options = EngineOptions { memory_limit: None, threads: 2 };
        SmallLake { folder: tempfile::tempdir().unwrap(), tables: Vec::new(), timezone: Tz::UTC, options }
    }

    /// The URL of a path in it.
    pub fn url(&self, path: &str) -> Url {
        Url::from_directory_path(self.folder.path()).unwrap().join(path).unwrap()
    }

    /// Writes the rows of a SELECT as a Parquet file.
    pub async fn parquet(self, path: &str, select: &str) -> Self {
        write_parquet(&self.folder.path().join(path), select).await;
        self
    }

    /// Writes a file.
    pub fn file(self, path: &str, content: &str) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Declares the table of a folder: `name type, name type, …`.
    pub fn table(mut self, name: &str, columns: &str, more: impl FnOnce(&mut TableSpec)) -> Self {
        let url = self.url(&format!("{name}/"));
        self.tables.push(declare(name, url, columns, more));
        self
    }

    pub fn lake(&self) -> Lake {
        Lake::over(&self.tables, self.timezone, &self.options, &[]).unwrap()
    }

    pub fn at(&self, day: &str) -> Visibility {
        Visibility::at(self.day(day))
    }

    pub fn day(&self, day: &str) -> AsOf {
        AsOf::parse(day, self.timezone).unwrap()
    }

    /// The rows of a query at the start of a day.
    pub async fn query(&self, day: &str, sql: &str) -> String {
        rows(&self.lake().session(self.at(day)).await.unwrap(), sql).await
    }
}

/// A table's declaration.
pub fn declare(name: &str, url: Url, columns: &str, more: impl FnOnce(&mut TableSpec)) -> TableSpec {
    let columns = columns.split(", ").enumerate().map(|(line, column)| {
        let (name, kind) = column.split_once(' ').unwrap();
        let column_type = ColumnType::parse(kind).unwrap();
        ColumnSpec::new(name, column_type, Place::at("jobs/shop.yaml", 10 + line, 5))
    });
    let mut table = TableSpec {
        name: name.to_owned(),
        place: Place::at("jobs/shop.yaml", 8, 3),
        url,
        format: Format::Parquet,
        version: None,
        partition_by: Vec::new(),
        event_time: None,
        known_at: None,
        columns: columns.collect(),
        checks: Vec::new(),
        timezone: Tz::UTC,
        naive_times: Default::default(),
        may_be_empty: false,
        max_shrink: None,
        csv: tenure::spec::CsvFormat::default(),
    };
    more(&mut table);
    table
}

/// A check of a table.
pub fn check(rule: CheckRule, on_fail: OnFail) -> CheckSpec {
    CheckSpec { rule, on_fail, place: Place::at("jobs/shop.yaml", 20, 7) }
}

/// Writes the rows of a SELECT as a Parquet file.
pub async fn write_parquet(path: &Path, select: &str) {
    let rows = SessionContext::new().sql(select).await.unwrap();
    let schema = std::sync::Arc::new(rows.schema().as_arrow().clone());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
    for batch in rows.collect().await.unwrap() {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
}

/// The rows of a query as text: values by `|`, rows by `; `.
pub async fn rows(context: &SessionContext, sql: &str) -> String {
    text(&context.sql(sql).await.unwrap().collect().await.unwrap())
}

/// The rows of batches as text.
pub fn text(batches: &[RecordBatch]) -> String {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(1);
    let row = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|");
    lines.map(row).collect::<Vec<_>>().join("; ")
}
