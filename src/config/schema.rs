//! JSON Schema (draft 2020-12) of the configuration, made from the same table that the decoders read.

use serde_json::{Map, Value, json};

use super::shape::{self, Block, Kind};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Schema of `sidehook.yaml`.
#[must_use]
pub fn sidehook() -> Value {
    document(&shape::ROOT, "sidehook.yaml")
}

/// Schema of a file in `webhooks/`.
#[must_use]
pub fn webhook() -> Value {
    document(&shape::WEBHOOK, "a sidehook webhook")
}

fn document(root: &'static Block, title: &str) -> Value {
    let mut defs = Map::new();
    let mut top = block(root, true, &mut defs);
    if let Some(top) = top.as_object_mut() {
        top.insert("$schema".to_owned(), json!(DRAFT));
        top.insert("title".to_owned(), json!(title));
        top.insert("$defs".to_owned(), Value::Object(defs));
    }
    top
}

/// A mapping. `strict` asks for its required keys; `defaults` may leave them out.
fn block(block: &'static Block, strict: bool, defs: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in block.keys {
        let mut schema = if block.name == "sidehook" && key.name == "defaults" {
            reference("webhook_defaults", defs, |defs| self::block(&shape::WEBHOOK, false, defs))
        } else {
            of(&key.kind, defs)
        };
        if let Some(object) = schema.as_object_mut() {
            let note = if key.later { " Not available in this version." } else { "" };
            object.insert("description".to_owned(), json!(format!("{}{note}", key.doc)));
            if let Ok(default) = serde_json::from_str::<Value>(key.default) {
                object.insert("default".to_owned(), default);
            }
        }
        properties.insert(key.name.to_owned(), schema);
    }
    let mut out = json!({"type": "object", "additionalProperties": false, "properties": properties});
    // `defaults` may supply what a webhook leaves out, so an editor must not ask for it there.
    let required: Vec<&str> = block.keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    if strict && !required.is_empty() && block.name != "webhook" {
        out["required"] = json!(required);
    }
    out
}

/// A named part, made once.
fn reference(name: &str, defs: &mut Map<String, Value>, make: impl FnOnce(&mut Map<String, Value>) -> Value) -> Value {
    if !defs.contains_key(name) {
        defs.insert(name.to_owned(), Value::Null);
        let part = make(defs);
        defs.insert(name.to_owned(), part);
    }
    json!({"$ref": format!("#/$defs/{name}")})
}

/// What is read as another type when it is wholly a variable.
fn or_variable(schema: &Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$\\{"}]})
}

fn of(kind: &Kind, defs: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Text | Kind::Path => json!({"type": "string"}),
        Kind::Written => json!({"type": ["string", "number", "boolean"]}),
        Kind::HeaderValue => json!({"anyOf": [{"type": ["number", "boolean"]}, of(&Kind::Secret, defs)]}),
        Kind::Bool => or_variable(&json!({"type": "boolean"})),
        Kind::Integer(min, max) => or_variable(&json!({"type": "integer", "minimum": min, "maximum": max})),
        Kind::Number(min, max) => or_variable(&json!({"type": "number", "minimum": min, "maximum": max})),
        Kind::Duration => {
            let pattern = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h|d))+$|\\$\\{";
            json!({"type": "string", "pattern": pattern, "examples": ["50ms", "15s", "5m", "24h", "7d"]})
        }
        Kind::Size => {
            let pattern = "^[0-9]+(\\.[0-9]+)? ?([KMGT]iB|[kKMGT]?B)$|\\$\\{";
            json!({"type": "string", "pattern": pattern, "examples": ["512KiB", "8MiB", "1GiB"]})
        }
        Kind::Rate => json!({"type": "string", "pattern": "/\\s*(s|m|h)$|\\$\\{", "examples": ["50/s", "100/m"]}),
        Kind::Url => json!({"type": "string", "pattern": "^https?://|\\$\\{"}),
        Kind::Listen => {
            json!({"type": "string", "pattern": ":|\\$\\{", "examples": ["127.0.0.1:7070", "unix:/run/sidehook.sock"]})
        }
        Kind::Network => json!({"type": "string", "examples": ["10.0.0.0/8"]}),
        Kind::Status => json!({"anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": "^[1-5]([0-9][0-9]|[0-9]?[xX]+)$|\\$\\{"},
        ]}),
        Kind::TlsVersion => json!({"enum": ["1.2", "1.3", 1.2, 1.3]}),
        Kind::Choice(words) => or_variable(&json!({"enum": words})),
        Kind::Null => json!({"type": "null"}),
        Kind::Any => json!({}),
        Kind::Secret => reference("secret", defs, |_| {
            let one = |name: &str| {
                json!({"type": "object", "additionalProperties": false, "required": [name],
                "properties": {name: {"type": "string"}}})
            };
            json!({"anyOf": [{"type": "string"}, one("env"), one("file")]})
        }),
        Kind::Selector => reference("selector", defs, |_| {
            let literal = json!({"type": "object", "additionalProperties": false, "required": ["value"],
                "properties": {"value": {}}});
            let start = "^(event|assistant|conversation|argument|metadata|option|analysis)\\.|\\$\\{";
            json!({"anyOf": [{"type": "string", "pattern": start}, literal]})
        }),
        Kind::List(kind) => json!({"type": "array", "items": of(kind, defs)}),
        Kind::Map(kind) => json!({"type": "object", "additionalProperties": of(kind, defs)}),
        Kind::Block(block) => reference(block.name, defs, |defs| self::block(block, true, defs)),
        Kind::Either(kinds) => json!({"anyOf": kinds.iter().map(|k| of(k, defs)).collect::<Vec<_>>()}),
        Kind::Source => reference("source", defs, |defs| {
            let mut all = Vec::new();
            for name in shape::SOURCE_TYPES {
                if let Some(block) = shape::source(name) {
                    let reference = reference(block.name, defs, |defs| self::block(block, true, defs));
                    defs[block.name]["properties"]["type"] = json!({"const": name});
                    all.push(reference);
                }
            }
            json!({"oneOf": all})
        }),
    }
}
