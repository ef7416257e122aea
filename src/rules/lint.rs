//! What is found in a compiled script before it runs: statements at the top level that would run for nobody, calls of
//! functions that do not exist, handlers with the wrong parameters.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTFlags, ASTNode, Engine, Expr, FnPtr, Position, Stmt};

use super::explain::place;
use super::scripts::ScriptProblem;
use crate::limits;

/// An import statement.
pub(super) struct Import {
    /// `None` when it is no literal.
    pub path: Option<String>,
    /// `as NAME`; empty without.
    pub alias: String,
    pub line: usize,
    pub column: usize,
}

/// Names and parameter counts.
pub(super) type Functions = Vec<(String, usize)>;

/// What an import brings along.
pub(super) struct Imported {
    /// `as NAME`; empty without.
    pub alias: String,
    pub functions: Functions,
    /// Names of exported constants, and of what the script itself imports.
    pub names: Vec<String>,
}

/// Handlers that sidehook calls, with their parameters.
const HANDLERS: [(&str, &str, usize); 4] = [
    ("accept", "event", 1),
    ("transform", "event, payload", 2),
    ("headers", "event, payload", 2),
    ("adapt", "message", 1),
];

/// Functions of the language itself.
const KEYWORDS: [&str; 12] =
    ["Fn", "call", "curry", "is_def_fn", "is_def_var", "is_shared", "type_of", "print", "debug", "eval", "this", "tag"];

/// Every import in a script, those inside functions too.
pub(super) fn imports(ast: &AST) -> Vec<Import> {
    let mut found = Vec::new();
    ast.walk(&mut |path| {
        if let Some(ASTNode::Stmt(statement)) = path.last() {
            found.extend(import(statement));
        }
        true
    });
    found
}

/// The imports outside functions, in order.
pub(super) fn top_imports(ast: &AST) -> Vec<Import> {
    ast.statements().iter().filter_map(import).collect()
}

fn import(statement: &Stmt) -> Option<Import> {
    let Stmt::Import(x, pos) = statement else { return None };
    let literal = x.0.get_literal_value(None).and_then(|v| v.into_string().ok());
    let (line, column) = place(*pos);
    Some(Import { path: literal, alias: x.1.name.to_string(), line, column })
}

/// Names and parameter counts of every function an engine knows natively.
pub(super) fn native(engine: &Engine) -> BTreeMap<String, BTreeSet<usize>> {
    let mut known: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (name, parameters) in
        engine.collect_fn_metadata(None, |info| Some((info.metadata.name.to_string(), info.metadata.num_params)), true)
    {
        known.entry(name).or_default().insert(parameters);
    }
    known
}

/// Checks a compiled script. `file` is empty for an expression, which may consist of anything.
pub(super) fn check(
    known: &BTreeMap<String, BTreeSet<usize>>,
    ast: &AST,
    file: &str,
    text: &str,
    imported: &[Imported],
) -> Vec<ScriptProblem> {
    let mut problems = Vec::new();
    let mut problem = |pos: Position, message: String| {
        let (line, column) = place(pos);
        problems.push(ScriptProblem { file: file.to_owned(), line, column, message });
    };
    if !file.is_empty() {
        for statement in ast.statements() {
            let allowed = match statement {
                Stmt::Var(_, flags, _) => flags.intersects(ASTFlags::CONSTANT),
                Stmt::Import(..) | Stmt::Export(..) | Stmt::Noop(_) => true,
                _ => false,
            };
            if !allowed {
                problem(
                    statement.position(),
                    "outside functions a script may only import and define constants: use const, or move this into a \
                     function"
                        .into(),
                );
            }
        }
    }
    let own: Functions = ast.iter_functions().map(|f| (f.name.to_owned(), f.params.len())).collect();
    for (name, parameters, wanted) in HANDLERS {
        let has_right = own.iter().any(|(n, p)| n == name && *p == wanted);
        if !has_right && own.iter().any(|(n, _)| n == name) {
            problem(
                position_of(text, name),
                format!("write fn {name}({parameters}): sidehook calls it with these parameters"),
            );
        }
    }
    let constants = ast.statements().iter().filter_map(|statement| match statement {
        Stmt::Var(var, ..) => Some(var.0.name.as_str()),
        _ => None,
    });
    let calls = Calls { known, own: &own, constants: constants.collect(), imported, members: members(ast) };
    ast.walk(&mut |path| {
        if let Some((pos, message)) = path.last().and_then(|node| calls.check(node)) {
            problem(pos, message);
        }
        true
    });
    problems
}

