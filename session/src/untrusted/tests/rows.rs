//! What a look finds in files that are in order, or odd only in their rows.

use super::*;
use crate::row::{AckStatus, ContainerState};
use rusqlite::StatementStatus;

/// The columns of a runner's table, without its promises.
const LOOSE: &str = "CREATE TABLE messages_out (id, seq UNIQUE, in_reply_to, timestamp, deliver_after,
  recurrence, kind, platform_id, channel_type, thread_id, content);";

#[test]
fn messages_come_by_seq_from_the_cursor_on() {
    let (_tmp, dir) = session(&["a", "b", "c"]);
    let (all, later, first, highest) =
        look(&dir, |s| Ok((ids(s)?, s.messages_after(1, 10)?, s.messages_after(0, 1)?, s.max_seq()?))).unwrap();
    assert_eq!(all, ["a", "b", "c"]);
    assert_eq!(later.rows.iter().map(OutRow::seq).collect::<Vec<_>>(), [3, 5]);
    assert!(!later.more);
    assert_eq!((first.rows.len(), first.more), (1, true));
    assert_eq!(highest, Some(5));
}

#[test]
fn a_message_arrives_as_it_was_written() {
    let (_tmp, dir) = folder();
    let written = NewMessageOut {
        id: "m".into(),
        in_reply_to: Some("q".into()),
        deliver_after: Some(now()),
        kind: OutKind::System,
        address: Address {
            channel_type: Some("telegram".into()),
            platform_id: Some("42".into()),
            thread_id: Some("7".into()),
        },
        content: "hällo\0".into(),
    };
    let (copy, mut db) = (written.clone(), OutboundDb::open(&dir).unwrap());
    db.write(|tx| tx.insert(&copy, 8, now())).unwrap();
    let (by_id, by_seq, none) =
        look(&dir, |s| Ok((s.message("m")?, s.message_by_seq(9)?, s.message("other")?))).unwrap();
    let Some(OutRow::Message(read)) = &by_id else { panic!("{by_id:?}") };
    assert_eq!((read.seq, &read.id, &read.content), (9, &written.id, &written.content));
    assert_eq!((&read.in_reply_to, read.deliver_after), (&written.in_reply_to, written.deliver_after));
    assert_eq!((read.kind, &read.address), (written.kind, &written.address));
    assert_eq!(by_seq, by_id);
    assert_eq!(none, None);
}

#[test]
fn acknowledgements_are_found_by_id() {
    let (_tmp, dir) = session(&[]);
    let mut db = OutboundDb::open(&dir).unwrap();
    db.write(|tx| {
        tx.acknowledge(["a"], AckStatus::Processing, now())?;
        tx.acknowledge(["b"], AckStatus::Completed, now())
    })
    .unwrap();
    let raw = Connection::open(dir.outbound_db()).unwrap();
    raw.execute("INSERT INTO processing_ack VALUES ('odd', 'whatever', ''), ('blob', x'00', '')", []).unwrap();
    drop((db, raw));
    let asked = ["b", "odd", "none", "blob", "a"].map(String::from);
    let found = look(&dir, move |s| s.acks(&asked)).unwrap();
    assert_eq!(found, [("b".into(), AckStatus::Completed), ("a".into(), AckStatus::Processing)]);
}

#[test]
fn a_file_without_tables_is_empty_and_no_file_is_not_there() {
    let (_tmp, dir) = folder();
    assert_eq!(look(&dir, ids), Err(UntrustedError::NotThere));
    for bytes in [0, 1] {
        // SQLite makes the file before it writes its first page.
        File::create(dir.outbound_db()).unwrap();
        if bytes > 0 {
            Connection::open(dir.outbound_db()).unwrap().execute_batch("PRAGMA user_version=1").unwrap();
        }
        let found =
            look(&dir, |s| Ok((ids(s)?, s.max_seq()?, s.message("m")?, s.acks(&["m".into()])?, s.container_state()?)));
        assert_eq!(found, Ok((vec![], None, None, vec![], None)));
    }
}

