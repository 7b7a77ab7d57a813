//! The router: decides who hears a message and writes it to their inbound.db.
//!
//! Runs on its own thread. It never waits for docker or a platform; its only waits are commits.
//! A batch is acknowledged to its poller once every row of it is on disk, so a crash at any
//! moment repeats messages (which are absorbed) and loses none. All rows a batch adds to one
//! session are one commit.
//!
//! A session whose file cannot be written is parked ([`parked`]): its rows wait in the store, and
//! everybody else goes on.

mod answer;
mod attachments;
mod command;
mod engage;
mod facts;
mod host;
pub mod judge;
pub mod pairing;
mod parked;
mod records;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use nanoclaw_session::inbound::{Durability, InboundDb, Intake};
use nanoclaw_session::row::{NewMessageIn, Trigger};

use crate::channel::{ChatKind, InboundMessage, cli};
use crate::delivery;
use crate::home::Home;
use crate::id::new_id;
use crate::oneshot::{Barrier, Gate};
use crate::store::{ContainerStatus, MessagingGroup, Session, Store, Wiring};
use crate::sweep;
use crate::thread::{self, tell};
use answer::{Ended, Reply};
use attachments::store_attachments;
use command::HostCommand;
use engage::Pattern;
use judge::{Ruling, Subject, Subscribe, Verdict, Why, judge};
use pairing::Pairing;
use parked::ParkedSessions;
use records::{Posted, Records, chat_row, sender_row};
use session::Scope;

pub use facts::Facts;
pub use records::SUBSCRIBE;

/// Everything that can wake the router.
#[derive(Debug)]
pub enum Event {
    /// Messages from a poller, which waits for `accepted` before it moves its cursor.
    Batch { messages: Vec<InboundMessage>, accepted: Sender<()> },
    /// Passed on once there is nothing to do.
    Barrier(Barrier),
}

/// What the router works with.
pub struct Router {
    pub store: Store,
    pub home: Arc<Home>,
    pub sweep: Sender<sweep::Event>,
    pub delivery: Sender<delivery::Event>,
}

/// A batch while it is judged.
struct Batch<'a> {
    facts: Facts<'a>,
    records: Records<'a>,
    /// Senders that are on record under this name.
    seen: HashSet<(String, Option<String>)>,
    sessions: BTreeMap<String, ForSession>,
    ended: Vec<Ended>,
}

impl Batch<'_> {
    fn add(&mut self, session: Session, row: NewMessageIn) {
        let part = self.sessions.entry(session.id.clone());
        part.or_insert_with(|| ForSession { session, rows: Vec::new() }).rows.push(row);
    }
}

/// The rows of one batch for one session.
struct ForSession {
    session: Session,
    rows: Vec<NewMessageIn>,
}

/// Whether a commit brought something that wakes the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Wakes,
    /// Context, or what was there already.
    Quiet,
}

impl Router {
    /// The thread's body: returns when all pollers are gone.
    pub fn run(self, events: &Receiver<Event>) {
        let mut parked = ParkedSessions::taken_up(&self.store);
        let mut gate = Gate::default();
        loop {
            match thread::next(events, parked.next_try()) {
                Ok(Some(Event::Batch { messages, accepted })) => {
                    gate.worked();
                    self.take(messages, &accepted, &mut parked);
                }
                Ok(Some(Event::Barrier(barrier))) => gate.hold(barrier),
                Ok(None) => {}
                Err(_) => return,
            }
            self.try_parked(&mut parked);
            if let (true, Some(barrier)) = (parked.are_hopeless(), gate.until().and_then(|_| gate.open())) {
                tell(&self.sweep, sweep::Event::Barrier(barrier));
            }
        }
    }

    /// Decides where each message of a batch goes, and writes it there. A message that cannot be
    /// judged or kept does not hold up the others, but its batch is not acknowledged, so that it
    /// comes again.
    fn take(&self, messages: Vec<InboundMessage>, accepted: &Sender<()>, parked: &mut ParkedSessions) {
        let mut batch = Batch {
            facts: Facts::new(&self.store),
            records: Records::new(&self.store, crate::time::now()),
            seen: HashSet::new(),
            sessions: BTreeMap::new(),
            ended: Vec::new(),
        };
        let mut whole = true;
        for message in messages {
            if let Err(e) = self.route(&message, &mut batch) {
                log::error!("A message could not be routed message={} error={e:#}", message.id);
                whole = false;
            }
        }
        if batch.records.finish() == Posted::Something {
            tell(&self.delivery, delivery::Event::HostOutbox);
        }
        for ForSession { session, rows } in batch.sessions.into_values() {
            whole &= self.keep(&session, &rows, parked);
        }
        if whole {
            self.end_questions(&batch.ended);
            tell(accepted, ());
        }
    }

