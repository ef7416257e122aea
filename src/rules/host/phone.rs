//! Telephone numbers in a text: E.164 with or without separators, and national forms of 7 to 15 digits with the usual
//! separators; not plain numbers, dates, amounts, addresses of machines.

use std::borrow::Cow;

use super::Fallible;
use super::redact::{Watch, is_card_number};

/// Fewest and most digits of a number (E.164, section 6, allows 15).
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Replaces every telephone number with `[phone]`.
pub(super) fn redact<'t>(text: &'t str, watch: &mut Watch) -> Fallible<Cow<'t, str>> {
    let mut out: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        watch.at(at)?;
        if !matches!(bytes[at], b'+' | b'(' | b'0'..=b'9') {
            at += 1;
            continue;
        }
        if let Some(end) = iban_end(bytes, at) {
            at = end;
            continue;
        }
        let Some(found) = Candidate::read(bytes, at) else {
            at += 1;
            continue;
        };
        let end = if found.may_begin(text, at) { found.phone_end() } else { None };
        if let Some(end) = end {
            let out = out.get_or_insert_with(String::new);
            out.push_str(&text[copied..at]);
            out.push_str("[phone]");
            copied = end;
        }
        at = end.unwrap_or(found.end).max(at + 1);
    }
    Ok(match out {
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    })
}

/// Where the international bank account number (ISO 13616) ends whose inner group of four begins here; `None` when it
/// is none, for which its check digits vouch.
fn iban_end(bytes: &[u8], at: usize) -> Option<usize> {
    const CHARS: std::ops::RangeInclusive<usize> = 15..=34;
    let part = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    let mut start = at;
    loop {
        let group = bytes.get(start.checked_sub(5)?..start)?;
        if group[4] != b' ' || !group[..4].iter().all(part) || at - start > *CHARS.end() {
            return None;
        }
        start -= 5;
        let outside = start == 0 || !bytes[start - 1].is_ascii_alphanumeric();
        if outside && group[..2].iter().all(u8::is_ascii_uppercase) && group[2..4].iter().all(u8::is_ascii_digit) {
            break;
        }
    }
    let mut chars: Vec<u8> = bytes[start..at].iter().copied().filter(|b| *b != b' ').collect();
    let (mut end, mut best) = (at, None);
    while chars.len() < *CHARS.end() {
        let size = bytes[end..].iter().take_while(|b| part(b)).count();
        if !(1..=4).contains(&size) {
            break;
        }
        chars.extend_from_slice(&bytes[end..end + size]);
        end += size;
        if CHARS.contains(&chars.len()) && is_iban(&chars) {
            best = Some(end);
        }
        if size < 4 || bytes.get(end) != Some(&b' ') {
            break;
        }
        end += 1;
    }
    best
}

/// The check of ISO/IEC 7064, MOD 97-10: the first four characters come last, letters count from 10.
fn is_iban(chars: &[u8]) -> bool {
    let (head, rest) = chars.split_at(4);
    let sum = rest.iter().chain(head).fold(0_u32, |sum, c| match c {
        b'0'..=b'9' => (sum * 10 + u32::from(c - b'0')) % 97,
        _ => (sum * 100 + u32::from(c - b'A') + 10) % 97,
    });
    sum == 1
}

/// A run of digit groups and separators.
struct Candidate {
    plus: bool,
    /// A bracket was opened and closed.
    brackets: bool,
    groups: Vec<Vec<u8>>,
    /// What stands between the groups.
    separators: Vec<Vec<u8>>,
    /// Where each group ends.
    ends: Vec<usize>,
    end: usize,
}

