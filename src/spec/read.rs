//! From the tree of a YAML file to typed values, gathering every problem on the way.
//!
//! A struct lists its keys once, with [`read_keys!`]; what stands under a key is read by the type of its field. A value
//! that is wrong is told and then left out, so that the rest of the file is looked at too.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use super::nearest::{listed, nearest, nearest_name};
use super::node::{Key, Kind, Node, Pos, UNREADABLE};
use super::problems::Problems;

/// A type that a value of the file can be read as; `None` after the problem was told.
pub(super) trait FromNode: Sized {
    /// Reads it.
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self>;
}

/// A value and its place; the value is missing where it was wrong or absent, which was told.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub pos: Pos,
    /// Where its key stands; the same as `pos` in a list.
    pub key: Pos,
    pub value: Option<T>,
}

impl<T> At<T> {
    /// The value, unless it was wrong.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T: FromNode> At<T> {
    fn read(node: &Node, key: Pos, problems: &mut Problems) -> Self {
        let value = match node.kind {
            Kind::Broken => None,
            _ => T::from_node(node, problems),
        };
        At { pos: node.pos, key, value }
    }
}

/// A field of a struct: `At<T>` must be there, `Option<At<T>>` may be.
pub(super) trait FromKeys: Sized {
    /// Reads it from the keys that are there.
    fn from_keys(name: &'static str, keys: &Keys<'_>, problems: &mut Problems) -> Self;
}

impl<T: FromNode> FromKeys for Option<At<T>> {
    fn from_keys(name: &'static str, keys: &Keys<'_>, problems: &mut Problems) -> Self {
        let (key, node) = keys.find(name)?;
        if let Kind::Null = node.kind {
            problems.add(key.pos, format!("`{}` has no value", key.name), "give it one, or remove the key");
            return Some(At { pos: key.pos, key: key.pos, value: None });
        }
        Some(At::read(node, key.pos, problems))
    }
}

impl<T: FromNode> FromKeys for At<T> {
    fn from_keys(name: &'static str, keys: &Keys<'_>, problems: &mut Problems) -> Self {
        Option::<At<T>>::from_keys(name, keys, problems).unwrap_or_else(|| {
            let message = format!("the key `{name}` is missing in {}", keys.of);
            problems.require(keys.unreadable, keys.pos, message, format!("add `{name}: …`"));
            At { pos: keys.pos, key: keys.pos, value: None }
        })
    }
}

/// The keys of a map, the unknown ones told.
pub(super) struct Keys<'a> {
    of: &'static str,
    pos: Pos,
    /// Whether there are keys that could not be read: the missing ones may be among them.
    unreadable: bool,
    found: Vec<(&'static str, &'a Key, &'a Node)>,
}

impl<'a> Keys<'a> {
    /// Opens a map that knows these keys. A misspelt key is told once and then read as the key it was meant to be.
    pub fn open(node: &'a Node, of: &'static str, known: &[&'static str], problems: &mut Problems) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            let hint = format!("its keys are {}", listed(known.iter().copied(), "and"));
            expected(node, problems, &format!("the keys of {of}"), &hint);
            return None;
        };
        let mut keys = Keys { of, pos: node.pos, unreadable: false, found: Vec::new() };
        let mut unknown = Vec::new();
        for (key, value) in entries {
            match known.iter().find(|name| **name == key.name) {
                Some(name) => keys.found.push((name, key, value)),
                None => unknown.push((key, value)),
            }
        }
        for (key, value) in unknown {
            if key.name.starts_with(UNREADABLE) || key.name == "<<" {
                keys.unreadable = true;
                continue;
            }
            let hint = nearest(&key.name, known.iter().copied())
                .unwrap_or_else(|| format!("its keys are {}", listed(known.iter().copied(), "and")));
            problems.add(key.pos, format!("unknown key `{}` in {of}", key.name), hint);
            let absent = known.iter().copied().filter(|name| keys.find(name).is_none()).collect::<Vec<_>>();
            if let Some(meant) = nearest_name(&key.name, absent) {
                let meant = known.iter().copied().find(|name| *name == meant).unwrap_or_default();
                keys.found.push((meant, key, value));
            }
        }
        Some(keys)
    }

    /// Reads the field of this name.
    pub fn take<T: FromKeys>(&self, name: &'static str, problems: &mut Problems) -> T {
        T::from_keys(name, self, problems)
    }

    fn find(&self, name: &str) -> Option<(&'a Key, &'a Node)> {
        self.found.iter().find(|(found, ..)| *found == name).map(|(_, key, node)| (*key, *node))
    }
}

