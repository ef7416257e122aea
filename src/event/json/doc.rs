//! A JSON text with the index of its values, made in one pass. Reads nothing out of it that a value does not ask for.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use jiter::{Jiter, Peek};

use super::{Json, Kind};
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
    /// Bytes before it.
    pub offset: usize,
}

/// What some editors write before a text. RFC 8259, section 8.1, lets a reader pass over it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Which element of an array is broken off at `offset`: how many end before that.
#[must_use]
pub fn element_at(text: &[u8], offset: usize) -> usize {
    let (mut depth, mut elements) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in &text[..offset.min(text.len())] {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => elements += 1,
            _ => {}
        }
    }
    elements
}

/// Valid JSON without the white space between its tokens.
#[must_use]
pub fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if !c.is_ascii_whitespace() {
            out.push(c);
            in_string = c == '"';
        }
    }
    out
}

/// One value, or one object key (always directly before its value).
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// First byte, opening quote or bracket included.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
    /// Index of the first entry after this value and everything in it.
    pub(super) next: u32,
    /// Elements of an array, members of an object.
    pub(super) count: u32,
    pub(super) kind: Kind,
    /// A string or key that holds a backslash and must be decoded to be read.
    pub(super) escaped: bool,
}

/// A JSON text with an index of its values. Entry 0 is the whole document.
#[derive(Debug)]
pub struct Doc {
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<Entry>,
}

impl Doc {
    /// Reads one JSON text. Depth is bounded by [`limits::JSON_DEPTH`].
    pub fn parse(bytes: Bytes) -> Result<Arc<Self>, JsonError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError { message: "larger than 4 GiB".into(), line: 1, column: 1, offset: 0 });
        }
        let bytes = if bytes.starts_with(BYTE_ORDER_MARK) { bytes.slice(BYTE_ORDER_MARK.len()..) } else { bytes };
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
        let mut text = error.error_type.to_string();
        if text.contains("hex escape") {
            text.push_str(" (half of a character, where a text was cut inside it?)");
        }
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
pub(super) fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn position(data: &[u8], index: usize, message: &str) -> JsonError {
    let before = &data[..index.min(data.len())];
    let line = before.split(|b| *b == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
    JsonError { offset: index, message: message.to_owned(), line, column }
}

/// A place in a [`Doc`].
#[derive(Clone)]
pub struct Node {
    pub(super) doc: Arc<Doc>,
    pub(super) at: u32,
}

impl Node {
    pub(super) fn entry(&self) -> &Entry {
        &self.doc.entries[self.at as usize]
    }

    pub(super) fn sibling(&self, at: u32) -> Self {
        Self { doc: Arc::clone(&self.doc), at }
    }

    fn text_of(&self, at: u32) -> &str {
        let entry = &self.doc.entries[at as usize];
        // The document was checked to be UTF-8 and entries begin and end at ASCII bytes.
        std::str::from_utf8(&self.doc.bytes[entry.start as usize..entry.end as usize]).unwrap_or_default()
    }

    /// Whether both are the same place in the same document, whatever stands there.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.at == other.at && Arc::ptr_eq(&self.doc, &other.doc)
    }

    /// The bytes of this value; unlike [`Node::raw`] without a look at them.
    pub(super) fn slice(&self) -> &[u8] {
        let entry = self.entry();
        &self.doc.bytes[entry.start as usize..entry.end as usize]
    }

    /// The JSON text of this value, byte for byte as it came. Reads all of it.
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

    pub(super) fn string_at(&self, at: u32) -> Cow<'_, str> {
        let raw = self.text_of(at);
        if self.doc.entries[at as usize].escaped {
            // Escapes were validated while indexing.
            Cow::Owned(serde_json::from_str(raw).unwrap_or_default())
        } else {
            Cow::Borrowed(&raw[1..raw.len() - 1])
        }
    }
}
