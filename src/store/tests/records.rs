//! What is kept for later: cursors, dropped senders, decisions.

use super::*;

#[test]
fn each_account_has_its_own_cursor() {
    let home = Home::empty();
    let store = &home.store;
    store.set_cursor("telegram:991", "17", noon()).unwrap();
    store.set_cursor("telegram:991", "18", later(1)).unwrap();
    assert_eq!(store.cursor("telegram:991").unwrap().as_deref(), Some("18"));
    assert_eq!(store.cursor("telegram:992").unwrap(), None);
}

#[test]
fn dropped_messages_are_counted_per_chat() {
    let home = Home::empty();
    let store = &home.store;
    let eve = DroppedSender { sender_name: Some("Eve".to_owned()), ..dropped("telegram:8") };
    store.record_dropped(&eve).unwrap();
    let again = DroppedSender {
        reason: "unknown_sender".to_owned(),
        first_seen: later(5),
        last_seen: later(5),
        ..dropped("telegram:8")
    };
    store.record_dropped(&again).unwrap();
    store.record_dropped(&DroppedSender { last_seen: later(3), ..dropped("telegram:9") }).unwrap();
    let rows = store.dropped_senders(10).unwrap();
    assert_eq!(rows.len(), 2);
    let counted = &rows[0];
    assert_eq!((counted.message_count, counted.first_seen, counted.last_seen), (2, noon(), later(5)));
    assert_eq!((counted.sender_name.as_deref(), counted.reason.as_str()), (Some("Eve"), "unknown_sender"));
    store.forget_dropped("telegram", "telegram:8").unwrap();
    assert_eq!(store.dropped_senders(10).unwrap().len(), 1);
}

#[test]
fn the_chats_dropped_longest_ago_make_room() {
    let home = Home::empty();
    home.store
        .transaction(|| -> Result<()> {
            for n in 0..MAX_DROPPED_CHATS + 2 {
                home.store
                    .record_dropped(&DroppedSender { last_seen: later(n), ..dropped(&format!("telegram:{n}")) })?;
            }
            Ok(())
        })
        .unwrap();
    let rows = home.store.dropped_senders(5000).unwrap();
    assert_eq!(rows.len() as i64, MAX_DROPPED_CHATS);
    assert_eq!(rows.last().unwrap().platform_id, "telegram:2");
}

#[test]
fn the_newest_thousand_decisions_are_kept() {
    let home = Home::empty();
    for n in 0..(MAX_DECISIONS + 3) / 2 + 1 {
        home.store.record_decisions(&[decision(&format!("m{n}")), decision(&format!("m{n}"))]).unwrap();
    }
    let kept = home.store.decisions(5000).unwrap();
    assert_eq!((kept.len() as i64, kept[0].message_id.as_str()), (MAX_DECISIONS, "m501"));
    assert_eq!(home.store.decisions_about("m0").unwrap(), []);
    assert_eq!(home.store.decisions_about("m1").unwrap(), []);
    assert_eq!(home.store.decisions_about("m2").unwrap().len(), 2);
}