    fn route(&self, message: &InboundMessage, batch: &mut Batch<'_>) -> Result<()> {
        if message.kind == ChatKind::Direct
            && pairing::recognise(&self.store, &self.home, message, crate::time::now())? == Pairing::Done
        {
            batch.facts.forget();
            tell(&self.delivery, delivery::Event::HostOutbox);
            self.end_turn(message);
            return Ok(());
        }
        let wired = batch.facts.wired(&message.chat)?;
        let subject = Subject::of(message, wired.chat.as_ref());
        let candidates = batch.facts.candidates(&wired, &subject)?;
        match self.answer(message, &subject, wired.chat.as_ref(), &candidates, batch)? {
            Reply::No => {}
            Reply::Answers => return Ok(()),
            Reply::Astray => {
                self.end_turn(message);
                return Ok(());
            }
        }
        let verdicts = judge(&subject, wired.chat.as_ref(), &candidates);
        match (&wired.chat, verdicts.as_slice()) {
            (chat, [Verdict { wiring: None, ruling: Ruling::NotHeard(why) }]) => {
                self.stop_at_the_chat(message, &subject, chat.as_ref(), *why, batch)?;
            }
            (Some(chat), verdicts) => {
                self.remember_sender(message, batch)?;
                for candidate in &candidates {
                    if let Pattern::Broken(problem) = candidate.pattern {
                        batch.records.broken_pattern(candidate.wiring, problem)?;
                    }
                }
                self.carry_out(message, chat, verdicts, batch)?;
            }
            (None, _) => {}
        }
        let wakes = |v: &Verdict<'_>| matches!(v.ruling, Ruling::Heard { trigger: Trigger::Wake, .. });
        if !verdicts.iter().any(wakes) {
            self.end_turn(message);
        }
        Ok(())
    }

    /// A terminal waits for the end of the turn, and there is none.
    fn end_turn(&self, message: &InboundMessage) {
        let (chat, _) = message.answer_to();
        if chat.channel_type == cli::CHANNEL {
            let message_ids = vec![message.id.clone()];
            tell(&self.delivery, delivery::Event::Handled { chat: chat.clone(), message_ids });
        }
    }

    /// Nobody is wired to the chat, or it was denied. Chatter in it leaves no trace; who talks to
    /// us is offered to the owner, once.
    fn stop_at_the_chat(
        &self,
        message: &InboundMessage,
        subject: &Subject<'_>,
        chat: Option<&MessagingGroup>,
        why: Why,
        batch: &mut Batch<'_>,
    ) -> Result<()> {
        if !subject.addresses_us() {
            log::debug!("Message ignored message={} chat={} reason={}", message.id, message.chat, why.as_str());
            return Ok(());
        }
        batch.records.not_heard(message, None, why);
        if why != Why::NoWiring {
            return Ok(());
        }
        self.remember_sender(message, batch)?;
        let chat = match chat {
            Some(chat) => chat.clone(),
            None => {
                batch.facts.forget();
                self.store.ensure_messaging_group(&chat_row(message, crate::time::now()))?.into_inner()
            }
        };
        batch.records.dropped(message, &chat, None, why);
        batch.records.offer(message, &chat)
    }

