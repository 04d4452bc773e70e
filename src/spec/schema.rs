//! The JSON Schema of job files for editors, and the page that tells people the same.

use schemars::transform::{Transform, transform_subschemas};
use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::raw::RawJobSpec;

/// The JSON Schema (draft 7, which every YAML language server knows) of a job file.
pub fn json_schema() -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawJobSpec>();
    Strict.transform(&mut schema);
    schema.insert("title".to_owned(), Value::from("Tenure job"));
    schema.to_value()
}

/// No unknown keys and no `null`: a key that has no value is left out. `${…}` may stand for a number.
struct Strict;

impl Transform for Strict {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        without_null(object);
        object.remove("format");
        if object.contains_key("properties") {
            object.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.replace('\n', " ");
        }
        let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "integer" | "number" | "boolean") && !object.contains_key("const") {
            object.insert("type".to_owned(), Value::from(vec![kind, "string"]));
            object.insert("pattern".to_owned(), Value::from(r"\$\{.*\}"));
        }
    }
}

/// Takes out the `null` that stands for an absent key.
fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
    if let [only] = choices.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        match only.get("anyOf").cloned() {
            Some(inner) => object.insert("anyOf".to_owned(), inner),
            // Draft 7 ignores what stands beside `$ref`; `allOf` keeps the description of the key.
            None => object.insert("allOf".to_owned(), Value::from(vec![only])),
        };
    }
}

/// Every key of a job file with its meaning, as Markdown: the schema, to be read.
pub fn reference() -> String {
    let schema = json_schema();
    let mut page = String::from(
        "# The job file\n\nEvery key of a job file. This page is made from the code; `tenure schema` prints the same as \
         a JSON Schema for editors.\nAny value may hold `${NAME}` or `${NAME:-default}` (an environment variable); `$${` \
         stands for a plain `${`.\n",
    );
    section(&mut page, "The job", &schema);
    let mut definitions: Vec<_> = schema["definitions"].as_object().into_iter().flatten().collect();
    definitions.sort_by_key(|(name, _)| name.as_str());
    for (name, definition) in definitions {
        match name.as_str() {
            "ColumnType" => page.push_str(&format!("\n## {name}\n\n{}", include_str!("column_types.md"))),
            _ => section(&mut page, name, definition),
        }
    }
    page
}

fn section(page: &mut String, title: &str, schema: &Value) {
    page.push_str(&format!("\n## {title}\n\n"));
    if let Some(text) = schema["description"].as_str() {
        page.push_str(&format!("{text}\n\n"));
    }
    page.push_str("| key | value | meaning |\n| --- | --- | --- |\n");
    let required = schema["required"].as_array();
    let optional = |key: &str| !required.is_some_and(|names| names.iter().any(|name| name == key));
    let mut keys: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    keys.sort_by_key(|(key, _)| (optional(key), key.as_str()));
    for (key, property) in keys {
        let mark = if optional(key) { "" } else { " (required)" };
        let mut meaning = property["description"].as_str().unwrap_or_default().replace('|', "\\|");
        if let Some(default) = property.get("default").filter(|_| !meaning.contains("Default:")) {
            let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
            meaning.push_str(&format!(" Default: `{default}`."));
        }
        page.push_str(&format!("| `{key}`{mark} | {} | {meaning} |\n", kind_of(property)));
    }
}

/// What kind of value a schema allows, in words.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.first().map(kind_of).unwrap_or_default();
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let types = &schema["type"];
    match types.as_str().or_else(|| types[0].as_str()).unwrap_or_default() {
        "array" => format!("list of {}", kind_of(&schema["items"])),
        "object" => format!("map to {}", kind_of(&schema["additionalProperties"])),
        "string" if types.is_array() => "text, number or bool".to_owned(),
        "string" => match schema["examples"][0].as_str() {
            Some(example) => format!("text such as `{example}`"),
            None => "text".to_owned(),
        },
        "integer" => "whole number".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        other => other.to_owned(),
    }
}
