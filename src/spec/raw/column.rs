//! A column of a table: a type alone, or a type with more to say.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::spec::column::{ColumnType, MAX_DECIMAL_DIGITS};
use crate::spec::node::{Kind, Node};
use crate::spec::problems::Problems;
use crate::spec::read::{At, FromNode, Keys, OneOrMany, word};
use crate::spec::values::words;

/// A column as it is written: `int64`, or `{type: int64, from: "Order ID"}`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::spec) enum RawColumn {
    Type(ColumnType),
    Options(Box<RawColumnOptions>),
}

/// A column whose files need more than its type.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Column")]
pub(in crate::spec) struct RawColumnOptions {
    /// Its type.
    #[serde(rename = "type")]
    #[schemars(rename = "type")]
    pub column_type: At<ColumnType>,
    /// Its name in the files, where that is another one: `"Order ID"`. A dot goes into a struct: `address.city`; a name with a
    /// dot of its own stands in a list: `["order.id"]`. Default: its name here.
    pub from: Option<At<OneOrMany<String>>>,
    /// Whether a file may lack it: its values are NULL there. Default: `false`.
    pub optional: Option<At<bool>>,
}

impl FromNode for RawColumnOptions {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let keys = Keys::open(node, "the column", &["type", "from", "optional"], problems)?;
        Some(RawColumnOptions {
            column_type: keys.take("type", problems),
            from: keys.take("from", problems),
            optional: keys.take("optional", problems),
        })
    }
}

impl FromNode for RawColumn {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.kind {
            Kind::Map(_) => RawColumnOptions::from_node(node, problems).map(|o| RawColumn::Options(Box::new(o))),
            _ => ColumnType::from_node(node, problems).map(RawColumn::Type),
        }
    }
}

impl JsonSchema for RawColumn {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "RawColumn".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let column_type = generator.subschema_for::<ColumnType>();
        let options = generator.subschema_for::<RawColumnOptions>();
        json_schema!({"anyOf": [column_type, options]})
    }
}

impl FromNode for ColumnType {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        const OTHERS: [(&str, &str); 33] = [
            ("string", "utf8"),
            ("str", "utf8"),
            ("text", "utf8"),
            ("varchar", "utf8"),
            ("large_utf8", "utf8"),
            ("large_string", "utf8"),
            ("category", "utf8"),
            ("int", "int64"),
            ("integer", "int64"),
            ("bigint", "int64"),
            ("long", "int64"),
            ("smallint", "int16"),
            ("tinyint", "int8"),
            ("uint", "uint64"),
            ("double", "float64"),
            ("float", "float64"),
            ("real", "float32"),
            ("half", "float16"),
            ("boolean", "bool"),
            ("bytes", "binary"),
            ("blob", "binary"),
            ("bytea", "binary"),
            ("varbinary", "binary"),
            ("guid", "uuid"),
            ("date32", "date"),
            ("date64", "date"),
            ("datetime", "timestamp"),
            ("timestamptz", "timestamp"),
            ("timestamp[s]", "timestamp"),
            ("timestamp[ms]", "timestamp"),
            ("timestamp[us]", "timestamp"),
            ("timestamp[ns]", "timestamp"),
            ("int96", "timestamp"),
        ];
        let Kind::Scalar(text) = &node.kind else {
            return word(node, problems, "a column type", &ColumnType::NAMES, &OTHERS);
        };
        let found = ColumnType::parse(text);
        if found.is_some() {
            return found;
        }
        let lower = text.to_lowercase();
        let hint = match lower.split(['(', '[', '<']).next().unwrap_or_default().trim() {
            "decimal" | "numeric" | "number" | "decimal128" | "decimal256" => {
                if lower.contains('(') && !lower.contains(')') {
                    "between `{` and `}` it wants quotes: `\"decimal(18, 2)\"`".to_owned()
                } else {
                    let most = MAX_DECIMAL_DIGITS;
                    format!("write its digits in all, at most {most}, and those behind the point: `decimal(18, 2)`")
                }
            }
            "time" | "time32" | "time64" | "duration" | "interval" => {
                "a time of day or a span of time is no column of a table here: write it as a `timestamp`, or as a number of \
                 seconds"
                    .to_owned()
            }
            "list" | "array" | "struct" | "map" => {
                "a column holds one value: the field of a struct is declared as `{type: utf8, from: address.city}`"
                    .to_owned()
            }
            _ => return word(node, problems, "a column type", &ColumnType::NAMES, &OTHERS),
        };
        problems.add(node.pos, format!("`{text}` is not a column type"), hint);
        None
    }
}

impl Serialize for ColumnType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl JsonSchema for ColumnType {
    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "The type of a column.", "anyOf": [words(&ColumnType::NAMES),
            {"type": "string", "pattern": r"^(decimal\([0-9]+(, ?[0-9]+)?\)|.*\$\{.*)$", "examples": ["decimal(18, 2)"]}]})
    }
}
