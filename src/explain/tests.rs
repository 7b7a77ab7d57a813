//! The true reason, from real files.

use std::sync::Arc;

use crossbeam_channel::{bounded, unbounded};
use jiff::SignedDuration;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::Attempt;

use super::*;
use crate::channel::cli::{CHANNEL, LOCAL_CHAT, LOCAL_USER};
use crate::channel::{Chat, ChatKind, Mention, Threads};
use crate::config::AgentSettings;
use crate::home::HomeLock;
use crate::notice::{self, Repeat};
use crate::router::{Event, Router};
use crate::store::{ContainerRun, RunEnd, StartReason};

/// A home as `init` leaves it: the terminal is wired to `main`, its user is the owner.
struct World {
    _folder: tempfile::TempDir,
    home: Arc<Home>,
    store: Store,
}

/// One container at once, and memory enough.
fn room() -> Room {
    Room { live: 0, max_live: 1, memory_available: Some(1 << 30), memory_reserve: 64 << 20 }
}

fn now() -> Timestamp {
    crate::time::now()
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::locate(Some(folder.path())).unwrap());
    home.create().unwrap();
    let store = Store::open(&home.store(), now()).unwrap();
    let agents = AgentSettings {
        assistant_name: "Claw".into(),
        provider: "demo".into(),
        model: None,
        max_messages_per_prompt: 10,
        timezone: "UTC".into(),
    };
    crate::setup::ensure_defaults(&store, &agents).unwrap();
    World { _folder: folder, home, store }
}

fn message(id: &str, platform_id: &str, text: &str) -> InboundMessage {
    InboundMessage {
        id: id.into(),
        chat: Chat { channel_type: CHANNEL.into(), platform_id: platform_id.into() },
        thread_id: None,
        threads: Threads::Absent,
        kind: ChatKind::Direct,
        mention: Mention::NotAddressed,
        timestamp: "2026-11-21T12:00:00Z".parse().unwrap(),
        content: ChatIn { text: text.into(), sender_id: Some(LOCAL_USER.into()), ..ChatIn::default() },
        attachments: Vec::new(),
        answers: None,
        reply_to: None,
    }
}

impl World {
    /// Routes messages as the daemon does.
    fn route(&self, messages: Vec<InboundMessage>) {
        let ((sweep, _woken), (delivery, _told)) = (unbounded(), unbounded());
        let store = Store::open(&self.home.store(), now()).unwrap();
        let router = Router { store, home: Arc::clone(&self.home), sweep, delivery };
        let (events, inbox) = bounded(1);
        let (accepted, on_disk) = bounded(1);
        let thread = std::thread::spawn(move || router.run(&inbox));
        events.send(Event::Batch { messages, accepted }).unwrap();
        on_disk.recv().unwrap();
        drop(events);
        thread.join().unwrap();
    }

    fn reasons(&self, id: &str) -> Vec<String> {
        past(&self.store, &self.home, room(), id, now()).unwrap().into_iter().map(|f| f.reason).collect()
    }

    fn session(&self) -> Session {
        self.store.sessions().unwrap().remove(0)
    }

    fn inbound(&self) -> InboundDb {
        let session = self.session();
        InboundDb::open(&self.home.session(&session.agent_group_id, &session.id), Durability::Normal).unwrap()
    }

    fn lock(&self) -> HomeLock {
        self.home.lock().unwrap()
    }

    fn begin_run(&self, id: &str) {
        let run = ContainerRun {
            id: id.into(),
            session_id: self.session().id,
            container_name: id.into(),
            container_id: None,
            image: "image".into(),
            started_at: now(),
            start_reason: StartReason::Message,
            ended_at: None,
            end_reason: None,
            exit_code: None,
            oom: false,
        };
        self.store.begin_container_run(&run).unwrap();
    }
}

#[test]
fn a_message_without_a_trace_has_no_findings() {
    assert_eq!(world().reasons("nobody-knows"), Vec::<String>::new());
}

#[test]
fn decisions_are_found_by_the_platforms_id() {
    let world = world();
    world.route(vec![message("u", "elsewhere", "hi"), message("f", LOCAL_CHAT, "/help")]);
    assert_eq!(world.reasons("u"), ["no_wiring"]);
    assert_eq!(world.reasons("f"), ["command_filtered"]);
    world.route(vec![message("d", LOCAL_CHAT, "hi")]);
    world.route(vec![message("d", LOCAL_CHAT, "hi")]);
    assert_eq!(world.reasons("d"), ["duplicate", "daemon_down"]);
    assert_eq!(world.reasons("d:main"), ["daemon_down"], "by the id of its row");
}

