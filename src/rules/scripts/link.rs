//! Sources become modules and rules, what is imported first; mistakes are found here, at load. Runs a script's top level
//! only.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rhai::{AST, Engine, EvalAltResult, Module, ModuleResolver, Position, Scope};

use super::run::{Health, guarded};
use super::{Rule, ScriptProblem, Shared};
use crate::limits;
use crate::rules::engine::{self, Call};
use crate::rules::{explain, library, lint};

/// Source texts and the modules made of them, by path without suffix. A module's place is filled once, at load.
pub(super) struct Sources {
    pub files: BTreeMap<String, Source>,
}

pub(super) struct Source {
    /// As it is called in messages: `crm.rhai`, `sidehook/format`.
    pub file: String,
    pub text: Arc<str>,
    module: OnceLock<Arc<Module>>,
}

pub(super) fn collect(given: &BTreeMap<String, Arc<str>>, problems: &mut Vec<ScriptProblem>) -> Sources {
    let mut files = BTreeMap::new();
    let mut problem = |file: &str, message: String| {
        problems.push(ScriptProblem { file: file.to_owned(), line: 0, column: 0, message });
    };
    for (file, text) in given {
        if file.starts_with(library::PREFIX) {
            problem(file, "the folder name `sidehook` is kept for the scripts inside the binary; rename it".into());
            continue;
        }
        if text.len() > limits::SCRIPT_SOURCE_BYTES {
            problem(file, format!("the script is larger than {} bytes", limits::SCRIPT_SOURCE_BYTES));
            continue;
        }
        let source = Source { file: file.clone(), text: Arc::clone(text), module: OnceLock::new() };
        files.insert(key_of(file).to_owned(), source);
    }
    for (name, text) in library::SCRIPTS {
        let file = format!("{}{name}", library::PREFIX);
        files.insert(file.clone(), Source { file, text: Arc::from(text), module: OnceLock::new() });
    }
    Sources { files }
}

/// Scripts are found with and without their suffix.
pub(super) fn key_of(path: &str) -> &str {
    path.strip_suffix(".rhai").unwrap_or(path)
}

/// Checks an import's path and gives the key under which the script is known.
fn import_key<'a>(sources: &Sources, path: &'a str) -> Result<&'a str, String> {
    let key = key_of(path);
    if path.starts_with('/') || path.contains('\\') || path.contains(':') {
        return Err(format!(
            "import \"{path}\": write a path below rules_dir with forward slashes, for example \"lib/crm\""
        ));
    }
    if key.split('/').any(|part| matches!(part, ".." | "." | "")) {
        return Err(format!("import \"{path}\": a path below rules_dir has no `.`, `..` or empty parts"));
    }
    if sources.files.contains_key(key) {
        return Ok(key);
    }
    let known: Vec<&str> = sources.files.keys().map(String::as_str).collect();
    let hint = match lint::nearest(key, known.iter().copied()) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None if key.starts_with(library::PREFIX) => {
            let names: Vec<&str> = known.into_iter().filter(|k| k.starts_with(library::PREFIX)).collect();
            format!("; the binary holds {}", names.join(", "))
        }
        None => String::new(),
    };
    Err(format!("import \"{path}\": there is no {key}.rhai under rules_dir{hint}"))
}

/// Imports of running scripts: only what was loaded, without I/O and without a lock.
pub(super) struct Resolver(pub Arc<Sources>);

impl ModuleResolver for Resolver {
    fn resolve(
        &self,
        _: &Engine,
        _: Option<&str>,
        path: &str,
        pos: Position,
    ) -> Result<Arc<Module>, Box<EvalAltResult>> {
        let found = import_key(&self.0, path).ok().and_then(|key| self.0.files.get(key)?.module.get());
        found.cloned().ok_or_else(|| EvalAltResult::ErrorModuleNotFound(path.to_owned(), pos).into())
    }
}

/// Makes modules and rules of sources, what is imported first.
pub(super) struct Linker<'a> {
    shared: &'a Arc<Shared>,
    problems: &'a mut Vec<ScriptProblem>,
    rules: BTreeMap<String, Arc<Rule>>,
    done: BTreeMap<String, bool>,
    open: Vec<String>,
}

