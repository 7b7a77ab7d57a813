//! Delivery over real files and an in-process platform, in simulated time: the actor is stepped
//! from one deadline to the next, so hours of waiting take no time.

mod peers;
mod question;

use std::collections::{BTreeMap, BTreeSet};

use crossbeam_channel::{bounded, unbounded};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::outbound::OutboundDb;
use nanoclaw_session::row::{
    Address, DeliveryStatus, InKind, MessageIn, NewMessageIn, NewMessageOut, OutKind, Trigger,
};
use nanoclaw_session::usage::Usage;

use super::*;
use crate::channel::{Outbound, OutboundItem, Payload};
use crate::sender::Task;
use crate::store::*;

mod references;

const HOUR: Duration = Duration::from_secs(3600);

/// What a platform does with whatever it is given.
#[derive(Debug, Clone)]
enum Mood {
    Up,
    Down,
    /// Takes nothing for so long after each message of a chat.
    Limits(Duration),
    Refuses(&'static str),
    /// Reaches this chat only.
    Only(&'static str),
    /// Answers so many times, then never again.
    Answers(u32),
}

/// An in-process platform behind the trait every channel has.
struct Platform {
    mood: Mood,
    now: Now,
    asked: u32,
    seen: Vec<(String, String)>,
    /// Edits and reactions: the chat, the message there, what is new.
    changed: Vec<(String, String, String)>,
    typing: Vec<String>,
    last: HashMap<String, Instant>,
}

impl Outbound for Platform {
    fn send(&mut self, item: &OutboundItem) -> Outcome {
        let text = match &item.payload {
            Payload::Text { text, .. } => text.clone(),
            Payload::Question(question) => format!("?{}", question.title),
            Payload::Edit { platform_message_id: id, text: new }
            | Payload::Reaction { platform_message_id: id, emoji: new } => {
                self.changed.push((item.chat.platform_id.clone(), id.clone(), new.clone()));
                return Outcome::Sent { platform_message_id: None };
            }
            _ => return Outcome::Sent { platform_message_id: None },
        };
        self.asked += 1;
        let chat = item.chat.platform_id.clone();
        match self.mood {
            Mood::Up | Mood::Answers(_) => {}
            Mood::Only(reached) if chat == reached => {}
            Mood::Down | Mood::Only(_) => return Outcome::Retry { after: None, why: "no route to host".into() },
            Mood::Refuses(why) => return Outcome::Permanent { why: why.into() },
            Mood::Limits(pause) => {
                if let Some(left) =
                    self.last.get(&chat).and_then(|at| (*at + pause).checked_duration_since(self.now.instant))
                {
                    if !left.is_zero() {
                        return Outcome::Retry { after: Some(left), why: "too many requests".into() };
                    }
                }
                self.last.insert(chat.clone(), self.now.instant);
            }
        }
        self.seen.push((chat, text));
        Outcome::Sent { platform_message_id: Some(format!("p{}", self.asked)) }
    }

    fn show_typing(&mut self, chat: &Chat, _: Option<&str>) {
        self.typing.push(chat.platform_id.clone());
    }
}

struct World {
    _folder: tempfile::TempDir,
    home: Arc<Home>,
    store: Store,
    actor: Actor,
    platforms: BTreeMap<&'static str, (Platform, Receiver<Task>)>,
    sweep: Receiver<sweep::Event>,
    written: u32,
    now: Now,
}

const CHANNELS: [&str; 2] = ["telegram", "slack"];

impl World {
    /// Two channels with `chats` chats each; every chat has an agent and a session of its own.
    fn new(chats: u32) -> World {
        let folder = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::locate(Some(folder.path())).unwrap());
        home.create().unwrap();
        let now = Now::read();
        let store = Store::open(&home.store(), now.wall).unwrap();
        for channel in CHANNELS {
            for n in 0..chats {
                let id = format!("{channel}-{n}");
                let group = AgentGroup {
                    id: id.clone(),
                    name: id.clone(),
                    folder: id.clone(),
                    agent_provider: None,
                    created_at: now.wall,
                };
                store.create_agent_group(&group).unwrap();
                let chat = MessagingGroup {
                    id: id.clone(),
                    channel_type: channel.into(),
                    platform_id: id.clone(),
                    name: None,
                    is_group: false,
                    unknown_sender_policy: UnknownSenderPolicy::Public,
                    denied_at: None,
                    created_at: now.wall,
                };
                store.create_messaging_group(&chat).unwrap();
                let session = Session {
                    id: id.clone(),
                    agent_group_id: id.clone(),
                    messaging_group_id: Some(id.clone()),
                    thread_id: None,
                    agent_provider: None,
                    status: SessionStatus::Active,
                    container_status: ContainerStatus::Stopped,
                    last_active: None,
                    created_at: now.wall,
                };
                store.ensure_session(&session).unwrap();
                home.session(&id, &id).prepare().unwrap();
            }
        }
        let (mut senders, mut platforms) = (HashMap::new(), BTreeMap::new());
        for name in CHANNELS {
            let (tx, tasks) = bounded(16);
            senders.insert(name, tx);
            let platform = Platform {
                mood: Mood::Up,
                now,
                asked: 0,
                seen: Vec::new(),
                changed: Vec::new(),
                typing: Vec::new(),
                last: HashMap::new(),
            };
            platforms.insert(name, (platform, tasks));
        }
        let (sweep_tx, sweep) = unbounded();
        let parts = Delivery {
            store: Store::open(&home.store(), now.wall).unwrap(),
            home: Arc::clone(&home),
            sweep: sweep_tx,
            zone: "UTC".into(),
            senders,
        };
        let actor = Actor::new(parts, now);
        World { _folder: folder, home, store, actor, platforms, sweep, written: 0, now }
    }

    fn platform(&mut self, name: &str) -> &mut Platform {
        &mut self.platforms.get_mut(name).unwrap().0
    }

    /// An agent writes something; delivery is nudged.
    fn says(&mut self, session: &str, text: &str, in_reply_to: Option<&str>) -> String {
        let id = self.writes(session, text, in_reply_to);
        self.step(Some(Event::Changed { session_id: session.into() }));
        id
    }

    fn writes(&mut self, session: &str, text: &str, in_reply_to: Option<&str>) -> String {
        self.writes_row(session, in_reply_to, (OutKind::Chat, serde_json::json!({"text": text}).to_string()))
    }

    /// A turn ends: the agent's runner says what it has cost.
    fn spends(&mut self, session: &str, provider: &str, input_tokens: u64) -> String {
        let usage = Usage { provider: provider.into(), model: "m".into(), input_tokens, ..Usage::default() };
        self.writes_row(session, None, usage.to_action().to_row())
    }

    fn writes_row(&mut self, session: &str, in_reply_to: Option<&str>, content: (OutKind, String)) -> String {
        self.writes_to(session, Address::default(), in_reply_to, content)
    }

    fn writes_to(
        &mut self,
        session: &str,
        address: Address,
        in_reply_to: Option<&str>,
        (kind, content): (OutKind, String),
    ) -> String {
        self.written += 1;
        let id = format!("out-{}", self.written);
        let row = NewMessageOut {
            id: id.clone(),
            in_reply_to: in_reply_to.map(str::to_owned),
            deliver_after: None,
            kind,
            address,
            content,
        };
        let dir = self.home.session(session, session);
        OutboundDb::open(&dir).unwrap().write(|tx| tx.insert(&row, 0, self.now.wall)).unwrap();
        id
    }

    fn step(&mut self, event: Option<Event>) {
        self.actor.step(self.now, event);
        // The senders' threads, as they would be.
        loop {
            let mut answers = Vec::new();
            for (platform, tasks) in self.platforms.values_mut() {
                platform.now = self.now;
                for task in tasks.try_iter() {
                    match task {
                        Task::ShowTyping { chat, thread_id } => platform.show_typing(&chat, thread_id.as_deref()),
                        Task::Send(_) if matches!(platform.mood, Mood::Answers(n) if platform.asked == n) => {}
                        Task::Send(item) => {
                            let outcome = platform.send(&item);
                            answers.push(Event::Outcome { chat: item.chat, outcome });
                        }
                    }
                }
            }
            if answers.is_empty() {
                return;
            }
            for answer in answers {
                self.actor.step(self.now, Some(answer));
            }
        }
    }

    /// Lets time pass, from one deadline to the next.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.step(None);
            let wait = self.actor.deadline().saturating_duration_since(self.now.instant);
            if self.now.instant + wait >= end.instant {
                self.now = end;
                return self.step(None);
            }
            self.now = self.now + wait.max(Duration::from_millis(1));
        }
    }

    /// A host that was killed and started again: all that is left is on disk.
    fn restart(&mut self) {
        let parts = Delivery {
            store: Store::open(&self.home.store(), self.now.wall).unwrap(),
            home: Arc::clone(&self.home),
            sweep: unbounded().0,
            zone: "UTC".into(),
            senders: self.actor.parts.senders.clone(),
        };
        self.actor = Actor::new(parts, self.now);
        self.actor.take_up();
        self.step(None);
    }

    fn inbound(&self, session: &str) -> InboundDb {
        InboundDb::open(&self.home.session(session, session), Durability::Normal).unwrap()
    }

    fn notes(&self, session: &str) -> Vec<String> {
        let db = self.inbound(session);
        let rows = db.unfinished().unwrap();
        rows.iter().map(|row| row.content.clone()).collect()
    }
}

