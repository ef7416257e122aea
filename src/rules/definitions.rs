//! Definition files (`.d.rhai`) for editors that speak to the Rhai language server: the host functions, of the same table
//! as the README, and what scripts are given. Only makes text.

use std::fmt::Write as _;

use super::host::docs::{HOST_FUNCTIONS, HostFunction};

/// What a script is given: name, type, and what it is.
const GIVEN: [(&str, &str, &[&str]); 3] = [
    (
        "event",
        "Map",
        &[
            "One lifecycle event, read-only and lazy.",
            "",
            "`id`, `type`, `time`: strings; the id is made when the sender gave none.",
            "`assistant`: `id`, `name`, `prompt`, `version`.",
            "`conversation`: `id`, and `messages`, an array of maps such as `#{role: \"user\", message: \"hello\"}`.",
            "`argument`, `metadata`, `option`: maps, empty when the sender left them out.",
            "`analysis`: a map by name, there once the conversation has ended: `event.analysis[\"conversation-analysis\"]?.result`.",
            "`reason`: why, in an end that sidehook inferred. Every other field is there as it was sent.",
        ],
    ),
    (
        "payload",
        "Map",
        &["What `params` picked: the second parameter of `transform` and `headers`, yours to change at any depth."],
    ),
    (
        "message",
        "Map",
        &[
            "What a source received: the parameter of `adapt`, read-only and lazy.",
            "",
            "`body`: the value where it is JSON, else the text.",
            "`path`: path and query of the request. `headers`: a map by lower-case names.",
            "`direction`: `request`, `response`; on a WebSocket `client`, `server`.",
        ],
    ),
];

/// The files: name and text.
#[must_use]
pub fn definition_files() -> Vec<(&'static str, String)> {
    vec![("functions.d.rhai", functions()), ("event.d.rhai", given())]
}

fn functions() -> String {
    let mut out = String::from("module static;\n");
    for f in HOST_FUNCTIONS {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n/// {}\n", f.about);
        if !f.fails.is_empty() {
            let _ = writeln!(out, "///\n/// Fails: {}.", f.fails);
        }
        let _ = writeln!(out, "///\n/// ```rhai\n/// {} // {}\n/// ```\n{}", f.example, f.value, signature(f));
    }
    out
}

fn signature(f: &HostFunction) -> String {
    let parameters = f.call.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or_default();
    let parameters: Vec<String> = parameters
        .split(", ")
        .filter(|name| !name.is_empty())
        .map(|name| {
            let kind = match name {
                "v" => "?",
                // Logging takes anything.
                "s" if f.gives == "nothing" => "?",
                "ms" | "chars" => "int",
                _ => "String",
            };
            // `with` is a word that Rhai keeps for itself, which no definition file may use.
            format!("{}: {kind}", if name == "with" { "replacement" } else { name })
        })
        .collect();
    let gives = match f.gives {
        "string" => " -> String",
        "integer" => " -> int",
        "boolean" => " -> bool",
        "nothing" => "",
        _ => " -> ?",
    };
    format!("fn {}({}){gives};", f.name(), parameters.join(", "))
}

fn given() -> String {
    let mut out = String::from("module static;\n");
    for (name, kind, lines) in GIVEN {
        out.push('\n');
        for line in lines {
            let _ = writeln!(out, "{}", format!("/// {line}").trim_end());
        }
        let _ = writeln!(out, "let {name}: {kind};");
    }
    out
}
