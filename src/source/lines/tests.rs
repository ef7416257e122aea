//! Lines, however the bytes are cut.

use proptest::prelude::*;

use super::*;

/// Pushes the chunks one after another and takes what is there after each.
fn pieces(chunks: &[&[u8]], most: usize) -> Vec<Piece> {
    let mut splitter = Splitter::default();
    let mut out = Vec::new();
    for chunk in chunks {
        splitter.push(chunk);
        out.extend(std::iter::from_fn(|| splitter.next(most)));
        assert!(splitter.held() <= most, "{} bytes are held of at most {most}", splitter.held());
    }
    out.extend(splitter.end());
    assert_eq!(splitter.end(), None, "the end comes once");
    out
}

/// The pieces with the parts of long lines put together: whether the line is long, and its bytes.
fn joined(pieces: &[Piece]) -> Vec<(bool, Vec<u8>)> {
    let mut out: Vec<(bool, Vec<u8>)> = Vec::new();
    let mut open = false;
    for piece in pieces {
        match piece {
            Piece::Line(bytes) => {
                assert!(!open, "a line begins after the last part of the one before");
                out.push((false, bytes.to_vec()));
            }
            Piece::Long { part, first, last } => {
                assert_eq!(*first, !open, "{pieces:?}");
                if *first {
                    out.push((true, Vec::new()));
                }
                out.last_mut().unwrap().1.extend_from_slice(part);
                open = !last;
            }
        }
    }
    assert!(!open, "every long line ends");
    out
}

#[test]
fn lines_keep_their_breaks_and_the_last_may_be_without() {
    let line = |text: &str| Piece::Line(Bytes::copy_from_slice(text.as_bytes()));
    assert_eq!(pieces(&[b"a\r\n", b"\nb", b"c\nd"], 10), [line("a\r\n"), line("\n"), line("bc\n"), line("d")]);
    assert_eq!(pieces(&[], 10), []);
    assert_eq!(text(&Bytes::from_static(b" {} \r\n")), "{}");
    let long = |text: &str, first, last| Piece::Long { part: Bytes::copy_from_slice(text.as_bytes()), first, last };
    assert_eq!(
        pieces(&[b"ab", b"cd", b"ef\ng\n"], 3),
        [long("abcd", true, false), long("ef\n", false, true), line("g\n")]
    );
    assert_eq!(pieces(&[b"abcd\nab\n"], 3), [long("abcd\n", true, true), line("ab\n")]);
    assert_eq!(pieces(&[b"abcd"], 3), [long("abcd", true, false), long("", false, true)]);
}

#[tokio::test]
async fn a_reader_gives_the_same_as_its_bytes() {
    let bytes: Vec<u8> = (0..200).flat_map(|n| format!("{}\n", "x".repeat(n * 97)).into_bytes()).collect();
    let mut lines = Lines::new(&bytes[..]);
    let mut read = Vec::new();
    while let Some(piece) = lines.next(10_000).await.unwrap() {
        read.extend_from_slice(piece.bytes());
    }
    assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
    assert_eq!(lines.next(10_000).await.unwrap(), None);
}

proptest! {
    #[test]
    fn chunk_boundaries_change_nothing(
        text in proptest::collection::vec(prop_oneof![3 => Just(b'x'), 1 => Just(b'\n'), 1 => any::<u8>()], 0..200),
        cuts in proptest::collection::vec(0_usize..200, 0..20),
        most in 1_usize..40,
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let got = joined(&pieces(&chunks, most));
        let expected: Vec<(bool, Vec<u8>)> = text
            .split_inclusive(|b| *b == b'\n')
            .map(|line| (line.strip_suffix(b"\n").unwrap_or(line).len() > most, line.to_vec()))
            .collect();
        prop_assert_eq!(got, expected);
    }
}
