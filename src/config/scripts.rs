//! The scripts of a generation: found under `rules_dir`, compiled together, their problems put at the file they are in.
//! Reads through the load's reader; runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::Decoder;
use super::settings::Decoded;
use super::values;
use super::yaml::{Node, Scalar, Span, Style, Value};
use crate::clock::Clock;
use crate::limits;
use crate::rules::{Rule, ScriptProblem, Scripts, When};

/// How a file of tests ends; what stands before it is the script's name.
pub const TEST_SUFFIX: &str = ".test.yaml";

/// The compiled scripts with what is known of them.
pub struct Library {
    /// The scripts.
    pub scripts: Arc<Scripts>,
    /// Names of the files that hold tests, relative to `rules_dir`.
    pub test_files: Vec<String>,
    files: BTreeSet<String>,
    broken: BTreeSet<String>,
    shown_dir: String,
}

/// Reads and compiles everything under `rules_dir`.
pub fn load(d: &mut Decoder<'_>, decoded: &Decoded, clock: &Clock) -> Library {
    let mut sources = BTreeMap::new();
    let mut test_files = Vec::new();
    let dir = &decoded.rules_dir;
    let shown_dir = d.show(dir);
    if d.reader.is_dir(dir) {
        let mut walk =
            Walk { root: d.reader.real(dir), dir: dir.clone(), seen: 0, sources: &mut sources, tests: &mut test_files };
        walk.folder(d, &PathBuf::new(), 0);
    } else {
        d.reader.expect_listing(dir);
        if let Some(span) = decoded.rules_dir_node {
            d.problem(
                span,
                format!("there is no directory {shown_dir}"),
                Some("make it, or leave `rules_dir` out".to_owned()),
            );
        }
    }
    let compiled = sources.iter().map(|(name, (_, text))| (name.clone(), Arc::clone(text))).collect();
    let (scripts, problems) =
        Scripts::compile(&compiled, decoded.rules_env.clone(), decoded.script_limits.clone(), clock.clone());
    let broken = problems.iter().map(|p| p.file.clone()).collect();
    for problem in problems {
        record(d, &problem, &sources, &shown_dir);
    }
    Library { scripts: Arc::new(scripts), test_files, files: sources.into_keys().collect(), broken, shown_dir }
}

type Sources = BTreeMap<String, (usize, Arc<str>)>;

/// Records a script's problem at its place.
fn record(d: &mut Decoder<'_>, problem: &ScriptProblem, sources: &Sources, dir: &str) {
    let help = None;
    match sources.get(&problem.file) {
        Some((file, _)) if problem.line > 0 => {
            d.problem(Span::at(*file, problem.line, problem.column.max(1)), problem.message.clone(), help);
        }
        _ => d.file_problem(format!("{dir}/{}", problem.file), &problem.message),
    }
}

struct Walk<'s> {
    root: Option<PathBuf>,
    dir: PathBuf,
    seen: usize,
    sources: &'s mut Sources,
    tests: &'s mut Vec<String>,
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
            Err(error) => return d.file_problem(shown, &error.to_string()),
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
        match d.reader.text(path, limits::SCRIPT_FILE_BYTES) {
            Ok(text) => {
                let id = d.add_file(d.show(path), text.clone());
                self.sources.insert(name, (id, Arc::from(text)));
            }
            Err(error) => d.file_problem(d.show(path), &error.to_string()),
        }
    }
}

impl Library {
    /// The script that `rule` names.
    pub fn rule(&self, d: &mut Decoder<'_>, node: &Node) -> Option<Arc<Rule>> {
        let name = d.text(node)?;
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        if let Some(rule) = self.scripts.rule(&name) {
            return Some(rule);
        }
        if self.broken.contains(&name) {
            return None; // its own problem says more
        }
        let shown = d.quote(node);
        if Path::new(&name).is_absolute() || name.split('/').any(|part| part == "..") {
            let help = format!("write its path relative to {}", self.shown_dir);
            d.problem(node.span, format!("{shown} leads out of the rules directory"), Some(help));
            return None;
        }
        let with_suffix = format!("{name}.rhai");
        let below = name.strip_prefix(&format!("{}/", self.shown_dir)).map(str::to_owned);
        let near = [Some(with_suffix), below].into_iter().flatten().find(|n| self.files.contains(n));
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
        if let Value::Scalar(Scalar { style: Style::Plain, interpolated: false, text }) = &node.value
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
                let message = if interpolated {
                    "not a Rhai expression once its variables are read; `$${` writes the characters themselves"
                        .to_owned()
                } else {
                    format!("`when`: {}", problem.message)
                };
                d.problem(node.place_within(problem.line, problem.column), message, help);
                None
            }
        }
    }
}
