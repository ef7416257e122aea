//! From the bytes of one direction to messages, whatever the pieces they come in. Holds one unfinished message at most, and
//! no more of it than the limit. Never fails: what cannot be read is told as lost.

mod frames;
mod lines;
mod sse;

pub(super) use frames::{Deflate, Frames};
pub(super) use lines::Lines;
pub(super) use sse::Events;

/// One message, still as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// What it says.
    pub body: Vec<u8>,
    /// Of a server-sent event: its type, where it names one.
    pub event: Option<String>,
    /// Of a server-sent event: the last id that was given.
    pub id: Option<String>,
}

/// Why a message, or all that follows, is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is larger than `limits.body`.
    TooLarge,
    /// It broke off.
    Torn,
    /// It could not be kept up with.
    Behind,
    /// Its encoding is broken or unknown.
    Unreadable,
}

impl Lost {
    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "was larger than limits.body",
            Self::Torn => "was broken off",
            Self::Behind => "could not be kept up with",
            Self::Unreadable => "was in an unknown or broken encoding",
        }
    }
}

/// What came of some bytes.
pub(super) type Heard = Vec<Result<Found, Lost>>;

/// Finds messages in what one direction carries.
#[derive(Debug)]
pub(super) enum Framer {
    /// Lines.
    Lines(Lines),
    /// Server-sent events.
    Events(Events),
    /// WebSocket messages; boxed, since it is far larger.
    Frames(Box<Frames>),
}

impl Framer {
    /// Further bytes.
    pub fn feed(&mut self, bytes: &[u8], heard: &mut Heard) {
        match self {
            Self::Lines(lines) => lines.feed(bytes, heard),
            Self::Events(events) => events.feed(bytes, heard),
            Self::Frames(frames) => frames.feed(bytes, heard),
        }
    }

    /// Some bytes are missing here. Answers whether it can go on after that.
    pub fn gap(&mut self, heard: &mut Heard) -> bool {
        heard.push(Err(Lost::Behind));
        match self {
            Self::Lines(lines) => {
                lines.gap();
                true
            }
            Self::Events(events) => {
                events.gap();
                true
            }
            Self::Frames(_) => false,
        }
    }

    /// Nothing more comes; whether that is the proper end.
    pub fn end(&mut self, whole: bool, heard: &mut Heard) {
        match self {
            Self::Lines(lines) => lines.end(whole, heard),
            Self::Events(_) => {}
            Self::Frames(frames) => frames.end(heard),
        }
    }
}
