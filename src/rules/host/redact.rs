//! `redact_email`, `redact_phone`, `redact_card`: personal data in a text, or in every text of a map or array, gives
//! way to a placeholder, in the names of members too. Parts in which nothing is found go out as they came in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, Identifier, ImmutableString, Map};

use super::super::engine::check_time;
use super::super::view;
use super::{Fallible, phone};
use crate::clock::Clock;
use crate::event::{Json, Kind};
use crate::limits;

/// How far in a text a function comes between two looks at the clock, in bytes.
const LOOK_EVERY: usize = 4 * 1024;

/// Looks at the clock while one text is read.
pub(super) struct Watch<'a> {
    clock: &'a Clock,
    next: usize,
}

impl<'a> Watch<'a> {
    pub fn new(clock: &'a Clock) -> Self {
        Self { clock, next: LOOK_EVERY }
    }

    /// Ends the call if its time is over; `place` is how far the reader has come.
    pub fn at(&mut self, place: usize) -> Fallible<()> {
        if place < self.next {
            return Ok(());
        }
        self.next = place + LOOK_EVERY;
        check_time(self.clock)
    }
}

/// Replaces what it finds in one text; borrowed when there is nothing. Its time is linear in the text.
type Redact = for<'t> fn(&'t str, &mut Watch) -> Fallible<Cow<'t, str>>;

pub(super) fn register(engine: &mut Engine, clock: &Clock) {
    let functions: [(&str, Redact); 3] =
        [("redact_email", email), ("redact_phone", phone::redact), ("redact_card", card)];
    for (name, redact) in functions {
        let walker = Walker { redact, clock: clock.clone() };
        engine.register_fn(name, move |value: Dynamic| walker.walk(&value, 0));
    }
}

struct Walker {
    redact: Redact,
    clock: Clock,
}

impl Walker {
    /// The redacted text; `None` when it stays.
    fn text(&self, text: &str) -> Fallible<Option<String>> {
        let new = (self.redact)(text, &mut Watch::new(&self.clock))?;
        check_time(&self.clock)?;
        Ok(match new {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(text),
        })
    }

    fn walk(&self, value: &Dynamic, depth: usize) -> Fallible<Dynamic> {
        if depth > limits::JSON_DEPTH {
            return Err(format!("the value is nested deeper than {} levels", limits::JSON_DEPTH).into());
        }
        if let Some(text) = value.read_lock::<ImmutableString>() {
            return Ok(self.text(&text)?.map_or_else(|| value.clone(), Into::into));
        }
        if let Some(json) = view::json_of(value) {
            return Ok(self.json(&json)?.map_or_else(|| value.clone(), |json| view::to_dynamic(&json)));
        }
        if let Some(map) = value.read_lock::<Map>() {
            let names = self.names(map.keys().map(Identifier::as_str))?;
            let walked: Fallible<Map> = map
                .iter()
                .map(|(key, value)| {
                    let name = names.get(key.as_str()).map_or_else(|| key.clone(), |new| new.as_str().into());
                    Ok((name, self.walk(value, depth + 1)?))
                })
                .collect();
            return Ok(walked?.into());
        }
        if let Some(array) = value.read_lock::<Array>() {
            let walked: Fallible<Array> = array.iter().map(|value| self.walk(value, depth + 1)).collect();
            return Ok(walked?.into());
        }
        Ok(value.clone())
    }

