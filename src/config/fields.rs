//! Mappings with known keys: what is there is held against the table of keys, and read by name.

use std::time::Duration;

use super::decode::Decoder;
use super::scalars::{unreadable, what};
use super::shape::{self, Block, Key as ShapeKey, Kind};
use super::values;
use super::yaml::{Key, Node, Span, Value};

impl Decoder<'_> {
    /// The keys of a mapping, checked against its table: unknown ones, missing ones and those of a later version are
    /// recorded. `defaults` supplies what is absent.
    pub fn fields<'n>(
        &mut self,
        node: &'n Node,
        block: &'static Block,
        defaults: Option<&'n Node>,
    ) -> Option<Fields<'n>> {
        let own = self.entries(node, block)?;
        let fallback = defaults.and_then(|d| if let Value::Map(e) = &d.value { Some(e.as_slice()) } else { None });
        Some(Fields { block, own, fallback: fallback.unwrap_or_default(), span: node.span, partial: false })
    }

    fn entries<'n>(&mut self, node: &'n Node, block: &'static Block) -> Option<&'n [(Key, Node)]> {
        let Value::Map(entries) = &node.value else {
            if node.is_null() {
                return Some(&[]);
            }
            if !unreadable(node) {
                let first = block.keys.first().map_or("", |k| k.name);
                let help = match &node.value {
                    Value::Scalar(s) => {
                        s.text.split_once(':').and_then(|(name, _)| block.key(name)).map(|key| key.name)
                    }
                    _ => None,
                };
                let help = help.map_or_else(
                    || format!("write its keys: {{{first}: …}}"),
                    |name| format!("write `{name}: …`, with a space after the colon"),
                );
                self.problem(node.span, format!("`{}` is a mapping, not {}", block.name, what(node)), Some(help));
            }
            return None;
        };
        for (key, value) in entries {
            match block.key(&key.text) {
                None => self.unknown(block, key),
                Some(known) if known.later => self.later(block, known, key, value),
                Some(known) => {
                    let null_ok = is_nullable(&known.kind) || matches!(known.kind, Kind::Block(_) | Kind::Any);
                    if value.is_null() && !null_ok {
                        let help = "give it one, or leave the key out".to_owned();
                        self.problem(key.span, format!("`{}` has no value", key.text), Some(help));
                    }
                }
            }
        }
        Some(entries)
    }

    fn unknown(&mut self, block: &'static Block, key: &Key) {
        let known = block.keys.iter().map(|k| k.name);
        let near = shape::meant(block, &key.text).or_else(|| values::nearest(&key.text, known.clone()));
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.problem(key.span, format!("unknown key {}", self.quote_key(key)), Some(help));
    }

    /// A key of a later version: its shape is checked, and unless it says nothing it is refused by name.
    fn later(&mut self, block: &'static Block, known: &'static ShapeKey, key: &Key, value: &Node) {
        if !value.is_null() {
            self.shape(value, &known.kind);
        }
        let neutral = match &value.value {
            Value::Scalar(s) => value.is_null() || matches!(s.text.as_str(), "false" | "0"),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        };
        // Inside a block that is refused as a whole its keys need not be.
        let inside = block.keys.iter().all(|k| k.later);
        let inside = inside || (block.name.starts_with("source_") && block.name != "source_http");
        if !neutral && !inside {
            let message = format!("known key, not available in this version of sidehook: `{}`", key.text);
            self.problem(key.span, message, Some("leave it out".to_owned()));
        }
    }

    /// Checks that a node is of a kind, without taking its value.
    pub fn shape(&mut self, node: &Node, kind: &Kind) {
        if unreadable(node) {
            return;
        }
        match kind {
            Kind::Any | Kind::Source | Kind::Selector => {}
            Kind::Text | Kind::Path => drop(self.text(node)),
            Kind::Url => drop(self.text(node).map(|t| self.url_shape(node, &t))),
            Kind::Bool => drop(self.boolean(node)),
            Kind::Integer(min, max) => drop(self.integer(node, *min, *max)),
            Kind::Number(min, max) => drop(self.number(node, *min, *max)),
            Kind::Duration => drop(self.duration(node, Duration::ZERO, Duration::MAX)),
            Kind::Size => drop(self.size(node)),
            Kind::Secret | Kind::HeaderValue => drop(self.secret(node)),
            Kind::Choice(words) => drop(self.choice(node, words)),
            Kind::Written | Kind::Rate | Kind::Listen | Kind::Network | Kind::Status | Kind::TlsVersion => {
                drop(self.loose(node));
            }
            Kind::Null => {
                if !node.is_null() {
                    self.problem(node.span, format!("only null can stand here, not {}", what(node)), None);
                }
            }
            Kind::List(kind) => {
                for item in self.list(node).unwrap_or_default() {
                    self.shape(item, kind);
                }
            }
            Kind::Map(kind) => {
                for (_, value) in self.map(node).unwrap_or_default() {
                    self.shape(value, kind);
                }
            }
            Kind::Block(block) => drop(self.fields(node, block, None)),
            Kind::Either(kinds) => {
                if node.is_null() && kinds.iter().any(|k| matches!(k, Kind::Null)) {
                    return;
                }
                if let Some(kind) = kinds.first() {
                    self.shape(node, kind);
                }
            }
        }
    }

    fn url_shape(&mut self, node: &Node, text: &str) {
        if let Err(error) = url::Url::parse(text) {
            let message = format!("{} is no URL: {error}", self.quote(node));
            self.problem(node.span, message, Some("write https://host/path".to_owned()));
        }
    }
}

