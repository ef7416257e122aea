//! `type: file`: NDJSON that is appended to a file, followed over rotation, truncation and restarts. How far it was read is
//! stored in the same commit as the events, so that each line is taken once. Reads regular files only, and writes none.

mod place;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::feed::{Batch, Feed, Message, Patience};
use super::lines::{self, Piece};
use super::{Sink, stdin};
use crate::limits;
use place::{Followed, Offset, Seen};

/// Why a file cannot be followed, whatever happens to it later.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A directory.
    #[error("path: {} is a directory; name the file in it that the assistant writes to", .0.display())]
    Directory(PathBuf),
    /// A pipe, a socket, a device.
    #[error("path: {} is a {what}, not a regular file; {instead}", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

/// One file source.
pub struct FileSource<S> {
    feed: Feed<S>,
    path: PathBuf,
    /// What was told last of a file that cannot be read, so that it is told once.
    told: Option<String>,
}

/// sidehook ends; what was not stored is read again after the next start.
struct Ending;

/// Whether `path` is something that can be followed, or not there yet.
pub fn check(path: &Path) -> Result<(), FileError> {
    std::fs::metadata(path).map_or(Ok(()), |meta| place::regular(path, &meta))
}

impl<S: Sink> FileSource<S> {
    /// The feed's token ends reading and waiting.
    #[must_use]
    pub fn new(feed: Feed<S>, path: PathBuf) -> Self {
        Self { feed, path, told: None }
    }

