//! Routing: the real router in this process, against the floor of what it must do - open a
//! session file, insert one row, commit so that power loss does not undo it, close.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Sender, bounded};
use nanoclaw::channel::cli::{CHANNEL, LOCAL_CHAT, LOCAL_USER};
use nanoclaw::channel::{Chat, ChatKind, InboundMessage, Mention};
use nanoclaw::delivery;
use nanoclaw::id::new_id;
use nanoclaw::router::{Event, Router};
use nanoclaw::setup::{self, MAIN};
use nanoclaw::store::Threads;
use nanoclaw::sweep;
use nanoclaw::time::now;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::{Address, NewMessageIn};

use crate::Effort;
use crate::host::Place;
use crate::report::{Report, Weight};
use crate::samples::Samples;

const ALONE_RATIO: f64 = 1.5;
const BURST_RATIO: f64 = 0.3;
const BURST: usize = 1_000;
const SESSIONS: usize = 100;
/// What long-polling platforms hand over at most.
const POLL_BATCH: usize = 100;
/// Floor and router in turns of this many, so that both see the same disk.
const BLOCK: usize = 20;
const WARM_UPS: usize = 20;

pub fn measure(report: &mut Report, effort: Effort) -> Result<()> {
    let place = Place::new()?;
    let store = place.store()?;
    let main = store.agent_group(MAIN)?;
    for n in 0..SESSIONS {
        setup::wire_terminal(&store, &chat_of(n), &main)?;
    }
    let (sweep, wakes) = bounded::<sweep::Event>(1_024);
    thread::spawn(move || wakes.iter().for_each(drop));
    let (delivery, notices) = bounded::<delivery::Event>(1_024);
    thread::spawn(move || notices.iter().for_each(drop));
    let (events, queue) = bounded(16);
    let router = Router { store, home: Arc::clone(&place.home), sweep, delivery };
    let router = thread::spawn(move || router.run(&queue));

    let floor_dir = place.home.session(MAIN, "floor");
    floor_dir.prepare()?;
    for _ in 0..WARM_UPS {
        floor(&floor_dir)?;
        route(&events, &[LOCAL_CHAT.to_owned()])?;
    }
    let (mut floors, mut alone) = (Samples::default(), Samples::default());
    for _ in 0..effort.pick(15, 3) {
        for _ in 0..BLOCK {
            floors.push(floor(&floor_dir)?);
        }
        for _ in 0..BLOCK {
            alone.push(route(&events, &[LOCAL_CHAT.to_owned()])?);
        }
    }
    let rounds = effort.pick(7, 2);
    let one: Vec<String> = vec![LOCAL_CHAT.to_owned(); BURST];
    let many: Vec<String> = (0..BURST).map(|n| chat_of(n % SESSIONS)).collect();
    // The first message of a session makes its folder.
    route(&events, &many)?;
    let (mut burst, mut polled, mut spread) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..rounds {
        burst.push(route(&events, &one)?);
        polled.push(one.chunks(POLL_BATCH).map(|batch| route(&events, batch)).sum::<Result<_>>()?);
        spread.push(route(&events, &many)?);
    }
    drop(events);
    router.join().map_err(|_| anyhow::anyhow!("the router panicked"))?;

    let floor_ms = floors.median_ms();
    let note = format!("N={}, p50; {:.0}/s; one fsync {:.2} ms", floors.len(), 1e3 / floor_ms, report.fsync_ms());
    report.beside("routing: floor", floor_ms, "ms", note);
    let note = |ms: f64, n: usize| format!("x the floor; {ms:.2} ms a message, {:.0}/s; N={n}", 1e3 / ms);
    let mut row = |name: &str, ms: f64, n: usize, at_most: f64| {
        report.at_most(name, ms / floor_ms, "x", at_most, Weight::Fails, note(ms, n));
    };
    row("routing: alone", alone.median_ms(), alone.len(), ALONE_RATIO);
    let each = |samples: &Samples| samples.median_ms() / BURST as f64;
    row("routing: burst of 1,000, one session", each(&burst), rounds, BURST_RATIO);
    row("routing: the same in polls of 100", each(&polled), rounds, BURST_RATIO);
    row("routing: burst of 1,000, 100 sessions", each(&spread), rounds, BURST_RATIO);
    Ok(())
}

fn chat_of(n: usize) -> String {
    format!("bench-{n}")
}

fn content() -> ChatIn {
    ChatIn {
        text: "a message of an ordinary length, as people write them to each other".into(),
        sender: Some("local".into()),
        sender_id: Some(LOCAL_USER.into()),
        ..ChatIn::default()
    }
}

fn floor(dir: &SessionDir) -> Result<Duration> {
    let row = NewMessageIn::chat(new_id("floor"), now(), Address::default(), content().to_json());
    let started = Instant::now();
    InboundDb::open(dir, Durability::Acknowledged)?.write(|tx| tx.insert(&row))?;
    Ok(started.elapsed())
}

/// One message for each of these chats in one batch, until all are on disk.
fn route(events: &Sender<Event>, chats: &[String]) -> Result<Duration> {
    let messages = chats
        .iter()
        .map(|platform_id| InboundMessage {
            id: new_id("bench"),
            chat: Chat { channel_type: CHANNEL.into(), platform_id: platform_id.clone() },
            thread_id: None,
            threads: Threads::Absent,
            kind: ChatKind::Direct,
            mention: Mention::NotAddressed,
            timestamp: now(),
            content: content(),
            attachments: Vec::new(),
            answers: None,
            reply_to: None,
        })
        .collect();
    let (accepted, on_disk) = bounded(1);
    let started = Instant::now();
    events.send(Event::Batch { messages, accepted }).context("the router is gone")?;
    on_disk.recv().context("the router did not take the messages")?;
    Ok(started.elapsed())
}