    /// The redacted value; `None` when nothing in it changes. The depth is bounded by the JSON parser.
    fn json(&self, json: &Json) -> Fallible<Option<Json>> {
        match json.kind() {
            Kind::String => Ok(self.text(&json.as_str().unwrap_or_default())?.map(|text| Json::text(&text))),
            Kind::Array => {
                let mut changed = false;
                let mut items = Vec::with_capacity(json.len());
                for item in json.items() {
                    let new = self.json(&item)?;
                    changed |= new.is_some();
                    items.push(new.unwrap_or(item));
                }
                Ok(changed.then(|| Json::List(Arc::new(items))))
            }
            Kind::Object => {
                let members: Vec<_> = json.members().collect();
                let names = self.names(members.iter().map(|(key, _)| key.as_ref()))?;
                let mut changed = !names.is_empty();
                let mut walked = Vec::with_capacity(members.len());
                for (key, value) in &members {
                    let new = self.json(value)?;
                    changed |= new.is_some();
                    let name = names.get(key.as_ref()).map_or_else(|| Arc::clone(key), |new| Arc::from(new.as_str()));
                    walked.push((name, new.unwrap_or_else(|| value.clone())));
                }
                Ok(changed.then(|| Json::map(walked)))
            }
            _ => check_time(&self.clock).map(|()| None),
        }
    }

    /// New names of the members whose name holds what is looked for. No two become one: the second of a kind is
    /// `[email] (2)`, in the order of the members.
    fn names<'k>(&self, keys: impl Iterator<Item = &'k str> + Clone) -> Fallible<HashMap<&'k str, String>> {
        let mut found = Vec::new();
        for key in keys.clone() {
            if let Some(new) = self.text(key)? {
                found.push((key, new));
            }
        }
        let mut names = HashMap::with_capacity(found.len());
        if found.is_empty() {
            return Ok(names);
        }
        let going: HashSet<&str> = found.iter().map(|(key, _)| *key).collect();
        let mut taken: HashSet<String> = keys.filter(|key| !going.contains(key)).map(str::to_owned).collect();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (key, new) in found {
            let count = counts.entry(new.clone()).or_default();
            let name = loop {
                *count += 1;
                let name = if *count == 1 { new.clone() } else { format!("{new} ({count})") };
                if taken.insert(name.clone()) {
                    break name;
                }
            };
            names.insert(key, name);
        }
        Ok(names)
    }
}

/// Addresses as they are written in practice: a name, `@`, a domain whose last part is letters.
fn email<'t>(text: &'t str, watch: &mut Watch) -> Fallible<Cow<'t, str>> {
    let mut out: Option<String> = None;
    let mut copied = 0;
    for (at, _) in text.match_indices('@') {
        watch.at(at)?;
        if at < copied {
            continue;
        }
        let (Some(start), Some(end)) = (name_start(&text[copied..at]), domain_end(&text[at + 1..])) else { continue };
        let out = out.get_or_insert_with(String::new);
        out.push_str(&text[copied..copied + start]);
        out.push_str("[email]");
        copied = at + 1 + end;
    }
    Ok(match out {
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    })
}

/// Where the name before an `@` begins.
fn name_start(before: &str) -> Option<usize> {
    let allowed = |c: char| c.is_alphanumeric() || "._%+'-!#&*=^{|}~".contains(c);
    let from = before.char_indices().rev().take_while(|(_, c)| allowed(*c)).last().map(|(at, _)| at)?;
    let leading = before[from..].find(char::is_alphanumeric)?;
    (!before.ends_with('.')).then_some(from + leading)
}

/// Where the domain after an `@` ends; `None` when it is none.
fn domain_end(after: &str) -> Option<usize> {
    let length = after.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.')).unwrap_or(after.len());
    let mut end = 0;
    let mut best = None;
    for (i, label) in after[..length].split('.').enumerate() {
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') || i > 16 {
            break;
        }
        end += label.len() + usize::from(i > 0);
        let top = label.starts_with("xn--") || (label.chars().count() >= 2 && label.chars().all(char::is_alphabetic));
        if i > 0 && top {
            best = Some(end);
        }
    }
    best
}

