//! Content codings of a tapped body, undone while its bytes come in. What a few bytes may inflate to is bounded.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::framer::Lost;
use crate::limits;

/// Input that is decoded in one go.
const STEP_BYTES: usize = 1024;

/// Decodes one direction.
pub(super) enum Decoding {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate`, of which only the first byte says what is meant by it.
    Deflate,
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    Raw(Box<DeflateDecoder<Vec<u8>>>),
    Brotli(Box<DecompressorWriter<Vec<u8>>>),
    Unknown,
}

impl Decoding {
    /// For the values of `Content-Encoding`.
    pub fn of<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut codings = values.flat_map(|value| value.split(',')).map(str::trim);
        let mut codings =
            codings.by_ref().filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
        match (codings.next().map(str::to_ascii_lowercase).as_deref(), codings.next()) {
            (None, _) => Self::Plain,
            (Some("gzip" | "x-gzip"), None) => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            (Some("deflate"), None) => Self::Deflate,
            (Some("br"), None) => Self::Brotli(Box::new(DecompressorWriter::new(Vec::new(), 4096))),
            _ => Self::Unknown,
        }
    }

    /// Hands on what `bytes` stand for, in pieces.
    pub fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), Lost> {
        if matches!(self, Self::Plain) {
            out(bytes);
            return Ok(());
        }
        let mut given = 0;
        for step in bytes.chunks(STEP_BYTES) {
            let decoded = self.step(step).map_err(|_| Lost::Unreadable)?;
            given += decoded.len();
            if given > limits::TAP_INFLATED_BYTES {
                return Err(Lost::TooLarge);
            }
            out(&decoded);
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        if let (Self::Deflate, Some(first)) = (&*self, bytes.first()) {
            // The zlib wrapper that the standard means, or the bare stream that some send (RFC 9110, section 8.4.1.2).
            *self = if first & 0x0f == 8 {
                Self::Zlib(Box::new(ZlibDecoder::new(Vec::new())))
            } else {
                Self::Raw(Box::new(DeflateDecoder::new(Vec::new())))
            };
        }
        macro_rules! through {
            ($decoder:expr) => {{
                $decoder.write_all(bytes)?;
                $decoder.flush()?;
                Ok(std::mem::take($decoder.get_mut()))
            }};
        }
        match self {
            Self::Gzip(decoder) => through!(decoder),
            Self::Zlib(decoder) => through!(decoder),
            Self::Raw(decoder) => through!(decoder),
            Self::Brotli(decoder) => through!(decoder),
            Self::Plain | Self::Deflate => Ok(bytes.to_vec()),
            Self::Unknown => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn decode(coding: &str, bytes: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Lost> {
        let (mut decoding, mut decoded) = (Decoding::of([coding].into_iter()), Vec::new());
        for piece in crate::source::proxy::tests::pieces(bytes, cuts) {
            decoding.feed(piece, |part| decoded.extend_from_slice(part))?;
        }
        Ok(decoded)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("encoded");
        encoder.finish().expect("encoded")
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("encoded");
        encoder.finish().expect("encoded")
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("encoded");
        encoder.finish().expect("encoded")
    }

    #[test]
    fn codings_are_undone_and_others_are_lost() {
        let text = b"some text some text some text".to_vec();
        for (coding, bytes) in [
            ("", text.clone()),
            ("identity", text.clone()),
            ("gzip", gzip(&text)),
            ("X-GZIP, identity", gzip(&text)),
            ("gzip", [gzip(&text[..5]), gzip(&text[5..])].concat()),
            ("deflate", zlib(&text)),
            ("deflate", raw(&text)),
        ] {
            assert_eq!(decode(coding, &bytes, &[]).as_ref(), Ok(&text), "{coding}");
        }
        for (coding, bytes) in
            [("zstd", text.clone()), ("gzip, br", gzip(&text)), ("gzip", text.clone()), ("br", vec![0xff; 30])]
        {
            assert_eq!(decode(coding, &bytes, &[]), Err(Lost::Unreadable), "{coding}");
        }
        let bomb = gzip(&vec![0; limits::TAP_INFLATED_BYTES * 2]);
        assert_eq!(decode("gzip", &bomb, &[]), Err(Lost::TooLarge));
    }

    #[test]
    fn what_was_flushed_is_there_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let (mut decoding, mut sent) = (Decoding::of(["gzip"].into_iter()), 0);
        for event in ["data: a\n\n", "data: b\n\n"] {
            encoder.write_all(event.as_bytes()).expect("encoded");
            encoder.flush().expect("flushed");
            let mut decoded = Vec::new();
            decoding.feed(&encoder.get_ref()[sent..], |part| decoded.extend_from_slice(part)).expect("readable");
            assert_eq!(decoded, event.as_bytes());
            sent = encoder.get_ref().len();
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            prop_assert_eq!(decode("gzip", &gzip(&text), &cuts), Ok(text.clone()));
            prop_assert_eq!(decode("deflate", &zlib(&text), &cuts), Ok(text));
        }
    }
}
