//! Agents that write to each other, and that make other agents, on real files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use nanoclaw_session::create_agent::CreateAgent;
use nanoclaw_session::row::MessageIn;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::super::peers::{MAX_HOPS, MAX_PER_WINDOW};
use super::*;

/// Agents, by the chat each has.
const ANN: &str = "telegram-0";
const BOB: &str = "slack-0";

/// Two agents that know each other, and what they write.
struct Pair(World);

impl Pair {
    fn new() -> Pair {
        let pair = Pair(World::new(2));
        pair.grant(ANN, BOB);
        pair.grant(BOB, ANN);
        pair
    }

    fn grant(&self, from: &str, to: &str) {
        self.0.store.grant_destination(from, to, Target::Agent(to), self.0.now.wall).unwrap();
    }

    /// `from` is an agent group and a session of it.
    fn puts(&mut self, from: (&str, &str), to: Option<&str>, reply: Option<&str>, row: (OutKind, String)) -> String {
        let w = &mut self.0;
        w.written += 1;
        let row = NewMessageOut {
            id: format!("out-{}", w.written),
            in_reply_to: reply.map(str::to_owned),
            deliver_after: None,
            kind: row.0,
            address: Address {
                channel_type: to.map(|_| "agent".into()),
                platform_id: to.map(str::to_owned),
                thread_id: None,
            },
            content: row.1,
        };
        let dir = w.home.session(from.0, from.1);
        OutboundDb::open(&dir).unwrap().write(|tx| tx.insert(&row, 0, w.now.wall)).unwrap();
        row.id
    }

    fn writes(&mut self, from: (&str, &str), to: &str, text: &str, reply: Option<&str>) -> String {
        let id = self.puts(from, Some(to), reply, (OutKind::Chat, json!({"text": text}).to_string()));
        self.0.step(Some(Event::Changed { session_id: from.1.into() }));
        id
    }

    fn db(&self, (group, session): (&str, &str)) -> InboundDb {
        InboundDb::open(&self.0.home.session(group, session), Durability::Normal).unwrap()
    }

    fn rows(&self, of: (&str, &str)) -> Vec<MessageIn> {
        self.db(of).unfinished().unwrap()
    }

    fn texts(&self, of: (&str, &str)) -> Vec<String> {
        let text =
            |row: &MessageIn| serde_json::from_str::<Value>(&row.content).unwrap()["text"].as_str().map(Into::into);
        self.rows(of).iter().filter_map(text).collect()
    }

    /// The agent's session that belongs to no chat.
    fn shared(&self, group: &str) -> String {
        self.0.store.find_session(group, None, None).unwrap().expect("a shared session").id
    }

    fn person_writes(&self, session: &str, id: &str) {
        let row = NewMessageIn::chat(id.into(), self.0.now.wall, Address::default(), json!({"text": id}).to_string());
        self.db((session, session)).write(|tx| tx.insert(&row)).unwrap();
    }

    fn status(&self, of: (&str, &str), id: &str) -> Option<DeliveryStatus> {
        self.db(of).delivered(id).unwrap().map(|d| d.status)
    }

    fn woken(&self) -> Vec<String> {
        let wake = |event| match event {
            sweep::Event::Wake { session_id, .. } => Some(session_id),
            _ => None,
        };
        self.0.sweep.try_iter().filter_map(wake).collect()
    }

    fn told(&self) -> Vec<String> {
        let text = |m: HostMessage| m.content["text"].as_str().unwrap().to_owned();
        self.0.store.pending_host_messages(100).unwrap().into_iter().map(text).collect()
    }

    fn asks_for(&mut self, who: &str, name: &str, instructions: Option<&str>) -> String {
        let asked = CreateAgent { name: name.into(), instructions: instructions.map(Into::into) };
        let id = self.puts((who, who), None, None, asked.to_action().to_row());
        self.0.step(Some(Event::Changed { session_id: who.into() }));
        id
    }
}

