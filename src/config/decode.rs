//! From nodes to values: each reader records a problem and goes on, so that one load names every mistake. Reads files
//! only through the load's reader, and shows no secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::interpolate;
use super::mask;
use super::reader::{ReadError, Reader};
use super::report::{Problem, Report};
use super::shape::{self, Block, Key as ShapeKey, Kind};
use super::values;
use super::yaml::{self, FileId, Key, Meaning, Node, Span, Style, UNREADABLE, Value, meaning_of};
use crate::limits;
use crate::secret::Secret;

/// A file of the configuration as it was read.
pub struct SourceFile {
    /// How it is named to people.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Places that are never shown.
    pub masks: Vec<Span>,
}

/// A problem before its line is looked up.
struct Found {
    span: Span,
    message: String,
    help: Option<String>,
    suspect: bool,
}

/// The state of one load.
pub struct Decoder<'a> {
    /// Reads files.
    pub reader: &'a mut Reader,
    /// Reads variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Directory that relative paths are relative to.
    pub base: PathBuf,
    /// What an operator should know although it is no mistake.
    pub warnings: Vec<String>,
    files: Vec<SourceFile>,
    found: Vec<Found>,
    plain: Vec<Problem>,
}

impl<'a> Decoder<'a> {
    /// An empty load.
    pub fn new(reader: &'a mut Reader, env: &'a dyn Fn(&str) -> Option<String>, base: PathBuf) -> Self {
        Self { reader, env, base, warnings: Vec::new(), files: Vec::new(), found: Vec::new(), plain: Vec::new() }
    }

    /// How a path is named to people: relative to the config directory where it is inside.
    #[must_use]
    pub fn show(&self, path: &Path) -> String {
        path.strip_prefix(&self.base).unwrap_or(path).display().to_string()
    }

    /// A path as configured, made relative to the config directory.
    #[must_use]
    pub fn locate(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        if path.is_absolute() { path.to_owned() } else { self.base.join(path) }
    }

    /// Registers a text under a name, so that its lines can be shown.
    pub fn add_file(&mut self, name: String, text: String) -> FileId {
        self.files.push(SourceFile { name, text, masks: Vec::new() });
        self.files.len() - 1
    }

    /// Reads a YAML file: its tree with variables replaced, its masks known, its mistakes recorded. `kind` is what the
    /// tree should be.
    pub fn yaml(&mut self, path: &Path, kind: &Kind) -> Option<(Node, String)> {
        let name = self.show(path);
        let text = match self.reader.text(path, limits::CONFIG_FILE_BYTES) {
            Ok(text) => text,
            Err(error) => {
                let error = error.to_string();
                let message = error.strip_prefix("it ").map_or(error.clone(), |rest| format!("the file {rest}"));
                self.file_problem(name, &message);
                return None;
            }
        };
        let id = self.add_file(name, text.clone());
        let (tree, mistakes) = yaml::parse(id, &text);
        let tree = if mistakes.is_empty() { Some(tree.unwrap_or_else(|| Node::nothing(id))) } else { tree };
        for mistake in mistakes {
            self.found.push(Found { span: mistake.span, message: mistake.message, help: mistake.help, suspect: true });
        }
        let mut tree = tree?;
        let mut masks = Vec::new();
        mask::tree(&tree, kind, &mut masks);
        self.files[id].masks = masks;
        let env = self.env;
        let mut bad = Vec::new();
        interpolate::tree(&mut tree, env, &mut |node, mistake| {
            bad.push((place_in(node, mistake.offset), mistake));
        });
        for (span, mistake) in bad {
            self.problem(span, mistake.message, Some(mistake.help));
        }
        Some((tree, text))
    }

    /// Records a problem at a place.
    pub fn problem(&mut self, span: Span, message: impl Into<String>, help: Option<String>) {
        self.found.push(Found { span, message: message.into(), help, suspect: false });
    }

    /// Records a problem of a whole file.
    pub fn file_problem(&mut self, file: impl Into<String>, message: &str) {
        self.plain.push(Problem::of_file(file, message));
    }

    /// Records a problem that is complete.
    pub fn plain_problem(&mut self, problem: Problem) {
        self.plain.push(problem);
    }

