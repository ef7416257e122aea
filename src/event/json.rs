//! JSON documents that are read in place.
//!
//! A [`Doc`] keeps the bytes as they came and an index of where every value stands, made in one pass. Reading a
//! field is a walk over that index; writing a value out again copies its bytes, so digits, key order and escapes
//! leave as they arrived. [`Json`] is a value: a place in a document, or something composed of such places.
//! This module knows nothing of events.

mod doc;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use doc::to_u32;
pub use doc::{Doc, JsonError, Node, compact, element_at};

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
    Map(Arc<Vec<Member>>),
}

/// A member of an object.
pub type Member = (Arc<str>, Json);

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
    pub fn map(members: Vec<Member>) -> Self {
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
            Self::Node(node) => out.extend_from_slice(node.slice()),
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

    /// Length of the JSON text, without writing it: exact for a place in a document, about right for what was composed.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Node(node) => node.slice().len(),
            Self::Null | Self::Bool(_) | Self::Int(_) => 5,
            Self::Text(text) => text.len() + 2,
            Self::List(items) => items.iter().fold(2, |sum, item| sum.saturating_add(item.weight() + 1)),
            Self::Map(members) => {
                members.iter().fold(2, |sum, (key, value)| sum.saturating_add(key.len() + 4 + value.weight()))
            }
        }
    }

    /// Decodes into any serde type.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.to_bytes())
    }
}

/// Of members with one name keeps the last, at its place.
pub fn keep_last(members: &mut Vec<Member>) {
    let mut seen = HashSet::with_capacity(members.len());
    members.reverse();
    members.retain(|(key, _)| seen.insert(Arc::clone(key)));
    members.reverse();
}

/// Adds the members whose names are not there yet; of several with one name the first.
pub fn add_missing(members: &mut Vec<Member>, more: impl IntoIterator<Item = Member>) {
    let mut known: HashSet<Arc<str>> = members.iter().map(|(key, _)| Arc::clone(key)).collect();
    members.extend(more.into_iter().filter(|(key, _)| known.insert(Arc::clone(key))));
}

/// Shows the kind and the length only: documents may hold transcripts.
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
    type Item = Member;

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
