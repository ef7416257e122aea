//! The scripts inside the binary, imported as `sidehook/NAME`. Their sources are the files of `rules/lib`.

/// Name and source.
pub(super) const SCRIPTS: [(&str, &str); 3] = [
    ("format", include_str!("../../rules/lib/format.rhai")),
    ("redaction", include_str!("../../rules/lib/redaction.rhai")),
    ("thin", include_str!("../../rules/lib/thin.rhai")),
];

/// Prefix of their paths.
pub(super) const PREFIX: &str = "sidehook/";
