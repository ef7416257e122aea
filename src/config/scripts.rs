//! The scripts of a generation: found under `rules_dir`, compiled together, their problems put at the file they are in.
//! Reads through the load's reader; runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::decode::Decoder;
use super::report::Problem;
use super::settings::Decoded;
use super::values;
use super::yaml::{Node, Scalar, Span, Style, Value};
use crate::clock::Clock;
use crate::limits;
use crate::rules::{Adapter, Rule, ScriptProblem, Scripts, When};

/// How a file of tests ends; what stands before it is the script's name.
pub const TEST_SUFFIX: &str = ".test.yaml";

/// How names of scripts inside the binary begin.
const LIBRARY: &str = "sidehook/";

/// The compiled scripts with what is known of them.
pub struct Library {
    /// The scripts.
    pub scripts: Arc<Scripts>,
    /// Names of the files that hold tests, relative to `rules_dir`.
    pub test_files: Vec<String>,
    /// Every script that is there, those with mistakes included.
    files: BTreeSet<String>,
    shown_dir: String,
}

/// Reads and compiles everything under `rules_dir`.
pub fn load(d: &mut Decoder<'_>, decoded: &Decoded, clock: &Clock) -> Library {
    let mut sources = BTreeMap::new();
    let mut test_files = Vec::new();
    let mut files = BTreeSet::new();
    let dir = &decoded.rules_dir;
    let shown_dir = d.show(dir);
    if d.reader.is_dir(dir) {
        let mut walk = Walk {
            root: d.reader.real(dir),
            dir: dir.clone(),
            seen: 0,
            sources: &mut sources,
            tests: &mut test_files,
            files: &mut files,
        };
        walk.folder(d, &PathBuf::new(), 0);
    } else {
        d.reader.expect_listing(dir);
        if let Some((span, shown)) = &decoded.rules_dir_node {
            d.problem(
                *span,
                format!("there is no directory {shown}"),
                Some("make it, or leave `rules_dir` out".to_owned()),
            );
        }
    }
    let compiled = sources.iter().map(|(name, (_, text))| (name.clone(), Arc::clone(text))).collect();
    let (scripts, problems) =
        Scripts::compile(&compiled, decoded.rules_env.clone(), decoded.script_limits.clone(), clock.clone());
    for problem in problems {
        record(d, &problem, &sources, &shown_dir);
    }
    Library { scripts: Arc::new(scripts), test_files, files, shown_dir }
}

type Sources = BTreeMap<String, (usize, Arc<str>)>;

/// Records a script's problem at its place.
fn record(d: &mut Decoder<'_>, problem: &ScriptProblem, sources: &Sources, dir: &str) {
    let (message, help) = cure(&problem.message, false);
    match sources.get(&problem.file) {
        Some((file, _)) if problem.line > 0 => {
            d.problem(Span::at(*file, problem.line, problem.column.max(1)), message, help);
        }
        _ => {
            let whole = Problem::of_file(format!("{dir}/{}", problem.file), message);
            d.plain_problem(match help {
                Some(help) => whole.with_help(help),
                None => whole,
            });
        }
    }
}

/// What is wrong with a script, and what to do about it: where the message of the script host says the second, the two
/// are taken apart; where it only says the first, the cure is added.
fn cure(message: &str, inline: bool) -> (String, Option<String>) {
    for between in [": did you mean ", "; did you mean "] {
        if let Some((wrong, near)) = message.split_once(between) {
            return (wrong.to_owned(), Some(format!("did you mean {near}")));
        }
    }
    let help = if message.starts_with("unknown function ") && inline {
        "an expression can call Rhai's own functions and those of sidehook: `sidehook rules definitions DIR` writes down \
         which; put functions of your own into a script and name it with `rule`"
    } else if message.starts_with("unknown function ") {
        "define it with `fn`, or import the script that has it; `sidehook rules definitions DIR` writes down which \
         functions sidehook adds"
    } else if message.starts_with("import cycle: ") {
        "move what both need into a script of its own, and import that one"
    } else if message == "script is incomplete" && inline {
        let help = "write what belongs behind the last sign, or take that sign away";
        return ("the expression ends too early".to_owned(), Some(help.to_owned()));
    } else if message == "script is incomplete" {
        "something is not finished: look for a missing value, `}` or `)`"
    } else if message.starts_with("unexpected ") || message.starts_with("expecting ") {
        "the mistake is at the mark or right before it"
    } else {
        return (message.to_owned(), None);
    };
    (message.to_owned(), Some(help.to_owned()))
}

struct Walk<'s> {
    root: Option<PathBuf>,
    dir: PathBuf,
    seen: usize,
    sources: &'s mut Sources,
    tests: &'s mut Vec<String>,
    files: &'s mut BTreeSet<String>,
}

