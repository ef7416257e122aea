//! From a path to a generation: the I/O around the decoders. A load that met a file vanishing or a volume being swapped
//! is done once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cases::Case;
use super::decode::Decoder;
use super::fields::Fields;
use super::model::{Analysis, Generation, Inputs, Reach, Webhook};
use super::reader::{self, ReadError, Reader};
use super::report::{Problem, Report};
use super::settings::{self, check_name};
use super::shape::{self, Kind};
use super::webhook::{self, Shared};
use super::yaml::{Key, Node, Span, Value};
use super::{cases, scripts, sources, values};
use crate::clock::Clock;
use crate::limits;

/// What one load gave: what was read is known even when it is no configuration, so that a mended file is noticed.
pub struct Loaded {
    /// What to watch.
    pub inputs: Inputs,
    /// Hash of all that was read; [`Inputs::fingerprint`] gives the same as long as nothing changes.
    pub hash: String,
    /// The generation, or all problems.
    pub result: Result<Generation, Report>,
    /// The rules' tests, where they were asked for.
    pub tests: Vec<Case>,
    /// How to reach a sidehook that runs with this configuration, which may have problems elsewhere.
    pub reach: Reach,
}

/// What a load does with the tests beside the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tests {
    /// Nothing: the configuration is only looked at.
    Skip,
    /// Hands them out; a test file that cannot be read is a problem.
    Read,
    /// Where `reload.run_tests` says so, runs them; one that fails is a problem.
    Gate,
}

/// Reads and compiles a config directory or file with everything it names (scripts, tests, secrets, certificates).
/// All problems come back together. Runs no tests: this is for commands that only look.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>, clock: &Clock) -> Result<Generation, Report> {
    load_with(path, env, clock, Tests::Skip).result
}

/// Like [`load`] for a start or a reload: with what was read, and with the tests that `reload.run_tests` asks for.
pub fn load_all(path: &Path, env: &dyn Fn(&str) -> Option<String>, clock: &Clock) -> Loaded {
    load_with(path, env, clock, Tests::Gate)
}

/// Like [`load`], with what was read and a choice about tests.
pub fn load_with(path: &Path, env: &dyn Fn(&str) -> Option<String>, clock: &Clock, tests: Tests) -> Loaded {
    let mut loaded = once(path, env, clock, tests);
    if loaded.1 {
        loaded = once(path, env, clock, tests);
    }
    loaded.0
}

/// One load, and whether what it read may be a mixture.
fn once(path: &Path, env: &dyn Fn(&str) -> Option<String>, clock: &Clock, tests: Tests) -> (Loaded, bool) {
    let mut reader = Reader::default();
    let directory = reader.is_dir(path);
    let base = if directory { path } else { path.parent().unwrap_or(Path::new("")) };
    let file = if directory { path.join("sidehook.yaml") } else { path.to_owned() };
    let mut d = Decoder::new(&mut reader, env, base.to_owned());
    let mut reach = Reach::default();
    let compiled = if d.reader.exists(&file) {
        compile(&mut d, &file, directory.then_some(path), clock, &mut reach)
    } else {
        missing(&mut d, path, directory, &file);
        None
    };
    let cases = compiled.as_ref().map(|parts| parts.tests(&mut d, tests)).unwrap_or_default();
    let rules_dir = compiled.as_ref().map(|parts| d.show(&parts.rules_dir)).unwrap_or_default();
    let report = d.report();
    let warnings = std::mem::take(&mut d.warnings);
    let inputs = reader.inputs();
    let hash = reader.hash();
    let torn = reader.is_torn();
    let result = match compiled {
        Some(parts) if report.problems.is_empty() => Ok(Generation {
            hash: hash.clone(),
            settings: parts.settings,
            webhooks: parts.webhooks,
            analyses: parts.analyses,
            scripts: parts.scripts,
            rules_dir,
            warnings: all_warnings(warnings, &inputs),
            inputs: inputs.clone(),
        }),
        _ => Err(report),
    };
    (Loaded { inputs, hash, result, tests: cases, reach }, torn)
}

