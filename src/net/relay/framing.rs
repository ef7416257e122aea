//! Where a message's body ends, found while its bytes pass by (RFC 9112, section 6). The bytes are looked at, never changed.

use std::ops::Range;

use crate::limits;

/// Follows one body. `scan` is told every byte once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// So many bytes are left.
    Length(u64),
    /// Within chunks.
    Chunked(Chunk),
    /// All that comes.
    UntilClose,
    /// Nothing is left.
    Done,
}

/// The place within chunked framing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    /// In a chunk's size, with the digits so far.
    Size { size: u64, digits: u8 },
    /// Behind a chunk's size, up to the end of its line.
    Extension { size: u64, seen: usize },
    /// The line's end is half there.
    SizeEnd { size: u64 },
    /// In a chunk's content.
    Data { left: u64 },
    /// Behind a chunk's content.
    DataEnd { half: bool },
    /// In the trailer: bytes seen, and bytes of the line that is being read.
    Trailer { seen: usize, line: usize, half: bool },
}

/// Chunked framing that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked framing is broken: {0}")]
pub struct Broken(&'static str);

impl Framing {
    /// A body of so many bytes.
    pub fn length(bytes: u64) -> Self {
        Self(if bytes == 0 { Kind::Done } else { Kind::Length(bytes) })
    }

    /// A chunked body.
    pub fn chunked() -> Self {
        Self(Kind::Chunked(Chunk::Size { size: 0, digits: 0 }))
    }

    /// A body that ends with the connection.
    pub fn until_close() -> Self {
        Self(Kind::UntilClose)
    }

    /// Whether all of it was seen.
    pub fn is_done(&self) -> bool {
        self.0 == Kind::Done
    }

    /// Whether the end of the connection is its proper end.
    pub fn ends_with_connection(&self) -> bool {
        self.0 == Kind::UntilClose
    }

    /// Looks at further bytes and answers how many of them belong to the body. `content` is called with the places of
    /// what is carried, without chunk framing and trailers.
    pub fn scan(&mut self, bytes: &[u8], mut content: impl FnMut(Range<usize>)) -> Result<usize, Broken> {
        match &mut self.0 {
            Kind::Done => Ok(0),
            Kind::UntilClose => {
                content(0..bytes.len());
                Ok(bytes.len())
            }
            Kind::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.0 = Kind::Done;
                }
                content(0..taken);
                Ok(taken)
            }
            Kind::Chunked(chunk) => {
                let mut at = 0;
                while at < bytes.len() {
                    let (taken, data, next) = chunk.step(&bytes[at..])?;
                    if data {
                        content(at..at + taken);
                    }
                    at += taken;
                    let Some(next) = next else {
                        self.0 = Kind::Done;
                        break;
                    };
                    *chunk = next;
                }
                Ok(at)
            }
        }
    }
}

