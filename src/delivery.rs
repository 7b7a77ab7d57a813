//! Delivery: reads what containers wrote and brings it to people. The one owner of delivery
//! state: it alone marks a row sent, failed or due again.
//!
//! Runs on its own thread and never blocks on a platform: a channel's sender thread does, and
//! answers with an outcome. Never blocks on the sweep either: what it has to tell it waits in
//! [`Actor::for_sweep`].
//!
//! For each row, in this order: read (behind the cursor of this session, [`read`]), queued in its
//! conversation ([`queue`]), checked against the central database ([`resolve`]), handed to the
//! channel's sender ([`send`]), marked in inbound.db ([`session`]). A crash between the hand-over and the
//! mark repeats that one row, and only where the platform has no idempotency of its own.
//!
//! A fault in one session's files costs that session a back-off and a log line.

mod peers;
pub mod queue;
mod read;
mod resolve;
mod send;
mod session;
#[cfg(test)]
mod tests;
mod typing;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use jiff::Timestamp;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::{InStatus, MessageOut};
use nanoclaw_session::stamp::Stamp;

use crate::channel::{Chat, Outcome, TurnResult};
use crate::home::Home;
use crate::memory;
use crate::oneshot::{Barrier, Gate};
use crate::sender;
use crate::store::Store;
use crate::sweep;
use crate::thread;
use crate::time::Now;
use queue::{Conversations, Job, Tries};
use session::{Books, Finished, FoundRow, Life};
use typing::Typing;

/// How often a live session's file is looked at when no notification came.
const FALLBACK_POLL: Duration = Duration::from_secs(1);
/// How long after the last outcome a burst counts as over.
const QUIET: Duration = Duration::from_secs(3);
/// How soon something is tried again that the store did not answer for.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Everything that can wake delivery.
#[derive(Debug)]
pub enum Event {
    /// The container of this session wrote something.
    Changed { session_id: String },
    /// A container of this session is about to run.
    Live { session_id: String },
    /// The container of this session is proven dead: read its last words, then tell the sweep.
    Dead { session_id: String, run_id: String },
    /// The container that was about to run did not.
    Gone { session_id: String },
    /// The sweep has given this message up and told its sender.
    Failed { session_id: String, message_id: String },
    /// A session has a message to answer.
    Woken { session_id: String },
    /// A sender is done with what it was given for this chat.
    Outcome { chat: Chat, outcome: Outcome },
    /// Someone who was away is back.
    Ready { channel: &'static str },
    /// The host has something to say.
    HostOutbox,
    /// These messages are answered without a turn, by what the host has said.
    Handled { chat: Chat, message_ids: Vec<String> },
    /// Passed on once there is nothing to do.
    Barrier(Barrier),
    /// Last event: hand out nothing more, and wait for what is in flight until then.
    Stop { until: Instant },
}

/// What delivery works with.
pub struct Delivery {
    pub store: Store,
    pub home: Arc<Home>,
    pub sweep: Sender<sweep::Event>,
    /// The user's, an IANA name.
    pub zone: String,
    /// The sender thread of each channel, by name.
    pub senders: HashMap<&'static str, Sender<sender::Task>>,
}

/// Where a job comes from, and so where its outcome is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Row { session_id: String, message: MessageOut },
    Host { id: String },
    TurnEnd { message_ids: Vec<String>, result: TurnResult },
}

impl Source {
    fn session_id(&self) -> Option<&str> {
        match self {
            Source::Row { session_id, .. } => Some(session_id),
            Source::Host { .. } | Source::TurnEnd { .. } => None,
        }
    }

    /// A number of its own, for spreading retries.
    fn seed(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self {
            Source::Row { message, .. } => message.id.hash(&mut hasher),
            Source::Host { id } => id.hash(&mut hasher),
            Source::TurnEnd { .. } => {}
        }
        hasher.finish()
    }
}

/// State of the actor.
struct Actor {
    parts: Delivery,
    /// The time of this step.
    now: Now,
    books: HashMap<String, Books>,
    conversations: Conversations<Source>,
    typing: Typing,
    /// Rows with a `deliver_after` that has not come.
    later: Vec<(Timestamp, String, FoundRow)>,
    /// The stamps of the sessions in which nothing is left to do.
    settled: HashMap<String, String>,
    /// The host's messages up to here are queued, or done with.
    host_read_to: i64,
    /// Told to the sweep as soon as it has room.
    for_sweep: VecDeque<sweep::Event>,
    next_poll: Instant,
    /// When freed memory is given back: a while after the last outcome.
    trim_at: Option<Instant>,
    /// Final outcomes of host messages that are still to be recorded.
    host_marks: Vec<(String, Outcome)>,
    host_marks_again: Instant,
    /// How much agents write to each other.
    rates: peers::Rates,
    /// Events that could not be dealt with because the store did not answer.
    postponed: Vec<(Instant, Event)>,
    gate: Gate,
}

