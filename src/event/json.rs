//! JSON documents that are read in place.
//!
//! A [`Doc`] keeps the bytes as they came and an index of where every value stands, made in one pass. Reading a
//! field is a walk over that index; writing a value out again copies its bytes, so digits, key order and escapes
//! leave as they arrived. [`Json`] is a value: a place in a document, or something composed of such places.
//! This module knows nothing of events.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiter::{Jiter, Peek};

use crate::limits;

/// Why bytes are not a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong, for a person.
    pub message: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column.
    pub column: usize,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number, its digits as they came.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// One value, or one object key (always directly before its value).
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// First byte, opening quote or bracket included.
    start: u32,
    /// One past the last byte.
    end: u32,
    /// Index of the first entry after this value and everything in it.
    next: u32,
    /// Elements of an array, members of an object.
    count: u32,
    kind: Kind,
    /// A string or key that holds a backslash and must be decoded to be read.
    escaped: bool,
}

/// A JSON text with an index of its values. Entry 0 is the whole document.
#[derive(Debug)]
pub struct Doc {
    bytes: Bytes,
    entries: Vec<Entry>,
}

impl Doc {
    /// Reads one JSON text. Depth is bounded by [`limits::JSON_DEPTH`].
    pub fn parse(bytes: Bytes) -> Result<Arc<Self>, JsonError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError { message: "larger than 4 GiB".into(), line: 1, column: 1 });
        }
        if let Err(error) = std::str::from_utf8(&bytes) {
            return Err(position(&bytes, error.valid_up_to(), "not valid UTF-8"));
        }
        let entries = {
            let mut reader = Indexer {
                data: &bytes,
                jiter: Jiter::new(&bytes),
                entries: Vec::with_capacity((bytes.len() / 12).clamp(16, 4096)),
            };
            let first = reader.peek()?;
            reader.value(first, 0)?;
            let end = reader.jiter.finish();
            end.map_err(|e| reader.error(&e))?;
            reader.entries
        };
        Ok(Arc::new(Self { bytes, entries }))
    }

    /// The whole document as a value.
    #[must_use]
    pub fn root(self: &Arc<Self>) -> Json {
        Json::Node(Node { doc: Arc::clone(self), at: 0 })
    }

    /// The bytes as they came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

struct Indexer<'a> {
    data: &'a [u8],
    jiter: Jiter<'a>,
    entries: Vec<Entry>,
}

impl Indexer<'_> {
    fn error(&self, error: &jiter::JiterError) -> JsonError {
        let text = error.error_type.to_string();
        position(self.data, error.index, &text)
    }

    fn peek(&mut self) -> Result<Peek, JsonError> {
        self.jiter.peek().map_err(|e| self.error(&e))
    }

    fn push(&mut self, kind: Kind, start: usize) -> usize {
        let at = self.entries.len();
        self.entries.push(Entry { start: to_u32(start), end: 0, next: 0, count: 0, kind, escaped: false });
        at
    }

    fn close(&mut self, at: usize, end: usize, count: u32) {
        let next = to_u32(self.entries.len());
        let entry = &mut self.entries[at];
        entry.end = to_u32(end);
        entry.next = next;
        entry.count = count;
    }

    fn value(&mut self, peek: Peek, depth: usize) -> Result<(), JsonError> {
        let start = self.jiter.current_index();
        if depth > limits::JSON_DEPTH {
            return Err(position(self.data, start, &format!("nested deeper than {} levels", limits::JSON_DEPTH)));
        }
        let base = self.data.as_ptr() as usize;
        match peek {
            Peek::Null => {
                let at = self.push(Kind::Null, start);
                self.jiter.known_null().map_err(|e| self.error(&e))?;
                self.close(at, self.jiter.current_index(), 0);
            }
            Peek::True | Peek::False => {
                let at = self.push(Kind::Bool, start);
                self.jiter.known_bool(peek).map_err(|e| self.error(&e))?;
                self.close(at, self.jiter.current_index(), 0);
            }
            Peek::String => {
                let at = self.push(Kind::String, start);
                let escaped = match self.jiter.known_bytes() {
                    Ok(bytes) => has_backslash(bytes),
                    Err(e) => return Err(self.error(&e)),
                };
                self.entries[at].escaped = escaped;
                self.close(at, self.jiter.current_index(), 0);
            }
            Peek::Array => {
                let at = self.push(Kind::Array, start);
                let mut count = 0;
                let mut item = self.jiter.known_array().map_err(|e| self.error(&e))?;
                while let Some(peek) = item {
                    self.value(peek, depth + 1)?;
                    count += 1;
                    item = self.jiter.array_step().map_err(|e| self.error(&e))?;
                }
                self.close(at, self.jiter.current_index(), count);
            }
            Peek::Object => {
                let at = self.push(Kind::Object, start);
                let mut count = 0;
                let mut first = true;
                loop {
                    let key = if first { self.jiter.next_object_bytes() } else { self.jiter.next_key_bytes() };
                    first = false;
                    let (start, end, escaped) = match key {
                        Ok(Some(key)) => {
                            let start = key.as_ptr() as usize - base;
                            (start - 1, start + key.len() + 1, has_backslash(key))
                        }
                        Ok(None) => break,
                        Err(e) => return Err(self.error(&e)),
                    };
                    let key = self.push(Kind::String, start);
                    self.entries[key].escaped = escaped;
                    self.close(key, end, 0);
                    let peek = self.peek()?;
                    self.value(peek, depth + 1)?;
                    count += 1;
                }
                self.close(at, self.jiter.current_index(), count);
            }
            other => {
                let at = self.push(Kind::Number, start);
                if let Err(e) = self.jiter.known_number_bytes(other) {
                    return Err(self.error(&e));
                }
                self.close(at, self.jiter.current_index(), 0);
            }
        }
        Ok(())
    }
}

