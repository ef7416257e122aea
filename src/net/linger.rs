//! A stream that after its end still takes in for a while what the peer sends. An answer that is given before its request
//! was read would otherwise be lost: closing a stream with unread bytes cuts the peer off in the middle of its sending.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::limits;

/// Reads and discards between its end and its close, where `early` says that something may be unread.
pub(super) struct Lingering<S> {
    stream: S,
    early: Arc<AtomicBool>,
    ended: bool,
    left: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, early: Arc<AtomicBool>) -> Self {
        Self { stream, early, ended: false, left: limits::LINGER_BYTES, until: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ended {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.ended = true;
        }
        if !this.early.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let until = this.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::LINGER)));
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; 8 * 1024];
        while this.left > 0 {
            let mut buf = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
            this.left = this.left.saturating_sub(buf.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_taken_for_a_while_and_no_longer() {
        for early in [true, false] {
            let (mut peer, stream) = tokio::io::duplex(1024);
            let mut lingering = Lingering::new(stream, Arc::new(AtomicBool::new(early)));
            lingering.write_all(b"answer").await.expect("written");
            let begun = tokio::time::Instant::now();
            let task = tokio::spawn(async move {
                lingering.shutdown().await.expect("ended");
                drop(lingering);
            });
            let sent = peer.write_all(&vec![b'x'; 100_000]).await;
            assert_eq!(sent.is_ok(), early, "without lingering the peer is cut off");
            // The peer stays, silent.
            task.await.expect("a task");
            let wanted = if early { limits::LINGER } else { std::time::Duration::ZERO };
            let took = begun.elapsed();
            assert!(took >= wanted && took < wanted + limits::LINGER, "{took:?}");
            let mut got = Vec::new();
            peer.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, b"answer");
        }
    }

    #[tokio::test]
    async fn a_peer_without_end_is_left() {
        let (mut peer, stream) = tokio::io::duplex(64 * 1024);
        let mut lingering = Lingering::new(stream, Arc::new(AtomicBool::new(true)));
        let (ended, sent) = tokio::join!(
            async move {
                let ended = lingering.shutdown().await;
                drop(lingering);
                ended
            },
            async move { peer.write_all(&vec![b'x'; limits::LINGER_BYTES + 1024 * 1024]).await }
        );
        assert!(ended.is_ok() && sent.is_err());
    }
}
