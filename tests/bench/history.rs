//! A delivery pass must cost the same whatever a session has behind it: the real delivery in this
//! process, over a session with 100 old rows and one with 100,000.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use nanoclaw::channel::cli::CHANNEL;
use nanoclaw::channel::{Outcome, Payload};
use nanoclaw::delivery::{Delivery, Event};
use nanoclaw::sender::Task;
use nanoclaw::setup::{self, MAIN};
use nanoclaw::store::Store;
use nanoclaw::time::now;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::outbound::OutboundDb;

use crate::Effort;
use crate::host::Place;
use crate::past;
use crate::process::wait_until;
use crate::report::{Report, Weight};
use crate::samples::Samples;

const MAX_RATIO: f64 = 1.5;
const SHORT: usize = 100;
const LONG: usize = 100_000;
const WARM_UPS: usize = 10;
/// Passes that are timed as one.
const QUIET_PASSES: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn measure(report: &mut Report, effort: Effort) -> Result<()> {
    let place = Place::new()?;
    let store = place.store()?;
    let mut sessions = [Past::make(&place, &store, "short", SHORT)?, Past::make(&place, &store, "long", LONG)?];

    let (items_tx, items) = bounded(16);
    // Without a queue, a send returns when the pass before it is over.
    let (events, queue) = bounded(0);
    let (sweep, to_sweep) = bounded(1_024);
    thread::spawn(move || to_sweep.iter().for_each(drop));
    let senders = HashMap::from([(CHANNEL, items_tx)]);
    let delivery = Delivery { store, home: Arc::clone(&place.home), sweep, zone: "UTC".to_owned(), senders };
    let delivery = thread::spawn(move || delivery.run(&queue));

    for past in &sessions {
        events.send(Event::Live { session_id: past.session_id.clone() })?;
    }
    let (mut new_row, mut nothing) = (<[Samples; 2]>::default(), <[Samples; 2]>::default());
    for sample in 0..WARM_UPS + effort.pick(200, 30) {
        for (n, past) in sessions.iter_mut().enumerate() {
            let (quiet, pass) = (past.find_nothing(&events)?, past.deliver_one(&events, &items)?);
            if sample >= WARM_UPS {
                nothing[n].push(quiet);
                new_row[n].push(pass);
            }
        }
    }
    events.send(Event::Stop { until: Instant::now() + PATIENCE })?;
    delivery.join().map_err(|_| anyhow::anyhow!("delivery panicked"))?;

    let mut row = |name: &str, [short, long]: [Samples; 2]| {
        let (short_ms, long_ms) = (short.median_ms(), long.median_ms());
        let note = format!("{long_ms:.2} ms against {short_ms:.2}; N={}, p50", long.len());
        report.at_most(name, long_ms / short_ms, "x", MAX_RATIO, Weight::Fails, note);
    };
    row("delivery pass: 100,000 old rows to 100", new_row);
    row("delivery pass: the same, nothing new", nothing);
    Ok(())
}

/// A session with rows behind it.
struct Past {
    session_id: String,
    dir: SessionDir,
    outbound: OutboundDb,
    next: usize,
}

impl Past {
    fn make(place: &Place, store: &Store, name: &str, rows: usize) -> Result<Past> {
        setup::wire_terminal(store, name, &store.agent_group(MAIN)?)?;
        let session_id = format!("sess-{name}");
        let dir = place.session(store, &session_id, name, None)?;
        Ok(Past { session_id, outbound: past::write(&dir, rows)?, dir, next: 0 })
    }

    fn changed(&self, events: &Sender<Event>) -> Result<()> {
        Ok(events.send(Event::Changed { session_id: self.session_id.clone() })?)
    }

    /// One pass, from the news to the item at the channel's door.
    fn deliver_one(&mut self, events: &Sender<Event>, tasks: &Receiver<Task>) -> Result<Duration> {
        let id = format!("new-{}", self.next);
        self.next += 1;
        self.outbound.write(|tx| tx.insert(&past::reply(&id), 0, now()))?;
        let started = Instant::now();
        self.changed(events)?;
        let task = tasks.recv_timeout(PATIENCE).context("nothing was delivered")?;
        let took = started.elapsed();
        let Task::Send(item) = task else { bail!("{id} was expected, {task:?} came") };
        if item.id != id || !matches!(item.payload, Payload::Text { .. }) {
            bail!("{id} was expected, {item:?} came");
        }
        events.send(Event::Outcome { chat: item.chat, outcome: Outcome::Sent { platform_message_id: None } })?;
        wait_until("the mark", PATIENCE, || {
            Ok(InboundDb::open(&self.dir, Durability::Normal)?.delivered(&id)?.is_some())
        })?;
        Ok(took)
    }

    /// One pass that finds nothing.
    fn find_nothing(&self, events: &Sender<Event>) -> Result<Duration> {
        self.changed(events)?;
        let started = Instant::now();
        for _ in 0..QUIET_PASSES {
            self.changed(events)?;
        }
        Ok(started.elapsed() / QUIET_PASSES)
    }
}
