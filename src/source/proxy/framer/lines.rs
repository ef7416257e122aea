//! NDJSON: one line, one message. Blank lines are none.

use super::{Found, Heard, Lost};

/// Finds lines.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    limit: usize,
    /// Up to the line's end nothing is kept.
    skipping: bool,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { line: Vec::new(), limit, skipping: false }
    }

    pub fn feed(&mut self, bytes: &[u8], heard: &mut Heard) {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.add(&bytes[from..end], heard);
            self.finish(heard);
            from = end + 1;
        }
        self.add(&bytes[from..], heard);
    }

    pub fn gap(&mut self) {
        self.line = Vec::new();
        self.skipping = true;
    }

    /// The last line may lack its end.
    pub fn end(&mut self, whole: bool, heard: &mut Heard) {
        if whole {
            self.finish(heard);
        } else if !self.line.trim_ascii().is_empty() {
            heard.push(Err(Lost::Torn));
        }
        self.line = Vec::new();
    }

    fn add(&mut self, bytes: &[u8], heard: &mut Heard) {
        if self.skipping {
            return;
        }
        if self.line.len() + bytes.len() > self.limit {
            heard.push(Err(Lost::TooLarge));
            self.gap();
            return;
        }
        self.line.extend_from_slice(bytes);
    }

    fn finish(&mut self, heard: &mut Heard) {
        let line = std::mem::take(&mut self.line);
        if !std::mem::take(&mut self.skipping) && !line.trim_ascii().is_empty() {
            heard.push(Ok(Found { body: line.trim_ascii().to_vec(), ..Found::default() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], cuts: &[usize], whole: bool) -> Vec<Result<String, Lost>> {
        let (mut lines, mut heard) = (Lines::new(10), Heard::new());
        for piece in crate::source::proxy::tests::pieces(bytes, cuts) {
            lines.feed(piece, &mut heard);
        }
        lines.end(whole, &mut heard);
        heard.into_iter().map(|found| found.map(|f| String::from_utf8(f.body).expect("text"))).collect()
    }

    #[test]
    fn each_line_is_a_message() {
        let ok = |text: &str| Ok(text.to_owned());
        for (text, whole, expected) in [
            ("", true, vec![]),
            ("{}\n[]\r\n\n  \n1", true, vec![ok("{}"), ok("[]"), ok("1")]),
            ("{}\n[", false, vec![ok("{}"), Err(Lost::Torn)]),
            ("{}\n", false, vec![ok("{}")]),
            ("0123456789\n01234567890\nx\n", true, vec![ok("0123456789"), Err(Lost::TooLarge), ok("x")]),
        ] {
            assert_eq!(read(text.as_bytes(), &[], whole), expected, "{text:?}");
        }
    }

    #[test]
    fn after_a_gap_it_goes_on_with_the_next_line() {
        let (mut lines, mut heard) = (Lines::new(10), Heard::new());
        lines.feed(b"a\nbeg", &mut heard);
        lines.gap();
        lines.feed(b"in\nc\n", &mut heard);
        let bodies: Vec<_> = heard.into_iter().map(|found| found.expect("a line").body).collect();
        assert_eq!(bodies, [b"a", b"c"]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[a\n\r ]{0,60}", cuts in prop::collection::vec(any::<usize>(), 0..12)) {
            prop_assert_eq!(read(text.as_bytes(), &cuts, true), read(text.as_bytes(), &[], true));
        }
    }
}