fn missing(d: &mut Decoder<'_>, path: &Path, directory: bool, file: &Path) {
    // Asked for all the same, so that its coming is noticed.
    let _ = d.reader.read(file, limits::CONFIG_FILE_BYTES);
    let problem = if directory {
        let other = ["sidehook.yml", "config.yaml", "config.yml", "sidehook.json"];
        let near = other.into_iter().find(|name| path.join(name).exists());
        let help = near.map_or_else(
            || "name another directory or file with --config PATH".to_owned(),
            |near| format!("there is a {near}: rename it, or name it with --config PATH"),
        );
        Problem::of_file(path.display().to_string(), "there is no sidehook.yaml in this directory").with_help(help)
    } else {
        Problem::of_file(path.display().to_string(), "there is no such file or directory")
            .with_help("name a directory or file with --config PATH")
    };
    d.plain_problem(problem);
}

struct Parts {
    settings: super::model::Settings,
    webhooks: BTreeMap<Arc<str>, Arc<Webhook>>,
    analyses: Vec<Arc<Analysis>>,
    scripts: Arc<crate::rules::Scripts>,
    rules_dir: PathBuf,
    test_files: Vec<String>,
}

impl Parts {
    fn tests(&self, d: &mut Decoder<'_>, tests: Tests) -> Vec<Case> {
        if tests == Tests::Skip || (tests == Tests::Gate && !self.settings.run_tests) {
            return Vec::new();
        }
        let mut cases = Vec::new();
        for name in &self.test_files {
            cases.extend(cases::read(d, &self.rules_dir, name, &self.scripts, &self.webhooks));
        }
        // On a configuration with other problems a failing test would be one of their consequences.
        if tests == Tests::Gate && d.report().problems.is_empty() {
            for case in &cases {
                case.gate(d);
            }
        }
        cases
    }
}

fn compile(
    d: &mut Decoder<'_>,
    file: &Path,
    directory: Option<&Path>,
    clock: &Clock,
    reach: &mut Reach,
) -> Option<Parts> {
    let root = d.yaml(file, &Kind::Block(&shape::ROOT)).map(|(node, _)| node);
    let mut folder = Vec::new();
    if let Some(directory) = directory {
        folder = webhook_files(d, &directory.join("webhooks"));
    } else if let Some(beside) = file.parent().map(|parent| parent.join("webhooks")).filter(|dir| d.reader.is_dir(dir))
    {
        d.warnings.push(format!(
            "{} is not read, since --config names {} and not the directory that both are in",
            beside.display(),
            file.display()
        ));
    }
    // Without settings the webhooks are still checked, against the defaults.
    let empty = Node { span: Span { file: usize::MAX, ..Span::default() }, value: Value::Map(Vec::new()) };
    let root_fields = d
        .fields(root.as_ref().unwrap_or(&empty), &shape::ROOT, None)
        .or_else(|| d.fields(&empty, &shape::ROOT, None))?;
    let mut decoded = settings::decode(d, &root_fields);
    if let Some(root) = &root {
        *reach = settings::reach(d, root, &root_fields, &decoded.settings);
    }
    let library = scripts::load(d, &decoded, clock);
    sources::adapters(d, &root_fields, &library, &mut decoded.settings.sources);
    let defaults = root_fields.get("defaults");
    let allow_http = decoded.settings.egress.allow_http || root.is_none();
    if let Some(node) = defaults {
        let shared = Shared { defaults: None, library: &library, allow_http, partial: true };
        let _ = webhook::decode(d, "defaults", node, &shared, String::new());
    }
    let shared = Shared { defaults, library: &library, allow_http, partial: false };
    let mut webhooks = BTreeMap::new();
    let named = inline(d, &root_fields, &shared, &mut webhooks);
    for (path, name) in folder {
        one_file(d, &path, &name, &shared, &named, &mut webhooks);
    }
    if webhooks.len() > limits::WEBHOOKS {
        d.file_problem(d.show(file), &format!("more than {} webhooks", limits::WEBHOOKS));
    }
    root?;
    Some(Parts {
        settings: decoded.settings,
        analyses: decoded.analyses,
        webhooks,
        scripts: library.scripts,
        rules_dir: decoded.rules_dir,
        test_files: library.test_files,
    })
}

type Webhooks = BTreeMap<Arc<str>, Arc<Webhook>>;

