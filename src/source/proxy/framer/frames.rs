//! WebSocket messages of one direction (RFC 6455), compressed ones too (RFC 7692). It only reads along: nothing is answered,
//! and what breaks the protocol ends the reading, not the connection.

use flate2::{Decompress, FlushDecompress, Status};

use super::{Found, Heard, Lost};

/// What a compressed message ends with before it is inflated (RFC 7692, section 7.2.2).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// How many times the limit a message is inflated to, so that those after it can still be read.
const BEYOND: usize = 4;

/// Finds messages in one direction's frames.
#[derive(Debug)]
pub struct Frames {
    /// Bytes of a frame's head that is not all there.
    head: Vec<u8>,
    place: Place,
    message: Option<Message>,
    inflate: Option<Inflate>,
    limit: usize,
    /// Nothing more can be read.
    over: bool,
}

#[derive(Debug)]
enum Place {
    Head,
    Payload(Frame),
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    last: bool,
    /// Ping, pong: may stand between the frames of a message.
    control: bool,
    left: u64,
    mask: Option<[u8; 4]>,
    /// Place within the mask.
    at: usize,
}

#[derive(Debug)]
struct Message {
    text: bool,
    compressed: bool,
    body: Vec<u8>,
    /// Bytes that it came to, kept or not.
    size: usize,
}

#[derive(Debug)]
struct Inflate {
    state: Decompress,
    /// Whether a message may refer to those before it.
    takes_over: bool,
}

/// What the server's answer says about compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deflate {
    /// Whether messages may be compressed at all.
    pub on: bool,
    /// `client_no_context_takeover`
    pub client_alone: bool,
    /// `server_no_context_takeover`
    pub server_alone: bool,
}

impl Deflate {
    /// From the values of `Sec-WebSocket-Extensions` in the answer.
    pub fn agreed<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut agreed = Self::default();
        for extension in values.flat_map(|value| value.split(',')) {
            let mut parts = extension.split(';').map(str::trim);
            if parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) {
                agreed.on = true;
                for part in parts {
                    agreed.client_alone |= part.eq_ignore_ascii_case("client_no_context_takeover");
                    agreed.server_alone |= part.eq_ignore_ascii_case("server_no_context_takeover");
                }
            }
        }
        agreed
    }
}

impl Frames {
    /// Messages of at most `limit` bytes; `deflate` says whether they may be compressed, and whether each is alone.
    pub fn new(limit: usize, deflate: Option<bool>) -> Self {
        let inflate = deflate.map(|alone| Inflate { state: Decompress::new(false), takes_over: !alone });
        Self { head: Vec::new(), place: Place::Head, message: None, inflate, limit, over: false }
    }

    pub fn feed(&mut self, mut bytes: &[u8], heard: &mut Heard) {
        while !bytes.is_empty() && !self.over {
            if self.step(&mut bytes, heard).is_none() {
                self.over = true;
                self.message = None;
                heard.push(Err(Lost::Unreadable));
            }
        }
    }

    /// A message that is not all there is lost, unless the connection was closed as it should be.
    pub fn end(&mut self, heard: &mut Heard) {
        if self.message.take().is_some() {
            heard.push(Err(Lost::Torn));
        }
        self.over = true;
    }

