//! All reading of files for one load: bounded, remembered, and through one state of each Kubernetes volume, so that a
//! swap of its `..data` link in the middle gives no mixture. Interprets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;

use super::model::Inputs;
use crate::limits;

/// Why a file gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not there.
    #[error("there is no such file")]
    Missing,
    /// A directory, socket or device.
    #[error("it is no regular file")]
    NotAFile,
    /// Beyond the limit.
    #[error("it is larger than {0}")]
    TooLarge(String),
    /// Not UTF-8.
    #[error("it is not UTF-8 text (byte {0} is the first bad one)")]
    NotText(usize),
    /// Anything else the system said.
    #[error("it cannot be read: {0}")]
    Io(String),
}

/// What an entry of a directory is, links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Reads files and remembers what it saw.
#[derive(Debug, Default)]
pub struct Reader {
    volumes: BTreeMap<PathBuf, Option<PathBuf>>,
    files: BTreeMap<PathBuf, Result<Arc<[u8]>, ReadError>>,
    listings: BTreeMap<PathBuf, Vec<Entry>>,
    vanished: bool,
}

/// Lower-case hex of SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

impl Reader {
    /// A file's bytes, at most `max` of them. Asking twice gives the same answer.
    pub fn read(&mut self, path: &Path, max: u64) -> Result<Arc<[u8]>, ReadError> {
        if let Some(known) = self.files.get(path) {
            return known.clone();
        }
        let resolved = self.resolve(path);
        let result = read_bounded(&resolved, max);
        if matches!(result, Err(ReadError::Missing)) && self.was_listed(path) {
            self.vanished = true;
        }
        self.files.insert(path.to_owned(), result.clone());
        result
    }

    /// A file's text.
    pub fn text(&mut self, path: &Path, max: u64) -> Result<String, ReadError> {
        let bytes = self.read(path, max)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(ReadError::NotText(error.valid_up_to() + 1)),
        }
    }

    /// The entries of a directory in name order, without those that begin with a dot. The names count as read.
    pub fn list(&mut self, path: &Path) -> Result<Vec<Entry>, ReadError> {
        if let Some(known) = self.listings.get(path) {
            return Ok(known.clone());
        }
        let resolved = self.resolve(path);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&resolved).map_err(|e| of_io(&e))? {
            let entry = entry.map_err(|e| of_io(&e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let directory = std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
            entries.push(Entry { name, directory });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.listings.insert(path.to_owned(), entries.clone());
        Ok(entries)
    }

    /// Remembers that a path would matter if it were there.
    pub fn expect_listing(&mut self, path: &Path) {
        self.listings.entry(path.to_owned()).or_default();
    }

    /// Whether a path is a directory.
    pub fn is_dir(&mut self, path: &Path) -> bool {
        let resolved = self.resolve(path);
        std::fs::metadata(resolved).is_ok_and(|m| m.is_dir())
    }

    /// Whether a path is there at all.
    pub fn exists(&mut self, path: &Path) -> bool {
        let resolved = self.resolve(path);
        std::fs::metadata(resolved).is_ok()
    }

    /// The real place of a path, all links followed.
    pub fn real(&mut self, path: &Path) -> Option<PathBuf> {
        let resolved = self.resolve(path);
        std::fs::canonicalize(resolved).ok()
    }

    /// Whether what was read may be a mixture: a file went away in between, or a volume was swapped.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.vanished || self.volumes.iter().any(|(dir, seen)| volume_of(dir) != *seen)
    }

    /// Hash of everything that was read and listed.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut put = |part: &[u8]| {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        };
        for (path, contents) in &self.files {
            put(path.as_os_str().as_encoded_bytes());
            match contents {
                Ok(bytes) => put(bytes),
                Err(error) => put(error.to_string().as_bytes()),
            }
        }
        for (path, entries) in &self.listings {
            put(path.as_os_str().as_encoded_bytes());
            for entry in entries {
                put(entry.name.as_bytes());
            }
        }
        hex(context.finish().as_ref())
    }

    /// What to watch.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        let mut directories = BTreeSet::new();
        for path in self.files.keys() {
            if let Some(parent) = path.parent() {
                directories.insert(or_here(parent));
            }
            // Where a link leads, changes happen too.
            if let Ok(real) = std::fs::canonicalize(path)
                && let Some(parent) = real.parent()
                && path.parent().and_then(|p| std::fs::canonicalize(or_here(p)).ok()).as_deref() != Some(parent)
            {
                directories.insert(parent.to_owned());
            }
        }
        for path in self.listings.keys() {
            directories.insert(or_here(path));
            if let Some(parent) = path.parent() {
                directories.insert(or_here(parent));
            }
        }
        // What is not there yet is seen by the nearest directory that is.
        let existing = directories.iter().filter_map(|dir| dir.ancestors().map(or_here).find(|a| a.is_dir()));
        let directories: BTreeSet<PathBuf> = existing.collect();
        Inputs {
            files: self.files.keys().cloned().collect(),
            directories: directories.into_iter().collect(),
            listings: self.listings.keys().cloned().collect(),
        }
    }

    fn was_listed(&self, path: &Path) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let name = name.to_string_lossy();
        self.listings.get(parent).is_some_and(|entries| entries.iter().any(|e| e.name == name))
    }

    /// The path with each Kubernetes volume on its way replaced by the state that was seen first.
    fn resolve(&mut self, path: &Path) -> PathBuf {
        let mut out = PathBuf::new();
        for component in path.components() {
            if let Component::Normal(name) = component {
                let dir = or_here(&out);
                let volume = self.volumes.entry(dir.clone()).or_insert_with(|| volume_of(&dir)).clone();
                if let Some(volume) = volume.map(|v| v.join(name))
                    && volume.exists()
                {
                    out = volume;
                    continue;
                }
            }
            out.push(component);
        }
        out
    }
}