impl Candidate {
    /// Reads from a `+`, a bracket or a digit; `None` when no digit follows.
    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let mut found = Self {
            plus: bytes[start] == b'+',
            brackets: false,
            groups: Vec::new(),
            separators: Vec::new(),
            ends: Vec::new(),
            end: start,
        };
        let mut open = bytes[start] == b'(' && bytes.get(start + 1) == Some(&b'+');
        found.plus |= open;
        let mut at = start + usize::from(found.plus) + usize::from(open);
        let mut between = Vec::new();
        while let Some(&b) = bytes.get(at) {
            match b {
                b'0'..=b'9' => {
                    let end = bytes[at..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| at + n);
                    if !found.groups.is_empty() {
                        found.separators.push(std::mem::take(&mut between));
                    }
                    between.clear();
                    found.groups.push(bytes[at..end].to_vec());
                    found.ends.push(end);
                    if !open {
                        found.end = end;
                    }
                    at = end;
                    // Within a bracket too: what reaches further is no number, and the bracket stays open.
                    if found.groups.iter().map(Vec::len).sum::<usize>() > *DIGITS.end() {
                        break;
                    }
                    continue;
                }
                b'(' if !open && !found.brackets => open = true,
                b')' if open => {
                    open = false;
                    found.brackets = true;
                    found.end = at + 1;
                }
                b' ' | b'-' | b'.' | b'/' => {}
                // No-break space.
                0xC2 if bytes.get(at + 1) == Some(&0xA0) => at += 1,
                _ => break,
            }
            between.push(b);
            // ") " and " - " are the longest that people write.
            if between.len() > 3 {
                break;
            }
            at += 1;
        }
        if open {
            // The bracket belongs to the sentence, and so does what is in it.
            let keep = found.separators.iter().position(|s| s.contains(&b'('));
            if let Some(keep) = keep {
                found.groups.truncate(keep + 1);
                found.separators.truncate(keep);
                found.ends.truncate(keep + 1);
            } else if bytes[start] == b'(' {
                return None; // "(2024 …": a sentence in brackets
            }
        }
        (!found.groups.is_empty()).then_some(found)
    }

    /// Not in the middle of a word, a number, a path or an identifier. What is plainly a number to call may have something
    /// written to its end: an extension, a letter, an underscore.
    fn may_begin(&self, text: &str, start: usize) -> bool {
        let before = text[..start].chars().next_back();
        let mut rest = text[self.end..].chars();
        let (after, then) = (rest.next(), rest.next());
        let glued = |c: char| c.is_alphanumeric() || matches!(c, '_' | '#' | '@' | '$' | '€' | '£' | '%');
        let begins = !before.is_some_and(|c| glued(c) || matches!(c, '-' | '.' | '/' | '+' | ','))
            || (self.plus && before == Some('_'));
        let grouped = !self.separators.is_empty();
        let ends = match after {
            Some('_') => self.plus || grouped,
            Some('x' | 'X') if then.is_some_and(|c| c.is_ascii_digit()) => self.plus || grouped,
            Some(c) if c.is_alphabetic() => self.plus || (grouped && !then.is_some_and(char::is_alphanumeric)),
            Some(c) => !glued(c) && c != ':',
            None => true,
        };
        begins && ends
    }

    /// Where the number ends: with the run, or, where it begins like one beyond doubt, before other numbers.
    fn phone_end(&self) -> Option<usize> {
        if self.is_phone() {
            return Some(self.end);
        }
        let trunk = self.groups[0].len() > 2 && self.groups[0][0] == b'0';
        if self.brackets || !(self.plus || trunk) || self.is_something_else() {
            return None;
        }
        let begins = |n: &usize| self.groups[*n].len() > 2 && self.groups[*n][0] == b'0';
        // Best where the next number begins, else as far as one can reach.
        let next = (1..self.groups.len()).filter(begins);
        next.chain((1..self.groups.len()).rev()).find_map(|n| {
            let part = Self {
                plus: self.plus,
                brackets: false,
                groups: self.groups[..n].to_vec(),
                separators: self.separators[..n - 1].to_vec(),
                ends: self.ends[..n].to_vec(),
                end: self.ends[n - 1],
            };
            part.is_phone().then_some(part.end)
        })
    }

    /// Dates, amounts, addresses, cards: what looks like a number to call and is none.
    fn is_something_else(&self) -> bool {
        if self.plus || self.groups.len() < 2 {
            return false;
        }
        let sizes: Vec<usize> = self.groups.iter().map(Vec::len).collect();
        let digits: Vec<u8> = self.groups.concat().iter().map(|d| d - b'0').collect();
        self.is_date()
            || self.is_amount(&sizes)
            || self.is_address()
            || self.is_other_id(&sizes)
            || is_card_number(&digits)
    }

    fn is_phone(&self) -> bool {
        let digits: Vec<u8> = self.groups.concat();
        if !DIGITS.contains(&digits.len()) {
            return false;
        }
        if self.plus {
            return digits[0] != b'0' && self.groups.last().is_some_and(|last| last.len() >= 2);
        }
        let sizes: Vec<usize> = self.groups.iter().map(Vec::len).collect();
        if let [only] = self.groups.as_slice() {
            // `00` and a country: the written form of `+`.
            return only.starts_with(b"00") && only.len() >= 10 && only[2] != b'0';
        }
        if self.is_something_else() {
            return false;
        }
        // A single digit is a trunk or country code, at the front only: "1 2 3 4 5 6 7" is counting.
        sizes.len() <= 6
            && sizes[1..].iter().all(|s| *s >= 2)
            && (sizes[0] >= 2 || matches!(digits[0], b'0' | b'1' | b'7'))
            && self.separators.iter().all(|s| !(s.contains(&b'.') && s.contains(&b' ')))
            && !(self.has(b'.') && self.has(b' '))
    }

    fn has(&self, separator: u8) -> bool {
        self.separators.iter().any(|s| s.as_slice() == [separator])
    }

    fn number(&self, group: usize) -> u32 {
        self.groups[group].iter().fold(0_u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')))
    }

    /// Begins like a date, year or day first, or is a range of years.
    fn is_date(&self) -> bool {
        let year = |i: usize| self.groups[i].len() == 4 && (1900..=2099).contains(&self.number(i));
        let small = |i: usize, most: u32| self.groups[i].len() <= 2 && (1..=most).contains(&self.number(i));
        if self.groups.len() == 2 {
            return year(0) && year(1);
        }
        let one_kind = self.separators.first() == self.separators.get(1);
        one_kind
            && !self.brackets
            && (year(0) && small(1, 12) && small(2, 31)
                || (small(0, 31) && small(1, 31)) && (year(2) || (self.groups.len() == 3 && self.groups[2].len() == 2)))
    }

    /// `1234567.89`, `1.234.567`, `1 234 567`.
    fn is_amount(&self, sizes: &[usize]) -> bool {
        if self.brackets {
            return false;
        }
        let all = |separator: u8| self.separators.iter().all(|s| s.as_slice() == [separator]);
        let thousands = sizes[0] <= 3 && sizes[1..].iter().all(|s| *s == 3);
        (all(b'.') && (sizes.len() == 2 || thousands && sizes[0] < 3))
            || (all(b' ') && thousands && sizes[0] < 3 && self.groups[0][0] != b'0')
    }

    /// Four numbers up to 255 with dots: an address of IP version 4.
    fn is_address(&self) -> bool {
        self.groups.len() == 4
            && self.separators.iter().all(|s| s.as_slice() == b".")
            && (0..4).all(|i| self.groups[i].len() <= 3 && self.number(i) <= 255)
    }

    /// Postal codes and social security numbers of the United States.
    fn is_other_id(&self, sizes: &[usize]) -> bool {
        !self.brackets
            && self.separators.iter().all(|s| s.as_slice() == b"-")
            && (sizes == [5, 4] || sizes == [3, 2, 4])
    }
}

