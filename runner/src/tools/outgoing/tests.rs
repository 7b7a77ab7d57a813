//! Each tool, with a stand-in for the agent loop that numbers what is sent.

use std::os::unix::fs::symlink;
use std::thread;

use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::{Durability, InboundDb, Intake};
use nanoclaw_session::outbound::OutboundDb;
use nanoclaw_session::row::{NewMessageIn, NewMessageOut};
use serde_json::Value;

use super::*;
use crate::destinations::Destinations;
use crate::destinations::tests::{agent, channel, chat, one, three};
use crate::provider::{Outgoing, TurnEvent};
use crate::stop::{self, Stopper};
use crate::tools::{Outcome, Part, Spec};

/// An agent's session, with a stand-in for the agent loop that numbers and keeps what is sent.
struct Desk {
    tmp: tempfile::TempDir,
    dir: SessionDir,
    outbound: OutboundDb,
    destinations: Arc<Destinations>,
    _stopper: Stopper,
    stop: Stop,
}

fn desk(destinations: Destinations) -> Desk {
    let tmp = tempfile::tempdir().unwrap();
    let dir = SessionDir::new(tmp.path().join("session"));
    dir.prepare().unwrap();
    ContainerConfig::default().store(&dir).unwrap();
    InboundDb::open(&dir, Durability::Normal).unwrap();
    let outbound = OutboundDb::open(&dir).unwrap();
    let (stopper, stop) = stop::pair();
    Desk { tmp, dir, outbound, destinations: Arc::new(destinations), _stopper: stopper, stop }
}

impl Desk {
    /// What a call comes to, and what was sent.
    fn call(&mut self, name: &str, input: &Value) -> (Outcome, String, Option<Outgoing>) {
        let (events, heard) = crossbeam_channel::bounded(0);
        let context = Context { stop: self.stop.clone(), events, destinations: self.destinations.clone() };
        let tool = tools(&self.dir).into_iter().find(|tool| tool.spec().name == name).unwrap();
        thread::scope(|scope| {
            let call = scope.spawn(move || tool.call(input, &context));
            let mut sent = None;
            for event in heard {
                let TurnEvent::SendNumbered(outgoing, number) = event else { panic!("{event:?}") };
                let address =
                    self.destinations.address(outgoing.to.as_deref().and_then(|to| self.destinations.by_name(to)));
                number.send(self.keep(&outgoing.id, address, &outgoing.message)).unwrap();
                sent = Some(outgoing);
            }
            let output = call.join().unwrap();
            let Part::Text(words) = &output.parts[0] else { panic!("{output:?}") };
            (output.outcome, words.clone(), sent)
        })
    }

