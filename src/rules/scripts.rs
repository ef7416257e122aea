//! All scripts of a generation: compiled, linked and checked at load, called without any lock afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rhai::{AST, Dynamic, Engine, EvalAltResult, FuncArgs, Module, ModuleResolver, Position, Scope};

use super::engine::{self, Call, Facts};
use super::explain;
use super::host::Host;
use super::library;
use super::lint;
use super::program::RuleError;
use super::view;
use crate::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::limits;
use crate::telemetry::rules::{RuleRan, RuleSuspended};

/// A mistake in a script, found at load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptProblem {
    /// Path relative to `rules_dir`; empty for an inline expression.
    pub file: String,
    /// 1-based; 0 when unknown.
    pub line: usize,
    /// 1-based; 0 when unknown.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Bounds of one script call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptLimits {
    /// Rhai operations.
    pub operations: u64,
    /// Wall clock, host functions included.
    pub time: Duration,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self { operations: limits::DEFAULT_SCRIPT_OPERATIONS, time: limits::DEFAULT_SCRIPT_TIME }
    }
}

/// All scripts of one generation, compiled. Cheap to share; no lock is held across a call.
pub struct Scripts {
    shared: Arc<Shared>,
    rules: BTreeMap<String, Arc<Rule>>,
}

/// What every rule of a generation needs.
struct Shared {
    engine: Engine,
    limits: ScriptLimits,
    clock: Clock,
    sources: Arc<Sources>,
    /// Names and parameter counts of native functions.
    known: BTreeMap<String, BTreeSet<usize>>,
}

/// Source texts and the modules made of them, by path without suffix. A module's place is filled once, at load.
struct Sources {
    files: BTreeMap<String, Source>,
}

struct Source {
    /// As it is called in messages: `crm.rhai`, `sidehook/format`.
    file: String,
    text: Arc<str>,
    module: OnceLock<Arc<Module>>,
}

impl Scripts {
    /// Compiles every source (path relative to `rules_dir`, with forward slashes → text). `env` holds the values that
    /// `env()` may read. Scripts that fail are reported; the others are still there for further checks.
    #[must_use]
    pub fn compile(
        sources: &BTreeMap<String, Arc<str>>,
        env: BTreeMap<String, String>,
        limits: ScriptLimits,
        clock: Clock,
    ) -> (Self, Vec<ScriptProblem>) {
        let mut problems = Vec::new();
        let sources = Arc::new(collect(sources, &mut problems));
        let mut engine = engine::build(&limits, &clock, Host { env, clock: clock.clone() });
        engine.set_module_resolver(Resolver(Arc::clone(&sources)));
        let known = lint::native(&engine);
        let shared = Arc::new(Shared { engine, limits, clock, sources, known });
        let rules = Linker::new(&shared, &mut problems).link();
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        (Self { shared, rules }, problems)
    }

    /// The rule in `file` (relative to `rules_dir`, or `sidehook/…` from the library inside the binary).
    #[must_use]
    pub fn rule(&self, file: &str) -> Option<Arc<Rule>> {
        self.rules.get(key_of(file)).cloned()
    }

    /// Every rule of `rules_dir`, and of the library inside the binary, by path without suffix.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    /// Names of the standard functions with a map or an array among their parameters.
    #[cfg(test)]
    pub(super) fn names_taking_maps_or_arrays(&self) -> std::collections::BTreeSet<String> {
        use std::any::TypeId;
        let taken = [TypeId::of::<rhai::Map>(), TypeId::of::<rhai::Array>()];
        let names = self.shared.engine.collect_fn_metadata(
            None,
            |info| info.metadata.param_types.iter().any(|t| taken.contains(t)).then(|| info.metadata.name.to_string()),
            true,
        );
        names.into_iter().collect()
    }

    /// A `when` expression. Positions are relative to the expression.
    pub fn when(&self, expression: &str) -> Result<When, ScriptProblem> {
        let shared = &self.shared;
        let mut scope = Scope::new();
        scope.push_dynamic("event", Dynamic::UNIT);
        let ast = shared
            .engine
            .compile_expression_with_scope(&scope, expression)
            .map_err(|error| explain::parse_error("", expression, &error))?;
        if let Some(problem) = lint::check(&shared.known, &ast, "", expression, &[]).into_iter().next() {
            return Err(problem);
        }
        Ok(When { shared: Arc::clone(shared), ast, text: Arc::from(expression), health: Health::default() })
    }
}

