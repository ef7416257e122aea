//! The scripts inside the binary, imported as `sidehook/NAME`, or named so by `adapter`. Their sources are the files of
//! `rules/lib` and `rules/adapters`.

/// Name and source of what rules import.
pub(super) const SCRIPTS: [(&str, &str); 4] = [
    ("format", include_str!("../../rules/lib/format.rhai")),
    ("platform", include_str!("../../rules/lib/platform.rhai")),
    ("redaction", include_str!("../../rules/lib/redaction.rhai")),
    ("thin", include_str!("../../rules/lib/thin.rhai")),
];

/// Name and source of what a source's `adapter` names.
pub(super) const ADAPTERS: [(&str, &str); 9] = [
    ("elevenlabs", include_str!("../../rules/adapters/elevenlabs.rhai")),
    ("livekit", include_str!("../../rules/adapters/livekit.rhai")),
    ("openai-realtime", include_str!("../../rules/adapters/openai-realtime.rhai")),
    ("pipecat-rtvi", include_str!("../../rules/adapters/pipecat-rtvi.rhai")),
    ("rapida", include_str!("../../rules/adapters/rapida.rhai")),
    ("rasa", include_str!("../../rules/adapters/rasa.rhai")),
    ("retell", include_str!("../../rules/adapters/retell.rhai")),
    ("twilio-status", include_str!("../../rules/adapters/twilio-status.rhai")),
    ("vapi", include_str!("../../rules/adapters/vapi.rhai")),
];

/// Prefix of their paths.
pub(super) const PREFIX: &str = "sidehook/";

/// Whether the script of this path is an adapter.
pub(super) fn is_adapter(key: &str) -> bool {
    key.strip_prefix(PREFIX).is_some_and(|name| ADAPTERS.iter().any(|(known, _)| *known == name))
}

/// Every path, adapters first.
pub(super) fn names() -> impl Iterator<Item = String> {
    ADAPTERS.iter().chain(&SCRIPTS).map(|(name, _)| format!("{PREFIX}{name}"))
}
