//! `log_*`, `print` and `debug`: a bounded number of lines per call, to the log and to the preview.

use rhai::{Dynamic, Engine, ImmutableString};

use super::super::{engine, render};

/// Longest line.
const LINE_CHARS: usize = 1024;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Level {
    Debug,
    Info,
    Warn,
}

pub(super) fn register(engine: &mut Engine) {
    for (name, level) in [("log_debug", Level::Debug), ("log_info", Level::Info), ("log_warn", Level::Warn)] {
        engine.register_fn(name, move |text: &str| line(level, text));
        engine.register_fn(name, move |value: Dynamic| line(level, &text_of(&value)));
    }
}

/// Strings as they are, everything else as JSON.
fn text_of(value: &Dynamic) -> String {
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return text.to_string();
    }
    let mut out = Vec::new();
    match render::to_json(value, None, "value", &mut out) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err((_, message)) => message,
    }
}

/// Takes one line of a script.
pub(in super::super) fn line(level: Level, text: &str) {
    let mut line: String =
        text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).take(LINE_CHARS).collect();
    if text.chars().nth(LINE_CHARS).is_some() {
        line.push('…');
    }
    if !engine::keep_line(&line) || engine::muted() {
        return;
    }
    let event = engine::facts().map(|facts| facts.id);
    let event = event.as_deref().unwrap_or_default();
    match level {
        Level::Debug => tracing::debug!(target: "sidehook::rule", event, "{line}"),
        Level::Info => tracing::info!(target: "sidehook::rule", event, "{line}"),
        Level::Warn => tracing::warn!(target: "sidehook::rule", event, "{line}"),
    }
}
