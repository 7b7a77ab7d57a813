//! A home, a router on its own thread, and a small language for both ends: chats and messages in
//! words, and all that came of it in words.
//!
//! Setup: `group` or `dm` or `unwired`, then `strict`, `ask` or `public` (the default), `denied`,
//! and one `a:...` or `b:...` per wiring: `a:mention`, `a:sticky`, `a:all`, `a:/regex/`, each with
//! `+keep` (accumulate), `+known` (members only), `+one` (agent-shared) or `+per` (per-thread).
//!
//! Message: `who[@][#thread][!id][*]: text`, where `@` addresses us and `*` brings a file. People:
//! `owner`, `admin` (of all), `aadmin` (of a), `bmember` (of b), `zoe` (a stranger), `nobody`
//! (the platform does not say).
//!
//! Outcome: `a+chat` a row that wakes in the session of the chat, `a~t1` context in that of thread
//! t1, `a!agent` a control in the agent's only one; `a?reason` why a did not hear it, `?reason` why
//! nobody did; `say:...` what the host answers, `owner:...` what it tells the owner, `subscribe:t1`,
//! `audit:n` messages counted as dropped, `file:n` attachments on disk, `offered` a chat on record.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::row::{InKind, MessageIn};

use super::super::*;
use crate::channel::{InboundFile, Mention, Threads};
use crate::store::*;

pub const NATIVE: &str = "telegram:7";

pub struct World {
    _folder: tempfile::TempDir,
    pub home: Arc<Home>,
    pub store: Store,
    pub sweep: Receiver<sweep::Event>,
    router: Option<(Sender<Event>, JoinHandle<()>)>,
    kind: ChatKind,
}

fn now() -> jiff::Timestamp {
    crate::time::now()
}

fn user_of(who: &str) -> Option<String> {
    (who != "nobody").then(|| format!("telegram:{who}"))
}

