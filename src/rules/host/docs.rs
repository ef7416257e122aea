//! Every host function, described once: the README for script writers and the editor's definitions are made of this
//! table, and a test runs the examples.

use std::fmt::Write as _;

/// One function that sidehook gives to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFunction {
    /// Name and parameters, as one writes the call.
    pub call: &'static str,
    /// What it gives.
    pub gives: &'static str,
    /// What it does, one sentence.
    pub about: &'static str,
    /// When it fails; empty when it never does.
    pub fails: &'static str,
    /// An expression over `event`.
    pub example: &'static str,
    /// The example's value as JSON.
    pub value: &'static str,
}

impl HostFunction {
    /// The name alone.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.call.split('(').next().unwrap_or(self.call)
    }
}

const fn function(
    call: &'static str,
    gives: &'static str,
    about: &'static str,
    fails: &'static str,
    example: &'static str,
    value: &'static str,
) -> HostFunction {
    HostFunction { call, gives, about, fails, example, value }
}

/// All of them, in the order in which the README lists them.
pub const HOST_FUNCTIONS: &[HostFunction] = &[
    function(
        "parse_json(s)",
        "any value",
        "Reads a JSON text; numbers keep their digits.",
        "the text is no JSON",
        r#"parse_json("{\"a\": [1, 2.50]}").a"#,
        "[1, 2.50]",
    ),
    function(
        "to_json(v)",
        "string",
        "Writes a value as compact JSON.",
        "the value holds a function, a range, a blob, NaN or infinity",
        r#"to_json(#{b: 1, a: "x"})"#,
        r#""{\"a\":\"x\",\"b\":1}""#,
    ),
    function(
        "sha256(s)",
        "string",
        "SHA-256 of the text, 64 hexadecimal digits.",
        "",
        r#"sha256("abc")"#,
        r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#,
    ),
    function(
        "hmac_sha256(key, s)",
        "string",
        "HMAC-SHA-256 of the text, 64 hexadecimal digits.",
        "",
        r#"hmac_sha256("Jefe", "what do ya want for nothing?")"#,
        r#""5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843""#,
    ),
    function("base64_encode(s)", "string", "Standard Base64 with padding.", "", r#"base64_encode("hé")"#, r#""aMOp""#),
    function(
        "base64_decode(s)",
        "string",
        "The text that was encoded.",
        "no Base64, or the bytes are no UTF-8",
        r#"base64_decode("aMOp")"#,
        r#""hé""#,
    ),
    function("hex(s)", "string", "The text's UTF-8 bytes in hexadecimal.", "", r#"hex("hé")"#, r#""68c3a9""#),
    function(
        "uuid()",
        "string",
        "An identifier made of the event's id and the number of the call: the same event gives the same ones, in the same order.",
        "outside functions",
        "uuid().len()",
        "36",
    ),
    function(
        "now()",
        "string",
        "The time at which the event arrived, RFC 3339; the same throughout an event.",
        "outside functions",
        "now()",
        r#""2026-01-03T11:38:11.000Z""#,
    ),
    function(
        "parse_time(s)",
        "integer",
        "Milliseconds since 1970 of an RFC 3339 time.",
        "the text is no such time",
        r#"parse_time("2026-01-03T12:38:10+01:00")"#,
        "1767440290000",
    ),
    function(
        "format_time(ms, format)",
        "string",
        "A time in UTC by a strftime format.",
        "the format is wrong, or the time beyond the calendar",
        r#"format_time(1767440290000, "%d.%m.%Y %H:%M")"#,
        r#""03.01.2026 11:38""#,
    ),
    function(
        "matches(s, regex)",
        "boolean",
        "Whether the pattern is found anywhere in the text. Patterns are of the regex crate: linear time, no look-around.",
        "the pattern is wrong or too large for the text",
        r#"matches("Order 4711", "(?i)order \\d+")"#,
        "true",
    ),
    function(
        "replace_all(s, regex, with)",
        "string",
        "Replaces every match; `$1` and `${name}` stand for groups, `$$` for a dollar sign.",
        "the pattern is wrong or too large for the text",
        r#"replace_all("a1b22", "\\d+", "<$0>")"#,
        r#""a<1>b<22>""#,
    ),
    function(
        "truncate(s, chars)",
        "string",
        "At most so many characters; a text that is cut ends with `…`, which counts.",
        "a negative number",
        r#"truncate("a long story", 7)"#,
        r#""a long…""#,
    ),
    function(
        "mask(s)",
        "string",
        "Stars for all but the last four characters; a text of four or fewer is hidden whole.",
        "",
        r#"mask("DE89370400440532")"#,
        r#""************0532""#,
    ),
    function(
        "redact_email(v)",
        "the same kind",
        "Replaces e-mail addresses with `[email]` in a string, or in every string of a map or array, names of members included; a second name that would be the same becomes `[email] (2)`.",
        "",
        r#"redact_email(["write to jane@example.com", 1])"#,
        r#"["write to [email]",1]"#,
    ),
    function(
        "redact_phone(v)",
        "the same kind",
        "Replaces telephone numbers with `[phone]`: E.164, and national forms of 7 to 15 digits with separators; not plain numbers, dates or IBANs.",
        "",
        r#"redact_phone("call +49 170 1234567 on 2026-01-03")"#,
        r#""call [phone] on 2026-01-03""#,
    ),
    function(
        "redact_card(v)",
        "the same kind",
        "Replaces card numbers with `[card]`: of a known issuer, with a good check digit.",
        "",
        r#"redact_card("4111 1111 1111 1111, order 1234567812345670")"#,
        r#""[card], order 1234567812345670""#,
    ),
    function(
        "env(name)",
        "string",
        "A variable of sidehook's environment that `rules_env` lists.",
        "`rules_env` does not list it",
        r#"env("REGION")"#,
        r#""eu""#,
    ),
    function(
        "log_debug(s)",
        "nothing",
        "Writes a line to sidehook's log, and to the preview. At most 100 lines per event.",
        "",
        r#"log_debug("seen")"#,
        "null",
    ),
    function(
        "log_info(s)",
        "nothing",
        "The same at level info, as `print` does.",
        "",
        r"log_info(event.metadata)",
        "null",
    ),
    function("log_warn(s)", "nothing", "The same at level warn.", "", r#"log_warn("no caller")"#, "null"),
];

/// The table as Markdown, for the README.
#[must_use]
pub fn host_functions_markdown() -> String {
    let mut out =
        String::from("| function | gives | what it does | fails when | example |\n| --- | --- | --- | --- | --- |\n");
    for f in HOST_FUNCTIONS {
        let cell = |text: &str| text.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | `{}` → `{}` |",
            cell(f.call),
            f.gives,
            cell(f.about),
            cell(f.fails),
            cell(f.example),
            cell(f.value)
        );
    }
    out
}