#[test]
fn a_question_reaches_the_agents_shared_session_and_the_answer_the_session_that_asked() {
    let mut p = Pair::new();
    p.person_writes(ANN, "u1");
    let asked = p.writes((ANN, ANN), BOB, "how many?", Some("u1"));
    assert_eq!(p.status((ANN, ANN), &asked), Some(DeliveryStatus::Delivered));
    let shared = p.shared(BOB);
    assert_eq!(p.woken(), std::slice::from_ref(&shared));
    let question = p.rows((BOB, &shared)).pop().unwrap();
    assert_eq!(question.source_session_id.as_deref(), Some(ANN));
    assert_eq!(
        (question.address.channel_type.as_deref(), question.address.platform_id.as_deref()),
        (Some("agent"), Some(ANN))
    );
    let content: Value = serde_json::from_str(&question.content).unwrap();
    assert_eq!(content, json!({"text": "how many?", "sender": ANN, "senderId": "agent:telegram-0"}));

    // Another session of Ann's asks, too; each gets its own answer, whatever came last.
    let other = Session::new("ann-2", ANN, None, Some("t"), p.0.now.wall);
    p.0.store.ensure_session(&other).unwrap();
    p.0.home.session(ANN, "ann-2").prepare().unwrap();
    p.writes((ANN, "ann-2"), BOB, "and how?", None);
    let rows = p.rows((BOB, &shared));
    assert_eq!(rows.len(), 2);
    p.writes((BOB, &shared), ANN, "seven", Some(&rows[0].id));
    p.writes((BOB, &shared), ANN, "like this", Some(&rows[1].id));
    p.writes((BOB, &shared), ANN, "by the way", None);
    assert_eq!(p.texts((ANN, ANN)), ["u1", "seven"]);
    assert_eq!(p.texts((ANN, "ann-2")), ["like this", "by the way"], "what answers nothing goes to who wrote last");
    assert_eq!(p.db((ANN, ANN)).hops_so_far(None, p.0.now.wall).unwrap(), 2);

    // A session that is closed gets nothing more.
    p.0.store.set_session_status("ann-2", SessionStatus::Closed).unwrap();
    p.writes((BOB, &shared), ANN, "too late", Some(&rows[1].id));
    assert_eq!(p.texts((ANN, &p.shared(ANN))), ["too late"]);
}

#[test]
fn who_is_unknown_or_not_a_destination_is_refused_to_the_senders_face_and_a_note_to_itself_is_not() {
    let mut p = Pair::new();
    for target in ["slack-1", "nobody", "../x", ""] {
        let id = p.writes((ANN, ANN), target, "psst", None);
        assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Failed), "{target}");
        assert!(p.texts((ANN, ANN)).pop().unwrap().contains("not one of your destinations"), "{target}");
    }
    assert!(p.woken().is_empty() && p.0.store.find_session("slack-1", None, None).unwrap().is_none());
    // A grant counts from the moment it is there, and to the moment it is gone.
    p.grant(ANN, "slack-1");
    p.writes((ANN, ANN), "slack-1", "hello", None);
    assert_eq!(p.texts(("slack-1", &p.shared("slack-1"))), ["hello"]);
    p.0.store.revoke_destination(ANN, "slack-1").unwrap();
    let id = p.writes((ANN, ANN), "slack-1", "still there?", None);
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Failed));
    p.writes((ANN, ANN), ANN, "remember the milk", None);
    assert_eq!(p.texts((ANN, &p.shared(ANN))), ["remember the milk"]);
    let edit = json!({"operation": "edit", "messageId": "1", "text": "x"}).to_string();
    let id = p.puts((ANN, ANN), Some(BOB), None, (OutKind::Chat, edit));
    p.0.step(Some(Event::Changed { session_id: ANN.into() }));
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Failed));
}

#[test]
fn a_crash_between_the_write_and_its_mark_delivers_once() {
    let mut p = Pair::new();
    p.writes((ANN, ANN), BOB, "zero", None);
    let marks = p.0.home.session(ANN, ANN).inbound_db();
    let before = fs::read(&marks).unwrap();
    let id = p.writes((ANN, ANN), BOB, "one", None);
    // As if the host had died right after the write.
    fs::write(&marks, before).unwrap();
    assert_eq!(p.status((ANN, ANN), &id), None);
    p.0.store.put_settled_session(&Settled { session_id: ANN.into(), stamp: String::new() }).unwrap();
    p.0.restart();
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Delivered));
    assert_eq!(p.texts((BOB, &p.shared(BOB))), ["zero", "one"]);
}

