//! The top level of a script: run once, at load. What it leaves (imports and constants) is what every call begins with,
//! shared and unchangeable, without a lock and without a copy.

use std::sync::Arc;

use rhai::{
    AST, Array, Dynamic, Engine, EvalAltResult, Expr, GlobalRuntimeState, ImmutableString, Map, Module, Scope, Stmt,
};

use super::number::Exact;
use super::view;
use crate::event::Json;
use crate::limits;

/// The path under which a script's own constants are imported; no script can write it, since paths hold no colon.
pub(super) const OWN: &str = "sidehook:constants";

/// What Rhai calls a script's constants. It asks the imports for that name before its own table of constants, which is
/// behind a lock that sleeps when it is taken.
const GLOBAL: &str = "global";

/// Runs the top level; gives the constants as a module.
pub(super) fn evaluate(engine: &Engine, ast: &AST) -> Result<Arc<Module>, Box<EvalAltResult>> {
    let mut scope = Scope::new();
    engine.run_ast_with_scope(&mut scope, ast)?;
    let mut constants = Module::new();
    for (name, _, value) in scope.iter() {
        constants.set_var(name, freeze(value));
    }
    constants.build_index();
    Ok(Arc::new(constants))
}

/// What other scripts import: the functions, and the constants that are exported. The constants are not computed again;
/// `engine` must resolve [`OWN`] for this script.
pub(super) fn exported(engine: &Engine, ast: &AST, constants: &Module) -> Result<Module, Box<EvalAltResult>> {
    let mut statements = Vec::new();
    if constants.iter_var().next().is_some() {
        let own = engine.compile(format!("import \"{OWN}\" as {GLOBAL};"))?;
        statements.extend_from_slice(own.statements());
    }
    for statement in ast.statements() {
        let mut statement = statement.clone();
        if let Stmt::Var(var, _, position) = &mut statement
            && let Some(value) = constants.get_var(&var.0.name)
        {
            var.1 = Expr::DynamicConstant(Box::new(value), *position);
        }
        statements.push(statement);
    }
    // Without the functions: those come on their own.
    let source = ast.source().unwrap_or_default();
    let ast = AST::new_with_source(statements, Module::new(), source);
    Module::eval_ast_as_new(Scope::new(), &ast, engine)
}

/// The state in which every call of a script's functions begins.
pub(super) fn frame(
    engine: &Engine,
    ast: &AST,
    imports: Vec<(ImmutableString, Arc<Module>)>,
    constants: Arc<Module>,
) -> GlobalRuntimeState {
    let mut frame = engine.new_global_runtime_state();
    frame.lib.push(Arc::clone(ast.shared_lib()));
    frame.source = ast.source().map(ImmutableString::from);
    frame.num_modules_loaded = imports.len();
    if constants.iter_var().next().is_some() {
        frame.push_import(GLOBAL, constants);
    }
    for (alias, module) in imports {
        frame.push_import(alias, module);
    }
    frame
}

/// A constant as calls share it: maps and arrays become views, which are passed on without a copy. What holds a value
/// that JSON has not, such as a function, stays as it is.
fn freeze(value: Dynamic) -> Dynamic {
    if !(value.is_map() || value.is_array()) {
        return value;
    }
    json(&value, 0).map_or(value, |json| view::to_dynamic(&json))
}

fn json(value: &Dynamic, depth: usize) -> Option<Json> {
    if depth > limits::JSON_DEPTH {
        return None;
    }
    if let Some(json) = view::json_of(value) {
        return Some(json);
    }
    if let Some(map) = value.read_lock::<Map>() {
        let members = map.iter().map(|(key, value)| Some((Arc::from(key.as_str()), json(value, depth + 1)?)));
        return members.collect::<Option<Vec<_>>>().map(Json::map);
    }
    if let Some(array) = value.read_lock::<Array>() {
        let items = array.iter().map(|item| json(item, depth + 1)).collect::<Option<Vec<_>>>()?;
        return Some(Json::List(Arc::new(items)));
    }
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return Some(Json::text(&text));
    }
    if let Some(exact) = value.read_lock::<Exact>() {
        return Json::parse(exact.digits().to_owned()).ok();
    }
    if let Ok(float) = value.as_float() {
        let digits = serde_json::to_string(&float).ok().filter(|_| float.is_finite())?;
        return Json::parse(digits).ok();
    }
    let int = || value.as_int().ok().map(Json::Int);
    let bool = || value.as_bool().ok().map(Json::Bool);
    value.is_unit().then_some(Json::Null).or_else(bool).or_else(int)
}