/// Webhooks under `webhooks:`. Their names come back with the line they stand on.
fn inline(d: &mut Decoder<'_>, root: &Fields<'_>, shared: &Shared<'_>, out: &mut Webhooks) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    let Some(node) = root.get("webhooks") else { return named };
    let entries: &[(Key, Node)] = d.map(node).unwrap_or_default();
    for (key, node) in entries {
        check_name(d, key, "webhook");
        named.insert(key.text.clone(), format!("sidehook.yaml, line {}", key.span.line));
        let mut canonical = String::new();
        node.canonical(&mut canonical);
        let hash = reader::sha256(canonical.as_bytes());
        match webhook::decode(d, &key.text, node, shared, hash) {
            Some(webhook) => drop(out.insert(Arc::clone(&webhook.name), Arc::new(webhook))),
            None => lost(d, node.span),
        }
    }
    named
}

/// No webhook goes without a word, even where a mistake was overlooked.
fn lost(d: &mut Decoder<'_>, span: Span) {
    if d.report().problems.is_empty() {
        let help = "this is a fault of sidehook, please report it".to_owned();
        d.problem(span, "this webhook cannot be read", Some(help));
    }
}

/// The files of `webhooks/`, in name order.
fn webhook_files(d: &mut Decoder<'_>, dir: &Path) -> Vec<(PathBuf, String)> {
    let entries = match d.reader.list(dir) {
        Ok(entries) => entries,
        Err(ReadError::Missing) => {
            d.reader.expect_listing(dir);
            return Vec::new();
        }
        Err(ReadError::NotAFile) => {
            let problem = Problem::of_file(d.show(dir), "this is no directory");
            d.plain_problem(problem.with_help("webhooks are files in it: webhooks/NAME.yaml"));
            return Vec::new();
        }
        Err(error) => {
            d.unread_file(dir, &error);
            return Vec::new();
        }
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = dir.join(&entry.name);
        let shown = d.show(&path);
        if let Some(stem) = entry.name.strip_suffix(".yaml").filter(|_| !entry.directory) {
            match values::name(stem) {
                Ok(()) => out.push((path, stem.to_owned())),
                Err(right) => d.plain_problem(
                    Problem::of_file(shown, format!("the file's name is not a name for a webhook: {right}"))
                        .with_help(values::rename(stem)),
                ),
            }
        } else if entry.directory && Path::new(&entry.name).extension().is_some_and(|e| e == "yaml") {
            d.plain_problem(
                Problem::of_file(shown, "this is a directory, so it would be ignored")
                    .with_help("a webhook is a file here; rename or remove the directory"),
            );
        } else if let Some((right, ending)) = entry.name.rsplit_once('.')
            && ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known))
        {
            d.plain_problem(
                Problem::of_file(shown, "webhook files end in .yaml, so this one would be ignored")
                    .with_help(format!("rename it to {right}.yaml")),
            );
        }
    }
    out
}

fn one_file(
    d: &mut Decoder<'_>,
    path: &Path,
    name: &str,
    shared: &Shared<'_>,
    named: &BTreeMap<String, String>,
    out: &mut Webhooks,
) {
    let Some((node, text)) = d.yaml(path, &Kind::Block(&shape::WEBHOOK)) else { return };
    if node.is_null() {
        let problem = Problem::of_file(d.show(path), "the file is empty");
        return d.plain_problem(problem.with_help("write a webhook, or remove the file"));
    }
    if let Some(other) = named.get(name) {
        webhook::duplicate(d, node.span, name, other);
        return;
    }
    if !matches!(node.value, Value::Map(_)) {
        webhook::not_a_webhook(d, &node);
        return;
    }
    match webhook::decode(d, name, &node, shared, reader::sha256(text.as_bytes())) {
        Some(webhook) => drop(out.insert(Arc::clone(&webhook.name), Arc::new(webhook))),
        None => lost(d, node.span),
    }
}

fn all_warnings(mut warnings: Vec<String>, inputs: &Inputs) -> Vec<String> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for path in reader::single_file_mounts(&inputs.files, &mountinfo) {
        warnings.push(format!(
            "{} is mounted as a single file (subPath); Kubernetes never updates such a file, so changes need a restart: \
             mount its directory instead",
            path.display()
        ));
    }
    warnings
}
