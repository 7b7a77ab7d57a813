//! What an agent sends with tools, from the model's call to the rows and files the host finds.

use std::fs;
use std::os::unix::fs::symlink;

use nanoclaw_session::row::AckStatus;
use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Script};
use crate::session::{Runner, Session, chat, destination};

fn session() -> (Session, MessagesApi) {
    let session = Session::new();
    session.configure(|c| c.provider = "anthropic".into());
    let api = MessagesApi::on_socket(&session.path("gateway.sock"));
    (session, api)
}

fn start(session: &Session, api: &MessagesApi) -> Runner {
    session.start_with(&[("NANOCLAW_GATEWAY", api.address()), ("NANOCLAW_GATEWAY_TOKEN", "token-1")])
}

/// What the model is told of the calls of its last answer: whether they failed, and the words.
fn results(api: &MessagesApi) -> Vec<(bool, String)> {
    let body = api.request().body;
    let blocks = body["messages"].as_array().unwrap().last().unwrap()["content"].as_array().unwrap().clone();
    let said = |block: &Value| block["content"].as_array().unwrap().iter().filter_map(|b| b["text"].as_str()).collect();
    blocks.iter().map(|block| (block["is_error"] == true, said(block))).collect()
}

#[test]
fn what_is_sent_has_a_number_and_can_be_changed_and_marked_by_it() {
    let (session, api) = session();
    session.host(|tx| tx.replace_destinations(&[destination("home", "home"), destination("work", "work")]));
    let _runner = start(&session, &api);
    api.script(Script::calls(&[("send_message", json!({"to": "work", "text": "helo"}))]));
    api.script(Script::calls(&[
        ("edit_message", json!({"messageId": "#3", "text": "hello"})),
        ("add_reaction", json!({"messageId": "2", "emoji": "👍"})),
        ("edit_message", json!({"messageId": "2", "text": "not mine"})),
        ("edit_message", json!({"messageId": "41", "text": "nobody's"})),
        ("send_card", json!({"title": "Tonight"})),
    ]));
    api.script(Script::Say("<internal>done</internal>".into()));
    assert_eq!(session.say("m1", "write to work"), 2);
    api.request();
    assert_eq!(results(&api), [(false, "Sent; it is your message #3.".into())]);
    let told = results(&api);
    assert_eq!(
        told.iter().map(|(failed, _)| *failed).collect::<Vec<_>>(),
        [false, false, true, true, false],
        "{told:?}"
    );
    session.wait_ack("m1", AckStatus::Completed);
    let rows: Vec<_> = session.replies().into_iter().map(|row| (row.seq, row.address, row.content)).collect();
    let card = json!({"type": "card", "card": {"title": "Tonight"}, "fallbackText": "Tonight"});
    assert_eq!(
        rows,
        [
            (3, chat("work"), json!({"text": "helo"})),
            (5, chat("work"), json!({"operation": "edit", "messageId": "3", "text": "hello"})),
            (7, chat("home"), json!({"operation": "reaction", "messageId": "2", "emoji": "👍"})),
            (9, chat("home"), card),
        ]
    );
}

#[test]
fn files_are_copied_into_the_outbox_under_safe_names() {
    let (session, api) = session();
    let home = session.dir.root().join("agent");
    fs::write(home.join("plan.txt"), "the plan").unwrap();
    symlink("/etc/passwd", home.join("innocent.txt")).unwrap();
    let _runner = start(&session, &api);
    api.script(Script::calls(&[
        ("send_file", json!({"path": "plan.txt", "text": "look", "filename": "../../../outbound.db"})),
        ("send_file", json!({"path": "innocent.txt"})),
        ("send_file", json!({"path": "/dev/zero"})),
        ("send_file", json!({"path": "."})),
    ]));
    api.script(Script::Say("<internal>done</internal>".into()));
    session.say("m1", "send it");
    api.request();
    let told = results(&api);
    assert_eq!(told.iter().map(|(failed, _)| *failed).collect::<Vec<_>>(), [false, false, true, true], "{told:?}");
    let rows = session.replies();
    assert_eq!(rows[0].content, json!({"text": "look", "files": ["outbound.db"]}));
    assert_eq!(fs::read_to_string(session.dir.outbox(&rows[0].id).join("outbound.db")).unwrap(), "the plan");
    // The link was the agent's way to name what it may read; what goes out is a file.
    let copy = session.dir.outbox(&rows[1].id).join("innocent.txt");
    assert!(fs::symlink_metadata(&copy).unwrap().is_file());
    assert_eq!(fs::read(copy).unwrap(), fs::read("/etc/passwd").unwrap());
    assert_eq!(fs::read_dir(session.dir.out().join("outbox")).unwrap().count(), 2, "what was refused leaves nothing");
    session.wait_ack("m1", AckStatus::Completed);
}

#[test]
fn a_text_that_a_tool_has_sent_is_not_sent_again_at_the_end() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::calls(&[("send_message", json!({"text": "It is 5."}))]));
    api.script(Script::Say("<message to=\"home\">It is 5.</message>".into()));
    session.say("m1", "what time is it?");
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["It is 5."]);
}

#[test]
fn the_demo_s_phrases_call_the_tools() {
    let session = Session::new();
    let _runner = session.start();
    for (id, phrase) in
        [("m1", "send me a file"), ("m2", "react to that"), ("m3", "edit that"), ("m4", "show me a card")]
    {
        session.say(id, phrase);
        session.wait_ack(id, AckStatus::Completed);
    }
    let rows = session.replies();
    assert_eq!(rows[0].content, json!({"text": "Here is the file you asked for.", "files": ["demo.txt"]}));
    let file = fs::read_to_string(session.dir.outbox(&rows[0].id).join("demo.txt")).unwrap();
    assert_eq!(file, "A file from the demo provider, turn 1.\nYou said: send me a file\n");
    assert_eq!(rows[1].content, json!({"operation": "reaction", "messageId": "4", "emoji": "👍"}));
    assert_eq!(rows[3].content["operation"], "edit");
    assert_eq!(rows[3].content["messageId"], rows[2].seq.to_string());
    assert!(rows[4].content["fallbackText"].as_str().unwrap().contains("You said: show me a card"), "{:?}", rows[4]);
    assert_eq!(rows.len(), 5);
}
