//! The actor over a real store, with an engine that is a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crossbeam_channel::unbounded;
use nanoclaw_session::row::{InKind, Trigger};
use serde_json::json;

use super::*;
use crate::store::{AgentGroup, ContainerRun, HostMessage, Question};
use crate::watch::watcher;

struct World {
    _folder: tempfile::TempDir,
    actor: Actor,
    events: Receiver<Event>,
    _delivery: Receiver<delivery::Event>,
}

impl World {
    /// Room for one container. `docker` is the body of a shell script.
    fn new(docker: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker");
        fs::write(&program, format!("#!/bin/sh\n{docker}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let home = Arc::new(Home::locate(Some(&folder.path().join("home"))).unwrap());
        home.create().unwrap();
        let mut settings = Settings::load(&home).unwrap();
        settings.containers.max_concurrent = 1;
        settings.containers.memory_reserve = 0;
        let (delivery, kept) = unbounded();
        let (me, events) = unbounded();
        let (watcher, _body) = watcher(delivery.clone(), me.clone()).unwrap();
        let store = Store::open(&home.store(), crate::time::now()).unwrap();
        let long_ago = crate::time::now() - prune::KEPT * 2;
        store.enqueue_host_message(&HostMessage::new("old", "cli", "local", "".into(), long_ago)).unwrap();
        store.mark_host_delivered("old", None).unwrap();
        store.enqueue_host_message(&HostMessage::new("new", "cli", "local", "".into(), long_ago)).unwrap();
        let parts = Sweep {
            store,
            home,
            settings: Arc::new(settings),
            docker: Docker::new(program.to_str().unwrap()),
            leftovers: Leftovers::Recorded,
            watcher,
            clock: Clock::new(None, Now::read(), Duration::MAX, || true),
            delivery,
            me,
        };
        let mut actor = Actor::new(parts, Instant::now());
        actor.step(None);
        assert!(actor.reconciled);
        World { _folder: folder, actor, events, _delivery: kept }
    }

    /// A session without anything to do.
    fn session(&self, id: &str) {
        let (store, now) = (&self.actor.parts.store, crate::time::now());
        let group =
            AgentGroup { id: id.into(), name: id.into(), folder: id.into(), agent_provider: None, created_at: now };
        store.create_agent_group(&group).unwrap();
        store.ensure_session(&Session::new(id, id, None, None, now)).unwrap();
        self.actor.parts.home.session(id, id).prepare().unwrap();
    }

    fn runs(&mut self, id: &str) {
        let (now, run) = (Now::read(), run(id));
        self.actor.slot(id).phase = Phase::Running {
            run,
            proof: Proof::Pidfd,
            since: now.instant,
            last_wake: now.instant,
            progress: Progress::new(now, None),
        };
    }

    fn is_being_stopped(&mut self, id: &str) -> bool {
        matches!(&self.actor.slot(id).phase, Phase::Running { run, .. } if run.ended_by_us.is_some())
    }
}

fn run(id: &str) -> Run {
    Run { id: format!("run-{id}"), container_name: format!("container-{id}"), ended_by_us: None }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_eviction_that_fails_is_not_tried_again_at_once() {
    let mut w = World::new("exit 1");
    w.session("idle");
    w.session("waits");
    w.runs("idle");
    w.actor.enqueue("waits", StartReason::Message);
    w.actor.step(None);
    assert!(w.is_being_stopped("idle"));
    let failed = w.events.recv_timeout(SOON).unwrap();
    assert!(matches!(failed, Event::NotStopped { .. }), "{failed:?}");
    w.actor.step(Some(failed));
    assert!(!w.is_being_stopped("idle"), "an engine that does not answer would be asked in a loop");
}

#[test]
fn a_container_that_is_being_stopped_is_not_stopped_again() {
    let mut w = World::new("exit 0");
    w.session("s");
    w.actor.slot("s").phase = Phase::Starting(run("s"));
    // While it starts, it is noted; once it runs, it is done.
    w.actor.step(Some(Event::Locked { session_id: "s".into() }));
    let started = Started { container_id: None, life: Life::AskEngine };
    w.actor.step(Some(Event::Started { run_id: "run-s".into(), result: Ok(started) }));
    assert!(w.is_being_stopped("s"));
    w.actor.step(Some(Event::Restart { session_id: "s".into() }));
    let Phase::Running { run, .. } = &w.actor.slot("s").phase else { panic!("it runs") };
    assert_eq!(run.ended_by_us, Some(EndReason::Stuck), "the second word starts no second `docker stop`");
}

#[test]
fn one_whose_container_is_gone_takes_no_place_however_long_its_books_are_open() {
    let mut w = World::new("exit 1");
    w.session("idle");
    w.session("closing");
    w.session("waits");
    w.runs("idle");
    w.actor.slot("closing").phase = Phase::Ending { run: run("closing"), exit: Some(Exit::UNKNOWN), claims: None };
    w.actor.enqueue("waits", StartReason::Message);
    w.actor.step(None);
    assert!(w.is_being_stopped("idle"), "it makes room");
    w.actor.slots.remove("idle");
    w.actor.step(None);
    assert!(matches!(w.actor.slot("waits").phase, Phase::Starting(_)), "{:?}", w.actor.slot("waits").phase);
}

#[test]
fn a_session_that_was_deleted_while_it_waited_is_forgotten() {
    let mut w = World::new("exit 1");
    w.actor.step(Some(Event::Wake { session_id: "deleted".into(), reason: StartReason::Message }));
    assert!(w.actor.queue.is_empty() && w.actor.slots.is_empty(), "{:?}", w.actor.queue);
}

#[test]
fn a_leftover_that_cannot_be_removed_holds_up_nobody_once_it_is_dead() {
    for (status, holds_up) in [("exited", false), ("running", true)] {
        let w = World::new(&format!(
            r#"case "$1" in
                ps) echo 4f1d ;;
                inspect) echo '[{{"Id":"4f1d","Name":"/x","State":{{"Status":"{status}","Pid":1}},"Config":{{"Labels":null}}}}]' ;;
                *) echo busy >&2; exit 1 ;;
            esac"#
        ));
        let found = adopt::known_containers(&w.actor.parts.docker, "install", &HashSet::new());
        assert_eq!(found.is_err(), holds_up, "{status}: {found:?}");
    }
}

