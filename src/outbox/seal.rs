//! What is sealed at rest, and how: AES-256-GCM-SIV, which bears even a nonce that comes twice, with a random nonce per
//! value. A sealed value names its key and is bound to its place, so that it opens nowhere else. Without a key nothing is
//! sealed or copied; a value that was written plain is read as it is. Knows no more of the tables than where values are.
//!
//! A sealed value: `\0sh1`, 8 bytes of the key's id, 12 of the nonce, the text, 16 of the tag. Everything that may be
//! sealed is JSON or lies in a column of text, so that no plain value looks like one.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension};

use super::OutboxError;
use crate::secret::SecretKey;

const MAGIC: &[u8; 4] = b"\0sh1";
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = MAGIC.len() + ID_BYTES + NONCE_BYTES;
const TAG_BYTES: usize = 16;

/// Where values that may be sealed are.
const COLUMNS: [(&str, &str); 10] = [
    ("conversation", "maps"),
    ("message", "body"),
    ("waiting_event", "body"),
    ("kept_event", "body"),
    ("body", "body"),
    ("kept_body", "body"),
    ("delivery", "headers"),
    ("delivery", "reason"),
    ("delivery", "won_response"),
    ("attempt", "response"),
];

/// What a value is and whose, which binds it: a sealed value opens in its own place only. A payload keeps its place when
/// it moves between the tables of payloads, an answer when it moves between those of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Marker,
    /// Of a delivery.
    Payload(i64),
    /// Of a delivery.
    Headers(i64),
    /// Of a delivery.
    Reason(i64),
    /// Of a delivery.
    Response(i64),
    /// By its place in the order of arrival.
    KeptEvent(i64),
    /// By its place in the order of arrival.
    WaitingEvent(i64),
    /// Of a conversation.
    Maps(i64),
    /// By its key.
    Message(i64),
}

impl Place {
    /// Written into every sealed value's tag: never change what is there.
    fn bytes(self) -> [u8; 9] {
        let (tag, row) = match self {
            Self::Marker => (0, 0),
            Self::Payload(row) => (1, row),
            Self::Headers(row) => (2, row),
            Self::Reason(row) => (3, row),
            Self::Response(row) => (4, row),
            Self::KeptEvent(row) => (5, row),
            Self::WaitingEvent(row) => (6, row),
            Self::Maps(row) => (7, row),
            Self::Message(row) => (8, row),
        };
        let mut out = [tag; 9];
        out[1..].copy_from_slice(&row.to_le_bytes());
        out
    }
}

/// Why a sealed value cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// Nobody has its key.
    #[error("it is sealed by key {0}, which outbox.encryption_key does not list")]
    NoKey(KeyId),
    /// It does not open in its place.
    #[error("it is damaged, or was moved from another place: its seal does not hold")]
    Damaged,
}

/// The first bytes of a hash of a key: says which it is and nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyId([u8; ID_BYTES]);

impl KeyId {
    fn of(key: &SecretKey) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"sidehook outbox key\0");
        hash.update(key.expose());
        Self::read(hash.finish().as_ref())
    }

    fn read(bytes: &[u8]) -> Self {
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(id)
    }

    /// How every value that it sealed begins.
    fn beginning(self) -> [u8; MAGIC.len() + ID_BYTES] {
        let mut out = [0; MAGIC.len() + ID_BYTES];
        out[..MAGIC.len()].copy_from_slice(MAGIC);
        out[MAGIC.len()..].copy_from_slice(&self.0);
        out
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug)]
struct Key {
    id: KeyId,
    aead: RandomizedNonceKey,
}

