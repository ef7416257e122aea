//! What is found when scripts are loaded, and how it is said.

use super::compile;

/// A script and the mistakes it must be told, as `line:column message`.
const MISTAKES: &[(&str, &str)] = &[
    ("fn transform(event, payload) { payload.x = ; }", "1:44 unexpected ';'"),
    (
        "fn transform(event, payload) {\n  payload.x = event.call;\n  payload\n}",
        "2:21 `call` is a word that Rhai keeps for itself: write [\"call\"] instead of .call",
    ),
    (
        "const LIMIT = 3;\nfn accept(event) { event.n < LIMIT }",
        "2:30 `LIMIT` is a constant of the script: inside a function write global::LIMIT",
    ),
    (
        "const LIMIT = 3;\nfn accept(event) { event.n < global::LIMT }",
        "2:38 unknown constant `global::LIMT`: did you mean `global::LIMIT`?",
    ),
    (
        "fn accept(event) { event.n < global::NOTHING }",
        "1:38 unknown constant `global::NOTHING`: define it outside functions (const NOTHING = …)",
    ),
    (
        "import \"lib/tools\" as t;\nfn accept(event) { event.n < t::NOTHING }",
        "2:33 unknown constant `t::NOTHING`: only what the script exports is there (export const NOTHING = …)",
    ),
    ("fn accept(event) { evnt.n < 3 }", "1:20 unknown variable `evnt`: did you mean `event`?"),
    (
        "fn accept(event) { nothing_like_it < 3 }",
        "1:20 unknown variable `nothing_like_it`: declare it with let, or take it as a parameter",
    ),
    ("fn accept(event) { redact_fone(event) }", "1:20 unknown function `redact_fone`: did you mean `redact_phone`?"),
    ("fn accept(event) { event.metadata.kys() }", "1:35 unknown function `kys`: did you mean `keys`?"),
    ("fn accept(event) { qqqqqqqqqqqqq(event) }", "1:20 unknown function `qqqqqqqqqqqqq`"),
    ("fn accept(event) { sha256() == \"\" }", "1:20 `sha256` takes 1 argument here, not 0"),
    ("fn accept(event) { event.metadata.len(1) == 2 }", "1:35 `len` takes 0 arguments here, not 1"),
    ("fn accept() { true }", "1:1 write fn accept(event): sidehook calls it with these parameters"),
    ("fn transform(event) { #{} }", "1:1 write fn transform(event, payload): sidehook calls it with these parameters"),
    (
        "let x = 1;\nfn accept(event) { true }",
        "1:1 outside functions a script may only import and define constants: use const, or move this into a function",
    ),
    (
        "print(1);",
        "1:1 outside functions a script may only import and define constants: use const, or move this into a function",
    ),
    ("const A = 1 / 0;", "1:13 division by zero: 1 / 0"),
    ("const A = env(\"HOME\");", "1:11 env(\"HOME\"): rules_env does not list it"),
    ("const A = now();", "1:11 now() is there only while an event is handled"),
    ("import \"lib/nope\" as n;", "1:1 import \"lib/nope\": there is no lib/nope.rhai under rules_dir"),
    (
        "import \"lib/tooools\" as n;",
        "1:1 import \"lib/tooools\": there is no lib/tooools.rhai under rules_dir; did you mean \"lib/tools\"?",
    ),
    (
        "import \"/etc/passwd\" as n;",
        "1:1 import \"/etc/passwd\": write a path below rules_dir with forward slashes, for example \"lib/crm\"",
    ),
    ("import \"../x\" as n;", "1:1 import \"../x\": a path below rules_dir has no `.`, `..` or empty parts"),
    ("import \"lib/../x\" as n;", "1:1 import \"lib/../x\": a path below rules_dir has no `.`, `..` or empty parts"),
    (
        "import \"C:\\\\x\" as n;",
        "1:1 import \"C:\\x\": write a path below rules_dir with forward slashes, for example \"lib/crm\"",
    ),
    (
        "import \"sidehook/nope\" as n;",
        "1:1 import \"sidehook/nope\": there is no sidehook/nope.rhai under rules_dir; the binary holds sidehook/format, sidehook/platform, sidehook/redaction, sidehook/thin",
    ),
    ("const P = \"lib/tools\";\nimport P as n;", ""),
    (
        "import \"lib/tools\" as t;\nfn accept(event) { t::dubble(1) == 2 }",
        "2:23 unknown function `t::dubble`: did you mean `t::double`?",
    ),
    (
        "import \"lib/tools\" as t;\nfn accept(event) { t::double(1, 2) == 2 }",
        "2:23 `t::double` takes 1 argument, not 2",
    ),
    (
        "import \"lib/tools\" as t;\nfn accept(event) { double(1) == 2 }",
        "2:20 unknown function `double`: did you mean `t::double`?",
    ),
    ("import \"rule\" as me;", "1:1 import cycle: rule imports rule"),
    ("fn accept(event) { eval(\"1\") }", "1:20 there is no eval in rules"),
    ("fn accept(event) { let f = Fn(\"nope\"); f.call(1) }", "1:28 unknown function `nope`"),
    ("fn accept(event) { sleep(1); true }", "1:20 there is no sleep in rules: it would hold up other events"),
    (
        "fn accept(event) { tools::double(1) }",
        "1:20 unknown module `tools`: import it first, for example import \"lib/tools\" as tools;",
    ),
    ("fn accept(event) { true", "1:24 expecting ';' to terminate this statement"),
    ("fn accept(event) { \"abc }", "1:20 open string is not terminated"),
    (
        "fn accept(event) { event.metadata.goto }",
        "1:35 `goto` is a word that Rhai keeps for itself: write [\"goto\"] instead of .goto",
    ),
    ("fn accept(event) { if event.x = 3 { true } }", "1:31 possibly a typo of '=='?"),
    ("fn accept(event) { event?.x == null }", "1:32 `null` is written () in a rule"),
    (
        "fn accept(event) { import event.x as y; true }",
        "1:20 import takes a path in quotes, so that it can be checked when the script is loaded",
    ),
    (
        "fn accept(event) { undefined == 1 }",
        "1:20 unknown variable `undefined`: declare it with let, or take it as a parameter",
    ),
    ("fn accept(event) { event.x.foo.bar(2) }", "1:32 unknown function `bar`"),
    (
        "fn accept(event) { let m = #{ go: |x| x + 1 }; m.go(1) == 2 }",
        "1:31 `go` is a word that Rhai keeps for itself: take another name; as a key write \"go\"",
    ),
    ("fn accept(event) { let n = |x| x + 1; n.call(1) == 2 }", ""),
    (
        "fn accept(event) { event.tags.filter(|t| t == zz).len() > 0 }",
        "1:47 unknown variable `zz`: declare it with let, or take it as a parameter",
    ),
    ("export const A = 1;\nprivate fn b(x) { this + x }\nfn accept(event) { 1.b(2) == 3 }", ""),
    ("fn a() { 1 }\nfn a() { 2 }", "2:1 function a with no parameters already exists"),
    ("const A = #{ x: 1 }; const B = A.x + 1; fn accept(event) { global::B == 2 }", ""),
    // All at once, whatever stands before them.
    (
        "fn accept(event) { evnt.n < qq }\nfn transform(event, payload) { payload.x = evnt; redact_fone(payload); sha256(); payload }",
        "1:20 unknown variable `evnt`: did you mean `event`? | 1:29 unknown variable `qq`: declare it with let, or take it as a parameter \
         | 2:44 unknown variable `evnt`: did you mean `event`? | 2:50 unknown function `redact_fone`: did you mean `redact_phone`? \
         | 2:72 `sha256` takes 1 argument here, not 0",
    ),
    (
        "const LIMIT = 3;\nfn accept(event) { event.n < LIMIT && nope(tools::x(1)) }",
        "2:30 `LIMIT` is a constant of the script: inside a function write global::LIMIT | 2:39 unknown function `nope` \
         | 2:44 unknown module `tools`: import it first, for example import \"lib/tools\" as tools;",
    ),
    (
        "fn accept(event) { event.tags.filter(|t| t == zz).some(|t| yy(t)) }",
        "1:47 unknown variable `zz`: declare it with let, or take it as a parameter | 1:60 unknown function `yy`",
    ),
    (
        "fn accept(event) { zz }\nfn transform(event, payload) { payload.x = ; }",
        "1:20 unknown variable `zz`: declare it with let, or take it as a parameter | 2:44 unexpected ';'",
    ),
    (
        "import \"lib/nope\" as n;\nfn accept(event) { n::x() && nope() }",
        "1:1 import \"lib/nope\": there is no lib/nope.rhai under rules_dir | 2:30 unknown function `nope`",
    ),
    // Rhai would make a float of it.
    (
        "fn accept(event) { event.n == 123456789012345678901234567890 }",
        "1:31 123456789012345678901234567890 is beyond 64 bits, and would be rounded: write \
         parse_json(\"123456789012345678901234567890\") for the exact number, or 123456789012345678901234567890.0 for a rounded one",
    ),
    (
        "fn accept(event) { event.n > -9223372036854775809 }",
        "1:30 -9223372036854775809 is beyond 64 bits, and would be rounded: write \
         parse_json(\"-9223372036854775809\") for the exact number, or -9223372036854775809.0 for a rounded one",
    ),
    ("fn accept(event) { event.n > -9223372036854775808 && event.n < 9223372036854775807 && event.n < 1e30 }", ""),
];