#[test]
fn the_state_of_the_runner_is_read_with_and_without_our_columns() {
    let state = ContainerState {
        current_tool: Some("Bash".into()),
        tool_declared_timeout_ms: Some(1000),
        tool_started_at: Some(now()),
        silent_until: Some(now()),
        phase: Some("turn".into()),
    };
    let (_tmp, dir) = session(&[]);
    assert_eq!(look(&dir, |s| s.container_state()), Ok(None));
    let mut db = OutboundDb::open(&dir).unwrap();
    db.write(|tx| tx.set_container_state(&state, now())).unwrap();
    assert_eq!(look(&dir, |s| s.container_state()), Ok(Some(state.clone())));

    let (_tmp, older) = crafted(
        "CREATE TABLE container_state (id INTEGER PRIMARY KEY CHECK (id = 1), current_tool TEXT,
           tool_declared_timeout_ms INTEGER, tool_started_at TEXT, updated_at TEXT NOT NULL);
         INSERT INTO container_state VALUES (1, 'Bash', 1000, '2026-11-21 12:00:00', '')",
    );
    let without = ContainerState { silent_until: None, phase: None, ..state };
    assert_eq!(look(&older, |s| s.container_state()), Ok(Some(without)));
}

#[test]
fn only_an_odd_integer_up_to_2_53_is_a_seq() {
    let (_tmp, dir) = crafted(&format!(
        "{LOOSE} INSERT INTO messages_out (id, seq, kind, content) VALUES
           ('even', 2, 'chat', ''), ('zero', 0, 'chat', ''), ('negative', -1, 'chat', ''),
           ('real', 7.0, 'chat', ''), ('text', '9', 'chat', ''), ('blob', x'01', 'chat', ''),
           ('null', NULL, 'chat', ''), ('huge', 1152921504606846977, 'chat', ''),
           ('good', 3, 'chat', ''), ('last', 9007199254740991, 'chat', ''), ('over', 9007199254740993, 'chat', '')"
    ));
    let (found, highest, by_id) = look(&dir, |s| Ok((ids(s)?, s.max_seq()?, s.message("even")?))).unwrap();
    assert_eq!(found, ["good", "last"]);
    assert_eq!(highest, Some((1 << 53) - 1));
    assert_eq!(by_id, None);
    assert_eq!(look(&dir, |s| s.message_by_seq(2)), Ok(None));
    assert_eq!(look(&dir, |s| s.messages_after(i64::MIN, 100)).unwrap().rows.len(), 2);
}

#[test]
fn a_malformed_row_is_told_apart_and_holds_up_no_other() {
    let long = "x".repeat(MAX_ID_BYTES + 1);
    let (_tmp, dir) = crafted(&format!(
        "{LOOSE} INSERT INTO messages_out (seq, id, kind, content, thread_id) VALUES
           (1, NULL, 'chat', '', NULL), (3, '{long}', 'chat', '', NULL), (5, x'00', 'chat', '', NULL),
           (7, 'a' || char(10), 'chat', '', NULL), (9, 'b', 'order', '', NULL), (11, 'c', 'chat', NULL, NULL),
           (13, 'd', 'chat', 5, NULL), (15, 'e', 'chat', '', zeroblob(3)),
           (17, 'f', 'chat', CAST(x'ff41' AS TEXT), NULL)"
    ));
    let rows = look(&dir, |s| s.messages_after(0, 100)).unwrap().rows;
    let told: Vec<_> = rows
        .iter()
        .filter_map(|row| match row {
            OutRow::Malformed { seq, id, .. } => Some((*seq, id.as_deref())),
            OutRow::Message(_) => None,
        })
        .collect();
    assert_eq!(
        told,
        [(1, None), (3, None), (5, None), (7, None), (9, Some("b")), (11, Some("c")), (13, Some("d")), (15, Some("e"))]
    );
    let Some(OutRow::Message(last)) = rows.last() else { panic!("{rows:?}") };
    assert_eq!((last.id.as_str(), last.content.as_str()), ("f", "\u{fffd}A"), "bad UTF-8 is no loss of the row");
}