fn collect(given: &BTreeMap<String, Arc<str>>, problems: &mut Vec<ScriptProblem>) -> Sources {
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
fn key_of(path: &str) -> &str {
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
struct Resolver(Arc<Sources>);

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
struct Linker<'a> {
    shared: &'a Arc<Shared>,
    problems: &'a mut Vec<ScriptProblem>,
    rules: BTreeMap<String, Arc<Rule>>,
    done: BTreeMap<String, bool>,
    open: Vec<String>,
}

impl<'a> Linker<'a> {
    fn new(shared: &'a Arc<Shared>, problems: &'a mut Vec<ScriptProblem>) -> Self {
        Self { shared, problems, rules: BTreeMap::new(), done: BTreeMap::new(), open: Vec::new() }
    }

    fn link(mut self) -> BTreeMap<String, Arc<Rule>> {
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

/// Runs a script. Rhai has `unreachable!`s of its own: one that is reached fails the rule, not the process.
fn guarded<T>(run: impl FnOnce() -> Result<T, Box<EvalAltResult>>) -> Result<T, Box<EvalAltResult>> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err("the script engine failed; this is a fault of sidehook, please report it".into()))
}

/// Time-outs in a row, and until when the rule rests.
#[derive(Debug, Default)]
struct Health {
    timeouts: AtomicU32,
    /// Milliseconds since the epoch; 0 while the rule runs.
    suspended_until: AtomicI64,
}

impl Health {
    /// Whether a call may run. After a suspension one call at a time tries whether the rule is well again.
    fn admit(&self, now: Timestamp, suspend_for: Duration) -> bool {
        let until = self.suspended_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        let next = now.plus(suspend_for).as_millis().max(1);
        now.as_millis() >= until
            && self.suspended_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes note of how a call ended; true when it suspends the rule.
    fn record(&self, timed_out: bool, now: Timestamp, suspend_for: Duration) -> bool {
        if !timed_out {
            // Almost always true already; a plain load keeps the line shared between cores.
            if self.timeouts.load(Ordering::Relaxed) != 0 {
                self.timeouts.store(0, Ordering::Release);
                self.suspended_until.store(0, Ordering::Release);
            }
            return false;
        }
        if self.timeouts.fetch_add(1, Ordering::AcqRel) + 1 < limits::RULE_TIMEOUTS {
            return false;
        }
        self.suspended_until.store(now.plus(suspend_for).as_millis().max(1), Ordering::Release);
        true
    }
}

/// A compiled rule file with its optional `accept`, `transform`, `headers`.
pub struct Rule {
    file: String,
    functions: Vec<(String, usize)>,
    ast: AST,
    shared: Arc<Shared>,
    health: Health,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Rule {
    /// Path relative to `rules_dir`, or `sidehook/…`.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The metric label: the file name without folders and suffix.
    #[must_use]
    pub fn name(&self) -> &str {
        key_of(self.file.rsplit('/').next().unwrap_or(&self.file))
    }

    /// Names and parameter counts of the functions it defines.
    #[must_use]
    pub fn functions(&self) -> &[(String, usize)] {
        &self.functions
    }

    /// Whether it defines `name` with so many parameters.
    #[must_use]
    pub fn has(&self, name: &str, parameters: usize) -> bool {
        self.functions.iter().any(|(n, p)| n == name && *p == parameters)
    }

    pub(super) fn limits(&self) -> &ScriptLimits {
        &self.shared.limits
    }

    pub(super) fn call(
        &self,
        call: &Call,
        function: &str,
        args: impl FuncArgs,
        suspend_for: Duration,
    ) -> Result<Dynamic, RuleError> {
        let shared = &self.shared;
        let what = Callee { file: &self.file, name: self.name(), function, inline: None, health: &self.health };
        shared.run(call, &what, suspend_for, || {
            shared.engine.call_fn::<Dynamic>(&mut Scope::new(), &self.ast, function, args)
        })
    }
}

/// A compiled `when` expression.
pub struct When {
    shared: Arc<Shared>,
    ast: AST,
    text: Arc<str>,
    health: Health,
}

impl std::fmt::Debug for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("When").field(&self.text).finish()
    }
}

impl When {
    pub(super) fn limits(&self) -> &ScriptLimits {
        &self.shared.limits
    }

    pub(super) fn test(&self, call: &Call, event: &Event, suspend_for: Duration) -> Result<bool, RuleError> {
        let shared = &self.shared;
        let what = Callee { file: "", name: "when", function: "when", inline: Some(&self.text), health: &self.health };
        let value = shared.run(call, &what, suspend_for, || {
            let mut scope = Scope::new();
            scope.push_dynamic("event", view::of_event(&event.root));
            shared.engine.eval_ast_with_scope::<Dynamic>(&mut scope, &self.ast)
        })?;
        value
            .as_bool()
            .map_err(|kind| RuleError::new("", "when", "type", format!("when gave {kind}, not true or false")))
    }
}

impl Shared {
    /// Runs one function under the limits, if the rule is not suspended.
    fn run(
        &self,
        call: &Call,
        what: &Callee,
        suspend_for: Duration,
        run: impl FnOnce() -> Result<Dynamic, Box<EvalAltResult>>,
    ) -> Result<Dynamic, RuleError> {
        if !what.health.admit(self.clock.now(), suspend_for) {
            let message = format!("suspended after {} time-outs in a row; mend the script", limits::RULE_TIMEOUTS);
            return Err(RuleError::new(what.file, what.function, "suspended", message));
        }
        let start = self.clock.instant();
        call.arm(start, self.limits.time);
        let result = guarded(run).and_then(|value| call.ended().map(|()| value));
        let took = self.clock.instant().duration_since(start);
        call.disarm(took);
        RuleRan { rule: what.name, took }.emit();
        let result = result.map_err(|error| {
            let text_of = |file: &str| {
                let source = || self.sources.files.get(key_of(file)).map(|source| Arc::clone(&source.text));
                what.inline.cloned().or_else(source)
            };
            explain::run_error(what.file, what.function, &text_of, error)
        });
        let timed_out = result.as_ref().is_err_and(|error| error.kind == "timeout");
        if what.health.record(timed_out, self.clock.now(), suspend_for) {
            RuleSuspended { rule: what.name, suspended_for: suspend_for }.emit();
        }
        result
    }
}

/// What [`Shared::run`] is to run, for messages and metrics.
struct Callee<'a> {
    file: &'a str,
    /// The metric's label.
    name: &'a str,
    function: &'a str,
    /// The source of an expression.
    inline: Option<&'a Arc<str>>,
    health: &'a Health,
}

impl Facts {
    pub(super) fn of(event: &Event) -> Self {
        Self { id: Arc::clone(&event.id), arrived: event.arrived }
    }
}
