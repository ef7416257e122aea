//! How many files and connections this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::model::{Settings, SourceKind};

/// Raises the soft limit to the hard one: what is usual, 1,024, is less than what a busy relay has open. Where the assistant is
/// sidehook's child it stays, since that would inherit it, and some programs do not work with more.
pub(super) fn raise_limit(settings: &Settings) {
    if settings.sources.values().any(|source| matches!(source.kind, SourceKind::Exec(_))) {
        return;
    }
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files cannot be raised; set it where sidehook is started (ulimit -n)");
    }
}
