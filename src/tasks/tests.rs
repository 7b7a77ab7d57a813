//! What the host makes of actions on tasks, and of their ends.

use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::Address;
use serde_json::{Value, json};

use super::*;

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

const NOON: &str = "2026-11-21T12:00:00Z";

struct Desk {
    _folder: tempfile::TempDir,
    db: InboundDb,
    now: Timestamp,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(folder.path());
        dir.prepare().unwrap();
        let mut db = InboundDb::open(&dir, Durability::Normal).unwrap();
        let chat = Address { channel_type: Some("cli".into()), platform_id: Some("local".into()), thread_id: None };
        db.write(|tx| tx.set_routing(&chat)).unwrap();
        Desk { _folder: folder, db, now: at(NOON) }
    }

    fn with(recurrence: &str, missed: &str) -> Desk {
        let mut desk = Desk::new();
        let wish = json!({"taskId": "task-1", "prompt": "water the plants", "recurrence": recurrence,
            "timezone": "Europe/Berlin", "missed": missed});
        desk.asks("schedule_task", wish).unwrap();
        desk
    }

    fn asks(&mut self, name: &str, arguments: Value) -> Result<(), String> {
        let action = Action::parse(name, arguments.as_object().unwrap(), "UTC")?;
        self.db.write(|tx| act(tx, &action, self.now, "UTC")).unwrap()
    }

    fn ends(&mut self, row: &str, status: InStatus) -> Option<TaskRun> {
        self.db.write(|tx| finish(tx, row, status, self.now, "UTC")).unwrap()
    }

    /// The one live occurrence.
    fn live(&self) -> Task {
        let mut tasks = self.db.tasks().unwrap();
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        tasks.pop().unwrap()
    }

    fn wakes_at(&self) -> Option<Timestamp> {
        let rows = self.db.unfinished().unwrap();
        assert!(rows.len() < 2);
        rows.first().and_then(|row| row.process_after)
    }
}

#[test]
fn a_task_is_a_row_of_the_sessions_own_chat() {
    let desk = Desk::with("0 8 * * *", "latest");
    let rows = desk.db.unfinished().unwrap();
    assert_eq!((rows[0].kind, rows[0].process_after), (InKind::Task, Some(at("2026-11-22T07:00:00Z"))));
    assert_eq!(rows[0].address.platform_id.as_deref(), Some("local"));
    let content: Value = serde_json::from_str(&rows[0].content).unwrap();
    let expected = json!({"prompt": "water the plants", "timezone": "Europe/Berlin", "missed": "latest"});
    assert_eq!(content, expected);
}

#[test]
fn each_end_arms_the_next_occurrence_and_only_one() {
    for status in [InStatus::Completed, InStatus::Failed] {
        let mut desk = Desk::with("0 8 * * *", "latest");
        let mut row = "task-1".to_owned();
        for day in 22..26 {
            let due = at(&format!("2026-11-{day}T07:00:00Z"));
            assert_eq!(desk.wakes_at(), Some(due));
            desk.now = due;
            let run = desk.ends(&row, status).unwrap();
            assert_eq!((run.series_id.as_str(), run.planned_at), ("task-1", due));
            let next = desk.live();
            assert_eq!(next.id, "task-1");
            assert_eq!(desk.ends(&row, status), None, "an end that is heard of twice is one");
            assert_eq!(desk.live(), next);
            row = next.row_id;
        }
    }
}

#[test]
fn what_does_not_repeat_ends() {
    let mut desk = Desk::new();
    let once = json!({"taskId": "task-1", "prompt": "p", "processAfter": "2026-11-21T13:00:00Z"});
    desk.asks("schedule_task", once).unwrap();
    assert_eq!(desk.ends("task-1", InStatus::Completed).unwrap().outcome, TaskOutcome::Completed);
    assert_eq!(desk.db.tasks().unwrap(), []);
}