    #[track_caller]
    fn sends(&mut self, name: &str, input: Value) -> (Outgoing, String) {
        match self.call(name, &input) {
            (Outcome::Done, words, Some(outgoing)) => (outgoing, words),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refuses(&mut self, name: &str, input: Value) -> String {
        match self.call(name, &input) {
            (Outcome::Failed, words, None) => words,
            other => panic!("{other:?}"),
        }
    }

    fn keep(&mut self, id: &str, address: Address, message: &Outbound) -> i64 {
        let (kind, content) = message.to_row();
        let row = NewMessageOut { id: id.into(), in_reply_to: None, deliver_after: None, kind, address, content };
        self.outbound.write(|tx| tx.insert(&row, 0, time::now())).unwrap()
    }

    fn receives(&self, kind: InKind, address: Address) -> i64 {
        let content = ChatIn { text: "hi".into(), ..ChatIn::default() }.to_json();
        let row = NewMessageIn { kind, ..NewMessageIn::chat(id::random(), time::now(), address, content) };
        let mut inbound = InboundDb::open(&self.dir, Durability::Normal).unwrap();
        match inbound.write(|tx| tx.insert(&row)).unwrap() {
            Intake::Stored { seq, .. } => seq,
            Intake::Absorbed { id } => panic!("{id}"),
        }
    }

    fn outbox(&self) -> usize {
        fs::read_dir(self.dir.out().join("outbox")).unwrap().count()
    }
}

fn text(text: &str) -> Outbound {
    Outbound::Text { text: text.into(), files: vec![] }
}

#[test]
fn every_schema_is_what_its_handler_takes() {
    let mut desk = desk(three());
    for tool in tools(&desk.dir) {
        let Spec { name, schema, .. } = tool.spec();
        let properties: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(schema["additionalProperties"], false);
        let words = desk.refuses(&name, json!({"no_such": 1}));
        // A handler lists what it knows when it meets another name.
        let mut known: Vec<&str> = words.split(". It must").next().unwrap().split('`').skip(3).step_by(2).collect();
        known.sort_unstable();
        assert_eq!(known, properties, "{words}");
        for required in schema["required"].as_array().unwrap() {
            let words = desk.refuses(&name, json!({}));
            assert!(words.contains("missing field"), "{required}: {words}");
        }
    }
}

#[test]
fn a_message_goes_to_a_name_there_is_else_to_the_own_chat_else_to_the_only_one() {
    let mut d = desk(three());
    let (sent, words) = d.sends("send_message", json!({"to": "OPS", "text": "hi"}));
    assert_eq!((sent.to.as_deref(), words.as_str()), (Some("ops"), "Sent; it is your message #1."));
    assert_eq!(d.sends("send_message", json!({"text": "hi"})).0.to.as_deref(), Some("family"));
    let words = d.refuses("send_message", json!({"to": "nobody", "text": "hi"}));
    assert_eq!(words, "You have no destination \"nobody\". You have:\nfamily (Family chat)\nops\nwork (Work)");
    assert!(d.refuses("send_message", json!({"text": " "})).contains("empty"));

    let (sent, words) = desk(one()).sends("send_message", json!({"text": "hi"}));
    assert_eq!(sent.to.as_deref(), Some("family"));
    assert!(words.contains("<message to=\"family\">"), "what becomes of the final text is said: {words}");

    let alone = Destinations::new(vec![agent("ops", "ag-2")], Address::default(), None);
    assert_eq!(desk(alone).sends("send_message", json!({"text": "hi"})).0.to.as_deref(), Some("ops"));
    let two = vec![agent("ops", "ag-2"), channel("work", "Work", chat("slack", "C1", None))];
    let words = desk(Destinations::new(two, Address::default(), None)).refuses("send_message", json!({"text": "hi"}));
    assert_eq!(words, "Say to whom, with `to`. You have:\nops\nwork (Work)");
}

#[test]
fn a_call_whose_row_is_not_written_says_so_and_leaves_no_file() {
    let d = desk(one());
    let home = d.dir.root().join("agent");
    fs::write(home.join("a.txt"), "x").unwrap();
    let (events, heard) = crossbeam_channel::bounded(8);
    // The agent takes the event and writes nothing, as it does when the destination is gone.
    let dropped = thread::spawn(move || heard.iter().map(drop).count());
    let context = Context { stop: d.stop.clone(), events, destinations: d.destinations.clone() };
    for (name, input) in [("send_message", json!({"text": "x"})), ("send_file", json!({"path": "a.txt"}))] {
        let tool = tools(&d.dir).into_iter().find(|tool| tool.spec().name == name).unwrap();
        let output = tool.call(&input, &context);
        assert_eq!(output.outcome, Outcome::Failed, "{output:?}");
    }
    drop(context);
    assert_eq!(dropped.join().unwrap(), 2);
    assert_eq!(d.outbox(), 0);
}

#[test]
fn a_file_is_a_copy_under_a_safe_name() {
    let mut d = desk(three());
    let home = d.dir.root().join("agent");
    fs::write(home.join("plan.txt"), "one").unwrap();
    let (sent, words) = d.sends("send_file", json!({"path": "plan.txt", "text": "look", "to": "work"}));
    assert_eq!(sent.message, Outbound::Text { text: "look".into(), files: vec!["plan.txt".into()] });
    assert_eq!(words, "plan.txt is sent; it is your message #1.");
    let copy = d.dir.outbox(&sent.id).join("plan.txt");
    fs::write(home.join("plan.txt"), "two").unwrap();
    assert_eq!(fs::read_to_string(&copy).unwrap(), "one", "a copy, not a link");

    // A link is followed, and what it leads to is copied: the agent may read it.
    symlink("/etc/passwd", home.join("link")).unwrap();
    let (sent, _) = d.sends("send_file", json!({"path": "link"}));
    let copy = d.dir.outbox(&sent.id).join("link");
    assert!(fs::symlink_metadata(&copy).unwrap().is_file());
    assert_eq!(fs::read(copy).unwrap(), fs::read("/etc/passwd").unwrap());

    for (wanted, name) in [
        ("../../../etc/cron.d/x", "x"),
        ("/absolute.sh", "absolute.sh"),
        ("..", "file"),
        (".env", "env"),
        ("a\u{0}b\n.md", "a_b_.md"),
        ("", "file"),
    ] {
        let (sent, _) = d.sends("send_file", json!({"path": home.join("plan.txt"), "filename": wanted}));
        assert_eq!(sent.message, Outbound::Text { text: String::new(), files: vec![name.into()] }, "{wanted:?}");
        assert_eq!(fs::read_dir(d.dir.outbox(&sent.id)).unwrap().count(), 1);
    }
    let (sent, _) = d.sends("send_file", json!({"path": "/proc/self/status"}));
    assert!(fs::read_to_string(d.dir.outbox(&sent.id).join("status")).unwrap().starts_with("Name:"));
}

#[test]
fn what_is_no_file_or_too_large_is_refused_and_leaves_nothing() {
    let mut d = desk(three());
    let home = d.dir.root().join("agent");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        home.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let large = File::create(home.join("large")).unwrap();
    large.set_len(MAX_OUTBOX_FILE_BYTES + 1).unwrap();
    symlink(home.join("loop"), home.join("loop")).unwrap();
    for (path, why) in [
        ("pipe", "a pipe, a socket or a device"),
        ("/dev/zero", "a pipe, a socket or a device"),
        (".", "a folder"),
        ("missing", "No such file"),
        ("loop", "symbolic links"),
        ("large", "the most that is sent"),
    ] {
        let words = d.refuses("send_file", json!({ "path": path }));
        assert!(words.contains(why), "{path}: {words}");
    }
    assert!(d.refuses("send_file", json!({"path": "x", "to": "nobody"})).contains("no destination"));
    assert_eq!(d.outbox(), 0);
    assert!(d.tmp.path().exists());
}

#[test]
fn only_own_messages_are_edited_and_in_the_chat_they_are_in() {
    let mut d = desk(three());
    let theirs = d.receives(InKind::Chat, chat("telegram", "1", Some("t")));
    let own = d.sends("send_message", json!({"to": "work", "text": "helo"})).1;
    assert!(own.ends_with("#1."), "{own}");
    for id in [json!("1"), json!("#1"), json!(1)] {
        let (sent, words) = d.sends("edit_message", json!({"messageId": id, "text": "hello"}));
        assert_eq!(sent.message, Outbound::Edit { message_id: "1".into(), text: "hello".into() });
        assert_eq!((sent.to.as_deref(), words.as_str()), (Some("work"), "#1 is edited."));
    }
    let mut edit = |id: Value| d.refuses("edit_message", json!({"messageId": id, "text": "x"}));
    assert!(edit(json!(theirs)).contains("only what you have sent"));
    assert!(edit(json!(99)).contains("There is no message #99"));
    assert!(edit(json!(98)).contains("There is no message #98"));
    assert!(edit(json!(3)).contains("#3 is no message"), "an edit has no text of its own");
    assert!(edit(json!("latest")).contains("\"latest\" is no number"));
    assert!(d.refuses("edit_message", json!({"messageId": 1, "text": "\n"})).contains("empty"));
    let usage =
        d.keep("u", Address::default(), &Outbound::Action { name: "usage".into(), arguments: Default::default() });
    assert!(d.refuses("edit_message", json!({"messageId": usage, "text": "x"})).contains("is no message"));
    let gone = d.keep("g", chat("slack", "gone", None), &text("x"));
    assert!(d.refuses("edit_message", json!({"messageId": gone, "text": "x"})).contains("none of your destinations"));
    let to_agent = d.sends("send_message", json!({"to": "ops", "text": "hi"})).1;
    let number = to_agent.split('#').nth(1).unwrap().trim_end_matches('.').to_owned();
    assert!(d.refuses("edit_message", json!({"messageId": number, "text": "x"})).contains("between agents"));
}

#[test]
fn a_sign_is_put_to_what_people_see() {
    let mut d = desk(three());
    let asked = d.receives(InKind::Chat, chat("telegram", "1", Some("t")));
    let elsewhere = d.receives(InKind::ChatSdk, chat("slack", "C1", None));
    let task = d.receives(InKind::Task, chat("telegram", "1", None));
    let peer = d.receives(InKind::Chat, chat("agent", "ag-2", None));
    let note = d.receives(InKind::Chat, Address { channel_type: Some("agent".into()), ..Address::default() });
    let (sent, _) = d.sends("add_reaction", json!({"messageId": asked.to_string(), "emoji": "👍🏽"}));
    assert_eq!(sent.to.as_deref(), Some("family"));
    assert_eq!(sent.message, Outbound::Reaction { message_id: asked.to_string(), emoji: "👍🏽".into() });
    assert_eq!(d.sends("add_reaction", json!({"messageId": elsewhere, "emoji": "x"})).0.to.as_deref(), Some("work"));
    for (id, why) in [(task, "is no message"), (peer, "between agents"), (note, "between agents"), (-2, "There is no")]
    {
        let words = d.refuses("add_reaction", json!({"messageId": id, "emoji": "👍"}));
        assert!(words.contains(why), "{id}: {words}");
    }
    for emoji in ["", "well done", "👍\u{7}", &"x".repeat(65)] {
        assert!(d.refuses("add_reaction", json!({"messageId": asked, "emoji": emoji})).contains("is not one emoji"));
    }
}

#[test]
fn a_card_goes_to_the_own_chat_and_says_what_is_wrong_with_it() {
    let mut d = desk(three());
    let card = json!({"title": "Tonight", "fields": [{"name": "When", "value": "19:30"}],
                      "links": [{"label": "Tickets", "url": "https://example.org"}]});
    let (sent, _) = d.sends("send_card", card.clone());
    let Outbound::Card { card: kept, fallback_text } = sent.message else { panic!() };
    assert_eq!((sent.to, kept), (None, card));
    assert_eq!(fallback_text, "Tonight\n\nWhen: 19:30\nTickets: https://example.org");
    assert!(d.refuses("send_card", json!({"title": ""})).contains("needs a title"));
    assert!(d.refuses("send_card", json!({"title": "x", "fields": [{"name": "n"}]})).contains("missing field"));
    assert!(
        d.refuses("send_card", json!({"title": "x", "links": [{"label": "n", "url": "x", "y": 1}]})).contains("`y`")
    );
}