#[cfg(test)]
mod tests {
    use super::super::redact::tests::plain;
    use super::*;

    #[test]
    fn numbers_go() {
        for (text, want) in [
            ("+491701234567", "[phone]"),
            ("call +49 170 1234567 now", "call [phone] now"),
            ("+1 (415) 555-2671", "[phone]"),
            ("(415) 555-2671", "[phone]"),
            ("415-555-2671", "[phone]"),
            ("415.555.2671", "[phone]"),
            ("1-800-555-0199", "[phone]"),
            ("030/1234567", "[phone]"),
            ("0170 1234567", "[phone]"),
            ("0170-123 45 67", "[phone]"),
            ("01 23 45 67 89", "[phone]"),
            ("+44 (0)20 7946 0958", "[phone]"),
            ("tel:0170-1234567, +33 1 23 45 67 89.", "tel:[phone], [phone]."),
            ("00491701234567", "[phone]"),
            ("555-1234", "[phone]"),
            ("612 345 678", "[phone]"),
            ("2345 6789", "[phone]"),
            ("Ruf 0170\u{a0}1234567!", "Ruf [phone]!"),
            ("+86 138 0013 8000", "[phone]"),
            ("+7 495 123-45-67", "[phone]"),
            ("(+49) 170 1234567", "[phone]"),
            ("0170 1234567 0171 7654321", "[phone] [phone]"),
            ("GB82 WEST 1234 5698 7654 33", "GB82 WEST [phone]"),
            ("GB82 WEST 1234 5698 7654 32 0170 1234567", "GB82 WEST 1234 5698 7654 32 [phone]"),
            ("555-123-4567x89 +49-170-1234567x12", "[phone]x89 [phone]x12"),
            ("+49-170-1234567a Tel:030/901820A", "[phone]a Tel:[phone]A"),
            ("_+491701234567_ 0170-1234567_", "_[phone]_ [phone]_"),
            ("+491701234567 4711, +49 170 1234567 2 times", "[phone] 4711, [phone] 2 times"),
        ] {
            assert_eq!(plain(redact, text), want, "{text}");
        }
    }

    #[test]
    fn look_alikes_stay() {
        for text in [
            "2216964057603244032",
            "order 12345678",
            "id 1234567890",
            "2026-01-03",
            "2026-01-03 11:38:10",
            "123-4567abc",
            "1234567x8",
            "sku_1234567_",
            "2026-01-03T11:38:10Z",
            "03.01.2026",
            "1/3/2026",
            "2019-2024",
            "1234567.89",
            "1.234.567",
            "1 234 567",
            "12 345 678",
            "1,234,567",
            "192.168.100.200",
            "94105-1234",
            "123-45-6789",
            "ORD-2024-123456",
            "v1.2.3",
            "550e8400-e29b-41d4-a716-446655440000",
            "4111 1111 1111 1111",
            "3782 822463 10005",
            "1 2 3 4 5 6 7 8",
            "11 22 33 44 55 66 77 88 99",
            "4111 1111 1111 1111 12/27",
            "12.30 14.45",
            "$1234-5678",
            "#555-1234",
            "https://example.com/555-1234",
            "+0123456789",
            "123456",
            "12:30:45",
            "in (2024) and",
            "GB82 WEST 1234 5698 7654 32",
            "to BE68 5390 0754 7034, today",
            "",
        ] {
            assert_eq!(plain(redact, text), text, "{text}");
        }
    }
}
