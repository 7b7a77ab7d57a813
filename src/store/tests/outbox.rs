//! What the host itself has to say.

use super::*;

fn ids(messages: Vec<HostMessage>) -> Vec<String> {
    messages.into_iter().map(|message| message.id).collect()
}

#[test]
fn a_notice_with_a_key_is_said_once_until_the_key_is_released() {
    let home = Home::furnished();
    let store = &home.store;
    let keyed = |id: &str| HostMessage { dedup_key: Some("image-missing".to_owned()), ..notice(id) };
    assert_eq!(store.enqueue_host_message(&keyed("h1")).unwrap(), Inserted::New);
    assert_eq!(store.enqueue_host_message(&keyed("h2")).unwrap(), Inserted::AlreadyThere);
    store.mark_host_delivered("h1", Some("80")).unwrap();
    assert_eq!(store.enqueue_host_message(&keyed("h2")).unwrap(), Inserted::AlreadyThere);
    store.release_dedup_key("image-missing").unwrap();
    assert_eq!(store.enqueue_host_message(&keyed("h2")).unwrap(), Inserted::New);

    assert_eq!(store.enqueue_host_message(&notice("h3")).unwrap(), Inserted::New);
    assert!(matches!(store.enqueue_host_message(&notice("h3")), Err(StoreError::Conflict { .. })));
}

#[test]
fn messages_wait_in_the_order_they_were_added_and_count_their_attempts() {
    let home = Home::furnished();
    let store = &home.store;
    for id in ["z", "y", "x"] {
        store.enqueue_host_message(&notice(id)).unwrap();
    }
    store.retry_host_message("y", noon(), later(10), "busy").unwrap();
    store.retry_host_message("y", later(10), later(30), "the network is down").unwrap();
    assert_eq!(ids(store.pending_host_messages(10).unwrap()), ["z", "y", "x"]);
    assert_eq!(ids(store.pending_host_messages(2).unwrap()), ["z", "y"]);
    let retried = store.find_host_message("y").unwrap().unwrap();
    assert_eq!((retried.attempts, retried.last_error.as_deref()), (2, Some("the network is down")));
    assert_eq!((retried.first_attempt_at, retried.next_attempt_at), (Some(noon()), Some(later(30))));
    let behind = |seq| store.pending_host_messages_after(seq, 2).unwrap();
    let (first, rest) = (behind(0), behind(behind(0)[0].seq));
    assert_eq!([&first[0], &first[1], &rest[0], &rest[1]].map(|m| m.id.as_str()), ["z", "y", "y", "x"]);
}

#[test]
fn a_finished_message_does_not_wait_and_is_pruned() {
    let home = Home::furnished();
    let store = &home.store;
    for id in ["sent", "lost", "waiting"] {
        store.enqueue_host_message(&notice(id)).unwrap();
    }
    store.mark_host_delivered("sent", None).unwrap();
    store.mark_host_failed("lost", "the bot was removed").unwrap();
    assert_eq!(ids(store.pending_host_messages(10).unwrap()), ["waiting"]);
    let lost = store.find_host_message("lost").unwrap().unwrap();
    assert_eq!((lost.status, lost.last_error.as_deref()), (OutboxStatus::Failed, Some("the bot was removed")));
    assert_eq!(store.prune_host_outbox(noon()).unwrap(), 0);
    assert_eq!(store.prune_host_outbox(later(1)).unwrap(), 2);
    assert_eq!(ids(store.pending_host_messages(10).unwrap()), ["waiting"]);
}

#[test]
fn the_last_one_is_not_pruned_so_that_the_next_comes_behind_it() {
    let home = Home::furnished();
    let store = &home.store;
    store.enqueue_host_message(&notice("sent")).unwrap();
    let read_to = store.pending_host_messages_after(0, 1).unwrap()[0].seq;
    store.mark_host_delivered("sent", None).unwrap();
    assert_eq!(store.prune_host_outbox(later(1)).unwrap(), 0);
    store.enqueue_host_message(&notice("next")).unwrap();
    assert_eq!(store.pending_host_messages_after(read_to, 1).unwrap()[0].id, "next");
}