impl Key {
    fn new(key: &SecretKey) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self { id: KeyId::of(key), aead: RandomizedNonceKey::new(&AES_256_GCM_SIV, key.expose())? })
    }

    fn seal(&self, place: Place, value: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let mut out = Vec::with_capacity(HEAD_BYTES + value.len() + TAG_BYTES);
        out.extend_from_slice(&self.id.beginning());
        out.extend_from_slice(&[0; NONCE_BYTES]);
        out.extend_from_slice(value);
        let (nonce, tag) = self.aead.seal_in_place_separate_tag(Aad::from(place.bytes()), &mut out[HEAD_BYTES..])?;
        out[MAGIC.len() + ID_BYTES..HEAD_BYTES].copy_from_slice(nonce.as_ref());
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    fn open(&self, place: Place, nonce: &[u8], text: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let nonce = Nonce::try_assume_unique_for_key(nonce)?;
        let mut text = text.to_vec();
        let length = self.aead.open_in_place(nonce, Aad::from(place.bytes()), &mut text)?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// The keys in force.
#[derive(Debug, Default)]
struct Ring {
    /// Whether the first seals.
    seals: bool,
    keys: Vec<Arc<Key>>,
}

impl Ring {
    fn sealing(&self) -> Option<&Key> {
        self.keys.first().filter(|_| self.seals).map(|key| &**key)
    }

    fn find(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id).map(|key| &**key)
    }
}

/// Seals and opens. Keys may come at any time; none that was there leaves before the end of the process, since what it
/// sealed may still be there. Opening always sees the keys of now, never those of before a value was read.
#[derive(Debug, Default)]
pub(super) struct Seal {
    ring: ArcSwap<Ring>,
}

impl Seal {
    /// With these keys.
    pub(super) fn new(keys: &[SecretKey]) -> Result<Self, OutboxError> {
        let seal = Self::default();
        seal.take(keys)?;
        Ok(seal)
    }

    /// Takes over new keys: the first seals from now on.
    pub(super) fn take(&self, keys: &[SecretKey]) -> Result<(), OutboxError> {
        let before = self.ring.load();
        let mut ring = Ring { seals: !keys.is_empty(), keys: Vec::new() };
        for key in keys {
            let key = Key::new(key).map_err(|_| OutboxError::Store {
                path: "outbox.encryption_key".to_owned(),
                message: "the system's cryptography refuses the key; the keys before it stay in force".to_owned(),
            })?;
            ring.keys.push(Arc::new(key));
        }
        for key in &before.keys {
            if ring.find(key.id).is_none() {
                ring.keys.push(Arc::clone(key));
            }
        }
        self.ring.store(Arc::new(ring));
        Ok(())
    }

    /// A value as it is to be stored: as it is where there is no key.
    pub(super) fn seal<'v>(&self, place: Place, value: &'v [u8]) -> rusqlite::Result<Cow<'v, [u8]>> {
        match self.ring.load().sealing() {
            None => Ok(Cow::Borrowed(value)),
            // What cannot be sealed is not stored.
            Some(key) => key.seal(place, value).map(Cow::Owned).map_err(|_| {
                rusqlite::Error::ToSqlConversionFailure("a value could not be sealed by outbox.encryption_key".into())
            }),
        }
    }

    /// A text as it is to be stored: sealed, it is a blob in its column of text.
    pub(super) fn seal_text<'v>(&self, place: Place, text: Option<&'v str>) -> rusqlite::Result<ToSqlOutput<'v>> {
        let Some(text) = text else { return Ok(ToSqlOutput::Owned(Value::Null)) };
        Ok(match self.seal(place, text.as_bytes())? {
            Cow::Borrowed(_) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cow::Owned(sealed) => ToSqlOutput::Owned(Value::Blob(sealed)),
        })
    }

    /// A stored value as it was.
    pub(super) fn open(&self, place: Place, stored: &[u8]) -> Result<Bytes, Unreadable> {
        let Some(sealed) = stored.strip_prefix(MAGIC) else { return Ok(Bytes::copy_from_slice(stored)) };
        let (Some((id, sealed)), true) = (sealed.split_at_checked(ID_BYTES), stored.len() >= HEAD_BYTES + TAG_BYTES)
        else {
            return Err(Unreadable::Damaged);
        };
        let id = KeyId::read(id);
        let (nonce, text) = sealed.split_at(NONCE_BYTES);
        let ring = self.ring.load();
        let key = ring.find(id).ok_or(Unreadable::NoKey(id))?;
        key.open(place, nonce, text).map(Bytes::from).map_err(|_| Unreadable::Damaged)
    }

    /// A stored text as it was.
    pub(super) fn open_text(&self, place: Place, stored: ValueRef<'_>) -> Result<Option<String>, Unreadable> {
        match stored {
            ValueRef::Text(text) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
            ValueRef::Blob(sealed) => {
                let text = self.open(place, sealed)?;
                String::from_utf8(text.into()).map(Some).map_err(|_| Unreadable::Damaged)
            }
            _ => Ok(None),
        }
    }

    /// A stored text for people, who are told where it cannot be read.
    pub(super) fn show_text(&self, place: Place, stored: ValueRef<'_>) -> Option<String> {
        self.open_text(place, stored).unwrap_or_else(|unreadable| {
            Some(match unreadable {
                Unreadable::NoKey(id) => format!("(sealed by key {id})"),
                Unreadable::Damaged => "(sealed and damaged)".to_owned(),
            })
        })
    }

    /// Enters the key that seals, unless it is `entered`; answers which it is.
    pub(super) fn enter(&self, conn: &Connection, entered: Option<KeyId>) -> rusqlite::Result<Option<KeyId>> {
        let id = self.ring.load().sealing().map(|key| key.id);
        if let Some(KeyId(key)) = id.filter(|_| id != entered) {
            let marker = self.seal(Place::Marker, b"sidehook")?;
            conn.prepare_cached("INSERT OR IGNORE INTO sealing VALUES (?1, ?2)")?.execute((key, &marker[..]))?;
        }
        Ok(id)
    }

    /// Whether everything that is sealed in the store can be opened, as far as the keys tell: a key that sealed something
    /// which is still there must be listed. One that did not, or whose values are gone, is forgotten.
    pub(super) fn check(&self, conn: &Connection, file: &Path) -> Result<(), OutboxError> {
        let explain = |e: rusqlite::Error| super::schema::explain(file, &e);
        let refuse = |message: String| OutboxError::Store { path: file.display().to_string(), message };
        for (id, marker) in entered(conn).map_err(explain)? {
            let listed = self.ring.load().find(id).is_some();
            if listed && self.open(Place::Marker, &marker).is_err() {
                return Err(refuse(format!(
                    "what key {id} sealed cannot be opened with it; the store is damaged: restore it from a backup"
                )));
            }
            if listed {
                continue;
            }
            if is_used(conn, id).map_err(explain)? {
                return Err(refuse(format!(
                    "it holds what key {id} sealed, and outbox.encryption_key does not list that key; add it as a \
                     further line (`sidehook outbox inspect` tells which keys are in use)"
                )));
            }
            conn.execute("DELETE FROM sealing WHERE key = ?1", [id.0]).map_err(explain)?;
        }
        Ok(())
    }
}

