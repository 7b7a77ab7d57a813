//! The agent loop: the actor on the main thread that owns `outbound.db` and the provider.
//!
//! ```text
//! Idle --a row that wakes--> Turn --result or error--> Idle
//!                             |  ^ follow-ups
//!                            stop --> Stopping --thread gone--> Idle
//! ```
//!
//! Rows are claimed (`processing`) in one transaction before the model hears of them, and
//! answered in one: replies, acknowledgements and continuation together. A crash in between
//! leaves claims, which a successor drops, so the rows are asked again. No handle on `inbound.db`
//! outlives a look. A fault of the files ends the process; the host starts it again.

mod books;
mod poll;
mod turns;

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, at, never, select};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use nanoclaw_session::alive::AliveLock;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::inbound::reader::look;
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::outbound::OutboundDb;

use crate::batch::Poll;
use crate::destinations::Current;
use crate::gateway::Gateway;
use crate::provider::{self, Provider, TurnEvent};
use crate::time;
use crate::turn::Turn;
use crate::watcher::{self, Outside};

/// Longest idle time that is believed: a year.
const MAX_IDLE_SECONDS: u64 = 366 * 24 * 3_600;
/// How long a delivered message's files are kept.
const FILES_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Everything that can wake the agent.
enum Event {
    Inbound,
    Turn(TurnEvent),
    /// The turn's thread is gone.
    TurnClosed,
    Deadline,
    /// The provider has begun a turn by itself.
    Woken,
    Terminate,
}

/// What it is doing.
enum Work {
    Idle,
    Turn(Box<Turn>),
    /// A stopped turn whose thread is still there; the next one waits for it.
    Stopping(Receiver<TurnEvent>),
    /// A turn that is asked again when the model's limit is.
    Parked {
        turn: Box<Turn>,
        until: Instant,
    },
}

/// The actor.
pub struct Agent {
    dir: SessionDir,
    config: ContainerConfig,
    zone: TimeZone,
    outbound: OutboundDb,
    provider: Box<dyn Provider>,
    /// The provider's word that it has begun a turn by itself.
    wakes: Receiver<()>,
    /// It has begun one that is not heard yet.
    woken: bool,
    outside: Receiver<Outside>,
    work: Work,
    poll: Poll,
    /// For tools of a running turn.
    destinations: Current,
    /// The highest seq seen in `inbound.db`: ours go above it.
    seen_seq: i64,
    idle_since: Instant,
    /// Until when the running turn was declared to be silent, if it was.
    silent_until: Option<jiff::Timestamp>,
    heartbeat_at: Option<Instant>,
    /// When to look although nothing was heard: a row becomes due, or the file was busy.
    look_at: Option<Instant>,
    /// The pause since a look that found the file busy; none when it was not.
    busy: Option<Duration>,
    _alive: AliveLock,
}

impl Agent {
    /// Takes over the session: lock, own database, then the watch - before the first look. `zone` is
    /// the container's, for when the configuration names none.
    pub fn start(dir: SessionDir, zone: Option<String>, gateway: Gateway) -> Result<Agent> {
        let alive = AliveLock::take(&dir).with_context(|| format!("lock {}", dir.alive().display()))?;
        let config = ContainerConfig::load(&dir).with_context(|| format!("read {}", dir.container_json().display()))?;
        let outbound = OutboundDb::open(&dir).with_context(|| format!("open {}", dir.outbound_db().display()))?;
        forget_files(&dir);
        let outside = watcher::start(&dir).with_context(|| format!("watch {}", dir.root().display()))?;
        let zone = time::zone([config.timezone.as_deref(), zone.as_deref()].into_iter().flatten());
        let provider = provider::named(&config, &dir, &zone, gateway);
        eprintln!("Runner started version={} provider={}", env!("CARGO_PKG_VERSION"), provider.name());
        Ok(Agent {
            dir,
            config,
            zone,
            outbound,
            wakes: provider.wakes(),
            woken: false,
            provider,
            outside,
            work: Work::Idle,
            poll: Poll::First,
            destinations: Current::default(),
            seen_seq: 0,
            idle_since: Instant::now(),
            silent_until: None,
            heartbeat_at: None,
            look_at: None,
            busy: None,
            _alive: alive,
        })
    }

    /// Works until it has been idle for long enough or is told to leave.
    pub fn run(mut self) -> Result<()> {
        self.beat();
        self.look()?;
        loop {
            match self.next_event() {
                Event::Inbound => self.look()?,
                Event::Turn(event) => self.on_turn_event(event)?,
                Event::TurnClosed => self.on_turn_closed()?,
                Event::Deadline => {
                    self.unpark()?;
                    // Also the last look before leaving: a row that comes later stays pending,
                    // and the host wakes a successor for it.
                    self.look()?;
                    if self.is_idle_over() && self.provider.is_busy() {
                        self.idle_since = Instant::now();
                    } else if self.is_idle_over() {
                        eprintln!("Runner leaves reason=idle");
                        return Ok(());
                    }
                }
                Event::Woken => {
                    self.woken = true;
                    self.look()?;
                }
                Event::Terminate => {
                    eprintln!("Runner leaves reason=signal");
                    return Ok(());
                }
            }
        }
    }

    fn next_event(&self) -> Event {
        let (no_turn, no_wake) = (never(), never());
        let wakes = if let Work::Idle = self.work { &self.wakes } else { &no_wake };
        let turn = match &self.work {
            Work::Idle | Work::Parked { .. } => &no_turn,
            Work::Turn(turn) => turn.handle.events(),
            Work::Stopping(events) => events,
        };
        let deadline = self.deadline().map_or_else(never, at);
        select! {
            recv(self.outside) -> event => match event {
                Ok(Outside::Inbound) => Event::Inbound,
                // Without a watcher nothing would be heard of ever again.
                Ok(Outside::Terminate) | Err(_) => Event::Terminate,
            },
            recv(turn) -> event => event.map_or(Event::TurnClosed, Event::Turn),
            recv(deadline) -> _ => Event::Deadline,
            recv(wakes) -> _ => Event::Woken,
        }
    }

    fn idle_over_at(&self) -> Instant {
        self.idle_since + Duration::from_secs(self.config.idle_seconds.min(MAX_IDLE_SECONDS))
    }

    fn is_idle_over(&self) -> bool {
        matches!(self.work, Work::Idle) && self.busy.is_none() && Instant::now() >= self.idle_over_at()
    }

    fn deadline(&self) -> Option<Instant> {
        match self.work {
            Work::Idle if self.busy.is_none() => {
                let idle_over_at = self.idle_over_at();
                Some(self.look_at.map_or(idle_over_at, |at| at.min(idle_over_at)))
            }
            Work::Parked { until, .. } => Some(self.look_at.map_or(until, |at| at.min(until))),
            _ => self.look_at,
        }
    }
}

/// Removes the files of messages whose delivery is long over: the host, which keeps them apart, writes nothing here.
fn forget_files(dir: &SessionDir) {
    let delivered = look(dir, |view| view.delivered_before(time::now() - FILES_KEPT));
    for id in delivered.unwrap_or_else(|e| {
        eprintln!("Old files are kept error={e}");
        Vec::new()
    }) {
        match fs::remove_dir_all(dir.outbox(&id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => eprintln!("Old files are kept message={id} error={e}"),
            _ => {}
        }
    }
}