impl World {
    pub fn new(setup: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::locate(Some(folder.path())).unwrap());
        home.create().unwrap();
        let store = Store::open(&home.store(), now()).unwrap();
        for id in ["a", "b"] {
            let group = AgentGroup {
                id: id.into(),
                name: id.to_uppercase(),
                folder: id.into(),
                agent_provider: None,
                created_at: now(),
            };
            store.create_agent_group(&group).unwrap();
        }
        let grants = [("owner", Role::Owner, None), ("admin", Role::Admin, None), ("aadmin", Role::Admin, Some("a"))];
        for who in ["owner", "admin", "aadmin", "bmember"] {
            let id = user_of(who).unwrap();
            let user = User { id, kind: "telegram".into(), display_name: Some(who.into()), created_at: now() };
            store.create_user(&user).unwrap();
        }
        for (who, role, group) in grants {
            let grant = RoleGrant {
                user_id: user_of(who).unwrap(),
                role,
                agent_group_id: group.map(str::to_owned),
                granted_by: None,
                granted_at: now(),
            };
            store.grant_role(&grant).unwrap();
        }
        let member =
            Member { user_id: "telegram:bmember".into(), agent_group_id: "b".into(), added_by: None, added_at: now() };
        store.add_member(&member).unwrap();
        let kind = if setup.contains("dm") { ChatKind::Direct } else { ChatKind::Group };
        if !setup.contains("unwired") {
            create_chat(&store, setup, kind);
        }
        let mut world = World { _folder: folder, home, store, sweep: unbounded().1, router: None, kind };
        world.restart();
        world
    }

    /// Ends the router, if there is one, and starts another.
    pub fn restart(&mut self) {
        if let Some((events, thread)) = self.router.take() {
            drop(events);
            thread.join().unwrap();
        }
        let (sweep_tx, sweep) = unbounded();
        let (delivery_tx, delivery) = unbounded();
        let router = Router {
            store: Store::open(&self.home.store(), now()).unwrap(),
            home: Arc::clone(&self.home),
            sweep: sweep_tx,
            delivery: delivery_tx,
        };
        let (events_tx, events) = bounded(16);
        let thread = std::thread::spawn(move || {
            router.run(&events);
            drop(delivery); // until here somebody listens
        });
        self.sweep = sweep;
        self.router = Some((events_tx, thread));
    }

    /// Sends one batch and waits until it is on disk.
    pub fn send(&self, messages: Vec<InboundMessage>) {
        let (accepted, on_disk) = bounded(1);
        let (events, _) = self.router.as_ref().unwrap();
        events.send(Event::Batch { messages, accepted }).unwrap();
        on_disk.recv_timeout(Duration::from_secs(20)).expect("the batch was not accepted");
    }

    pub fn message(&self, n: usize, words: &str) -> InboundMessage {
        let (head, text) = words.split_once(": ").or_else(|| words.strip_suffix(':').map(|h| (h, ""))).unwrap();
        let (head, files) = match head.strip_suffix('*') {
            Some(head) => (head, 1),
            None => (head, 0),
        };
        let (head, id) = head.split_once('!').map_or((head, format!("m{n}")), |(h, id)| (h, id.to_owned()));
        let (head, thread) = head.split_once('#').map_or((head, None), |(h, t)| (h, Some(t.to_owned())));
        // `~t` is a thread the platform names though the chat has none.
        let (threads, thread) = match thread.as_deref().and_then(|t| t.strip_prefix('~')) {
            Some(stray) => (Threads::Absent, Some(stray.to_owned())),
            None => (Threads::Supported, thread),
        };
        let (who, mention) = match head.strip_suffix('@') {
            Some(who) => (who, Mention::Addressed),
            None => (head, Mention::NotAddressed),
        };
        InboundMessage {
            id,
            chat: crate::channel::Chat::new("telegram", NATIVE),
            thread_id: thread,
            threads,
            kind: self.kind,
            mention,
            timestamp: "2026-11-21T12:00:00Z".parse().unwrap(),
            content: ChatIn {
                text: text.into(),
                sender: Some(who.into()),
                sender_id: user_of(who),
                ..ChatIn::default()
            },
            attachments: (0..files)
                .map(|_| InboundFile { name: "x.txt".into(), mime_type: None, bytes: b"x".to_vec() })
                .collect(),
            answers: None,
            reply_to: None,
        }
    }

    /// All that came of it, in words, and sorted.
    pub fn outcome(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut wakes: BTreeMap<String, usize> = BTreeMap::new();
        let mut files = 0;
        for session in self.store.sessions().unwrap() {
            let place = match (&session.messaging_group_id, &session.thread_id) {
                (None, _) => "agent".to_owned(),
                (Some(_), None) => "chat".to_owned(),
                (Some(_), Some(thread)) => thread.clone(),
            };
            for row in self.rows(&session) {
                let mark = match (row.kind, row.trigger) {
                    (InKind::System, _) => '!',
                    (_, Trigger::Wake) => '+',
                    (_, Trigger::Context) => '~',
                };
                if mark == '+' {
                    wakes.insert(session.id.clone(), 0);
                }
                words.push(format!("{}{mark}{place}", session.agent_group_id));
                let inbox = self.home.session(&session.agent_group_id, &session.id).inbox(&row.id);
                files += std::fs::read_dir(inbox).map_or(0, Iterator::count);
            }
        }
        for event in self.sweep.try_iter() {
            match event {
                sweep::Event::Wake { session_id, .. } => *wakes.get_mut(&session_id).expect("woken for nothing") += 1,
                sweep::Event::Restart { .. } => words.push("restart".into()),
                other => panic!("{other:?}"),
            }
        }
        assert!(wakes.values().all(|n| *n > 0), "a row that wakes came without a wake: {wakes:?}");
        for decision in self.store.decisions(100).unwrap() {
            words.push(format!("{}?{}", decision.agent_group_id.unwrap_or_default(), decision.reason));
        }
        for message in self.store.pending_host_messages(100).unwrap() {
            let text = message.content["text"].as_str().unwrap_or_default();
            let to = if message.channel_type == cli::CHANNEL { "owner" } else { "say" };
            words.push(match (message.kind.as_str(), text) {
                ("system", _) => format!("subscribe:{}", message.thread_id.unwrap_or_default()),
                (_, text) if text.contains("wirings create") => format!("{to}:offer"),
                (_, text) if text.contains("members add") => {
                    format!("{to}:stranger({})", text.matches("members add").count())
                }
                (_, text) if text.contains("is unknown") => format!("{to}:stranger(0)"),
                (_, text) if text.contains("regular expression") => format!("{to}:pattern"),
                (_, "Permission denied") => format!("{to}:denied"),
                (_, text) if text.contains("container runs") => format!("{to}:status"),
                (_, text) if text.contains("nothing was said") => format!("{to}:no-session"),
                (_, text) if text.contains("no tasks") => format!("{to}:no-tasks"),
                (_, text) if text.contains("nothing runs") => format!("{to}:nothing-runs"),
                (_, text) if text.contains("fresh container") => format!("{to}:fresh"),
                (_, text) if text.contains("are an owner") => format!("{to}:paired"),
                (_, text) => panic!("unexpected: {text}"),
            });
        }
        for dropped in self.store.dropped_senders(100).unwrap() {
            words.push(format!("audit:{}", dropped.message_count));
        }
        if files > 0 {
            words.push(format!("file:{files}"));
        }
        if let Some(chat) = self.store.find_messaging_group("telegram", NATIVE).unwrap() {
            if self.store.wirings_of_chat(&chat.id).unwrap().is_empty() {
                assert_eq!(chat.unknown_sender_policy, UnknownSenderPolicy::RequestApproval);
                words.push("offered".into());
            }
        }
        words.sort();
        words.join(" ")
    }

    pub fn rows(&self, session: &Session) -> Vec<MessageIn> {
        let dir = self.home.session(&session.agent_group_id, &session.id);
        InboundDb::open(&dir, Durability::Normal).unwrap().unfinished().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((events, thread)) = self.router.take() {
            drop(events);
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("the router panicked");
            }
        }
    }
}