impl Walk<'_> {
    fn folder(&mut self, d: &mut Decoder<'_>, inside: &Path, depth: usize) {
        let path = self.dir.join(inside);
        let shown = d.show(&path);
        if depth > limits::SCRIPT_FOLDERS {
            d.file_problem(shown, &format!("folders are nested deeper than {}", limits::SCRIPT_FOLDERS));
            return;
        }
        let entries = match d.reader.list(&path) {
            Ok(entries) => entries,
            Err(error) => return d.unread_file(&path, &error),
        };
        for entry in entries {
            let inside = inside.join(&entry.name);
            let path = self.dir.join(&inside);
            self.seen += 1;
            if self.seen == limits::SCRIPT_FILES + 1 {
                let message = format!("more than {} files", limits::SCRIPT_FILES);
                return d.file_problem(d.show(&self.dir), &message);
            }
            if self.seen > limits::SCRIPT_FILES {
                return;
            }
            let real = d.reader.real(&path);
            let within = real.as_ref().zip(self.root.as_ref()).is_some_and(|(real, root)| real.starts_with(root));
            if real.is_some() && !within {
                let message = "this link leads out of the rules directory; put the file itself there";
                d.file_problem(d.show(&path), message);
            } else if entry.directory {
                self.folder(d, &inside, depth + 1);
            } else {
                self.file(d, &path, &inside);
            }
        }
    }

    fn file(&mut self, d: &mut Decoder<'_>, path: &Path, inside: &Path) {
        let name = inside.to_string_lossy().replace('\\', "/");
        if inside.extension().is_none_or(|e| e != "rhai") {
            // Tests and the events they name are part of what a reload looks at.
            let suffix = inside.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if ["yaml", "yml", "json", "ndjson"].contains(&suffix) {
                let _ = d.reader.read(path, limits::SCRIPT_FILE_BYTES);
            }
            if name.ends_with(TEST_SUFFIX) {
                self.tests.push(name);
            }
            return;
        }
        self.files.insert(name.clone());
        match d.reader.text(path, limits::SCRIPT_FILE_BYTES) {
            Ok(text) => {
                // A byte order mark is no part of the script.
                let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
                let id = d.add_file(d.show(path), text.clone());
                self.sources.insert(name, (id, Arc::from(text)));
            }
            Err(error) => d.unread_file(path, &error),
        }
    }
}

impl Library {
    /// The script that `adapter` names, which rests for `suspend_for` after five time-outs in a row.
    pub fn adapter(&self, d: &mut Decoder<'_>, node: &Node, suspend_for: Duration) -> Option<Adapter> {
        let rule = self.rule(d, node)?;
        match Adapter::new(rule, suspend_for) {
            Ok(adapter) => Some(adapter),
            Err(message) => {
                let (message, help) = message.split_once(": ").unwrap_or((&message, ""));
                d.problem(node.span, message, Some(help.to_owned()).filter(|help| !help.is_empty()));
                None
            }
        }
    }

    /// The script that `rule` or `adapter` names.
    pub fn rule(&self, d: &mut Decoder<'_>, node: &Node) -> Option<Arc<Rule>> {
        let name = d.text(node)?;
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        if let Some(rule) = self.scripts.rule(&name) {
            return Some(rule);
        }
        if self.files.contains(&name) || self.files.contains(&format!("{name}.rhai")) {
            return None; // its own problem, or that of a script it imports, says more
        }
        let shown = d.quote(node);
        if name.starts_with(LIBRARY) {
            return unknown_of_library(d, node, &name);
        }
        if Path::new(&name).is_absolute() || name.split('/').any(|part| part == "..") {
            let help = format!("write its path relative to {}", self.shown_dir);
            d.problem(node.span, format!("{shown} leads out of the rules directory"), Some(help));
            return None;
        }
        let below = name.strip_prefix(&format!("{}/", self.shown_dir));
        let near = below.and_then(|n| [n.to_owned(), format!("{n}.rhai")].into_iter().find(|n| self.files.contains(n)));
        let near = near.or_else(|| values::nearest(&name, self.files.iter().map(String::as_str)).map(str::to_owned));
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if self.files.is_empty() => format!("there are no scripts in {}", self.shown_dir),
            None => format!("scripts there: {}", self.files.iter().take(10).cloned().collect::<Vec<_>>().join(", ")),
        };
        d.problem(node.span, format!("no script {shown} in {}", self.shown_dir), Some(help));
        None
    }

    /// The compiled `when` expression.
    pub fn when(&self, d: &mut Decoder<'_>, node: &Node) -> Option<When> {
        if let Value::Scalar(Scalar { style: Style::Plain, interpolated: false, text, .. }) = &node.value
            && matches!(text.as_str(), "true" | "false")
        {
            return self.compile(d, node, text);
        }
        let text = d.text(node)?;
        if text.trim().is_empty() {
            d.problem(node.span, "`when` is empty", Some("write an expression, or leave the key out".to_owned()));
            return None;
        }
        self.compile(d, node, &text)
    }

    fn compile(&self, d: &mut Decoder<'_>, node: &Node, text: &str) -> Option<When> {
        match self.scripts.when(text) {
            Ok(when) => Some(when),
            Err(problem) => {
                let odd = text.matches('"').count() % 2 == 1 || text.matches('\'').count() % 2 == 1;
                let plain = matches!(&node.value, Value::Scalar(s) if s.style == Style::Plain);
                let help = (odd && plain)
                    .then(|| "to YAML ` #` begins a comment and ends the value; quote the whole expression".to_owned());
                let interpolated = matches!(&node.value, Value::Scalar(s) if s.interpolated);
                let (message, help) = if interpolated {
                    let message = "not a Rhai expression once its variables are read";
                    (message.to_owned(), help.or(Some("`$${` writes the characters themselves".to_owned())))
                } else {
                    let (message, general) = cure(&problem.message, true);
                    (format!("`when`: {message}"), help.or(general))
                };
                d.problem(node.place_within(problem.line, problem.column), message, help);
                None
            }
        }
    }
}

/// Records that the binary has no such script.
fn unknown_of_library(d: &mut Decoder<'_>, node: &Node, name: &str) -> Option<Arc<Rule>> {
    let inside: Vec<String> = Scripts::inside().collect();
    let help = match values::nearest(name, inside.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it holds {}", inside.join(", ")),
    };
    d.problem(node.span, format!("the binary holds no script {}", d.quote(node)), Some(help));
    None
}
