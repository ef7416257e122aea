//! Documents read in place, held against `serde_json`.

use super::*;
use proptest::prelude::*;

fn json(text: &str) -> Json {
    Json::parse(text.to_owned()).expect("valid JSON")
}

#[test]
fn values_are_read_in_place() {
    let doc = json(r#" {"a":{"b":[1,2,{"c":"x\ny"}]},"big":12345678901234567890.10,"é":true,"k\"ey":null} "#);
    assert_eq!(doc.len(), 4);
    let b = doc.get("a").and_then(|a| a.get("b")).expect("a.b");
    assert_eq!(b.len(), 3);
    assert_eq!(b.at(1).expect("b[1]").as_number().as_deref(), Some("2"));
    assert_eq!(b.at(2).and_then(|c| c.get("c")).expect("c").as_str().as_deref(), Some("x\ny"));
    assert!(b.at(3).is_none());
    assert_eq!(doc.get("big").expect("big").to_bytes(), "12345678901234567890.10");
    assert_eq!(doc.get("é").and_then(|v| v.as_bool()), Some(true));
    assert!(doc.get("k\"ey").is_some_and(|v| v.is_null()));
    assert_eq!(doc.members().map(|(k, _)| k.to_string()).collect::<Vec<_>>(), ["a", "big", "é", "k\"ey"]);
    assert_eq!(b.items().count(), 3);
}

#[test]
fn the_last_of_several_keys_wins() {
    assert_eq!(json(r#"{"a":1,"a":2}"#).get("a").expect("a").to_bytes(), "2");
}

#[test]
fn composed_values_splice_their_parts() {
    let doc = json(r#"{"x": [1.50, "\u00e9"]}"#);
    let made = Json::map(vec![("y".into(), doc.get("x").expect("x")), ("z".into(), Json::text("a\"b"))]);
    assert_eq!(made.to_bytes(), r#"{"y":[1.50, "\u00e9"],"z":"a\"b"}"#);
}

#[test]
fn bad_documents_say_where() {
    for (text, want) in [
        ("", "EOF while parsing a value at line 1, column 1"),
        ("{\"a\":1,}", "trailing comma at line 1, column 8"),
        ("{\"a\":\n nope}", "expected ident at line 2, column 3"),
        ("[1] 2", "trailing characters at line 1, column 5"),
        ("\"\\q\"", "invalid escape at line 1, column 3"),
        (
            "\"\\ud800\"",
            "unexpected end of hex escape (half of a character, where a text was cut inside it?) at line 1, column 8",
        ),
        ("NaN", "expected value at line 1, column 1"),
    ] {
        let error = Json::parse(text.to_owned()).expect_err(text).to_string();
        assert_eq!(error, want, "for {text}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(Json::parse(deep).expect_err("too deep").message.contains("nested deeper than 128"));
    let error = Json::parse(&b"\"\xff\""[..]).expect_err("not UTF-8");
    assert_eq!(error.to_string(), "not valid UTF-8 at line 1, column 2");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

fn rebuild(value: &Json) -> serde_json::Value {
    match value.kind() {
        Kind::Object => value.members().map(|(k, v)| (k.to_string(), rebuild(&v))).collect(),
        Kind::Array => value.items().map(|v| rebuild(&v)).collect(),
        _ => value.decode().expect("a scalar"),
    }
}

proptest! {
    #[test]
    fn reads_what_serde_json_reads(value in any_json()) {
        let text = serde_json::to_string_pretty(&value).expect("serializable");
        let read = json(&text);
        prop_assert_eq!(rebuild(&read), value);
        prop_assert_eq!(read.to_bytes(), text);
    }

    #[test]
    fn accepts_only_what_serde_json_accepts(text in r#"[\[\]{}",:0-9a-z\\ .eE+-]{0,24}"#) {
        let ours = Json::parse(text.clone()).is_ok();
        let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        prop_assert!(!ours || theirs || text.contains(['e', 'E']), "accepted {text:?}");
        prop_assert!(!theirs || ours, "refused {text:?}");
    }
}

#[test]
fn of_an_array_it_is_told_which_element_is_broken() {
    for (text, want) in
        [(r#"[{"a":1},{"a":2},{"a":}]"#, 2), ("[}", 0), (r#"[{"a":"x,[y\",]"},[1,2],{"#, 2), ("  [ 1 , 2 , tru ]", 2)]
    {
        let error = Json::parse(text.to_owned()).err().unwrap_or_else(|| panic!("{text} is read"));
        assert_eq!(element_at(text.as_bytes(), error.offset), want, "{text}");
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert_eq!(Json::parse("\u{feff}[1]").expect("a document").to_bytes(), "[1]");
}

#[test]
fn white_space_between_tokens_goes_and_nothing_else() {
    assert_eq!(compact("{ \"a b\" : [ 1 , \"\\\" c\" ] ,\n\t\"d\": null }"), "{\"a b\":[1,\"\\\" c\"],\"d\":null}");
}
