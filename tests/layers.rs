//! The architecture as a test: layers, who may touch the store, the network and files, and the shape of every file.
//! Reads the sources as text; comments and string literals do not count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Layers by module, as `src/lib.rs` writes them.
fn layers() -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    let mut layer = None;
    for line in read(&root().join("src/lib.rs")).lines() {
        if let Some(number) = line.strip_prefix("// layer ") {
            layer = Some(number.trim().parse().expect("a number after `// layer`"));
        } else if let Some(module) = line.trim().trim_start_matches("pub ").strip_prefix("mod ") {
            let module = module.trim_end_matches(';').to_owned();
            layers.insert(module, layer.expect("`// layer N` above every module of lib.rs"));
        }
    }
    layers
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One source file: its path below `src`, its text, and the text without comments and literals.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// Top module, `rules` for `rules/view.rs` and `reload` for `reload.rs`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many `super::` lead from the file's own module to the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found.sort();
    assert!(found.len() > 40, "only {} files under src", found.len());
    let base = root().join("src");
    found
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let path = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
            Source { path, code: bare(&text), text }
        })
        .collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Rust without comments, strings and character literals; line breaks stay.
fn bare(text: &str) -> String {
    let pattern = r##"(?s)//[^\n]*|/\*.*?\*/|b?r#"[^\x00]*?"#|b?r"[^"]*"|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^u]|\\u\{[^}]*\}|\\x..|[^'\\])'"##;
    let pattern = Regex::new(pattern).unwrap();
    let blank = |found: &regex::Captures<'_>| "\n".repeat(found[0].matches('\n').count());
    pattern.replace_all(text, blank).into_owned()
}

/// Modules named by `crate::…` paths, with the line.
fn named(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        for name in heads(rest) {
            found.push((line, name));
        }
    }
    found
}

/// First segments of a path that may be a group: `a::b` gives a, `{a::{b, c}, d}` gives a and d.
fn heads(rest: &str) -> Vec<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.trim_start().strip_prefix('{') else { return vec![word(rest.trim_start())] };
    let (mut depth, mut item, mut names) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    names.push(item);
    names.iter().map(|n| word(n.trim())).filter(|n| !n.is_empty()).collect()
}

/// Imports that go up or sideways, each as `file:line: …`.
fn trespasses(layers: &BTreeMap<String, u32>, source: &Source) -> Vec<String> {
    let own = source.module();
    if own == "main" || own == "lib" {
        return Vec::new();
    }
    let mine = layers.get(own).unwrap_or_else(|| panic!("{} is in no layer of lib.rs", source.path));
    let mut wrong = Vec::new();
    for (line, name) in named(&source.code) {
        match layers.get(&name) {
            _ if name == own => {}
            Some(theirs) if theirs < mine => {}
            Some(theirs) => {
                wrong.push(format!("{}:{line}: {own} (layer {mine}) names {name} (layer {theirs})", source.path));
            }
            None => wrong.push(format!("{}:{line}: crate::{name} is no module of lib.rs", source.path)),
        }
    }
    let tests = source.code.find("#[cfg(test)]").unwrap_or(source.code.len());
    for found in Regex::new(r"(?:\bsuper::)+").unwrap().find_iter(&source.code) {
        let ups = found.as_str().matches("super::").count();
        let inside = source.depth() + usize::from(found.start() > tests);
        if ups >= inside {
            let line = source.code[..found.start()].matches('\n').count() + 1;
            wrong.push(format!(
                "{}:{line}: super:: that leaves {own}; write crate:: and keep to the layers",
                source.path
            ));
        }
    }
    wrong
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned(), code: bare(text) }
}

