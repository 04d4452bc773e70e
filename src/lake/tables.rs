//! Declared tables: their schema, and whether a file keeps to it.
//!
//! A file may hold more columns than are declared, and other types whose values the declared type holds:
//! [`Conversion::between`] has the list. One case cuts something off: timestamps in nanoseconds become microseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::common::TableReference;

use super::conversion::{Conversion, decimal, joined, plain};
use crate::error::Problem;
use crate::spec::{ColumnSpec, ColumnType, Format, TableSpec};

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

/// The type that a file's schema has at a path; the error says what is there instead.
pub(super) fn find_type<'a>(schema: &'a Schema, path: &[String]) -> Result<&'a DataType, Absent<'a>> {
    let mut fields = schema.fields();
    for (depth, name) in path.iter().enumerate() {
        let Some((_, field)) = fields.find(name) else { return Err(Absent { fields, depth, kind: None }) };
        if depth + 1 == path.len() {
            return Ok(field.data_type());
        }
        match field.data_type() {
            DataType::Struct(inner) => fields = inner,
            other => return Err(Absent { fields, depth, kind: Some(other) }),
        }
    }
    Err(Absent { fields, depth: 0, kind: None })
}

/// Whether values of a file have to be looked at, one by one.
pub(super) fn has_checked_columns(table: &TableSpec, found: &Schema) -> bool {
    let conversion =
        |column: &ColumnSpec| Conversion::between(find_type(found, &column.from).ok()?, column.column_type);
    file_columns(table).any(|column| conversion(column) == Some(Conversion::Checked))
}

/// Where a path into a file's schema ends before its time.
#[derive(Debug)]
pub(super) struct Absent<'a> {
    /// The fields among which the next name is not, or is no struct.
    fields: &'a Fields,
    /// How many names of the path were there.
    depth: usize,
    /// What the name stands for where that is no struct.
    kind: Option<&'a DataType>,
}

