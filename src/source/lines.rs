//! Lines out of a stream of bytes, within a bound: what every source of NDJSON reads by. Knows nothing of events, and never
//! holds more of a line than it may have.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Room for one read; as much again as is held already, so that a long line is read in few steps.
const ROOM: usize = 8 * 1024;
/// Most room for one read.
const MOST_ROOM: usize = 256 * 1024;

/// What the next line break ends. All pieces together are what was read, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line with its line break; the last one of a stream may be without.
    Line(Bytes),
    /// A part of a line that is longer than it may be.
    Long {
        /// The part; the last one with the line break.
        part: Bytes,
        /// Whether the line begins with it.
        first: bool,
        /// Whether the line ends with it.
        last: bool,
    },
}

impl Piece {
    /// Its bytes, line break included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Line(bytes) | Self::Long { part: bytes, .. } => bytes,
        }
    }
}

/// A line without its line break and the blanks around it.
#[must_use]
pub fn text(line: &Bytes) -> Bytes {
    line.slice_ref(line.trim_ascii())
}

/// Cuts bytes into lines, however they come in.
#[derive(Debug, Default)]
pub struct Splitter {
    held: BytesMut,
    /// How much of `held` is known to hold no line break.
    searched: usize,
    /// Within a line that is too long.
    long: bool,
}

impl Splitter {
    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next piece of what is there. A line longer than `most` bytes, without its line break, comes in parts.
    pub fn next(&mut self, most: usize) -> Option<Piece> {
        let found = memchr::memchr(b'\n', &self.held[self.searched..]).map(|at| self.searched + at);
        self.searched = found.unwrap_or(self.held.len());
        let fits = self.searched <= most && !self.long;
        if let Some(at) = found {
            let bytes = self.held.split_to(at + 1).freeze();
            self.searched = 0;
            let first = !std::mem::replace(&mut self.long, false);
            return Some(if fits { Piece::Line(bytes) } else { Piece::Long { part: bytes, first, last: true } });
        }
        if fits || self.held.is_empty() {
            return None;
        }
        self.searched = 0;
        let first = !std::mem::replace(&mut self.long, true);
        Some(Piece::Long { part: self.held.split().freeze(), first, last: false })
    }

    /// What is left when nothing more comes.
    pub fn end(&mut self) -> Option<Piece> {
        self.searched = 0;
        let rest = self.held.split().freeze();
        let long = std::mem::replace(&mut self.long, false);
        match (long, rest.is_empty()) {
            (true, _) => Some(Piece::Long { part: rest, first: false, last: true }),
            (false, false) => Some(Piece::Line(rest)),
            (false, true) => None,
        }
    }

    /// How many bytes wait for their line break.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// The lines of a reader.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    splitter: Splitter,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads from `input`.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self { input, splitter: Splitter::default(), ended: false }
    }

    /// The next piece that is here already, without reading.
    pub fn ready(&mut self, most: usize) -> Option<Piece> {
        self.splitter.next(most)
    }

    /// Whether the end was reached; [`Lines::rest`] is left then.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// What is left without a line break.
    pub fn rest(&mut self) -> Option<Piece> {
        self.splitter.end()
    }

    /// The next piece; `None` at the end. Nothing is lost when the future is dropped.
    pub async fn next(&mut self, most: usize) -> io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready(most) {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(self.rest());
            }
            self.fill().await?;
        }
    }

    /// Reads once. Afterwards there may be further pieces, or the end.
    pub async fn fill(&mut self) -> io::Result<()> {
        let held = &mut self.splitter.held;
        held.reserve(held.len().clamp(ROOM, MOST_ROOM));
        self.ended = self.input.read_buf(held).await? == 0;
        Ok(())
    }

    /// How many bytes wait for their line break.
    #[must_use]
    pub fn held(&self) -> usize {
        self.splitter.held()
    }
}

#[cfg(test)]
mod tests;