#[test]
fn an_oversized_content_is_refused_and_the_next_one_delivered() {
    let (_tmp, dir) = session(&[]);
    let mut db = OutboundDb::open(&dir).unwrap();
    db.write(|tx| {
        tx.insert(&message("over", &"x".repeat(MAX_CONTENT_BYTES + 1)), 0, now())?;
        tx.insert(&message("full", &"x".repeat(MAX_CONTENT_BYTES)), 0, now())
    })
    .unwrap();
    let found = look(&dir, ids).unwrap();
    assert_eq!(found, ["a field has 1048577 bytes", "full"]);
}

#[test]
fn large_rows_come_in_several_calls() {
    let (_tmp, dir) = session(&[]);
    let mut db = OutboundDb::open(&dir).unwrap();
    let content = "x".repeat(MAX_CONTENT_BYTES);
    db.write(|tx| (0..10).try_for_each(|i| tx.insert(&message(&i.to_string(), &content), 0, now()).map(|_| ())))
        .unwrap();
    let mut seen = Vec::new();
    let mut calls = 0;
    loop {
        let cursor = seen.last().copied().unwrap_or(0);
        let found = look(&dir, move |s| s.messages_after(cursor, 100)).unwrap();
        seen.extend(found.rows.iter().map(OutRow::seq));
        calls += 1;
        if !found.more {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|i| 2 * i + 1).collect::<Vec<i64>>());
    assert_eq!(calls, 3, "4 MiB at a time");
}

#[test]
fn reading_what_is_new_costs_the_same_after_100_000_rows_as_after_100() {
    let cost = |rows: i64| {
        let (_tmp, dir) = session(&[]);
        let mut db = Connection::open(dir.outbound_db()).unwrap();
        let tx = db.transaction().unwrap();
        {
            let mut insert = tx
                .prepare("INSERT INTO messages_out (id, seq, timestamp, kind, content) VALUES (?1, ?2, '', 'chat', '')")
                .unwrap();
            for i in 0..rows {
                insert.execute((i.to_string(), 2 * i + 1)).unwrap();
            }
        }
        tx.commit().unwrap();
        let deadline = Instant::now() + HANG;
        let look = connection::open_for_look(&out_folder(&dir).unwrap().join(OUTBOUND_DB), &deadline).unwrap();
        [
            (snapshot::seqs_after_sql(), vec![2 * rows - 21, 100]),
            (snapshot::message_sql("seq = ?1"), vec![2 * rows - 1]),
            (snapshot::max_seq_sql(), vec![]),
        ]
        .map(|(sql, values)| {
            let mut statement = look.db().prepare(&sql).unwrap();
            let found = statement.query_map(rusqlite::params_from_iter(values), |_| Ok(())).unwrap().count();
            (found, statement.get_status(StatementStatus::VmStep))
        })
    };
    let few = cost(100);
    assert_eq!(few.map(|(found, _)| found), [10, 1, 1]);
    assert_eq!(few, cost(100_000));
}

#[test]
fn a_look_lets_go_of_the_file() {
    let (_tmp, dir) = session(&["a"]);
    let mut db = OutboundDb::open(&dir).unwrap();
    look(&dir, ids).unwrap();
    look(&dir, |_| Err::<(), _>(UntrustedError::TimedOut)).unwrap_err();
    db.write(|tx| tx.insert(&message("b", ""), 0, now())).unwrap();
    assert_eq!(look(&dir, ids).unwrap(), ["a", "b"]);
}

#[test]
fn a_fault_fits_a_line_of_the_log() {
    let fault = UntrustedError::hostile(format_args!("a\nb\u{1b}[0m{}", "x".repeat(10_000))).to_string();
    assert!(fault.starts_with("refused: a\\nb\\u{1b}[0mxx"), "{fault}");
    assert!(fault.len() < 300);
}
