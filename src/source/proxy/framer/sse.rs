//! Server-sent events that pass: those with data, with their type and the last id.

use super::{Found, Heard, Lost};
use crate::source::event_stream::{Parser, Said};

/// Finds events.
#[derive(Debug)]
pub struct Events {
    parser: Parser,
    said: Vec<Said>,
    limit: usize,
}

impl Events {
    /// Events with at most `limit` bytes of data.
    pub fn new(limit: usize) -> Self {
        Self { parser: Parser::default(), said: Vec::new(), limit }
    }

    pub fn feed(&mut self, bytes: &[u8], heard: &mut Heard) {
        self.parser.push(bytes, self.limit, &mut self.said);
        for said in self.said.drain(..) {
            match said {
                Said::Event { data: Some(data), event, id } => {
                    let some = |text: String| Some(text).filter(|text| !text.is_empty());
                    heard.push(Ok(Found { body: data.into(), event: some(event), id: some(id) }));
                }
                Said::TooLarge => heard.push(Err(Lost::TooLarge)),
                // What is for who reads the stream itself.
                Said::Event { data: None, .. } | Said::Retry(_) => {}
            }
        }
    }

    pub fn gap(&mut self) {
        self.parser.gap();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], cuts: &[usize]) -> Vec<Result<(String, String, String), Lost>> {
        let (mut events, mut heard) = (Events::new(20), Heard::new());
        for piece in crate::source::proxy::tests::pieces(bytes, cuts) {
            events.feed(piece, &mut heard);
        }
        let text = |found: Found| {
            let body = String::from_utf8_lossy(&found.body).into_owned();
            (body, found.event.unwrap_or_default(), found.id.unwrap_or_default())
        };
        heard.into_iter().map(|found| found.map(text)).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands in lists of results")]
    fn event(body: &str, event: &str, id: &str) -> Result<(String, String, String), Lost> {
        Ok((body.to_owned(), event.to_owned(), id.to_owned()))
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (text, expected) in [
            ("data: a\n\n", vec![event("a", "", "")]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", vec![event("a", "", "")]),
            ("data: a\ndata:b\ndata\n\n", vec![event("a\nb\n", "", "")]),
            (
                "event: x\nid: 7\ndata:  a\r\n\r\ndata: b\r\rid\ndata: c\n\n",
                vec![event(" a", "x", "7"), event("b", "", "7"), event("c", "", "")],
            ),
            (": comment\nretry: 10\n\nevent: none\n\ndata: a\nevent:\n\n", vec![event("a", "", "")]),
            ("data:\n\n", vec![event("", "", "")]),
            ("data: torn\n", vec![]),
            ("id: \0\ndata: a\n\n", vec![event("a", "", "")]),
            (
                "data: 0123456789\ndata: 0123456789\ndata: x\n\ndata: b\n\n",
                vec![Err(Lost::TooLarge), event("b", "", "")],
            ),
        ] {
            assert_eq!(read(text.as_bytes(), &[]), expected, "{text:?}");
        }
        let long = format!("data: {}\nid: 3\n\ndata: b\n\n", "x".repeat(500));
        assert_eq!(read(long.as_bytes(), &[]), [Err(Lost::TooLarge), event("b", "", "3")], "its id counts");
    }

    #[test]
    fn after_a_gap_it_goes_on_with_the_next_event() {
        let (mut events, mut heard) = (Events::new(20), Heard::new());
        events.feed(b"data: a\n\ndata: b", &mut heard);
        events.gap();
        events.feed(b"x\ndata: torn\n\ndata: c\n\n", &mut heard);
        let bodies: Vec<_> = heard.into_iter().map(|found| found.expect("an event").body).collect();
        assert_eq!(bodies, [b"a", b"c"]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            lines in prop::collection::vec("(data: ?[ab]{0,12}|event:x|id:1|:c)?(\n|\r|\r\n)", 0..20),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let text = lines.concat();
            prop_assert_eq!(read(text.as_bytes(), &cuts), read(text.as_bytes(), &[]));
        }
    }
}