    /// Does what was decided for each wiring. What the host says in the chat, it says once.
    fn carry_out(
        &self,
        message: &InboundMessage,
        chat: &MessagingGroup,
        verdicts: &[Verdict<'_>],
        batch: &mut Batch<'_>,
    ) -> Result<()> {
        let mut answers: Vec<String> = Vec::new();
        let mut strangers: Vec<&str> = Vec::new();
        let mut denied = false;
        for (wiring, ruling) in verdicts.iter().filter_map(|v| Some((v.wiring?, &v.ruling))) {
            let agent = wiring.agent_group_id.as_str();
            match ruling {
                Ruling::Heard { trigger, scope, subscribe } => {
                    if let (Subscribe::ToThread, Some(thread)) = (subscribe, message.thread()) {
                        batch.records.subscribe(&message.chat, thread)?;
                    }
                    let session = self.session_for(wiring, chat, scope, batch)?;
                    if *trigger == Trigger::Wake {
                        self.withdraw(message, &session, "the user has written a message instead", batch)?;
                    }
                    let row = self.row(message, &session, *trigger);
                    log::info!(
                        "Message routed message={} session={} agent={agent} trigger={}",
                        message.id,
                        session.id,
                        u8::from(*trigger == Trigger::Wake)
                    );
                    batch.add(session, row);
                }
                Ruling::Asked { command, scope } => {
                    let session = batch.facts.session(agent, &chat.id, scope)?;
                    answers.extend(self.obey(*command, message, wiring, session, batch)?);
                }
                Ruling::NotHeard(why) => {
                    batch.records.not_heard(message, Some(agent), *why);
                    match why {
                        Why::SenderUnknown | Why::SenderNotMember => {
                            batch.records.dropped(message, chat, Some(wiring), *why);
                        }
                        Why::SenderAwaitsApproval => {
                            batch.records.dropped(message, chat, Some(wiring), *why);
                            strangers.push(agent);
                        }
                        Why::CommandDenied => denied = true,
                        _ => {}
                    }
                }
            }
        }
        batch.records.stranger(message, &strangers)?;
        let allowed = verdicts.iter().any(|v| !matches!(v.ruling, Ruling::NotHeard(_)));
        if denied && !allowed {
            answers.push("Permission denied".to_owned());
        }
        if !answers.is_empty() {
            batch.records.answer(message, &answers.join("\n"))?;
        }
        Ok(())
    }

    /// Carries out a command for one agent; what there is to say about it.
    fn obey(
        &self,
        command: HostCommand,
        message: &InboundMessage,
        wiring: &Wiring,
        session: Option<Session>,
        batch: &mut Batch<'_>,
    ) -> Result<Option<String>> {
        // As it is now: the batch may have read it before something started.
        let session = session.map(|s| self.store.session(&s.id)).transpose()?;
        let agent = self.store.agent_group(&wiring.agent_group_id)?.name;
        Ok(match command {
            HostCommand::Status => Some(host::status(&self.home, &agent, session.as_ref())),
            HostCommand::Tasks => Some(host::tasks(&self.home, &agent, session.as_ref())),
            HostCommand::Stop => {
                let nothing = format!("{agent}: nothing runs here.");
                let Some(session) = session else { return Ok(Some(nothing)) };
                self.withdraw(message, &session, "you were stopped", batch)?;
                let idle = session.container_status == ContainerStatus::Stopped;
                let id = row_id(&message.id, &session.agent_group_id);
                let address = message.chat.address(message.thread());
                batch.add(session, host::stop_row(id, message.timestamp, address));
                idle.then_some(nothing)
            }
            HostCommand::Restart => {
                if let Some(session) = session {
                    tell(&self.sweep, sweep::Event::Restart { session_id: session.id });
                }
                Some(format!("{agent}: the next message starts a fresh container."))
            }
        })
    }

    fn remember_sender(&self, message: &InboundMessage, batch: &mut Batch<'_>) -> Result<()> {
        let Some(id) = &message.content.sender_id else { return Ok(()) };
        if batch.seen.insert((id.clone(), message.content.sender.clone())) {
            self.store.ensure_user(&sender_row(message, id, crate::time::now()))?;
        }
        Ok(())
    }

    /// The session a message belongs to, made when there is none.
    fn session_for(
        &self,
        wiring: &Wiring,
        chat: &MessagingGroup,
        scope: &Scope,
        batch: &mut Batch<'_>,
    ) -> Result<Session> {
        if let Some(session) = batch.facts.session(&wiring.agent_group_id, &chat.id, scope)? {
            return Ok(session);
        }
        let (chat_id, thread) = scope.columns(&chat.id);
        let new = Session::new(&new_id("sess"), &wiring.agent_group_id, chat_id, thread, crate::time::now());
        Ok(self.store.ensure_session(&new)?.into_inner())
    }

    /// The row for one agent, with its attachments already in place.
    fn row(&self, message: &InboundMessage, session: &Session, trigger: Trigger) -> NewMessageIn {
        let id = row_id(&message.id, &session.agent_group_id);
        let dir = self.home.session(&session.agent_group_id, &session.id);
        let mut content = message.content.clone();
        content.attachments.extend(store_attachments(&dir, &id, &message.attachments));
        let (chat, thread) = message.answer_to();
        let row = NewMessageIn::chat(id, message.timestamp, chat.address(thread), content.to_json());
        NewMessageIn { trigger, ..row }
    }

    fn commit(&self, session: &Session, rows: &[NewMessageIn]) -> Result<News> {
        let dir = self.home.session(&session.agent_group_id, &session.id);
        if !dir.root().exists() {
            dir.prepare().with_context(|| format!("cannot create {}", dir.root().display()))?;
        }
        let mut inbound = InboundDb::open(&dir, Durability::Acknowledged)?;
        let mut news = News::Quiet;
        let mut absorbed = Vec::new();
        inbound.write(|tx| {
            for row in rows {
                match tx.insert(row)? {
                    Intake::Absorbed { id } => {
                        log::info!("Message absorbed: it is there already message={id} session={}", session.id);
                        absorbed.push(records::duplicate(row, &session.agent_group_id));
                    }
                    Intake::Stored { .. } if row.trigger == Trigger::Wake => news = News::Wakes,
                    Intake::Stored { .. } => {}
                }
            }
            Ok(())
        })?;
        if let Err(e) = self.store.record_decisions(&absorbed) {
            log::warn!("Repeated messages were not recorded session={} error={e}", session.id);
        }
        // The rows are there: a retry would find them absorbed and wake nobody.
        if let Err(e) = self.store.touch_session(&session.id, crate::time::now()) {
            log::warn!("A session's last activity was not recorded session={} error={e}", session.id);
        }
        Ok(news)
    }
}

/// The id of a platform's message in an agent's session: one message may reach several agents.
pub fn row_id(platform_id: &str, agent_group_id: &str) -> String {
    format!("{platform_id}:{agent_group_id}")
}

/// The platform's id of a row: [`row_id`] undone, and the suffix of a later version dropped.
pub fn platform_id_of(row_id: &str, agent_group_id: &str) -> String {
    let id = match row_id.rsplit_once('#') {
        Some((id, version)) if version.parse::<u32>().is_ok() => id,
        _ => row_id,
    };
    id.strip_suffix(agent_group_id).and_then(|id| id.strip_suffix(':')).unwrap_or(id).to_owned()
}