    /// Follows the file until the feed's token is cancelled.
    pub async fn run(mut self) {
        // Only the end of sidehook ends it.
        let _ = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Ending> {
        let stop = self.feed.stop().clone();
        let mut watch = watch::Watch::new();
        let mut waiting = self.resume().await?;
        // The last of those that wait is the one that is followed; the others have an end.
        let mut current = waiting.pop_back();
        for file in waiting {
            self.finish(file).await?;
        }
        let mut left: Option<Instant> = None;
        loop {
            watch.follow(&self.path).await;
            // Before anything is read: what is behind the place must be of the same file.
            let seen = self.look(current.as_ref()).await;
            if let Seen::Truncated { copy } = seen {
                tracing::info!(
                    source = %self.feed.name(), path = %self.path.display(),
                    "the file was truncated; it is read from its beginning"
                );
                if let Some(copy) = copy {
                    self.finish(copy).await?;
                }
                current = self.open().await;
            } else if matches!(seen, Seen::Other { .. }) && current.is_none() {
                current = self.open().await;
            } else if let Seen::Other { between } = seen {
                let grew = match &mut current {
                    Some(old) => self.read(old).await?,
                    None => false,
                };
                // Whoever wrote to the old one may not have noticed yet.
                let since = *left.get_or_insert_with(tokio::time::Instant::now);
                if grew {
                    left = Some(tokio::time::Instant::now());
                } else if since.elapsed() >= limits::FILE_LINGER {
                    left = None;
                    if let Some(old) = current.take() {
                        self.finish(old).await?;
                    }
                    for path in between {
                        if let Some(file) = self.open_at(path).await {
                            self.finish(file).await?;
                        }
                    }
                    current = self.open().await;
                }
            } else {
                left = None;
            }
            if let Some(file) = &mut current {
                self.read(file).await?;
            }
            let pause = if left.is_some() { limits::FILE_LINGER } else { limits::FILE_POLL };
            tokio::select! {
                () = watch.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return Err(Ending),
            }
        }
    }

    /// What is to be read after a start, in order; the last one is at the path that is followed.
    async fn resume(&mut self) -> Result<VecDeque<Followed>, Ending> {
        let stored = loop {
            match self.feed.sink().offset(self.feed.name()).await {
                Ok(stored) => break stored,
                Err(error) => {
                    tracing::warn!(source = %self.feed.name(), error, "how far the file was read cannot be looked up; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(limits::FILE_POLL) => {}
                        () = self.feed.stop().cancelled() => return Err(Ending),
                    }
                }
            }
        };
        let offset = stored.as_deref().and_then(|text| serde_json::from_str::<Offset>(text).ok());
        let path = self.path.clone();
        let found = blocking(move || Ok(place::resume(&path, offset.as_ref()))).await;
        let place::Resumed { files, lost } = found.unwrap_or_default();
        if lost {
            tracing::warn!(
                source = %self.feed.name(), path = %self.path.display(),
                "the file that was followed before is gone, with what may have been unread in it; the one that is there is read from its beginning"
            );
        }
        Ok(files)
    }

    async fn look(&mut self, current: Option<&Followed>) -> Seen {
        let (path, identity) = (self.path.clone(), current.map(Followed::identity));
        match blocking(move || place::look(&path, identity.as_ref())).await {
            Ok(seen) => {
                if !matches!(seen, Seen::Nothing) {
                    self.told = None;
                } else if current.is_none() {
                    self.tell("it is not there yet");
                }
                seen
            }
            Err(error) => {
                self.tell(&error.to_string());
                Seen::Nothing
            }
        }
    }

    fn tell(&mut self, what: &str) {
        if self.told.as_deref() != Some(what) {
            tracing::warn!(source = %self.feed.name(), path = %self.path.display(), reason = what, "the file cannot be followed; waiting for it");
            self.told = Some(what.to_owned());
        }
    }

    async fn open(&mut self) -> Option<Followed> {
        self.open_at(self.path.clone()).await
    }

    async fn open_at(&mut self, path: PathBuf) -> Option<Followed> {
        match blocking(move || Followed::open(&path, 0)).await {
            Ok(file) => Some(file),
            Err(error) => {
                self.tell(&error.to_string());
                None
            }
        }
    }

    /// Reads to the end as it is now, and tells whether there was anything.
    async fn read(&self, file: &mut Followed) -> Result<bool, Ending> {
        let before = file.read_to();
        let mut batch = Batch::default();
        loop {
            let most = self.feed.most();
            while let Some(piece) = file.splitter.next(most) {
                self.take(file, &piece, &mut batch).await;
                if batch.is_full() {
                    self.store(&mut batch).await?;
                }
            }
            if self.feed.stop().is_cancelled() {
                self.store(&mut batch).await?;
                return Err(Ending);
            }
            let (handle, from) = (file.handle(), file.read_to());
            let chunk = blocking(move || place::read(&handle, from)).await;
            match chunk {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => file.push(&chunk),
                Err(error) => {
                    tracing::warn!(source = %self.feed.name(), path = %file.path().display(), %error, "the file cannot be read; trying again");
                    break;
                }
            }
        }
        self.store(&mut batch).await?;
        Ok(file.read_to() > before)
    }

    /// Reads a file to its end for good: its last line may be without a line break.
    async fn finish(&self, mut file: Followed) -> Result<(), Ending> {
        self.read(&mut file).await?;
        let Some(piece) = file.splitter.end() else { return Ok(()) };
        let mut batch = Batch::default();
        self.take(&mut file, &piece, &mut batch).await;
        self.store(&mut batch).await
    }

    async fn take(&self, file: &mut Followed, piece: &Piece, batch: &mut Batch) {
        let begin = file.at();
        file.advance(piece.bytes());
        let items = match piece {
            Piece::Long { first, last, .. } => {
                if *first {
                    stdin::too_long(&self.feed);
                }
                if !last {
                    return;
                }
                Vec::new()
            }
            Piece::Line(line) => {
                let text = lines::text(line);
                if text.is_empty() {
                    return;
                }
                self.feed.line(text).await.unwrap_or_else(|wrong| {
                    let detail = format!("{}; at byte {begin} of {}", wrong.detail, file.path().display());
                    self.feed.reject(wrong.reason, &detail);
                    Vec::new()
                })
            }
        };
        batch.push(Message { items, place: file.place() }, piece.bytes().len());
    }

    async fn store(&self, batch: &mut Batch) -> Result<(), Ending> {
        self.feed.together(batch.take(), Patience::Wait).await.map_err(|_| Ending)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Starts following; the task ends when the feed's token is cancelled.
#[must_use]
pub fn spawn<S: Sink>(feed: Feed<S>, path: PathBuf) -> tokio::task::JoinHandle<()> {
    tokio::spawn(FileSource::new(feed, path).run())
}

#[cfg(test)]
mod tests;
