//! Messages in, answers out, with the demo provider.

use nanoclaw_session::row::{AckStatus, InKind, NewMessageIn};

use crate::session::{Session, chat, destination, message};

#[test]
fn a_message_is_answered_and_the_next_one_continues() {
    let session = Session::new();
    let _runner = session.start();
    for (turn, id) in ["m1", "m2"].into_iter().enumerate() {
        let seq = session.say(id, "what is up?");
        session.wait_ack(id, AckStatus::Completed);
        let replies = session.replies();
        assert_eq!(replies.len(), turn + 1);
        let reply = &replies[turn];
        assert!(reply.seq % 2 == 1 && reply.seq > seq, "{} is odd and above {seq}", reply.seq);
        assert_eq!((reply.in_reply_to.as_deref(), &reply.address), (Some(id), &chat("home")));
        let expected = format!("turn {}. You said: \"what is up?\"", turn + 1);
        assert!(reply.text().contains(&expected), "{}", reply.text());
    }
}

#[test]
fn a_follow_up_is_answered_by_the_running_turn() {
    let session = Session::new();
    let _runner = session.start();
    session.say("m1", "count to 6 slowly");
    session.wait_ack("m1", AckStatus::Processing);
    session.say("m2", "and this");
    session.wait_ack("m2", AckStatus::Processing);
    assert_eq!(session.ack("m1"), Some(AckStatus::Processing), "the first turn still runs");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.ack_with_time("m1"), session.ack_with_time("m2"), "one turn, one transaction");
    let texts = session.texts();
    assert_eq!(texts[0], "1, 2, 3, 4, 5, 6");
    assert!(texts[1].starts_with("Demo provider, turn 1. You said: \"and this\""), "{texts:?}");
}

#[test]
fn stop_ends_a_running_turn_and_the_next_message_is_answered() {
    let session = Session::new();
    let _runner = session.start();
    session.say("m1", "count to 1000 slowly");
    session.wait_ack("m1", AckStatus::Processing);
    session.stop("s1");
    session.wait_ack("s1", AckStatus::Completed);
    assert_eq!(session.ack("m1"), Some(AckStatus::Completed));
    assert_eq!(session.texts(), ["Stopped."]);
    session.stop("s2");
    session.wait_ack("s2", AckStatus::Completed);
    session.say("m2", "hello");
    session.wait_ack("m2", AckStatus::Completed);
    let texts = session.texts();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[1].starts_with("Hello!"));
}

#[test]
fn context_waits_for_a_message_that_wakes_and_goes_with_it() {
    let session = Session::new();
    session.configure(|c| c.idle_seconds = 1);
    session.context("c1", "by the way");
    assert_eq!(session.start().exit_code(), 0);
    assert_eq!(session.ack("c1"), None);
    assert!(session.replies().is_empty());
    session.say("m1", "so?");
    let _runner = session.start();
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.ack("c1"), Some(AckStatus::Completed));
    let texts = session.texts();
    assert!(texts[0].contains("by the way") && texts[1].contains("so?"), "{texts:?}");
}

#[test]
fn a_backlog_is_taken_in_batches_and_answered_whole() {
    let session = Session::new();
    session.configure(|c| c.max_messages_per_prompt = 2);
    let ids: Vec<String> = (0..7).map(|i| format!("m{i}")).collect();
    for id in &ids {
        session.say(id, &format!("text of {id}"));
    }
    let _runner = session.start();
    for id in &ids {
        session.wait_ack(id, AckStatus::Completed);
    }
    let texts = session.texts();
    for id in &ids {
        assert_eq!(texts.iter().filter(|t| t.contains(&format!("\"text of {id}\""))).count(), 1, "{texts:?}");
    }
}

