//! Tests of both sides of `inbound.db` on real files.

use super::reader::look;
use super::*;
use crate::row::{DestinationType, InKind};
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn folder() -> (tempfile::TempDir, SessionDir) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = SessionDir::new(tmp.path());
    dir.prepare().unwrap();
    (tmp, dir)
}

fn open(dir: &SessionDir) -> InboundDb {
    InboundDb::open(dir, Durability::Acknowledged).unwrap()
}

fn chat(id: &str, content: &str) -> NewMessageIn {
    NewMessageIn::chat(id.into(), now(), Address::default(), content.into())
}

fn stored(intake: Intake) -> (String, i64) {
    match intake {
        Intake::Stored { id, seq } => (id, seq),
        Intake::Absorbed { id } => panic!("{id} was absorbed"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn seq_is_even_and_grows_whatever_the_cursor_says(cursors in prop::collection::vec(0i64..100, 1..12)) {
        let (_tmp, dir) = folder();
        let mut last = 0;
        for (i, cursor) in cursors.iter().enumerate() {
            let intake = open(&dir).write(|tx| {
                tx.set_delivery_cursor(*cursor)?;
                tx.insert(&chat(&i.to_string(), "x"))
            }).unwrap();
            let (_, seq) = stored(intake);
            prop_assert!(seq % 2 == 0 && seq > last && seq > *cursor);
            last = seq;
        }
    }
}

#[test]
fn the_same_message_is_absorbed_and_another_version_is_kept() {
    let (_tmp, dir) = folder();
    let put = |content: &str| open(&dir).write(|tx| tx.insert(&chat("m", content))).unwrap();
    assert_eq!(stored(put("one")).0, "m");
    assert_eq!(put("one"), Intake::Absorbed { id: "m".into() });
    assert_eq!(stored(put("two")).0, "m#2");
    assert_eq!(put("two"), Intake::Absorbed { id: "m#2".into() });
    assert_eq!(stored(put("three")).0, "m#3");
    assert_eq!(open(&dir).unfinished().unwrap().len(), 3);
}

#[test]
fn the_header_says_rollback_journal_and_no_wal_appears() {
    let (_tmp, dir) = folder();
    open(&dir).write(|tx| tx.insert(&chat("m", "x"))).unwrap();
    look(&dir, |view| view.pending(now())).unwrap();
    let header = std::fs::read(dir.inbound_db()).unwrap();
    assert_eq!(&header[18..20], [1, 1], "read and write format 1 is a rollback journal, 2 is WAL");
    assert!(!dir.root().join("inbound.db-wal").exists() && !dir.root().join("inbound.db-shm").exists());
}

#[test]
fn a_reader_maps_nothing_and_leaves_no_handle() {
    let (_tmp, dir) = folder();
    open(&dir).write(|tx| tx.insert(&chat("m", "x"))).unwrap();
    let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains("inbound.db");
    let path = dir.inbound_db();
    let handles = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| target == &path)
            .count()
    };
    look(&dir, |view| {
        view.pending(now())?;
        assert!(!mapped());
        assert_eq!(handles(), 1);
        Ok(())
    })
    .unwrap();
    assert_eq!(handles(), 0);
}