    /// All problems, in order of file, line and column, each once.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut problems: Vec<Problem> = self.plain.clone();
        problems.extend(self.found.iter().filter_map(|found| self.dress(found)));
        problems.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
        problems.dedup();
        let omitted = problems.len().saturating_sub(limits::CONFIG_PROBLEMS);
        problems.truncate(limits::CONFIG_PROBLEMS);
        Report { problems, omitted }
    }

    /// Looks up a problem's line and masks it.
    fn dress(&self, found: &Found) -> Option<Problem> {
        let file = self.files.get(found.span.file)?;
        let mut span = found.span;
        let text = file.text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
        // A place in a folded block may lie behind the end of its first line.
        span.column = span.column.clamp(1, text.chars().count() + 1);
        let rest = text.chars().count().saturating_sub(span.column - 1);
        let width = if span.end_line == span.line { span.end_column.saturating_sub(span.column) } else { rest };
        let shown = mask::line(text, span.line, &file.masks, found.suspect, span.column, width.clamp(1, rest.max(1)));
        Some(Problem {
            file: file.name.clone(),
            line: span.line,
            column: span.column,
            message: found.message.clone(),
            source_line: Some(shown.text),
            help: found.help.clone(),
            mark: Some(shown.mark),
        })
    }

    /// A scalar's text for a message: `****` when it may not be seen.
    #[must_use]
    pub fn quote(&self, node: &Node) -> String {
        let Value::Scalar(scalar) = &node.value else { return "this".to_owned() };
        let masked = self.files.get(node.span.file).is_some_and(|f| f.masks.contains(&node.span));
        if scalar.interpolated || masked {
            return format!("`{}`", mask::STARS);
        }
        let mut text: String = scalar.text.chars().take(60).collect();
        if text.len() < scalar.text.len() {
            text.push('…');
        }
        format!("`{}`", text.replace(['\n', '\r'], " "))
    }

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
                    let null_ok = matches!(known.kind, Kind::Either(kinds) if kinds.iter().any(|k| matches!(k, Kind::Null)))
                        || matches!(known.kind, Kind::Block(_) | Kind::Any);
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
        let shown: String = key.text.chars().take(60).collect();
        self.problem(key.span, format!("unknown key `{shown}`"), Some(help));
    }

    /// A key of a later version: its shape is checked, and unless it says nothing it is refused by name.
    fn later(&mut self, block: &'static Block, known: &'static ShapeKey, key: &Key, value: &Node) {
        self.shape(value, &known.kind);
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
            Kind::Any | Kind::Source => {}
            Kind::Text | Kind::Hidden | Kind::Path => drop(self.text(node)),
            Kind::Url => drop(self.text(node).map(|t| self.url_shape(node, &t))),
            Kind::Bool => drop(self.boolean(node)),
            Kind::Integer(min, max) => drop(self.integer(node, *min, *max)),
            Kind::Number(min, max) => drop(self.number(node, *min, *max)),
            Kind::Duration => drop(self.duration(node, Duration::ZERO, Duration::MAX)),
            Kind::Size => drop(self.size(node)),
            Kind::Secret => drop(self.secret(node)),
            Kind::Choice(words) => drop(self.choice(node, words)),
            Kind::Rate | Kind::Listen | Kind::Network | Kind::Status | Kind::TlsVersion => drop(self.loose(node)),
            Kind::Selector => {}
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

    // Readers of single values. Each gives nothing after it recorded a problem.

    /// Text. A plain number or boolean is none: it must be quoted.
    pub fn text(&mut self, node: &Node) -> Option<String> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "text") };
        if unreadable(node) || node.is_null() {
            return None;
        }
        if scalar.meaning() != Meaning::Text {
            let (shown, span) = (self.quote(node), node.span);
            let help = format!("quote it: \"{}\"", scalar.text);
            self.problem(span, format!("{shown} is {} to YAML, and text is needed", what(node)), Some(help));
            return None;
        }
        Some(scalar.text.clone())
    }

    /// Text as written, be it a number or a boolean to YAML.
    pub fn loose(&mut self, node: &Node) -> Option<String> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "text") };
        if unreadable(node) || node.is_null() { None } else { Some(scalar.text.clone()) }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node) -> Option<bool> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "true or false") };
        if unreadable(node) || node.is_null() {
            return None;
        }
        if let Meaning::Bool(value) = typed(scalar) {
            return Some(value);
        }
        let help = match scalar.text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "1" => "YAML 1.2 knows only true and false; write true, without quotes",
            "no" | "off" | "n" | "0" => "YAML 1.2 knows only true and false; write false, without quotes",
            "true" | "false" => "leave the quotes out",
            _ => "write true or false, without quotes",
        };
        let message = format!("{} is not true or false", self.quote(node));
        self.problem(node.span, message, Some(help.to_owned()));
        None
    }

    /// A whole number.
    pub fn integer(&mut self, node: &Node, min: i64, max: i64) -> Option<i64> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "a whole number") };
        if unreadable(node) || node.is_null() {
            return None;
        }
        let value = (typed(scalar) == Meaning::Integer).then(|| scalar.text.parse::<i64>().ok()).flatten();
        match value {
            Some(value) if (min..=max).contains(&value) => Some(value),
            Some(_) => {
                let message = format!("{} is out of bounds", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}")));
                None
            }
            None => {
                let message = format!("{} is not a whole number", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}, without quotes")));
                None
            }
        }
    }

    /// A number.
    pub fn number(&mut self, node: &Node, min: f64, max: f64) -> Option<f64> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "a number") };
        if unreadable(node) || node.is_null() {
            return None;
        }
        let is_number = matches!(typed(scalar), Meaning::Integer | Meaning::Float);
        match scalar.text.parse::<f64>() {
            Ok(value) if is_number && (min..=max).contains(&value) => Some(value),
            _ => {
                let message = format!("{} is not a number from {min} to {max}", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}, without quotes")));
                None
            }
        }
    }

    /// A duration within bounds.
    pub fn duration(&mut self, node: &Node, min: Duration, max: Duration) -> Option<Duration> {
        let text = self.loose(node)?;
        match values::duration(&text) {
            Ok(value) if value < min || value > max => {
                let (low, high) = (values::show_duration(min), values::show_duration(max));
                let message = format!("{} is out of bounds", self.quote(node));
                let help = if value < min { format!("write at least {low}") } else { format!("write at most {high}") };
                self.problem(node.span, message, Some(help));
                None
            }
            Ok(value) => Some(value),
            Err(right) => {
                let help = match meaning_of(&text) {
                    Meaning::Integer => format!("{text}s or {text}ms?"),
                    _ => "write a number and a unit, like 50ms, 15s, 5m, 24h or 7d".to_owned(),
                };
                let (message, general) = right.split_once("; ").unwrap_or((&right, "write less"));
                let help = if self.quote(node).contains(mask::STARS) { general.to_owned() } else { help };
                self.problem(node.span, format!("{}: {message}", self.quote(node)), Some(help));
                None
            }
        }
    }

    /// A size in bytes.
    pub fn size(&mut self, node: &Node) -> Option<u64> {
        let text = self.loose(node)?;
        match values::size(&text) {
            Ok(value) => Some(value),
            Err(right) => {
                let (message, help) = right.split_once("; ").unwrap_or((&right, "write less"));
                self.problem(node.span, format!("{}: {message}", self.quote(node)), Some(help.to_owned()));
                None
            }
        }
    }

    /// One of several words.
    pub fn choice(&mut self, node: &Node, words: &'static [&'static str]) -> Option<&'static str> {
        let text = self.loose(node)?;
        if let Some(word) = words.iter().find(|w| **w == text) {
            return Some(word);
        }
        let all = words.join(", ");
        let near = values::nearest(&text, words.iter().copied());
        let help = near.map_or(format!("write one of {all}"), |near| format!("did you mean `{near}`?"));
        let message = format!("{} is none of {all}", self.quote(node));
        self.problem(node.span, message, Some(help));
        None
    }

    /// The entries of a list.
    pub fn list<'n>(&mut self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Scalar(_) if unreadable(node) || node.is_null() => None,
            Value::Scalar(s) => {
                let shown = self.quote(node);
                let one = if s.interpolated { "${NAME}" } else { s.text.as_str() };
                let one = if shown.contains(mask::STARS) { "…" } else { one };
                let help = format!("put it in brackets: [{one}]");
                self.problem(node.span, format!("a list is needed here, not {}", what(node)), Some(help));
                None
            }
            Value::Map(_) => {
                self.problem(node.span, "a list is needed here, not a mapping", Some("write [ … ]".to_owned()));
                None
            }
        }
    }

    /// The entries of a mapping with free keys.
    pub fn map<'n>(&mut self, node: &'n Node) -> Option<&'n [(Key, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(_) if unreadable(node) || node.is_null() => None,
            _ => {
                let message = format!("a mapping is needed here, not {}", what(node));
                self.problem(node.span, message, Some("write {NAME: …}".to_owned()));
                None
            }
        }
    }

    /// A secret: a literal, `{env: NAME}` or `{file: PATH}`. Files lose one trailing newline.
    pub fn secret(&mut self, node: &Node) -> Option<Secret> {
        let forms = "write {env: NAME}, {file: PATH} or the secret itself";
        let value = match &node.value {
            Value::List(_) => return self.wrong(node, "a secret"),
            Value::Scalar(_) => self.text(node)?,
            Value::Map(entries) => {
                let [(key, value)] = entries.as_slice() else {
                    self.problem(node.span, "a secret names one place", Some(forms.to_owned()));
                    return None;
                };
                let text = self.text(value);
                match key.text.as_str() {
                    "env" => self.secret_variable(value, &text?)?,
                    "file" => self.secret_file(value, &text?)?,
                    other => {
                        let other: String = other.chars().take(60).collect();
                        let message = format!("unknown key `{other}` in a secret");
                        self.problem(key.span, message, Some(forms.to_owned()));
                        return None;
                    }
                }
            }
        };
        if value.is_empty() {
            self.problem(node.span, "this secret is empty", Some(forms.to_owned()));
            return None;
        }
        Some(Secret::new(value))
    }

    fn secret_variable(&mut self, node: &Node, name: &str) -> Option<String> {
        let value = (self.env)(name);
        if value.is_none() {
            let message = format!("the variable {} is not set", self.quote(node));
            self.problem(node.span, message, Some("set it, or use {file: PATH}".to_owned()));
        }
        value
    }

    fn secret_file(&mut self, node: &Node, path: &str) -> Option<String> {
        let path = self.locate(path);
        let mut text = self.file_text(node, &path)?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        self.warn_loose(&path);
        Some(text)
    }

    #[cfg(unix)]
    fn warn_loose(&mut self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o002 != 0) {
            let warning = format!("the secret file {} can be written by everyone", self.show(path));
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    #[cfg(not(unix))]
    fn warn_loose(&mut self, _path: &Path) {}

    /// The text of a file that the configuration names.
    pub fn file_text(&mut self, node: &Node, path: &Path) -> Option<String> {
        match self.reader.text(path, limits::SECRET_FILE_BYTES) {
            Ok(text) => Some(text),
            Err(error) => self.unread(node, path, &error),
        }
    }

    /// The bytes of a file that the configuration names.
    pub fn file_bytes(&mut self, node: &Node, path: &Path) -> Option<std::sync::Arc<[u8]>> {
        match self.reader.read(path, limits::SECRET_FILE_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(error) => self.unread(node, path, &error),
        }
    }

    fn unread<T>(&mut self, node: &Node, path: &Path, error: &ReadError) -> Option<T> {
        let hidden = self.quote(node).contains(mask::STARS);
        let name = if hidden { mask::STARS.to_owned() } else { self.show(path) };
        let absolute = Path::new(&name).is_absolute() || hidden;
        let help = if absolute { None } else { Some("relative paths are relative to the config directory".to_owned()) };
        self.problem(node.span, format!("the file {name}: {error}"), help);
        None
    }

    /// Records that a node is of another kind than needed.
    pub fn wrong<T>(&mut self, node: &Node, needed: &str) -> Option<T> {
        if !unreadable(node) && !node.is_null() {
            self.problem(node.span, format!("{needed} is needed here, not {}", what(node)), None);
        }
        None
    }
}

