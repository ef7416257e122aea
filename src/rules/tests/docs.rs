//! The README says what is true: every host function is described, every example gives what it says, every script in
//! it loads.

use super::*;

const README: &str = include_str!("../../../rules/README.md");

#[test]
fn examples_give_what_they_say() {
    for f in HOST_FUNCTIONS {
        assert_eq!(eval(f.example).as_deref(), Ok(f.value), "{}", f.call);
    }
}

#[test]
fn the_contract_and_the_table_name_the_same_functions() {
    let names: Vec<&str> = HOST_FUNCTIONS.iter().map(HostFunction::name).collect();
    assert_eq!(
        names.join(" "),
        "parse_json to_json sha256 hmac_sha256 base64_encode base64_decode hex uuid now parse_time format_time matches \
         replace_all truncate mask redact_email redact_phone redact_card env log_debug log_info log_warn"
    );
}

#[test]
fn the_definitions_hold_every_host_function_and_what_scripts_are_given() {
    let files = definition_files();
    let text = |name: &str| &files.iter().find(|(file, _)| *file == name).expect(name).1;
    let functions = text("functions.d.rhai");
    assert!(functions.starts_with("module static;\n"), "{functions}");
    for f in HOST_FUNCTIONS {
        let declaration = functions.lines().find(|line| line.starts_with(&format!("fn {}(", f.name()))).expect(f.call);
        let names = declaration.matches(": ").count();
        let wanted = f.call.matches(", ").count() + usize::from(!f.call.ends_with("()"));
        assert_eq!(names, wanted, "{declaration}");
        assert!(functions.contains(&format!("/// {} // {}", f.example, f.value)), "{}", f.call);
    }
    assert_eq!(functions.matches("\nfn ").count(), HOST_FUNCTIONS.len());
    for line in [
        "fn parse_json(s: String) -> ?;",
        "fn truncate(s: String, chars: int) -> String;",
        "fn now() -> String;",
        "fn log_info(s: ?);",
    ] {
        assert!(functions.lines().any(|l| l == line), "{line} is not in {functions}");
    }
    let given = text("event.d.rhai");
    for part in ["let event: Map;", "let payload: Map;", "`messages`", "`analysis`"] {
        assert!(given.contains(part), "{part} is not in {given}");
    }
}

#[test]
fn the_definitions_are_in_rhais_own_format() {
    // As in the definitions that Rhai brings along: a header, comments, and declarations that end in a semicolon.
    let kind = r"(?:\?|String|int|float|bool|Map|Array)";
    let function = format!(r"^fn ([a-z_0-9]+)\(((?:[a-z_]+: {kind}(?:, )?)*)\)(?: -> {kind})?;$");
    let (function, variable) = (
        regex::Regex::new(&function).expect("a pattern"),
        regex::Regex::new(&format!("^let ([a-z]+): {kind};$")).expect("a pattern"),
    );
    let engine = rhai::Engine::new_raw();
    for (file, text) in definition_files() {
        assert_eq!(text.lines().next(), Some("module static;"), "{file}");
        let mut described = false;
        for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
            if line.starts_with("///") {
                described = true;
                continue;
            }
            assert!(described, "{file}: nothing is said of {line}");
            described = false;
            let mut names: Vec<&str> = Vec::new();
            if let Some(found) = function.captures(line) {
                let parameters = found.get(2).map_or("", |p| p.as_str());
                names.extend(parameters.split(", ").filter_map(|p| p.split(':').next()).filter(|p| !p.is_empty()));
                assert!(engine.compile(format!("fn {}() {{}}", &found[1])).is_ok(), "{file}: {line}");
            } else {
                let found = variable.captures(line).unwrap_or_else(|| panic!("{file}: {line}"));
                names.push(found.get(1).map_or("", |name| name.as_str()));
            }
            for name in names {
                assert!(engine.compile(format!("let {name} = 1;")).is_ok(), "{file}: {name} is reserved: {line}");
            }
        }
    }
}

#[test]
fn the_readme_holds_the_table() {
    let table = host_functions_markdown();
    assert!(README.contains(&table), "put this into rules/README.md, section Host functions:\n{table}");
}

#[test]
fn every_script_in_the_readme_loads() {
    let blocks: Vec<&str> =
        README.split("```rhai\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect();
    assert!(blocks.len() >= 4, "{}", blocks.len());
    let lib = "fn tier(caller) { \"gold\" }";
    for block in blocks {
        let (_, problems) = compile(&[("rule.rhai", block), ("lib/crm.rhai", lib)]);
        assert_eq!(problems, [], "{block}");
    }
}