#[test]
fn a_session_that_is_locked_gets_it_later_and_nobody_else_waits() {
    let mut p = Pair::new();
    p.grant(ANN, "slack-1");
    p.writes((ANN, ANN), BOB, "zero", None);
    let shared = p.shared(BOB);
    let reader = Connection::open(p.0.home.session(BOB, &shared).inbound_db()).unwrap();
    reader.execute_batch("BEGIN; SELECT COUNT(*) FROM messages_in;").unwrap();
    let mut held = reader.prepare("SELECT id FROM messages_in").unwrap();
    let mut rows = held.query([]).unwrap();
    rows.next().unwrap();
    let id = p.writes((ANN, ANN), BOB, "one", None);
    p.writes((ANN, ANN), BOB, "two", None);
    p.writes((ANN, ANN), "slack-1", "hello", None);
    p.0.says(ANN, "to the person", None);
    assert_eq!(p.texts(("slack-1", &p.shared("slack-1"))), ["hello"]);
    assert_eq!(p.0.platform("telegram").seen.len(), 1);
    assert_eq!((p.status((ANN, ANN), &id), p.db((ANN, ANN)).attempts().unwrap().len()), (None, 1));
    p.0.restart();
    let (tx, sweep) = unbounded();
    (p.0.actor.parts.sweep, p.0.sweep) = (tx, sweep);
    p.0.pass(Duration::from_secs(30));
    let is_locked = |event| matches!(event, sweep::Event::Locked { session_id } if session_id == shared);
    assert!(p.0.sweep.try_iter().any(is_locked), "a container that holds a lock for so long is stopped");
    drop(rows);
    drop(held);
    reader.execute_batch("COMMIT").unwrap();
    p.0.pass(HOUR / 6);
    assert_eq!(p.texts((BOB, &shared)), ["zero", "one", "two"]);
    assert_eq!(p.db((ANN, ANN)).attempts().unwrap(), []);
}

#[test]
fn files_are_copied_and_what_is_no_file_of_its_own_is_refused() {
    let mut p = Pair::new();
    let content = |names: &[&str]| (OutKind::Chat, json!({"text": "look", "files": names}).to_string());
    let id = p.puts((ANN, ANN), Some(BOB), None, content(&["a.txt", "b.txt"]));
    let outbox = p.0.home.session(ANN, ANN).outbox(&id);
    fs::create_dir_all(&outbox).unwrap();
    fs::write(outbox.join("a.txt"), "from Ann").unwrap();
    fs::write(outbox.join("b.txt"), "").unwrap();
    p.0.step(Some(Event::Changed { session_id: ANN.into() }));
    let shared = p.shared(BOB);
    let row = p.rows((BOB, &shared)).pop().unwrap();
    let content_in: Value = serde_json::from_str(&row.content).unwrap();
    let path = content_in["attachments"][0]["localPath"].as_str().unwrap();
    assert_eq!(
        (content_in["attachments"][0]["size"].as_u64(), content_in["attachments"][1]["name"].as_str()),
        (Some(8), Some("b.txt"))
    );
    let copy = p.0.home.session(BOB, &shared).root().join(path);
    fs::write(outbox.join("a.txt"), "changed").unwrap();
    assert_eq!(fs::read_to_string(&copy).unwrap(), "from Ann");
    assert_eq!(fs::metadata(&copy).unwrap().nlink(), 1);

    let secret = p.0.home.root().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let id = p.puts((ANN, ANN), Some(BOB), None, content(&["link"]));
    let outbox = p.0.home.session(ANN, ANN).outbox(&id);
    fs::create_dir_all(&outbox).unwrap();
    symlink(&secret, outbox.join("link")).unwrap();
    p.0.step(Some(Event::Changed { session_id: ANN.into() }));
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Failed));
    assert_eq!(p.rows((BOB, &shared)).len(), 1);
}