impl Delivery {
    /// The thread's body: returns when told to stop.
    pub fn run(self, events: &Receiver<Event>) {
        let mut actor = Actor::new(self, Now::read());
        actor.take_up();
        loop {
            let Ok(event) = thread::next(events, Some(actor.deadline())) else { return };
            if let Some(Event::Stop { until }) = event {
                return actor.stop(until, events);
            }
            actor.step(Now::read(), event);
        }
    }
}

impl Actor {
    fn new(parts: Delivery, now: Now) -> Actor {
        Actor {
            parts,
            now,
            books: HashMap::new(),
            conversations: Conversations::default(),
            typing: Typing::default(),
            later: Vec::new(),
            settled: HashMap::new(),
            host_read_to: 0,
            for_sweep: VecDeque::new(),
            next_poll: now.instant + FALLBACK_POLL,
            trim_at: Some(now.instant + QUIET),
            host_marks: Vec::new(),
            host_marks_again: now.instant,
            rates: peers::Rates::default(),
            postponed: Vec::new(),
            gate: Gate::default(),
        }
    }

    /// What an earlier life left undelivered.
    fn take_up(&mut self) {
        match self.parts.store.settled_sessions() {
            Ok(settled) => self.settled = settled.into_iter().map(|s| (s.session_id, s.stamp)).collect(),
            Err(e) => log::warn!("Every session is looked at error={e}"),
        }
        match self.parts.store.active_sessions() {
            Ok(sessions) => {
                for session in sessions {
                    let dir = self.parts.home.session(&session.agent_group_id, &session.id);
                    let stamp = Stamp::take(&dir.outbound_db()).ok().and_then(|stamp| stamp.word());
                    if stamp.is_none() || stamp.as_ref() != self.settled.get(&session.id) {
                        self.look(&session.id);
                    }
                }
            }
            Err(e) => log::error!("Sessions could not be read error={e}"),
        }
        self.take_host_messages();
        self.dispatch();
        self.flush_idle();
        self.close_quiet_books();
    }

    fn step(&mut self, now: Now, event: Option<Event>) {
        self.now = now;
        match event {
            Some(Event::Barrier(barrier)) => self.gate.hold(barrier),
            Some(event) => {
                self.gate.worked();
                self.handle(event);
            }
            None => {}
        }
        self.on_time();
        self.dispatch();
        self.show_typing();
        self.flush_idle();
        self.close_quiet_books();
        self.tell_sweep();
        if self.gate.until().is_some_and(|until| self.is_quiet(until)) {
            self.gate.open().into_iter().for_each(Barrier::back);
        }
    }