fn create_chat(store: &Store, setup: &str, kind: ChatKind) {
    let mut chat = MessagingGroup {
        id: "chat".into(),
        channel_type: "telegram".into(),
        platform_id: NATIVE.into(),
        name: None,
        is_group: kind == ChatKind::Group,
        unknown_sender_policy: UnknownSenderPolicy::Public,
        denied_at: None,
        created_at: now(),
    };
    let mut wirings = Vec::new();
    for word in setup.split(' ') {
        match word {
            "group" | "dm" | "public" => {}
            "strict" => chat.unknown_sender_policy = UnknownSenderPolicy::Strict,
            "ask" => chat.unknown_sender_policy = UnknownSenderPolicy::RequestApproval,
            "denied" => chat.denied_at = Some(now()),
            wiring => wirings.push(wiring_of(wiring)),
        }
    }
    store.create_messaging_group(&chat).unwrap();
    for wiring in wirings {
        let _created = store.create_wiring(&wiring).unwrap();
    }
}

fn wiring_of(word: &str) -> Wiring {
    let (agent, word) = word.split_once(':').unwrap();
    let mut parts = word.split('+');
    let (engage_mode, engage_pattern) = match parts.next().unwrap() {
        "mention" => (EngageMode::Mention, None),
        "sticky" => (EngageMode::MentionSticky, None),
        "all" => (EngageMode::Pattern, Some(".".to_owned())),
        pattern => (EngageMode::Pattern, Some(pattern.trim_matches('/').to_owned())),
    };
    let mut wiring = Wiring {
        id: format!("wire-{agent}"),
        messaging_group_id: "chat".into(),
        agent_group_id: agent.into(),
        engage_mode,
        engage_pattern,
        sender_scope: SenderScope::All,
        ignored_message_policy: IgnoredMessagePolicy::Drop,
        session_mode: SessionMode::Shared,
        priority: 0,
        created_at: now(),
    };
    for part in parts {
        match part {
            "keep" => wiring.ignored_message_policy = IgnoredMessagePolicy::Accumulate,
            "known" => wiring.sender_scope = SenderScope::Known,
            "one" => wiring.session_mode = SessionMode::AgentShared,
            "per" => wiring.session_mode = SessionMode::PerThread,
            other => panic!("{other}"),
        }
    }
    wiring
}
