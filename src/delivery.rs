//! Delivery: reads what containers wrote and brings it to people. The one owner of delivery
//! state: it alone marks a row sent, failed or due again.
//!
//! Runs on its own thread and never blocks on a platform: a channel's sender thread does, and
//! answers with an outcome. Never blocks on the sweep either: what it has to tell it waits in
//! [`Actor::for_sweep`].
//!
//! For each row, in this order: read (behind the cursor of this session), checked against the
//! central database ([`resolve`]), queued in its conversation ([`queue`]), handed to the
//! channel's sender, marked in inbound.db ([`session`]). A crash between the hand-over and the
//! mark repeats that one row, and only where the platform has no idempotency of its own.
//!
//! A fault in one session's files costs that session a back-off and a log line.

pub mod queue;
mod resolve;
mod session;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use jiff::Timestamp;
use nanoclaw_session::content::{ChatIn, Outbound};
use nanoclaw_session::row::{Address, DeliveryStatus, InStatus, MessageOut, NewMessageIn, Trigger};
use nanoclaw_session::untrusted::{UntrustedError, open_untrusted, recover_copy};

use crate::channel::{Chat, OutboundItem, Outcome, Payload, TurnResult};
use crate::home::Home;
use crate::id::new_id;
use crate::memory;
use crate::oneshot::{Barrier, Gate};
use crate::store::{HostMessage, Store, StoreError};
use crate::sweep;
use crate::thread;
use queue::{Conversations, Job, MAX_ATTEMPTS, backoff};
use resolve::Resolved;
use session::{Books, Flushed, Found, FoundRow, Life, LookError, wait_until};

/// How often a live session's file is looked at when no notification came.
const FALLBACK_POLL: Duration = Duration::from_secs(1);
/// How long after the last outcome a burst counts as over.
const QUIET: Duration = Duration::from_secs(3);
/// How soon something is tried again that the store did not answer for.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Looks at one session before the others have their turn.
const MAX_LOOKS_IN_A_ROW: usize = 4;
/// Looks at what a dead container left that may fail before its session goes on without.
const MAX_FAULTS_OF_THE_DEAD: u32 = 8;
/// Host messages taken up at once.
const HOST_MESSAGES_PER_LOOK: u32 = 1_000;
/// How long an unknown channel's messages wait between tries.
const NO_CHANNEL_WAIT: Duration = Duration::from_secs(60);

/// Everything that can wake delivery.
#[derive(Debug)]
pub enum Event {
    /// The container of this session wrote something.
    Changed {
        session_id: String,
    },
    /// A container of this session is about to run.
    Live {
        session_id: String,
    },
    /// The container of this session is proven dead: read its last words, then tell the sweep.
    Dead {
        session_id: String,
        run_id: String,
    },
    /// The container that was about to run did not.
    Gone {
        session_id: String,
    },
    /// The sweep has given this message up and told its sender.
    Failed {
        session_id: String,
        message_id: String,
    },
    /// A sender is done with what it was given for this chat.
    Outcome {
        chat: Chat,
        outcome: Outcome,
    },
    /// Someone who was away is back.
    Ready {
        channel: &'static str,
    },
    /// The host has something to say.
    HostOutbox,
    /// These messages are answered without a turn, by what the host has said.
    Handled {
        chat: Chat,
        message_ids: Vec<String>,
    },
    Barrier(Barrier),
    /// Last event: hand out nothing more, and wait for what is in flight until then.
    Stop {
        until: Instant,
    },
}

/// What delivery works with.
pub struct Delivery {
    pub store: Store,
    pub home: Arc<Home>,
    pub sweep: Sender<sweep::Event>,
    /// The sender thread of each channel, by name.
    pub senders: HashMap<&'static str, Sender<OutboundItem>>,
}

/// Where a job comes from, and so where its outcome is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Row { session_id: String, message: MessageOut },
    Host { id: String },
    TurnEnd { message_ids: Vec<String>, result: TurnResult },
}

/// State of the actor.
struct Actor {
    parts: Delivery,
    books: HashMap<String, Books>,
    conversations: Conversations<Source>,
    /// Rows with a `deliver_after` that has not come.
    later: Vec<(Timestamp, String, FoundRow)>,
    /// Host messages that are queued.
    host_queued: HashSet<String>,
    /// Told to the sweep as soon as it has room.
    for_sweep: VecDeque<sweep::Event>,
    next_poll: Instant,
    /// When freed memory is given back: a while after the last outcome.
    trim_at: Option<Instant>,
    /// Final outcomes of host messages that are still to be recorded.
    host_marks: Vec<(String, Outcome)>,
    host_marks_again: Instant,
    /// Events that could not be dealt with because the store did not answer.
    postponed: Vec<(Instant, Event)>,
    gate: Gate,
}

