//! The system's word that something happened in a file's directory: a hint to look sooner than the poll would. Reads nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watches the directories that a file may be in.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    hints: Arc<Notify>,
}

impl Watch {
    /// Watches nothing yet. Where the system refuses, the poll must do.
    pub(super) fn new() -> Self {
        let hints = Arc::new(Notify::new());
        let told = Arc::clone(&hints);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reads would hint forever; an error may mean lost events.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                told.notify_one();
            }
        });
        Self { watcher: watcher.ok(), watched: BTreeSet::new(), hints }
    }

    /// Watches the directory of the path, and of what it links to, as soon as they are there.
    pub(super) async fn follow(&mut self, path: &Path) {
        let Some(mut watcher) = self.watcher.take() else { return };
        let (path, mut known) = (path.to_owned(), std::mem::take(&mut self.watched));
        let done = tokio::task::spawn_blocking(move || {
            let target = std::fs::canonicalize(&path).ok();
            for dir in [Some(path), target].iter().flatten().filter_map(|path| path.parent()) {
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                if !known.contains(dir) && watcher.watch(dir, RecursiveMode::NonRecursive).is_ok() {
                    known.insert(dir.to_owned());
                }
            }
            (watcher, known)
        });
        if let Ok((watcher, known)) = done.await {
            (self.watcher, self.watched) = (Some(watcher), known);
        }
    }

    /// Waits for the next hint.
    pub(super) async fn changed(&self) {
        self.hints.notified().await;
    }
}
