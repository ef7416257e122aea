//! Listening sockets: TCP and unix. Binds, accepts and cleans up; says nothing about what is spoken on them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::either::Either;
use crate::config::model::Listen;
use crate::limits;

/// Why nothing listens there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error("{0} is in use by another process; stop it, or choose another address")]
    InUse(Listen),
    /// Not allowed to.
    #[error(
        "{0} cannot be bound: permission denied (a port below 1024 needs a privilege, a socket a writable directory)"
    )]
    Permission(Listen),
    /// The address is not this machine's.
    #[error("{0} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all of them")]
    NotLocal(Listen),
    /// A file that is no socket is in the way.
    #[error("{0} is a file that is not a socket; move it away, or choose another path")]
    NotASocket(Listen),
    /// Longer than the kernel takes.
    #[error("{0} is too long for a unix socket (at most {most} bytes); choose a shorter path", most = limits::SOCKET_PATH_BYTES)]
    TooLong(Listen),
    /// Anything else.
    #[error("{listen} cannot be bound: {source}{}", hint(source))]
    Io {
        /// Where.
        listen: Listen,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket. Dropping it closes it and removes a unix socket's file.
pub struct Listener {
    inner: Inner,
    local: Listen,
}

enum Inner {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removes the file at the end.
        _file: SocketFile,
    },
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix socket.
    Unix,
}

/// Binds. Port 0 takes a free one; [`Listener::local`] tells which. A unix socket gets mode 0600 before anybody can
/// reach it; a socket file that nobody listens on any more is replaced.
pub async fn bind(listen: &Listen) -> Result<Listener, ListenError> {
    match listen {
        Listen::Tcp(addr) => {
            let listener = TcpListener::bind(addr).await.map_err(|e| explain(listen, e))?;
            let local = Listen::Tcp(listener.local_addr().map_err(|e| explain(listen, e))?);
            Ok(Listener { inner: Inner::Tcp(listener), local })
        }
        Listen::Unix(path) => {
            clear_stale(listen, path).await?;
            let (listener, file) = bind_unix(path).map_err(|e| explain(listen, e))?;
            Ok(Listener { inner: Inner::Unix { listener, _file: file }, local: listen.clone() })
        }
    }
}

/// What to do about the commonest refusals.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its directory first, writable for sidehook's user",
        io::ErrorKind::PermissionDenied => {
            "; sidehook's user must be able to write to the socket's directory, and ports below 1024 need a privilege"
        }
        _ => "",
    }
}

impl Listener {
    /// Where it listens, with the port that was really taken.
    #[must_use]
    pub fn local(&self) -> &Listen {
        &self.local
    }

    /// The TCP address, if it is one.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.local {
            Listen::Tcp(addr) => Some(addr),
            Listen::Unix(_) => None,
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.inner {
            Inner::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                // Small answers must not wait for acknowledgements; a socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                Ok((Either::A(stream), Peer::Tcp(addr)))
            }
            Inner::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::B(stream), Peer::Unix))
            }
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}

/// A connection over TCP or a unix socket.
pub type Stream = Either<TcpStream, UnixStream>;

/// The file of a unix socket, removed at the end if it is still the one that was made.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(now) = std::fs::symlink_metadata(&self.path)
            && (now.dev(), now.ino()) == (self.device, self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A socket file outlives its process when that was killed. One that answers is in use; one that refuses is stale.
async fn clear_stale(listen: &Listen, path: &Path) -> Result<(), ListenError> {
    if path.as_os_str().len() > limits::SOCKET_PATH_BYTES {
        return Err(ListenError::TooLong(listen.clone()));
    }
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(listen.clone()));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|e| explain(listen, e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(explain(listen, e)),
        Ok(_) | Err(_) => Err(ListenError::InUse(listen.clone())),
    }
}

/// A socket's file has the umask's mode from `bind` until it is changed. So it is bound inside a directory that only we
/// can enter, given its mode there, and then moved to its place.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let porch = path.with_file_name(format!(".{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&porch);
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&porch)?;
    let made = (|| {
        let inside = porch.join("s");
        let listener = UnixListener::bind(&inside)?;
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600))?;
        let meta = std::fs::symlink_metadata(&inside)?;
        std::fs::rename(&inside, path)?;
        Ok((listener, SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() }))
    })();
    let _ = std::fs::remove_dir_all(&porch);
    made
}

fn explain(listen: &Listen, source: io::Error) -> ListenError {
    let listen = listen.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(listen),
        io::ErrorKind::PermissionDenied => ListenError::Permission(listen),
        io::ErrorKind::AddrNotAvailable => ListenError::NotLocal(listen),
        _ => ListenError::Io { listen, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_private_replaces_a_stale_one_and_cleans_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.sock");
        let listen = Listen::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        assert!(path.exists(), "std leaves the file behind");

        let listener = bind(&listen).await.expect("the stale one is replaced");
        assert_eq!(std::fs::metadata(&path).expect("made").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing else is left");
        let client = UnixStream::connect(&path).await.expect("reachable at its place");
        assert_eq!(listener.accept().await.expect("a connection").1, Peer::Unix);
        drop(client);

        let error = bind(&listen).await.expect_err("in use").to_string();
        assert!(error.contains("is in use by another process"), "{error}");
        assert!(path.exists(), "a failed bind leaves the other's socket alone");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn mistakes_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        let taken = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("a free port");
        for (listen, expected) in [
            (Listen::Unix(file), "is a file that is not a socket"),
            (Listen::Unix(dir.path().join("x".repeat(200))), "too long for a unix socket"),
            (Listen::Unix(dir.path().join("no/such/dir")), "cannot be bound: No such file"),
            (taken.local().clone(), "is in use by another process"),
            (Listen::Tcp(([192, 0, 2, 1], 0).into()), "is not an address of this machine"),
        ] {
            let error = bind(&listen).await.expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
