//! Stores that fail, are damaged, foreign, newer, or somebody else's.

use super::*;

fn open(dir: &Path) -> Result<Outbox, OutboxError> {
    Outbox::open(dir, options(), Clock::manual(START))
}

#[tokio::test]
async fn a_failed_store_latches_and_comes_back() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "a", "crm")]).await;
    let mut health = rig.outbox.health();
    // Somebody takes a table away under the writer's feet: every transaction fails from here on.
    let saboteur = rusqlite::Connection::open(rig.dir.path().join("outbox.db")).expect("a connection");
    saboteur.execute_batch("ALTER TABLE body RENAME TO elsewhere").expect("a rename");
    let offer = async |id: &str| {
        let arrivals = vec![rendered(id, id, "crm")];
        rig.outbox.commit(Batch { arrivals, ..Batch::default() }).await
    };
    let error = offer("b").await.expect_err("a failure");
    assert!(matches!(&error, CommitError::Failed(why) if why.contains("outbox.db")), "{error}");
    assert!(matches!(&*health.borrow_and_update(), Health::Failed(why) if why.contains("no such table")));
    saboteur.execute_batch("ALTER TABLE elsewhere RENAME TO body").expect("a rename");
    drop(saboteur);
    health.wait_for(|h| *h == Health::Healthy).await.expect("it is opened again");
    offer("c").await.expect("a commit");
    let row = rig.row("crm").await;
    assert_eq!((row.created, row.pending), (2, 2), "the failed one left no trace");
    assert_eq!(rig.due_ids("crm").await, ["a", "c"]);
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_file_is_gone_and_what_comes_back_is_taken_up() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "a", "crm")]).await;
    let offer = async |id: &str| {
        let arrivals = vec![rendered(id, id, "crm")];
        rig.outbox.commit(Batch { arrivals, ..Batch::default() }).await
    };
    let mut health = rig.outbox.health();
    let (store, aside) = (rig.dir.path().join("outbox.db"), rig.dir.path().join("aside"));
    std::fs::rename(&store, &aside).expect("moved");
    tokio::time::sleep(limits::STORE_LOOK).await;
    let error = offer("b").await.expect_err("there is no store");
    assert!(error.to_string().contains("outbox.db: the file was removed or replaced"), "{error}");
    assert!(matches!(&*health.borrow_and_update(), Health::Failed(_)));
    // Another one in its place is none of its.
    std::fs::write(&store, "").expect("a file");
    tokio::time::sleep(2 * limits::REOPEN_BACKOFF.0).await;
    offer("c").await.expect_err("it is not opened");
    std::fs::rename(&aside, &store).expect("moved back");
    health.wait_for(|health| *health == Health::Healthy).await.expect("it is opened again");
    offer("d").await.expect("a commit");
    assert_eq!(rig.due_ids("crm").await, ["a", "d"]);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let _first = open(dir.path()).expect("an outbox");
    let error = open(dir.path()).expect_err("in use");
    assert!(matches!(error, OutboxError::InUse { .. }), "{error}");
}

#[test]
fn what_cannot_be_opened_is_named_with_its_cure() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &[&str]); 4] = [
        (
            "not a store",
            |dir| std::fs::write(dir.join("outbox.db"), vec![b'#'; 9000]).expect("a file"),
            &["outbox.db: ", "not a database", "restore it from a backup"],
        ),
        (
            "newer",
            |dir| {
                let conn = rusqlite::Connection::open(dir.join("outbox.db")).expect("a store");
                conn.execute_batch("PRAGMA user_version = 99").expect("a version");
            },
            &["outbox.db: has schema version 99, this sidehook knows up to 4", "outbox.path"],
        ),
        (
            "a directory in its place",
            |dir| std::fs::create_dir(dir.join("outbox.db")).expect("a directory"),
            &["outbox.db: ", "check that the directory is there and writable"],
        ),
        (
            "a file in the directory's place",
            |dir| {
                std::fs::remove_dir(dir).expect("it is empty");
                std::fs::write(dir, b"").expect("a file");
            },
            &["cannot create the directory", "is outbox.path right"],
        ),
    ];
    for (name, spoil, expected) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        std::fs::create_dir(&path).expect("a directory");
        spoil(&path);
        let error = open(&path).expect_err(name).to_string();
        for part in expected {
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}

#[test]
fn reading_needs_a_store_of_this_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let read = || Outbox::open_read_only(dir.path(), Clock::manual(START)).expect_err("refused").to_string();
    assert!(read().contains("there is no outbox here; `sidehook run` creates it"));
    rusqlite::Connection::open(dir.path().join("outbox.db"))
        .expect("a store")
        .execute_batch("CREATE TABLE t (x)")
        .expect("a table");
    assert!(read().contains("has schema version 0, this sidehook reads 4; start `sidehook run` once"));
}

#[test]
fn files_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    let _outbox = open(&path).expect("an outbox");
    for entry in std::fs::read_dir(&path).expect("a directory") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its facts").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn the_store_is_what_the_design_says() {
    let rig = Rig::new();
    let conn = rusqlite::Connection::open(rig.dir.path().join("outbox.db")).expect("a connection");
    let ask = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).expect("an answer");
    assert_eq!(ask("PRAGMA journal_mode"), "wal".to_owned().into());
    assert_eq!(ask("PRAGMA auto_vacuum"), 2i64.into());
    assert_eq!(ask("PRAGMA user_version"), 4i64.into());
    // Looks for due deliveries must stay index ranges however many are owed.
    let plan = |sql: &str| {
        let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a plan");
        let lines = plan.query_map([], |row| row.get::<_, String>(3)).expect("lines");
        lines.map(|line| line.expect("a line")).collect::<Vec<_>>().join("; ")
    };
    let cases = [
        (
            "SELECT row FROM delivery WHERE webhook = 1 AND ready = 1 AND next_at <= 5 ORDER BY next_at, row",
            "SEARCH delivery USING COVERING INDEX delivery_due (webhook=? AND next_at<?)",
        ),
        (
            "SELECT row FROM delivery WHERE webhook = 1 AND ready = 1 AND (next_at, row) > (1, 2)
             ORDER BY next_at, row LIMIT 5",
            "SEARCH delivery USING COVERING INDEX delivery_due (webhook=? AND next_at>?)",
        ),
        (
            "SELECT row, webhook FROM delivery INDEXED BY delivery_settled
             WHERE state = 2 AND state > 0 AND changed_at < 9 ORDER BY changed_at LIMIT 5",
            "SEARCH delivery USING INDEX delivery_settled (state=? AND changed_at<?)",
        ),
        (
            "SELECT row, webhook FROM delivery WHERE state = 0 AND event_type = 'conversation.begin' ORDER BY row",
            "SEARCH delivery USING INDEX delivery_begins (state=?)",
        ),
        (
            "SELECT row, heard_at FROM conversation INDEXED BY conversation_open
             WHERE ended_at IS NULL AND (opened_at, row) > (1, 2) ORDER BY opened_at, row",
            "SEARCH conversation USING INDEX conversation_open (opened_at>?)",
        ),
        (
            "SELECT row, id FROM conversation INDEXED BY conversation_stream WHERE stream IS NOT NULL
             AND ended_at IS NULL AND stream < 9 AND (stream, row) > (1, 2) ORDER BY stream, row",
            "SEARCH conversation USING INDEX conversation_stream (stream>? AND stream<?)",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(plan(sql), expected);
    }
}
