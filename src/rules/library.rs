//! The scripts inside the binary, imported as `sidehook/NAME`.

/// Path (without `sidehook/` and suffix) and source.
pub(super) const SCRIPTS: [(&str, &str); 0] = [];

/// Prefix of their paths.
pub(super) const PREFIX: &str = "sidehook/";