    /// Takes something from the front of `bytes`; none if it is no WebSocket.
    fn step(&mut self, bytes: &mut &[u8], heard: &mut Heard) -> Option<()> {
        match &mut self.place {
            Place::Head => {
                let wanted = head_bytes(&self.head);
                let taken = (wanted - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..taken]);
                *bytes = &bytes[taken..];
                if self.head.len() >= 2 && self.head.len() == head_bytes(&self.head) {
                    let frame = self.begin()?;
                    self.head.clear();
                    self.place = Place::Payload(frame);
                    if frame.left == 0 {
                        self.finish(frame, heard)?;
                    }
                }
            }
            Place::Payload(frame) => {
                let taken = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
                let (part, rest) = bytes.split_at(taken);
                *bytes = rest;
                let mut frame_now = *frame;
                frame.left -= taken as u64;
                frame.at = (frame.at + taken) % 4;
                frame_now.left = frame.left;
                if !frame_now.control {
                    self.payload(part, frame_now)?;
                }
                if frame_now.left == 0 {
                    self.finish(frame_now, heard)?;
                }
            }
        }
        Some(())
    }

    /// A frame's head is all there.
    fn begin(&mut self) -> Option<Frame> {
        let (first, second) = (self.head[0], self.head[1]);
        let (last, compressed, opcode) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x0f);
        let masked = second & 0x80 != 0;
        let extended = self.head.len() - 2 - if masked { 4 } else { 0 };
        let left = match extended {
            0 => u64::from(second & 0x7f),
            extended => self.head[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let mask = if masked { self.head.last_chunk::<4>().copied() } else { None };
        let control = opcode >= 8;
        let known = matches!((opcode, self.message.is_some()), (0, true) | (1 | 2, false) | (8..=10, _));
        let reserved = first & 0x30 != 0 || (compressed && (self.inflate.is_none() || control || opcode == 0));
        if !known || reserved || (control && (!last || left > 125)) {
            return None;
        }
        if opcode == 8 {
            // What follows a close is nothing any more.
            self.over = true;
            self.message = None;
        } else if !control && opcode != 0 {
            self.message = Some(Message { text: opcode == 1, compressed, body: Vec::new(), size: 0 });
        }
        Some(Frame { last, control, left, mask, at: 0 })
    }

    fn payload(&mut self, part: &[u8], frame: Frame) -> Option<()> {
        let message = self.message.as_mut()?;
        let unmasked: Vec<u8>;
        let part = match frame.mask {
            None => part,
            Some(mask) => {
                let key = mask.iter().cycle().skip(frame.at);
                unmasked = part.iter().zip(key).map(|(byte, key)| byte ^ key).collect();
                &unmasked
            }
        };
        match &mut self.inflate {
            Some(inflate) if message.compressed => inflate.add(part, message, self.limit),
            _ => {
                message.add(part, self.limit);
                Some(())
            }
        }
    }

    fn finish(&mut self, frame: Frame, heard: &mut Heard) -> Option<()> {
        self.place = Place::Head;
        if frame.control || !frame.last {
            return Some(());
        }
        let mut message = self.message.take()?;
        if let (true, Some(inflate)) = (message.compressed, &mut self.inflate) {
            inflate.add(&TAIL, &mut message, self.limit)?;
            if !inflate.takes_over {
                inflate.state.reset(false);
            }
        }
        if message.size > self.limit {
            heard.push(Err(Lost::TooLarge));
        } else if message.text || std::str::from_utf8(&message.body).is_ok() {
            heard.push(Ok(Found { body: message.body, ..Found::default() }));
        }
        // Binary that is no text, such as sound, is nothing that a rule could read.
        Some(())
    }
}

/// How long a frame's head is, as far as its beginning says.
fn head_bytes(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
}

impl Message {
    fn add(&mut self, bytes: &[u8], limit: usize) {
        self.size += bytes.len();
        if self.size > limit {
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(bytes);
        }
    }
}