#[test]
fn six_hours_of_a_dead_platform_lose_nothing_repeat_nothing_and_keep_the_order() {
    let mut w = World::new(3);
    w.platform("telegram").mood = Mood::Down;
    let mut sent = Vec::new();
    for hour in 0..6 {
        for n in 0..3 {
            let text = format!("{n} at {hour}");
            w.says(&format!("telegram-{n}"), &text, None);
            sent.push((format!("telegram-{n}"), text));
        }
        w.says("slack-0", &format!("at {hour}"), None);
        assert_eq!(w.platform("slack").seen.len(), hour + 1, "the other channel does not notice");
        w.pass(HOUR);
    }
    let asked = w.platform("telegram").asked;
    assert!((20..500).contains(&asked), "a dead platform is asked {asked} times in six hours");
    w.platform("telegram").mood = Mood::Up;
    w.pass(HOUR / 3);
    let mut seen = w.platform("telegram").seen.clone();
    for n in 0..3 {
        let chat = format!("telegram-{n}");
        let of = |list: &[(String, String)]| list.iter().filter(|(c, _)| *c == chat).cloned().collect::<Vec<_>>();
        assert_eq!(of(&seen), of(&sent), "each once, in order");
    }
    seen.sort();
    sent.sort();
    assert_eq!(seen, sent);
}

