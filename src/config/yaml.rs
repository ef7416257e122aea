//! YAML text in, a tree with places out. Nothing is interpreted beyond YAML 1.2 itself: scalars keep their text, and
//! what is no configuration (tags, merge keys, several documents, anchors without end) is recorded as a problem.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Raw, Tag};

use super::traps;
use crate::limits;

/// Which file a place is in: an index into the load's files.
pub type FileId = usize;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// 1-based line where it begins.
    pub line: usize,
    /// 1-based column where it begins, in characters.
    pub column: usize,
    /// Line where it ends.
    pub end_line: usize,
    /// Column behind its end.
    pub end_column: usize,
}

impl Span {
    fn new(file: FileId, raw: Raw) -> Self {
        Self {
            file,
            line: raw.start.line(),
            column: raw.start.col() + 1,
            end_line: raw.end.line(),
            end_column: raw.end.col() + 1,
        }
    }

    /// One character at a place.
    #[must_use]
    pub fn at(file: FileId, line: usize, column: usize) -> Self {
        Self { file, line, column, end_line: line, end_column: column + 1 }
    }
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: may be null, a boolean or a number.
    Plain,
    /// In quotes: text.
    Quoted,
    /// `|` or `>`: text.
    Block,
}

/// A scalar's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text, after interpolation.
    pub text: String,
    /// How it was written.
    pub style: Style,
    /// Whether any of it came from `${…}`; it is then never shown.
    pub interpolated: bool,
    /// What of it came from there, as bytes of `text`.
    pub variables: Vec<std::ops::Range<usize>>,
}

/// What a plain scalar means under the core schema of YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// An integer.
    Integer,
    /// A number with a point, an exponent, or infinite.
    Float,
    /// Anything else.
    Text,
}

impl Scalar {
    /// What it means, by its style and text.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        if self.style != Style::Plain || self.interpolated {
            return Meaning::Text;
        }
        meaning_of(&self.text)
    }
}

/// What a plain text means under the core schema.
#[must_use]
pub fn meaning_of(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "true" | "True" | "TRUE" => return Meaning::Bool(true),
        "false" | "False" | "FALSE" => return Meaning::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Meaning::Integer;
    }
    let based = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    };
    if based("0x", 16) || based("0o", 8) {
        return Meaning::Integer;
    }
    let special = matches!(digits.to_ascii_lowercase().as_str(), ".inf" | ".nan");
    let begins = digits.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.');
    if special || (begins && digits.bytes().any(|b| b.is_ascii_digit()) && digits.parse::<f64>().is_ok()) {
        return Meaning::Float;
    }
    Meaning::Text
}

/// Stands for a text that could not be read: a problem was recorded, and its key is not checked further.
pub const UNREADABLE: &str = "\u{0}unreadable";

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A scalar.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in file order; keys are distinct.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Node {
    /// What an empty file holds.
    #[must_use]
    pub fn nothing(file: FileId) -> Self {
        let scalar = Scalar { text: String::new(), style: Style::Plain, interpolated: false, variables: Vec::new() };
        Self { span: Span::at(file, 1, 1), value: Value::Scalar(scalar) }
    }

    /// Whether it is null or nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.meaning() == Meaning::Null)
    }

    /// The place of character `column` of line `line` (both 1-based) of a scalar's text, as near as its style lets one
    /// tell: quotes, indentation and leading lines are taken into account, folding and escapes are not.
    #[must_use]
    pub fn place_within(&self, line: usize, column: usize) -> Span {
        let Value::Scalar(scalar) = &self.value else { return self.span };
        if scalar.interpolated || line == 0 {
            return self.span;
        }
        let column = column.max(1);
        match scalar.style {
            Style::Plain if line == 1 && self.span.line == self.span.end_line => {
                Span::at(self.span.file, self.span.line, self.span.column + column - 1)
            }
            Style::Quoted if line == 1 && self.span.line == self.span.end_line => {
                Span::at(self.span.file, self.span.line, self.span.column + column)
            }
            // A block's place is where its text begins, so its column is its indentation.
            Style::Block => Span::at(self.span.file, self.span.line + line - 1, self.span.column + column - 1),
            _ => self.span,
        }
    }

    /// A text that is the same for the same contents: what `file_hash` is made of where several webhooks share a file.
    pub fn canonical(&self, out: &mut String) {
        match &self.value {
            Value::Scalar(s) => {
                out.push(if s.meaning() == Meaning::Text { 't' } else { 'p' });
                out.push_str(&s.text.len().to_string());
                out.push(':');
                out.push_str(&s.text);
            }
            Value::List(items) => {
                out.push('[');
                for item in items {
                    item.canonical(out);
                }
                out.push(']');
            }
            Value::Map(entries) => {
                out.push('{');
                for (key, value) in entries {
                    out.push_str(&key.text.len().to_string());
                    out.push(':');
                    out.push_str(&key.text);
                    value.canonical(out);
                }
                out.push('}');
            }
        }
    }
}

