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

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, at, never, select};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use nanoclaw_session::alive::{AliveLock, touch_heartbeat};
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::content::{Control, Inbound, Outbound};
use nanoclaw_session::inbound::is_transient;
use nanoclaw_session::inbound::reader::{InboundView, look};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::outbound::{OutboundDb, OutboundTx, continuation_key};
use nanoclaw_session::row::{AckStatus, ContainerState, InKind, MessageIn, NewMessageOut};

use crate::batch::{self, Gate, Poll};
use crate::command::{self, Command};
use crate::cost::{self, Spent};
use crate::destinations::Destinations;
use crate::gateway::Gateway;
use crate::prompt::{format, system};
use crate::provider::{
    self, ErrorClass, Outgoing, Prompt, Provider, TurnError, TurnEvent, TurnHandle, TurnRequest, TurnResult, Usage,
};
use crate::reply::{Reply, route};
use crate::turn::{Asked, Attempt, Nudge, Share, Turn};
use crate::watcher::{self, Outside};
use crate::{id, memory, time};

/// First pause before a look that found the file in the middle of something; it doubles.
const LOOK_AGAIN: Duration = Duration::from_millis(3);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(200);
/// Tries of one write; each waits for the lock as long as the session crate allows.
const MAX_WRITE_TRIES: u32 = 10;
/// Longest idle time that is believed: a year.
const MAX_IDLE_SECONDS: u64 = 366 * 24 * 3_600;
/// Least time between two touches of the heartbeat.
const HEARTBEAT_STEP: Duration = Duration::from_secs(1);
/// Most that is read of the instructions, and of the agent's memory. bytes
const MAX_INSTRUCTIONS_BYTES: u64 = 256 * 1024;
/// How long a delivered message's files are kept.
const FILES_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Longest wait for a limit of the model: the host believes in no silence beyond two hours (rule 9).
const MAX_PARKED: Duration = Duration::from_secs(110 * 60);
/// What a tool may take beyond its declared time to be killed and to report.
const TOOL_MARGIN: Duration = Duration::from_secs(10);
/// Due times are compared in milliseconds; waking a little late saves a second look.
const DUE_MARGIN: Duration = Duration::from_millis(2);

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

/// What one look at `inbound.db` showed.
struct Seen {
    max_seq: i64,
    next_due: Option<jiff::Timestamp>,
    controls: Vec<(String, Control)>,
    rows: Vec<MessageIn>,
    destinations: Arc<Destinations>,
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
        let provider = provider::named(&config, &dir, gateway);
        let zone = time::zone([config.timezone.as_deref(), zone.as_deref()].into_iter().flatten());
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