#[test]
fn waiting_survives_a_restart_and_so_do_the_attempts() {
    let mut w = World::new(1);
    w.platform("telegram").mood = Mood::Down;
    let id = w.says("telegram-0", "hello", None);
    w.pass(HOUR);
    let attempts = |w: &World| w.inbound("telegram-0").attempts().unwrap();
    let before = attempts(&w);
    assert!(before.len() == 1 && before[0].attempts >= 5 && before[0].message_out_id == id, "{before:?}");
    w.restart();
    w.pass(HOUR);
    assert!(attempts(&w)[0].attempts > before[0].attempts, "it goes on counting");
    w.platform("telegram").mood = Mood::Up;
    w.pass(HOUR / 2);
    assert_eq!(w.platform("telegram").seen, [("telegram-0".to_owned(), "hello".to_owned())]);
    assert_eq!(attempts(&w), []);
    assert_eq!(w.inbound("telegram-0").delivered(&id).unwrap().unwrap().status, DeliveryStatus::Delivered);
}

/// The durable cursor may not run ahead of what is known to be delivered.
#[test]
fn what_was_read_but_not_delivered_when_the_host_died_is_delivered_by_the_next() {
    let mut w = World::new(1);
    w.platform("telegram").mood = Mood::Answers(80);
    let rows: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for text in &rows {
        w.writes("telegram-0", text, None);
    }
    w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
    assert_eq!(w.platform("telegram").seen.len(), 80);
    assert!(w.inbound("telegram-0").delivery_cursor().unwrap() > 0, "the cursor has moved");
    w.platform("telegram").mood = Mood::Up;
    w.restart();
    w.pass(HOUR);
    let texts: Vec<String> = w.platform("telegram").seen.iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(texts, rows);
}