/// A mistake in the YAML itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// What a text gave.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The tree; `None` where there is none, or none that could be read.
    pub root: Option<Node>,
    /// The mistakes.
    pub mistakes: Vec<Mistake>,
    /// Values that a mistake keeps out of the tree; nobody knows what they hold.
    pub dropped: Vec<Node>,
}

/// Reads one document. What could be read comes back beside the mistakes.
#[must_use]
pub fn parse(file: FileId, text: &str) -> Parsed {
    let mut builder = Builder { text, ..Builder::default() };
    let mut parser = Parser::new_from_str(text);
    while !builder.stopped {
        match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => builder.event(event, Span::new(file, span)),
            Some(Err(error)) => {
                let at = Span::at(file, error.marker().line().max(1), error.marker().col() + 1);
                builder.mistakes.push(traps::explain(text, at, error.info(), builder.open_line()));
                builder.root = None;
                break;
            }
        }
    }
    Parsed { root: builder.root, mistakes: builder.mistakes, dropped: builder.dropped }
}

/// A collection that is still open.
struct Open {
    node: Node,
    key: Option<Key>,
    /// Keys so far, with their lines.
    seen: HashMap<String, usize>,
    /// Whether a key of it was none.
    spoiled: bool,
    anchor: usize,
}

#[derive(Default)]
struct Builder<'t> {
    text: &'t str,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    /// Bytes of text that aliases repeat.
    expanded: usize,
    documents: usize,
    root: Option<Node>,
    mistakes: Vec<Mistake>,
    dropped: Vec<Node>,
    stopped: bool,
}