impl Delivery {
    /// The thread's body: returns when told to stop.
    pub fn run(self, events: &Receiver<Event>) {
        let now = Instant::now();
        let mut actor = Actor {
            parts: self,
            books: HashMap::new(),
            conversations: Conversations::default(),
            later: Vec::new(),
            host_queued: HashSet::new(),
            for_sweep: VecDeque::new(),
            next_poll: now + FALLBACK_POLL,
            trim_at: Some(now + QUIET),
            host_marks: Vec::new(),
            host_marks_again: now,
            postponed: Vec::new(),
            gate: Gate::default(),
        };
        actor.take_up();
        loop {
            let Ok(event) = thread::next(events, Some(actor.deadline())) else { return };
            if let Some(Event::Stop { until }) = event {
                return actor.stop(until, events);
            }
            actor.step(event);
        }
    }
}

impl Actor {
    /// What an earlier life left undelivered.
    fn take_up(&mut self) {
        match self.parts.store.active_sessions() {
            Ok(sessions) => {
                for session in sessions {
                    self.look(&session.id);
                }
            }
            Err(e) => log::error!("Sessions could not be read error={e}"),
        }
        self.take_host_messages();
        self.dispatch();
        self.flush_idle();
        self.close_quiet_books();
    }

    fn step(&mut self, event: Option<Event>) {
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
        let waits = |b: &Books| b.has_marks() || b.look_again.is_some() && (b.life != Life::None || b.faults() == 0);
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
                    books.life = Life::Live;
                }
                self.look(&session_id);
            }
            Event::Dead { session_id, run_id } => {
                match self.open_books(&session_id) {
                    Ok(Some(books)) => books.life = Life::Dead { run_id },
                    // No such session any more: nothing is claimed.
                    Ok(None) => self.drained(run_id, Vec::new()),
                    Err(_) => {
                        self.postponed.push((Instant::now() + STORE_RETRY, Event::Dead { session_id, run_id }));
                        return;
                    }
                }
                self.look(&session_id);
            }
            Event::Failed { session_id, message_id } => {
                self.end_turns(&session_id, &[(message_id, InStatus::Failed)]);
            }
            Event::Gone { session_id } => {
                if let Some(books) = self.books(&session_id) {
                    books.life = Life::None;
                }
            }
            Event::Outcome { chat, outcome } => {
                self.trim_at = Some(Instant::now() + QUIET);
                self.outcome(&chat, outcome);
            }
            Event::Ready { channel } => self.conversations.back(channel),
            Event::HostOutbox => self.take_host_messages(),
            Event::Handled { chat, message_ids } => {
                self.take_host_messages();
                let source = Source::TurnEnd { message_ids, result: TurnResult::Completed };
                self.conversations.push(chat, Job { source, attempts: 0 }, None);
            }
            Event::Barrier(_) | Event::Stop { .. } => {}
        }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + Duration::from_secs(3600);
        let mut consider = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        consider(self.conversations.next_release());
        consider(self.trim_at);
        consider((!self.host_marks.is_empty()).then_some(self.host_marks_again));
        consider(self.postponed.iter().map(|(at, _)| *at).min());
        consider((!self.for_sweep.is_empty()).then(|| now + Duration::from_millis(5)));
        let wall = crate::time::now();
        consider(self.later.iter().map(|(at, ..)| now + wait_until(*at, wall)).min());
        for books in self.books.values() {
            consider(books.look_again);
            consider(books.flush_again);
            consider((books.life == Life::Live).then_some(self.next_poll));
        }
        next
    }

    fn on_time(&mut self) {
        let (now, wall) = (Instant::now(), crate::time::now());
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

    // ---- reading

    /// Reads what is new in a session, until there is no more - or so much that others must have
    /// their turn first.
    fn look(&mut self, session_id: &str) {
        for _ in 0..MAX_LOOKS_IN_A_ROW {
            let Some(books) = self.books(session_id) else { return };
            let faults = books.faults();
            let looked = open_untrusted(&books.dir).map_err(LookError::from).and_then(|db| books.look(&db));
            let looked = match looked {
                // A dead container rolls nothing back any more: read a copy that was.
                Err(LookError::Theirs(UntrustedError::Again)) if books.is_dead() => self.look_at_copy(session_id),
                other => other,
            };
            let Some(books) = self.books.get_mut(session_id) else { return };
            match looked {
                Ok(found) => {
                    let recovered = books.look_succeeded();
                    if recovered > 3 {
                        log::info!("A session can be read again session={session_id} after_faults={recovered}");
                    }
                    let more = found.more;
                    self.take(session_id, found);
                    if !more {
                        return;
                    }
                }
                Err(LookError::Theirs(UntrustedError::NotThere)) => {
                    books.look_succeeded();
                    return self.take(session_id, Found::default());
                }
                Err(e) => {
                    let transient = matches!(e, LookError::Theirs(UntrustedError::Again) | LookError::Ours(_));
                    books.look_failed(transient);
                    if faults == 20 || (faults == 0 && !transient) {
                        log::warn!("A session cannot be read; trying again session={session_id} error={e}");
                    }
                    if books.is_dead() && (e.is_final() || faults >= MAX_FAULTS_OF_THE_DEAD) {
                        // It will not get better, and a successor must not wait for it for ever.
                        self.end_of_life(session_id, Vec::new());
                    }
                    return;
                }
            }
        }
        if let Some(books) = self.books.get_mut(session_id) {
            books.look_later();
        }
    }

    fn look_at_copy(&mut self, session_id: &str) -> Result<Found, LookError> {
        let private = self.parts.home.data().join("recovery").join(session_id);
        let books = self.books.get_mut(session_id).ok_or(LookError::Theirs(UntrustedError::NotThere))?;
        let db = recover_copy(&books.dir, &private)?;
        log::info!("Reading a copy of what a killed container left session={session_id}");
        books.look(&db)
    }

    fn take(&mut self, session_id: &str, found: Found) {
        for (row_id, reason) in found.malformed {
            self.refuse(session_id, &row_id, &format!("it cannot be read: {reason}"));
        }
        for row in found.rows {
            self.enqueue_row(session_id, row);
        }
        if found.more {
            return; // the rest of what those turns had to say comes first; the next look has them again
        }
        let Some(books) = self.books.get_mut(session_id) else { return };
        let finished = books.mark_finished(found.finished);
        self.end_turns(session_id, &finished);
        if self.books.get(session_id).is_some_and(Books::is_dead) {
            self.end_of_life(session_id, found.claims);
        }
    }

    /// The last words of a dead container are read: write what is known, then tell the sweep.
    fn end_of_life(&mut self, session_id: &str, claims: Vec<String>) {
        let Some(books) = self.books.get_mut(session_id) else { return };
        match books.flush(crate::time::now()) {
            Ok(Flushed::TurnsEnded) => {
                self.for_sweep.push_back(sweep::Event::Finished { session_id: session_id.to_owned() });
            }
            Ok(Flushed::OutcomesOnly) => {}
            Err(e) => {
                // The sweep would start a successor for what is done: it must wait for this.
                log::warn!("Outcomes wait to be written session={session_id} error={e}");
                books.look_failed(true);
                return;
            }
        }
        if let Life::Dead { run_id } = std::mem::replace(&mut books.life, Life::None) {
            self.drained(run_id, claims);
        }
    }

    fn drained(&mut self, run_id: String, claims: Vec<String>) {
        self.for_sweep.push_back(sweep::Event::Drained { run_id, claims });
    }

    fn enqueue_row(&mut self, session_id: &str, row: FoundRow) {
        let (now, wall) = (Instant::now(), crate::time::now());
        let waits = row.not_before.filter(|at| *at > wall);
        if let (Some(at), 0) = (waits, row.attempts) {
            if let Some(books) = self.books.get_mut(session_id) {
                books.mark_attempt(&row.message.id, 0, at, None);
            }
            self.later.push((at, session_id.to_owned(), row));
            return;
        }
        let Ok(chat) = self.chat_of(session_id, &row.message) else {
            self.later.push((wall + STORE_RETRY, session_id.to_owned(), row));
            return;
        };
        let Some(chat) = chat else {
            return self.refuse(
                session_id,
                &row.message.id,
                "it has no destination, and this session has no chat of its own",
            );
        };
        let source = Source::Row { session_id: session_id.to_owned(), message: row.message };
        self.conversations.push(
            chat,
            Job { source, attempts: row.attempts },
            waits.map(|at| now + wait_until(at, wall)),
        );
    }

    /// The conversation a row belongs to, before anything about it is checked.
    fn chat_of(&self, session_id: &str, row: &MessageOut) -> Result<Option<Chat>> {
        match (&row.address.channel_type, &row.address.platform_id) {
            (Some(channel_type), Some(platform_id)) => {
                Ok(Some(Chat { channel_type: channel_type.clone(), platform_id: platform_id.clone() }))
            }
            _ => match self.books.get(session_id) {
                Some(books) => crate::destinations::own_chat(&self.parts.store, &books.session),
                None => Ok(None),
            },
        }
    }

    /// Tells the channel that a turn is over, behind everything that turn had to say.
    fn end_turns(&mut self, session_id: &str, finished: &[(String, InStatus)]) {
        let Some(session) = self.books(session_id).map(|b| b.session.clone()) else { return };
        let Ok(Some(chat)) = crate::destinations::own_chat(&self.parts.store, &session) else { return };
        for (status, result) in [(InStatus::Completed, TurnResult::Completed), (InStatus::Failed, TurnResult::Failed)] {
            let message_ids: Vec<String> = finished
                .iter()
                .filter(|(_, s)| *s == status)
                .map(|(id, _)| crate::router::platform_id_of(id, &session.agent_group_id))
                .collect();
            if !message_ids.is_empty() {
                let source = Source::TurnEnd { message_ids, result };
                self.conversations.push(chat.clone(), Job { source, attempts: 0 }, None);
            }
        }
    }

    // ---- sending

    fn take_host_messages(&mut self) {
        let (now, wall) = (Instant::now(), crate::time::now());
        let messages = match self.parts.store.pending_host_messages(HOST_MESSAGES_PER_LOOK) {
            Ok(messages) => messages,
            Err(e) => return log::error!("The host's outbox could not be read error={e}"),
        };
        for message in messages {
            if self.host_queued.insert(message.id.clone()) {
                let chat = Chat { channel_type: message.channel_type, platform_id: message.platform_id };
                let job = Job { source: Source::Host { id: message.id }, attempts: message.attempts };
                let not_before = message.next_attempt_at.or(message.deliver_after).filter(|at| *at > wall);
                self.conversations.push(chat, job, not_before.map(|at| now + wait_until(at, wall)));
            }
        }
    }

    fn dispatch(&mut self) {
        loop {
            let now = Instant::now();
            let mut progress = false;
            for chat in self.conversations.sendable(now) {
                progress |= self.dispatch_one(&chat);
            }
            if !progress {
                return;
            }
        }
    }

    /// Hands the head of a conversation to its sender; true when the head is another one now.
    fn dispatch_one(&mut self, chat: &Chat) -> bool {
        let Some(job) = self.conversations.head(chat).cloned() else { return false };
        let item = match self.item(chat, &job.source) {
            Ok(Resolved::Send(item)) => *item,
            Ok(Resolved::Refused(why)) => {
                self.conversations.drop_head(chat);
                match &job.source {
                    Source::Row { session_id, message } => self.refuse(session_id, &message.id, &why),
                    Source::Host { id } => self.host_final(id, Outcome::Permanent { why }),
                    Source::TurnEnd { .. } => {}
                }
                return true;
            }
            Err(e) => {
                self.conversations.sent(chat);
                self.outcome(chat, Outcome::Retry { after: None, why: format!("it could not be prepared: {e:#}") });
                return false;
            }
        };
        match self.parts.senders.get(chat.channel_type.as_str()) {
            None => {
                if matches!(job.source, Source::TurnEnd { .. }) {
                    self.conversations.drop_head(chat);
                    return true;
                }
                self.conversations.sent(chat);
                let why = format!("no channel {:?} is set up", chat.channel_type);
                self.outcome(chat, Outcome::Retry { after: Some(NO_CHANNEL_WAIT), why });
                false
            }
            Some(sender) => match sender.try_send(item) {
                Ok(()) => {
                    self.conversations.sent(chat);
                    true
                }
                // Its outcomes wake us again.
                Err(TrySendError::Full(_)) => false,
                Err(TrySendError::Disconnected(_)) => {
                    self.conversations.sent(chat);
                    let why = format!("the channel {} has stopped", chat.channel_type);
                    self.outcome(chat, Outcome::Retry { after: Some(NO_CHANNEL_WAIT), why });
                    false
                }
            },
        }
    }

    fn item(&mut self, chat: &Chat, source: &Source) -> Result<Resolved> {
        let item = |id: &str, thread_id: Option<String>, payload| {
            Resolved::Send(Box::new(OutboundItem {
                chat: chat.clone(),
                thread_id,
                id: id.to_owned(),
                in_reply_to: None,
                payload,
            }))
        };
        match source {
            Source::Row { session_id, message } => match self.books(session_id) {
                Some(books) => {
                    let (session, dir) = (books.session.clone(), books.dir.clone());
                    resolve::resolve(&self.parts.store, &session, &dir, message)
                }
                None => Ok(Resolved::Refused("its session is gone".into())),
            },
            Source::Host { id } => match self.parts.store.find_host_message(id)? {
                Some(HostMessage { thread_id, kind, content, .. }) => {
                    Ok(match Outbound::parse(kind, &content.to_string()) {
                        Outbound::Text { text, .. } => item(id, thread_id, Payload::Text { text, files: Vec::new() }),
                        Outbound::Question(question) => item(id, thread_id, Payload::Question(question)),
                        Outbound::Action { name, .. } if name == crate::router::SUBSCRIBE => {
                            item(id, thread_id, Payload::Subscribe)
                        }
                        _ => Resolved::Refused("the host wrote something that is no message".into()),
                    })
                }
                None => Ok(Resolved::Refused("it is gone".into())),
            },
            Source::TurnEnd { message_ids, result } => {
                Ok(item("", None, Payload::TurnEnd { message_ids: message_ids.clone(), result: *result }))
            }
        }
    }

    fn outcome(&mut self, chat: &Chat, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Away => {
                // The end of a turn is of no use to someone who comes later.
                self.conversations.away(chat);
                while matches!(self.conversations.head(chat).map(|j| &j.source), Some(Source::TurnEnd { .. })) {
                    self.conversations.drop_head(chat);
                }
            }
            Outcome::Retry { after, why } => {
                let attempts = self.conversations.in_flight(chat).map_or(0, |job| job.attempts) + 1;
                if attempts >= MAX_ATTEMPTS {
                    let why = format!("given up after {attempts} tries: {why}");
                    return self.outcome(chat, Outcome::Permanent { why });
                }
                let wait = backoff(attempts).max(after.unwrap_or_default());
                log::warn!(
                    "A message will be sent again chat={chat} attempts={attempts} wait_s={} error={why}",
                    wait.as_secs()
                );
                self.record_attempt(chat, attempts, wait, why);
                self.conversations.retry(chat, now, wait);
            }
            Outcome::Sent { .. } | Outcome::Permanent { .. } => {
                let Some(job) = self.conversations.done(chat) else { return };
                match job.source {
                    Source::Row { session_id, message } => match outcome {
                        Outcome::Sent { platform_message_id } => {
                            self.row_final(&session_id, &message.id, platform_message_id, DeliveryStatus::Delivered);
                        }
                        Outcome::Permanent { why } => self.refuse(&session_id, &message.id, &why),
                        Outcome::Retry { .. } | Outcome::Away => {}
                    },
                    Source::Host { id } => self.host_final(&id, outcome),
                    Source::TurnEnd { .. } => {}
                }
            }
        }
    }

    fn record_attempt(&mut self, chat: &Chat, attempts: u32, wait: Duration, why: String) {
        let at = crate::time::now() + wait;
        match self.conversations.in_flight(chat).map(|job| job.source.clone()) {
            Some(Source::Row { session_id, message }) => {
                if let Some(books) = self.books(&session_id) {
                    books.mark_attempt(&message.id, attempts, at, Some(why));
                }
                self.flush(&session_id);
            }
            Some(Source::Host { id }) => {
                if let Err(e) = self.parts.store.retry_host_message(&id, at, &why) {
                    log::error!("An attempt could not be recorded message={id} error={e}");
                }
            }
            Some(Source::TurnEnd { .. }) | None => {}
        }
    }

    /// A row can never be sent: it is failed, and the agent is told why.
    fn refuse(&mut self, session_id: &str, row_id: &str, why: &str) {
        log::warn!("A message was refused session={session_id} message={row_id} reason={why}");
        let now = crate::time::now();
        if let Some(books) = self.books(session_id) {
            let content = ChatIn {
                text: format!("Your message was not delivered: {why}."),
                sender: Some("system".into()),
                ..ChatIn::default()
            };
            let address = Address { channel_type: Some("agent".into()), ..Address::default() };
            let mut note = NewMessageIn::chat(new_id("note"), now, address, content.to_json());
            // A note that woke the agent could be answered with the same mistake, for ever.
            note.trigger = Trigger::Context;
            books.note(note);
        }
        self.row_final(session_id, row_id, None, DeliveryStatus::Failed);
    }

    fn row_final(
        &mut self,
        session_id: &str,
        row_id: &str,
        platform_message_id: Option<String>,
        status: DeliveryStatus,
    ) {
        if let Some(books) = self.books(session_id) {
            books.mark_final(row_id, platform_message_id, status);
        }
        self.flush(session_id);
    }

    fn host_final(&mut self, id: &str, outcome: Outcome) {
        let store = &self.parts.store;
        let written = match &outcome {
            Outcome::Sent { platform_message_id } => store.mark_host_delivered(id, platform_message_id.as_deref()),
            Outcome::Permanent { why } => store.mark_host_failed(id, why),
            Outcome::Retry { .. } | Outcome::Away => return,
        };
        match written {
            Ok(()) => {
                self.host_queued.remove(id);
                if self.host_queued.is_empty() {
                    self.take_host_messages(); // there may be more than one look takes
                }
            }
            Err(e) => {
                // It stays queued: read again, it would be sent again.
                log::warn!("An outcome could not be recorded yet message={id} error={e}");
                self.host_marks.push((id.to_owned(), outcome));
                self.host_marks_again = Instant::now() + STORE_RETRY;
            }
        }
    }

    // ---- books

    /// The books of a session, opened when needed; `None` when they cannot be.
    fn books(&mut self, session_id: &str) -> Option<&mut Books> {
        self.open_books(session_id).ok().flatten()
    }

    /// The same; `Ok(None)` when there is no such session. The fault is logged here.
    fn open_books(&mut self, session_id: &str) -> Result<Option<&mut Books>, StoreError> {
        if !self.books.contains_key(session_id) {
            let session = match self.parts.store.session(session_id) {
                Ok(session) => session,
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(e) => {
                    log::warn!("A session could not be read session={session_id} error={e}");
                    return Err(e);
                }
            };
            let dir = self.parts.home.session(&session.agent_group_id, session_id);
            self.books.insert(session_id.to_owned(), Books::new(session, dir));
        }
        Ok(self.books.get_mut(session_id))
    }

    fn flush(&mut self, session_id: &str) {
        let Some(books) = self.books.get_mut(session_id) else { return };
        if !books.has_marks() {
            return;
        }
        match books.flush(crate::time::now()) {
            Ok(Flushed::TurnsEnded) => {
                self.for_sweep.push_back(sweep::Event::Finished { session_id: session_id.to_owned() });
            }
            Ok(Flushed::OutcomesOnly) => {}
            Err(e) => {
                // The third time it is no lock that is held for a moment.
                if books.flush_failed() == 3 {
                    log::warn!("Outcomes wait to be written session={session_id} error={e}");
                }
            }
        }
    }

    /// Writes what no outcome will take along: a session with something in flight waits for that,
    /// so that a turn costs one commit and not two.
    fn flush_idle(&mut self) {
        let now = Instant::now();
        let busy: HashSet<&str> = self.conversations.all_in_flight().filter_map(session_of).collect();
        let idle: Vec<String> = self
            .books
            .iter()
            .filter(|(id, b)| b.has_marks() && !busy.contains(id.as_str()) && b.flush_again.is_none_or(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for session_id in idle {
            self.flush(&session_id);
        }
    }

    fn close_quiet_books(&mut self) {
        self.books.retain(|_, books| !books.is_quiet());
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
                Ok(Event::Outcome { chat, outcome }) => self.outcome(&chat, outcome),
                Ok(_) => {}
                Err(_) => {
                    log::warn!("A message was still being sent at the end; it may be sent again");
                    break;
                }
            }
        }
        // What is not written now is sent again after the next start.
        while self.books.values().any(Books::has_marks) && Instant::now() < until {
            self.flush_idle();
            match self.books.values().filter_map(|b| b.flush_again).min() {
                Some(at) => drop(crossbeam_channel::at(at.min(until)).recv()),
                None => break,
            }
        }
    }
}

fn session_of(job: &Job<Source>) -> Option<&str> {
    match &job.source {
        Source::Row { session_id, .. } => Some(session_id),
        Source::Host { .. } | Source::TurnEnd { .. } => None,
    }
}