#[test]
fn a_series_of_an_older_host_whose_expression_is_rubbish_ends() {
    let mut desk = Desk::new();
    let chat = NewMessageIn::chat("t1".into(), desk.now, Address::default(), r#"{"prompt":"p"}"#.into());
    let row = NewMessageIn { kind: InKind::Task, recurrence: Some("every day".into()), ..chat };
    desk.db.write(|tx| tx.insert(&row)).unwrap();
    desk.ends("t1", InStatus::Completed);
    assert_eq!(desk.db.tasks().unwrap(), []);
}

#[test]
fn a_paused_series_stays_paused_across_the_end_of_a_run_and_resumes_with_the_next_one() {
    let mut desk = Desk::with("0 8 * * *", "all");
    desk.now = at("2026-11-22T07:00:01Z");
    desk.asks("pause_task", json!({"taskId": "task-1"})).unwrap();
    assert_eq!(desk.wakes_at(), None);
    // It was running when it was paused.
    desk.ends("task-1", InStatus::Completed);
    assert_eq!((desk.live().status, desk.wakes_at()), (InStatus::Paused, None));
    desk.now = at("2026-11-25T12:00:00Z");
    desk.asks("resume_task", json!({"taskId": "task-1"})).unwrap();
    assert_eq!(desk.wakes_at(), Some(at("2026-11-26T07:00:00Z")), "what it missed while paused is not made up for");
}

#[test]
fn an_update_reaches_the_live_occurrence_and_a_new_time_outlives_the_run_that_asks_for_it() {
    let mut desk = Desk::with("0 8 * * *", "latest");
    desk.ends("task-1", InStatus::Completed);
    let live = desk.live().row_id;
    desk.asks("update_task", json!({"taskId": "task-1", "prompt": "feed the cat"})).unwrap();
    assert_eq!((desk.live().row_id, desk.live().content.prompt), (live.clone(), "feed the cat".into()));
    desk.asks("update_task", json!({"taskId": "task-1", "recurrence": "0 20 * * *"})).unwrap();
    assert_eq!(desk.wakes_at(), Some(at("2026-11-21T19:00:00Z")));
    assert_eq!(desk.ends(&live, InStatus::Completed), None);
    assert_eq!(desk.wakes_at(), Some(at("2026-11-21T19:00:00Z")));
    desk.asks("pause_task", json!({"taskId": "task-1"})).unwrap();
    desk.asks("update_task", json!({"taskId": "task-1", "processAfter": "2026-11-23T10:00:00"})).unwrap();
    assert_eq!((desk.live().status, desk.live().due), (InStatus::Paused, Some(at("2026-11-23T10:00:00Z"))));
}

#[test]
fn a_cancelled_series_is_over_also_for_the_run_that_is_still_going_on() {
    let mut desk = Desk::with("0 8 * * *", "latest");
    desk.asks("cancel_task", json!({"taskId": "task-1"})).unwrap();
    assert_eq!(desk.ends("task-1", InStatus::Completed), None);
    assert_eq!(desk.db.tasks().unwrap(), []);
    for name in ["cancel_task", "pause_task", "resume_task"] {
        let why = desk.asks(name, json!({"taskId": "task-1"})).unwrap_err();
        assert!(why.contains("there is no task"), "{why}");
    }
}

#[test]
fn an_agent_cannot_take_over_a_row_that_is_no_task_or_have_a_series_twice() {
    let mut desk = Desk::with("0 8 * * *", "latest");
    let chat = NewMessageIn::chat("m1".into(), desk.now, Address::default(), r#"{"text":"hi"}"#.into());
    desk.db.write(|tx| tx.insert(&chat)).unwrap();
    let before = desk.db.unfinished().unwrap();
    for id in ["m1", "task-1"] {
        assert!(desk.asks("schedule_task", json!({"taskId": id, "prompt": "p", "recurrence": "@daily"})).is_err());
    }
    assert!(desk.asks("cancel_task", json!({"taskId": "m1"})).is_err());
    assert!(desk.asks("update_task", json!({"taskId": "m1", "prompt": "p"})).is_err());
    assert_eq!(desk.db.unfinished().unwrap(), before);
}

#[test]
fn tasks_without_end_are_refused() {
    let mut desk = Desk::new();
    for n in 0..=MAX_TASKS {
        let asked =
            desk.asks("schedule_task", json!({"taskId": format!("t{n}"), "prompt": "p", "recurrence": "@daily"}));
        assert_eq!(asked.is_ok(), n < MAX_TASKS, "{n}");
    }
}

#[test]
fn a_missed_run_that_is_to_be_skipped_is_and_the_next_is_armed() {
    let mut desk = Desk::with("0 8 * * *", "skip");
    desk.now = at("2026-11-22T12:00:00Z");
    let now = desk.now;
    let runs = desk.db.write(|tx| skip_missed(tx, now, "UTC")).unwrap();
    assert_eq!(runs.iter().map(|run| run.outcome).collect::<Vec<_>>(), [TaskOutcome::Skipped]);
    assert_eq!(desk.wakes_at(), Some(at("2026-11-23T07:00:00Z")));
    assert_eq!(desk.db.write(|tx| skip_missed(tx, now, "UTC")).unwrap(), []);
}

#[test]
fn a_task_that_is_run_by_hand_keeps_its_times() {
    for missed in ["latest", "all", "skip"] {
        let mut desk = Desk::with("0 8 * * *", missed);
        let (task, now) = (desk.live(), desk.now);
        desk.db.write(|tx| run_now(tx, &task, now)).unwrap();
        assert_eq!(desk.wakes_at(), Some(now));
        desk.ends("task-1", InStatus::Completed);
        assert_eq!(desk.wakes_at(), Some(at("2026-11-22T07:00:00Z")), "{missed}");
    }
}
