//! A store that is looked into from outside: whole ones, and ones that somebody or something changed.

use rusqlite::Connection;

use super::*;

/// A store with something of everything, as a crash would leave it, in a directory of its own.
async fn copied() -> (Rig, tempfile::TempDir) {
    let rig = Rig::new();
    rig.accept(vec![
        Arrival { kept_body: Some(Bytes::from_static(b"{}")), ..rendered("a1", "a", "crm") },
        rendered("a2", "a", "crm"),
        rendered("b1", "b", "crm"),
        rendered("c1", "c", "other"),
        Arrival {
            decisions: vec![(Arc::from("slow"), Decision::Waiting { deadline: START.plus(HOUR), ordered: true })],
            analyses: false,
            waiting_body: Some(Bytes::from_static(b"{}")),
            ..arrival("w", "w")
        },
    ])
    .await;
    let due = rig.due("crm").await;
    rig.settle(due[0].row, Verdict::Delivered).await;
    rig.settle(due[1].row, Verdict::Dead("status_400".to_owned())).await;
    rig.stand("other", Standing::Paused).await;
    let copy = tempfile::tempdir().expect("a directory");
    snapshot(rig.dir.path(), copy.path());
    (rig, copy)
}

#[tokio::test]
async fn a_whole_store_is_good_in_use_and_copied_with_and_without_its_log() {
    let (rig, copy) = copied().await;
    for path in [rig.dir.path().to_owned(), copy.path().to_owned(), copy.path().join("outbox.db")] {
        let found = crate::outbox::inspect(&path, true).expect("readable");
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(found.ledger.balanced && found.ledger.webhooks.len() == 3, "{found:?}");
        let count = |name: &str| found.counts.iter().find(|(n, _)| n == name).expect(name).1;
        assert_eq!(
            ["deliveries", "payloads_owed", "payloads_kept", "attempts", "events_waiting", "events_kept"].map(count),
            [4, 2, 1, 2, 1, 1]
        );
        assert_eq!(found.oldest_owed, Some(START));
    }
    // Closed, it has no log, and its directory need not be writable.
    rig.outbox.close().await;
    let alone = tempfile::tempdir().expect("a directory");
    let file = alone.path().join("what is this#50%?.db");
    std::fs::copy(rig.dir.path().join("outbox.db"), &file).expect("a copy");
    let found = crate::outbox::inspect(&file, true).expect("readable");
    assert!(found.problems.is_empty() && found.counts[0].1 == 4, "{found:?}");
    assert_eq!(std::fs::read_dir(alone.path()).expect("a directory").count(), 1, "nothing was written beside it");
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    for (sql, expected) in [
        ("DELETE FROM body WHERE key IN (SELECT min(key) FROM body)", "1 owed deliveries without a payload"),
        (
            "UPDATE webhook SET owed = owed + 1, created = created + 1 WHERE name = 'crm'",
            "its ledger says 2 owed, there are 1",
        ),
        ("UPDATE webhook SET created = 9 WHERE name = 'crm'", "webhook crm: its ledger does not balance"),
        ("UPDATE webhook SET waiting = 0, filtered = filtered + 1 WHERE name = 'slow'", "says 0 waiting, there are 1"),
        ("DELETE FROM delivery WHERE state = 2", "its ledger says 1 dead, there are 0"),
        ("DELETE FROM waiting_event", "1 waits of an event that is not there"),
        ("UPDATE delivery SET ready = 0 WHERE state = 0", "conversations' orders whose first delivery is not ready"),
    ] {
        let (_rig, copy) = copied().await;
        let conn = Connection::open(copy.path().join("outbox.db")).expect("opened");
        assert!(conn.execute(sql, []).expect(sql) > 0, "{sql}");
        drop(conn);
        let found = crate::outbox::inspect(copy.path(), true).expect("readable");
        assert!(found.problems.iter().any(|p| p.contains(expected)), "{sql}: {:?}", found.problems);
        assert_eq!(crate::outbox::inspect(copy.path(), false).expect("readable").problems, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_damaged_file_is_said_to_be_one() {
    let (rig, _copy) = copied().await;
    rig.outbox.close().await;
    let whole = std::fs::read(rig.dir.path().join("outbox.db")).expect("a file");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("outbox.db");
    let look = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        crate::outbox::inspect(&file, true)
    };
    let mut bad = 0;
    for page in 1..whole.len() / 8192 {
        let mut torn = whole.clone();
        torn[page * 8192..page * 8192 + 4096].fill(0x5a);
        match look(&torn) {
            Ok(found) => bad += usize::from(!found.problems.is_empty()),
            Err(error) => {
                assert!(error.to_string().contains("outbox.db: "), "{error}");
                bad += 1;
            }
        }
    }
    assert_eq!(bad, whole.len() / 8192 - 1, "every page counts");
    let error = look(b"this is a text file and no store at all, whatever its name says").expect_err("no store");
    assert!(error.to_string().contains("the store is damaged"), "{error}");
    let error = crate::outbox::inspect(&dir.path().join("none.db"), true).expect_err("no file");
    assert!(error.to_string().contains("name an outbox.db or its directory"), "{error}");
    std::fs::write(&file, &whole).expect("written");
    Connection::open(&file).expect("opened").execute_batch("PRAGMA user_version = 99").expect("a version");
    let error = crate::outbox::inspect(&file, true).expect_err("too new");
    assert!(error.to_string().contains("has schema version 99"), "{error}");
}
