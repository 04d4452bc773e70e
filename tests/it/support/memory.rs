//! A small shop in memory: tables as rows of text, SQL files in a temporary folder.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use tenure::error::Place;
use tenure::features::{FeatureSet, FeatureStream, LabelSet};
use tenure::spec::{
    ColumnSpec, ColumnType, EmbeddingSpec, EntitySource, EntitySpec, EntityTask, Format, Keep, ModelSpec, Schedule,
    SeasonSpec, SequenceEncoder, SequenceSpec, TableSpec, TrainSpec,
};
use tenure::{AsOf, Result};

pub struct Shop {
    folder: tempfile::TempDir,
    pub task: EntityTask,
    pub tables: Vec<TableSpec>,
    pub rows: Vec<(String, RecordBatch)>,
}

impl Shop {
    /// `customers(customer_id, signed_up_at)` is the population.
    pub fn new() -> Self {
        let entity = EntitySpec {
            source: EntitySource::Table { table: "customers".into(), since: Some("signed_up_at".into()) },
            key: "customer_id".into(),
            place: Place::file("job.yaml"),
        };
        let train = TrainSpec {
            every_days: 30,
            count: 1,
            warmup_days: 0,
            validation_snapshots: 1,
            epochs: 1,
            batch: 1,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            season: SeasonSpec::None,
            weight_decay: 0.0,
            clip_norm: 1.0,
            patience: 1,
            seed: 1,
            rfm: None,
        };
        let task = EntityTask {
            entity,
            views: vec![],
            features: vec![],
            labels: vec![],
            model: None,
            train,
            segments: None,
            outcomes: Default::default(),
            state: None,
            publish: None,
        };
        Shop { folder: tempfile::tempdir().unwrap(), task, tables: vec![], rows: vec![] }
            .table("customers customer_id:int64 signed_up_at:timestamp", &[])
    }

    /// The shop that most tests use: customers 1–4 (4 signs up on the day itself), orders of 1 and 2.
    pub fn small() -> Self {
        let customers = ["1 2026-01-01", "2 2026-02-01", "3 2026-03-01", "4 2026-07-01"];
        Shop::new().table("customers customer_id:int64 signed_up_at:timestamp", &customers).table(
            "orders order_id:int64 customer_id:int64 ordered_at:timestamp amount:float64 refunded:bool channel:utf8 @ordered_at",
            &[
                "10 1 2026-06-30T12:00:00 10.5 false web",
                "11 1 2026-06-30T12:00:00 4.5 true app",
                "12 1 2026-06-10T00:00:00 20 false app",
                "13 2 2026-01-15T08:00:00 7 false -",
                "14 2 2026-07-01T00:00:00 1000 false web",
                "15 - 2026-06-29T00:00:00 5 false web",
            ],
        )
    }

    /// Declares a table (`name column:type … @event_time`) and its rows; `-` is NULL. A second time replaces it.
    pub fn table(mut self, declaration: &str, rows: &[&str]) -> Self {
        let mut words = declaration.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let (mut columns, mut event_time) = (vec![], None);
        for word in words {
            match word.strip_prefix('@') {
                Some(time) => event_time = Some(time.to_owned()),
                None => {
                    let (column, kind) = word.split_once(':').unwrap();
                    let column_type = ColumnType::parse(kind).unwrap();
                    columns.push(ColumnSpec::new(column, column_type, Place::file("jobs/shop.yaml")));
                }
            }
        }
        let spec = TableSpec {
            name: name.clone(),
            place: Place::file("jobs/shop.yaml"),
            url: "memory:///".parse().unwrap(),
            format: Format::Parquet,
            version: None,
            partition_by: vec![],
            event_time,
            known_at: None,
            columns,
            checks: vec![],
            timezone: chrono_tz::UTC,
            naive_times: Default::default(),
            may_be_empty: false,
            max_shrink: None,
            csv: tenure::spec::CsvFormat::default(),
        };
        let batch = batch(&spec, rows);
        self.tables.retain(|t| t.name != name);
        self.rows.retain(|(n, _)| *n != name);
        self.tables.push(spec);
        self.rows.push((name, batch));
        self
    }