#[test]
fn mistakes_are_explained() {
    for (script, want) in MISTAKES {
        let (_, problems) = compile(&[("rule.rhai", script), ("lib/tools.rhai", "fn double(x) { x * 2 }")]);
        let got: Vec<String> = problems.iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect();
        assert_eq!(got.join(" | "), *want, "{script}");
    }
}

#[test]
fn import_cycles_are_found_once() {
    let (scripts, problems) = compile(&[
        ("a.rhai", "import \"lib/b\" as b; fn accept(event) { true }"),
        ("lib/b.rhai", "import \"lib/c\" as c;"),
        ("lib/c.rhai", "import \"a\" as a;"),
        ("good.rhai", "fn accept(event) { true }"),
    ]);
    let got: Vec<String> =
        problems.iter().map(|p| format!("{} {}:{} {}", p.file, p.line, p.column, p.message)).collect();
    assert_eq!(got, ["lib/c.rhai 1:1 import cycle: a imports lib/b imports lib/c imports a"]);
    assert!(scripts.rule("good.rhai").is_some() && scripts.rule("good").is_some());
    assert!(scripts.rule("a.rhai").is_none() && scripts.rule("nope.rhai").is_none());
}

#[test]
fn mistakes_in_expressions_are_relative_to_them() {
    let (scripts, _) = compile(&[]);
    for (expression, want) in [
        ("event.metadata.region == \"eu\"", ""),
        ("event.metadata.tags.filter(|t| t == \"x\").len() > 0", ""),
        ("evnt.x", "1:1 unknown variable `evnt`: did you mean `event`?"),
        ("event.x == ", "1:12 script is incomplete"),
        ("lenn(event)", "1:1 unknown function `lenn`: did you mean `len`?"),
        ("event.call == 1", "1:7 `call` is a word that Rhai keeps for itself: write [\"call\"] instead of .call"),
        ("let x = 1; x == 1", "1:1 unexpected 'let'"),
        ("event.metadata.region == 'eu'", "1:26 'eu' is no single character: a text stands in double quotes, \"eu\""),
        (
            "payload.x == 1",
            "1:1 `payload` is not here: `when` sees `event` alone, and a function what it takes as parameters",
        ),
    ] {
        let got = scripts.when(expression).err().map(|p| format!("{}:{} {}", p.line, p.column, p.message));
        assert_eq!(got.unwrap_or_default(), want, "{expression}");
    }
}
