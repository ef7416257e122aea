//! The state of one load: its files, their masks and the problems found so far, each recorded while the load goes on, so
//! that one load names every mistake. Reads files only through the load's reader, and shows no secret.

use std::path::{Path, PathBuf};

use super::interpolate;
use super::mask;
use super::reader::Reader;
use super::report::{Problem, Report};
use super::shape::Kind;
use super::yaml::{self, FileId, Node, Span, Style, Value};
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
            Ok(text) => text,
            Err(error) => {
                let error = error.to_string();
                let message = error.strip_prefix("it ").map_or(error.clone(), |rest| format!("the file {rest}"));
                self.file_problem(name, &message);
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
        let suspect = found.suspect && mask::is_suspicious(&file.text, span.line);
        let shown = mask::line(text, span.line, &file.masks, suspect, span.column, width.clamp(1, rest.max(1)));
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
        let mut text: String = scalar.text.chars().take(60).collect();
        if text.len() < scalar.text.len() {
            text.push('…');
        }
        format!("`{}`", text.replace(['\n', '\r'], " "))
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