#[test]
fn a_start_opens_only_what_may_have_something_left() {
    let mut w = World::new(1);
    let settled = |w: &World| w.store.settled_sessions().unwrap().into_iter().map(|s| s.session_id).collect::<Vec<_>>();
    w.says("telegram-0", "one", None);
    assert_eq!(settled(&w), ["telegram-0"], "noted once it is delivered");
    w.writes("telegram-0", "two", None);
    w.restart();
    assert_eq!(w.platform("telegram").seen.len(), 2, "a file that has changed is opened");
    // A note that is wrong shows that the file of a settled session stays closed.
    w.writes("telegram-0", "three", None);
    let dir = w.home.session("telegram-0", "telegram-0");
    let stamp = Stamp::take(&dir.outbound_db()).unwrap().word().unwrap();
    w.store.put_settled_session(&Settled { session_id: "telegram-0".into(), stamp }).unwrap();
    w.restart();
    assert_eq!(w.platform("telegram").seen.len(), 2);
}

#[test]
fn after_a_day_a_message_is_given_up_and_the_agent_is_told() {
    let mut w = World::new(1);
    w.platform("telegram").mood = Mood::Down;
    let id = w.says("telegram-0", "hello", None);
    w.pass(HOUR * 23);
    assert_eq!(w.inbound("telegram-0").delivered(&id).unwrap(), None, "still tried after 23 hours");
    w.pass(HOUR * 10);
    assert_eq!(w.inbound("telegram-0").delivered(&id).unwrap().unwrap().status, DeliveryStatus::Failed);
    assert!(w.notes("telegram-0")[0].contains("given up"), "{:?}", w.notes("telegram-0"));
}

#[test]
fn a_day_is_a_day_however_often_the_circuit_closes_and_the_host_starts() {
    let mut w = World::new(5);
    w.platform("telegram").mood = Mood::Only("telegram-4");
    let ids: Vec<String> = (0..4).map(|n| w.says(&format!("telegram-{n}"), "hello", None)).collect();
    for _ in 0..150 {
        w.says("telegram-4", "up", None);
        w.pass(Duration::from_secs(60));
    }
    let tries = w.inbound("telegram-0").attempts().unwrap()[0].attempts;
    assert!(tries > 120, "{tries}: each answer to another should have been a reason to try");
    w.restart();
    w.pass(HOUR * 21);
    assert_eq!(w.inbound("telegram-0").delivered(&ids[0]).unwrap(), None, "still tried after 23.5 hours");
    w.pass(HOUR);
    assert_eq!(w.inbound("telegram-0").delivered(&ids[0]).unwrap().unwrap().status, DeliveryStatus::Failed);
}

