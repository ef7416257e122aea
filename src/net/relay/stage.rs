//! Both ends of relayed connections, played by tests. Every wait has an end.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An upstream.
pub(crate) struct Played(TcpListener);

/// One end of a connection.
pub(crate) struct End(pub(super) TcpStream);

/// Not later than a busy machine needs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

impl Played {
    pub(crate) async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("bound"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    pub(crate) async fn accept(&self) -> End {
        End(soon(self.0.accept()).await.expect("accepted").0)
    }
}

impl End {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("connected"))
    }

    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.0.write_all(bytes.as_ref())).await.expect("written");
    }

    /// Reads exactly this.
    pub(crate) async fn hear(&mut self, bytes: impl AsRef<[u8]>) {
        let wanted = bytes.as_ref();
        let (mut read, mut at) = (vec![0; wanted.len()], 0);
        while at < read.len() && wanted.starts_with(&read[..at]) {
            let n = soon(self.0.read(&mut read[at..])).await.expect("read");
            if n == 0 {
                break;
            }
            at += n;
        }
        assert_eq!(String::from_utf8_lossy(&read[..at]), String::from_utf8_lossy(wanted));
    }

    /// Says it here and hears it there.
    pub(crate) async fn pass(&mut self, to: &mut Self, bytes: impl AsRef<[u8]>) {
        self.say(bytes.as_ref()).await;
        to.hear(bytes).await;
    }

    /// Some bytes; how many.
    pub(crate) async fn some(&mut self) -> usize {
        soon(self.0.read(&mut vec![0; 64 * 1024])).await.expect("read")
    }

    /// Reads up to the end.
    pub(crate) async fn rest(&mut self) -> String {
        let mut read = Vec::new();
        // A reset is an end too.
        let _ = soon(self.0.read_to_end(&mut read)).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    pub(crate) async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.0.read(&mut [0])).await.is_err()
    }

    pub(crate) async fn end_sending(&mut self) {
        self.0.shutdown().await.expect("ended");
    }
}
