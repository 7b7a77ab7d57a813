//! Files a hostile container puts in place, and locks it holds.

use super::*;
use rusqlite::types::Value;
use std::os::unix::fs::{PermissionsExt, symlink};

fn journal(dir: &SessionDir) -> PathBuf {
    journal_of(&dir.outbound_db())
}

fn wal(dir: &SessionDir) -> PathBuf {
    dir.out().join("outbound.db-wal")
}

fn is_hostile<T>(result: &Result<T, UntrustedError>) -> bool {
    matches!(result, Err(UntrustedError::Hostile(_)))
}

fn is_io<T>(result: &Result<T, UntrustedError>) -> bool {
    matches!(result, Err(UntrustedError::Io(_)))
}

/// Changes bytes of the database file.
fn patch(dir: &SessionDir, at: usize, bytes: &[u8]) {
    let mut file = fs::read(dir.outbound_db()).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(dir.outbound_db(), file).unwrap();
}

#[test]
fn a_fifo_in_place_of_the_database_holds_nobody_up() {
    let (_tmp, dir) = folder();
    fifo(&dir.outbound_db());
    assert!(is_hostile(&look(&dir, ids)));
    assert!(is_io(&look_too_late(&dir)));
}

#[test]
fn a_fifo_in_place_of_a_journal_holds_nobody_up() {
    let (_tmp, dir) = session(&["a"]);
    fifo(&journal(&dir));
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again));
    fs::remove_file(journal(&dir)).unwrap();
    fifo(&wal(&dir));
    assert!(is_hostile(&look(&dir, ids)));
    fs::remove_file(wal(&dir)).unwrap();
    assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));
}

#[test]
fn symlinks_are_not_followed() {
    let (_tmp, other) = session(&["secret"]);
    let (_tmp2, dir) = session(&["a"]);
    fs::write(journal(&other), [0; 512]).unwrap();
    symlink(journal(&other), journal(&dir)).unwrap();
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again), "an idle journal, were it followed");
    fs::remove_file(journal(&dir)).unwrap();

    fs::remove_file(dir.outbound_db()).unwrap();
    symlink(other.outbound_db(), dir.outbound_db()).unwrap();
    assert!(is_hostile(&look(&dir, ids)));
    assert!(is_io(&look_too_late(&dir)));

    fs::remove_dir_all(dir.out()).unwrap();
    symlink(other.out(), dir.out()).unwrap();
    assert!(is_hostile(&look(&dir, ids)));
}

#[test]
fn a_leased_file_holds_nobody_up() {
    let (_tmp, dir) = session(&["a"]);
    let lease_of_database = lease(&dir.outbound_db());
    assert!(is_io(&look(&dir, ids)));
    drop(lease_of_database);
    fs::write(journal(&dir), [0; 512]).unwrap();
    let lease_of_journal = lease(&journal(&dir));
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again));
    drop(lease_of_journal);
    assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));
}

#[test]
fn a_lock_that_is_never_released_holds_nobody_up() {
    let (_tmp, dir) = session(&["a"]);
    let holder = OpenOptions::new().write(true).open(dir.outbound_db()).unwrap();
    // SQLite's pending lock. One of this kind stands against our own process, too.
    ofd_lock(&holder, libc::F_OFD_SETLK, 0x4000_0000, 1);
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again));
    drop(holder);
    assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));
}

#[test]
fn a_write_ahead_log_is_refused_with_its_shared_memory_untouched() {
    let (_tmp, dir) = session(&["a"]);
    let writer = Connection::open(dir.outbound_db()).unwrap();
    writer.execute_batch("PRAGMA journal_mode=WAL; DELETE FROM messages_out").unwrap();
    let shared = dir.out().join("outbound.db-shm");
    let (database, log) = (fs::read(dir.outbound_db()).unwrap(), fs::read(wal(&dir)).unwrap());
    drop(writer);
    fs::write(dir.outbound_db(), database).unwrap();
    assert!(is_hostile(&look(&dir, ids)), "no log yet");
    fs::write(wal(&dir), log).unwrap();
    assert!(is_hostile(&look(&dir, ids)), "no shared memory yet");
    for bytes in [0, 1, 100, 32768] {
        fs::write(&shared, vec![0; bytes]).unwrap();
        assert!(is_hostile(&look(&dir, ids)), "{bytes} bytes");
    }
}