#[test]
fn a_file_lies_in_the_outbox_of_its_message() {
    let session = Session::new();
    let _runner = session.start();
    session.say("m1", "please send me a file");
    session.wait_ack("m1", AckStatus::Completed);
    let replies = session.replies();
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].content["files"], serde_json::json!(["demo.txt"]));
    let file = std::fs::read_to_string(session.dir.outbox(&replies[0].id).join("demo.txt")).unwrap();
    assert!(file.contains("send me a file"), "{file}");
}

#[test]
fn a_reaction_names_the_message_by_its_number() {
    let session = Session::new();
    let _runner = session.start();
    let seq = session.say("m1", "React to that!");
    session.wait_ack("m1", AckStatus::Completed);
    let expected = serde_json::json!({"operation": "reaction", "messageId": seq.to_string(), "emoji": "👍"});
    assert_eq!(session.replies().iter().map(|r| r.content.clone()).collect::<Vec<_>>(), [expected]);
}

#[test]
fn an_answer_goes_where_the_message_came_from() {
    let session = Session::new();
    session.host(|tx| {
        tx.replace_destinations(&[destination("home", "home"), destination("work", "C1")])?;
        tx.set_routing(&chat("home"))
    });
    let thread = |thread: &str, id: &str, chat_id: &str| {
        let mut m = message(id, "x");
        m.address = chat(chat_id);
        m.address.thread_id = Some(thread.into());
        m
    };
    session.insert(&thread("t1", "m1", "home"));
    session.insert(&thread("t2", "m2", "C1"));
    let _runner = session.start();
    session.wait_ack("m2", AckStatus::Completed);
    let mut own = chat("home");
    own.thread_id = Some("t1".into());
    let sent: Vec<_> = session.replies().into_iter().map(|r| (r.address, r.in_reply_to)).collect();
    assert_eq!(sent, [(own, Some("m1".into())), (chat("C1"), Some("m2".into()))]);
}

#[test]
fn text_for_nobody_is_not_sent_and_the_turn_ends_all_the_same() {
    let session = Session::new();
    session.host(|tx| {
        tx.replace_destinations(&[destination("home", "home"), destination("work", "C1")])?;
        let content = r#"{"prompt":"think"}"#.to_owned();
        tx.insert(&NewMessageIn { kind: InKind::Task, content, ..message("t1", "") })
    });
    let _runner = session.start();
    session.wait_ack("t1", AckStatus::Completed);
    assert!(session.replies().is_empty());
}

#[test]
fn a_provider_that_does_not_exist_is_named_to_the_user_for_each_message() {
    let session = Session::new();
    session.configure(|c| c.provider = "mock".into());
    let mut runner = session.start();
    for (i, id) in ["m1", "m2"].into_iter().enumerate() {
        session.say(id, "hello");
        session.wait_ack(id, AckStatus::Failed);
        let reply = session.replies()[i].clone();
        assert!(reply.text().contains("\"mock\"") && reply.text().contains("demo, anthropic"), "{}", reply.text());
        assert_eq!(reply.address, chat("home"));
    }
    assert!(runner.is_alive());
}

#[test]
fn a_session_of_nanoclaw_v2_goes_on() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/nanoclaw-v2/session");
    let session = Session::at(|root| {
        for file in std::fs::read_dir(fixture).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), root.join(file.file_name())).unwrap();
        }
    });
    session.configure(|c| c.provider = "demo".into());
    let before = session.replies();
    assert_eq!(before.last().map(|r| r.seq), Some(13));
    let mut m = message("new", "still there?");
    m.address = chat("chat-0");
    session.insert(&m);
    let _runner = session.start();
    session.wait_ack("new", AckStatus::Completed);
    let after = session.replies();
    assert_eq!(after[..before.len()], before, "history is untouched");
    assert_eq!(after.len(), before.len() + 1, "answered messages are not answered again");
    let reply = &after[before.len()];
    assert!(reply.seq % 2 == 1 && reply.seq > 14, "{}", reply.seq);
    assert_eq!(reply.address, chat("chat-0"));
}