impl Builder<'_> {
    fn mistake(&mut self, span: Span, message: impl Into<String>, help: Option<&str>) {
        self.mistakes.push(Mistake { span, message: message.into(), help: help.map(str::to_owned) });
    }

    /// The line where the innermost open collection began.
    fn open_line(&self) -> Option<usize> {
        self.stack.last().map(|open| open.node.span.line)
    }

    fn event(&mut self, event: Event<'_>, span: Span) {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 2 {
                    let help = "a webhook a file goes into webhooks/NAME.yaml";
                    self.mistake(span, "a second YAML document begins here; one file holds one", Some(help));
                    self.stopped = true;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref(), &text, span);
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let scalar = if tag.is_some_and(|t| !t.is_yaml_core_schema()) {
                    // It means something else than it says, so nothing more is made of it.
                    Scalar { text: UNREADABLE.to_owned(), style, interpolated: true, variables: Vec::new() }
                } else {
                    Scalar { text: text.into_owned(), style, interpolated: false, variables: Vec::new() }
                };
                let mut node = Node { span, value: Value::Scalar(scalar) };
                if anchor > 0 && node.is_null() {
                    self.mistakes.push(traps::anchor(self.text, span));
                    let text = UNREADABLE.to_owned();
                    let nothing = Scalar { text, style: Style::Plain, interpolated: true, variables: Vec::new() };
                    node.value = Value::Scalar(nothing);
                }
                self.keep(anchor, &node);
                self.add(node);
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref(), "", span);
                self.open(Node { span, value: Value::List(Vec::new()) }, anchor);
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref(), "", span);
                self.open(Node { span, value: Value::Map(Vec::new()) }, anchor);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => {
                if let Some(mut node) = self.anchors.get(&id).cloned() {
                    self.nodes = self.nodes.saturating_add(size(&node));
                    self.expanded = self.expanded.saturating_add(text_bytes(&node));
                    node.span = span;
                    self.add(node);
                } else {
                    self.mistake(span, "this alias stands inside what it names, so it would have no end", None);
                    self.stopped = true;
                    self.root = None;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }

    fn tag(&mut self, tag: Option<&Tag>, text: &str, span: Span) {
        if let Some(tag) = tag {
            self.mistakes.push(traps::tag(self.text, span, tag, text));
        }
    }

    fn keep(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn open(&mut self, node: Node, anchor: usize) {
        if self.stack.len() >= limits::CONFIG_DEPTH {
            self.mistake(node.span, format!("nested deeper than {} levels", limits::CONFIG_DEPTH), None);
            self.stopped = true;
            self.root = None;
            self.stack.clear();
            return;
        }
        self.stack.push(Open { node, key: None, seen: HashMap::new(), spoiled: false, anchor });
    }

    fn close(&mut self, end: Span) {
        let Some(mut open) = self.stack.pop() else { return };
        if open.spoiled && matches!(&open.node.value, Value::Map(entries) if entries.is_empty()) {
            let scalar =
                Scalar { text: UNREADABLE.to_owned(), style: Style::Plain, interpolated: true, variables: Vec::new() };
            open.node.value = Value::Scalar(scalar);
        }
        open.node.span.end_line = end.end_line;
        open.node.span.end_column = end.end_column;
        self.keep(open.anchor, &open.node);
        self.add(open.node);
    }

    fn add(&mut self, node: Node) {
        self.nodes = self.nodes.saturating_add(1);
        let many = self.nodes > limits::CONFIG_NODES;
        if many || self.expanded > limits::CONFIG_EXPANDED_BYTES {
            let message = if many {
                format!("more than {} values, aliases counted each time", limits::CONFIG_NODES)
            } else {
                format!("aliases repeat more than {} MiB of text", limits::CONFIG_EXPANDED_BYTES / (1024 * 1024))
            };
            self.mistake(node.span, message, Some("write out fewer, or use `defaults` instead of aliases"));
            self.stopped = true;
            self.root = None;
            self.stack.clear();
            return;
        }
        let Some(mut open) = self.stack.pop() else {
            self.root = Some(node);
            return;
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(self.key(node)),
                Some(key) if key.span.file == usize::MAX => {
                    open.spoiled = true;
                    self.dropped.push(node);
                }
                Some(key) => self.entry(entries, &mut open.seen, key, node),
            },
            Value::Scalar(_) => {}
        }
        self.stack.push(open);
    }

    fn entry(&mut self, entries: &mut Vec<(Key, Node)>, seen: &mut HashMap<String, usize>, key: Key, node: Node) {
        match seen.get(&key.text) {
            None => {
                seen.insert(key.text.clone(), key.span.line);
                entries.push((key, node));
            }
            Some(line) => {
                let shown: String = key.text.chars().take(60).collect();
                // Without a value it may be one itself, whose colon or comma was forgotten.
                let shown = if node.is_null() { "a key without a value".to_owned() } else { format!("`{shown}`") };
                let alone = Scalar { text: key.text, style: Style::Plain, interpolated: false, variables: Vec::new() };
                self.dropped.push(if node.is_null() {
                    Node { span: key.span, value: Value::Scalar(alone) }
                } else {
                    node
                });
                let message = format!("{shown} is already there, on line {line}");
                self.mistake(key.span, message, Some("keep one of the two"));
            }
        }
    }

    /// A mapping's key; one that is no scalar gets a file that does not exist, so that its value is dropped.
    fn key(&mut self, node: Node) -> Key {
        match node.value {
            Value::Scalar(scalar) => {
                if scalar.text == "<<" && scalar.style == Style::Plain {
                    let help = "write the keys out, or put them under `defaults` in sidehook.yaml";
                    self.mistake(node.span, "merge keys (`<<`) are not YAML 1.2", Some(help));
                    return Key { text: scalar.text, span: Span { file: usize::MAX, ..node.span } };
                }
                Key { text: scalar.text, span: node.span }
            }
            Value::List(_) | Value::Map(_) => {
                self.mistakes.push(traps::compound_key(self.text, node.span));
                Key { text: String::new(), span: Span { file: usize::MAX, ..node.span } }
            }
        }
    }
}

/// Bytes of text in a tree.
fn text_bytes(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.len(),
        Value::List(items) => items.iter().map(text_bytes).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| key.text.len() + text_bytes(value)).sum(),
    }
}

/// Nodes in a tree.
fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|(_, value)| 1 + size(value)).sum(),
    }
}
