//! From the queues to the senders, and what comes back.

use std::time::Duration;

use anyhow::Result;
use crossbeam_channel::TrySendError;
use nanoclaw_session::alive::last_heartbeat;
use nanoclaw_session::content::{Answer, Outbound, Question};
use nanoclaw_session::inbound::Delivered;
use nanoclaw_session::question::Outcome as Ended;
use nanoclaw_session::row::{Address, DeliveryStatus, MessageOut, NewMessageIn, Trigger};

use super::peers;
use super::queue::{Job, Tries, backoff};
use super::resolve::{self, Resolved};
use super::session::{no_message, note};
use super::{Actor, Event, STORE_RETRY, Source};
use crate::channel::{Chat, OutboundItem, Outcome, Payload};
use crate::id::new_id;
use crate::notice;
use crate::question;
use crate::sender::Task;
use crate::store::{HostMessage, Inserted, StoreError};
use crate::time::Now;

/// Host messages read at once.
const HOST_MESSAGES_PER_LOOK: u32 = 1_000;
/// How long an unknown channel's messages wait between tries.
const NO_CHANNEL_WAIT: Duration = Duration::from_secs(60);

impl Actor {
    pub(super) fn take_host_messages(&mut self) {
        let wall = self.now.wall;
        loop {
            let messages = match self.parts.store.pending_host_messages_after(self.host_read_to, HOST_MESSAGES_PER_LOOK)
            {
                Ok(messages) => messages,
                Err(e) => {
                    log::error!("The host's outbox could not be read error={e}");
                    return self.postponed.push((self.now.instant + STORE_RETRY, Event::HostOutbox));
                }
            };
            let Some(last) = messages.last() else { return };
            self.host_read_to = last.seq;
            for message in messages {
                let chat = Chat { channel_type: message.channel_type, platform_id: message.platform_id };
                let tries = Tries { count: message.attempts, since: message.first_attempt_at };
                let not_before = message.next_attempt_at.or(message.deliver_after).filter(|at| *at > wall);
                let job = Job { source: Source::Host { id: message.id }, tries };
                self.conversations.push(chat, job, not_before.map(|at| self.now.instant_of(at)));
            }
        }
    }

    /// A session has something to answer: its chat may see that.
    pub(super) fn woken(&mut self, session_id: &str) {
        let Some(session) = self.books(session_id).map(|books| books.session.clone()) else { return };
        // Should the store not answer, only its looks suffer.
        if let Ok(Some(chat)) = crate::destinations::own_chat(&self.parts.store, &session) {
            self.typing.woken(session_id, chat, session.thread_id, self.now.instant);
        }
    }

    pub(super) fn show_typing(&mut self) {
        let Now { instant, wall } = self.now;
        if self.typing.next_due().is_none_or(|at| at > instant) {
            return;
        }
        for (session_id, books) in &self.books {
            let age = last_heartbeat(&books.dir).map(|at| Duration::try_from(wall.duration_since(at)));
            if let Some(at) = age.and_then(|age| instant.checked_sub(age.unwrap_or_default())) {
                self.typing.progressed(session_id, at);
            }
        }
        for (chat, thread_id) in self.typing.due(instant) {
            // Never in the way of a message.
            if let Some(sender) = self.parts.senders.get(chat.channel_type.as_str()).filter(|s| s.is_empty()) {
                let _ = sender.try_send(Task::ShowTyping { chat, thread_id });
            }
        }
    }

    pub(super) fn dispatch(&mut self) {
        loop {
            let mut progress = false;
            for chat in self.conversations.sendable(self.now.instant) {
                progress |= self.dispatch_one(&chat);
            }
            if !progress {
                return;
            }
        }
    }

