//! A connection whose writes go out together. HTTP/2 flushes after every frame of some size, so that requests which are under
//! way at the same time would each take a TLS record, a system call and a packet of their own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

/// Keeps what is written until its task has its next turn, or there is much of it. A flush asks for that turn, which comes
/// behind everything that could run meanwhile and may have more to say. For a task that reads in every turn, before it
/// writes, as HTTP/2 connections do: what waits goes out when it reads.
pub(super) struct Gathered<S> {
    stream: S,
    /// From `sent` on it is still to be written.
    waiting: Vec<u8>,
    sent: usize,
    /// What was written is to be flushed.
    unflushed: bool,
    /// The stream takes no more for now, and wakes the task itself when it does.
    blocked: bool,
}

impl<S> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, waiting: Vec::new(), sent: 0, unflushed: false, blocked: false }
    }

    fn room(&self) -> usize {
        limits::GATHERED_BYTES.saturating_sub(self.waiting.len())
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes and flushes what waits.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = self.poll_all(cx);
        self.blocked = out.is_pending();
        out
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
            self.unflushed = true;
        }
        // An idle connection keeps no memory.
        (self.waiting, self.sent) = (Vec::new(), 0);
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Where the peer takes no more for now, it may still have something to say.
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.room() == 0 {
            ready!(this.poll_out(cx))?;
        }
        let mut taken = 0;
        for part in data {
            let n = part.len().min(this.room());
            this.waiting.extend_from_slice(&part[..n]);
            taken += n;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() && !self.blocked {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use super::*;

    /// A stream whose writes can be counted, and held up.
    #[derive(Clone, Default)]
    struct Wire {
        writes: Arc<Mutex<Vec<usize>>>,
        flushed: Arc<AtomicUsize>,
        /// How many more bytes it takes; `None`: all.
        takes: Arc<Mutex<Option<usize>>>,
        broken: bool,
    }

    impl Wire {
        fn writes(&self) -> Vec<usize> {
            self.writes.lock().expect("no panic").clone()
        }

        fn take(&self, bytes: Option<usize>) {
            *self.takes.lock().expect("no panic") = bytes;
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let mut takes = self.takes.lock().expect("no panic");
            let n = takes.map_or(data.len(), |most| most.min(data.len()));
            if n == 0 {
                return Poll::Pending;
            }
            if let Some(most) = &mut *takes {
                *most -= n;
            }
            self.writes.lock().expect("no panic").push(n);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed.store(self.writes().iter().sum(), Ordering::SeqCst);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// One turn of a connection's task: it reads, then writes frames and flushes each.
    fn turn(stream: &mut Gathered<Wire>, waker: &Waker, frames: &[&[u8]]) -> Poll<io::Result<()>> {
        let mut cx = Context::from_waker(waker);
        let mut space = [0; 16];
        if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_read(&mut cx, &mut ReadBuf::new(&mut space)) {
            return Poll::Ready(Err(error));
        }
        for frame in frames {
            let mut rest = *frame;
            while !rest.is_empty() {
                let n = ready!(Pin::new(&mut *stream).poll_write(&mut cx, rest))?;
                rest = &rest[n..];
            }
            ready!(Pin::new(&mut *stream).poll_flush(&mut cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn gathered() -> (Gathered<Wire>, Wire, Arc<Wakes>, Waker) {
        let (wire, wakes) = (Wire::default(), Arc::new(Wakes::default()));
        (Gathered::new(wire.clone()), wire, wakes.clone(), wakes.into())
    }

    #[test]
    fn what_is_flushed_in_one_turn_goes_out_as_one_in_the_next() {
        let (mut stream, wire, woken, waker) = gathered();
        assert!(turn(&mut stream, &waker, &[b"one", b"two", b"three"]).is_ready());
        assert!(wire.writes().is_empty());
        assert!(woken.0.load(Ordering::SeqCst) > 0, "nobody asks for another turn");
        assert!(turn(&mut stream, &waker, &[]).is_ready());
        assert_eq!((wire.writes(), wire.flushed.load(Ordering::SeqCst)), (vec![11], 11));
        let before = woken.0.load(Ordering::SeqCst);
        assert!(turn(&mut stream, &waker, &[b""]).is_ready());
        assert_eq!(woken.0.load(Ordering::SeqCst), before, "it wakes itself with nothing to send");
    }

    #[test]
    fn what_is_too_much_to_keep_goes_out_at_once() {
        let (mut stream, wire, _, waker) = gathered();
        let much = vec![7; limits::GATHERED_BYTES];
        assert!(turn(&mut stream, &waker, &[&much, b"more"]).is_ready());
        assert_eq!(wire.writes(), [limits::GATHERED_BYTES]);
        assert!(turn(&mut stream, &waker, &[]).is_ready());
        assert_eq!(wire.writes(), [limits::GATHERED_BYTES, 4]);
    }

    #[test]
    fn a_peer_that_takes_no_more_is_waited_for_without_turning_round() {
        let (mut stream, wire, woken, waker) = gathered();
        wire.take(Some(2));
        assert!(turn(&mut stream, &waker, &[b"held up"]).is_ready());
        assert!(turn(&mut stream, &waker, &[]).is_ready());
        let before = woken.0.load(Ordering::SeqCst);
        for _ in 0..3 {
            assert!(turn(&mut stream, &waker, &[b"."]).is_ready());
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), before, "the socket wakes it, nobody else");
        let much = vec![7; limits::GATHERED_BYTES];
        assert!(turn(&mut stream, &waker, &[&much]).is_pending(), "there is no end to what it keeps");
        wire.take(None);
        assert!(turn(&mut stream, &waker, &[]).is_ready());
        assert_eq!(wire.writes().iter().sum::<usize>(), limits::GATHERED_BYTES, "as much as it kept, and no more");
    }

    #[test]
    fn a_broken_stream_is_told_to_whoever_reads() {
        let (_, wire, _, waker) = gathered();
        let mut stream = Gathered::new(Wire { broken: true, ..wire });
        assert!(turn(&mut stream, &waker, &[b"lost"]).is_ready());
        let Poll::Ready(Err(error)) = turn(&mut stream, &waker, &[]) else { panic!("it is not told") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_end_takes_everything_along() {
        let (mut stream, wire, _, waker) = gathered();
        assert!(turn(&mut stream, &waker, &[b"last"]).is_ready());
        assert!(Pin::new(&mut stream).poll_shutdown(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!(wire.writes(), [4]);
    }
}
