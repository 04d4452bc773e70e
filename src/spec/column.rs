//! The columns of source tables: their types, and where the files hold them.

use std::borrow::Cow;
use std::fmt;

use arrow::datatypes::{DataType, TimeUnit};
use chrono_tz::Tz;

use crate::error::Place;
use crate::local_time::zone_name;

/// The most digits of a `decimal`.
pub const MAX_DECIMAL_DIGITS: u8 = 76;
/// The most digits of a decimal of 128 bits.
const MAX_DIGITS_OF_128_BITS: u8 = 38;

/// A declared column.
#[derive(Debug, Clone)]
pub struct ColumnSpec {
    /// Its name in SQL.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Where the files hold it: a column's name, then those of the fields within structs.
    pub from: Vec<String>,
    /// Whether files may lack it; its values are NULL there.
    pub optional: bool,
    /// Where its declaration stands.
    pub place: Place,
}

impl ColumnSpec {
    /// A column that every file holds under its own name.
    pub fn new(name: impl Into<String>, column_type: ColumnType, place: Place) -> Self {
        let name = name.into();
        ColumnSpec { from: vec![name.clone()], name, column_type, optional: false, place }
    }

    /// Where the files hold it, as a message names it.
    pub fn source(&self) -> String {
        self.from.join(".")
    }
}

/// The types that a job file knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ColumnType {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    /// Unsigned integers are wider signed ones in SQL, so that no difference of two wraps.
    UInt8,
    UInt16,
    UInt32,
    /// `decimal(20, 0)` in SQL.
    UInt64,
    /// `float32` in SQL.
    Float16,
    Float32,
    Float64,
    /// Digits in all, and those behind the point.
    Decimal(u8, u8),
    Utf8,
    /// Text in SQL: 36 characters in lower case.
    Uuid,
    Binary,
    Date,
    /// An instant in microseconds, shown on the clock of the job's time zone.
    Timestamp,
}

impl ColumnType {
    /// Every type without parameters, with its name in a job file.
    pub const NAMES: [(&'static str, ColumnType); 17] = [
        ("bool", ColumnType::Bool),
        ("int8", ColumnType::Int8),
        ("int16", ColumnType::Int16),
        ("int32", ColumnType::Int32),
        ("int64", ColumnType::Int64),
        ("uint8", ColumnType::UInt8),
        ("uint16", ColumnType::UInt16),
        ("uint32", ColumnType::UInt32),
        ("uint64", ColumnType::UInt64),
        ("float16", ColumnType::Float16),
        ("float32", ColumnType::Float32),
        ("float64", ColumnType::Float64),
        ("utf8", ColumnType::Utf8),
        ("uuid", ColumnType::Uuid),
        ("binary", ColumnType::Binary),
        ("date", ColumnType::Date),
        ("timestamp", ColumnType::Timestamp),
    ];

    /// Its name in a job file.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            ColumnType::Decimal(precision, scale) => format!("decimal({precision}, {scale})").into(),
            _ => Self::NAMES.iter().find(|(_, t)| *t == self).map_or("unknown", |(name, _)| name).into(),
        }
    }

    /// The type of this name: a word, or `decimal(p, s)`.
    pub fn parse(text: &str) -> Option<Self> {
        let word = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, found)| *found);
        word.or_else(|| {
            let inner = text.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            let good = (1..=MAX_DECIMAL_DIGITS).contains(&precision) && scale <= precision;
            good.then_some(ColumnType::Decimal(precision, scale))
        })
    }

    /// The Arrow type that SQL sees in a job of this time zone.
    pub fn arrow(self, timezone: Tz) -> DataType {
        match self {
            ColumnType::Bool => DataType::Boolean,
            ColumnType::Int8 => DataType::Int8,
            ColumnType::Int16 => DataType::Int16,
            ColumnType::Int32 => DataType::Int32,
            ColumnType::Int64 | ColumnType::UInt8 | ColumnType::UInt16 | ColumnType::UInt32 => DataType::Int64,
            ColumnType::UInt64 => DataType::Decimal128(20, 0),
            ColumnType::Float16 | ColumnType::Float32 => DataType::Float32,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Decimal(precision, scale) if precision <= MAX_DIGITS_OF_128_BITS => {
                DataType::Decimal128(precision, scale as i8)
            }
            ColumnType::Decimal(precision, scale) => DataType::Decimal256(precision, scale as i8),
            ColumnType::Utf8 | ColumnType::Uuid => DataType::Utf8,
            ColumnType::Binary => DataType::Binary,
            ColumnType::Date => DataType::Date32,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(zone_name(timezone).into())),
        }
    }

    /// The least and the greatest value of an integer type.
    pub fn integers(self) -> Option<(i128, i128)> {
        Some(match self {
            ColumnType::Int8 => (i8::MIN.into(), i8::MAX.into()),
            ColumnType::Int16 => (i16::MIN.into(), i16::MAX.into()),
            ColumnType::Int32 => (i32::MIN.into(), i32::MAX.into()),
            ColumnType::Int64 => (i64::MIN.into(), i64::MAX.into()),
            ColumnType::UInt8 => (0, u8::MAX.into()),
            ColumnType::UInt16 => (0, u16::MAX.into()),
            ColumnType::UInt32 => (0, u32::MAX.into()),
            ColumnType::UInt64 => (0, u64::MAX.into()),
            _ => return None,
        })
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, ColumnType::Float16 | ColumnType::Float32 | ColumnType::Float64)
    }

    /// Whether its values can be told apart for certain, so that one of them can be a key.
    pub fn can_be_key(self) -> bool {
        use ColumnType::{Binary, Date, Decimal, Utf8, Uuid};
        self.integers().is_some() || matches!(self, Decimal(_, 0) | Utf8 | Uuid | Binary | Date)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back_from_its_name() {
        let decimals = [ColumnType::Decimal(10, 2), ColumnType::Decimal(38, 0), ColumnType::Decimal(76, 76)];
        for column_type in ColumnType::NAMES.iter().map(|(_, t)| *t).chain(decimals) {
            assert_eq!(ColumnType::parse(&column_type.name()), Some(column_type));
        }
        assert_eq!(ColumnType::parse("decimal(12)"), Some(ColumnType::Decimal(12, 0)));
        assert_eq!(ColumnType::parse("decimal(12,4)"), Some(ColumnType::Decimal(12, 4)));
        for wrong in ["decimal", "decimal()", "decimal(0, 0)", "decimal(77, 2)", "decimal(4, 5)", "decimal(10, -2)"] {
            assert_eq!(ColumnType::parse(wrong), None, "{wrong}");
        }
    }
}