#[test]
fn what_waits_for_one_chat_is_in_nobody_elses_way() {
    let mut w = World::new(0);
    w.platform("telegram").mood = Mood::Only("there");
    let (hello, now) = (serde_json::json!({"text": "hello"}), w.now.wall);
    w.store
        .transaction(|| -> Result<()> {
            for n in 0..=2_500 {
                let chat = if n == 2_500 { "there" } else { "away" };
                let notice = HostMessage::new(&format!("notice-{n}"), "telegram", chat, hello.clone(), now);
                w.store.enqueue_host_message(&notice)?;
            }
            Ok(())
        })
        .unwrap();
    w.step(Some(Event::HostOutbox));
    w.step(Some(Event::HostOutbox));
    assert_eq!(w.platform("telegram").seen, [("there".to_owned(), "hello".to_owned())]);
}

#[test]
fn a_rate_limit_is_honoured_per_chat() {
    let mut w = World::new(2);
    w.platform("telegram").mood = Mood::Limits(Duration::from_secs(30));
    for n in 0..4 {
        w.says("telegram-0", &n.to_string(), None);
    }
    w.says("telegram-1", "other", None);
    let texts = |w: &mut World, chat: &str| {
        let seen = w.platform("telegram").seen.clone();
        seen.into_iter().filter(|(c, _)| c == chat).map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!((texts(&mut w, "telegram-0"), texts(&mut w, "telegram-1")), (vec!["0".into()], vec!["other".into()]));
    w.pass(Duration::from_secs(29));
    assert_eq!(texts(&mut w, "telegram-0"), ["0"]);
    w.pass(Duration::from_secs(2));
    assert_eq!(texts(&mut w, "telegram-0"), ["0", "1"]);
    w.pass(Duration::from_secs(120));
    assert_eq!(texts(&mut w, "telegram-0"), ["0", "1", "2", "3"]);
    assert!(w.platform("telegram").asked <= 9, "asked {} times for five messages", w.platform("telegram").asked);
}

#[test]
fn what_is_refused_for_good_goes_back_to_the_agent_and_an_answer_also_to_the_owner() {
    let mut w = World::new(1);
    w.platform("telegram").mood = Mood::Refuses("the bot was blocked by the user");
    let unasked = w.says("telegram-0", "by the way", None);
    w.pass(Duration::from_secs(1));
    assert_eq!(w.store.pending_host_messages(10).unwrap().len(), 0, "nobody waits for that");
    let answer = w.says("telegram-0", "yes", Some("m1"));
    w.pass(HOUR);
    for id in [unasked, answer] {
        assert_eq!(w.inbound("telegram-0").delivered(&id).unwrap().unwrap().status, DeliveryStatus::Failed);
    }
    let notes = w.notes("telegram-0");
    assert!(notes.len() == 2 && notes.iter().all(|n| n.contains("the bot was blocked by the user")), "{notes:?}");
    let rows = w.inbound("telegram-0").unfinished().unwrap();
    assert!(rows.iter().all(|r| r.trigger == Trigger::Context && r.kind == InKind::Chat), "a note wakes nobody");
    let told = w.store.pending_host_messages(10).unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0].content.to_string().contains("could not be delivered"), "{:?}", told[0].content);
    assert_eq!(w.platform("telegram").asked, 2, "nothing is sent twice");
}

#[test]
fn what_a_row_says_about_later_is_kept_to() {
    let mut w = World::new(1);
    let row = NewMessageOut {
        id: "later".into(),
        in_reply_to: None,
        deliver_after: Some(w.now.wall + HOUR),
        kind: OutKind::Chat,
        address: Address::default(),
        content: r#"{"text":"later"}"#.into(),
    };
    let dir = w.home.session("telegram-0", "telegram-0");
    OutboundDb::open(&dir).unwrap().write(|tx| tx.insert(&row, 0, w.now.wall)).unwrap();
    w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
    w.says("telegram-0", "now", None);
    w.pass(HOUR - Duration::from_secs(1));
    assert_eq!(w.platform("telegram").seen.len(), 1);
    w.pass(Duration::from_secs(2));
    assert_eq!(w.platform("telegram").seen[1].1, "later");
}

