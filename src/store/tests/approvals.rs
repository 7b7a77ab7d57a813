//! Questions and approvals: decided once.

use super::*;

#[test]
fn a_question_is_answered_once_and_expires() {
    let home = Home::furnished();
    let store = &home.store;
    store.put_question(&question("q1")).unwrap();
    store.put_question(&Question { expires_at: Some(later(10)), ..question("q2") }).unwrap();
    assert_eq!(store.find_question("q1").unwrap(), Some(question("q1")));
    assert!(store.take_question("q1").unwrap().is_some());
    assert_eq!(store.take_question("q1").unwrap(), None);
    assert_eq!(store.take_expired_questions(later(9)).unwrap(), []);
    assert_eq!(store.take_expired_questions(later(10)).unwrap().len(), 1);
    assert_eq!(store.questions().unwrap(), []);
}

#[test]
fn a_second_click_changes_nothing() {
    let home = Home::furnished();
    let store = &home.store;
    store.create_approval(&approval("a1")).unwrap();
    store.set_approval_card("a1", "77").unwrap();
    let decided = store.decide_approval("a1", Verdict::Reject, "telegram:1", later(5)).unwrap().unwrap();
    assert_eq!(decided.status, ApprovalStatus::Rejected);
    assert_eq!(decided.platform_message_id.as_deref(), Some("77"));
    assert_eq!(store.decide_approval("a1", Verdict::Approve, "telegram:2", later(6)).unwrap(), None);
    assert_eq!(store.find_approval("a1").unwrap(), Some(decided));
    assert_eq!(store.decide_approval("nothing", Verdict::Approve, "telegram:1", noon()).unwrap(), None);
}

#[test]
fn of_two_who_decide_at_once_one_decides() {
    let home = Home::furnished();
    home.store.create_approval(&approval("a1")).unwrap();
    let start = std::sync::Barrier::new(2);
    let decided = std::thread::scope(|scope| {
        let clicks = [Verdict::Approve, Verdict::Reject].map(|verdict| {
            let (start, store) = (&start, home.another());
            scope.spawn(move || {
                start.wait();
                store.decide_approval("a1", verdict, "telegram:1", noon()).unwrap().is_some()
            })
        });
        clicks.map(|click| click.join().unwrap())
    });
    assert_eq!(decided.iter().filter(|decided| **decided).count(), 1);
}

#[test]
fn an_undecided_approval_expires_and_a_decided_one_is_pruned() {
    let home = Home::furnished();
    let store = &home.store;
    store.create_approval(&approval("open")).unwrap();
    store.create_approval(&Approval { expires_at: Some(later(10)), ..approval("late") }).unwrap();
    assert_eq!(store.expire_approvals(later(9)).unwrap(), []);
    let expired = store.expire_approvals(later(10)).unwrap();
    assert_eq!((expired.len(), expired[0].status), (1, ApprovalStatus::Expired));
    assert_eq!(store.decide_approval("late", Verdict::Approve, "telegram:1", later(11)).unwrap(), None);
    assert_eq!(store.expire_approvals(later(12)).unwrap(), []);
    assert_eq!(store.prune_approvals(later(1)).unwrap(), 1);
    assert_eq!(store.approvals().unwrap(), store.pending_approvals().unwrap());
}

#[test]
fn a_stranger_gets_one_card_per_chat_and_one_decision() {
    let home = Home::furnished();
    let store = &home.store;
    assert_eq!(store.request_sender_approval(&sender_approval("p1", "telegram:2")).unwrap(), Inserted::New);
    assert_eq!(store.request_sender_approval(&sender_approval("p2", "telegram:2")).unwrap(), Inserted::AlreadyThere);
    assert_eq!(store.request_sender_approval(&sender_approval("p3", "telegram:3")).unwrap(), Inserted::New);
    store.set_sender_approval_card("p1", "78").unwrap();
    assert_eq!(store.find_sender_approval("p1").unwrap().unwrap().platform_message_id.as_deref(), Some("78"));
    assert!(store.take_sender_approval("p1").unwrap().is_some());
    assert_eq!(store.take_sender_approval("p1").unwrap(), None);
    let late = SenderApproval { expires_at: Some(later(1)), ..sender_approval("p4", "telegram:4") };
    store.request_sender_approval(&late).unwrap();
    assert_eq!(store.take_expired_sender_approvals(later(1)).unwrap(), [late]);
    assert_eq!(store.sender_approvals().unwrap().len(), 1);
}

#[test]
fn a_chat_gets_one_card_and_one_decision() {
    let home = Home::furnished();
    let store = &home.store;
    let request = ChannelApproval { expires_at: Some(later(1)), ..channel_approval() };
    assert_eq!(store.request_channel_approval(&request).unwrap(), Inserted::New);
    assert_eq!(store.request_channel_approval(&request).unwrap(), Inserted::AlreadyThere);
    store.set_channel_approval_card("family", "79").unwrap();
    assert_eq!(store.find_channel_approval("family").unwrap().unwrap().platform_message_id.as_deref(), Some("79"));
    assert_eq!(store.take_expired_channel_approvals(noon()).unwrap(), []);
    assert!(store.take_channel_approval("family").unwrap().is_some());
    assert_eq!(store.take_channel_approval("family").unwrap(), None);
    assert_eq!(store.channel_approvals().unwrap(), []);
}
