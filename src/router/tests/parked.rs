//! A session whose file cannot be written holds up nobody, and loses nothing.

use super::world::World;
use crate::sweep;
use nanoclaw_session::inbound::{Durability, InboundDb};

fn texts(w: &World, session: &str, agent: &str) -> Vec<String> {
    let dir = w.home.session(agent, session);
    let rows = InboundDb::open(&dir, Durability::Normal).unwrap().unfinished().unwrap();
    let text = |content: &str| {
        serde_json::from_str::<serde_json::Value>(content).unwrap()["text"].as_str().unwrap().to_owned()
    };
    rows.iter().map(|row| text(&row.content)).collect()
}

#[test]
fn messages_for_a_locked_session_are_accepted_at_once_and_written_in_order_when_it_is_free() {
    let w = World::new("group a:all b:all");
    w.send(vec![w.message(1, "zoe: one")]);
    let session_of = |agent: &str| w.store.active_sessions_of(agent).unwrap().remove(0).id;
    let (a, b) = (session_of("a"), session_of("b"));
    w.sweep.try_iter().for_each(drop);
    let mut lock = InboundDb::open(&w.home.session("a", &a), Durability::Normal).unwrap();
    lock.write(|_| {
        w.send(vec![w.message(2, "zoe: two")]);
        w.send(vec![w.message(3, "zoe: three")]);
        assert_eq!(texts(&w, &b, "b"), ["one", "two", "three"], "the other agent hears at once");
        Ok(())
    })
    .unwrap();
    let woken = w.sweep.iter().find(|e| matches!(e, sweep::Event::Wake { session_id, .. } if *session_id == a));
    assert!(woken.is_some());
    assert_eq!(texts(&w, &a, "a"), ["one", "two", "three"]);
    assert_eq!(w.store.parked(&a).unwrap().len(), 0);
}

#[test]
fn messages_for_a_broken_file_wait_for_it_over_a_restart_and_the_owner_is_told_once() {
    let mut w = World::new("group a:all");
    w.send(vec![w.message(1, "zoe: one")]);
    let a = w.store.active_sessions().unwrap().remove(0).id;
    let file = w.home.session("a", &a).inbound_db();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "no database ".repeat(1_000)).unwrap();
    w.send(vec![w.message(2, "zoe: two")]);
    assert_eq!(w.store.parked(&a).unwrap().len(), 1);
    let told = || {
        let all = w.store.pending_host_messages(10).unwrap();
        all.iter().filter(|m| m.content.to_string().contains("cannot be written")).count()
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while told() == 0 {
        assert!(std::time::Instant::now() < until, "the owner was not told");
        std::thread::yield_now();
    }
    assert_eq!(told(), 1);
    w.restart();
    // In one step: an empty file is a database, too.
    let restored = file.with_extension("whole");
    std::fs::write(&restored, whole).unwrap();
    std::fs::rename(&restored, &file).unwrap();
    let woken = w.sweep.iter().find(|e| matches!(e, sweep::Event::Wake { session_id, .. } if *session_id == a));
    assert!(woken.is_some());
    assert_eq!(texts(&w, &a, "a"), ["one", "two"]);
}