#[test]
fn a_black_hole_holds_up_no_other_channel() {
    /// Takes a message and never answers.
    struct Hole(Receiver<()>);
    impl Outbound for Hole {
        fn send(&mut self, _: &OutboundItem) -> Outcome {
            let _ = self.0.recv();
            Outcome::Away
        }
        fn show_typing(&mut self, _: &Chat, _: Option<&str>) {}
    }
    let mut w = World::new(40);
    let (release, held) = bounded(0);
    let (_, tasks) = w.platforms.remove("telegram").unwrap();
    let (answers, _kept) = unbounded();
    let hole = std::thread::spawn(move || crate::sender::run(Box::new(Hole(held)), &tasks, &answers));
    for n in 0..40 {
        w.says(&format!("telegram-{n}"), "into the dark", None);
        w.says(&format!("slack-{n}"), "into the light", None);
    }
    let chats: BTreeSet<String> = w.platform("slack").seen.iter().map(|(chat, _)| chat.clone()).collect();
    assert_eq!(chats.len(), 40);
    drop(release);
    drop(w);
    hole.join().unwrap();
}

#[test]
fn the_sweep_hears_what_a_live_container_has_taken_and_how_long_it_will_be_silent() {
    let mut w = World::new(1);
    let session = "telegram-0".to_owned();
    let dir = w.home.session(&session, &session);
    let message = NewMessageIn::chat("m1".into(), w.now.wall, Address::default(), "{}".into());
    w.inbound(&session).write(|tx| tx.insert(&message).map(drop)).unwrap();
    let mut out = OutboundDb::open(&dir).unwrap();
    let wall = w.now.wall;
    let until = (wall + HOUR).round(jiff::Unit::Second).unwrap();
    let heard = |w: &mut World| -> Vec<(Vec<String>, Option<Timestamp>)> {
        w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
        let progress = |e| match e {
            sweep::Event::Progress { claims, silent_until, .. } => Some((claims, silent_until)),
            _ => None,
        };
        w.sweep.try_iter().filter_map(progress).collect()
    };
    w.step(Some(Event::Live { session_id: session.clone() }));
    assert_eq!(heard(&mut w), [(vec![], None)]);
    out.write(|tx| tx.acknowledge(["m1"], nanoclaw_session::row::AckStatus::Processing, wall)).unwrap();
    assert_eq!(heard(&mut w), [(vec!["m1".to_owned()], None)]);
    assert_eq!(heard(&mut w), [], "said once");
    let state = nanoclaw_session::row::ContainerState { silent_until: Some(until), ..Default::default() };
    out.write(|tx| tx.set_container_state(&state, wall)).unwrap();
    assert_eq!(heard(&mut w), [(vec!["m1".to_owned()], Some(until))]);
    w.step(Some(Event::Live { session_id: session }));
    assert_eq!(w.sweep.try_iter().count(), 1, "said again to a sweep that asks anew");
}

#[test]
fn typing_is_shown_from_the_wake_to_the_end_and_is_never_in_the_way() {
    let mut w = World::new(1);
    w.step(Some(Event::Woken { session_id: "telegram-0".into() }));
    w.pass(Duration::from_secs(9));
    assert_eq!(w.platform("telegram").typing.len(), 3);
    w.step(Some(Event::Gone { session_id: "telegram-0".into() }));
    w.pass(HOUR);
    assert_eq!(w.platform("telegram").typing.len(), 3);
}

#[test]
fn what_cannot_be_written_is_tried_again_while_something_is_in_flight_and_not_in_a_loop() {
    let mut w = World::new(1);
    let mut lock = w.inbound("telegram-0");
    lock.write(|_| {
        w.says("telegram-0", "sent, and not marked", None);
        let _silent = w.platforms.remove("telegram").unwrap();
        w.says("telegram-0", "in flight", None);
        w.now = w.now + Duration::from_secs(10);
        w.step(None);
        assert!(w.actor.deadline() > w.now.instant, "a deadline that is over is waited for in a loop");
        Ok(())
    })
    .unwrap();
    w.now = w.now + Duration::from_secs(10);
    w.step(None);
    assert!(w.inbound("telegram-0").delivered("out-1").unwrap().is_some());
}