/// The keys that sealed something once, with their markers.
fn entered(conn: &Connection) -> rusqlite::Result<Vec<(KeyId, Vec<u8>)>> {
    let mut all = conn.prepare("SELECT key, marker FROM sealing ORDER BY key")?;
    all.query_map([], |row| Ok((KeyId::read(row.get_ref(0)?.as_blob()?), row.get(1)?)))?.collect()
}

/// The keys, by their ids, that sealed something which is still there and are not among these.
pub(super) fn unlisted(conn: &Connection, keys: &[SecretKey]) -> rusqlite::Result<Vec<String>> {
    let mut missing = Vec::new();
    for (id, _) in entered(conn)? {
        if !keys.iter().any(|key| KeyId::of(key) == id) && is_used(conn, id)? {
            missing.push(id.to_string());
        }
    }
    Ok(missing)
}

fn used_in(id: KeyId, table: &str, column: &str, what: &str) -> (String, [u8; MAGIC.len() + ID_BYTES]) {
    let begins = id.beginning();
    (format!("SELECT {what} FROM {table} WHERE substr({column}, 1, {}) = ?1", begins.len()), begins)
}

/// Whether anything that this key sealed is there. Reads the whole store where nothing is.
fn is_used(conn: &Connection, id: KeyId) -> rusqlite::Result<bool> {
    for (table, column) in COLUMNS {
        let (sql, begins) = used_in(id, table, column, "1");
        if conn.query_row(&sql, [begins], |_| Ok(())).optional()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The keys that sealed something, by their ids, with how many values of each there are. Reads the whole store where
/// anything was sealed.
pub(super) fn in_use(conn: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for (id, _) in entered(conn)? {
        let mut values = 0;
        for (table, column) in COLUMNS {
            let (sql, begins) = used_in(id, table, column, "count(*)");
            values += conn.query_row(&sql, [begins], |row| row.get::<_, i64>(0))?;
        }
        found.push((id.to_string(), u64::try_from(values).unwrap_or(0)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::parse(&STANDARD.encode([byte; 32])).expect("a key")
    }

    fn seal(keys: &[u8]) -> Seal {
        Seal::new(&keys.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).expect("a seal")
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_with_its_key_and_nowhere_else() {
        let one = seal(&[1]);
        let place = Place::Payload(7);
        for value in [&b""[..], b"{}", &[b'x'; 10_000]] {
            let sealed = one.seal(place, value).expect("sealed");
            assert_eq!(sealed.len(), value.len() + 40);
            assert!(value.is_empty() || !sealed.windows(value.len()).any(|w| w == value));
            assert_eq!(one.open(place, &sealed).as_deref(), Ok(value));
            assert_ne!(sealed, one.seal(place, value).expect("sealed"), "a nonce of its own each time");
            for other in [Place::Payload(8), Place::Headers(7), Place::Message(7), Place::Marker] {
                assert_eq!(one.open(other, &sealed), Err(Unreadable::Damaged), "{other:?}");
            }
            assert_eq!(seal(&[2, 1]).open(place, &sealed).as_deref(), Ok(value), "any key that is listed opens");
            assert_eq!(seal(&[2]).open(place, &sealed), Err(Unreadable::NoKey(KeyId::of(&key(1)))));
            for at in 4..sealed.len() {
                let mut changed = sealed.to_vec();
                changed[at] ^= 1;
                assert!(one.open(place, &changed).is_err(), "byte {at}");
            }
            for length in 4..sealed.len().min(60) {
                assert!(one.open(place, &sealed[..length]).is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn without_a_key_nothing_is_copied_or_changed() {
        let none = seal(&[]);
        let value = b"{\"a\":1}";
        assert!(matches!(none.seal(Place::Maps(1), value), Ok(Cow::Borrowed(found)) if std::ptr::eq(found, value)));
        assert_eq!(none.open(Place::Maps(1), value).as_deref(), Ok(&value[..]));
        assert_eq!(seal(&[1]).open(Place::Maps(1), value).as_deref(), Ok(&value[..]), "written before there was a key");
        assert_eq!(none.open_text(Place::Reason(1), ValueRef::Text(b"\0sh1")), Ok(Some("\0sh1".to_owned())));
        assert_eq!(none.open_text(Place::Reason(1), ValueRef::Null), Ok(None));
    }

    #[test]
    fn keys_come_at_any_time_and_those_that_were_there_still_open() {
        let seal = seal(&[1]);
        let place = Place::KeptEvent(1);
        let old = seal.seal(place, b"old").expect("sealed").into_owned();
        seal.take(&[key(2)]).expect("taken");
        let new = seal.seal(place, b"new").expect("sealed").into_owned();
        assert_ne!(old[4..12], new[4..12]);
        seal.take(&[]).expect("taken");
        assert!(matches!(seal.seal(place, b"plain"), Ok(Cow::Borrowed(_))), "no key, nothing is sealed");
        assert_eq!(seal.open(place, &old).as_deref(), Ok(&b"old"[..]));
        assert_eq!(seal.open(place, &new).as_deref(), Ok(&b"new"[..]));
    }
}
