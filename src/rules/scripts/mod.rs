//! All scripts of a generation: compiled, linked and checked at load, called without any lock afterwards.

mod export;
mod link;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rhai::{
    AST, ASTNode, Caches, Dynamic, Engine, EvalAltResult, FnAccess, GlobalRuntimeState, ImmutableString, Module,
    Position, Scope, Stmt,
};

use self::link::{Linker, Resolver, Sources, collect, key_of};
use self::run::Callee;
pub(super) use self::run::Health;
use super::engine::{self, Call, Facts};
use super::explain;
use super::host::Host;
use super::library;
use super::lint;
use super::program::RuleError;
use super::view;
use crate::clock::Clock;
use crate::event::Event;
use crate::limits;

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
    /// Adapters inside the binary, which are compiled when one is named: most configurations name none.
    adapters: Mutex<BTreeMap<String, Arc<Rule>>>,
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
        let mut engine = engine::build(&clock, Host { env, clock: clock.clone() });
        engine.set_module_resolver(Resolver(Arc::clone(&sources)));
        let known = lint::native(&engine);
        let shared = Arc::new(Shared { engine, limits, clock, sources, known });
        let rules = Linker::new(&shared, &mut problems).link();
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        (Self { shared, rules, adapters: Mutex::default() }, problems)
    }

    /// The rule in `file` (relative to `rules_dir`, or `sidehook/…` from the library inside the binary).
    #[must_use]
    pub fn rule(&self, file: &str) -> Option<Arc<Rule>> {
        let key = key_of(file);
        self.rules.get(key).cloned().or_else(|| self.adapter_inside(key))
    }

    fn adapter_inside(&self, key: &str) -> Option<Arc<Rule>> {
        if !library::is_adapter(key) {
            return None;
        }
        let mut adapters = self.adapters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = adapters.get(key) {
            return Some(Arc::clone(known));
        }
        // They have no mistakes: tests see to that.
        let rule = Linker::new(&self.shared, &mut Vec::new()).link_one(key)?;
        adapters.insert(key.to_owned(), Arc::clone(&rule));
        Some(rule)
    }

    /// Every rule of `rules_dir`, and of the library inside the binary but adapters, by path without suffix.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    /// Names of the scripts inside the binary.
    pub fn inside() -> impl Iterator<Item = String> {
        library::names()
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

/// A function as sidehook runs it.
struct Body {
    name: ImmutableString,
    params: Vec<ImmutableString>,
    statements: Vec<Stmt>,
    /// Whether importers may call it.
    public: bool,
}

impl Body {
    /// Every function that has a name.
    fn all(ast: &AST) -> Vec<Self> {
        let named = ast.iter_functions().filter(|f| !f.name.contains('$'));
        let found = named.filter_map(|f| ast.shared_lib().get_script_fn(f.name, f.params.len()).map(Arc::clone));
        found
            .map(|function| {
                let mut statements = Vec::new();
                // Of a script with this function only, what stands at the top is its body.
                let alone = AST::new([], Module::from([Arc::clone(&function)]));
                alone.walk(&mut |path| {
                    if let [ASTNode::Stmt(statement)] = path {
                        statements.push((*statement).clone());
                    }
                    true
                });
                let public = function.access == FnAccess::Public;
                Self { name: function.name.clone(), params: function.params.to_vec(), statements, public }
            })
            .collect()
    }

    /// Runs it from `frame` on. Nothing is remembered of what its names stood for.
    fn run(
        &self,
        engine: &Engine,
        mut frame: GlobalRuntimeState,
        args: impl Iterator<Item = Dynamic>,
    ) -> Result<Dynamic, Box<EvalAltResult>> {
        // As within a function: a constant defined there is none of the script.
        frame.scope_level = 1;
        let mut scope = Scope::new();
        for (name, value) in self.params.iter().zip(args) {
            scope.push_dynamic(name.clone(), value);
        }
        #[expect(deprecated, reason = "Rhai marks so what it may change; there is no other way to this")]
        engine.eval_statements_raw(&mut frame, &mut Caches::new(), &mut scope, &self.statements)
    }
}

/// A compiled rule file with its optional `accept`, `transform`, `headers`.
pub struct Rule {
    file: String,
    functions: Vec<(String, usize)>,
    bodies: Vec<Body>,
    /// Its functions, imports and constants: what a call begins with.
    frame: GlobalRuntimeState,
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

    /// What is wrong with what a function gave, at the place where that is declared.
    pub(super) fn fault(&self, function: &str, kind: &'static str, message: String) -> RuleError {
        let error = RuleError::new(&self.file, function, kind, message);
        let source = self.shared.sources.files.get(key_of(&self.file));
        match source {
            Some(source) => explain::at_declaration(error, &source.text),
            None => error,
        }
    }

    /// Those that importers may call.
    fn exports(&self) -> impl Iterator<Item = (String, usize)> {
        self.bodies.iter().filter(|body| body.public).map(|body| (body.name.to_string(), body.params.len()))
    }

    /// Whether it defines `name` with so many parameters.
    #[must_use]
    pub fn has(&self, name: &str, parameters: usize) -> bool {
        self.functions.iter().any(|(n, p)| n == name && *p == parameters)
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    pub(super) fn limits(&self) -> &ScriptLimits {
        &self.shared.limits
    }

    pub(super) fn call(
        &self,
        call: &Call,
        function: &str,
        args: &mut [Dynamic],
        suspend_for: Duration,
    ) -> Result<Dynamic, RuleError> {
        let shared = &self.shared;
        let what = Callee { file: &self.file, name: self.name(), function, inline: None, health: &self.health };
        shared.run(call, &what, suspend_for, || self.invoke(function, args))
    }

    /// Runs the statements of a function. Rhai's way of calling one puts the place of the call over the place at which a
    /// limit ended it, and sidehook calls from no place.
    fn invoke(&self, function: &str, args: &mut [Dynamic]) -> Result<Dynamic, Box<EvalAltResult>> {
        let Some(found) = self.bodies.iter().find(|body| body.name == function && body.params.len() == args.len())
        else {
            return Err(EvalAltResult::ErrorFunctionNotFound(function.to_owned(), Position::NONE).into());
        };
        let mut frame = self.frame.clone();
        frame.level = 1;
        found.run(&self.shared.engine, frame, args.iter_mut().map(Dynamic::take))
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
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

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
        value.as_bool().map_err(|_| {
            let message = format!("gave {}, not true or false", view::describe(&value));
            RuleError::new("", "when", "type", message)
        })
    }
}

impl Facts {
    pub(super) fn of(event: &Event) -> Self {
        Self { id: Arc::clone(&event.id), arrived: event.arrived }
    }
}