/// A variable or a module that a script uses and nothing declares.
pub(super) struct Undeclared {
    pub name: String,
    /// `NAME::…`
    pub module: bool,
    pub position: Position,
}

/// Every one of them, in a script that was read by a lenient engine.
pub(super) fn undeclared(ast: &AST) -> Vec<Undeclared> {
    let own: BTreeSet<&str> = ast.iter_functions().map(|f| f.name).collect();
    let imported: BTreeSet<String> = imports(ast).into_iter().map(|import| import.alias).collect();
    let mut found: Vec<Undeclared> = Vec::new();
    let mut note = |name: &str, module: bool, position: Position| {
        // A closure names what it uses twice: in its body, and where it takes it along.
        if !found.iter().any(|f| f.position == position) && found.len() < limits::SCRIPT_PROBLEMS {
            found.push(Undeclared { name: name.to_owned(), module, position });
        }
    };
    ast.walk(&mut |path| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Variable(variable, _, position))) => {
                if variable.2.is_empty() && variable.0.is_none() && !own.contains(variable.1.as_str()) {
                    note(&variable.1, false, *position);
                } else if !variable.2.is_empty() {
                    let root = variable.2.root();
                    if root != "global" && !imported.contains(root) {
                        note(root, true, variable.2.position());
                    }
                }
            }
            Some(
                ASTNode::Expr(Expr::FnCall(call, _) | Expr::MethodCall(call, _)) | ASTNode::Stmt(Stmt::FnCall(call, _)),
            ) if call.is_qualified() => {
                let root = call.namespace.root();
                if root != "global" && !imported.contains(root) {
                    note(root, true, call.namespace.position());
                }
            }
            _ => {}
        }
        true
    });
    found
}

/// Where a function is defined, as far as the text tells.
pub(super) fn position_of(text: &str, function: &str) -> Position {
    let start = format!("fn {function}");
    let found = text.lines().zip(1_u16..).find_map(|(line, n)| {
        let at = line.find(&start)?;
        let whole = line[at + start.len()..].trim_start().starts_with('(');
        if function.is_empty() || !whole {
            return None;
        }
        Some((n, u16::try_from(line[..at].chars().count() + 1).ok()?))
    });
    found.map_or(Position::NONE, |(line, column)| Position::new(line, column))
}

/// Names that a map in the script gives to a member: `map.name()` calls a closure kept there.
fn members(ast: &AST) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    ast.walk(&mut |path| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Map(x, _))) => names.extend(x.0.iter().map(|(key, _)| key.name.to_string())),
            Some(ASTNode::Expr(Expr::Property(x, _))) => {
                names.insert(x.2.to_string());
            }
            Some(ASTNode::Expr(Expr::DynamicConstant(x, _))) => {
                if let Some(map) = x.read_lock::<rhai::Map>() {
                    names.extend(map.keys().map(ToString::to_string));
                }
            }
            _ => {}
        }
        true
    });
    names
}

struct Calls<'a> {
    known: &'a BTreeMap<String, BTreeSet<usize>>,
    own: &'a Functions,
    constants: Vec<&'a str>,
    imported: &'a [Imported],
    members: BTreeSet<String>,
}

