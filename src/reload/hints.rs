//! The system's watches: hints that something may have changed in some directories. Reads no contents; a hint proves
//! nothing, and none does not either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::telemetry::config::WatchFailed;

/// What identifies a directory beyond its name, so that one that was replaced is watched anew.
type Identity = (u64, u64);

/// The system's watches.
#[derive(Default)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    directories: BTreeMap<PathBuf, Identity>,
    /// Notified when something may have changed.
    pub(super) hints: Arc<Notify>,
    complained: bool,
    /// Watches nothing: the poll must do.
    pub(super) disabled: bool,
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new(hints: Arc<Notify>) -> Self {
        Self { hints, ..Self::default() }
    }

    /// Watches exactly these directories, those that are there. Where the system refuses, the poll must do.
    pub(super) fn follow(mut self, directories: &[PathBuf]) -> Self {
        let wanted: BTreeMap<PathBuf, Identity> =
            directories.iter().filter_map(|dir| Some((dir.clone(), identity(dir)?))).collect();
        if self.disabled || (self.watcher.is_some() && wanted == self.directories) {
            return self;
        }
        let hints = Arc::clone(&self.hints);
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may mean lost events, so it is a hint as well.
            if event.as_ref().map_or(true, |event| is_change(event.kind)) {
                hints.notify_one();
            }
        });
        let mut failed = None;
        self.watcher = made.map_err(|error| failed = Some(error.to_string())).ok();
        if let Some(watcher) = &mut self.watcher {
            for dir in wanted.keys() {
                if let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
                    failed = Some(format!("{}: {error}", dir.display()));
                }
            }
        }
        self.directories = wanted;
        if let Some(error) = failed {
            if !self.complained {
                WatchFailed { error: &error }.emit();
            }
            self.complained = true;
        } else {
            self.complained = false;
            // What changed before the watch was there is found by one more look.
            self.hints.notify_one();
        }
        self
    }
}

/// Reading is no change; our own reads would hint forever.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(unix)]
fn identity(dir: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(dir).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(not(unix))]
fn identity(dir: &Path) -> Option<Identity> {
    std::fs::metadata(dir).ok().map(|_| (0, 0))
}
