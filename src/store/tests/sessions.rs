//! Sessions, their containers and when they are due.

use super::*;

#[test]
fn a_conversation_has_one_active_session() {
    let home = Home::furnished();
    let store = &home.store;
    let ensure = |id: &str, chat: Option<&str>, thread: Option<&str>| {
        store.ensure_session(&Session::new(id, "main", chat, thread, noon())).unwrap()
    };
    assert!(matches!(ensure("x", Some("family"), None), Ensured::Existing(session) if session.id == "s1"));
    assert!(matches!(ensure("s2", Some("family"), Some("t")), Ensured::Created(_)));
    assert!(matches!(ensure("x", Some("family"), Some("t")), Ensured::Existing(session) if session.id == "s2"));
    assert!(matches!(ensure("s3", None, None), Ensured::Created(_)));
    assert!(matches!(ensure("x", None, None), Ensured::Existing(session) if session.id == "s3"));

    store.set_session_status("s1", SessionStatus::Closed).unwrap();
    assert!(matches!(ensure("s4", Some("family"), None), Ensured::Created(_)));
    let ids = |sessions: Vec<Session>| sessions.into_iter().map(|session| session.id).collect::<Vec<_>>();
    assert_eq!(ids(store.active_sessions().unwrap()), ["s2", "s3", "s4"]);
    assert_eq!(ids(store.active_sessions_of("main").unwrap()), ["s2", "s3", "s4"]);
    assert_eq!(ids(store.sessions().unwrap()), ["s1", "s2", "s3", "s4"]);
}

#[test]
fn stores_that_meet_one_conversation_together_make_one_session() {
    let home = Home::furnished();
    let start = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (start, store) = (&start, home.another());
            scope.spawn(move || {
                start.wait();
                for thread in 0..25 {
                    let (id, thread) = (format!("{n}-{thread}"), format!("t{thread}"));
                    store.ensure_session(&Session::new(&id, "main", Some("family"), Some(&thread), noon())).unwrap();
                }
            });
        }
    });
    assert_eq!(home.store.active_sessions().unwrap().len(), 26);
}

#[test]
fn a_session_remembers_activity_container_and_provider() {
    let home = Home::furnished();
    let store = &home.store;
    store.touch_session("s1", later(9)).unwrap();
    store.set_container_status("s1", ContainerStatus::Idle).unwrap();
    store.set_session_provider("s1", Some("claude")).unwrap();
    let session = store.session("s1").unwrap();
    assert_eq!(session.last_active, Some(later(9)));
    assert_eq!(session.container_status, ContainerStatus::Idle);
    assert_eq!(session.agent_provider.as_deref(), Some("claude"));
    assert!(matches!(store.touch_session("nobody", noon()), Err(StoreError::NotFound { noun: "session", .. })));
}

#[test]
fn a_run_is_open_until_its_end_is_recorded_once_and_takes_its_token_along() {
    let home = Home::furnished();
    let store = &home.store;
    let begun = run("r1");
    store.begin_container_run(&begun).unwrap();
    store.create_gateway_token(&token("secret", &begun)).unwrap();
    let twin = ContainerRun { container_name: begun.container_name.clone(), ..run("r2") };
    assert!(matches!(store.begin_container_run(&twin), Err(StoreError::Conflict { .. })));
    store.set_run_container_id("r1", "4f5e").unwrap();
    assert_eq!(store.open_container_runs().unwrap()[0].container_id.as_deref(), Some("4f5e"));
    assert_eq!(store.find_gateway_token("secret").unwrap().unwrap().session_id, "s1");

    let end = RunEnd { at: later(60), reason: EndReason::Oom, exit_code: Some(137), oom: true };
    store.end_container_run("r1", &end).unwrap();
    store
        .end_container_run("r1", &RunEnd { at: later(99), reason: EndReason::Vanished, exit_code: None, oom: false })
        .unwrap();
    let ended = store.container_runs_of("s1", 1).unwrap().pop().unwrap();
    assert_eq!(
        (ended.ended_at, ended.end_reason, ended.exit_code, ended.oom),
        (Some(later(60)), Some(EndReason::Oom), Some(137), true)
    );
    assert_eq!(store.open_container_runs().unwrap(), []);
    assert_eq!(store.find_gateway_token("secret").unwrap(), None);
}

#[test]
fn only_the_newest_ended_runs_of_a_session_are_kept() {
    let home = Home::furnished();
    let store = &home.store;
    store.begin_container_run(&run("open")).unwrap();
    for n in 0..MAX_RUNS_PER_SESSION + 5 {
        let id = format!("r{n}");
        store.begin_container_run(&run(&id)).unwrap();
        store
            .end_container_run(&id, &RunEnd { at: noon(), reason: EndReason::Exited, exit_code: Some(0), oom: false })
            .unwrap();
    }
    let kept = store.container_runs_of("s1", 1000).unwrap();
    assert_eq!(kept.len() as i64, MAX_RUNS_PER_SESSION + 1);
    assert_eq!(kept[0].id, format!("r{}", MAX_RUNS_PER_SESSION + 4));
    assert_eq!(kept.last().unwrap().id, "open", "an open run is never dropped");
}

#[test]
fn due_sessions_come_by_time_and_not_by_the_spelling_of_it() {
    let home = Home::furnished();
    let store = &home.store;
    for (id, thread) in [("s2", "a"), ("s3", "b")] {
        store.ensure_session(&Session::new(id, "main", Some("family"), Some(thread), noon())).unwrap();
    }
    store.set_due("s1", Some(later(10))).unwrap();
    store.set_due("s2", Some(later(60))).unwrap();
    // As text, a space sorts before every `T` of that day.
    store.execute("INSERT INTO due VALUES ('s3', '2026-04-16 12:00:05')", &[]).unwrap();
    let ids = |now| store.due_sessions(now, 10).unwrap().into_iter().map(|due| due.session_id).collect::<Vec<_>>();
    assert_eq!(ids(later(4)), Vec::<String>::new());
    assert_eq!(ids(later(10)), ["s3", "s1"]);
    assert_eq!(store.due_sessions(later(99), 2).unwrap().len(), 2);
    assert_eq!(store.next_due().unwrap().unwrap().next_due_at, later(5));

    store.set_due("s3", None).unwrap();
    store.set_due("s1", Some(later(90))).unwrap();
    assert_eq!(store.next_due().unwrap().unwrap().session_id, "s2");
    assert_eq!(store.find_due("s3").unwrap(), None);
}