/// Card numbers: 12 to 19 digits in groups, of a known issuer and length, with a good check digit.
fn card<'t>(text: &'t str, watch: &mut Watch) -> Fallible<Cow<'t, str>> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        watch.at(at)?;
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let first = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        // No card begins otherwise: a group of four, or all its digits at once; see `is_card_number` for the digit.
        if !(matches!(bytes[at], b'2'..=b'6') && (first == 4 || (12..=CARD_DIGITS).contains(&first))) {
            at += first;
            continue;
        }
        let run = DigitRun::read(bytes, at);
        if let Some(end) = run.card_end(text, at) {
            let out = out.get_or_insert_with(String::new);
            out.push_str(&text[copied..at]);
            out.push_str("[card]");
            copied = end;
            at = end;
        } else {
            // A number may follow another one: "12 4111 1111 1111 1111".
            at = run.ends.first().copied().unwrap_or(at + 1);
        }
    }
    Ok(match out {
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    })
}

/// Most digits of a card number (ISO/IEC 7812).
const CARD_DIGITS: usize = 19;

/// Digits with single blanks or hyphens between groups, as far as a card number could reach.
struct DigitRun {
    digits: Vec<u8>,
    /// Digits in each group, and where it ends in the text.
    groups: Vec<usize>,
    ends: Vec<usize>,
}

impl DigitRun {
    fn read(bytes: &[u8], start: usize) -> Self {
        let mut run = Self { digits: Vec::new(), groups: Vec::new(), ends: Vec::new() };
        let mut separator = None;
        let mut at = start;
        loop {
            let group = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            run.digits.extend(bytes[at..at + group].iter().take(CARD_DIGITS + 1).map(|b| b - b'0'));
            at += group;
            run.groups.push(group);
            run.ends.push(at);
            let next = bytes.get(at).copied().filter(|b| matches!(b, b' ' | b'-'));
            let joined = next.is_some_and(|b| separator.is_none_or(|s| s == b));
            if !joined || run.digits.len() > CARD_DIGITS || !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
                return run;
            }
            separator = next;
            at += 1;
        }
    }

    /// Where a card number that begins here ends: with the run, or before other numbers, such as its expiry.
    fn card_end(&self, text: &str, start: usize) -> Option<usize> {
        let outside = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !outside(text[..start].chars().next_back()) {
            return None;
        }
        (1..=self.groups.len()).rev().find_map(|n| {
            let grouped = match &self.groups[..n] {
                [_] | [4, 6, 4 | 5] => true,
                [rest @ .., last] => rest.iter().all(|g| *g == 4) && (1..=4).contains(last),
                [] => false,
            };
            let end = self.ends[n - 1];
            let digits = self.digits.get(..self.groups[..n].iter().sum())?;
            (grouped && outside(text[end..].chars().next()) && is_card_number(digits)).then_some(end)
        })
    }
}

