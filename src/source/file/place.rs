//! Which file is which, and how far it was read. Files are known by device and inode and by a hash of their beginning, since
//! inodes are used again; names only tell where to look.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::FileError;
use crate::limits;
use crate::source::feed::Place;
use crate::source::lines::Splitter;

/// How much of a file's beginning tells it from others.
const HEAD_BYTES: usize = 256;

/// How far a file was read, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offset {
    /// Where it was, links followed.
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Bytes up to the end of the last line that was taken.
    at: u64,
    /// How many of its first bytes are hashed, and their SHA-256 in hex: contents are nobody's business.
    head_bytes: usize,
    head: String,
}

/// What tells an open file from others, for a look at what is at the path now.
pub(super) struct Identity {
    offset: Offset,
    /// How far it was read, beyond the last whole line.
    read_to: u64,
}

/// What is at the path.
#[derive(Debug)]
pub(super) enum Seen {
    /// The file that is followed.
    Same,
    /// The file that is followed, begun anew; what it held before may be in a copy.
    Truncated { copy: Option<Followed> },
    /// Another one with something in it; between the two came these.
    Other { between: Vec<PathBuf> },
    /// None, or an empty one.
    Nothing,
}

/// What is to be read after a start.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub files: VecDeque<Followed>,
    /// The file that was followed is not there any more.
    pub lost: bool,
}

/// An open file, read up to some place.
#[derive(Debug)]
pub(super) struct Followed {
    file: Arc<File>,
    pub splitter: Splitter,
    read_to: u64,
    head: Vec<u8>,
    offset: Offset,
}

/// Refuses what is no regular file.
pub(super) fn regular(path: &Path, meta: &Metadata) -> Result<(), FileError> {
    let kind = meta.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(FileError::Directory(path.to_owned()));
    }
    let (what, instead) = if kind.is_fifo() {
        ("named pipe", "use `type: stdin` and `sidehook run < PIPE`")
    } else if kind.is_socket() {
        ("socket", "use `type: unix`, which listens itself")
    } else {
        ("device", "name the file that the assistant writes to")
    };
    Err(FileError::NotRegular { path: path.to_owned(), what, instead })
}

/// The next bytes of a file; none at its end.
pub(super) fn read(file: &File, from: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; limits::READ_BYTES];
    let n = file.read_at(&mut buffer, from)?;
    buffer.truncate(n);
    Ok(buffer)
}

impl Followed {
    /// Opens a regular file, to be read from `at` on.
    pub(super) fn open(path: &Path, at: u64) -> io::Result<Self> {
        // Before it is opened: that would wait for the other end of a pipe.
        regular(path, &std::fs::metadata(path)?).map_err(io::Error::other)?;
        let file = File::open(path)?;
        let meta = file.metadata()?;
        regular(path, &meta).map_err(io::Error::other)?;
        let head = beginning(&file, usize::try_from(at).unwrap_or(HEAD_BYTES).min(HEAD_BYTES))?;
        let offset = Offset {
            path: std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            device: meta.dev(),
            inode: meta.ino(),
            at,
            head_bytes: head.len(),
            head: hash(&head),
        };
        Ok(Self { file: Arc::new(file), splitter: Splitter::default(), read_to: at, head, offset })
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { offset: self.offset.clone(), read_to: self.read_to }
    }

    pub(super) fn handle(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.offset.path
    }

    pub(super) fn read_to(&self) -> u64 {
        self.read_to
    }

    /// Where the next line begins.
    pub(super) fn at(&self) -> u64 {
        self.offset.at
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.read_to += chunk.len() as u64;
        self.splitter.push(chunk);
    }

    /// These bytes, the next ones, are dealt with.
    pub(super) fn advance(&mut self, bytes: &[u8]) {
        self.offset.at += bytes.len() as u64;
        if self.head.len() < HEAD_BYTES {
            self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES - self.head.len())]);
            self.offset.head_bytes = self.head.len();
            self.offset.head = hash(&self.head);
        }
    }

    /// As it is stored.
    pub(super) fn place(&self) -> Place {
        Place { stream: None, offset: serde_json::to_string(&self.offset).ok() }
    }
}

impl Offset {
    /// Whether this may be the file, by its contents.
    fn fits(&self, file: &File, size: u64) -> bool {
        size >= self.at && beginning(file, self.head_bytes).is_ok_and(|head| hash(&head) == self.head)
    }

    fn is(&self, meta: &Metadata) -> bool {
        (meta.dev(), meta.ino()) == (self.device, self.inode)
    }
}