#[test]
fn a_message_that_waits_says_for_what() {
    let world = world();
    world.route(vec![message("m", LOCAL_CHAT, "hi")]);
    assert_eq!(world.reasons("m"), ["daemon_down"]);
    let _daemon = world.lock();
    assert_eq!(world.reasons("m"), ["starting"]);
    let short = Room { memory_available: Some(80 << 20), ..room() };
    let finding = past(&world.store, &world.home, short, "m", now()).unwrap().remove(0);
    assert_eq!(finding.reason, "container_waiting");
    assert!(finding.detail.contains("80 MiB are available, 96 are needed"), "{}", finding.detail);
    world.begin_run("one");
    assert_eq!(world.reasons("m"), ["container_waiting"], "one container runs, and one may");
    world.store.set_container_status(&world.session().id, ContainerStatus::Running).unwrap();
    assert_eq!(world.reasons("m"), ["working"]);
}

#[test]
fn a_container_that_fails_is_the_reason() {
    let world = world();
    world.route(vec![message("m", LOCAL_CHAT, "hi")]);
    let _daemon = world.lock();
    world.begin_run("one");
    let end = RunEnd { at: now(), reason: EndReason::Crashed, exit_code: Some(3), oom: false };
    world.store.end_container_run("one", &end).unwrap();
    let findings = past(&world.store, &world.home, room(), "m", now()).unwrap();
    assert_eq!(findings[0].reason, "container_failing");
    assert!(findings[0].detail.contains("crashed, exit code 3"), "{findings:?}");
    let chat = Chat { channel_type: CHANNEL.into(), platform_id: LOCAL_CHAT.into() };
    let key = FaultKind::Start.key(&world.session().id);
    notice::post(&world.store, &chat, None, "there is no image", Repeat::OncePer(&key)).unwrap();
    let findings = past(&world.store, &world.home, room(), "m", now()).unwrap();
    assert!(findings[0].detail.contains("there is no image"), "{findings:?}");
}

#[test]
fn a_retry_an_end_and_a_failure_are_told_apart() {
    let world = world();
    let ids = ["r", "c", "f"];
    world.route(ids.iter().map(|id| message(id, LOCAL_CHAT, id)).collect());
    world
        .inbound()
        .write(|tx| {
            tx.retry("r:main", 2, now() + SignedDuration::from_secs(60))?;
            tx.finish("c:main", InStatus::Completed)?;
            tx.finish("f:main", InStatus::Failed)
        })
        .unwrap();
    let reasons: Vec<_> = ids.iter().flat_map(|id| world.reasons(id)).collect();
    assert_eq!(reasons, ["retry_waiting", "answered", "failed"]);
}

#[test]
fn a_delivery_that_fails_is_the_reason() {
    let world = world();
    world.route(vec![message("m", LOCAL_CHAT, "hi")]);
    let attempt = Attempt {
        message_out_id: "out".into(),
        attempts: 3,
        first_attempt_at: Some(now()),
        next_attempt_at: now(),
        last_error: Some("the platform is down".into()),
    };
    world
        .inbound()
        .write(|tx| {
            tx.finish("m:main", InStatus::Completed)?;
            tx.set_attempt(&attempt)
        })
        .unwrap();
    let findings = past(&world.store, &world.home, room(), "m", now()).unwrap();
    let reasons: Vec<_> = findings.iter().map(|f| f.reason.as_str()).collect();
    assert_eq!(reasons, ["answered", "delivery_failing"]);
    assert!(findings[1].detail.contains("the platform is down"));
}

#[test]
fn a_dry_run_decides_as_the_router_and_writes_nothing() {
    let world = world();
    let try_out = |message: &InboundMessage| -> Vec<(Option<String>, String)> {
        dry_run(&world.store, message).unwrap().into_iter().map(|f| (f.agent, f.reason)).collect()
    };
    let main = Some("main".to_owned());
    assert_eq!(try_out(&message("x", LOCAL_CHAT, "hi")), [(main.clone(), "heard".to_owned())]);
    assert_eq!(try_out(&message("x", LOCAL_CHAT, "/status")), [(main.clone(), "host_command".to_owned())]);
    assert_eq!(try_out(&message("x", LOCAL_CHAT, "/login")), [(main.clone(), "command_filtered".to_owned())]);
    let mut stranger = message("x", LOCAL_CHAT, "/clear");
    stranger.content.sender_id = None;
    assert_eq!(try_out(&stranger), [(main, "command_denied".to_owned())]);
    assert_eq!(try_out(&message("x", "elsewhere", "hi")), [(None, "no_wiring".to_owned())]);
    let mut chat = world.store.find_messaging_group(CHANNEL, LOCAL_CHAT).unwrap().unwrap();
    chat.denied_at = Some(now());
    world.store.update_messaging_group(&chat).unwrap();
    assert_eq!(try_out(&message("x", LOCAL_CHAT, "hi")), [(None, "chat_denied".to_owned())]);
    assert_eq!(world.store.sessions().unwrap(), []);
    assert_eq!(world.store.decisions(10).unwrap(), []);
    assert_eq!(world.store.messaging_groups().unwrap().len(), 1);
}