/// A scalar's meaning where its key decides the type: what a variable held counts as if it stood there.
fn typed(scalar: &yaml::Scalar) -> Meaning {
    if scalar.interpolated { meaning_of(&scalar.text) } else { scalar.meaning() }
}

/// Whether a node's variables could not be read, so that a problem was recorded already.
#[must_use]
pub fn unreadable(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(s) if s.text == UNREADABLE)
}

/// What a node is, for a message.
#[must_use]
pub fn what(node: &Node) -> &'static str {
    match &node.value {
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
        Value::Scalar(s) => match s.meaning() {
            Meaning::Null => "null",
            Meaning::Bool(_) => "a boolean",
            Meaning::Integer | Meaning::Float => "a number",
            Meaning::Text => "text",
        },
    }
}

/// The place of a character of a scalar, as far as it can be told.
fn place_in(node: &Node, offset: usize) -> Span {
    match &node.value {
        Value::Scalar(s) if s.style != Style::Block && !s.text.contains('\n') => {
            let mut span = node.place_within(1, offset + 1);
            let width = s.text.chars().skip(offset).position(|c| c == '}');
            span.end_column = span.column + width.map_or(1, |w| w + 1);
            span
        }
        _ => node.span,
    }
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
    /// A key's value, its own or the default; null counts as absent.
    #[must_use]
    pub fn get(&self, name: &'static str) -> Option<&'n Node> {
        debug_assert!(self.block.key(name).is_some(), "{name} is not in the table of {}", self.block.name);
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert((self.block.name, name)));
        let find = |entries: &'n [(Key, Node)]| entries.iter().find(|(key, _)| key.text == name).map(|(_, v)| v);
        find(self.own).or_else(|| find(self.fallback)).filter(|node| !node.is_null())
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