/// A type as a job file would name it, where it has a name there.
pub fn type_name(found: &DataType) -> String {
    match plain(found) {
        DataType::LargeUtf8 | DataType::Utf8View => "utf8".to_owned(),
        DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::FixedSizeBinary(bytes) => format!("binary of {bytes} bytes"),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::Date64 => "date with milliseconds".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time of day".to_owned(),
        DataType::Duration(_) | DataType::Interval(_) => "span of time".to_owned(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list".to_owned(),
        DataType::ListView(_) | DataType::LargeListView(_) => "list".to_owned(),
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Map(..) => "map".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float16 => "float16".to_owned(),
        other => match (decimal(other), ColumnType::NAMES.iter().find(|(_, t)| t.arrow(chrono_tz::UTC) == *other)) {
            (Some((precision, scale)), _) => format!("decimal({precision}, {scale})"),
            (_, Some((name, _))) => (*name).to_owned(),
            _ => format!("{other}").to_lowercase(),
        },
    }
}

/// What files do not keep of a declaration, each difference once with the first file that shows it.
#[derive(Debug, Default)]
pub(super) struct Differences {
    by_kind: BTreeMap<(usize, String), Difference>,
    /// Every type that a column has in some file, refused or not.
    types: BTreeMap<usize, Vec<DataType>>,
}

#[derive(Debug)]
struct Difference {
    file: String,
    kind: DifferenceKind,
    files: usize,
}

#[derive(Debug)]
enum DifferenceKind {
    /// The file has no such column; the hint says which it has.
    Missing { hint: String },
    /// The column is of a type that the declared one does not hold.
    Type(DataType),
}

impl Differences {
    /// Compares one file's schema with the declaration.
    pub(super) fn look(&mut self, table: &TableSpec, file: &str, found: &Schema) {
        for (index, column) in file_columns(table).enumerate() {
            match find_type(found, &column.from) {
                Err(_) if column.optional => {}
                Err(absent) => {
                    let hint = || DifferenceKind::Missing {
                        hint: delimiter_hint(table, found).unwrap_or_else(|| missing_hint(column, &absent)),
                    };
                    self.note(index, String::new(), file, hint);
                }
                Ok(found) => {
                    let types = self.types.entry(index).or_default();
                    if !types.contains(found) {
                        types.push(found.clone());
                    }
                    if Conversion::between(found, column.column_type).is_none() {
                        self.note(index, type_name(found), file, || DifferenceKind::Type(found.clone()));
                    }
                }
            }
        }
    }

    fn note(&mut self, column: usize, found: String, file: &str, kind: impl FnOnce() -> DifferenceKind) {
        let new = || Difference { file: file.to_owned(), kind: kind(), files: 0 };
        self.by_kind.entry((column, found)).or_insert_with(new).files += 1;
    }

    /// One problem per difference, in the order of the declaration.
    pub(super) fn problems(self, table: &TableSpec) -> Vec<Problem> {
        let columns: Vec<&ColumnSpec> = file_columns(table).collect();
        let problem = |((index, name), difference): (&(usize, String), &Difference)| {
            let column = columns[*index];
            let others = match difference.files {
                1 => String::new(),
                files => format!(" (and {} more)", files - 1),
            };
            let (source, declared) = (column.source(), column.column_type);
            let in_file = format!("in table `{}`, `{}`{others}", table.name, difference.file);
            let (message, hint) = match &difference.kind {
                DifferenceKind::Missing { hint } => {
                    (format!("{in_file} has no column `{source}`, which is declared as {declared}"), hint.clone())
                }
                DifferenceKind::Type(found) => (
                    format!("{in_file} has column `{source}` as {name}, but it is declared as {declared}"),
                    type_hint(column, found, self.types.get(index).map(Vec::as_slice).unwrap_or_default()),
                ),
            };
            Problem::new(message).at(column.place.clone()).hint(hint)
        };
        self.by_kind.iter().map(problem).collect()
    }
}

/// What to do about a CSV file whose header line is one column for want of the right delimiter.
fn delimiter_hint(table: &TableSpec, found: &Schema) -> Option<String> {
    let [only] = found.fields().iter().as_slice() else { return None };
    let separated = |delimiter: &&(char, &str)| only.name().contains(delimiter.0);
    let known = [(';', ";"), ('\t', "\\t"), ('|', "|"), (',', ",")];
    let (_, delimiter) = known.iter().find(separated).filter(|_| table.format == Format::Csv)?;
    Some(format!(
        "its header line is one column: is the delimiter another one? `delimiter: \"{delimiter}\"` on the table"
    ))
}

/// What to do about a column that a file does not have.
fn missing_hint(column: &ColumnSpec, absent: &Absent<'_>) -> String {
    let ColumnSpec { name, column_type, from, .. } = column;
    if let Some(kind) = absent.kind {
        let before = from[..=absent.depth].join(".");
        return format!("`{before}` is of type {} there, which has no fields", type_name(kind));
    }
    let wanted = from.get(absent.depth).map(|name| name.to_lowercase()).unwrap_or_default();
    let declared = quoted(&column_type.name());
    if absent.fields.find(&column.source()).is_some() {
        return format!(
            "the file has it by this name: `{name}: {{type: {declared}, from: [\"{}\"]}}`",
            column.source()
        );
    }
    let alike = |field: &&Arc<Field>| strsim::jaro_winkler(&field.name().to_lowercase(), &wanted) > 0.85;
    if let Some(field) = absent.fields.iter().find(alike) {
        let path: Vec<String> = from[..absent.depth].iter().chain([field.name()]).cloned().collect();
        return format!(
            "the file has `{}`: `{name}: {{type: {declared}, from: {}}}`",
            path.join("."),
            path_text(&path)
        );
    }
    let names: Vec<String> = absent.fields.iter().map(|f| format!("`{}`", f.name())).collect();
    let optional = match name == &column.source() {
        true => format!("{name}: {{type: {declared}, optional: true}}"),
        false => format!("{name}: {{type: {declared}, from: {}, optional: true}}", path_text(from)),
    };
    format!("the file has {}; where files may lack it: `{optional}`", names.join(", "))
}

/// A path as a job file says it.
fn path_text(path: &[String]) -> String {
    match path {
        [name] if !name.contains('.') => quoted(name),
        [..] if path.iter().any(|name| name.contains('.')) => {
            format!("[{}]", path.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "))
        }
        [..] => quoted(&path.join(".")),
    }
}

/// A word as it stands in a job file.
fn quoted(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if plain { word.to_owned() } else { format!("\"{word}\"") }
}

/// What to do about a column of the wrong type: the type that holds what every file has, where there is one.
fn type_hint(column: &ColumnSpec, found: &DataType, all: &[DataType]) -> String {
    if let Some(fitting) = fitting_type(all) {
        return format!("declare it as `{fitting}`, or write the file with the declared type");
    }
    let name = &column.name;
    let alone = fitting_type(std::slice::from_ref(found)).is_some();
    match plain(found) {
        _ if alone => {
            let names: Vec<String> = all.iter().map(type_name).collect();
            format!("the files have it as {}, and no one type holds them all: write them alike", names.join(", "))
        }
        DataType::Struct(fields) => {
            let field = fields.first().map_or("field", |field| field.name());
            format!("name one of its fields: `{name}: {{type: …, from: {}.{field}}}`", column.source())
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Interval(_) => {
            "no type of a job file holds it: write it as a timestamp or as a number of seconds, or do not declare it"
                .to_owned()
        }
        _ => {
            format!("no type of a job file holds a {}: write one value per row, or do not declare it", type_name(found))
        }
    }
}

/// The narrowest type that holds the values of all of these, or, where none does, one that holds most of them.
fn fitting_type(all: &[DataType]) -> Option<ColumnType> {
    use ColumnType::*;
    const NARROW_FIRST: [ColumnType; 9] = [Bool, Int8, UInt8, Int16, UInt16, Int32, UInt32, Int64, UInt64];
    const OTHERS: [ColumnType; 8] = [Float16, Float32, Float64, Utf8, Uuid, Binary, Timestamp, Date];
    let digits = |found: &DataType| {
        let wide = || NARROW_FIRST.iter().find(|t| Conversion::between(found, **t) == Some(Conversion::Cast));
        decimal(plain(found))
            .or_else(|| wide().map(|_| if *plain(found) == DataType::UInt64 { (20, 0) } else { (19, 0) }))
    };
    let is_decimal = |found: &DataType| decimal(plain(found)).is_some();
    let joined = all.iter().filter_map(digits).reduce(|a, b| match joined(a, b) {
        Some(Decimal(precision, scale)) => (precision, scale as i8),
        _ => a,
    });
    let decimal = joined.filter(|_| all.iter().any(is_decimal)).map(|(p, s)| Decimal(p, s.max(0) as u8));
    let candidates = NARROW_FIRST.into_iter().chain(decimal).chain(OTHERS);
    let checked = |candidate: &ColumnType| -> Option<usize> {
        let ways = all.iter().map(|found| Conversion::between(found, *candidate));
        ways.map(|way| way.map(|way| usize::from(way == Conversion::Checked))).sum()
    };
    candidates.filter_map(|candidate| Some((checked(&candidate)?, candidate))).min_by_key(|(n, _)| *n).map(|(_, t)| t)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;
    use crate::error::Place;

    fn table(columns: &[(&str, ColumnType)]) -> TableSpec {
        let place = Place::at("jobs/x.yaml", 7, 3);
        let columns = columns.iter().map(|(name, column_type)| ColumnSpec::new(*name, *column_type, place.clone()));
        TableSpec {
            name: "orders".to_owned(),
            place: place.clone(),
            url: "file:///lake/orders/".parse().unwrap(),
            format: Format::Parquet,
            version: None,
            partition_by: vec![("dt".to_owned(), ColumnType::Date)],
            event_time: None,
            known_at: None,
            columns: columns.collect(),
            checks: Vec::new(),
            timezone: chrono_tz::UTC,
            naive_times: crate::spec::NaiveTimes::Job,
            may_be_empty: false,
            max_shrink: None,
            csv: crate::spec::CsvFormat::default(),
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
        let table = table(&[("customer_id", ColumnType::Int64), ("amount", ColumnType::Bool)]);
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
                 `customer_id`, which is declared as int64 | the file has `CustomerID`: \
                 `customer_id: {type: int64, from: CustomerID}`",
                "jobs/x.yaml:7:3: in table `orders`, `file:///lake/orders/a.parquet` (and 1 more) has column `amount` as \
                 float64, but it is declared as bool | declare it as `float64`, or write the file with the declared type",
            ]
        );
    }

    fn fitting(types: &[DataType]) -> Option<String> {
        fitting_type(types).map(|found| found.to_string())
    }

    #[test]
    fn the_hint_names_the_type_that_holds_every_file() {
        use DataType::*;
        let fits = |types: &[DataType]| fitting(types).unwrap_or_default();
        assert_eq!(fits(&[Int32, Int64]), "int64");
        assert_eq!(fits(&[Int64, UInt64]), "int64");
        assert_eq!(fits(&[UInt8]), "uint8");
        assert_eq!(fits(&[Int64, Decimal128(10, 2)]), "decimal(21, 2)");
        assert_eq!(fits(&[Decimal128(38, 9), Float64]), "decimal(38, 9)");
        assert_eq!(fits(&[Decimal128(10, 2), Decimal128(20, 0)]), "decimal(22, 2)");
        assert_eq!(fits(&[Date32, Timestamp(TimeUnit::Nanosecond, None)]), "timestamp");
        assert_eq!(fits(&[FixedSizeBinary(16)]), "uuid");
        assert_eq!(fits(&[FixedSizeBinary(20)]), "binary");
        assert_eq!(fits(&[Null, Boolean]), "bool");
        assert_eq!(fitting(&[Boolean, Int64]), None);
        assert_eq!(fitting(&[Utf8, Int64]), None);
        assert_eq!(fitting(&[Time32(TimeUnit::Second)]), None);
    }

    #[test]
    fn paths_lead_into_structs() {
        let city = Field::new("city", DataType::Utf8, true);
        let file = Schema::new(vec![
            Field::new("address", DataType::Struct(vec![city].into()), true),
            Field::new("shop.id", DataType::Int64, true),
        ]);
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(find_type(&file, &path("address.city")).unwrap(), &DataType::Utf8);
        assert_eq!(find_type(&file, &["shop.id".to_owned()]).unwrap(), &DataType::Int64);
        let hint = |from: &str| {
            let place = Place::at("jobs/x.yaml", 7, 3);
            let column = ColumnSpec { from: path(from), ..ColumnSpec::new("c", ColumnType::Decimal(10, 2), place) };
            missing_hint(&column, &find_type(&file, &column.from).unwrap_err())
        };
        let declared = "type: \"decimal(10, 2)\"";
        assert_eq!(
            hint("address.citi"),
            format!("the file has `address.city`: `c: {{{declared}, from: address.city}}`")
        );
        assert_eq!(hint("shop.id"), format!("the file has it by this name: `c: {{{declared}, from: [\"shop.id\"]}}`"));
        assert_eq!(hint("address.city.name"), "`address.city` is of type utf8 there, which has no fields");
        let lacks = "the file has `address`, `shop.id`; where files may lack it: ";
        assert_eq!(hint("total"), format!("{lacks}`c: {{{declared}, from: total, optional: true}}`"));
        assert_eq!(hint("c"), format!("{lacks}`c: {{{declared}, optional: true}}`"));
    }
}