    /// Whether nothing is on its way, and nothing can be sent before `until`.
    fn is_quiet(&self, until: Instant) -> bool {
        // A file nobody writes any more and that cannot be read is for the next start.
        let waits = |b: &Books| b.has_marks() || b.look_again.is_some() && (b.life != Life::None || b.faults == 0);
        self.for_sweep.is_empty()
            && self.postponed.is_empty()
            && self.host_marks.is_empty()
            && !self.books.values().any(waits)
            && self.conversations.all_in_flight().next().is_none()
            && self.conversations.sendable(until).is_empty()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Changed { session_id } => self.look(&session_id),
            Event::Live { session_id } => {
                if let Some(books) = self.books(&session_id) {
                    books.go_live();
                }
                self.look(&session_id);
            }
            Event::Dead { session_id, run_id } => {
                self.typing.ended(&session_id);
                match self.open_books(&session_id) {
                    Ok(Some(books)) => books.life = Life::Dead { run_id },
                    // No such session any more: nothing is claimed.
                    Ok(None) => self.drained(run_id, Vec::new()),
                    Err(_) => {
                        self.postponed.push((self.now.instant + STORE_RETRY, Event::Dead { session_id, run_id }));
                        return;
                    }
                }
                self.look(&session_id);
            }
            Event::Failed { session_id, message_id } => {
                let Some(dir) = self.books(&session_id).map(|books| books.dir.clone()) else { return };
                let ended = InboundDb::open(&dir, Durability::Normal)
                    .and_then(|inbound| Finished::new(&inbound, message_id, InStatus::Failed));
                match ended {
                    Ok(ended) => self.end_turns(&session_id, vec![ended]),
                    Err(e) => log::warn!("A chat could not be told of an end session={session_id} error={e}"),
                }
            }
            Event::Woken { session_id } => self.woken(&session_id),
            Event::Gone { session_id } => {
                self.typing.ended(&session_id);
                if let Some(books) = self.books(&session_id) {
                    books.life = Life::None;
                }
            }
            Event::Outcome { chat, outcome } => {
                self.trim_at = Some(self.now.instant + QUIET);
                self.answered(&chat, outcome);
            }
            Event::Ready { channel } => self.conversations.back(channel),
            Event::HostOutbox => self.take_host_messages(),
            Event::Handled { chat, message_ids } => {
                self.take_host_messages();
                let source = Source::TurnEnd { message_ids, result: TurnResult::Completed };
                self.conversations.push(chat, Job { source, tries: Tries::default() }, None);
            }
            Event::Barrier(_) | Event::Stop { .. } => {}
        }
    }

    fn deadline(&self) -> Instant {
        let now = self.now.instant;
        let mut next = now + Duration::from_secs(3600);
        let mut consider = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        consider(self.conversations.next_release(now));
        consider(self.trim_at);
        consider((!self.host_marks.is_empty()).then_some(self.host_marks_again));
        consider(self.postponed.iter().map(|(at, _)| *at).min());
        consider((!self.for_sweep.is_empty()).then(|| now + Duration::from_millis(5)));
        consider(self.later.iter().map(|(at, ..)| self.now.instant_of(*at)).min());
        consider(self.typing.next_due());
        for books in self.books.values() {
            consider(books.look_again);
            consider(books.flush_again.filter(|_| books.has_marks()));
            consider((books.life == Life::Live).then_some(self.next_poll));
        }
        next
    }

    fn on_time(&mut self) {
        let Now { instant: now, wall } = self.now;
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            memory::trim();
        }
        if self.next_poll <= now {
            self.next_poll = now + FALLBACK_POLL;
            let changed: Vec<String> = self
                .books
                .iter_mut()
                .filter_map(|(id, b)| {
                    (b.life == Life::Live && b.look_again.is_none() && b.may_have_changed(wall)).then(|| id.clone())
                })
                .collect();
            for session_id in changed {
                self.look(&session_id);
            }
        }
        let again: Vec<String> = self
            .books
            .iter()
            .filter(|(_, b)| b.look_again.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for session_id in again {
            self.look(&session_id);
        }
        let (due, later) = std::mem::take(&mut self.postponed).into_iter().partition(|(at, _)| *at <= now);
        self.postponed = later;
        for (_, event) in due {
            self.handle(event);
        }
        if !self.host_marks.is_empty() && self.host_marks_again <= now {
            for (id, outcome) in std::mem::take(&mut self.host_marks) {
                self.host_final(&id, outcome);
            }
        }
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, ..)| *at <= wall);
        self.later = later;
        for (_, session_id, row) in due {
            self.enqueue_row(&session_id, row);
        }
    }

    fn tell_sweep(&mut self) {
        while let Some(event) = self.for_sweep.pop_front() {
            match self.parts.sweep.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => return self.for_sweep.push_front(event),
                // It stopped before us, in order.
                Err(TrySendError::Disconnected(_)) => return self.for_sweep.clear(),
            }
        }
    }

    fn stop(&mut self, until: Instant, events: &Receiver<Event>) {
        while self.conversations.all_in_flight().next().is_some() {
            match events.recv_deadline(until) {
                Ok(Event::Outcome { chat, outcome }) => {
                    self.now = Now::read();
                    self.answered(&chat, outcome);
                }
                Ok(_) => {}
                Err(_) => {
                    log::warn!("A message was still being sent at the end; it may be sent again");
                    break;
                }
            }
        }
        // What is not written now is sent again after the next start.
        while self.books.values().any(Books::has_marks) && Instant::now() < until {
            self.now = Now::read();
            self.flush_idle();
            match self.books.values().filter_map(|b| b.flush_again).min() {
                Some(at) => drop(crossbeam_channel::at(at.min(until)).recv()),
                None => break,
            }
        }
    }
}