#[test]
fn one_that_was_stuck_before_it_took_anything_is_no_loop() {
    let mut w = World::new("exit 1");
    w.session("s");
    for _ in 0..2 {
        let stuck = Run { ended_by_us: Some(EndReason::Stuck), ..run("s") };
        w.actor.slot("s").phase = Phase::Ending { run: stuck, exit: Some(Exit::UNKNOWN), claims: None };
        // The run is not in the store: the session is looked at again later, which is all the same here.
        w.actor.step(Some(Event::Drained { run_id: "run-s".into(), claims: Vec::new() }));
    }
    assert!(w.actor.slot("s").not_before.is_some());
}

#[test]
fn a_host_that_never_runs_for_long_forgets_old_things_too() {
    let w = World::new("exit 1");
    assert_eq!(w.actor.parts.store.find_host_message("old").unwrap(), None);
}

#[test]
fn a_question_nobody_answered_in_time_is_answered_with_that_once() {
    let mut w = World::new("exit 1");
    w.session("s");
    let now = crate::time::now();
    let question = |id: &str, expires_at| Question {
        question_id: id.into(),
        session_id: "s".into(),
        message_out_id: "out".into(),
        platform_id: Some("local".into()),
        channel_type: Some("cli".into()),
        thread_id: None,
        title: "Water them?".into(),
        options_json: json!([]),
        created_at: now,
        expires_at,
    };
    let store = &w.actor.parts.store;
    store.put_question(&question("late", Some(now))).unwrap();
    store.put_question(&question("open", Some(now + Duration::from_secs(3_600)))).unwrap();
    store.put_question(&question("forever", None)).unwrap();
    for _ in 0..2 {
        w.actor.next_safety_pass = Instant::now();
        w.actor.step(None);
    }
    let rows = w.actor.unfinished("s").unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].kind, rows[0].trigger), (InKind::System, Trigger::Context), "it wakes nobody");
    assert_eq!(
        rows[0].content,
        r#"{"questionId":"late","status":"expired","title":"Water them?","type":"question_response"}"#
    );
    let left = |id: &str| w.actor.parts.store.take_question(id).unwrap().is_some();
    assert_eq!(["late", "open", "forever"].map(left), [false, true, true]);
    let shown = w.actor.parts.store.pending_host_messages(10).unwrap();
    let shown = shown.iter().filter(|m| m.content["text"] == "Water them?: nobody answered in time");
    assert_eq!(shown.count(), 1, "its message says so");
}