#[test]
fn what_sqlite_would_tidy_up_stays() {
    let (_tmp, dir) = folder();
    File::create(dir.outbound_db()).unwrap();
    // Beside an empty database SQLite deletes a log and a journal.
    fs::write(wal(&dir), "log").unwrap();
    assert!(look(&dir, ids).is_err());
    fs::remove_file(wal(&dir)).unwrap();
    fs::write(journal(&dir), "journal").unwrap();
    look(&dir, ids).ok();

    // It gives an empty journal the mode and (as root) any journal the owner of its database.
    let (_tmp, dir) = session(&["a"]);
    for content in ["", "\0"] {
        fs::write(journal(&dir), content).unwrap();
        fs::set_permissions(journal(&dir), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));
    }
}

#[test]
fn sizes_in_the_header_are_not_believed() {
    let (_tmp, dir) = session(&["a"]);
    patch(&dir, 48, &i32::MAX.to_be_bytes());
    let deadline = Instant::now() + HANG;
    let look_at = connection::open_for_look(&out_folder(&dir).unwrap().join(OUTBOUND_DB), &deadline).unwrap();
    let pages: i64 = look_at.db().query_row("PRAGMA cache_size", [], |r| r.get(0)).unwrap();
    assert_eq!(pages, -256, "KiB");
    drop(look_at);
    assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));

    for (at, bytes) in [(16, [0, 1]), (16, [0x80, 0]), (28, [0xff, 0xff])] {
        let (_tmp, dir) = session(&["a"]);
        patch(&dir, at, &bytes);
        look(&dir, ids).ok();
    }
}

/// SQLite's encoding of a number, in four bytes of seven bits.
fn varint(n: u32) -> [u8; 4] {
    [n >> 21 | 0x80, n >> 14 | 0x80, n >> 7 | 0x80, n & 0x7f].map(|bits| bits as u8)
}

#[test]
fn a_value_that_claims_to_be_huge_is_not_loaded() {
    let (_tmp, dir) = session(&[]);
    let bytes = 2 << 20;
    // As many pages more, so that the row lies in its own page as before.
    let claimed = bytes + 25_000 * (4096 - 4);
    let mut db = OutboundDb::open(&dir).unwrap();
    db.write(|tx| {
        tx.insert(&message("huge", &"x".repeat(bytes as usize)), 0, now())?;
        tx.insert(&message("b", ""), 0, now())
    })
    .unwrap();
    drop(db);
    let text = |bytes: u32| varint(13 + 2 * bytes);
    let file = fs::read(dir.outbound_db()).unwrap();
    let at = file.windows(4).position(|w| w == text(bytes)).expect("the row is there");
    patch(&dir, at, &text(claimed));
    // Before it the size of the row, its number, the size of its types and ten types.
    let row = at - 16;
    let row_bytes = file[row..row + 4].iter().fold(0, |n, byte| n << 7 | u32::from(byte & 0x7f));
    patch(&dir, row, &varint(row_bytes - bytes + claimed));
    // And a file that is large enough for that, though there is nothing in it.
    patch(&dir, 28, &50_000_u32.to_be_bytes());
    OpenOptions::new().write(true).open(dir.outbound_db()).unwrap().set_len(50_000 * 4096).unwrap();
    assert_eq!(look(&dir, ids), Ok(vec!["a field has 104397152 bytes".into(), "b".into()]));
}

