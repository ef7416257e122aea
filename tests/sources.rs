//! Sources beside http: real children, sockets, files and streams, with the real binary.

mod exec;
mod file;
mod sse;
mod stdin;
mod unix;

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Receiver, Sidehook};

/// A sidehook with this source called `in`, whose every event goes to `/x`.
fn sidehook(receiver: &Receiver, source: &str) -> crate::support::sidehook::Builder {
    Sidehook::builder()
        .main(&format!("sources: {{in: {source}}}"))
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\nparams: {id: event.id, n: event.n}"))
}

/// Ids of what `/x` has received, in order of arrival.
fn arrived(receiver: &Receiver) -> Vec<String> {
    receiver.requests("/x").iter().map(|r| r.json()["id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// One event as a line.
fn line(id: &str, more: Value) -> String {
    let mut event = json!({"id": id, "type": "a.b"});
    event.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    format!("{event}\n")
}

/// A wrapper that runs sidehook with standard output in this file, and standard input from that one.
fn redirected(stdout: &Path, stdin: &Path) -> [String; 3] {
    let script = format!("exec \"$0\" \"$@\" >{} <{}", stdout.display(), stdin.display());
    ["sh".to_owned(), "-c".to_owned(), script]
}
