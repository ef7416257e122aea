//! Real children of a shell, to a sink that keeps what it got.

use std::time::Duration;

use bytes::Bytes;

use super::output::{Seen, seen};
use super::*;
use crate::config::model::Overflow;
use crate::source::Refusal;
use crate::source::probe::Probe;

fn feed(sink: Probe) -> (Feed<Probe>, Arc<Probe>) {
    let sink = Arc::new(sink);
    (Feed::new("bot".into(), Arc::clone(&sink), CancellationToken::new()), sink)
}

fn shell(script: &str, on_overflow: Overflow) -> Exec {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Exec { command, env: vec![("WHO".to_owned(), "bot".to_owned().into_secret())], cwd: None, on_overflow }
}

trait IntoSecret {
    fn into_secret(self) -> crate::secret::Secret;
}

impl IntoSecret for String {
    fn into_secret(self) -> crate::secret::Secret {
        crate::secret::Secret::new(self)
    }
}

/// Runs a script to its end: what was passed on, and how it ended.
async fn run(script: &str, feed: Feed<Probe>, on_overflow: Overflow) -> (String, Exit) {
    let (mut reader, writer) = tokio::io::duplex(1 << 20);
    let (source, handle) = ExecSource::start(feed, &shell(script, on_overflow), writer).unwrap();
    source.run().await;
    let mut passed_on = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut passed_on).await.unwrap();
    (passed_on, handle.ended().await.unwrap())
}

#[tokio::test]
async fn events_are_taken_and_other_lines_passed_on() {
    let (feed, sink) = feed(Probe::default());
    let script = r#"printf 'hello\r\n{"id":"1","type":"a.b","metadata":{"who":"'$WHO'"}}\n{"level":"info","type":"http"}\n'
        printf '\n{"type":"conversation.begin"}\n[1]\n{"type":"a.b", torn\n'; printf '{"id":"2","type":"a.b"}'; exit 7"#;
    let (passed_on, exit) = run(script, feed, Overflow::Drop).await;
    assert_eq!(sink.ids(), ["1", "2"]);
    let expected = "hello\r\n{\"level\":\"info\",\"type\":\"http\"}\n\n{\"type\":\"conversation.begin\"}\n[1]\n{\"type\":\"a.b\", torn\n";
    assert_eq!(passed_on, expected);
    assert_eq!((exit.code, exit.status()), (Some(7), 7));
    let ends = sink.ends.lock().unwrap();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].reason, EndReason::ProcessExited { code: Some(7), signal: None });
    assert_eq!(sink.got.lock().unwrap()[0].stream, Some(ends[0].stream));
}

#[tokio::test]
async fn a_signal_is_told_and_others_that_hold_the_output_are_not_waited_for() {
    let (feed, sink) = feed(Probe::default());
    let (passed_on, exit) = run("sleep 60 2>/dev/null </dev/null & echo left; kill -9 $$", feed, Overflow::Drop).await;
    assert_eq!((passed_on.as_str(), exit.code, exit.signal, exit.status()), ("left\n", None, Some(9), 137));
    assert_eq!(sink.ends.lock().unwrap()[0].reason, EndReason::ProcessExited { code: None, signal: Some(9) });
}

#[tokio::test]
async fn long_lines_are_passed_on_and_a_full_queue_drops_or_waits() {
    let full = Refusal::Full { detail: "no space".into(), retry_after: Duration::from_secs(5) };
    let script = r#"head -c 5000 /dev/zero | tr '\0' x; echo; i=0
        while [ $i -lt 20000 ]; do echo '{"type":"a.b"}'; i=$((i+1)); done; echo end"#;
    let (busy, sink) = feed(Probe { refuse: Some(full), ..Probe::default() });
    let stop = busy.stop().clone();
    tokio::spawn(async move {
        // The queue holds 16384 of them; the child is not held up, and gives up nothing but events.
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.cancel();
    });
    let (passed_on, exit) = run(script, busy, Overflow::Drop).await;
    assert_eq!((passed_on.len(), exit.code), (5000 + 1 + 4, Some(0)));
    assert!(sink.ids().is_empty());

    let (slow, sink) = feed(Probe::default());
    let (passed_on, exit) = run(script, slow, Overflow::Block).await;
    assert_eq!((passed_on.len(), exit.code, sink.ids().len()), (5000 + 1 + 4, Some(0), 20_000));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/no/such/interpreter\n").unwrap();
    let program = |program: &str| Exec { command: vec![program.to_owned()], ..shell("", Overflow::Drop) };
    let cases = [
        (program("no-such-program"), "there is no program \"no-such-program\" in PATH; install it"),
        (program("/no/such"), "there is no program \"/no/such\"; mend the path"),
        (program(plain.to_str().unwrap()), "may not be executed"),
        (Exec { cwd: Some("/no/such".into()), ..program("true") }, "cwd: /no/such is no directory"),
    ];
    for (exec, expected) in cases {
        let told = ExecSource::start(feed(Probe::default()).0, &exec, tokio::io::sink()).err().unwrap().to_string();
        assert!(told.contains(expected), "{told}");
    }
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&plain, mode).unwrap();
    let exec = program(plain.to_str().unwrap());
    let told = ExecSource::start(feed(Probe::default()).0, &exec, tokio::io::sink()).err().unwrap().to_string();
    assert!(told.contains("the interpreter that its first line names is not"), "{told}");
}

#[tokio::test]
async fn what_a_line_is() {
    let (feed, _) = feed(Probe::default());
    for (line, expected) in [
        (r#"{"type":"conversation.begin","conversation":{"id":"c"}}"#, "events"),
        (r#"[{"type":"a.b"},{"type":"a.c"}]"#, "events"),
        (r#"{"event":"conversation.completed","data":{"conversation":{"id":"c"}}}"#, "events"),
        (r#"{"specversion":"1.0","type":"x.y","source":"s","id":"1"}"#, "events"),
        (r#"{"type":"conversation.begin"}"#, "bad"),
        (r#"{"specversion":"1.0","type":"x.y"}"#, "bad"),
        (r#"{"type":"conversation.begin","conv"#, "bad"),
        (r#"{"level":"info","type":"http"}"#, "other"),
        (r#"{"level":"info","message":"{"#, "other"),
        ("{'type': 1}", "other"),
        ("[INFO] started", "other"),
        ("[]", "other"),
        ("plain", "other"),
        ("", "other"),
    ] {
        let got = match seen(&feed, &Bytes::copy_from_slice(line.as_bytes())).await {
            Seen::Events(_) => "events",
            Seen::Bad(..) => "bad",
            Seen::Other => "other",
        };
        assert_eq!(got, expected, "{line}");
    }
}
