//! The state of one load: its files, their masks and the problems found so far, each recorded while the load goes on, so
//! that one load names every mistake. Reads files only through the load's reader, and shows no secret.

use std::path::{Path, PathBuf};

use super::interpolate;
use super::mask::{self, Doubt};
use super::reader::{ReadError, Reader};
use super::report::{Problem, Report};
use super::shape::Kind;
use super::yaml::{self, FileId, Key, Node, Span, Style, Value};
use crate::limits;

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
        let (id, mut tree, text) = self.plain_yaml(path, limits::CONFIG_FILE_BYTES)?;
        mask::tree(&tree, kind, &mut self.files[id].masks);
        mask::keys_alone(&tree, &text, &mut self.files[id].masks);
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

    /// Reads a YAML file as it stands: `${…}` in it is text, nothing but its mistakes is masked.
    pub fn plain_yaml(&mut self, path: &Path, max: u64) -> Option<(FileId, Node, String)> {
        let name = self.show(path);
        let text = match self.reader.text(path, max) {
            // Some editors begin a file with a byte order mark; it is no part of the first key.
            Ok(text) => text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text),
            Err(error) => {
                self.unread_file(path, &error);
                return None;
            }
        };
        let id = self.add_file(name, text.clone());
        let yaml::Parsed { root, mistakes, dropped } = yaml::parse(id, &text);
        let tree = if mistakes.is_empty() { Some(root.unwrap_or_else(|| Node::nothing(id))) } else { root };
        for node in &dropped {
            mask::everything(node, &mut self.files[id].masks);
        }
        for mistake in mistakes {
            self.found.push(Found { span: mistake.span, message: mistake.message, help: mistake.help, suspect: true });
        }
        Some((id, tree?, text))
    }

    /// Records a problem at a place.
    pub fn problem(&mut self, span: Span, message: impl Into<String>, help: Option<String>) {
        self.found.push(Found { span, message: message.into(), help, suspect: false });
    }

    /// Records what is no mistake, but perhaps not what was meant.
    pub fn warn(&mut self, node: &Node, message: &str) {
        let file = self.files.get(node.span.file).map_or("", |file| file.name.as_str());
        let warning = format!("{file}, line {}: {}", node.span.line, mask::keys(message));
        // What stands in `defaults` is looked at with each webhook.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Records that a file or directory of the configuration cannot be read.
    pub fn unread_file(&mut self, path: &Path, error: &ReadError) {
        let text = error.to_string();
        let what = if self.reader.is_dir(path) { "directory" } else { "file" };
        let message = text.strip_prefix("it ").map_or(text.clone(), |rest| format!("the {what} {rest}"));
        let help = match error {
            ReadError::Missing => "a link may lead nowhere: mend or remove it",
            ReadError::NotAFile => "put a file or a directory of that name there, as the name says",
            ReadError::TooLarge(_) => "split it, or look whether it is the file that was meant",
            ReadError::NotText(_) => "save it as UTF-8",
            ReadError::Io(text) if text.contains("symbolic links") => "its links lead in a circle: mend or remove them",
            ReadError::Io(_) => "let sidehook's user read it, and all that its links lead to",
        };
        self.plain_problem(Problem::of_file(self.show(path), message).with_help(help));
    }

    /// Whether the YAML of a node's file has a mistake, so that something may be missing from its tree.
    #[must_use]
    pub fn is_unsure(&self, node: &Node) -> bool {
        self.found.iter().any(|found| found.suspect && found.span.file == node.span.file)
    }

    /// Whether a problem was recorded at a node or inside it.
    #[must_use]
    pub fn is_troubled(&self, node: &Node) -> bool {
        self.is_troubled_beside(node, None)
    }

    /// The same, but for what is wrong within `except`.
    pub fn is_troubled_beside(&self, node: &Node, except: Option<&Node>) -> bool {
        let within = |node: &Node, span: &Span| {
            let (begin, end) = ((node.span.line, node.span.column), (node.span.end_line, node.span.end_column));
            let at = (span.line, span.column);
            span.file == node.span.file && begin <= at && at < end
        };
        self.found.iter().any(|found| within(node, &found.span) && !except.is_some_and(|e| within(e, &found.span)))
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
        problems.iter_mut().for_each(Problem::make_printable);
        let omitted = problems.len().saturating_sub(limits::CONFIG_PROBLEMS);
        problems.truncate(limits::CONFIG_PROBLEMS);
        Report { problems, omitted }
    }

    /// Looks up a problem's line and masks it.
    fn dress(&self, found: &Found) -> Option<Problem> {
        let file = self.files.get(found.span.file)?;
        let mut span = found.span;
        // At the end of a file there is nothing to see; what is missing there is missed behind its last words.
        if let Some((last, text)) = file.text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()).last()
            && span.line > last + 1
        {
            (span.line, span.end_line, span.column) = (last + 1, last + 1, text.chars().count() + 1);
            span.end_column = span.column + 1;
        }
        let text = file.text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
        // A place in a folded block may lie behind the end of its first line.
        span.column = span.column.clamp(1, text.chars().count() + 1);
        let rest = text.chars().count().saturating_sub(span.column - 1);
        let width = if span.end_line == span.line { span.end_column.saturating_sub(span.column) } else { rest };
        let doubt = if found.suspect { mask::doubt(&file.text, span.line) } else { Doubt::None };
        let shown = mask::line(text, span.line, &file.masks, doubt, span.column, width.clamp(1, rest.max(1)));
        Some(Problem {
            file: file.name.clone(),
            line: span.line,
            column: span.column,
            message: mask::keys(&found.message),
            source_line: Some(shown.text),
            help: found.help.as_deref().map(mask::keys),
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
        let inside =
            |m: &Span| (m.line, m.end_line, m.end_column) == (node.span.line, node.span.end_line, node.span.end_column);
        let partly = self.files.get(node.span.file).is_some_and(|f| f.masks.iter().any(inside));
        let whole = if partly { mask::url(&scalar.text, &[]) } else { scalar.text.clone() };
        let mut text: String = whole.chars().take(60).collect();
        if text.len() < whole.len() {
            text.push('…');
        }
        format!("`{}`", text.replace(['\n', '\r'], " "))
    }

    /// A key's text for a message: `****` when it may not be seen.
    #[must_use]
    pub fn quote_key(&self, key: &Key) -> String {
        if self.files.get(key.span.file).is_some_and(|f| f.masks.contains(&key.span)) {
            return format!("`{}`", mask::STARS);
        }
        format!("`{}`", key.text.chars().take(60).collect::<String>())
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
