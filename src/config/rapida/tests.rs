//! Definitions as Rapida's API and database have them, and what is wrong with others.

use super::*;

fn imported(text: &str) -> Vec<Imported> {
    import(&Json::parse(text.to_owned()).expect("JSON")).expect("good definitions")
}

fn mistakes(text: &str) -> Vec<String> {
    import(&Json::parse(text.to_owned()).expect("JSON")).expect_err(text).iter().map(ToString::to_string).collect()
}

const SEED: &str = r#"{"id":"1","assistantId":"2","httpMethod":"POST","httpUrl":"https://crm.example.com/hooks/assistant",
 "httpHeaders":{"Authorization":"Bearer ${x}","X-Source":"rapida"},
 "httpBody":{"analysis.conversation-analysis":"conversation-analysis","event.data":"data","event.type":"event"},
 "assistantEvents":["conversation.completed"],"retryStatusCodes":["500","40X","50X"],"maxRetryCount":3,
 "timeoutSecond":180,"executionPriority":0,"description":"CRM notes","status":"ACTIVE"}"#;

#[test]
fn the_definition_of_the_seed() {
    let [webhook] = &imported(SEED)[..] else { panic!("one") };
    assert_eq!(webhook.name, "crm-notes");
    assert_eq!(
        webhook.yaml,
        "# Made of a Rapida webhook.\n\
         # - header values stand here as they were: for one that is a secret write \"${NAME}\", and set NAME in the environment\n\
         # - classes such as 50X are retried here; Rapida compares them letter by letter, so that they never match\n\
         description: CRM notes\n\
         url: \"https://crm.example.com/hooks/assistant\"\n\
         events: [conversation.completed]\n\
         headers:\n  Authorization: \"Bearer $${x}\"\n  X-Source: rapida\n\
         params:\n  conversation-analysis: analysis.conversation-analysis\n  data: event.data\n  event: event.type\n\
         # Rapida signs nothing. `sidehook secret new` makes a secret; then write\n\
         #   signing: {scheme: standard, secrets: [{env: WEBHOOK_SECRET}]}\n\
         signing: {scheme: none}\n\
         timeout: 180s\n\
         retry:\n  schedule: {initial: 2s, factor: 1, attempts: 4}\n  statuses: [\"500\", \"40X\", \"50X\"]\n"
    );
}

#[test]
fn what_has_no_counterpart_is_said() {
    let [webhook] = &imported(
        r#"{"httpMethod":"DELETE","httpUrl":"http://127.0.0.1:9000/x","httpHeaders":"{\"Host\":\"a\",\"webhook-id\":\"b\"}",
         "httpBody":"{\"assistant.name\":\"who\",\"custom.k\":\"c\",\"system.now\":\"n\",\"argument.a.b\":\"a\",\"event.kind\":\"e\",\"metadata.m\":\"a\"}",
         "assistantEvents":["conversation.begin","conversation.error","conversation.begin"],"retryStatusCodes":["410"],
         "maxRetryCount":"0","timeoutSecond":0,"executionPriority":-1,"status":"ARCHIEVE","condition":{"source":"phone"}}"#,
    )[..] else {
        panic!("one")
    };
    assert_eq!(webhook.name, "127-0-0-1");
    assert_eq!(
        webhook.notes,
        [
            "plain http: sidehook sends there only with `egress: {allow_http: true}` in sidehook.yaml",
            "conversation.resume is there since Rapida sends it to those who subscribe to conversation.begin",
            "httpMethod \"DELETE\": Rapida sends GET, with the params in the query, and so does this",
            "its status was ARCHIEVE: it is switched off here",
            "the header Host is left out: sidehook sets it itself",
            "the header webhook-id is left out: sidehook sets it itself",
            "assistant.name was never sent by Rapida; here it is, where the event has it",
            "custom.k for the key \"c\": Rapida never sends it; for a fixed value write {value: k}",
            "system.now for the key \"n\": it has no counterpart; what an event has can be selected",
            "event.kind for the key \"e\": Rapida never sends it",
            "metadata.m for the key \"a\" is left out: the key is there already",
            "timeoutSecond 0 means no timeout in Rapida; here it is an hour, which is the most",
            "410 is never retried: it disables the webhook",
            "maxRetryCount 0: Rapida's own API shows 0 whatever is stored, so look whether one attempt is meant",
            "condition has no counterpart",
        ]
    );
    for part in [
        "method: GET\n",
        "events: [conversation.begin, conversation.resume, conversation.failed]\n",
        "enabled: false\n",
        "params:\n  who: assistant.name\n  a: argument.a.b\n",
        "timeout: 1h\n",
        "  schedule: {initial: 2s, factor: 1, attempts: 1}\n",
        "# - condition has no counterpart\n",
    ] {
        assert!(webhook.yaml.contains(part), "{part} is not in {}", webhook.yaml);
    }
    assert!(!webhook.yaml.contains("priority"), "{}", webhook.yaml);
}

