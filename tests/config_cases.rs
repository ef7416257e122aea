//! Folders of good and bad configurations. A bad one stands beside the report that a person reads, word for word;
//! `UPDATE_EXPECTED=1` writes the reports anew, for a reader to judge in the diff.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sidehook::clock::Clock;
use sidehook::config::{self, Generation, Report, schema};

/// As many cases as there are: one that is lost by accident is missed.
const VALID: usize = 26;
const INVALID: usize = 159;

/// Values that no report may show.
const HIDDEN: [&str; 5] = ["hunter2", "swordfish", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "opensesame", "4815162342"];

fn env(name: &str) -> Option<String> {
    let value = match name {
        "TOKEN" => "swordfish",
        "SECRET" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "REGION" => "eu",
        "PORT" => "7070",
        "COUNT" => "12",
        "YES" => "true",
        "SPAN" => "30s",
        "WRONG" => "swordfish swordfish",
        "EMPTY" => "",
        "NOTHING" => "null",
        _ => return None,
    };
    Some(value.to_owned())
}

fn load(path: &Path) -> Result<Generation, Report> {
    config::load(path, &env, &Clock::System)
}

/// The cases of a folder: YAML files and directories, in name order.
fn cases(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut out: Vec<PathBuf> = fs::read_dir(&root)
        .expect("a folder of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|n| n != "files"))
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e != "txt"))
        .collect();
    out.sort();
    out
}

fn expected_file(case: &Path) -> PathBuf {
    if case.is_dir() { case.join("expected.txt") } else { case.with_extension("txt") }
}

#[test]
fn valid_configurations_load() {
    let cases = cases("valid");
    assert_eq!(cases.len(), VALID, "cases in tests/config/valid");
    for case in cases {
        if let Err(report) = load(&case) {
            panic!("{}:\n{}", case.display(), report.render(false));
        }
    }
}

#[test]
fn invalid_configurations_are_reported_word_for_word() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let cases = cases("invalid");
    let mut wrong = Vec::new();
    for case in &cases {
        let report = match load(case) {
            Ok(_) => {
                wrong.push(format!("{}: loads, and should not", case.display()));
                continue;
            }
            Err(report) => report.render(false).replace(concat!(env!("CARGO_MANIFEST_DIR"), "/"), ""),
        };
        for hidden in HIDDEN {
            assert!(!report.contains(hidden), "{} shows {hidden}:\n{report}", case.display());
        }
        let expected = expected_file(case);
        if update {
            fs::write(&expected, &report).expect("written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != report {
            wrong.push(format!("{}: the report is now\n{report}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases.len(), INVALID, "cases in tests/config/invalid");
}

#[test]
fn a_path_that_is_not_there_is_a_problem() {
    let report = load(Path::new("/nowhere/at/all")).err().expect("a problem").render(false);
    assert!(report.contains("there is no such file or directory"), "{report}");
}

#[test]
fn examples_load() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for name in ["quickstart", "rapida", "proxy-tap"] {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        // What the reader of an example makes for himself is made here.
        let home = tempfile::tempdir().expect("a directory");
        copy(&example, home.path());
        fs::create_dir_all(home.path().join("secrets")).expect("a folder");
        fs::write(home.path().join("secrets/crm"), secret).expect("a secret");
        fs::write(home.path().join("receiver-ca.pem"), &certificate).expect("a certificate");
        let env = |name: &str| (name == "WEBHOOK_SECRET").then(|| secret.to_owned());
        if let Err(report) = config::load(home.path(), &env, &Clock::System) {
            panic!("{name}:\n{}", report.render(false));
        }
        for file in yaml_files(&example) {
            let text = fs::read_to_string(&file).expect("a file");
            let header = text.lines().next().unwrap_or_default();
            let schema = header.strip_prefix("# yaml-language-server: $schema=").expect("a schema line");
            let schema = file.parent().expect("a folder").join(schema);
            let made = if file.ends_with("sidehook.yaml") { schema::sidehook() } else { schema::webhook() };
            if std::env::var_os("UPDATE_EXPECTED").is_some() {
                fs::write(&schema, format!("{made:#}\n")).expect("written");
            }
            let written = fs::read_to_string(&schema).unwrap_or_else(|e| panic!("{}: {e}", schema.display()));
            assert_eq!(written, format!("{made:#}\n"), "{}: write it again with `sidehook schema`", schema.display());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

fn yaml_files(root: &Path) -> Vec<PathBuf> {
    let mut out = vec![root.join("sidehook.yaml")];
    let webhooks = fs::read_dir(root.join("webhooks")).expect("webhooks");
    out.extend(webhooks.map(|entry| entry.expect("an entry").path()));
    out
}

/// A document as the parser in the binary reads it would need that parser; these cases are JSON, which is YAML.
#[test]
fn the_schema_agrees_with_the_decoder_on_json_cases() {
    let schema = schema::sidehook();
    for (kind, wanted) in [("valid", true), ("invalid", false)] {
        let mut seen = 0;
        for case in cases(kind).into_iter().filter(|c| c.extension().is_some_and(|e| e == "json")) {
            let document: Value = serde_json::from_str(&fs::read_to_string(&case).expect("a file")).expect("JSON");
            assert_eq!(fits(&document, &schema, &schema), wanted, "{}", case.display());
            seen += 1;
        }
        assert!(seen >= 3, "JSON cases in {kind}");
    }
}

/// Whether a value fits a schema, for the words that ours uses.
fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return true };
    schema.iter().all(|(word, rule)| match word.as_str() {
        "$ref" => {
            let name = rule.as_str().and_then(|r| r.strip_prefix("#/$defs/")).expect("a local reference");
            fits(value, &root["$defs"][name], root)
        }
        "type" => match rule {
            Value::Array(any) => any.iter().any(|t| is_type(value, t)),
            one => is_type(value, one),
        },
        "enum" => rule.as_array().expect("a list").contains(value),
        "const" => rule == value,
        "anyOf" => rule.as_array().expect("a list").iter().any(|s| fits(value, s, root)),
        "oneOf" => rule.as_array().expect("a list").iter().filter(|s| fits(value, s, root)).count() == 1,
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(item, rule, root))),
        "required" => value.as_object().is_none_or(|o| {
            rule.as_array().expect("a list").iter().all(|key| o.contains_key(key.as_str().expect("a key")))
        }),
        "properties" => value
            .as_object()
            .is_none_or(|o| o.iter().all(|(key, value)| rule.get(key).is_none_or(|schema| fits(value, schema, root)))),
        "additionalProperties" => value.as_object().is_none_or(|o| {
            let known = |key: &String| schema.get("properties").is_some_and(|p| p.get(key).is_some());
            o.iter()
                .filter(|(key, _)| !known(key))
                .all(|(_, value)| *rule != Value::Bool(false) && fits(value, rule, root))
        }),
        "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().expect("a number")),
        "pattern" => {
            let pattern = regex::Regex::new(rule.as_str().expect("a pattern")).expect("a good pattern");
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "$schema" | "$defs" | "title" | "description" | "default" | "examples" => true,
        other => panic!("the schema uses {other}, which this test does not know"),
    })
}

fn is_type(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a name") {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    }
}