#[test]
fn the_end_waits_for_what_could_not_be_written_yet() {
    let mut w = World::new(1);
    let (locked_tx, locked) = bounded(0);
    let mut lock = w.inbound("telegram-0");
    let holder = std::thread::spawn(move || {
        lock.write(|_| {
            locked_tx.send(()).unwrap();
            // Until told, and then long enough for a first try to fail.
            let _told = locked_tx.send(());
            let _ = crossbeam_channel::after(Duration::from_millis(300)).recv();
            Ok(())
        })
        .unwrap();
    });
    locked.recv().unwrap();
    w.says("telegram-0", "hello", None);
    locked.recv().unwrap();
    let (_open, events) = bounded(0);
    w.actor.stop(Instant::now() + Duration::from_secs(10), &events);
    holder.join().unwrap();
    assert!(w.inbound("telegram-0").delivered("out-1").unwrap().is_some(), "it would be sent again");
}

#[test]
fn a_message_of_the_host_that_is_gone_is_done_with() {
    let mut w = World::new(1);
    let source = Source::Host { id: "gone".into() };
    w.actor.conversations.push(Chat::new("telegram", "telegram-0"), Job { source, tries: Tries::default() }, None);
    w.step(None);
    assert!(w.actor.host_marks.is_empty(), "there is nothing to record, now or later");
}

#[test]
fn last_words_that_cannot_be_written_are_tried_ever_later_and_the_sweep_waits() {
    let mut w = World::new(1);
    let drained = |w: &World| w.sweep.try_iter().filter(|e| matches!(e, sweep::Event::Drained { .. })).count();
    let start = w.now.instant;
    let mut lock = w.inbound("telegram-0");
    lock.write(|_| {
        w.step(Some(Event::Dead { session_id: "telegram-0".into(), run_id: "r".into() }));
        for _ in 0..6 {
            w.now = w.now + w.actor.deadline().duration_since(w.now.instant);
            w.step(None);
        }
        assert_eq!(drained(&w), 0);
        Ok(())
    })
    .unwrap();
    let passed = w.now.instant.duration_since(start);
    assert!(passed > Duration::from_secs(1), "seven tries in {passed:?} are a loop");
    w.pass(Duration::from_secs(10));
    assert_eq!(drained(&w), 1);
}

/// What the store holds of a session with an agent of its own: turns, and tokens in.
fn counted(w: &World, session: &str) -> (i64, i64) {
    let sums = w.store.usage_since("", Some(session)).unwrap();
    sums.last().map_or((0, 0), |total| (total.turns, total.input_tokens))
}

#[test]
fn what_a_turn_cost_is_counted_once_whenever_the_host_dies_and_nobody_hears_of_it() {
    let mut w = World::new(1);
    let changed = || Some(Event::Changed { session_id: "telegram-0".into() });
    let first = w.spends("telegram-0", "anthropic", 100);
    w.step(changed());
    w.step(changed());
    assert_eq!(counted(&w, "telegram-0"), (1, 100));
    assert_eq!(w.inbound("telegram-0").delivered(&first).unwrap().unwrap().status, DeliveryStatus::Delivered);
    // Between the store and the session's file: the one has it, the other does not.
    let cut = w.spends("telegram-0", "anthropic", 1_000);
    let mut lock = w.inbound("telegram-0");
    lock.write(|_| {
        w.step(changed());
        assert_eq!(counted(&w, "telegram-0"), (2, 1_100));
        Ok(())
    })
    .unwrap();
    drop(lock);
    assert!(w.inbound("telegram-0").delivered(&cut).unwrap().is_none(), "the host dies here");
    w.restart();
    w.pass(HOUR);
    assert!(w.inbound("telegram-0").delivered(&cut).unwrap().is_some());
    assert_eq!(counted(&w, "telegram-0"), (2, 1_100));
    w.spends("telegram-0", "openai", 10_000);
    w.step(changed());
    assert_eq!(counted(&w, "telegram-0"), (3, 11_100));
    assert_eq!((w.platform("telegram").asked, w.notes("telegram-0")), (0, vec![]));
}