fn has_backslash(bytes: &[u8]) -> bool {
    bytes.contains(&b'\\')
}

/// Lengths were checked against `u32` before indexing began.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn position(data: &[u8], index: usize, message: &str) -> JsonError {
    let before = &data[..index.min(data.len())];
    let line = before.split(|b| *b == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
    JsonError { message: message.to_owned(), line, column }
}

/// A place in a [`Doc`].
#[derive(Clone)]
pub struct Node {
    doc: Arc<Doc>,
    at: u32,
}

impl Node {
    fn entry(&self) -> &Entry {
        &self.doc.entries[self.at as usize]
    }

    fn sibling(&self, at: u32) -> Self {
        Self { doc: Arc::clone(&self.doc), at }
    }

    fn text_of(&self, at: u32) -> &str {
        let entry = &self.doc.entries[at as usize];
        // The document was checked to be UTF-8 and entries begin and end at ASCII bytes.
        std::str::from_utf8(&self.doc.bytes[entry.start as usize..entry.end as usize]).unwrap_or_default()
    }

    /// The JSON text of this value, byte for byte as it came.
    #[must_use]
    pub fn raw(&self) -> &str {
        self.text_of(self.at)
    }

    /// The same as [`Node::raw`], sharing the document's memory.
    #[must_use]
    pub fn raw_bytes(&self) -> Bytes {
        let entry = self.entry();
        self.doc.bytes.slice(entry.start as usize..entry.end as usize)
    }

    fn string_at(&self, at: u32) -> Cow<'_, str> {
        let raw = self.text_of(at);
        if self.doc.entries[at as usize].escaped {
            // Escapes were validated while indexing.
            Cow::Owned(serde_json::from_str(raw).unwrap_or_default())
        } else {
            Cow::Borrowed(&raw[1..raw.len() - 1])
        }
    }
}

/// A JSON value: a place in a document, or one composed of such places. Cloning is cheap.
#[derive(Clone)]
pub enum Json {
    /// A place in a document.
    Node(Node),
    /// `null`
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer that sidehook made.
    Int(i64),
    /// A text that sidehook made.
    Text(Arc<str>),
    /// An array of values from anywhere.
    List(Arc<Vec<Json>>),
    /// An object of values from anywhere; keys are distinct and in order of appearance.
    Map(Arc<Vec<(Arc<str>, Json)>>),
}