fn or_here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

/// Where the `..data` link of a directory leads, if it has one.
fn volume_of(dir: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(dir.join("..data")).ok()
}

fn of_io(error: &io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        io::ErrorKind::NotADirectory => ReadError::NotAFile,
        _ => ReadError::Io(error.to_string()),
    }
}

fn read_bounded(path: &Path, max: u64) -> Result<Arc<[u8]>, ReadError> {
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(|e| of_io(&e))?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let file = std::fs::File::open(path).map_err(|e| of_io(&e))?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| of_io(&e))?;
    if bytes.len() as u64 > max {
        return Err(ReadError::TooLarge(super::values::show_size(max)));
    }
    Ok(bytes.into())
}

impl Inputs {
    /// Hash of what the files and directories hold now: the same as the generation's `hash` as long as nothing changed.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut reader = Reader::default();
        let max = limits::CONFIG_FILE_BYTES.max(limits::SCRIPT_FILE_BYTES).max(limits::SECRET_FILE_BYTES);
        for path in &self.files {
            let _ = reader.read(path, max);
        }
        for path in &self.listings {
            if reader.list(path).is_err() {
                reader.expect_listing(path);
            }
        }
        reader.hash()
    }
}

/// Files that are mounted one by one (`subPath` in Kubernetes): such a file is never updated.
#[must_use]
pub fn single_file_mounts(files: &[PathBuf], mountinfo: &str) -> Vec<PathBuf> {
    // proc(5): the fifth field is the mount point, with octal escapes for blanks.
    let points: BTreeSet<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .collect();
    let mounted = |path: &&PathBuf| std::path::absolute(path).is_ok_and(|p| points.contains(&p));
    files.iter().filter(mounted).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn one_volume_state_is_read_even_when_it_is_swapped() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for (state, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(root.join(state)).expect("a state");
            for name in ["a", "b"] {
                fs::write(root.join(state).join(name), text).expect("a file");
            }
        }
        symlink("..1", root.join("..data")).expect("a link");
        for name in ["a", "b"] {
            symlink(format!("..data/{name}"), root.join(name)).expect("a link");
        }
        let mut reader = Reader::default();
        assert_eq!(reader.text(&root.join("a"), 10).as_deref(), Ok("old"));
        symlink("..2", root.join("..tmp")).expect("a link");
        fs::rename(root.join("..tmp"), root.join("..data")).expect("a swap");
        assert_eq!(reader.text(&root.join("b"), 10).as_deref(), Ok("old"));
        assert!(reader.is_torn());
        let mut fresh = Reader::default();
        assert_eq!(fresh.text(&root.join("a"), 10).as_deref(), Ok("new"));
        assert!(!fresh.is_torn());
        assert_ne!(fresh.hash(), reader.hash());
        assert!(reader.inputs().directories.contains(&root.to_owned()));
    }

    #[test]
    fn fingerprints_see_contents_names_and_what_is_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        fs::write(root.join("a"), "1").expect("a file");
        let mut reader = Reader::default();
        assert!(reader.read(&root.join("a"), 10).is_ok());
        assert_eq!(reader.read(&root.join("later"), 10), Err(ReadError::Missing));
        assert!(reader.list(root).is_ok());
        let (inputs, hash) = (reader.inputs(), reader.hash());
        assert_eq!(inputs.fingerprint(), hash);
        fs::write(root.join("a"), "2").expect("a file");
        let changed = inputs.fingerprint();
        assert_ne!(changed, hash);
        fs::write(root.join("a"), "1").expect("a file");
        assert_eq!(inputs.fingerprint(), hash);
        fs::write(root.join("later"), "").expect("a file");
        assert_ne!(inputs.fingerprint(), hash);
    }

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("big"), [b'x'; 11]).expect("a file");
        fs::write(dir.path().join("bin"), [b'a', 0xff]).expect("a file");
        let mut reader = Reader::default();
        assert_eq!(reader.text(dir.path(), 10), Err(ReadError::NotAFile));
        assert_eq!(reader.text(&dir.path().join("big"), 10), Err(ReadError::TooLarge("10B".to_owned())));
        assert_eq!(reader.text(&dir.path().join("bin"), 10), Err(ReadError::NotText(2)));
        assert_eq!(reader.text(&dir.path().join("bin/x"), 10), Err(ReadError::NotAFile));
    }

    #[test]
    fn single_file_mounts_are_found() {
        let info =
            "36 35 98:0 / /etc/sidehook/side\\040hook.yaml rw - ext4 /dev/x rw\n37 35 98:0 / /etc rw - ext4 x rw";
        let files = [PathBuf::from("/etc/sidehook/side hook.yaml"), PathBuf::from("/etc/other")];
        assert_eq!(single_file_mounts(&files, info), vec![files[0].clone()]);
    }
}