#[test]
fn an_array_gives_several_with_names_of_their_own() {
    let one = r#"{"httpUrl":"https://a.example.com/x","assistantEvents":["conversation.completed"],"httpBody":{"event.type":"event"},"executionPriority":5}"#;
    for text in [format!("[{one},{one}]"), format!(r#"{{"success":true,"data":[{one},{one}]}}"#)] {
        let webhooks = imported(&text);
        assert_eq!(webhooks.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["a-example-com", "a-example-com-2"]);
        assert!(webhooks[0].yaml.ends_with("priority: 5\n"), "{}", webhooks[0].yaml);
        assert!(!webhooks[0].yaml.contains("retry:"), "{}", webhooks[0].yaml);
    }
}

#[test]
fn mistakes_come_together_each_with_its_pointer() {
    assert_eq!(
        mistakes(
            r#"[{"httpUrl":"ftp://x","assistantEvents":[],"httpHeaders":{"a b":"x","X-A":"a\nb","x/y":5},"httpBody":[1],
             "retryStatusCodes":["soon"],"maxRetryCount":-1,"timeoutSecond":-1,"executionPriority":1.5},7,
             {"httpUrl":"https://a.b","assistantEvents":["a b",5],"retryStatusCodes":"50X","timeoutSecond":"soon"}]"#
        ),
        [
            "/0/httpUrl: is no http URL; write the destination, https://host/path",
            "/0/assistantEvents: is missing, empty or no array; write for example [\"conversation.completed\"]",
            "/0/httpHeaders/x~1y: is a text, not a number",
            "/0/httpHeaders/a b: is no header name; write one such as X-Source",
            "/0/httpHeaders/X-A: holds a line break, a control character or one beyond ASCII",
            "/0/httpBody: is an object of texts, not an array",
            "/0/timeoutSecond: is negative; write seconds",
            "/0/retryStatusCodes/0: \"soon\" is not an HTTP status; write a status such as 503, or a class such as 5xx or 50x",
            "/0/maxRetryCount: is negative; write how many retries follow the first attempt",
            "/0/executionPriority: is no whole number",
            "/1: a webhook definition is an object with httpUrl, not a number",
            "/2/assistantEvents/0: is no event type; write for example [\"conversation.completed\"]",
            "/2/assistantEvents/1: is no event type; write for example [\"conversation.completed\"]",
            "/2/timeoutSecond: is no whole number",
            "/2/retryStatusCodes: is an array such as [\"50X\"], not a string",
        ]
    );
    assert_eq!(mistakes("[]"), ["the file: there is no webhook in this array"]);
    assert_eq!(mistakes("{\"data\":[]}"), ["/data: there is no webhook in this array"]);
    assert_eq!(
        mistakes("{}"),
        [
            "/httpUrl: is missing, or no text; write the destination, https://host/path",
            "/assistantEvents: is missing, empty or no array; write for example [\"conversation.completed\"]"
        ]
    );
}