/// Whether null may stand for a value.
fn is_nullable(kind: &Kind) -> bool {
    matches!(kind, Kind::Either(kinds) if kinds.iter().any(|k| matches!(k, Kind::Null)))
}

/// Whether variables came to null.
fn says_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(s) if s.interpolated && matches!(s.text.as_str(), "null" | "~"))
}

/// The keys of one mapping.
pub struct Fields<'n> {
    block: &'static Block,
    own: &'n [(Key, Node)],
    fallback: &'n [(Key, Node)],
    /// Where the mapping stands.
    pub span: Span,
    /// Whether required keys may be missing: others supply them.
    pub partial: bool,
}

#[cfg(test)]
thread_local! {
    /// Keys that decoders asked for: a test holds them against the table.
    pub static ASKED: std::cell::RefCell<std::collections::BTreeSet<(&'static str, &'static str)>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

impl<'n> Fields<'n> {
    /// A key's value, its own or the default; null counts as absent, where null may stand also one from a variable.
    #[must_use]
    pub fn get(&self, name: &'static str) -> Option<&'n Node> {
        debug_assert!(self.block.key(name).is_some(), "{name} is not in the table of {}", self.block.name);
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert((self.block.name, name)));
        let find = |entries: &'n [(Key, Node)]| entries.iter().find(|(key, _)| key.text == name).map(|(_, v)| v);
        let nullable = self.block.key(name).is_some_and(|known| is_nullable(&known.kind));
        let found = find(self.own).or_else(|| find(self.fallback));
        found.filter(|node| !(node.is_null() || (nullable && says_null(node))))
    }

    /// Like [`Fields::get`], and null comes back too.
    #[must_use]
    pub fn get_nullable(&self, name: &'static str) -> Option<&'n Node> {
        let find = |entries: &'n [(Key, Node)]| entries.iter().find(|(key, _)| key.text == name).map(|(_, v)| v);
        let _ = self.get(name);
        find(self.own).or_else(|| find(self.fallback))
    }

    /// A key that must be there; `right` tells what to write.
    pub fn require(&self, d: &mut Decoder<'_>, name: &'static str, right: &str) -> Option<&'n Node> {
        let found = self.get(name);
        if found.is_none() && !self.partial && !self.own.iter().any(|(key, _)| key.text == name) {
            let message = format!("`{name}` is missing");
            let at = Span { end_line: self.span.line, end_column: self.span.column + 1, ..self.span };
            d.problem(at, message, Some(format!("add {right}")));
        }
        found
    }

    /// A duration within bounds, or its default.
    pub fn duration(&self, d: &mut Decoder<'_>, name: &'static str, default: Duration, bounds: Bounds) -> Duration {
        self.get(name).and_then(|node| d.duration(node, bounds.0, bounds.1)).unwrap_or(default)
    }

    /// A boolean, or its default.
    pub fn boolean(&self, d: &mut Decoder<'_>, name: &'static str, default: bool) -> bool {
        self.get(name).and_then(|node| d.boolean(node)).unwrap_or(default)
    }

    /// A word of the table's choice, or its default.
    pub fn choice(&self, d: &mut Decoder<'_>, name: &'static str, default: &'static str) -> &'static str {
        let Some(Kind::Choice(words)) = self.block.key(name).map(|k| k.kind) else { return default };
        self.get(name).and_then(|node| d.choice(node, words)).unwrap_or(default)
    }

    /// A word of the table's choice where null may stand too, or its default.
    pub fn choice_or_null(&self, d: &mut Decoder<'_>, name: &'static str, default: &'static str) -> &'static str {
        let Some(Kind::Either([Kind::Choice(words), ..])) = self.block.key(name).map(|k| k.kind) else {
            return default;
        };
        self.get(name).and_then(|node| d.choice(node, words)).unwrap_or(default)
    }

    /// A whole number within the table's bounds, or its default.
    pub fn integer(&self, d: &mut Decoder<'_>, name: &'static str, default: i64) -> i64 {
        let Some(Kind::Integer(min, max)) = self.block.key(name).map(|k| k.kind) else { return default };
        self.get(name).and_then(|node| d.integer(node, min, max)).unwrap_or(default)
    }
}

/// Least and most.
pub type Bounds = (Duration, Duration);