impl Json {
    /// Parses a JSON text.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self, JsonError> {
        Ok(Doc::parse(bytes.into())?.root())
    }

    /// `{}`
    #[must_use]
    pub fn empty_map() -> Self {
        Self::Map(Arc::default())
    }

    /// `[]`
    #[must_use]
    pub fn empty_list() -> Self {
        Self::List(Arc::default())
    }

    /// A string value.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }

    /// An object from its members.
    #[must_use]
    pub fn map(members: Vec<(Arc<str>, Json)>) -> Self {
        Self::Map(Arc::new(members))
    }

    /// What this value is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(node) => node.entry().kind,
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Number,
            Self::Text(_) => Kind::String,
            Self::List(_) => Kind::Array,
            Self::Map(_) => Kind::Object,
        }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }

    /// Members of an object or elements of an array; 0 for everything else. Repeated keys count each time.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Node(node) => node.entry().count as usize,
            Self::List(items) => items.len(),
            Self::Map(members) => members.len(),
            _ => 0,
        }
    }

    /// Whether [`Json::len`] is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member called `key`; of several with one name the last, as most parsers have it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Json> {
        match self {
            Self::Map(members) => members.iter().rev().find(|(k, _)| **k == *key).map(|(_, v)| v.clone()),
            Self::Node(node) if node.entry().kind == Kind::Object => {
                let mut found = None;
                let (mut at, end) = (node.at + 1, node.entry().next);
                while at < end {
                    let value = at + 1;
                    let entry = &node.doc.entries[at as usize];
                    let same = if entry.escaped {
                        node.string_at(at) == key
                    } else {
                        entry.end - entry.start - 2 == to_u32(key.len())
                            && node.doc.bytes[entry.start as usize + 1..entry.end as usize - 1] == *key.as_bytes()
                    };
                    if same {
                        found = Some(value);
                    }
                    at = node.doc.entries[value as usize].next;
                }
                found.map(|at| Self::Node(node.sibling(at)))
            }
            _ => None,
        }
    }

    /// The element at `index`, counted from 0.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<Json> {
        match self {
            Self::List(items) => items.get(index).cloned(),
            Self::Node(node) if node.entry().kind == Kind::Array && index < node.entry().count as usize => {
                let mut at = node.at + 1;
                for _ in 0..index {
                    at = node.doc.entries[at as usize].next;
                }
                Some(Self::Node(node.sibling(at)))
            }
            _ => None,
        }
    }

    /// The elements of an array, in order; nothing for other kinds.
    #[must_use]
    pub fn items(&self) -> Items {
        let at = match self {
            Self::Node(node) if node.entry().kind == Kind::Array => node.at + 1,
            _ => 0,
        };
        Items { of: self.clone(), at }
    }

    /// The members of an object, in order; nothing for other kinds. A repeated key appears each time.
    #[must_use]
    pub fn members(&self) -> Members {
        let at = match self {
            Self::Node(node) if node.entry().kind == Kind::Object => node.at + 1,
            _ => 0,
        };
        Members { of: self.clone(), at }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Node(node) if node.entry().kind == Kind::String => Some(node.string_at(node.at)),
            _ => None,
        }
    }

    /// The value of a boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            Self::Node(node) if node.entry().kind == Kind::Bool => Some(node.raw() == "true"),
            _ => None,
        }
    }

    /// The digits of a number, as they came.
    #[must_use]
    pub fn as_number(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Int(n) => Some(Cow::Owned(n.to_string())),
            Self::Node(node) if node.entry().kind == Kind::Number => Some(Cow::Borrowed(node.raw())),
            _ => None,
        }
    }

    /// The text of a string or the digits of a number: what an id may be.
    #[must_use]
    pub fn as_id(&self) -> Option<Cow<'_, str>> {
        self.as_str().or_else(|| self.as_number())
    }

    /// Appends the JSON text. Places in a document are copied byte for byte.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Node(node) => out.extend_from_slice(node.raw().as_bytes()),
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
            Self::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
            Self::Text(text) => write_string(text, out),
            Self::List(items) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Map(members) => {
                out.push(b'{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_string(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// The JSON text, sharing the document's memory where this is a place in one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Node(node) => node.raw_bytes(),
            other => {
                let mut out = Vec::new();
                other.write(&mut out);
                Bytes::from(out)
            }
        }
    }

    /// Decodes into any serde type.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.to_bytes())
    }
}

/// Shows the JSON text, shortened: documents may hold transcripts.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({}, {} bytes)", self.kind(), self.to_bytes().len())
    }
}

/// Appends `text` as a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Iterator over array elements.
pub struct Items {
    of: Json,
    at: u32,
}

impl Iterator for Items {
    type Item = Json;

    fn next(&mut self) -> Option<Json> {
        match &self.of {
            Json::List(items) => {
                let item = items.get(self.at as usize)?.clone();
                self.at += 1;
                Some(item)
            }
            Json::Node(node) if node.entry().kind == Kind::Array && self.at < node.entry().next => {
                let item = node.sibling(self.at);
                self.at = item.entry().next;
                Some(Json::Node(item))
            }
            _ => None,
        }
    }
}

/// Iterator over object members.
pub struct Members {
    of: Json,
    at: u32,
}

impl Iterator for Members {
    type Item = (Arc<str>, Json);

    fn next(&mut self) -> Option<Self::Item> {
        match &self.of {
            Json::Map(members) => {
                let (key, value) = members.get(self.at as usize)?;
                self.at += 1;
                Some((Arc::clone(key), value.clone()))
            }
            Json::Node(node) if node.entry().kind == Kind::Object && self.at < node.entry().next => {
                let key = Arc::from(&*node.string_at(self.at));
                let value = node.sibling(self.at + 1);
                self.at = value.entry().next;
                Some((key, Json::Node(value)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
