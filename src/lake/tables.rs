//! Declared tables: their schema, and whether a file keeps to it.
//!
//! A file may hold more columns than are declared, and narrower types; what it holds is widened to the declared type as
//! it is read. [`widens`] has the list. One case cuts something off: timestamps in nanoseconds become microseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;

use crate::error::Problem;
use crate::spec::{ColumnSpec, ColumnType, TableSpec};

/// The name as SQL knows it, whatever characters it has.
pub(super) fn reference(name: &str) -> TableReference {
    TableReference::bare(name)
}

/// The schema that SQL sees: the declared columns in their order, then the partition columns. Everything is nullable.
pub fn schema(table: &TableSpec) -> SchemaRef {
    let fields = file_columns(table).map(|c| field(table, &c.name, c.column_type)).chain(partition_fields(table));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The part of the schema that the files hold.
pub(super) fn file_schema(table: &TableSpec) -> SchemaRef {
    Arc::new(Schema::new(file_columns(table).map(|c| field(table, &c.name, c.column_type)).collect::<Vec<_>>()))
}

/// The part of the schema that the folders' names hold.
pub(super) fn partition_fields(table: &TableSpec) -> impl Iterator<Item = Field> {
    table.partition_by.iter().map(|(name, column_type)| field(table, name, *column_type))
}

/// The columns that the files hold: a partition column that is declared again as a column is not one of them.
pub(super) fn file_columns(table: &TableSpec) -> impl Iterator<Item = &ColumnSpec> {
    table.columns.iter().filter(|c| !table.partition_by.iter().any(|(name, _)| *name == c.name))
}

fn field(table: &TableSpec, name: &str, column_type: ColumnType) -> Field {
    Field::new(name, column_type.arrow(table.timezone), true)
}

/// Whether every value of `found` is a value of `declared` (but for the nanoseconds of a timestamp).
pub(super) fn widens(found: &DataType, declared: ColumnType) -> bool {
    use DataType as T;
    match declared {
        ColumnType::Bool => matches!(found, T::Boolean),
        ColumnType::Int8 => matches!(found, T::Int8),
        ColumnType::Int16 => matches!(found, T::Int8 | T::UInt8 | T::Int16),
        ColumnType::Int32 => matches!(found, T::Int8 | T::UInt8 | T::Int16 | T::UInt16 | T::Int32),
        ColumnType::Int64 => match found {
            T::Int8 | T::UInt8 | T::Int16 | T::UInt16 | T::Int32 | T::UInt32 | T::Int64 => true,
            T::Decimal128(precision, 0) => *precision <= 18,
            _ => false,
        },
        ColumnType::Float32 => {
            matches!(found, T::Int8 | T::UInt8 | T::Int16 | T::UInt16 | T::Float16 | T::Float32)
        }
        ColumnType::Float64 => match found {
            T::Int8 | T::UInt8 | T::Int16 | T::UInt16 | T::Int32 | T::UInt32 => true,
            T::Float16 | T::Float32 | T::Float64 => true,
            // Up to 15 digits go through a double and come back as they were.
            T::Decimal128(precision, scale) => *precision <= 15 && *scale >= 0,
            _ => false,
        },
        ColumnType::Utf8 => match found {
            T::Utf8 | T::LargeUtf8 | T::Utf8View => true,
            T::Dictionary(_, value) => matches!(**value, T::Utf8 | T::LargeUtf8 | T::Utf8View),
            _ => false,
        },
        ColumnType::Date => matches!(found, T::Date32),
        ColumnType::Timestamp => matches!(found, T::Timestamp(_, _)),
    }
}

/// A type as a job file would name it, where it has a name there.
pub(super) fn type_name(found: &DataType) -> String {
    match found {
        DataType::LargeUtf8 | DataType::Utf8View => "utf8".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        other => match ColumnType::NAMES.iter().find(|(_, t)| t.arrow(chrono_tz::UTC) == *other) {
            Some((name, _)) => (*name).to_owned(),
            None => format!("{other}").to_lowercase(),
        },
    }
}

/// What files do not keep of a declaration, each difference once with the first file that shows it.
#[derive(Debug, Default)]
pub(super) struct Differences {
    by_kind: BTreeMap<(usize, String), Difference>,
}

#[derive(Debug)]
struct Difference {
    file: String,
    hint: String,
    files: usize,
}

impl Differences {
    /// Compares one file's schema with the declaration.
    pub(super) fn look(&mut self, table: &TableSpec, file: &str, found: &Schema) {
        for (index, column) in file_columns(table).enumerate() {
            let declared = column.column_type;
            match found.field_with_name(&column.name) {
                Err(_) => self.note(index, String::new(), file, || missing_hint(&column.name, found)),
                Ok(field) if widens(field.data_type(), declared) => {}
                Ok(field) => {
                    let name = type_name(field.data_type());
                    self.note(index, name.clone(), file, || wrong_hint(&name, field.data_type()));
                }
            }
        }
    }

    fn note(&mut self, column: usize, found: String, file: &str, hint: impl FnOnce() -> String) {
        let new = || Difference { file: file.to_owned(), hint: hint(), files: 0 };
        self.by_kind.entry((column, found)).or_insert_with(new).files += 1;
    }

    /// One problem per difference, in the order of the declaration.
    pub(super) fn problems(self, table: &TableSpec) -> Vec<Problem> {
        let columns: Vec<&ColumnSpec> = file_columns(table).collect();
        let problem = |((index, found), difference): ((usize, String), Difference)| {
            let column = columns[index];
            let others = match difference.files {
                1 => String::new(),
                files => format!(" (and {} more)", files - 1),
            };
            let name = &column.name;
            let in_file = format!("in table `{}`, `{}`{others}", table.name, difference.file);
            let message = if found.is_empty() {
                format!("{in_file} has no column `{name}`, which is declared as {}", column.column_type.name())
            } else {
                format!("{in_file} has column `{name}` as {found}, but it is declared as {}", column.column_type.name())
            };
            Problem::new(message).at(column.place.clone()).hint(difference.hint)
        };
        self.by_kind.into_iter().map(problem).collect()
    }
}

fn missing_hint(name: &str, found: &Schema) -> String {
    let wanted = name.to_lowercase();
    let alike = |field: &&Arc<Field>| strsim::jaro_winkler(&field.name().to_lowercase(), &wanted) > 0.85;
    match found.fields().iter().find(alike) {
        Some(field) => format!("the file has `{}`", field.name()),
        None => {
            let names: Vec<String> = found.fields().iter().map(|f| format!("`{}`", f.name())).collect();
            format!("the file has {}", names.join(", "))
        }
    }
}

fn wrong_hint(name: &str, found: &DataType) -> String {
    match ColumnType::NAMES.iter().find(|(_, declared)| widens(found, *declared)) {
        Some((fitting, _)) => format!("declare it as `{fitting}`, or write the file with the declared type"),
        None => format!("no type of a job file holds {name}: write the file with the declared type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::spec::Format;

    fn table(columns: &[(&str, ColumnType)]) -> TableSpec {
        let place = Place::at("jobs/x.yaml", 7, 3);
        let columns = columns.iter().map(|(name, column_type)| ColumnSpec {
            name: (*name).to_owned(),
            column_type: *column_type,
            place: place.clone(),
        });
        TableSpec {
            name: "orders".to_owned(),
            place: place.clone(),
            url: "file:///lake/orders/".parse().unwrap(),
            format: Format::Parquet,
            partition_by: vec![("dt".to_owned(), ColumnType::Date)],
            event_time: None,
            known_at: None,
            columns: columns.collect(),
            checks: Vec::new(),
            timezone: chrono_tz::UTC,
            naive_times: crate::spec::NaiveTimes::Job,
        }
    }

    #[test]
    fn partition_columns_come_last_and_once() {
        let table = table(&[("dt", ColumnType::Date), ("amount", ColumnType::Float64)]);
        let schema = schema(&table);
        let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["amount", "dt"]);
    }

    #[test]
    fn every_difference_is_said_once_with_place_and_hint() {
        let table = table(&[("customer_id", ColumnType::Int64), ("amount", ColumnType::Int64)]);
        let file = Schema::new(vec![
            Field::new("CustomerID", DataType::Int64, true),
            Field::new("amount", DataType::Float64, true),
        ]);
        let mut differences = Differences::default();
        differences.look(&table, "file:///lake/orders/a.parquet", &file);
        differences.look(&table, "file:///lake/orders/b.parquet", &file);
        let said: Vec<String> = differences
            .problems(&table)
            .iter()
            .map(|p| format!("{p} | {}", p.hint.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            said,
            [
                "jobs/x.yaml:7:3: in table `orders`, `file:///lake/orders/a.parquet` (and 1 more) has no column \
                 `customer_id`, which is declared as int64 | the file has `CustomerID`",
                "jobs/x.yaml:7:3: in table `orders`, `file:///lake/orders/a.parquet` (and 1 more) has column `amount` as \
                 float64, but it is declared as int64 | declare it as `float64`, or write the file with the declared type",
            ]
        );
    }

    #[test]
    fn lossy_changes_are_refused() {
        assert!(!widens(&DataType::Int64, ColumnType::Float64));
        assert!(!widens(&DataType::UInt64, ColumnType::Int64));
        assert!(!widens(&DataType::Decimal128(38, 10), ColumnType::Float64));
        assert!(!widens(&DataType::Float64, ColumnType::Float32));
        assert!(!widens(&DataType::Utf8, ColumnType::Date));
    }
}