impl Chunk {
    /// Takes at least one byte: how many, whether they are content, and the next place, none at the end.
    fn step(&self, bytes: &[u8]) -> Result<(usize, bool, Option<Self>), Broken> {
        let byte = bytes[0];
        let on = |next| Ok((1, false, Some(next)));
        match *self {
            Self::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                (Some(_), _) if digits >= 15 => Err(Broken("a size is too long")),
                (Some(digit), _) => on(Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }),
                _ if digits == 0 => Err(Broken("a size is missing")),
                (None, b'\r') => on(Self::SizeEnd { size }),
                (None, b';' | b' ' | b'\t') => on(Self::Extension { size, seen: 1 }),
                _ => Err(Broken("a size is not a number")),
            },
            Self::Extension { seen, .. } if seen > limits::CHUNK_EXTENSION_BYTES => {
                Err(Broken("an extension is too long"))
            }
            Self::Extension { size, seen } => match byte {
                b'\r' => on(Self::SizeEnd { size }),
                b'\n' => Err(Broken("a line ends without a carriage return")),
                _ => on(Self::Extension { size, seen: seen + 1 }),
            },
            Self::SizeEnd { .. } if byte != b'\n' => Err(Broken("a line does not end")),
            Self::SizeEnd { size: 0 } => on(Self::Trailer { seen: 0, line: 0, half: false }),
            Self::SizeEnd { size } => on(Self::Data { left: size }),
            Self::Data { left } => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - taken as u64;
                let next = if left == 0 { Self::DataEnd { half: false } } else { Self::Data { left } };
                Ok((taken, true, Some(next)))
            }
            Self::DataEnd { half } => match (half, byte) {
                (false, b'\r') => on(Self::DataEnd { half: true }),
                (true, b'\n') => on(Self::Size { size: 0, digits: 0 }),
                _ => Err(Broken("a chunk is longer than its size")),
            },
            Self::Trailer { seen, .. } if seen > limits::HEADER_BYTES => Err(Broken("the trailer is too long")),
            Self::Trailer { seen, line, half } => match (half, byte) {
                (true, b'\n') if line == 0 => Ok((1, false, None)),
                (true, b'\n') => on(Self::Trailer { seen: seen + 1, line: 0, half: false }),
                (false, b'\r') => on(Self::Trailer { seen: seen + 1, line, half: true }),
                (true, _) | (false, b'\n') => Err(Broken("a line of the trailer does not end")),
                (false, _) => on(Self::Trailer { seen: seen + 1, line: line + 1, half: false }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds in pieces; answers what was carried, how many bytes were taken and whether it is done.
    fn feed(mut framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), Broken> {
        let (mut carried, mut taken, mut from) = (Vec::new(), 0, 0);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        for cut in cuts {
            let piece = &bytes[from..cut];
            let n = framing.scan(piece, |range| carried.extend_from_slice(&piece[range]))?;
            taken += n;
            from = cut;
            if framing.is_done() {
                break;
            }
            assert_eq!(n, piece.len(), "all is taken while it goes on");
        }
        Ok((carried, taken, framing.is_done()))
    }

    #[test]
    fn bodies_end_where_they_say() {
        for (framing, bytes, carried, done) in [
            (Framing::length(0), "next", "", true),
            (Framing::length(3), "abcnext", "abc", true),
            (Framing::length(9), "abc", "abc", false),
            (Framing::until_close(), "abc", "abc", false),
            (Framing::chunked(), "0\r\n\r\nnext", "", true),
            (Framing::chunked(), "3\r\nabc\r\n02\r\nde\r\n0\r\n\r\nnext", "abcde", true),
            (Framing::chunked(), "3;a=\"b\"\r\nabc\r\n0 \r\nX-Sum: 1\r\nY: 2\r\n\r\nnext", "abc", true),
            (Framing::chunked(), "A\r\n0123456789\r\n", "0123456789", false),
        ] {
            let taken = bytes.strip_suffix("next").unwrap_or(bytes).len();
            assert_eq!(feed(framing, bytes.as_bytes(), &[]), Ok((carried.into(), taken, done)), "{bytes:?}");
        }
    }

    #[test]
    fn broken_chunks_are_named() {
        for (bytes, expected) in [
            ("\r\n", "a size is missing"),
            ("g\r\n", "a size is missing"),
            ("3x\r\n", "a size is not a number"),
            ("-1\r\n", "a size is missing"),
            ("3\n", "a size is not a number"),
            ("3\rx", "a line does not end"),
            ("3;a\nabc", "a line ends without a carriage return"),
            ("3\r\nabcd", "a chunk is longer than its size"),
            ("0000000000000001\r\n", "a size is too long"),
            ("0\r\nX: 1\n\r\n", "a line of the trailer does not end"),
            ("0\r\n\rx", "a line of the trailer does not end"),
        ] {
            assert_eq!(feed(Framing::chunked(), bytes.as_bytes(), &[]), Err(Broken(expected)), "{bytes:?}");
        }
        let long = format!("3;{}", "x".repeat(limits::CHUNK_EXTENSION_BYTES + 2));
        assert_eq!(feed(Framing::chunked(), long.as_bytes(), &[]), Err(Broken("an extension is too long")));
        let long = format!("0\r\n{}", "x".repeat(limits::HEADER_BYTES + 2));
        assert_eq!(feed(Framing::chunked(), long.as_bytes(), &[]), Err(Broken("the trailer is too long")));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nX: y\r\n\r\n");
            let expected = (chunks.concat(), bytes.len(), true);
            prop_assert_eq!(feed(Framing::chunked(), &bytes, &cuts), Ok(expected));
        }
    }
}
