//! Which exchanges a tap reads: by the request's path and method.

use globset::{GlobBuilder, GlobMatcher};

use crate::config::model::{Overflow, Read, Tap, TapFormat};
use crate::rules::Adapter;

/// A tap whose path is ready to be compared.
pub(super) struct CompiledTap {
    tap: Tap,
    path: GlobMatcher,
}

impl CompiledTap {
    /// None where the path is no pattern, which the configuration has refused already.
    pub fn new(tap: &Tap) -> Option<Self> {
        let glob = GlobBuilder::new(&tap.path).literal_separator(true).backslash_escape(false).build().ok()?;
        Some(Self { tap: tap.clone(), path: glob.compile_matcher() })
    }

    /// `path` is without the query.
    pub fn matches(&self, method: &str, path: &str) -> bool {
        self.tap.method.as_ref().is_none_or(|m| m.as_str() == method) && self.path.is_match(path)
    }

    pub fn format(&self) -> TapFormat {
        self.tap.format
    }

    /// What makes events of its messages.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.tap.adapter.as_ref()
    }

    /// Whether the traffic waits for it.
    pub fn blocks(&self) -> bool {
        self.tap.on_overflow == Overflow::Block
    }

    /// Whether it reads what the client sends.
    pub fn reads_request(&self) -> bool {
        self.tap.read != Read::Response
    }

    /// Whether it reads what the server sends.
    pub fn reads_response(&self) -> bool {
        self.tap.read != Read::Request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_segments() {
        for (pattern, path, matches) in [
            ("/v1/conversations/*/events", "/v1/conversations/42/events", true),
            ("/v1/conversations/*/events", "/v1/conversations/4/2/events", false),
            ("/v1/conversations/*/events", "/v1/conversations/42/events/", false),
            ("/v1/**", "/v1/a/b/c", true),
            ("/v1/**", "/v2/a", false),
            ("/**/events", "/events", true),
            ("/**/events", "/a/b/events", true),
            ("/ws", "/ws", true),
            ("/ws", "/WS", false),
            ("/bot-*/x", "/bot-7/x", true),
            ("/**", "/", true),
        ] {
            let tap = Tap {
                path: pattern.to_owned(),
                method: Some(http::Method::POST),
                read: Read::Both,
                format: TapFormat::Json,
                adapter: None,
                on_overflow: Overflow::Drop,
            };
            let tap = CompiledTap::new(&tap).expect("a pattern");
            assert_eq!(tap.matches("POST", path), matches, "{pattern} {path}");
            assert!(!tap.matches("GET", path));
        }
    }
}
