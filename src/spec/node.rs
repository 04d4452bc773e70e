//! A YAML file as a tree in which every value knows its place.
//!
//! Scalars stay the text that was written: what they mean is said by the key they stand under, so `no`, `1` or `1e3`
//! are never guessed at. Anchors and aliases are resolved; tags, merge keys and a second document are refused. The
//! number of nodes (after aliases), the depth and the size of the file are limited, so no file can eat the memory.

use std::collections::HashMap;

use serde_yaml::granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, options};

use super::problems::Problems;

/// The longest job file, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The most values of a file, aliases counted with all that they stand for.
const MAX_NODES: usize = 20_000;
/// The deepest nesting.
const MAX_DEPTH: usize = 32;

/// How the name of a key begins that could not be read: no other key is spelled so.
pub(super) const UNREADABLE: char = '\u{0}';

/// A position: line and column, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pos {
    /// Which of the files that make up a job.
    pub source: Source,
    pub line: usize,
    pub column: usize,
}

/// The files that make up a job, in the order in which their problems are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The job file.
    Job,
    /// The file that changes some of its keys.
    Patch,
}

impl Pos {
    /// Where a job file begins.
    pub const START: Pos = Pos { source: Source::Job, line: 1, column: 1 };

    /// The same line and column of the patch.
    pub fn in_patch(self) -> Self {
        Pos { source: Source::Patch, ..self }
    }
}

impl From<&Marker> for Pos {
    fn from(marker: &Marker) -> Self {
        Pos { source: Source::Job, line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub pos: Pos,
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Nothing after the colon, `null` or `~`.
    Null,
    /// Any scalar, as text.
    Scalar(String),
    /// `[a, b]` or lines with `-`.
    List(Vec<Node>),
    /// `{key: value}` or indented lines; keys are unique and in the order of the file.
    Map(Vec<(Key, Node)>),
    /// Something whose problem has been told already.
    Broken,
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub pos: Pos,
    pub name: String,
}

impl Node {
    /// What it is, for messages.
    pub fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Scalar(_) => "a value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
            Kind::Broken => "something unreadable",
        }
    }
}

/// Reads the one document of `text`; `None` when nothing can be read from it at all. `start` is the hint for an empty one.
pub(super) fn parse(text: &str, start: &str, problems: &mut Problems) -> Option<Node> {
    let options = options! {
        emit_comments: false,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => tree.take(event, span, problems),
            Err(error) => Err(syntax_problem(&error, text)),
        };
        if let Err(stop) = step {
            problems.add(stop.pos, stop.message, stop.hint);
            return None;
        }
    }
    if tree.root.is_none() {
        problems.add(Pos::START, "the file is empty", start);
    }
    tree.root
}

/// A problem after which the rest of the file cannot be read.
struct Stop {
    pos: Pos,
    message: String,
    hint: String,
}

impl Stop {
    fn new(pos: Pos, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Stop { pos, message: message.into(), hint: hint.into() }
    }
}

/// A finished node with its size in nodes and its depth.
#[derive(Clone)]
struct Measured {
    node: Node,
    nodes: usize,
    depth: usize,
}

/// A list or map that is still open.
struct Open {
    pos: Pos,
    anchor: usize,
    nodes: usize,
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    anchors: HashMap<usize, Measured>,
    nodes: usize,
    root: Option<Node>,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, span: Span, problems: &mut Problems) -> Result<(), Stop> {
        let pos = Pos::from(&span.start);
        if let Some(tag) = event.tag() {
            let message = format!("the tag `{}` is not known", tag.original());
            let pos = span.tag_start().map_or(pos, |start| Pos::from(&start));
            problems.add(pos, message, "leave it out: each key knows the type of its value");
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let empty = style == ScalarStyle::Plain && matches!(text.as_ref(), "" | "~" | "null");
                let kind = if empty { Kind::Null } else { Kind::Scalar(text.into_owned()) };
                self.close(pos, Measured { node: Node { pos, kind }, nodes: 1, depth: 1 }, anchor, problems)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(pos, anchor, Content::List(Vec::new()));
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.begin(pos, anchor, Content::Map { entries: Vec::new(), key: None });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                None => Ok(()),
                Some(open) => {
                    let kind = match open.content {
                        Content::List(items) => Kind::List(items),
                        Content::Map { entries, .. } => Kind::Map(entries),
                    };
                    let node = Node { pos: open.pos, kind };
                    let done = Measured { node, nodes: open.nodes, depth: open.depth };
                    self.close(open.pos, done, open.anchor, problems)
                }
            },
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => self.close(pos, node, 0, problems),
                None => Err(Stop::new(pos, "an alias stands inside its own anchor", "write the value out")),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err(Stop::new(
                pos,
                "a second YAML document begins here",
                "a job file holds one document: remove the `---` or make two files",
            )),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, pos: Pos, anchor: usize, content: Content) {
        self.open.push(Open { pos, anchor, nodes: 1, depth: 1, content });
    }

    /// Puts a finished node where it belongs: under the last key, into the open list, or at the root.
    fn close(&mut self, pos: Pos, done: Measured, anchor: usize, problems: &mut Problems) -> Result<(), Stop> {
        self.nodes += done.nodes;
        let hint = "an alias counts with all that it stands for: write fewer of them";
        if self.nodes > MAX_NODES {
            return Err(Stop::new(pos, format!("the file holds more than {MAX_NODES} values"), hint));
        }
        if done.depth + self.open.len() > MAX_DEPTH {
            return Err(Stop::new(pos, format!("the file is nested deeper than {MAX_DEPTH} levels"), hint));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, done.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(done.node);
            return Ok(());
        };
        open.nodes += done.nodes;
        open.depth = open.depth.max(done.depth + 1);
        match &mut open.content {
            Content::List(items) => items.push(done.node),
            Content::Map { entries, key } => match key.take() {
                None => *key = Some(as_key(done.node, problems)),
                Some(key) => match entries.iter().find(|(earlier, _)| earlier.name == key.name) {
                    None => entries.push((key, done.node)),
                    Some((earlier, _)) => problems.add(
                        key.pos,
                        format!("the key `{}` stands here twice", key.name),
                        format!("the first one is in line {}: remove one of them", earlier.pos.line),
                    ),
                },
            },
        }
        Ok(())
    }
}

