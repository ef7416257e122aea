//! Sources become modules and rules, what is imported first; mistakes are found here, at load. Runs a script's top level
//! only.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rhai::{
    AST, Engine, EvalAltResult, GlobalRuntimeState, ImmutableString, Module, ModuleResolver, ParseError,
    ParseErrorType, Position,
};

use super::export::export;
use super::run::{Health, guarded};
use super::{Body, Rule, ScriptLimits, ScriptProblem, Shared};
use crate::limits;
use crate::rules::engine::{self, Call, Mode};
use crate::rules::{constants, explain, library, lint};

/// Source texts and the modules made of them, by path without suffix. A module's place is filled once, at load.
pub(super) struct Sources {
    pub files: BTreeMap<String, Source>,
}

pub(super) struct Source {
    /// As it is called in messages: `crm.rhai`, `sidehook/format`.
    pub file: String,
    pub text: Arc<str>,
    module: OnceLock<Arc<Module>>,
    constants: OnceLock<Arc<Module>>,
}

impl Source {
    fn new(file: String, text: Arc<str>) -> Self {
        Self { file, text, module: OnceLock::new(), constants: OnceLock::new() }
    }
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
        files.insert(key_of(file).to_owned(), Source::new(file.clone(), Arc::clone(text)));
    }
    for (name, text) in library::SCRIPTS.into_iter().chain(library::ADAPTERS) {
        let file = format!("{}{name}", library::PREFIX);
        files.insert(file.clone(), Source::new(file, Arc::from(text)));
    }
    Sources { files }
}

impl Sources {
    /// One of their modules, to be shared.
    pub(super) fn shared(&self, module: &Module) -> Option<Arc<Module>> {
        let all = self.files.values().flat_map(|source| source.module.get().into_iter().chain(source.constants.get()));
        all.into_iter().find(|known| std::ptr::eq(Arc::as_ptr(known), module)).cloned()
    }

    /// The module of a script that was loaded.
    fn module(&self, key: &str) -> Option<&Arc<Module>> {
        self.files.get(key)?.module.get()
    }
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
    let known: Vec<&str> = sources.files.keys().map(String::as_str).filter(|key| !library::is_adapter(key)).collect();
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
        source: Option<&str>,
        path: &str,
        pos: Position,
    ) -> Result<Arc<Module>, Box<EvalAltResult>> {
        let found = if path == constants::OWN {
            source.and_then(|file| self.0.files.get(key_of(file))?.constants.get())
        } else {
            import_key(&self.0, path).ok().and_then(|key| self.0.module(key))
        };
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
        let keys: Vec<String> =
            self.shared.sources.files.keys().filter(|key| !library::is_adapter(key)).cloned().collect();
        for key in keys {
            self.visit(&key);
        }
        self.rules
    }

    /// One script with what it imports.
    pub fn link_one(mut self, key: &str) -> Option<Arc<Rule>> {
        self.visit(key);
        self.rules.remove(key)
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
                let problem = explain::parse_error(&source.file, &source.text, &error);
                if let Some(ast) = self.read_on(source, &error, problem) {
                    self.check(source, &ast, shared);
                }
                return false;
            }
        };
        ast.set_source(source.file.as_str());
        self.check(source, &ast, shared) && self.finish(key, source, &ast, shared)
    }

    /// Reports what kept a script from compiling, and where that is an unknown name all others too; gives the script as
    /// far as it can be checked further.
    fn read_on(&mut self, source: &Source, error: &ParseError, first: ScriptProblem) -> Option<AST> {
        let unknown =
            matches!(error.err_type(), ParseErrorType::VariableUndefined(_) | ParseErrorType::ModuleUndefined(_));
        let read = unknown.then(|| engine::lenient(&self.shared.clock).compile(&*source.text));
        let ast = match read {
            Some(Ok(ast)) => Some(ast),
            Some(Err(error)) => {
                self.problems.push(explain::parse_error(&source.file, &source.text, &error));
                None
            }
            None => None,
        };
        let found = ast.as_ref().map(lint::undeclared).unwrap_or_default();
        let others = found.iter().map(|found| explain::undeclared(&source.file, &source.text, found));
        self.problems.extend(others.filter(|other| (other.line, other.column) != (first.line, first.column)));
        self.problems.push(first);
        ast
    }

    /// Checks a script and what it imports; false when something is wrong.
    fn check(&mut self, source: &Source, ast: &AST, shared: &Shared) -> bool {
        let mut good = true;
        let mut imported = Vec::new();
        for import in lint::imports(ast) {
            match self.import(&import, source) {
                Ok(Some((functions, names))) => {
                    imported.push(lint::Imported { alias: import.alias, functions, names });
                }
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
        let found = lint::check(&shared.known, ast, &source.file, &source.text, &imported);
        good &= found.is_empty();
        self.problems.extend(found);
        good
    }

    /// The functions and names of the script that an import names; `None` when it has problems of its own.
    fn import(
        &mut self,
        import: &lint::Import,
        source: &Source,
    ) -> Result<Option<(lint::Functions, Vec<String>)>, String> {
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
        let module = shared.sources.module(key);
        let names = module.into_iter().flat_map(|m| m.iter_var()).map(|(name, _)| name.to_owned()).collect();
        Ok(self.rules.get(key).map(|rule| (rule.exports().collect(), names)))
    }

    fn finish(&mut self, key: &str, source: &Source, ast: &AST, shared: &Arc<Shared>) -> bool {
        let call = Call::begin(None, Mode::Service);
        // What is inside the binary loads, however little time a configuration gives to its own scripts.
        let inside = source.file.starts_with(library::PREFIX);
        let limits =
            if inside { ScriptLimits { time: Duration::MAX, ..shared.limits.clone() } } else { shared.limits.clone() };
        call.arm(shared.clock.instant(), &limits);
        let run = || guarded(|| top_level(&shared.engine, &shared.sources, source, ast));
        let frame = engine::with_stack(&shared.limits, run).and_then(|frame| call.ended().map(|()| frame));
        drop(call);
        let frame = match frame {
            Ok(frame) => frame,
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
        };
        let functions: Vec<(String, usize)> =
            ast.iter_functions().map(|f| (f.name.to_owned(), f.params.len())).collect();
        let rule = Rule {
            file: source.file.clone(),
            shared: Arc::clone(shared),
            functions,
            bodies: Body::all(ast),
            frame,
            health: Health::default(),
        };
        self.rules.insert(key.to_owned(), Arc::new(rule));
        true
    }
}

/// Runs what stands outside functions, once; importers and calls share what comes of it.
fn top_level(
    engine: &Engine,
    sources: &Arc<Sources>,
    source: &Source,
    ast: &AST,
) -> Result<GlobalRuntimeState, Box<EvalAltResult>> {
    let made = constants::evaluate(engine, ast)?;
    // Set once, both: every script is visited once.
    let _ = source.constants.set(Arc::clone(&made));
    let mut module = constants::exported(engine, ast, &made)?;
    let imports = lint::top_imports(ast).into_iter().filter_map(|import| {
        let key = import_key(sources, import.path.as_deref()?).ok()?;
        Some((ImmutableString::from(import.alias), Arc::clone(sources.module(key)?)))
    });
    let frame = constants::frame(engine, ast, imports.collect(), made);
    for body in Body::all(ast).into_iter().filter(|body| body.public) {
        export(&mut module, body, &frame, &Arc::downgrade(sources));
    }
    module.build_index();
    let _ = source.module.set(Arc::new(module));
    Ok(frame)
}