#[test]
fn a_session_that_cannot_be_looked_at_is_looked_at_ever_later() {
    let mut w = World::new("exit 1");
    w.session("broken");
    w.actor.step(None);
    let file = w.actor.parts.home.session("broken", "broken").inbound_db();
    fs::write(&file, "this is no database, and it is long enough to be none: ".repeat(20)).unwrap();
    let wait = |w: &mut World| {
        w.actor.parts.store.set_due("broken", Some(w.actor.wall)).unwrap();
        w.actor.next_due = Some(w.actor.wall);
        w.actor.step(None);
        let due = w.actor.parts.store.find_due("broken").unwrap().unwrap();
        (due.next_due_at.duration_since(w.actor.wall).as_secs_f64()).round()
    };
    let waits: Vec<f64> = (0..7).map(|_| wait(&mut w)).collect();
    assert_eq!(waits, [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    fs::remove_file(&file).unwrap();
    w.actor.look("broken").unwrap();
    fs::write(&file, "broken again, and it is long enough to be no database: ".repeat(20)).unwrap();
    assert_eq!(wait(&mut w), 2.0, "that is another fault");
}

#[test]
fn a_session_whose_container_could_not_be_taken_over_gets_no_second_one() {
    // The engine knows of one container, which runs.
    let mut w = World::new(
        r#"case "$1" in
            ps) echo 4f1d ;;
            inspect) echo '[{"Id":"4f1d","Name":"/container-s","State":{"Status":"running","Pid":1},"Config":{"Labels":null}}]' ;;
            *) echo "$@" >>"$0.calls"; exit 1 ;;
        esac"#,
    );
    w.session("s");
    let now = crate::time::now();
    let left = ContainerRun {
        id: "run-s".into(),
        session_id: "s".into(),
        container_name: "container-s".into(),
        container_id: Some("4f1d".into()),
        image: "image".into(),
        started_at: now,
        start_reason: StartReason::Message,
        ended_at: None,
        end_reason: None,
        exit_code: None,
        oom: false,
    };
    w.actor.parts.store.begin_container_run(&left).unwrap();
    let path = w.actor.parts.home.store();
    let status = |word: &str| {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!("PRAGMA ignore_check_constraints=1; UPDATE sessions SET status='{word}'")).unwrap();
    };
    let find = |w: &mut World| {
        w.actor.find_again = Some(Instant::now());
        w.actor.step(None);
        assert!(!w.actor.reconciled, "what starts meanwhile would be taken for a leftover");
        let found = w.events.recv_timeout(SOON).unwrap();
        w.actor.step(Some(found));
    };
    status("unheard-of");
    find(&mut w);
    assert!(w.actor.reconciled, "the other sessions go on");
    status("active");
    w.actor.step(Some(Event::Wake { session_id: "s".into(), reason: StartReason::Message }));
    assert!(matches!(w.actor.slot("s").phase, Phase::Unknown), "{:?}", w.actor.slot("s").phase);
    assert!(w.actor.find_again.is_some(), "it is tried again");
    find(&mut w);
    let started = w.events.recv_timeout(SOON).unwrap();
    w.actor.step(Some(started));
    let Phase::Running { run, .. } = &w.actor.slot("s").phase else { panic!("it was not adopted") };
    assert_eq!(run.id, "run-s");
}