/// Says which keys a struct has (all of its fields) and what it is called in messages.
macro_rules! read_keys {
    ($raw:ty, $of:literal: $($key:ident),+ $(,)?) => {
        impl $crate::spec::read::FromNode for $raw {
            fn from_node(node: &$crate::spec::node::Node, problems: &mut $crate::spec::problems::Problems) -> Option<Self> {
                let keys = $crate::spec::read::Keys::open(node, $of, &[$(stringify!($key)),+], problems)?;
                Some(Self { $($key: keys.take(stringify!($key), problems)),+ })
            }
        }
    };
}
pub(super) use read_keys;

/// Tells that a value is of the wrong kind.
fn expected(node: &Node, problems: &mut Problems, wanted: &str, hint: &str) {
    let found = match &node.kind {
        Kind::Scalar(text) => format!("`{}`", shortened(text)),
        _ => node.what().to_owned(),
    };
    problems.add(node.pos, format!("expected {wanted}, found {found}"), hint);
}

/// The text, cut where it would fill the screen.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Reads a scalar with `parse`, or tells that `wanted` was expected.
pub(super) fn scalar<T>(
    node: &Node,
    problems: &mut Problems,
    wanted: &str,
    hint: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let value = match &node.kind {
        Kind::Scalar(text) => parse(text),
        _ => None,
    };
    if value.is_none() {
        expected(node, problems, wanted, hint);
    }
    value
}

/// Reads one of several words; `others` are words of other tools with the right one.
pub(super) fn word<T: Copy>(
    node: &Node,
    problems: &mut Problems,
    what: &str,
    known: &[(&'static str, T)],
    others: &[(&str, &str)],
) -> Option<T> {
    let names = || known.iter().map(|(name, _)| *name);
    let Kind::Scalar(text) = &node.kind else {
        expected(node, problems, what, &format!("write {}", listed(names(), "or")));
        return None;
    };
    let found = known.iter().find(|(name, _)| name == text).map(|(_, value)| *value);
    if found.is_none() {
        let other = others.iter().find(|(other, _)| other.eq_ignore_ascii_case(text));
        let hint = other
            .map(|(_, right)| format!("here it is called `{right}`"))
            .or_else(|| nearest(text, names()))
            .unwrap_or_else(|| format!("write {}", listed(names(), "or")));
        problems.add(node.pos, format!("`{}` is not {what}", shortened(text)), hint);
    }
    found
}

impl FromNode for String {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        scalar(node, problems, "some text", "give it a value", |text| {
            (!text.trim().is_empty()).then(|| text.to_owned())
        })
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        scalar(node, problems, "`true` or `false`", "write `true` or `false`", |text| text.parse().ok())
    }
}

impl FromNode for u64 {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        scalar(node, problems, "a whole number", "write digits alone, such as `12`", |text| {
            text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        })
    }
}

impl FromNode for f64 {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        scalar(node, problems, "a number", "write it as `0.5`, `3` or `1e-3`", |text| {
            text.parse().ok().filter(|number: &f64| number.is_finite())
        })
    }
}

impl<T: FromNode> FromNode for Vec<At<T>> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.kind {
            Kind::List(items) => Some(items.iter().map(|item| At::read(item, item.pos, problems)).collect()),
            Kind::Scalar(text) => {
                expected(node, problems, "a list", &format!("write `[{}]`", shortened(text)));
                None
            }
            _ => {
                expected(node, problems, "a list", "write `[a, b]`, or one line with `- ` for each part");
                None
            }
        }
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct OneOrMany<T>(pub Vec<At<T>>);

impl<T: FromNode> FromNode for OneOrMany<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.kind {
            Kind::List(_) => Vec::from_node(node, problems).map(OneOrMany),
            _ => Some(OneOrMany(vec![At::read(node, node.pos, problems)])),
        }
    }
}

/// A map whose keys are names of the user's, in the order of the file.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Keyed<T>(pub Vec<(Key, At<T>)>);

impl<T: FromNode> FromNode for Keyed<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            expected(node, problems, "a map", "write `{name: value}`, or one line `name: value` for each part");
            return None;
        };
        let entries = entries.iter().filter(|(key, _)| !key.name.starts_with(UNREADABLE));
        Some(Keyed(entries.map(|(key, value)| (key.clone(), At::read(value, key.pos, problems))).collect()))
    }
}

// What follows is for the hash of a job (values alone, without places) and for its JSON Schema.

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

impl<T: JsonSchema> JsonSchema for Keyed<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Keyed{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        schemars::json_schema!({"type": "object", "additionalProperties": value})
    }
}