#[test]
fn a_store_that_does_not_answer_delays_the_count_and_loses_nothing() {
    let mut w = World::new(1);
    let breaks = rusqlite::Connection::open(w.home.store()).unwrap();
    breaks.execute_batch("ALTER TABLE usage RENAME TO away").unwrap();
    let row = w.spends("telegram-0", "anthropic", 5);
    w.says("telegram-0", "hello", None);
    assert_eq!(w.platform("telegram").seen.len(), 1, "messages do not wait for it");
    assert!(w.inbound("telegram-0").delivered(&row).unwrap().is_none());
    breaks.execute_batch("ALTER TABLE away RENAME TO usage").unwrap();
    w.pass(HOUR);
    assert!(w.inbound("telegram-0").delivered(&row).unwrap().is_some());
    assert_eq!(counted(&w, "telegram-0"), (1, 5));
}

#[test]
fn an_action_that_is_not_understood_is_told_to_the_agent() {
    let mut w = World::new(1);
    w.spends("telegram-0", "nobody", 5);
    w.writes_row("telegram-0", None, (OutKind::System, r#"{"action":"fly"}"#.into()));
    w.writes_row("telegram-0", None, (OutKind::System, r#"{"action":"usage","model":7}"#.into()));
    w.writes_row("telegram-0", None, (OutKind::System, "{}".into()));
    w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
    let notes = w.notes("telegram-0");
    for (note, why) in notes.iter().zip(["nobody", "fly", "usage needs", "without an action"]) {
        assert!(note.contains(why), "{notes:?}");
    }
    assert_eq!((notes.len(), counted(&w, "telegram-0")), (4, (0, 0)));
}

#[test]
fn what_an_agent_asks_about_a_task_is_done_once_and_what_is_wrong_is_said_to_it() {
    let mut w = World::new(1);
    let ask = |name: &str, arguments: serde_json::Value| {
        let arguments = arguments.as_object().unwrap().clone();
        nanoclaw_session::content::Outbound::Action { name: name.into(), arguments }.to_row()
    };
    let daily = serde_json::json!({"taskId": "task-1", "prompt": "p", "recurrence": "@daily"});
    let first = w.writes_row("telegram-0", None, ask("schedule_task", daily));
    w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
    let status = |w: &World, row: &str| w.inbound("telegram-0").delivered(row).unwrap().unwrap().status;
    assert_eq!(status(&w, &first), DeliveryStatus::Delivered);
    let tasks = w.inbound("telegram-0").tasks().unwrap();
    assert_eq!(tasks.len(), 1);
    w.restart();
    assert_eq!(w.inbound("telegram-0").tasks().unwrap(), tasks, "a start reads the row again");
    let bad = ask("update_task", serde_json::json!({"taskId": "task-1", "recurrence": "never"}));
    let unknown = ask("cancel_task", serde_json::json!({"taskId": "task-2"}));
    for (row, why) in
        [(bad, "cron expression"), (unknown, "there is no task"), (ask("cancel_task", serde_json::json!({})), "taskId")]
    {
        let row = w.writes_row("telegram-0", None, row);
        w.step(Some(Event::Changed { session_id: "telegram-0".into() }));
        assert_eq!(status(&w, &row), DeliveryStatus::Failed);
        assert!(w.notes("telegram-0").last().unwrap().contains(why), "{:?}", w.notes("telegram-0"));
    }
    assert_eq!(w.inbound("telegram-0").tasks().unwrap(), tasks);
}
