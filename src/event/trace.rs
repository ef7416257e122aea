//! W3C Trace Context: what a `traceparent` looks like. Makes none.

/// The parts of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'a> {
    /// 32 hexadecimal digits, not all zero.
    pub trace: &'a str,
    /// 16 hexadecimal digits, not all zero: the caller's span.
    pub span: &'a str,
    /// 2 hexadecimal digits.
    pub flags: &'a str,
}

/// Reads version 00 in its exact shape (<https://www.w3.org/TR/trace-context/>, section 3.2); anything else is none.
#[must_use]
pub fn parse(text: &str) -> Option<TraceParent<'_>> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let shaped = version == "00" && parts.next().is_none() && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    (shaped && !zero(trace) && !zero(span)).then_some(TraceParent { trace, span, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_00_in_its_exact_shape_is_read() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parts = TraceParent { trace: &good[3..35], span: &good[36..52], flags: "01" };
        assert_eq!(parse(good), Some(parts));
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