/// They answer each other, whatever they say that they reply to, until that is refused.
fn talk(p: &mut Pair, in_reply_to: Option<&str>) -> u32 {
    let mut sent = 0;
    loop {
        let shared = p.0.store.find_session(BOB, None, None).unwrap().map(|s| s.id).unwrap_or_default();
        let (from, to) = if sent % 2 == 0 { ((ANN, ANN), BOB) } else { ((BOB, shared.as_str()), ANN) };
        let id = p.writes(from, to, &format!("{sent}"), in_reply_to);
        p.0.now = p.0.now + Duration::from_secs(30);
        if p.status(from, &id) == Some(DeliveryStatus::Failed) {
            return sent;
        }
        sent += 1;
    }
}

#[test]
fn a_conversation_nobody_else_takes_part_in_is_cut_and_the_owner_hears_of_each_once() {
    let mut p = Pair::new();
    p.person_writes(ANN, "u1");
    // To name an old row changes nothing.
    assert_eq!(talk(&mut p, Some("u1")), MAX_HOPS);
    let told = p.told();
    assert!(told.len() == 1 && told[0].contains("The agents slack-0 and telegram-0 have exchanged 16"), "{told:?}");
    assert!(p.texts((ANN, ANN)).pop().unwrap().contains("the conversation is cut until somebody else writes"));
    assert_eq!(talk(&mut p, None), 0, "it stays cut");
    assert_eq!(p.told().len(), 1);
    // What is yet to come is no word from anybody.
    let later = p.0.now.wall + HOUR;
    let task = NewMessageIn {
        kind: InKind::Task,
        process_after: Some(later),
        ..NewMessageIn::chat("task".into(), p.0.now.wall, Address::default(), "{}".into())
    };
    p.db((ANN, ANN)).write(|tx| tx.insert(&task)).unwrap();
    assert_eq!(talk(&mut p, None), 0);
    p.0.pass(HOUR);
    assert_eq!(talk(&mut p, None), MAX_HOPS, "a task that is due begins another");
    assert_eq!(p.told().len(), 2);
    p.person_writes(ANN, "u2");
    assert_eq!(talk(&mut p, Some("u2")), MAX_HOPS);
    assert_eq!(p.told().len(), 3);
}

#[test]
fn a_pair_that_writes_too_much_is_slowed_down_and_no_other_pair() {
    let mut p = Pair::new();
    p.grant(ANN, "slack-1");
    let ids: Vec<String> = (0..=MAX_PER_WINDOW).map(|n| p.writes((ANN, ANN), BOB, &n.to_string(), None)).collect();
    let status = |p: &Pair, n: u32| p.status((ANN, ANN), &ids[n as usize]);
    assert_eq!(status(&p, MAX_PER_WINDOW - 1), Some(DeliveryStatus::Delivered));
    assert_eq!(status(&p, MAX_PER_WINDOW), Some(DeliveryStatus::Failed));
    assert_eq!(p.told().len(), 1);
    p.writes((ANN, ANN), "slack-1", "hello", None);
    assert_eq!(p.rows(("slack-1", &p.shared("slack-1"))).len(), 1);
    p.0.pass(HOUR / 6);
    let id = p.writes((ANN, ANN), BOB, "again", None);
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Delivered));
}

