//! A patch: a YAML file with some of a job's keys, laid over the job file before it is read.

use super::node::{Key, Kind, Node, Source};

/// Lays `patch` over `base`: maps key by key, where nothing (`~`) takes a key out, lists of things that have a `name` by that
/// name, anything else as a whole.
pub(super) fn merge(base: &mut Node, patch: Node) {
    match (&mut base.kind, patch.kind) {
        (Kind::Map(entries), Kind::Map(over)) => {
            for (key, value) in over {
                if let Kind::Null = value.kind {
                    entries.retain(|(known, _)| known.name != key.name);
                    continue;
                }
                match entries.iter_mut().find(|(known, _)| known.name == key.name) {
                    Some((_, known)) => merge(known, value),
                    None => entries.push((key, without_nothing(value))),
                }
            }
        }
        (Kind::List(items), Kind::List(over)) if named(items) && named(&over) => {
            for value in over {
                match items.iter_mut().find(|item| name(item) == name(&value)) {
                    Some(item) => merge(item, value),
                    None => items.push(value),
                }
            }
        }
        (_, kind) => *base = without_nothing(Node { kind, pos: patch.pos }),
    }
}

/// A map that is new in the base has no keys that could be taken out.
fn without_nothing(mut node: Node) -> Node {
    if let Kind::Map(entries) = &mut node.kind {
        let over = Node { kind: Kind::Map(std::mem::take(entries)), pos: node.pos };
        merge(&mut node, over);
    }
    node
}

/// Marks every place below as one of the patch.
pub(super) fn mark(node: &mut Node) {
    node.pos = node.pos.in_patch();
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(mark),
        Kind::Map(entries) => entries.iter_mut().for_each(|(Key { pos, .. }, value)| {
            pos.source = Source::Patch;
            mark(value);
        }),
        _ => {}
    }
}

fn named(items: &[Node]) -> bool {
    items.iter().all(|item| name(item).is_some())
}

/// What stands under the key `name` of a map.
fn name(node: &Node) -> Option<&str> {
    let Kind::Map(entries) = &node.kind else { return None };
    match &entries.iter().find(|(key, _)| key.name == "name")?.1.kind {
        Kind::Scalar(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::node::parse;
    use crate::spec::problems::Problems;

    fn tree(text: &str) -> Node {
        parse(text, "", &mut Problems::of("job.yaml")).unwrap()
    }

    /// The tree in YAML's flow style, with `!` before what comes from the patch.
    fn text(node: &Node) -> String {
        let mark = if node.pos.source == Source::Patch { "!" } else { "" };
        let list = |parts: Vec<String>| parts.join(", ");
        match &node.kind {
            Kind::Scalar(text) => format!("{mark}{text}"),
            Kind::List(items) => format!("{mark}[{}]", list(items.iter().map(text).collect())),
            Kind::Map(entries) => {
                let entry = |(key, value): &(Key, Node)| format!("{}: {}", key.name, text(value));
                format!("{mark}{{{}}}", list(entries.iter().map(entry).collect()))
            }
            _ => format!("{mark}-"),
        }
    }

    fn merged(base: &str, patch: &str) -> String {
        let (mut base, mut patch) = (tree(base), tree(patch));
        mark(&mut patch);
        merge(&mut base, patch);
        text(&base)
    }

    #[test]
    fn maps_are_merged_key_by_key_and_other_values_replaced() {
        assert_eq!(
            merged("{a: {b: 1, c: 2}, d: [1, 2], e: x}", "{a: {c: 3, f: 4}, d: [5]}"),
            "{a: {b: 1, c: !3, f: !4}, d: ![!5], e: x}"
        );
        assert_eq!(merged("{a: 1}", "{a: {b: 2}}"), "{a: !{b: !2}}");
    }

    #[test]
    fn lists_of_named_things_are_merged_by_name() {
        assert_eq!(
            merged("{h: [{name: a, w: 1}, {name: b}]}", "{h: [{name: b, w: 2}, {name: c}]}"),
            "{h: [{name: a, w: 1}, {name: !b, w: !2}, !{name: !c}]}"
        );
        assert_eq!(merged("{h: [{name: a}]}", "{h: [{other: a}]}"), "{h: ![!{other: !a}]}");
    }

    #[test]
    fn an_empty_map_changes_nothing() {
        assert_eq!(merged("{a: 1}", "{}"), "{a: 1}");
    }

    #[test]
    fn nothing_takes_a_key_out() {
        assert_eq!(merged("{a: {b: 1, c: 2}}", "{a: {c: ~, d: ~}}"), "{a: {b: 1}}");
        assert_eq!(merged("{a: {b: 1}}", "{e: {k: none, w: ~}}"), "{a: {b: 1}, e: !{k: !none}}");
    }
}
