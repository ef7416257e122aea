//! Sets of HTTP statuses as `retry.statuses` writes them.

/// Which HTTP statuses are retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet {
    /// Inclusive, in the order written.
    ranges: Vec<(u16, u16)>,
}

impl StatusSet {
    /// From `408`, `5xx`, `50X`, `40X`, …; the error names the bad entry and what would be right.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        entries.into_iter().map(range).collect::<Result<_, _>>().map(|ranges| Self { ranges })
    }

    /// Whether `status` is in the set. 2xx and 410 never are: they have meanings of their own.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        !(200..300).contains(&status)
            && status != 410
            && self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

/// 408, 409, 425, 429 and 5xx.
impl Default for StatusSet {
    fn default() -> Self {
        Self { ranges: vec![(408, 409), (425, 425), (429, 429), (500, 599)] }
    }
}

fn range(entry: &str) -> Result<(u16, u16), String> {
    const RIGHT: &str = "write a status such as 503, or a class such as 5xx or 50x";
    let digits = entry.trim_end_matches(['x', 'X']);
    let wild = entry.len() - digits.len();
    if entry.len() != 3 || wild > 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{entry:?} is not an HTTP status; {RIGHT}"));
    }
    let value: u16 = digits.parse().map_err(|_| format!("{entry:?} is not an HTTP status; {RIGHT}"))?;
    let span = 10u16.pow(u32::try_from(wild).unwrap_or(0));
    let low = value * span;
    match low {
        410 if wild == 0 => Err("410 cannot be retried: it disables the webhook; leave it out".to_owned()),
        200..300 => Err(format!("{entry:?} cannot be retried: 2xx is success; leave it out")),
        300..600 => Ok((low, low + span - 1)),
        _ => Err(format!("{entry:?} is not a status that a response ends with (300 to 599); {RIGHT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_classes() {
        let set = StatusSet::parse(["408", "50X", "42x", "4XX"]).expect("valid");
        for (status, expected) in [(408, true), (500, true), (509, true), (510, false), (404, true), (410, false)] {
            assert_eq!(set.contains(status), expected, "{status}");
        }
        let default = StatusSet::default();
        assert_eq!(default, StatusSet::default());
        for (status, expected) in
            [(200, false), (302, false), (400, false), (408, true), (409, true), (425, true), (429, true), (599, true)]
        {
            assert_eq!(default.contains(status), expected, "{status}");
        }
        assert!(!StatusSet::parse([]).expect("an empty set is allowed").contains(500));
    }

    #[test]
    fn mistakes_are_named() {
        for (entry, expected) in [
            ("5", "\"5\" is not an HTTP status; write a status such as 503"),
            ("5x3", "\"5x3\" is not an HTTP status"),
            ("xxx", "\"xxx\" is not an HTTP status"),
            ("5000", "\"5000\" is not an HTTP status"),
            ("+50", "\"+50\" is not an HTTP status"),
            ("é5", "is not an HTTP status"),
            ("", "\"\" is not an HTTP status"),
            ("200", "2xx is success"),
            ("20x", "2xx is success"),
            ("2xx", "2xx is success"),
            ("410", "it disables the webhook"),
            ("1xx", "is not a status that a response ends with"),
            ("600", "is not a status that a response ends with"),
        ] {
            let error = StatusSet::parse([entry]).expect_err(entry);
            assert!(error.contains(expected), "{error}");
        }
    }
}