    /// Looks at `inbound.db` and acts on what is new.
    fn look(&mut self) -> Result<()> {
        let seen = match look(&self.dir, |view| self.read(view)) {
            Ok(seen) => seen,
            Err(e) if is_transient(&e) => {
                let pause = self.busy.map_or(LOOK_AGAIN, |last| (last * 2).min(LOOK_AGAIN_MAX));
                self.busy = Some(pause);
                self.look_at = Some(Instant::now() + pause);
                return Ok(());
            }
            Err(e) => return Err(e).with_context(|| format!("read {}", self.dir.inbound_db().display())),
        };
        self.busy = None;
        self.poll = Poll::Later;
        self.seen_seq = self.seen_seq.max(seen.max_seq);
        self.look_at = seen.next_due.map(|due| {
            let wait = due.duration_since(time::now());
            Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO) + DUE_MARGIN
        });
        for (id, control) in seen.controls {
            self.obey(&id, control)?;
        }
        let was_woken = std::mem::take(&mut self.woken);
        let mut rows = seen.rows;
        // A command stands alone: what came before it is answered first, and what came after it next.
        let command = rows.iter().enumerate().find_map(|(at, row)| Some((at, command::of(row)?)));
        if let Some((at, _)) = command {
            rows.truncate(at.max(1));
        }
        if rows.is_empty() {
            return match self.work {
                // What the provider has to say answers no row.
                Work::Idle if was_woken => {
                    self.start_turn(Share::new(&[], String::new(), Vec::new()), seen.destinations)
                }
                _ => Ok(()),
            };
        }
        let text = format::batch(&rows, &seen.destinations, &self.zone, self.dir.root());
        let share = Share::new(&rows, text, format::files(&rows, self.dir.root()));
        match (&self.work, command) {
            (Work::Idle, Some((0, command))) => self.command(command, share, seen.destinations),
            (_, Some((0, _))) | (Work::Stopping(_) | Work::Parked { .. }, _) => Ok(()),
            (Work::Idle, _) => {
                self.claim(&share.prompt.message_ids)?;
                self.start_turn(share, seen.destinations)
            }
            (Work::Turn(turn), _) if turn.asked == Asked::Command => Ok(()),
            (Work::Turn(_), _) => self.push(share, seen.destinations),
        }
    }

    /// Everything a look needs, of one moment.
    fn read(&self, view: &InboundView) -> rusqlite::Result<Seen> {
        let now = time::now();
        let mut pending = Vec::new();
        for row in view.pending(now)? {
            if self.outbound.ack(&row.id)?.is_none() {
                pending.push(row);
            }
        }
        let mut controls = Vec::new();
        for row in pending.iter().filter(|row| row.kind == InKind::System) {
            let content = view.message(&row.id)?.map(|m| Inbound::parse(m.kind, &m.content));
            if let Some(Inbound::System(Some(control))) = content {
                controls.push((row.id.clone(), control));
            }
        }
        let gate = match self.work {
            Work::Idle => Gate::NeedsTrigger,
            Work::Turn(_) | Work::Stopping(_) | Work::Parked { .. } => Gate::Open,
        };
        let max = self.config.max_messages_per_prompt as usize;
        let mut rows = Vec::new();
        for row in batch::select(&pending, max, self.poll, gate) {
            rows.extend(view.message(&row.id)?);
        }
        let destinations =
            if rows.is_empty() && !self.woken { Destinations::default() } else { read_destinations(view)? };
        let (max_seq, next_due) = (view.max_seq()?, view.next_due(now)?);
        Ok(Seen { max_seq, next_due, controls, rows, destinations: Arc::new(destinations) })
    }

    fn claim(&mut self, ids: &[String]) -> Result<()> {
        self.write(|tx| tx.acknowledge(ids.iter().map(String::as_str), AckStatus::Processing, time::now()))
    }

    /// Starts a turn with rows that are claimed already.
    fn start_turn(&mut self, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        self.beat();
        let continuation = self.continuation()?;
        let handle = self.ask(share.prompt.clone(), &destinations, continuation)?;
        self.work = Work::Turn(Box::new(Turn::new(Asked::Prompt, handle, share, destinations)));
        Ok(())
    }

    /// Answers a slash command, in a turn of its own.
    fn command(&mut self, command: Command, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        self.claim(&share.prompt.message_ids)?;
        let continuation = self.continuation()?;
        let text = match command {
            Command::Provider(command) if continuation.is_some() => {
                let request = self.request(share.prompt.clone(), &destinations, continuation)?;
                let handle = self.provider.start(TurnRequest { command: Some(command), ..request });
                return self.run_command(handle, share, destinations);
            }
            Command::Provider(_) => "We have no conversation yet.".into(),
            Command::Clear => {
                let key = continuation_key(self.provider.name());
                self.write(|tx| tx.forget_state(&key))?;
                "I have forgotten our conversation; my files and my memory are as they were.".into()
            }
            Command::Cost => self.spent()?.shown(),
            Command::Files => command::files(&self.dir.root().join("agent")),
        };
        self.run_command(provider::say(text), share, destinations)
    }

    fn run_command(
        &mut self,
        handle: std::io::Result<TurnHandle>,
        share: Share,
        destinations: Arc<Destinations>,
    ) -> Result<()> {
        let handle = handle.context("start a turn")?;
        self.work = Work::Turn(Box::new(Turn::new(Asked::Command, handle, share, destinations)));
        Ok(())
    }

    /// What this session has cost with this provider.
    fn spent(&self) -> Result<Spent> {
        let stored = self.outbound.state(&Spent::key(self.provider.name())).context("read the usage")?;
        Ok(Spent::parse(stored.as_deref()))
    }

    fn ask(&self, prompt: Prompt, destinations: &Destinations, continuation: Option<String>) -> Result<TurnHandle> {
        self.provider.start(self.request(prompt, destinations, continuation)?).context("start a turn")
    }

    fn request(
        &self,
        prompt: Prompt,
        destinations: &Destinations,
        continuation: Option<String>,
    ) -> Result<TurnRequest> {
        let instructions = read_or_empty(&self.dir.instructions())?;
        let memory = read_or_empty(&self.dir.memory())?;
        let system = system::prompt(&instructions, &memory, destinations);
        Ok(TurnRequest { prompt, command: None, system, continuation })
    }

    fn continuation(&mut self) -> Result<Option<String>> {
        self.outbound.continuation(self.provider.name(), time::now()).context("read the continuation")
    }

    /// Hands new rows to the running turn; what it does not take stays pending for the next one.
    fn push(&mut self, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        let Work::Turn(turn) = &mut self.work else { return Ok(()) };
        if !turn.handle.push(share.prompt.clone()) {
            return Ok(());
        }
        turn.destinations = destinations;
        let ids = share.prompt.message_ids.clone();
        turn.pushed.push(share);
        self.claim(&ids)?;
        // There may be more than one batch.
        self.look()
    }

    fn obey(&mut self, id: &str, control: Control) -> Result<()> {
        let Control::Stop = control;
        let Some(mut turn) = self.take_turn() else {
            return self.write(|tx| tx.acknowledge([id], AckStatus::Completed, time::now()));
        };
        eprintln!("Turn stopped");
        let rows = [turn.text_row(id::message(time::now()), None, "Stopped.".into())];
        let claims: Vec<String> = turn.claim_ids().chain([id.to_owned()]).collect();
        let costs = std::mem::take(&mut turn.costs);
        self.work = Work::Stopping(turn.handle.stop());
        self.end_rows(&rows, &claims, AckStatus::Completed, None, costs)
    }

    /// The running turn, which the caller ends or puts back; `None` leaves everything as it is.
    fn take_turn(&mut self) -> Option<Box<Turn>> {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Turn(turn) | Work::Parked { turn, .. } => Some(turn),
            other => {
                self.work = other;
                None
            }
        }
    }

    fn on_turn_event(&mut self, event: TurnEvent) -> Result<()> {
        self.beat();
        if !matches!(self.work, Work::Turn(_)) {
            return Ok(());
        }
        match event {
            TurnEvent::Activity => Ok(()),
            TurnEvent::Init { continuation } => {
                let key = continuation_key(self.provider.name());
                self.write(|tx| tx.set_state(&key, &continuation, time::now()))
            }
            TurnEvent::Waiting { until } => {
                if self.silent_until.is_some_and(|declared| declared >= until) {
                    return Ok(());
                }
                self.silent_until = Some(until);
                self.write(|tx| tx.set_container_state(&silent(until), time::now()))
            }
            TurnEvent::ToolStarted { name, deadline } => self.tool_started(name, deadline),
            TurnEvent::ToolEnded => self.tool_ended(),
            TurnEvent::Cost { model, usage } => {
                if let Work::Turn(turn) = &mut self.work {
                    *turn.costs.entry(model).or_default() += usage;
                }
                Ok(())
            }
            TurnEvent::Send(outgoing) => self.send(outgoing),
            TurnEvent::Notice(text) => self.notice(text),
            TurnEvent::Result(result) => self.finish(result),
            TurnEvent::Error(error) => self.fail(error),
        }
    }

    /// The host holds us to what we declare here (rule 9).
    fn tool_started(&mut self, name: String, deadline: Option<Duration>) -> Result<()> {
        let now = time::now();
        let silent_until = deadline.map(|d| now + d + TOOL_MARGIN);
        self.silent_until = self.silent_until.max(silent_until);
        let state = ContainerState {
            current_tool: Some(name),
            tool_declared_timeout_ms: deadline.map(|d| d.as_millis().try_into().unwrap_or(i64::MAX)),
            tool_started_at: Some(now),
            phase: Some("turn".into()),
            silent_until: self.silent_until,
        };
        self.write(|tx| tx.set_container_state(&state, now))
    }

    fn tool_ended(&mut self) -> Result<()> {
        let state =
            ContainerState { phase: Some("turn".into()), silent_until: self.silent_until, ..Default::default() };
        self.write(|tx| tx.set_container_state(&state, time::now()))
    }

    fn on_turn_closed(&mut self) -> Result<()> {
        if let Work::Turn(_) = self.work {
            let sentence = "My provider broke off without an answer.".into();
            return self.fail(TurnError { class: ErrorClass::Transient, sentence });
        }
        self.rest()
    }

    /// Writes what the agent sends in the middle of a turn.
    fn send(&mut self, outgoing: Outgoing) -> Result<()> {
        let Work::Turn(turn) = &mut self.work else { return Ok(()) };
        let Outgoing { id, to, message } = outgoing;
        let destinations = turn.destinations.clone();
        let peer = to.as_deref().and_then(|name| destinations.by_name(name));
        if let (Some(name), None) = (&to, peer) {
            eprintln!("Message dropped reason=unknown-destination to={name:?}");
            return Ok(());
        }
        match (&message, peer) {
            (Outbound::Text { text, files }, Some(peer)) if files.is_empty() => turn.sent.text(&peer.name, text),
            _ => turn.sent.other(),
        }
        let address = destinations.address(peer);
        let row = turn.row(id, address, &message);
        let seen_seq = self.seen_seq;
        self.write(|tx| tx.insert(&row, seen_seq, time::now()).map(drop))
    }

    /// Tells the user something in the middle of a turn, on the runner's own account.
    fn notice(&mut self, text: String) -> Result<()> {
        let Work::Turn(turn) = &self.work else { return Ok(()) };
        let row = turn.text_row(id::message(time::now()), None, text);
        let seen_seq = self.seen_seq;
        self.write(|tx| tx.insert(&row, seen_seq, time::now()).map(drop))
    }

    /// A turn has ended well - unless the agent must be told that something was not sent.
    fn finish(&mut self, result: TurnResult) -> Result<()> {
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        turn.answered(result.follow_ups_taken);
        if turn.asked == Asked::Command {
            let row = turn.text_row(id::message(time::now()), None, result.texts.join("\n\n"));
            let claims: Vec<String> = turn.claim_ids().collect();
            self.end_rows(&[row], &claims, AckStatus::Completed, result.continuation, turn.costs)?;
            return self.rest();
        }
        let outcome = route(Reply::of(&result.texts), &turn.destinations, &turn.sent);
        for message in outcome.sends {
            turn.sent.text(&message.to, &message.text);
            let row = turn.text_row(id::message(time::now()), Some(&message.to), message.text);
            turn.outbox.push(row);
        }
        match (outcome.nudge, turn.nudge) {
            (Some(note), Nudge::Unused) => return self.nudge(turn, note, result.continuation),
            (Some(note), Nudge::Used) => eprintln!("Agent not told again note={note:?}"),
            (None, _) => {}
        }
        let claims: Vec<String> = turn.given.claims.iter().map(|c| c.id.clone()).collect();
        let costs = std::mem::take(&mut turn.costs);
        self.end_rows(&turn.outbox, &claims, AckStatus::Completed, result.continuation, costs)?;
        match Share::joined(turn.pushed) {
            // They came too late for this turn, and are claimed already.
            Some(late) => self.start_turn(late, turn.destinations),
            None => self.rest(),
        }
    }

    /// Tells the agent, in the same turn, what became of its answer.
    fn nudge(&mut self, mut turn: Box<Turn>, note: String, continuation: Option<String>) -> Result<()> {
        let continuation = if continuation.is_some() { continuation } else { self.continuation()? };
        let prompt = Prompt { text: format!("A note from your runner: {note}"), ..Prompt::default() };
        turn.handle = self.ask(prompt, &turn.destinations, continuation)?;
        turn.nudge = Nudge::Used;
        if let Some(late) = Share::joined(std::mem::take(&mut turn.pushed)) {
            // A fresh turn has room for one. If it is gone already, nothing counts as answered.
            turn.handle.push(late.prompt.clone());
            turn.pushed.push(late);
        }
        self.work = Work::Turn(turn);
        Ok(())
    }

    /// A turn has failed: once more without the continuation if that was at fault, else the user
    /// is told.
    fn fail(&mut self, error: TurnError) -> Result<()> {
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        eprintln!("Turn failed class={:?} error={:?}", error.class, error.sentence);
        if error.class == ErrorClass::StaleContinuation && turn.attempt == Attempt::Continued {
            let shares = std::iter::once(turn.given.clone()).chain(std::mem::take(&mut turn.pushed));
            if let Some(share) = Share::joined(shares) {
                turn.given = share;
            }
            turn.handle = self.ask(turn.given.prompt.clone(), &turn.destinations, None)?;
            turn.attempt = Attempt::Afresh;
            self.work = Work::Turn(turn);
            return Ok(());
        }
        if let ErrorClass::Quota { reset } = error.class {
            let wait = Duration::try_from(reset.duration_since(time::now())).unwrap_or_default();
            if wait <= MAX_PARKED {
                return self.park(turn, reset, wait);
            }
        }
        let claims: Vec<String> = turn.claim_ids().collect();
        // What was answered before a nudge is an answer all the same.
        let status = if turn.outbox.is_empty() { AckStatus::Failed } else { AckStatus::Completed };
        if turn.outbox.is_empty() {
            let row = turn.text_row(id::message(time::now()), None, self.sentence(error));
            turn.outbox.push(row);
        }
        let costs = std::mem::take(&mut turn.costs);
        self.end_rows(&turn.outbox, &claims, status, None, costs)?;
        self.rest()
    }

    /// The model's limit is used up: the user is told once, and the turn waits.
    fn park(&mut self, mut turn: Box<Turn>, reset: jiff::Timestamp, wait: Duration) -> Result<()> {
        let sentence = format!("{} I will go on then.", self.used_up(reset));
        let row = turn.text_row(id::message(time::now()), None, sentence);
        let first = !std::mem::replace(&mut turn.parked, true);
        let seen_seq = self.seen_seq;
        self.silent_until = Some(reset + TOOL_MARGIN);
        let state = silent(reset + TOOL_MARGIN);
        self.write(|tx| {
            if first {
                tx.insert(&row, seen_seq, time::now())?;
            }
            tx.set_container_state(&state, time::now())
        })?;
        self.work = Work::Parked { turn, until: Instant::now() + wait };
        Ok(())
    }

    /// Asks again what was parked, when it is time.
    fn unpark(&mut self) -> Result<()> {
        if !matches!(self.work, Work::Parked { until, .. } if until <= Instant::now()) {
            return Ok(());
        }
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        let continuation = self.continuation()?;
        turn.handle = self.ask(turn.given.prompt.clone(), &turn.destinations, continuation)?;
        self.work = Work::Turn(turn);
        Ok(())
    }

    fn used_up(&self, reset: jiff::Timestamp) -> String {
        format!("The model's limit is used up until {}.", time::local(reset, &self.zone))
    }

    fn sentence(&self, error: TurnError) -> String {
        match error.class {
            ErrorClass::Quota { reset } => format!("{} Please write again then.", self.used_up(reset)),
            _ => error.sentence,
        }
    }

    /// The end of a turn in one transaction.
    fn end_rows(
        &mut self,
        messages: &[NewMessageOut],
        claims: &[String],
        status: AckStatus,
        continuation: Option<String>,
        costs: BTreeMap<String, Usage>,
    ) -> Result<()> {
        let key = continuation_key(self.provider.name());
        let spent = if costs.is_empty() { None } else { Some(self.spent()?.plus(&costs)) };
        let (provider, spent_key) = (self.provider.name().to_owned(), Spent::key(self.provider.name()));
        let seen_seq = self.seen_seq;
        // What stays as it is costs no page: a turn writes little, since it may be an SD card.
        let stored = self.outbound.state(&key).context("read the continuation")?;
        let continuation = continuation.filter(|new| stored.as_ref() != Some(new));
        let was_silent = self.silent_until.is_some();
        self.write(|tx| {
            let now = time::now();
            for message in messages {
                tx.insert(message, seen_seq, now)?;
            }
            if let Some(spent) = &spent {
                for report in cost::reports(&provider, &costs, now) {
                    tx.insert(&report, seen_seq, now)?;
                }
                tx.set_state(&spent_key, &spent.to_json(), now)?;
            }
            tx.acknowledge(claims.iter().map(String::as_str), status, now)?;
            if let Some(continuation) = &continuation {
                tx.set_state(&key, continuation, now)?;
            }
            if was_silent { tx.set_container_state(&ContainerState::default(), now) } else { Ok(()) }
        })?;
        self.silent_until = None;
        self.beat();
        Ok(())
    }

    /// No turn runs any more: what came meanwhile is next.
    fn rest(&mut self) -> Result<()> {
        self.work = Work::Idle;
        self.idle_since = Instant::now();
        memory::trim();
        self.look()
    }

    /// Writes to our own database. The host's readers take short locks, so a busy file is tried
    /// again; anything else is a fault.
    fn write<T>(&mut self, f: impl Fn(&OutboundTx<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            match self.outbound.write(&f) {
                Err(e) if is_transient(&e) && tries < MAX_WRITE_TRIES => tries += 1,
                result => return result.with_context(|| format!("write {}", self.dir.outbound_db().display())),
            }
        }
    }

    /// Touches the heartbeat, at most once a second. A failure costs nothing but the sign of life.
    fn beat(&mut self) {
        if self.heartbeat_at.is_some_and(|at| at.elapsed() < HEARTBEAT_STEP) {
            return;
        }
        self.heartbeat_at = Some(Instant::now());
        if let Err(e) = touch_heartbeat(&self.dir, time::now()) {
            eprintln!("Heartbeat not touched error={e}");
        }
    }
}

/// The start of a text file; empty when there is none. The agent may have written anything into
/// its memory, so it is cut rather than refused.
fn read_or_empty(path: &Path) -> Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_INSTRUCTIONS_BYTES).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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

fn read_destinations(view: &InboundView) -> rusqlite::Result<Destinations> {
    let routing = view.routing()?;
    let thread = match (&routing.channel_type, &routing.platform_id) {
        (Some(channel), Some(platform)) => view.latest_thread(channel, platform)?,
        _ => None,
    };
    Ok(Destinations::new(view.destinations()?, routing, thread))
}

fn silent(until: jiff::Timestamp) -> ContainerState {
    ContainerState { phase: Some("turn".into()), silent_until: Some(until), ..ContainerState::default() }
}