impl Calls<'_> {
    fn check(&self, node: &ASTNode) -> Option<(Position, String)> {
        let (call, pos, method) = match node {
            ASTNode::Expr(Expr::FnCall(call, pos)) | ASTNode::Stmt(Stmt::FnCall(call, pos)) => (call, *pos, false),
            ASTNode::Expr(Expr::MethodCall(call, pos)) => (call, *pos, true),
            ASTNode::Expr(Expr::Variable(variable, _, pos)) if !variable.2.is_empty() => {
                return self.constant(&variable.2.to_string(), &variable.1).map(|message| (*pos, message));
            }
            ASTNode::Expr(Expr::DynamicConstant(value, pos)) => {
                // `Fn("name")` with a name that is known is a constant.
                let target = value.read_lock::<FnPtr>().map(|f| f.fn_name().to_owned())?;
                return self.unknown(&target).map(|message| (*pos, message));
            }
            _ => return None,
        };
        if call.is_operator_call() || call.name.contains('$') {
            return None;
        }
        let name = call.name.as_str();
        if call.is_qualified() {
            return self.qualified(&call.namespace.to_string(), name, call.args.len()).map(|message| (pos, message));
        }
        if name == "sleep" {
            return Some((pos, "there is no sleep in rules: it would hold up other events".into()));
        }
        if name == "Fn" {
            let target = call.args.first()?.get_literal_value(None)?.into_string().ok()?;
            return self.unknown(&target).map(|message| (pos, message));
        }
        if KEYWORDS.contains(&name) || (method && self.members.contains(name)) {
            return None;
        }
        let given = call.args.len();
        let fits = self.own.iter().any(|(n, p)| n == name && *p == given)
            || self.known.get(name).is_some_and(|counts| counts.contains(&(given + usize::from(method))));
        if fits {
            return None;
        }
        if let Some(message) = self.unknown(name) {
            return Some((pos, message));
        }
        let mut counts: BTreeSet<usize> = self.own.iter().filter(|(n, _)| n == name).map(|(_, p)| *p).collect();
        if let Some(native) = self.known.get(name) {
            counts.extend(native.iter().map(|n| n - usize::from(method && *n > 0)));
        }
        let wanted: Vec<String> = counts.iter().map(ToString::to_string).collect();
        let plural = if wanted == ["1"] { "" } else { "s" };
        Some((pos, format!("`{name}` takes {} argument{plural} here, not {given}", wanted.join(" or "))))
    }

    fn unknown(&self, name: &str) -> Option<String> {
        if name.contains('$')
            || self.known.contains_key(name)
            || self.own.iter().any(|(n, _)| n == name)
            || KEYWORDS.contains(&name)
        {
            return None;
        }
        let names = self.known.keys().map(String::as_str).filter(|n| is_name(n));
        let own = self.own.iter().map(|(n, _)| n.as_str());
        let imported = self
            .imported
            .iter()
            .find(|import| import.functions.iter().any(|(n, _)| n == name))
            .map(|import| &import.alias);
        Some(match (imported, nearest(name, own.chain(names))) {
            (Some(alias), _) => format!("unknown function `{name}`: did you mean `{alias}::{name}`?"),
            (None, Some(near)) => format!("unknown function `{name}`: did you mean `{near}`?"),
            (None, None) => format!("unknown function `{name}`"),
        })
    }

    /// A constant of the script itself (`global::NAME`) or of an import.
    fn constant(&self, namespace: &str, name: &str) -> Option<String> {
        // Each function may give the alias to another script.
        let imports: Vec<&Imported> = self.imported.iter().filter(|import| import.alias == namespace).collect();
        let known: Vec<&str> = match imports.as_slice() {
            [] if namespace == "global" => self.constants.clone(),
            [] => return None,
            imports => imports.iter().flat_map(|import| import.names.iter().map(String::as_str)).collect(),
        };
        if known.contains(&name) {
            return None;
        }
        Some(match nearest(name, known.into_iter()) {
            Some(near) => format!("unknown constant `{namespace}::{name}`: did you mean `{namespace}::{near}`?"),
            None if !imports.is_empty() => {
                format!(
                    "unknown constant `{namespace}::{name}`: only what the script exports is there (export const {name} = …)"
                )
            }
            None => format!("unknown constant `{namespace}::{name}`: define it outside functions (const {name} = …)"),
        })
    }

    fn qualified(&self, namespace: &str, name: &str, given: usize) -> Option<String> {
        let mut imports = self.imported.iter().filter(|import| import.alias == namespace).peekable();
        imports.peek()?;
        let functions: Vec<_> = imports.flat_map(|import| &import.functions).collect();
        if functions.iter().any(|(n, p)| n == name && *p == given) {
            return None;
        }
        if let Some((_, wanted)) = functions.iter().find(|(n, _)| n == name).copied() {
            let plural = if *wanted == 1 { "" } else { "s" };
            return Some(format!("`{namespace}::{name}` takes {wanted} argument{plural}, not {given}"));
        }
        let names = functions.iter().map(|(n, _)| n.as_str());
        Some(match nearest(name, names) {
            Some(near) => format!("unknown function `{namespace}::{name}`: did you mean `{namespace}::{near}`?"),
            None => format!("unknown function `{namespace}::{name}`"),
        })
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic()) && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// The name that a word was probably meant to be.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = match word.chars().count() {
        0..=4 => 1,
        5..=7 => 2,
        _ => 3,
    };
    names
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= most && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names that a script declares, with the word that declares them. Read from the text, since there may be no tree.
pub(super) fn declared(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut before = "";
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()) {
        if matches!(before, "let" | "const" | "for" | "as") {
            found.push((before, word));
        }
        before = word;
    }
    for (_, rest) in text.match_indices("fn ").map(|(at, _)| (at, &text[at..])) {
        let inside = rest.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inside, _)| inside);
        found.extend(inside.split(',').map(str::trim).filter(|p| is_name(p)).map(|p| ("fn", p)));
    }
    found
}