#[test]
fn modules_import_only_from_lower_layers() {
    let layers = layers();
    let wrong: Vec<_> = sources().iter().flat_map(|s| trespasses(&layers, s)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_of_layers_finds_trespasses() {
    let layers = layers();
    for (path, text, count) in [
        ("rules/view.rs", "use crate::event::Event;", 0),
        ("rules/view.rs", "use crate::config::Generation;", 1),
        ("rules/view.rs", "use crate::sign;", 1),
        ("rules/view.rs", "use crate::{\n event::{Event, Json},\n outbox::Outbox,\n net};", 2),
        ("rules/view.rs", "fn f() { crate::net::bind() }", 1),
        ("rules/view.rs", "// use crate::net;\nconst X: &str = \"crate::net\";", 0),
        ("rules/view.rs", "use super::engine;", 0),
        ("rules/view.rs", "use super::super::net;", 1),
        ("rules/mod.rs", "use super::net;", 1),
        ("rules/mod.rs", "#[cfg(test)]\nmod tests { use super::*; }", 0),
        ("rules/host/log.rs", "use super::super::engine;", 0),
        ("clock.rs", "use crate::telemetry;", 1),
        ("rules/view.rs", "use crate::nowhere;", 1),
    ] {
        let wrong = trespasses(&layers, &source(path, text));
        assert_eq!(wrong.len(), count, "{text}: {wrong:?}");
    }
}

/// Lines of files that match, except in the modules that may.
fn outside(pattern: &str, allowed: &[&str]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !allowed.contains(&s.module())) {
        for (number, line) in source.code.lines().enumerate().filter(|(_, line)| pattern.is_match(line)) {
            found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
        }
    }
    found
}

#[track_caller]
fn only(pattern: &str, allowed: &[&str]) {
    let found = outside(pattern, allowed);
    assert!(found.is_empty(), "only {allowed:?} may say {pattern}:\n{}", found.join("\n"));
    if !allowed.is_empty() {
        assert!(!outside(pattern, &[]).is_empty(), "nobody says {pattern}; is the pattern still right?");
    }
}

#[test]
fn only_the_outbox_knows_the_store() {
    only(r"\brusqlite\b", &["outbox"]);
}

#[test]
fn only_net_opens_connections_and_listeners() {
    only(
        r"\b(TcpStream|UnixStream|TcpListener|UnixListener|UdpSocket|lookup_host|ToSocketAddrs|TcpSocket)\b",
        &["net"],
    );
}

/// The part of a module outside its unit tests.
fn before_tests(source: &Source) -> &str {
    let end = source.code.find("#[cfg(test)]").unwrap_or(source.code.len());
    &source.code[..end]
}

#[test]
fn rules_and_events_and_state_machines_do_no_io() {
    let io =
        Regex::new(r"\bstd::(fs|net|process|io::(stdin|stdout|stderr))\b|\btokio\b|\bhyper\b|\bFile::open\b").unwrap();
    let pure = ["rules", "event", "delivery", "sign", "secret", "limits"];
    for source in sources().iter().filter(|s| pure.contains(&s.module())) {
        for (number, line) in before_tests(source).lines().enumerate() {
            assert!(!io.is_match(line), "{}:{}: {}", source.path, number + 1, line.trim());
        }
    }
}

#[test]
fn time_and_chance_come_from_the_clock() {
    let direct =
        Regex::new(r"\b(SystemTime|Instant|Timestamp|Zoned|Utc)::now\b|\bgetrandom\b|\bSystemRandom\b|\bthread_rng\b")
            .unwrap();
    for source in sources().iter().filter(|s| s.module() != "clock") {
        for (number, line) in before_tests(source).lines().enumerate() {
            // tokio's own instant follows its pausable clock; it is a timer, not a source of time for data.
            let timer = line.contains("tokio::time::Instant::now");
            assert!(timer || !direct.is_match(line), "{}:{}: {}", source.path, number + 1, line.trim());
        }
    }
}

#[test]
fn files_say_what_they_are_for_and_stay_readable() {
    let mut long = Vec::new();
    let (unsafe_word, stub) = (Regex::new(r"\bunsafe\b").unwrap(), Regex::new(r"\b(todo|unimplemented)!").unwrap());
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} does not open with `//! `", source.path);
        assert!(!source.text.to_ascii_lowercase().contains("fixme"), "{} holds a fixme", source.path);
        assert!(!unsafe_word.is_match(&source.code), "{} says unsafe", source.path);
        assert!(!stub.is_match(&source.code), "{} has a stub", source.path);
        let lines = source.text.lines().count();
        if lines > 600 {
            long.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert!(long.is_empty(), "files that want splitting: {long:?}");
    let main = read(&root().join("src/main.rs"));
    assert!(main.lines().count() < 60, "main.rs has {} lines", main.lines().count());
}

#[test]
fn the_lints_that_keep_the_invariants_stay_on() {
    let manifest = read(&root().join("Cargo.toml"));
    for line in [
        "unsafe_code = \"forbid\"",
        "pedantic = ",
        "unwrap_used = ",
        "todo = ",
        "dbg_macro = ",
        "await_holding_lock = ",
    ] {
        assert!(manifest.contains(line), "Cargo.toml lost the lint {line}");
    }
    let banned = read(&root().join(".clippy.toml"));
    for path in ["std::time::SystemTime::now", "std::time::Instant::now"] {
        assert!(banned.contains(path), ".clippy.toml lost the ban of {path}");
    }
}

#[test]
fn a_secret_has_no_debug_or_serialize_that_shows_it() {
    let all = sources();
    let secret = all.iter().find(|s| s.path == "secret.rs").expect("src/secret.rs");
    let derived = Regex::new(r"#\[derive\([^)]*\b(Debug|Serialize)\b[^)]*\)\]\s*pub struct Secret\b").unwrap();
    assert!(!derived.is_match(&secret.code), "Secret derives Debug or Serialize");
    assert!(secret.code.contains("Debug for Secret"), "Secret has no Debug of its own that masks");
    let shown = format!("{:?}", sidehook::secret::Secret::new("hush-hush"));
    assert!(!shown.contains("hush"), "{shown}");
}
