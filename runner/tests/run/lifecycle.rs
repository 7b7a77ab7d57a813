//! Start, death, idleness, and a file that is busy: nothing is lost and nothing said twice.

use std::fs;
use std::time::{Duration, Instant};

use jiff::ToSpan;
use nanoclaw_session::alive::is_locked;
use nanoclaw_session::inbound::{Delivered, Durability, InboundDb, roll_back_journal};
use nanoclaw_session::row::{AckStatus, DeliveryStatus, NewMessageIn};
use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::session::{Session, message, now};

#[test]
fn a_turn_cut_short_by_a_kill_is_done_again_by_the_successor() {
    let session = Session::new();
    session.say("m1", "count to 4 slowly");
    let runner = session.start();
    session.wait_ack("m1", AckStatus::Processing);
    assert!(is_locked(&session.dir).unwrap());
    runner.kill();
    assert!(!is_locked(&session.dir).unwrap());
    assert_eq!(session.ack("m1"), Some(AckStatus::Processing), "the claim of the dead stays until a successor comes");
    let _runner = session.start();
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["1, 2, 3, 4"]);
}

#[test]
fn what_is_no_file_in_the_place_of_one_ends_it_at_once_with_a_word_about_it() {
    for suffix in ["", "-journal"] {
        let session = Session::new();
        let (mut trap, out) = (session.dir.outbound_db().into_os_string(), session.dir.outbound_db());
        // A journal is looked at when there is something it may belong to.
        drop(nanoclaw_session::outbound::OutboundDb::open(&session.dir).unwrap());
        trap.push(suffix);
        if suffix.is_empty() {
            fs::remove_file(&out).unwrap();
        }
        mknodat(CWD, &trap, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(session.start().exit_code(), 1);
        let error = format!("error: open {}: unable to open database file", out.display());
        assert!(session.log().contains(&error), "{suffix:?}: {}", session.log());
    }
}

#[test]
fn sigterm_ends_it_at_once_and_leaves_the_claims_to_the_successor() {
    let session = Session::new();
    let runner = session.start();
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Completed);
    runner.terminate();
    assert_eq!(runner.exit_code(), 0);

    session.say("m2", "count to 1000 slowly");
    let runner = session.start();
    session.wait_ack("m2", AckStatus::Processing);
    let asked = Instant::now();
    runner.terminate();
    assert_eq!(runner.exit_code(), 0);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(session.ack("m2"), Some(AckStatus::Processing));
    assert_eq!(session.replies().len(), 1);
}

#[test]
fn it_leaves_when_it_was_idle_for_long_enough() {
    let session = Session::new();
    session.configure(|c| c.idle_seconds = 1);
    // A row for another day does not keep it.
    session.insert(&NewMessageIn { process_after: Some(now() + 1.hour()), ..message("later", "x") });
    let started = Instant::now();
    assert_eq!(session.start().exit_code(), 0);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(session.ack("later"), None);
}

#[test]
fn a_message_at_the_moment_of_leaving_is_answered_now_or_by_the_successor() {
    let session = Session::new();
    session.configure(|c| c.idle_seconds = 0);
    let mut left = 0;
    for i in 0..12 {
        let id = format!("m{i}");
        let started = session.log().matches("Runner started").count();
        let runner = session.start();
        if i % 2 == 1 {
            let deadline = Instant::now() + Duration::from_secs(30);
            while session.log().matches("Runner started").count() == started && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        session.say(&id, "hello");
        assert_eq!(runner.exit_code(), 0);
        match session.ack(&id) {
            Some(AckStatus::Completed) => {}
            None => {
                left += 1;
                assert_eq!(session.start().exit_code(), 0);
                assert_eq!(session.ack(&id), Some(AckStatus::Completed));
            }
            other => panic!("{id} is {other:?} and the runner is gone"),
        }
        assert_eq!(session.replies().len(), i + 1, "answered once ({left} by successors)");
    }
}

#[test]
fn what_is_for_a_fresh_container_waits_for_one() {
    let session = Session::new();
    let runner = session.start();
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Completed);
    session.say_on_wake("w1", "good morning");
    session.say("m2", "hello");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.ack("w1"), None);
    runner.terminate();
    assert_eq!(runner.exit_code(), 0);
    let _runner = session.start();
    session.wait_ack("w1", AckStatus::Completed);
}

