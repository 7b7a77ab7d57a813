//! The golden table: what came in, who heard it, with which trigger, in which session, why not.
//! [`super::world`] explains the words. Messages apart by ` / ` are batches of their own, those
//! apart by ` & ` are one batch.

use super::world::World;

#[rustfmt::skip]
const TABLE: &[(&str, &str, &str)] = &[
    // Engage modes.
    ("group a:all", "zoe: hi", "a+chat"),
    ("group a:all", "zoe:", "a+chat"),
    ("group a:all", "zoe*:", "a+chat file:1"),
    ("group a:/^hey\\b/", "zoe: hey you", "a+chat"),
    ("group a:/^hey\\b/", "zoe: oh hey", "a?pattern_not_met"),
    ("group a:/^hey\\b/", "zoe@: hi", "a?pattern_not_met"),
    ("group a:/(/", "zoe: hi", "a+chat owner:pattern"),
    ("group a:/(/", "zoe: hi / zoe: again & zoe: more", "a+chat a+chat a+chat owner:pattern"),
    ("group a:mention", "zoe@: hi", "a+chat"),
    ("group a:mention", "zoe: A, are you there", "a?mode_not_met"),
    ("group a:mention", "zoe@#t1: hi / zoe#t1: more", "a+t1 a?mode_not_met"),
    ("dm a:mention", "zoe: hi", "a?mode_not_met"),
    ("group a:sticky", "zoe: hi", "a?mode_not_met"),
    ("group a:sticky", "zoe#t1: hi", "a?mode_not_met"),
    ("group a:sticky", "zoe@: hi / zoe: more", "a+chat a?mode_not_met"),
    ("group a:sticky", "zoe@#t1: hi / zoe#t1: more", "a+t1 a+t1 subscribe:t1"),
    ("group a:sticky", "zoe@#t1: hi & zoe#t1: more & zoe@#t1: again", "a+t1 a+t1 a+t1 subscribe:t1"),
    ("group a:sticky", "zoe@#t1: hi / zoe#t2: more", "a+t1 a?mode_not_met subscribe:t1"),
    ("group a:sticky b:sticky", "zoe@#t1: hi", "a+t1 b+t1 subscribe:t1"),
    ("group a:sticky+one", "zoe@#t1: hi / zoe#t1: more", "a+agent a?mode_not_met"),
    ("dm a:sticky", "zoe@#t1: hi / zoe#t1: more", "a+chat a?mode_not_met"),
    // Fan-out: each wiring alone.
    ("group a:all b:all", "zoe: hi", "a+chat b+chat"),
    ("group a:mention b:all", "zoe: hi", "a?mode_not_met b+chat"),
    ("group a:mention b:/deploy/+keep", "zoe: hi / zoe@: deploy", "a+chat a?mode_not_met b+chat b~chat"),
    ("group a:mention b:/deploy/+keep", "zoe@: hi", "a+chat b~chat"),
    // Context.
    ("group a:mention+keep", "zoe: one / zoe: two / zoe@: three", "a+chat a~chat a~chat"),
    ("group a:mention+keep", "zoe#t1: one", "a~t1"),
    ("group a:mention+keep", "zoe*: look", "a~chat file:1"),
    ("group a:sticky+keep", "zoe#t1: one / zoe#t1: two", "a+t1 a~t1"),
    ("group strict a:mention+keep", "zoe*: secret", "a?mode_not_met"),
    ("group ask a:mention+keep", "zoe: secret", "a?mode_not_met"),
    ("group a:mention+keep+known", "zoe*: secret", "a?mode_not_met"),
    ("group strict a:mention+keep", "aadmin: plan", "a~chat"),
    ("group a:mention+keep", "owner: /clear", "a?mode_not_met"),
    ("group a:mention+keep", "zoe: /help", "a?mode_not_met"),
    // Sessions.
    ("group a:all", "zoe#t1: x / zoe#t2: y / zoe: z", "a+chat a+t1 a+t2"),
    ("group a:all+per", "zoe#t1: x / zoe: y", "a+chat a+t1"),
    ("group a:all+one", "zoe#t1: x / zoe: y", "a+agent a+agent"),
    ("group a:all", "zoe#~t1: x / zoe#~t2: y", "a+chat a+chat"),
    ("group a:all+per", "zoe#~t1: x", "a+chat"),
    ("dm a:all", "zoe#t1: x / zoe#t2: y", "a+chat a+chat"),
    ("dm a:all+per", "zoe#t1: x", "a+chat"),
    ("dm a:all+one", "zoe: x", "a+agent"),
    // Strangers.
    ("group strict a:all", "zoe*: hi", "a?sender_unknown_strict audit:1"),
    ("group strict a:all", "nobody: hi", "a?sender_unknown_strict audit:1"),
    ("group strict a:all", "zoe: hi & zoe: hello", "a?sender_unknown_strict a?sender_unknown_strict audit:2"),
    ("group strict a:mention", "zoe: hi", "a?mode_not_met"),
    ("group ask a:all", "zoe: hi", "a?sender_unknown_request_approval audit:1 owner:stranger(1)"),
    ("group ask a:all", "zoe: hi / zoe: please", "a?sender_unknown_request_approval a?sender_unknown_request_approval audit:2 owner:stranger(1)"),
    ("group ask a:all b:all", "zoe: hi", "a?sender_unknown_request_approval audit:2 b?sender_unknown_request_approval owner:stranger(2)"),
    ("group ask a:all", "nobody: hi", "a?sender_unknown_request_approval audit:1 owner:stranger(0)"),
    ("group ask a:mention", "zoe: hi", "a?mode_not_met"),
    ("group a:all", "nobody: hi", "a+chat"),
    ("group a:all+known", "zoe: hi", "a?scope_known audit:1"),
    ("group a:all+known b:all", "zoe: hi", "a?scope_known audit:1 b+chat"),
    // People: roles and members.
    ("group strict a:all b:all", "owner: hi", "a+chat b+chat"),
    ("group strict a:all b:all", "admin: hi", "a+chat b+chat"),
    ("group strict a:all b:all", "aadmin: hi", "a+chat audit:1 b?sender_unknown_strict"),
    ("group strict a:all b:all", "bmember: hi", "a?sender_unknown_strict audit:1 b+chat"),
    ("group a:all+known b:all+known", "bmember: hi", "a?scope_known audit:1 b+chat"),
    ("group a:all+known", "aadmin: hi", "a+chat"),
    // Commands.
    ("group a:all", "owner: /help", "a?command_filtered"),
    ("group a:all", "zoe: /login now", "a?command_filtered"),
    ("group ask a:all", "zoe: /config", "a?command_filtered"),
    ("group a:all", "zoe: /Remote-Control", "a?command_filtered"),
    ("group a:all", "zoe: /clear", "a?command_denied say:denied"),
    ("group a:all b:all", "zoe: /clear", "a?command_denied b?command_denied say:denied"),
    ("group a:all b:all", "aadmin: /clear", "a+chat b?command_denied"),
    ("group b:all", "bmember: /cost", "b?command_denied say:denied"),
    ("group strict a:all", "zoe: /clear", "a?sender_unknown_strict audit:1"),
    ("group a:mention", "zoe: /clear", "a?mode_not_met"),
    ("group a:all", "owner: /clear", "a+chat"),
    ("group a:all", "zoe: /unknown", "a+chat"),
    ("group a:all", "owner: /stop", "say:nothing-runs"),
    ("group a:all", "owner: hi / owner: /stop@bot", "a!chat a+chat say:nothing-runs"),
    ("group a:all", "owner#t1: hi / owner#t2: /stop / owner#t1: /stop", "a!t1 a+t1 say:nothing-runs say:nothing-runs"),
    ("group a:all", "zoe: hi / zoe: /stop", "a+chat a?command_denied say:denied"),
    ("group a:all", "owner: /status", "say:no-session"),
    ("group a:all b:all", "owner: hi / owner: /status", "a+chat b+chat say:status"),
    ("group a:all", "owner: hi / owner!s: /status / owner!s: /status", "a+chat say:status"),
    ("group a:all", "admin: /tasks", "say:no-tasks"),
    ("group a:all", "aadmin: hi / aadmin: /restart", "a+chat restart say:fresh"),
    // Repeated messages.
    ("group a:all", "zoe!x: hi / zoe!x: hi", "a+chat a?duplicate"),
    ("group a:all", "zoe!x: hi & zoe!x: hi", "a+chat a?duplicate"),
    ("group a:all", "zoe!x: hi / zoe!x: hi, edited", "a+chat a+chat"),
    ("group a:all b:mention", "zoe!x: hi / zoe!x: hi", "a+chat a?duplicate b?mode_not_met b?mode_not_met"),
    // Chats nobody is wired to.
    ("unwired group", "zoe: hi", ""),
    ("unwired group", "zoe#t1*: hi", ""),
    ("unwired group", "zoe@: hi", "?no_wiring audit:1 offered owner:offer"),
    ("unwired group", "zoe@: hi / zoe@: hello / owner@: hey", "?no_wiring ?no_wiring ?no_wiring audit:3 offered owner:offer"),
    ("unwired dm", "zoe*: hi", "?no_wiring audit:1 offered owner:offer"),
    ("unwired dm", "nobody: hi & nobody: hi", "?no_wiring ?no_wiring audit:2 offered owner:offer"),
    ("unwired dm", "zoe: K7QM-2XRT", "?no_wiring audit:1 offered owner:offer"),
    ("group denied a:all", "zoe@: hi", "?chat_denied"),
    ("group denied a:all", "zoe: hi", ""),
    ("dm denied a:all", "owner: /status", "?chat_denied"),
];

