//! Events that tests send.

use serde_json::{Value, json};

/// A lifecycle or other event of a conversation.
pub fn event(id: &str, kind: &str, conversation: &str) -> Value {
    json!({"id": id, "type": kind, "conversation": {"id": conversation}})
}

/// The conversation of the project's seed, complete with its analysis.
pub fn seed() -> Value {
    serde_json::from_str(include_str!("../fixtures/seed.event.json")).unwrap()
}

/// A conversation of about 2.5 KB.
pub fn conversation(id: &str, conversation: &str) -> Value {
    let messages: Vec<Value> = (0..20)
        .map(|n| {
            let role = if n % 2 == 0 { "user" } else { "assistant" };
            json!({"role": role, "message": format!("turn {n}: {}", "words and more words ".repeat(4)), "time": "2026-01-03T11:38:10Z"})
        })
        .collect();
    json!({"id": id, "type": "conversation.completed", "assistant": {"id": "2193965165215481856", "version": "vrsn_1"},
        "conversation": {"id": conversation, "messages": messages},
        "argument": {"caller": "+31612345678"}, "metadata": {"region": "eu"},
        "analysis": {"conversation-analysis": {"result": "fine"}}})
}