#[test]
fn a_privileged_agent_gets_another_one_and_writes_to_it_at_once() {
    let mut p = Pair::new();
    let config = p.0.store.container_config(ANN).unwrap();
    let config = ContainerConfig { provider: Some("openai".into()), network: Some(NetworkMode::None), ..config };
    p.0.store.put_container_config(&config).unwrap();
    let id = p.asks_for(ANN, "Slack/0", Some("Help.\n"));
    assert_eq!(p.status((ANN, ANN), &id), Some(DeliveryStatus::Delivered));
    // A group that is called so, and Ann's word for it, there was already.
    let child = p.0.store.agent_group("slack-0-2").unwrap();
    assert_eq!((child.name.as_str(), child.folder.as_str()), ("Slack/0", "slack-0-2"));
    let config = p.0.store.container_config(&child.id).unwrap();
    assert_eq!((config.cli_scope, config.network), (CliScope::Group, Some(NetworkMode::None)));
    assert_eq!(config.provider.as_deref(), Some("openai"));
    assert!(p.0.home.group(&child.folder).is_dir());
    assert_eq!(fs::read_to_string(p.0.home.instructions_of(&child.folder)).unwrap(), "Help.\n");
    let note = p.rows((ANN, ANN)).pop().unwrap();
    assert!(note.content.contains(r#"writes to it as \"slack-0-2\""#) && note.trigger == Trigger::Wake, "{note:?}");
    assert_eq!((p.woken(), p.told().len()), (vec![ANN.to_owned()], 1));
    let names =
        nanoclaw_session::inbound::reader::look(&p.0.home.session(ANN, ANN), |view| view.destinations()).unwrap();
    assert!(names.iter().any(|d| d.name == "slack-0-2"), "the live session knows the name");

    p.writes((ANN, ANN), &child.id, "hello", None);
    let shared = p.shared(&child.id);
    assert_eq!(p.texts((&child.id, &shared)), ["hello"]);
    let parent = p.0.store.find_destination(&child.id, "parent").unwrap().unwrap();
    assert_eq!(parent.target_id, ANN);
    p.writes((&child.id, &shared), ANN, "hello parent", None);
    assert_eq!(p.texts((ANN, ANN)).pop().as_deref(), Some("hello parent"));
}

#[test]
fn who_may_not_create_agents_is_refused_and_names_are_never_paths() {
    let mut p = Pair::new();
    let before = p.0.store.agent_groups().unwrap().len();
    let id = p.asks_for(BOB, "Helper", None);
    assert_eq!(p.status((BOB, BOB), &id), Some(DeliveryStatus::Failed));
    assert!(p.texts((BOB, BOB))[0].contains("not privileged"));
    for wrong in [json!({"action": "create_agent"}), json!({"action": "create_agent", "name": "../.."})] {
        p.puts((ANN, ANN), None, None, (OutKind::System, wrong.to_string()));
    }
    p.0.step(Some(Event::Changed { session_id: ANN.into() }));
    assert_eq!((p.texts((ANN, ANN)).len(), p.0.store.agent_groups().unwrap().len()), (2, before));
    // What an agent that is gone has left is not the new one's.
    fs::create_dir_all(p.0.home.group("etc")).unwrap();
    fs::write(p.0.home.group("etc").join("diary"), "private").unwrap();
    for (name, folder) in [("../../etc", "etc-2"), ("Жук", "agent"), ("global", "global-2"), ("7", "agent-7")] {
        p.asks_for(ANN, name, None);
        assert_eq!(p.0.store.agent_groups().unwrap().pop().unwrap().folder, folder, "{name}");
    }
}

#[test]
fn a_crash_while_an_agent_is_made_makes_one() {
    let mut p = Pair::new();
    p.writes((ANN, ANN), BOB, "before", None);
    let marks = p.0.home.session(ANN, ANN).inbound_db();
    let before = fs::read(&marks).unwrap();
    // The folder is there, and the store is as it was.
    p.0.home.make_group("helper").unwrap();
    fs::write(p.0.home.instructions_of("helper"), "Help.").unwrap();
    p.asks_for(ANN, "Helper", Some("Help."));
    assert!(p.0.store.agent_group("helper").is_ok());
    // The store has it, and the session was not marked.
    fs::write(&marks, before).unwrap();
    p.0.store.put_settled_session(&Settled { session_id: ANN.into(), stamp: String::new() }).unwrap();
    let groups = p.0.store.agent_groups().unwrap().len();
    p.0.restart();
    assert_eq!((p.0.store.agent_groups().unwrap().len(), p.told().len()), (groups, 1));
    let notes = p.texts((ANN, ANN));
    assert!(notes.len() == 1 && notes[0].contains("writes to it as \"helper\""), "{notes:?}");
}