    pub fn file(&self, path: &str, sql: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, sql).unwrap();
        path
    }

    pub fn feature(mut self, name: &str, sql: &str) -> Self {
        let path = self.file(&format!("sql/features/{name}.sql"), sql);
        self.task.features.push(path);
        self
    }

    pub fn view(mut self, name: &str, sql: &str) -> Self {
        let path = self.file(&format!("sql/views/{name}.sql"), sql);
        self.task.views.push(path);
        self
    }

    pub fn label(mut self, name: &str, sql: &str) -> Self {
        let path = self.file(&format!("sql/labels/{name}.sql"), sql);
        self.task.labels.push(path);
        self
    }

    /// The model reads the newest events of every customer.
    pub fn sequence(mut self, sql: &str, length: usize) -> Self {
        let events = self.file("sql/sequences/events.sql", sql);
        let sequence = SequenceSpec {
            events,
            length,
            encoder: SequenceEncoder::Gru,
            width: 8,
            layers: 1,
            keep: Keep::Always,
            place: Place::file("jobs/shop.yaml"),
        };
        self.task.model = Some(ModelSpec {
            bundle: PathBuf::new(),
            bundle_place: tenure::error::Place::file("job.yaml"),
            text: None,
            sequence: Some(sequence),
            heads: vec![],
            members: 1,
            embedding: EmbeddingSpec::None,
            hidden: vec![],
            dropout: 0.0,
            minimum_data: None,
            btyd: None,
        });
        self
    }

    pub fn population(mut self, sql: &str) -> Self {
        let path = self.file("sql/population.sql", sql);
        self.task.entity.source = EntitySource::Query(path);
        self
    }

    pub fn load(&self) -> Result<FeatureSet> {
        FeatureSet::load(&self.task, self.folder.path())
    }

    pub fn labels(&self) -> Result<LabelSet> {
        LabelSet::load(&self.task, self.folder.path())
    }

    /// The tables in `partitions` pieces, `batch_size` rows at a time.
    pub fn context(&self, partitions: usize, batch_size: usize) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_size);
        let context = SessionContext::new_with_config(config);
        for (name, batch) in &self.rows {
            let mut pieces: Vec<Vec<RecordBatch>> = vec![vec![]; partitions];
            let step = batch_size.clamp(1, batch.num_rows().max(1));
            for (i, start) in (0..batch.num_rows()).step_by(step).enumerate() {
                pieces[i % partitions].push(batch.slice(start, step.min(batch.num_rows() - start)));
            }
            let table = MemTable::try_new(batch.schema(), pieces).unwrap();
            context.register_table(name.as_str(), Arc::new(table)).unwrap();
        }
        context
    }

    pub async fn matrix_of(&self, context: &SessionContext, as_of: AsOf) -> Result<RecordBatch> {
        whole(self.load()?.matrix(context, &self.tables, as_of).await?).await
    }

    pub async fn matrix(&self, day: &str) -> Result<RecordBatch> {
        self.matrix_of(&self.context(2, 3), utc(day)).await
    }

    /// Everything that is wrong, as the user sees it.
    pub async fn problems(&self) -> String {
        let found = match self.load() {
            Ok(set) => set.resolve(&self.context(1, 100), &self.tables).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match found {
            Ok(()) => "fine".into(),
            Err(error) => rendered(&error),
        }
    }
}

pub fn rendered(error: &tenure::Error) -> String {
    let problem = |p: &tenure::error::Problem| match &p.hint {
        Some(hint) => format!("{p}\n  hint: {hint}"),
        None => p.to_string(),
    };
    error.problems().map(problem).collect::<Vec<_>>().join("\n")
}

pub fn utc(day: &str) -> AsOf {
    AsOf::parse(day, chrono_tz::UTC).unwrap()
}

pub async fn whole(stream: FeatureStream) -> Result<RecordBatch> {
    let schema = stream.schema().clone();
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}

/// A batch as text: a header line, then one line per row.
pub fn text(batch: &RecordBatch) -> String {
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    let columns: Vec<ArrayRef> =
        batch.columns().iter().map(|a| cast(a, &arrow::datatypes::DataType::Utf8).unwrap()).collect();
    let mut lines = vec![names.join(" ")];
    for row in 0..batch.num_rows() {
        let cell = |a: &ArrayRef| {
            let a = a.as_any().downcast_ref::<StringArray>().unwrap();
            if arrow::array::Array::is_null(a, row) { "-".to_owned() } else { a.value(row).to_owned() }
        };
        lines.push(columns.iter().map(cell).collect::<Vec<_>>().join(" "));
    }
    lines.join("\n")
}

fn batch(spec: &TableSpec, rows: &[&str]) -> RecordBatch {
    let fields: Vec<Field> =
        spec.columns.iter().map(|c| Field::new(&c.name, c.column_type.arrow(spec.timezone), true)).collect();
    let columns = fields.iter().enumerate().map(|(i, field)| {
        let cells = rows.iter().map(|row| row.split_whitespace().nth(i).filter(|cell| *cell != "-"));
        let cells: StringArray = cells.collect();
        cast(&cells, field.data_type()).unwrap()
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}
