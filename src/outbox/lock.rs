//! One process a directory: creates the outbox's directory and holds its lock. Never touches the store itself.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::OutboxError;

const FILE: &str = "outbox.lock";

/// Held as long as the outbox is open; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Creates `dir` where it is missing (for its owner only) and takes its lock without waiting.
    pub(super) fn take(dir: &Path) -> Result<Self, OutboxError> {
        let failed = |path: &Path, what: &str, e: std::io::Error| OutboxError::Store {
            path: path.display().to_string(),
            message: format!("cannot {what}: {e}; is outbox.path right and writable for sidehook's user?"),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| failed(dir, "create the directory", e))?;
        let path = dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, "open the lock file", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
                return Err(OutboxError::InUse { path: path.display().to_string(), pid });
            }
            Err(TryLockError::Error(e)) => return Err(failed(&path, "lock it", e)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|e| failed(&path, "write the lock file", e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_holder_and_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/data");
        let lock = Lock::take(&path).expect("the first lock");
        let error = Lock::take(&path).expect_err("the second lock").to_string();
        let file = path.join(FILE);
        let expected = format!(
            "{} is in use by another sidehook (pid {}); stop it, or give this one another outbox.path",
            file.display(),
            std::process::id()
        );
        assert_eq!(error, expected);
        drop(lock);
        Lock::take(&path).expect("free again");
    }

    #[test]
    fn what_it_creates_is_for_the_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let _lock = Lock::take(&path).expect("a lock");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(FILE))), (0o700, 0o600));
    }
}