impl Inflate {
    /// Inflates; what is beyond the limit is not kept, but inflated all the same, since later messages may refer to it.
    fn add(&mut self, mut bytes: &[u8], message: &mut Message, limit: usize) -> Option<()> {
        let mut space = [0; 8 * 1024];
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(bytes, &mut space, FlushDecompress::Sync).ok()?;
            let taken = usize::try_from(self.state.total_in() - before_in).ok()?;
            let given = usize::try_from(self.state.total_out() - before_out).ok()?;
            bytes = &bytes[taken..];
            message.add(&space[..given], limit);
            if message.size > limit.saturating_mul(BEYOND) {
                return None;
            }
            if status == Status::StreamEnd {
                // A block may be marked as the last one; the next begins a stream of its own.
                self.state.reset(false);
            } else if taken == 0 && given == 0 {
                // Only a call that does nothing says that there is nothing left: one that hands out the rest of the window
                // neither fills the space nor takes a byte, with more behind it.
                return bytes.is_empty().then_some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(bit | u8::try_from(n).expect("small")),
            n @ 126..=0xffff => {
                out.push(bit + 126);
                out.extend_from_slice(&u16::try_from(n).expect("fits").to_be_bytes());
            }
            n => {
                out.push(bit + 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        out.extend(mask.iter().flatten());
        let key = mask.unwrap_or_default();
        out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    fn read(mut frames: Frames, bytes: &[u8], cuts: &[usize]) -> Vec<Result<String, Lost>> {
        let mut heard = Heard::new();
        for piece in crate::source::proxy::tests::pieces(bytes, cuts) {
            frames.feed(piece, &mut heard);
        }
        frames.end(&mut heard);
        heard.into_iter().map(|found| found.map(|f| String::from_utf8(f.body).expect("text"))).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands in lists of results")]
    fn ok(text: &str) -> Result<String, Lost> {
        Ok(text.to_owned())
    }

    const KEY: Option<[u8; 4]> = Some([1, 2, 3, 0xfe]);

    #[test]
    fn messages_come_whole() {
        let sound = [0xff, 0xfe, 0];
        for (frames, expected) in [
            (
                vec![frame(0x81, b"hi", None), frame(0x81, b"", KEY), frame(0x82, b"{}", KEY)],
                vec![ok("hi"), ok(""), ok("{}")],
            ),
            (vec![frame(0x82, &sound, None), frame(0x81, b"hi", None)], vec![ok("hi")]),
            (
                vec![
                    frame(0x01, b"a", KEY),
                    frame(0x89, b"ping", KEY),
                    frame(0x00, b"b", KEY),
                    frame(0x8a, b"", None),
                    frame(0x80, b"c", KEY),
                ],
                vec![ok("abc")],
            ),
            (vec![frame(0x81, b"a", None), frame(0x88, b"\x03\xe8", None), b"rubbish".to_vec()], vec![ok("a")]),
            (vec![frame(0x01, b"a", None)], vec![Err(Lost::Torn)]),
            (vec![frame(0x01, b"a", None), frame(0x81, b"b", None)], vec![Err(Lost::Unreadable)]),
            (vec![frame(0x80, b"a", None)], vec![Err(Lost::Unreadable)]),
            (vec![frame(0xc1, b"a", None)], vec![Err(Lost::Unreadable)]),
            (vec![b"HTTP/1.1 400 Bad".to_vec()], vec![Err(Lost::Unreadable)]),
            (vec![frame(0x09, b"", None)], vec![Err(Lost::Unreadable)]),
        ] {
            assert_eq!(read(Frames::new(1000, None), &frames.concat(), &[]), expected, "{frames:x?}");
        }
        let sizes = [125, 126, 1000, 1001, 70_000];
        let bytes: Vec<u8> = sizes.iter().flat_map(|n| frame(0x81, &vec![b'x'; *n], KEY)).collect();
        let lengths: Vec<_> =
            read(Frames::new(1000, None), &bytes, &[]).into_iter().map(|m| m.map(|m| m.len())).collect();
        assert_eq!(lengths, [Ok(125), Ok(126), Ok(1000), Err(Lost::TooLarge), Err(Lost::TooLarge)]);
    }

    /// Compresses as a peer does: each message ends on a byte, without the tail.
    fn deflate(texts: &[&str], alone: bool) -> Vec<Vec<u8>> {
        let mut compress = Compress::new(Compression::best(), false);
        let one = |text: &&str| {
            let mut out = Vec::with_capacity(text.len() * 2 + 100);
            compress.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).expect("room");
            out.truncate(out.len() - TAIL.len());
            if alone {
                compress.reset();
            }
            out
        };
        texts.iter().map(one).collect()
    }

    #[test]
    fn compressed_messages_are_inflated() {
        let long = "again and again ".repeat(50);
        let texts = ["hello hello hello", "hello again", "", &long, "hello"];
        for alone in [false, true] {
            let compressed = deflate(&texts, alone);
            let mut bytes: Vec<u8> = compressed.iter().flat_map(|part| frame(0xc1, part, KEY)).collect();
            bytes.extend(frame(0x81, b"plain", KEY));
            let expected: Vec<_> = texts.iter().map(|text| ok(text)).chain([ok("plain")]).collect();
            assert_eq!(read(Frames::new(1000, Some(alone)), &bytes, &[]), expected, "alone: {alone}");
        }
        // One that is too large is lost, those after it refer to it all the same.
        let texts = ["hello hello", &"again and ".repeat(20), "hello again and again"];
        let bytes: Vec<u8> = deflate(&texts, false).iter().flat_map(|part| frame(0xc1, part, None)).collect();
        let expected = [ok("hello hello"), Err(Lost::TooLarge), ok(texts[2])];
        assert_eq!(read(Frames::new(100, Some(false)), &bytes, &[]), expected);
        // One that inflates without end is not followed.
        let bomb = "x".repeat(1_000_000);
        let bytes: Vec<u8> = deflate(&[&bomb, "a"], false).iter().flat_map(|part| frame(0xc1, part, None)).collect();
        assert_eq!(read(Frames::new(100, Some(false)), &bytes, &[]), [Err(Lost::Unreadable)]);
        let torn = frame(0xc1, &[0xff; 10], None);
        assert_eq!(read(Frames::new(100, Some(false)), &torn, &[]), [Err(Lost::Unreadable)]);
    }

    #[test]
    fn compressed_messages_that_fill_the_window_are_inflated() {
        // Text that hardly compresses, by a generator of its own (xorshift64).
        let mut state = 7_u64;
        let mut noise = |bytes: usize| -> String {
            let next = |state: &mut u64| {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                char::from(b' ' + u8::try_from(*state % 95).expect("small"))
            };
            (0..bytes).map(|_| next(&mut state)).collect()
        };
        let mut cases: Vec<Vec<String>> = vec![
            [10, 33_000, 10].map(|n| "e".repeat(n)).to_vec(),
            [1000, 32_000, 10].map(|n| "e".repeat(n)).to_vec(),
            [20_000, 20_000, 20_000, 10].map(|n| "e".repeat(n)).to_vec(),
            [10, 300_000, 70_000, 10].map(|n| "e".repeat(n)).to_vec(),
        ];
        for sizes in [vec![10, 60_000, 10], vec![12_000; 11], vec![32_767, 1, 32_768, 1, 32_769, 1, 90_000, 3]] {
            cases.push(sizes.into_iter().map(&mut noise).collect());
        }
        for texts in cases {
            let sizes: Vec<usize> = texts.iter().map(String::len).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            for alone in [false, true] {
                let bytes: Vec<u8> = deflate(&texts, alone).iter().flat_map(|part| frame(0xc1, part, KEY)).collect();
                let expected: Vec<_> = texts.iter().map(|text| ok(text)).collect();
                for cuts in [&[][..], &[5000, 40_000][..]] {
                    let heard = read(Frames::new(1_000_000, Some(alone)), &bytes, cuts);
                    assert!(heard == expected, "alone: {alone}, sizes {sizes:?}, {} heard", heard.len());
                }
            }
        }
    }

    #[test]
    fn the_answer_says_how_it_is_compressed() {
        let agreed = |values: &[&str]| Deflate::agreed(values.iter().copied());
        assert_eq!(agreed(&[]), Deflate::default());
        assert_eq!(agreed(&["x-other; client_no_context_takeover"]), Deflate::default());
        let alone = Deflate { on: true, client_alone: false, server_alone: true };
        assert_eq!(agreed(&["x, Permessage-Deflate; server_no_context_takeover ;client_max_window_bits=12"]), alone);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            messages in prop::collection::vec(("[ab ]{0,300}", any::<bool>(), 0_usize..300), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..16),
        ) {
            let texts: Vec<&str> = messages.iter().map(|(text, ..)| text.as_str()).collect();
            let mut bytes = Vec::new();
            for (part, (_, masked, cut)) in deflate(&texts, false).iter().zip(&messages) {
                let key = masked.then_some([7, 0, 9, 200]);
                let (first, second) = part.split_at(cut % (part.len() + 1));
                bytes.extend(frame(0x41, first, key));
                bytes.extend(frame(0x8a, b"pong", key));
                bytes.extend(frame(0x80, second, key));
            }
            let expected: Vec<_> = texts.iter().map(|text| ok(text)).collect();
            prop_assert_eq!(read(Frames::new(300, Some(false)), &bytes, &cuts), expected);
        }
    }
}