#[test]
fn no_value_grows_beyond_the_limit() {
    let (_tmp, dir) = session(&[]);
    let deadline = Instant::now() + HANG;
    let look = connection::open_for_look(&out_folder(&dir).unwrap().join(OUTBOUND_DB), &deadline).unwrap();
    for (bytes, fits) in [(MAX_CONTENT_BYTES, true), (MAX_CONTENT_BYTES + 1, false)] {
        let value = look.db().query_row("SELECT zeroblob(?1)", [bytes as i64], |r| r.get::<_, Value>(0));
        assert_eq!(value.is_ok(), fits);
    }
    let (_tmp, dir) = crafted(&format!("CREATE TABLE t (x CHECK (x <> '{}'))", "x".repeat(20_000)));
    assert!(matches!(super::look(&dir, ids), Err(UntrustedError::Corrupt(_))), "a schema of a megabyte");
}

#[test]
fn an_oversized_database_is_refused() {
    let (_tmp, dir) = session(&["a"]);
    OpenOptions::new().write(true).open(dir.outbound_db()).unwrap().set_len(MAX_DATABASE_BYTES + 1).unwrap();
    assert!(is_hostile(&look(&dir, ids)));
}

#[test]
fn what_is_no_plain_table_is_refused() {
    let columns = "id, seq, in_reply_to, deliver_after, kind, platform_id, channel_type, thread_id, content";
    for (what, sql) in [
        ("view", "CREATE VIEW messages_out AS SELECT 'a' AS id, 1 AS seq".to_owned()),
        ("endless view", {
            "CREATE VIEW container_state AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT i AS id FROM n"
                .to_owned()
        }),
        ("full-text table", format!("CREATE VIRTUAL TABLE messages_out USING fts5({columns})")),
        ("older full-text table", format!("CREATE VIRTUAL TABLE messages_out USING fts3({columns})")),
        ("r-tree", "CREATE VIRTUAL TABLE messages_out USING rtree(id, seq, kind)".to_owned()),
        ("statistics", "CREATE VIRTUAL TABLE processing_ack USING dbstat".to_owned()),
        ("computed table", {
            "CREATE TABLE messages_out (id, kind, content,
               seq AS (instr(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1')))"
                .to_owned()
        }),
        ("stored computed table", "CREATE TABLE processing_ack (message_id, status AS (1) STORED)".to_owned()),
    ] {
        let (_tmp, dir) = crafted(&sql);
        let result = look(&dir, ids);
        assert!(is_hostile(&result), "{what}: {result:?}");
    }
}

#[test]
fn a_schema_of_hostile_views_and_virtual_tables_beside_ours_is_not_run() {
    let (_tmp, dir) = session(&["a"]);
    Connection::open(dir.outbound_db())
        .unwrap()
        .execute_batch(
            "CREATE VIEW v0 AS SELECT 1 AS a, 2 AS b;
             CREATE VIEW v1 AS SELECT * FROM v0, v0; CREATE VIEW v2 AS SELECT * FROM v1, v1;
             CREATE VIEW v3 AS SELECT * FROM v2, v2; CREATE VIEW v4 AS SELECT * FROM v3, v3;
             CREATE VIRTUAL TABLE f USING fts5(x);
             CREATE TRIGGER t AFTER INSERT ON messages_out BEGIN SELECT raise(ABORT, 'no'); END;",
        )
        .unwrap();
    assert_eq!(look(&dir, ids), Ok(vec!["a".into()]));
    let deadline = Instant::now() + HANG;
    let look = connection::open_for_look(&out_folder(&dir).unwrap().join(OUTBOUND_DB), &deadline).unwrap();
    for name in ["v0", "f"] {
        assert!(look.db().prepare(&format!("SELECT * FROM {name}")).is_err(), "{name}");
    }
}

#[test]
fn a_look_that_takes_too_long_is_given_up() {
    // No index: every acknowledgement is a walk through the whole table.
    let (_tmp, dir) = crafted(
        "CREATE TABLE processing_ack (message_id, status);
         INSERT INTO processing_ack WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)
           SELECT 'm' || i, 'completed' FROM n",
    );
    let asked: Vec<String> = (0..50_000).map(|i| format!("x{i}")).collect();
    assert_eq!(look(&dir, move |s| s.acks(&asked)), Err(UntrustedError::TimedOut));
    assert_eq!(look(&dir, |s| s.acks(&["m1".into()])).unwrap().len(), 1, "the next look is a fresh one");
}