#[test]
fn a_row_is_taken_when_it_becomes_due() {
    let session = Session::new();
    let _runner = session.start();
    let due = now() + 1_200.milliseconds();
    session.insert(&NewMessageIn { process_after: Some(due), ..message("m1", "hello") });
    session.wait_ack("m1", AckStatus::Completed);
    assert!(now() >= due);
}

#[test]
fn no_handle_on_the_host_s_file_is_kept_between_looks() {
    let session = Session::new();
    let runner = session.start();
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Completed);
    let inbound = session.dir.inbound_db();
    let handles = || {
        let files = fs::read_dir(format!("/proc/{}/fd", runner.pid().as_raw_nonzero())).unwrap();
        files.filter_map(|f| fs::read_link(f.unwrap().path()).ok()).filter(|target| *target == inbound).count()
    };
    session.wait_for("closed file", || (handles() == 0).then_some(()));
    let maps = fs::read_to_string(format!("/proc/{}/maps", runner.pid().as_raw_nonzero())).unwrap();
    assert!(!maps.contains("inbound.db"));
}

#[test]
fn a_journal_left_by_a_dead_host_is_waited_out() {
    let session = Session::new();
    session.say("m1", "hello");
    // A host that died inside a commit: database and journal as they were at that moment.
    let path = session.dir.inbound_db();
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA cache_spill=ON; PRAGMA cache_size=1; BEGIN IMMEDIATE").unwrap();
    for i in 0..20 {
        let sql = "INSERT INTO messages_in (id, seq, kind, timestamp, content) VALUES (?1, ?2, 'chat', 't', ?3)";
        db.execute(sql, rusqlite::params![format!("lost-{i}"), 1_000 + 2 * i, "x".repeat(50_000)]).unwrap();
    }
    let journal = session.dir.root().join("inbound.db-journal");
    let (database, hot) = (fs::read(&path).unwrap(), fs::read(&journal).unwrap());
    drop(db);
    fs::write(&path, database).unwrap();
    fs::write(&journal, hot).unwrap();

    let mut runner = session.start();
    session.wait_for("heartbeat", || session.dir.heartbeat().exists().then_some(()));
    assert_eq!(session.ack("m1"), None);
    assert!(runner.is_alive());
    roll_back_journal(&session.dir).unwrap();
    session.wait_ack("m1", AckStatus::Completed);
    assert!(session.texts()[0].starts_with("Hello!"));
}

#[test]
fn files_of_messages_delivered_long_ago_go_when_a_runner_starts() {
    let session = Session::new();
    let month = jiff::SignedDuration::from_hours(24 * 31);
    let mut inbound = InboundDb::open(&session.dir, Durability::Normal).unwrap();
    for (id, at) in [("old", Some(now() - month)), ("new", Some(now())), ("waiting", None)] {
        fs::create_dir_all(session.dir.outbox(id)).unwrap();
        fs::write(session.dir.outbox(id).join("photo.jpg"), "x").unwrap();
        let outcome = Delivered {
            message_out_id: id.into(),
            platform_message_id: None,
            status: DeliveryStatus::Delivered,
            chat: Default::default(),
        };
        inbound.write(|tx| at.map_or(Ok(()), |at| tx.mark_delivered(&outcome, at))).unwrap();
    }
    drop(inbound);
    let _runner = session.start();
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Completed);
    let left = |id: &str| session.dir.outbox(id).exists();
    assert_eq!(["old", "new", "waiting"].map(left), [false, true, true]);
}
