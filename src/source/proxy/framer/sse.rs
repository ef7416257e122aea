//! Server-sent events, as the HTML standard says (section 9.2.6, interpreting an event stream): `data` lines joined, a blank
//! line ends an event, one without data is none, one without its blank line neither.

use super::{Found, Heard, Lost};

/// The longest id or type that is kept.
const NAME_BYTES: usize = crate::limits::NAME_BYTES;

/// Finds events.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about what came so far")]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    event: Option<String>,
    id: Option<String>,
    limit: usize,
    /// The last line ended with a carriage return, to which a line feed may belong.
    returned: bool,
    /// Up to the next blank line nothing is kept.
    skipping: bool,
    first: bool,
}

impl Events {
    /// Events with at most `limit` bytes of data.
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: None,
            id: None,
            limit,
            returned: false,
            skipping: false,
            first: true,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8], heard: &mut Heard) {
        if !bytes.is_empty() && std::mem::take(&mut self.returned) {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.add(&bytes[..end], heard);
            let returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if returned {
                self.returned = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            self.finish_line(heard);
        }
        self.add(bytes, heard);
    }

    pub fn gap(&mut self) {
        self.forget();
        self.skipping = true;
    }

    fn add(&mut self, bytes: &[u8], heard: &mut Heard) {
        // Room for a field's name beside the data.
        if self.line.len() + bytes.len() > self.limit + 64 {
            self.too_large(heard);
        }
        // While skipping only whether a line is blank matters.
        let kept = if self.skipping { bytes.len().min(1) } else { bytes.len() };
        if !self.skipping || self.line.is_empty() {
            self.line.extend_from_slice(&bytes[..kept]);
        }
    }

    fn too_large(&mut self, heard: &mut Heard) {
        if !self.skipping {
            heard.push(Err(Lost::TooLarge));
            self.forget();
            self.skipping = true;
        }
    }

    fn forget(&mut self) {
        self.line = Vec::new();
        self.data = Vec::new();
        self.has_data = false;
        self.event = None;
    }

    fn finish_line(&mut self, heard: &mut Heard) {
        let line = std::mem::take(&mut self.line);
        let mut line = &line[..];
        if std::mem::take(&mut self.first) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(heard);
            return;
        }
        if self.skipping {
            return;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" if self.data.len() + value.len() + 1 > self.limit + 1 => self.too_large(heard),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" if value.len() <= NAME_BYTES => self.event = Some(text()).filter(|text| !text.is_empty()),
            b"id" if value.len() <= NAME_BYTES && !value.contains(&0) => self.id = Some(text()),
            // Comments, `retry` and what nobody knows.
            _ => {}
        }
    }

    fn dispatch(&mut self, heard: &mut Heard) {
        let found = Found { body: std::mem::take(&mut self.data), event: self.event.take(), id: self.id.clone() };
        if std::mem::take(&mut self.has_data) && !self.skipping {
            heard.push(Ok(found));
        }
        self.skipping = false;
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
        assert_eq!(read(long.as_bytes(), &[]), [Err(Lost::TooLarge), event("b", "", "")]);
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