#[test]
fn due_rows_are_seen_in_both_spellings_of_time() {
    let (_tmp, dir) = folder();
    let mut db = open(&dir);
    db.write(|tx| {
        for id in ["due", "due-sqlite", "later", "garbage", "finished"] {
            tx.insert(&chat(id, id))?;
        }
        tx.finish("finished", InStatus::Completed)?;
        tx.tx.execute_batch(
            "UPDATE messages_in SET process_after='2026-11-21T11:59:59Z' WHERE id='due';
             UPDATE messages_in SET process_after='2026-11-21 12:00:00' WHERE id='due-sqlite';
             UPDATE messages_in SET process_after='2026-11-21T12:00:00.001Z' WHERE id='later';
             UPDATE messages_in SET process_after='whenever' WHERE id='garbage';",
        )
    })
    .unwrap();
    drop(db);
    look(&dir, |view| {
        let ids: Vec<String> = view.pending(now())?.into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["due", "due-sqlite", "garbage"]);
        assert_eq!(view.next_due(now())?, parse_utc("2026-11-21T12:00:00.001Z"));
        assert_eq!(view.message("later")?.unwrap().content, "later");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_file_of_an_older_host_is_read_as_it_is_and_completed_by_its_writer() {
    let (_tmp, dir) = folder();
    let old = Connection::open(dir.inbound_db()).unwrap();
    old.execute_batch(
        "CREATE TABLE messages_in (id TEXT PRIMARY KEY, seq INTEGER UNIQUE, kind TEXT NOT NULL,
           timestamp TEXT NOT NULL, status TEXT DEFAULT 'pending', process_after TEXT, recurrence TEXT,
           tries INTEGER DEFAULT 0, platform_id TEXT, channel_type TEXT, thread_id TEXT, content TEXT NOT NULL);
         INSERT INTO messages_in (id, seq, kind, timestamp, content) VALUES ('m', 2, 'chat', '2026-01-01 00:00:00', 'hi');
         CREATE TABLE delivered (message_out_id TEXT PRIMARY KEY, delivered_at TEXT NOT NULL);
         INSERT INTO delivered VALUES ('o', '2026-01-01 00:00:00');",
    )
    .unwrap();
    drop(old);
    look(&dir, |view| {
        let row = &view.pending(now())?[0];
        assert_eq!((row.trigger, row.audience), (Trigger::Wake, Audience::AnyPoll));
        assert_eq!(view.message("m")?.unwrap().content, "hi");
        assert_eq!((view.destinations()?.len(), view.routing()?), (0, Address::default()));
        Ok(())
    })
    .unwrap();
    let mut db = open(&dir);
    assert_eq!(db.delivered("o").unwrap().unwrap().status, DeliveryStatus::Delivered);
    assert_eq!(stored(db.write(|tx| tx.insert(&chat("n", "x"))).unwrap()).1, 4);
}

#[test]
fn destinations_and_routing_are_replaced_whole() {
    let (_tmp, dir) = folder();
    let destination = |name: &str| Destination {
        name: name.into(),
        display_name: None,
        kind: DestinationType::Channel,
        address: Address { channel_type: Some("cli".into()), platform_id: Some("local".into()), thread_id: None },
        agent_group_id: None,
    };
    let mut db = open(&dir);
    db.write(|tx| tx.replace_destinations(&[destination("a"), destination("b")])).unwrap();
    db.write(|tx| {
        tx.replace_destinations(&[destination("c")])?;
        tx.set_routing(&destination("c").address)
    })
    .unwrap();
    look(&dir, |view| {
        assert_eq!(view.destinations()?, [destination("c")]);
        assert_eq!(view.routing()?, destination("c").address);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_reply_finds_the_thread_of_the_latest_row_from_that_chat() {
    let (_tmp, dir) = folder();
    let at = |chat: &str, thread: Option<&str>| Address {
        channel_type: Some("slack".into()),
        platform_id: Some(chat.into()),
        thread_id: thread.map(str::to_owned),
    };
    open(&dir)
        .write(|tx| {
            for (i, address) in [at("a", Some("1")), at("a", Some("2")), at("b", None)].into_iter().enumerate() {
                tx.insert(&NewMessageIn::chat(i.to_string(), now(), address, "x".into()))?;
            }
            Ok(())
        })
        .unwrap();
    look(&dir, |view| {
        assert_eq!(view.latest_thread("slack", "a")?.as_deref(), Some("2"));
        assert_eq!(view.latest_thread("slack", "b")?, None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn outcomes_are_final_and_attempts_go_with_them() {
    let (_tmp, dir) = folder();
    let mut db = open(&dir);
    let attempt = Attempt {
        message_out_id: "o".into(),
        attempts: 2,
        first_attempt_at: Some(now()),
        next_attempt_at: now(),
        last_error: Some("503".into()),
    };
    db.write(|tx| tx.set_attempt(&attempt)).unwrap();
    assert_eq!(db.attempts().unwrap(), [attempt]);
    let sent = Delivered {
        message_out_id: "o".into(),
        platform_message_id: Some("9".into()),
        status: DeliveryStatus::Delivered,
        chat: Address { channel_type: Some("cli".into()), platform_id: Some("local".into()), thread_id: None },
    };
    db.write(|tx| {
        tx.mark_delivered(&sent, now())?;
        tx.mark_delivered(&Delivered { status: DeliveryStatus::Failed, ..sent.clone() }, now())?;
        tx.set_delivery_cursor(3)
    })
    .unwrap();
    assert_eq!(db.delivered("o").unwrap(), Some(sent));
    assert_eq!(db.attempts().unwrap(), []);
    assert_eq!(db.delivery_cursor().unwrap(), 3);
}

#[test]
fn a_row_that_ended_stays_ended() {
    let (_tmp, dir) = folder();
    let mut db = open(&dir);
    db.write(|tx| {
        tx.insert(&chat("m", "x"))?;
        tx.finish("m", InStatus::Failed)?;
        tx.finish("m", InStatus::Completed)?;
        tx.retry("m", 3, now())
    })
    .unwrap();
    let row = db.message("m").unwrap().unwrap();
    assert_eq!((row.status, row.tries, row.kind), (InStatus::Failed, 0, InKind::Chat));
}

#[test]
fn a_journal_left_by_a_dead_host_means_again_for_a_reader_and_is_rolled_back_at_start() {
    let (_tmp, dir) = folder();
    open(&dir).write(|tx| tx.insert(&chat("kept", "x"))).unwrap();
    // A host that died inside a commit: database and journal as they were at that moment.
    let db = open(&dir);
    db.db.execute_batch("PRAGMA cache_spill=ON; PRAGMA cache_size=1; BEGIN IMMEDIATE").unwrap();
    let filler = "x".repeat(50_000);
    for i in 0..20 {
        db.db
            .execute(
                "INSERT INTO messages_in (id, seq, kind, timestamp, content) VALUES (?1, ?2, 'chat', 't', ?3)",
                params![format!("lost-{i}"), 100 + i, filler],
            )
            .unwrap();
    }
    let journal = dir.root().join("inbound.db-journal");
    let (database_bytes, journal_bytes) = (std::fs::read(dir.inbound_db()).unwrap(), std::fs::read(&journal).unwrap());
    drop(db);
    std::fs::write(dir.inbound_db(), database_bytes).unwrap();
    std::fs::write(&journal, journal_bytes).unwrap();

    let error = look(&dir, |view| view.pending(now())).unwrap_err();
    assert!(is_transient(&error), "{error}");
    roll_back_journal(&dir).unwrap();
    let ids: Vec<String> = look(&dir, |view| view.pending(now())).unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["kept"]);
}

#[test]
fn a_read_lock_held_by_a_container_parks_the_host_in_a_tenth_of_a_second() {
    let (_tmp, dir) = folder();
    open(&dir).write(|tx| tx.insert(&chat("m", "x"))).unwrap();
    look(&dir, |view| {
        view.pending(now())?;
        let started = std::time::Instant::now();
        let error = open(&dir).write(|tx| tx.insert(&chat("n", "x"))).unwrap_err();
        assert!(is_transient(&error), "{error}");
        let limit = std::time::Duration::from_millis(u64::from(HOST_BUSY_MS.unsigned_abs()) * 3);
        assert!(started.elapsed() < limit, "{:?}", started.elapsed());
        Ok(())
    })
    .unwrap();
    assert_eq!(stored(open(&dir).write(|tx| tx.insert(&chat("n", "x"))).unwrap()).1, 4);
}

#[test]
fn a_row_of_an_unknown_kind_does_not_hide_the_others() {
    let (_tmp, dir) = folder();
    let mut db = open(&dir);
    db.write(|tx| {
        tx.insert(&chat("new", "x"))?;
        tx.tx.execute_batch("UPDATE messages_in SET kind = 'hologram'")?;
        tx.insert(&chat("known", "x"))
    })
    .unwrap();
    let unfinished: Vec<String> = db.unfinished().unwrap().into_iter().map(|m| m.id).collect();
    assert_eq!(unfinished, ["known"]);
    let pending: Vec<String> = look(&dir, |view| view.pending(now())).unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(pending, ["known"]);
}

#[test]
fn who_asked_and_how_many_were_at_it_is_found_without_reading_the_history() {
    let (_tmp, dir) = folder();
    let peer = |id: &str, session: &str, hops| NewMessageIn {
        address: Address { channel_type: Some("agent".into()), platform_id: Some("bob".into()), thread_id: None },
        source_session_id: Some(session.into()),
        hops,
        ..chat(id, id)
    };
    let note = NewMessageIn { trigger: Trigger::Context, ..chat("note", "") };
    let task = NewMessageIn { process_after: Some(now() + jiff::SignedDuration::from_hours(1)), ..chat("task", "") };
    let mut db = open(&dir);
    db.write(|tx| {
        [peer("a", "s1", 3), peer("b", "s2", 5), note, task].iter().try_for_each(|row| tx.insert(row).map(drop))
    })
    .unwrap();
    assert_eq!(db.asking_sessions(Some("a"), "bob").unwrap(), ["s1", "s2"]);
    assert_eq!(db.asking_sessions(Some("note"), "bob").unwrap(), ["s2"]);
    assert_eq!(db.asking_sessions(None, "cat").unwrap(), Vec::<String>::new());
    let hops = |reply, at| open(&dir).hops_so_far(reply, at).unwrap();
    assert_eq!(hops(Some("a"), now()), 5, "the newest counts, whatever it says that it replies to");
    let later = now() + jiff::SignedDuration::from_hours(2);
    assert_eq!((hops(None, later), hops(Some("a"), later)), (0, 3), "the task has begun something new");
    let plan = "EXPLAIN QUERY PLAN SELECT source_session_id FROM messages_in
        WHERE channel_type = 'agent' AND platform_id = 'bob' AND source_session_id IS NOT NULL ORDER BY seq DESC LIMIT 1";
    let plan: String = db.db.query_row(plan, [], |r| r.get("detail")).unwrap();
    assert!(plan.contains("idx_messages_in_peers"), "{plan}");
}