    /// Hands the head of a conversation to its sender; false when it has to wait for the sender.
    fn dispatch_one(&mut self, chat: &Chat) -> bool {
        let Some(job) = self.conversations.head(chat).cloned() else { return false };
        if let (peers::CHANNEL, Source::Row { session_id, message }) = (chat.channel_type.as_str(), &job.source) {
            self.pass_on(chat, session_id, message, job.tries);
            return true;
        }
        let item = match self.item(chat, &job.source) {
            Ok(Resolved::Send(item)) => *item,
            Ok(Resolved::Refused(why)) => {
                self.conversations.drop_head(chat);
                match &job.source {
                    Source::Row { session_id, message } => self.undeliverable(session_id, message, &why),
                    Source::Host { id } => self.host_final(id, Outcome::Permanent { why }),
                    Source::TurnEnd { .. } => {}
                }
                return true;
            }
            Err(e) => {
                self.conversations.sent(chat);
                let why = format!("it could not be prepared: {e:#}");
                self.outcome(chat, Outcome::Retry { after: Some(Duration::ZERO), why });
                return true;
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
                true
            }
            Some(sender) => match sender.try_send(Task::Send(item)) {
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
                    true
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
            Source::Row { session_id, message } => {
                self.open_books(session_id)?;
                match self.books.get(session_id) {
                    Some(books) => resolve::resolve(&self.parts.store, books, message, self.now.wall),
                    None => Ok(Resolved::Refused("its session is gone".into())),
                }
            }
            Source::Host { id } => match self.parts.store.find_host_message(id)? {
                Some(HostMessage { thread_id, kind, content, .. }) => {
                    Ok(match Outbound::parse(kind, &content.to_string()) {
                        Outbound::Text { text, .. } => item(id, thread_id, Payload::Text { text, files: Vec::new() }),
                        Outbound::Question(question) => item(id, thread_id, Payload::Question(question)),
                        Outbound::Action { name, arguments } if name == question::SHOW_OUTCOME => {
                            let payload = question::outcome_payload(&self.parts.store, &self.parts.home, &arguments)?;
                            item(id, thread_id, payload)
                        }
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

    /// A sender's answer.
    pub(super) fn answered(&mut self, chat: &Chat, outcome: Outcome) {
        match outcome {
            Outcome::Retry { after: None, .. } => {
                self.conversations.channel_failed(&chat.channel_type, self.now.instant);
            }
            Outcome::Sent { .. } | Outcome::Retry { .. } | Outcome::Away | Outcome::Permanent { .. } => {
                self.conversations.channel_answered(&chat.channel_type);
            }
        }
        self.outcome(chat, outcome);
    }

    pub(super) fn outcome(&mut self, chat: &Chat, outcome: Outcome) {
        let now = self.now.instant;
        match outcome {
            Outcome::Away => {
                // The end of a turn is of no use to someone who comes later.
                self.conversations.away(chat);
                while matches!(self.conversations.head(chat).map(|j| &j.source), Some(Source::TurnEnd { .. })) {
                    self.conversations.drop_head(chat);
                }
            }
            Outcome::Retry { after, why } => {
                let Some(job) = self.conversations.tried(chat, self.now.wall).cloned() else { return };
                let attempts = job.tries.count;
                if job.tries.are_enough(self.now.wall) {
                    let why = format!("given up after {attempts} tries: {why}");
                    return self.outcome(chat, Outcome::Permanent { why });
                }
                let wait = backoff(attempts, job.source.seed()).max(after.unwrap_or_default());
                log::warn!(
                    "A message will be sent again chat={chat} attempts={attempts} wait_s={} error={why}",
                    wait.as_secs()
                );
                self.record_attempt(job, wait, why);
                match after {
                    None => self.conversations.failed(chat, now, wait),
                    Some(_) => self.conversations.put_off(chat, now, wait),
                }
            }
            Outcome::Sent { .. } | Outcome::Permanent { .. } => {
                let Some(job) = self.conversations.done(chat) else { return };
                match job.source {
                    Source::Row { session_id, message } => match outcome {
                        Outcome::Sent { platform_message_id } => {
                            self.typing.delivered(chat, now);
                            let (status, chat) = (DeliveryStatus::Delivered, chat.address(None));
                            let message_out_id = message.id;
                            self.row_final(
                                &session_id,
                                Delivered { message_out_id, platform_message_id, status, chat },
                            );
                        }
                        Outcome::Permanent { why } => self.undeliverable(&session_id, &message, &why),
                        Outcome::Retry { .. } | Outcome::Away => {}
                    },
                    Source::Host { id } => self.host_final(&id, outcome),
                    Source::TurnEnd { .. } => {}
                }
            }
        }
    }

    fn record_attempt(&mut self, job: Job<Source>, wait: Duration, why: String) {
        let at = self.now.wall + wait;
        match job.source {
            Source::Row { session_id, message } => {
                if let Some(books) = self.books(&session_id) {
                    books.mark_attempt(&message.id, job.tries, at, Some(why));
                }
                self.flush(&session_id);
            }
            Source::Host { id } => {
                if let Err(e) = self.parts.store.retry_host_message(&id, self.now.wall, at, &why) {
                    log::error!("An attempt could not be recorded message={id} error={e}");
                }
            }
            Source::TurnEnd { .. } => {}
        }
    }

    /// What an agent wrote can never be sent: it is told, and so is the owner when a person waits for
    /// it.
    fn undeliverable(&mut self, session_id: &str, message: &MessageOut, why: &str) {
        if let Outbound::Question(question) = Outbound::parse(message.kind, &message.content) {
            return self.withdraw(session_id, &message.id, &question, why);
        }
        self.refuse(session_id, &message.id, why);
        if message.in_reply_to.is_none() {
            return;
        }
        let (agent, chat) = match self.books(session_id).map(|books| books.session.clone()) {
            Some(session) => (session.agent_group_id.clone(), self.chat_of(session_id, message).ok().flatten()),
            None => return,
        };
        let place = chat.map_or("a chat".to_owned(), |chat| chat.to_string());
        let text = format!("An answer of {agent} to {place} could not be delivered: {why}.");
        let key = format!("undelivered:{session_id}:{}", message.id);
        match notice::tell_owner(&self.parts.store, &text, &key) {
            Ok(Inserted::New) => self.take_host_messages(),
            Ok(_) => {}
            Err(e) => log::error!("The owner could not be told session={session_id} error={e:#}"),
        }
    }

    /// A row can never be sent: it is failed, and the agent is told why.
    pub(super) fn refuse(&mut self, session_id: &str, row_id: &str, why: &str) {
        log::warn!("A message was refused session={session_id} message={row_id} reason={why}");
        // A note that woke the agent could be answered with the same mistake, for ever.
        self.note(session_id, format!("Your message was not delivered: {why}."), Trigger::Context, 0);
        self.row_final(session_id, no_message(row_id, DeliveryStatus::Failed));
    }

    /// The agent hears something from the host, with what else is written into its session.
    pub(super) fn note(&mut self, session_id: &str, text: String, trigger: Trigger, hops: u32) {
        let now = self.now.wall;
        if let Some(books) = self.books(session_id) {
            books.note(NewMessageIn { trigger, hops, ..note(text, now) });
        }
    }

    /// A question can never be asked: the tool that waits for the answer hears why.
    pub(super) fn withdraw(&mut self, session_id: &str, row_id: &str, question: &Question, why: &str) {
        log::warn!("A question was refused session={session_id} message={row_id} reason={why}");
        let now = self.now.wall;
        if let Some(books) = self.books(session_id) {
            let Question { question_id, title, .. } = question.clone();
            let answer = Answer { question_id, title, outcome: Ended::Withdrawn { why: why.to_owned() } };
            books.note(question::answer_row(new_id("note"), now, Address::default(), &answer));
        }
        self.row_final(session_id, no_message(row_id, DeliveryStatus::Failed));
    }

    pub(super) fn row_final(&mut self, session_id: &str, outcome: Delivered) {
        if let Some(books) = self.books(session_id) {
            books.mark_final(outcome);
        }
        self.flush(session_id);
    }

    pub(super) fn host_final(&mut self, id: &str, outcome: Outcome) {
        let store = &self.parts.store;
        let written = match &outcome {
            Outcome::Sent { platform_message_id } => store.mark_host_delivered(id, platform_message_id.as_deref()),
            Outcome::Permanent { why } => store.mark_host_failed(id, why),
            Outcome::Retry { .. } | Outcome::Away => return,
        };
        match written {
            // One that is gone has no outcome to record.
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(e) => {
                log::warn!("An outcome could not be recorded yet message={id} error={e}");
                self.host_marks.push((id.to_owned(), outcome));
                self.host_marks_again = self.now.instant + STORE_RETRY;
            }
        }
    }
}