fn as_key(node: Node, problems: &mut Problems) -> Key {
    let name = match node.kind {
        Kind::Scalar(name) => {
            if name == "<<" {
                problems.add(node.pos, "the merge key `<<` is not known", "write the keys out");
            }
            name
        }
        kind => {
            let node = Node { pos: node.pos, kind };
            problems.add(node.pos, format!("a key cannot be {}", node.what()), "write `key: value`");
            format!("{UNREADABLE}{}:{}", node.pos.line, node.pos.column)
        }
    };
    Key { pos: node.pos, name }
}

/// A syntax error with a hint for the mistakes that are made every day.
fn syntax_problem(error: &ScanError, text: &str) -> Stop {
    let pos = Pos::from(error.marker());
    let line = text.lines().nth(pos.line.saturating_sub(1)).unwrap_or_default();
    let inside_flow = line.contains(['{', '[']);
    let hint = match error.kind() {
        _ if inside_flow && line.contains("${") => {
            "inside `{…}` or `[…]` a value with `${…}` needs quotes: `\"${NAME}\"`"
        }
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            "indent with spaces, YAML refuses tabs"
        }
        ErrorKind::UnclosedQuotedScalar => {
            "close it; a text that begins with a quote of its own is put in the other kind of quotes"
        }
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::MisplacedFlowCollectionEnd
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator => {
            "every `{` needs its `}` and every `[` its `]`, with commas between the parts"
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            "a value that contains `: ` needs quotes; otherwise look at the indentation"
        }
        ErrorKind::UnknownAnchor => {
            "an alias `*name` needs an anchor `&name` before it; a value beginning with `*` needs quotes"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "a key is followed by a colon and a space: `key: value`"
        }
        ErrorKind::UnexpectedCharacter { .. } => "a value that begins with a special character needs quotes",
        ErrorKind::DirectiveDisallowed => "remove the line that begins with `%`",
        ErrorKind::RecursionLimitExceeded => "a job file is never nested that deep",
        _ => "look at the indentation, the colons and the quotes of this line and the one before it",
    };
    Stop::new(pos, format!("this is not YAML: {}", error.kind()), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, Vec<String>> {
        let mut problems = Problems::of("job.yaml");
        let node = parse(text, "write something", &mut problems);
        let problems: Vec<String> = problems.into_sorted().iter().map(ToString::to_string).collect();
        if problems.is_empty() { node.ok_or_else(Vec::new) } else { Err(problems) }
    }

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Node {
        match &node.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(_, value)| value).unwrap(),
            _ => panic!("not a map"),
        }
    }

    fn at(node: &Node) -> (usize, usize) {
        (node.pos.line, node.pos.column)
    }

    #[test]
    fn every_value_knows_its_place() {
        let root = tree("a: 1\nb:\n  - {c: \"é\", d: x}\n  - y\n").unwrap();
        assert_eq!(at(entry(&root, "a")), (1, 4));
        let Kind::List(items) = &entry(&root, "b").kind else { panic!("not a list") };
        assert_eq!((at(&items[0]), at(&items[1])), ((3, 5), (4, 5)));
        assert_eq!(at(entry(&items[0], "d")), (3, 17));
    }

    #[test]
    fn scalars_stay_the_text_that_was_written() {
        let root = tree("a: no\nb: 0x10\nc: '~'\nd: ~\ne:\n").unwrap();
        assert!(matches!(&entry(&root, "a").kind, Kind::Scalar(text) if text == "no"));
        assert!(matches!(&entry(&root, "b").kind, Kind::Scalar(text) if text == "0x10"));
        assert!(matches!(&entry(&root, "c").kind, Kind::Scalar(text) if text == "~"));
        assert!(matches!(entry(&root, "d").kind, Kind::Null));
        assert!(matches!(entry(&root, "e").kind, Kind::Null));
    }

    #[test]
    fn an_alias_stands_for_its_anchor() {
        let root = tree("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(at(entry(entry(&root, "b"), "k")), (1, 11));
        assert_eq!(tree("a: &x [*x]\n").unwrap_err(), ["job.yaml:1:8: an alias stands inside its own anchor"]);
    }

    #[test]
    fn a_key_stands_once() {
        assert_eq!(tree("a: 1\nb: 2\na: 3\n").unwrap_err(), ["job.yaml:3:1: the key `a` stands here twice"]);
        assert_eq!(tree("{[a]: 1, [a]: 2}").unwrap_err().len(), 2);
    }

    #[test]
    fn small_files_that_mean_large_ones_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let list = vec![format!("*a{}", n - 1); 8].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        assert!(tree(&text).unwrap_err()[0].contains("more than 20000 values"));
        assert!(tree(&format!("{}{}", "[".repeat(40), "]".repeat(40))).is_err());
        let mut text = String::from("a0: &a0 [x]\n");
        for n in 1..60 {
            text.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
        }
        assert!(tree(&text).unwrap_err()[0].contains("nested deeper"));
    }
}