impl<'a> Linker<'a> {
    pub fn new(shared: &'a Arc<Shared>, problems: &'a mut Vec<ScriptProblem>) -> Self {
        Self { shared, problems, rules: BTreeMap::new(), done: BTreeMap::new(), open: Vec::new() }
    }

    pub fn link(mut self) -> BTreeMap<String, Arc<Rule>> {
        let keys: Vec<String> = self.shared.sources.files.keys().cloned().collect();
        for key in keys {
            self.visit(&key);
        }
        self.rules
    }

    /// Links one script after what it imports; false when it cannot be used.
    fn visit(&mut self, key: &str) -> bool {
        if let Some(done) = self.done.get(key) {
            return *done;
        }
        let shared = Arc::clone(self.shared);
        let Some(source) = shared.sources.files.get(key) else { return false };
        self.open.push(key.to_owned());
        let good = self.load(key, source, &shared);
        self.open.pop();
        self.done.insert(key.to_owned(), good);
        good
    }

    fn load(&mut self, key: &str, source: &Source, shared: &Arc<Shared>) -> bool {
        let mut ast = match shared.engine.compile(&*source.text) {
            Ok(ast) => ast,
            Err(error) => {
                self.problems.push(explain::parse_error(&source.file, &source.text, &error));
                return false;
            }
        };
        ast.set_source(source.file.as_str());
        let mut good = true;
        let mut imported = Vec::new();
        for import in lint::imports(&ast) {
            match self.import(&import, source) {
                Ok(Some(functions)) => imported.push((import.alias, functions)),
                Ok(None) => good = false,
                Err(message) => {
                    good = false;
                    self.problems.push(ScriptProblem {
                        file: source.file.clone(),
                        line: import.line,
                        column: import.column,
                        message,
                    });
                }
            }
        }
        if !good {
            return false;
        }
        let found = lint::check(&shared.known, &ast, &source.file, &source.text, &imported);
        if !found.is_empty() {
            self.problems.extend(found);
            return false;
        }
        self.finish(key, source, ast, shared)
    }

    /// The functions of the script that an import names; `None` when it has problems of its own.
    fn import(&mut self, import: &lint::Import, source: &Source) -> Result<Option<lint::Functions>, String> {
        let Some(path) = &import.path else {
            return Err("import takes a path in quotes, so that it can be checked when the script is loaded".into());
        };
        let shared = Arc::clone(self.shared);
        let key = import_key(&shared.sources, path)?;
        if let Some(start) = self.open.iter().position(|open| open == key) {
            let mut ring: Vec<&str> = self.open[start..].iter().map(String::as_str).collect();
            ring.push(key);
            return Err(format!("import cycle: {}", ring.join(" imports ")));
        }
        if source.file.starts_with(library::PREFIX) && !key.starts_with(library::PREFIX) {
            return Err(format!("the library imports only from itself, not \"{path}\""));
        }
        if !self.visit(key) {
            return Ok(None);
        }
        Ok(self.rules.get(key).map(|rule| rule.functions.clone()))
    }

    fn finish(&mut self, key: &str, source: &Source, ast: AST, shared: &Arc<Shared>) -> bool {
        let call = Call::begin(None);
        call.arm(shared.clock.instant(), shared.limits.time);
        let module = engine::with_stack(&shared.limits, || {
            guarded(|| Module::eval_ast_as_new(Scope::new(), &ast, &shared.engine))
        });
        drop(call);
        match module {
            Ok(module) => {
                // Set once: every key is visited once.
                let _ = source.module.set(Arc::new(module));
            }
            Err(error) => {
                let error = explain::run_error(&source.file, "", &|_| None, error);
                self.problems.push(ScriptProblem {
                    file: error.file,
                    line: error.line,
                    column: error.column,
                    message: error.message,
                });
                return false;
            }
        }
        let functions: Vec<(String, usize)> =
            ast.iter_functions().map(|f| (f.name.to_owned(), f.params.len())).collect();
        let rule =
            Rule { file: source.file.clone(), shared: Arc::clone(shared), functions, ast, health: Health::default() };
        self.rules.insert(key.to_owned(), Arc::new(rule));
        true
    }
}
