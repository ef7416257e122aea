//! Server-sent events out of bytes, as the WHATWG HTML standard interprets an event stream (section 9.2.6). Pure; never holds
//! more than one event, nor more of it than it may have.

use std::time::Duration;

use bytes::Bytes;

use crate::limits;

/// What an event stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// A blank line after something: an event where it has data, and how far the stream has come in any case.
    Event {
        /// Its data lines, joined.
        data: Option<Bytes>,
        /// `event`, else empty.
        event: String,
        /// The last `id` so far, else empty.
        id: String,
    },
    /// How long to wait before connecting again.
    Retry(Duration),
    /// An event was larger than it may be, and is left out.
    TooLarge,
}

/// Reads one stream. A line ends with LF, CR or both.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact of the standard's own state, and they are independent"
)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    event: String,
    id: String,
    id_came: bool,
    /// The byte before was a CR, to which an LF may belong.
    returned: bool,
    /// Past the first line, which may begin with a byte order mark.
    begun: bool,
    /// Until the next blank line nothing but ids counts.
    too_large: bool,
}

impl Parser {
    /// For a stream that goes on after the event with this id.
    pub(super) fn after(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// Bytes are missing here: up to the next blank line nothing but ids counts.
    pub(super) fn gap(&mut self) {
        let (id, begun) = (std::mem::take(&mut self.id), true);
        *self = Self { id, begun, too_large: true, ..Self::default() };
    }

    /// More bytes; what they say is added to `said`. No event has more than `most` bytes of data.
    pub(super) fn push(&mut self, mut bytes: &[u8], most: usize, said: &mut Vec<Said>) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.returned) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.keep(bytes, most, said);
                return;
            };
            self.keep(&bytes[..end], most, said);
            self.returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.finish_line(most, said);
        }
    }

    /// A line that cannot be part of a good event is kept as far as it takes to see which field it is.
    fn keep(&mut self, bytes: &[u8], most: usize, said: &mut Vec<Said>) {
        // Room for the field's name.
        let room = most.saturating_add(16).saturating_sub(self.line.len());
        if bytes.len() > room {
            self.give_up(said);
        }
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn give_up(&mut self, said: &mut Vec<Said>) {
        if !std::mem::replace(&mut self.too_large, true) {
            said.push(Said::TooLarge);
        }
        self.data = Vec::new();
    }

    fn finish_line(&mut self, most: usize, said: &mut Vec<Said>) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(said);
        }
        let (field, value) = match memchr::memchr(b':', line) {
            // A comment.
            Some(0) => return,
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        match field {
            b"data" => {
                if self.data.len() + value.len() > most {
                    self.give_up(said);
                } else if !self.too_large {
                    self.data.extend_from_slice(value);
                    self.data.push(b'\n');
                    self.has_data = true;
                }
            }
            b"event" if value.len() <= limits::NAME_BYTES => self.event = text(),
            b"id" if !value.contains(&0) && value.len() <= limits::EVENT_ID_BYTES => {
                self.id = text();
                self.id_came = true;
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = text().parse().unwrap_or(u64::MAX);
                said.push(Said::Retry(Duration::from_millis(millis)));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, said: &mut Vec<Said>) {
        let mut data = std::mem::take(&mut self.data);
        let has_data = std::mem::take(&mut self.has_data) && !std::mem::take(&mut self.too_large);
        self.too_large = false;
        let event = std::mem::take(&mut self.event);
        let id_came = std::mem::take(&mut self.id_came);
        if has_data || id_came {
            // The last of the line breaks that join the lines.
            data.pop();
            let data = has_data.then(|| Bytes::from(data));
            said.push(Said::Event { data, event, id: self.id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], cuts: &[usize], most: usize) -> Vec<Said> {
        let (mut parser, mut said, mut from) = (Parser::default(), Vec::new(), 0);
        for cut in cuts.iter().copied().chain([text.len()]) {
            parser.push(&text[from..cut], most, &mut said);
            from = cut;
        }
        said
    }

    fn event(data: &str, event: &str, id: &str) -> Said {
        Said::Event { data: Some(Bytes::copy_from_slice(data.as_bytes())), event: event.to_owned(), id: id.to_owned() }
    }

    #[test]
    fn streams_are_read_as_the_standard_says() {
        let only_id = |id: &str| Said::Event { data: None, event: String::new(), id: id.to_owned() };
        for (text, expected) in [
            ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![event("YHOO\n+2\n10", "", "")]),
            (
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
                vec![event("first event", "", "1"), event("second event", "", ""), event(" third event", "", "")],
            ),
            ("data\n\ndata\ndata\n\ndata:", vec![event("", "", ""), event("\n", "", "")]),
            ("\u{feff}event: x\r\ndata: 1\r\r\ndata: 2\r\n\r\n", vec![event("1", "x", ""), event("2", "", "")]),
            ("id: 7\n\ndata: a\n\n", vec![only_id("7"), event("a", "", "7")]),
            (
                "retry: 10\nretry: x\nretry:\ndata: a\n\n",
                vec![Said::Retry(Duration::from_millis(10)), event("a", "", "")],
            ),
            ("id: a\0b\ndata: 1\n\nunknown: 1\n\nevent: x\n\n", vec![event("1", "", "")]),
            ("data: unfinished\n", vec![]),
        ] {
            assert_eq!(read(text.as_bytes(), &[], 100), expected, "{text:?}");
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_left_out_but_not_its_id() {
        let long = "x".repeat(200);
        let text = format!("id: 1\ndata: {long}\ndata: y\n\ndata: good\n\ndata: {0}\ndata: {0}\n\n", "z".repeat(60));
        let expected = [
            Said::TooLarge,
            Said::Event { data: None, event: String::new(), id: "1".to_owned() },
            event("good", "", "1"),
            Said::TooLarge,
        ];
        assert_eq!(read(text.as_bytes(), &[], 100), expected);
    }

    proptest! {
        #[test]
        fn chunk_boundaries_change_nothing(
            parts in proptest::collection::vec(
                prop_oneof![Just("data"), Just("id"), Just("event"), Just("retry"), Just(": "), Just(":"), Just("1"), Just("x"), Just("\n"), Just("\r"), Just("\n\n")],
                0..60,
            ),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
        ) {
            let text = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            prop_assert_eq!(read(&text, &cuts, 20), read(&text, &[], 20));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300), most in 0_usize..50) {
            let (mut parser, mut said) = (Parser::default(), Vec::new());
            parser.push(&bytes, most, &mut said);
            prop_assert!(parser.line.len() <= most + 16 && parser.data.len() <= most + 1);
        }
    }
}