#[test]
fn who_hears_what() {
    assert!(TABLE.len() >= 60);
    let mut wrong = Vec::new();
    for (setup, messages, expected) in TABLE {
        let world = World::new(setup);
        let mut n = 0;
        for batch in messages.split(" / ") {
            let batch = batch.split(" & ").map(|words| {
                n += 1;
                world.message(n, words)
            });
            world.send(batch.collect());
        }
        let outcome = world.outcome();
        if outcome != *expected {
            wrong.push(format!("[{setup}] {messages}\n  expected: {expected}\n  outcome:  {outcome}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chatter_in_an_unwired_chat_leaves_no_row() {
    let world = World::new("unwired group");
    let users = world.store.users().unwrap().len();
    world.send(vec![world.message(1, "zoe: hi")]);
    assert_eq!(world.outcome(), "");
    assert_eq!(world.store.users().unwrap().len(), users);
    assert_eq!(world.store.messaging_groups().unwrap(), []);
}

#[test]
fn a_sender_is_on_record_after_the_first_message() {
    let world = World::new("group strict a:all");
    world.send(vec![world.message(1, "zoe: hi")]);
    let zoe = world.store.user("telegram:zoe").unwrap();
    assert_eq!((zoe.kind.as_str(), zoe.display_name.as_deref()), ("telegram", Some("zoe")));
}

#[test]
fn a_stranger_who_is_let_in_is_heard() {
    use crate::store::Member;
    let world = World::new("group ask a:all");
    world.send(vec![world.message(1, "zoe: hi")]);
    let member = Member {
        user_id: "telegram:zoe".into(),
        agent_group_id: "a".into(),
        added_by: None,
        added_at: crate::time::now(),
    };
    world.store.add_member(&member).unwrap();
    world.send(vec![world.message(2, "zoe: hi again")]);
    assert_eq!(world.outcome(), "a+chat a?sender_unknown_request_approval audit:1 owner:stranger(1)");
}

#[test]
fn context_stays_in_the_order_in_which_it_was_said() {
    let world = World::new("group a:mention+keep");
    let batch = ["zoe: one", "zoe: two", "zoe@: three"];
    world.send(batch.iter().enumerate().map(|(n, words)| world.message(n, words)).collect());
    let session = world.store.sessions().unwrap().remove(0);
    let mut rows = world.rows(&session);
    rows.sort_by_key(|row| row.seq);
    let texts: Vec<_> = rows.iter().map(|r| r.content.split('"').nth(3).unwrap()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
}

#[test]
fn the_thread_of_a_chat_without_threads_is_stripped_from_the_row_too() {
    let world = World::new("group a:all");
    world.send(vec![world.message(1, "zoe#~t1: hi")]);
    let session = world.store.sessions().unwrap().remove(0);
    assert_eq!(world.rows(&session)[0].address.thread_id, None);
}

#[test]
fn a_private_chat_with_threads_is_one_session_whose_rows_know_their_thread() {
    let world = World::new("dm a:all");
    world.send(vec![world.message(1, "zoe#t1: hi")]);
    let session = world.store.sessions().unwrap().remove(0);
    assert_eq!(world.rows(&session)[0].address.thread_id.as_deref(), Some("t1"));
}

#[test]
fn a_pairing_code_makes_its_sender_owner_once() {
    use super::super::pairing;
    let world = World::new("unwired dm");
    let now = crate::time::now();
    let stale = pairing::open(&world.store, now).unwrap().code;
    let code = pairing::open(&world.store, now).unwrap().code;
    world.send(vec![world.message(1, &format!("zoe: {stale}"))]);
    assert_eq!(world.store.roles_of_user("telegram:zoe").unwrap(), [], "a later code replaces an earlier one");
    world.send(vec![world.message(2, &format!("zoe: {}", code.to_lowercase()))]);
    assert_eq!(world.store.roles_of_user("telegram:zoe").unwrap().len(), 1);
    world.send(vec![world.message(2, &format!("zoe: {}", code.to_lowercase())), world.message(3, "zoe: /status")]);
    assert_eq!(world.outcome(), "?no_wiring owner:offer say:no-session say:paired");
    world.send(vec![world.message(4, &format!("other: {code}"))]);
    assert_eq!(world.store.roles_of_user("telegram:other").unwrap(), [], "a code is good once");
}

#[test]
fn a_pairing_code_expires_and_is_nothing_in_a_group() {
    use super::super::pairing;
    use jiff::SignedDuration;
    let world = World::new("unwired dm");
    let long_ago = crate::time::now() - SignedDuration::from_mins(11);
    let code = pairing::open(&world.store, long_ago).unwrap().code;
    world.send(vec![world.message(1, &format!("zoe: {code}"))]);
    assert_eq!(world.store.roles_of_user("telegram:zoe").unwrap(), []);
    let world = World::new("unwired group");
    let code = pairing::open(&world.store, crate::time::now()).unwrap().code;
    world.send(vec![world.message(1, &format!("zoe@: {code}"))]);
    assert_eq!(world.store.roles_of_user("telegram:zoe").unwrap(), []);
}

/// A burst shares its commits, and looks each thing up once.
#[test]
fn a_burst_makes_one_wake_per_session_and_loses_nothing() {
    let world = World::new("group a:all b:mention+keep");
    let burst: Vec<_> = (0..300).map(|n| world.message(n, &format!("zoe#t{}: {n}", n % 10))).collect();
    world.send(burst);
    let sessions = world.store.sessions().unwrap();
    assert_eq!(sessions.len(), 20);
    assert!(sessions.iter().all(|session| world.rows(session).len() == 30));
    assert_eq!(world.sweep.try_iter().count(), 10);
}