/// Issuer ranges and lengths of ISO/IEC 7812 numbers in circulation, and the check digit of its annex B.
pub(super) fn is_card_number(digits: &[u8]) -> bool {
    if digits.len() < 12 || digits.len() > 19 {
        return false;
    }
    let prefix = |n: usize| digits[..n].iter().fold(0_u32, |sum, d| sum * 10 + u32::from(*d));
    let known = match (prefix(1), prefix(2), prefix(3), prefix(4)) {
        (4, ..) => matches!(digits.len(), 13 | 16 | 19),
        (_, 51..=55, ..) | (.., 2221..=2720) => digits.len() == 16,
        (_, 34 | 37, ..) => digits.len() == 15,
        (_, 36 | 38 | 39, ..) | (_, _, 300..=305, _) => (14..=19).contains(&digits.len()),
        (_, 62 | 65, ..) | (_, _, 644..=649, _) | (.., 3528..=3589 | 6011) => digits.len() >= 16,
        (_, 50 | 56..=69, ..) => true,
        _ => false,
    };
    known && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(*d);
            if i % 2 == 0 { d } else { d * 2 / 10 + d * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::engine::{Call, Mode};
    use super::super::super::scripts::ScriptLimits;
    use super::*;

    pub fn plain(redact: Redact, text: &str) -> Cow<'_, str> {
        redact(text, &mut Watch::new(&Clock::System)).expect("no deadline")
    }

    #[test]
    fn addresses_go_and_look_alikes_stay() {
        for (text, want) in [
            ("write to jane.doe+x@example.co.uk.", "write to [email]."),
            ("<o'neil@mail.example.com>, b@c.de", "<[email]>, [email]"),
            ("jürgen@müller.de", "[email]"),
            ("a@xn--mller-kva.xn--p1ai", "[email]"),
            ("user@localhost", "user@localhost"),
            ("@handle and 3 @ 4 euros", "@handle and 3 @ 4 euros"),
            ("a@b", "a@b"),
            ("git@host:repo.git", "git@host:repo.git"),
            ("v@1.2.3", "v@1.2.3"),
        ] {
            assert_eq!(plain(email, text), want, "{text}");
        }
    }

    #[test]
    fn the_clock_is_read_within_one_text() {
        let late = ScriptLimits { operations: 1, time: std::time::Duration::ZERO };
        for (redact, part) in
            [(card as Redact, "1 "), (card, "4111 "), (phone::redact, "1 "), (phone::redact, "(1"), (email, "a@b.")]
        {
            let text = part.repeat(LOOK_EVERY);
            let call = Call::begin(None, Mode::Rehearsal);
            assert!(redact(&text, &mut Watch::new(&Clock::System)).is_ok(), "{part}");
            call.arm(Clock::System.instant(), &late);
            assert!(redact(part, &mut Watch::new(&Clock::System)).is_ok(), "{part}: at the end is the caller's look");
            assert!(redact(&text, &mut Watch::new(&Clock::System)).is_err(), "{part}");
        }
    }

    #[test]
    fn names_of_members_go_too() {
        let walker = Walker { redact: email, clock: Clock::System };
        let text = r#"{"[email]":1,"a@b.de":2,"c@d.de":"e@f.de","g":[{"h@i.de":null}]}"#;
        let want = r#"{"[email]":1,"[email] (2)":2,"[email] (3)":"[email]","g":[{"[email]":null}]}"#;
        let json = Json::parse(text.to_owned()).expect("JSON");
        let got = walker.json(&json).expect("no deadline").expect("a change");
        assert_eq!(String::from_utf8_lossy(&got.to_bytes()), want);
        // A map that a script made is the same.
        let mut map = Map::new();
        for key in ["a@b.de", "c@d.de", "plain", "[email]"] {
            map.insert(key.into(), Dynamic::UNIT);
        }
        let got = walker.walk(&map.into(), 0).expect("no deadline").cast::<Map>();
        let names: Vec<&str> = got.keys().map(Identifier::as_str).collect();
        assert_eq!(names, ["[email]", "[email] (2)", "[email] (3)", "plain"]);
    }

    #[test]
    fn cards_go_and_look_alikes_stay() {
        for (text, want) in [
            ("4111 1111 1111 1111", "[card]"),
            ("pay with 4111-1111-1111-1111, please", "pay with [card], please"),
            ("5555555555554444 3782 822463 10005", "[card] [card]"),
            ("4111 1111 1111 1111 12/27, cvv 123", "[card] 12/27, cvv 123"),
            ("no 12 4111 1111 1111 1111 0170", "no 12 [card] 0170"),
            ("5555555555554444, 3782 822463 10005", "[card], [card]"),
            ("2223003122003222", "[card]"),
            ("6011111111111117/3530111333300000", "[card]/[card]"),
            ("30569309025904", "[card]"),
            ("4111 1111 1111 1112", "4111 1111 1111 1112"),
            ("order 1234567812345670", "order 1234567812345670"),
            ("conversation 2216964057603244032", "conversation 2216964057603244032"),
            ("x4111111111111111", "x4111111111111111"),
            ("4111111111111111a", "4111111111111111a"),
            ("41111111111111111111111111", "41111111111111111111111111"),
            ("411 11111 1111 1111", "411 11111 1111 1111"),
            ("2026-01-03 11:38:10", "2026-01-03 11:38:10"),
            ("+49 170 1234567", "+49 170 1234567"),
        ] {
            assert_eq!(plain(card, text), want, "{text}");
        }
    }
}