/// What is at the path now, seen from the file that is followed.
pub(super) fn look(path: &Path, current: Option<&Identity>) -> io::Result<Seen> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::Nothing),
        Err(error) => return Err(error),
    };
    regular(path, &meta).map_err(io::Error::other)?;
    let Some(current) = current else { return Ok(Seen::Other { between: Vec::new() }) };
    if current.offset.is(&meta) {
        // One that grew again past the place since would go unnoticed by its size alone.
        let file = File::open(path)?;
        if meta.len() >= current.read_to && current.offset.fits(&file, meta.len()) {
            return Ok(Seen::Same);
        }
        return Ok(Seen::Truncated { copy: copy_of(path, &current.offset) });
    }
    if meta.len() == 0 {
        return Ok(Seen::Nothing);
    }
    Ok(Seen::Other { between: between(path, &current.offset, &meta) })
}

/// What is to be read after a start: the rest of the file that was followed, those that came after it, and the one that is there.
pub(super) fn resume(path: &Path, stored: Option<&Offset>) -> Resumed {
    let now = std::fs::metadata(path).ok().filter(Metadata::is_file);
    let fresh = || Followed::open(path, 0).ok();
    let Some(stored) = stored else { return Resumed { files: fresh().into_iter().collect(), lost: false } };
    if let Some(meta) = now.as_ref().filter(|meta| stored.is(meta)) {
        if File::open(path).is_ok_and(|file| stored.fits(&file, meta.len())) {
            return Resumed { files: Followed::open(path, stored.at).ok().into_iter().collect(), lost: false };
        }
        let copy = copy_of(path, stored);
        return Resumed { files: copy.into_iter().chain(fresh()).collect(), lost: false };
    }
    let Some(old) = renamed(path, stored).or_else(|| copy_of(path, stored)) else {
        return Resumed { files: fresh().into_iter().collect(), lost: now.is_some() };
    };
    let mut files = VecDeque::from([old]);
    if let Some(meta) = &now {
        files.extend(between(path, stored, meta).iter().filter_map(|path| Followed::open(path, 0).ok()));
        files.extend(fresh());
    }
    Resumed { files, lost: false }
}

/// The file that was followed, wherever it is now.
fn renamed(path: &Path, stored: &Offset) -> Option<Followed> {
    let mut places = vec![stored.path.clone()];
    places.extend(siblings(path).into_iter().map(|(path, _)| path));
    places.extend(siblings(&stored.path).into_iter().map(|(path, _)| path));
    places.into_iter().find_map(|place| {
        let meta = std::fs::metadata(&place).ok().filter(|meta| meta.is_file() && stored.is(meta))?;
        let file = File::open(&place).ok()?;
        stored.fits(&file, meta.len()).then(|| Followed::open(&place, stored.at).ok())?
    })
}

/// A copy that was made before the file was truncated.
fn copy_of(path: &Path, stored: &Offset) -> Option<Followed> {
    if stored.head_bytes == 0 {
        return None;
    }
    siblings(path).into_iter().rev().find_map(|(place, meta)| {
        let file = File::open(&place).ok()?;
        stored.fits(&file, meta.len()).then(|| Followed::open(&place, stored.at).ok())?
    })
}

/// Files that were rotated away since: written later than the old one, and neither it nor the one that is there now, nor a
/// copy of one of these.
fn between(path: &Path, old: &Offset, now: &Metadata) -> Vec<PathBuf> {
    let Some((old_path, old_meta)) = siblings(path).into_iter().find(|(_, meta)| old.is(meta)) else {
        return Vec::new();
    };
    let head_of = |path: &Path| File::open(path).and_then(|file| beginning(&file, HEAD_BYTES)).ok();
    let known = [head_of(&old_path), head_of(path)];
    let later = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec()) > (old_meta.mtime(), old_meta.mtime_nsec());
    let this = |meta: &Metadata| old.is(meta) || (meta.dev(), meta.ino()) == (now.dev(), now.ino());
    let found = siblings(path).into_iter().filter(|(_, meta)| !this(meta) && later(meta));
    found.map(|(path, _)| path).filter(|path| !known.contains(&head_of(path))).collect()
}

/// Regular files beside the path that are named as rotation names them (`NAME.1`, `NAME-20260103`), oldest first.
fn siblings(path: &Path) -> Vec<(PathBuf, Metadata)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let rotated = |other: &str| {
        other.strip_prefix(name).is_some_and(|rest| {
            rest.starts_with(['.', '-', '_']) && rest.chars().all(|c| c.is_ascii_digit() || ".-_:TZ".contains(c))
        })
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(rotated));
    let mut found: Vec<(PathBuf, Metadata)> = named
        .filter_map(|entry| Some((entry.path(), std::fs::metadata(entry.path()).ok().filter(Metadata::is_file)?)))
        .collect();
    found.sort_by_key(|(_, meta)| (meta.mtime(), meta.mtime_nsec()));
    found
}

fn beginning(file: &File, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    head.truncate(filled);
    Ok(head)
}

fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().take(16).fold(String::new(), |mut out, byte| {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
