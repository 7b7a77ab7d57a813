//! From a session's files into the queues: what is new is read and taken up, and what became of it
//! is written back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use nanoclaw_session::content::Outbound;
use nanoclaw_session::create_agent::CreateAgent;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::{DeliveryStatus, InStatus, MessageOut, OutKind, Trigger};
use nanoclaw_session::schedule::Action;
use nanoclaw_session::untrusted::{UntrustedError, open_untrusted, recover_copy};
use nanoclaw_session::usage::Usage;
use serde_json::{Map, Value};

use super::peers;
use super::queue::{Job, Tries};
use super::session::{Books, Finished, Flushed, Found, FoundRow, Life, LookError, no_message};
use super::{Actor, Delivery, STORE_RETRY, Source};
use crate::channel::{Chat, TurnResult};
use crate::config::PROVIDERS;
use crate::create_agent;
use crate::store::{Settled, StartReason, StoreError};
use crate::sweep;
use crate::time::Now;

/// Looks at one session before the others have their turn.
const MAX_LOOKS_IN_A_ROW: usize = 4;
/// How soon an action is tried again that the disk or the store did not let through.
const ACTION_RETRY: Duration = Duration::from_secs(15);
/// Looks at what a dead container left that may fail before its session goes on without.
const MAX_FAULTS_OF_THE_DEAD: u32 = 8;

impl Actor {
    /// Reads what is new in a session, until there is no more - or so much that others must have
    /// their turn first.
    pub(super) fn look(&mut self, session_id: &str) {
        let now = self.now.instant;
        for _ in 0..MAX_LOOKS_IN_A_ROW {
            let Some(books) = self.books(session_id) else { return };
            let faults = books.faults;
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
                    books.look_failed(transient, now);
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
            books.look_later(now);
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
        if books.is_news(&found.claims, found.silent_until) {
            self.for_sweep.push_back(sweep::Event::Progress {
                session_id: session_id.to_owned(),
                claims: found.claims.clone(),
                silent_until: found.silent_until,
            });
        }
        let finished = books.mark_finished(found.finished);
        if !finished.is_empty() && found.claims.is_empty() {
            self.typing.ended(session_id);
        }
        self.end_turns(session_id, finished);
        if self.books.get(session_id).is_some_and(Books::is_dead) {
            self.end_of_life(session_id, found.claims);
        }
    }

    /// The last words of a dead container are read: write what is known, then tell the sweep.
    fn end_of_life(&mut self, session_id: &str, claims: Vec<String>) {
        let written = self.write(session_id);
        let Some(books) = self.books.get_mut(session_id) else { return };
        if written.is_err() {
            // The sweep would start a successor for what is done: it must wait for this.
            books.look_again = books.flush_again;
        } else if let Life::Dead { run_id } = std::mem::replace(&mut books.life, Life::None) {
            self.drained(run_id, claims);
        }
    }

    pub(super) fn drained(&mut self, run_id: String, claims: Vec<String>) {
        self.for_sweep.push_back(sweep::Event::Drained { run_id, claims });
    }

    pub(super) fn enqueue_row(&mut self, session_id: &str, row: FoundRow) {
        if row.message.kind == OutKind::System {
            return self.act(session_id, row);
        }
        let wall = self.now.wall;
        let waits = row.not_before.filter(|at| *at > wall);
        if let (Some(at), 0) = (waits, row.tries.count) {
            if let Some(books) = self.books.get_mut(session_id) {
                books.mark_attempt(&row.message.id, row.tries, at, None);
            }
            self.later.push((at, session_id.to_owned(), row));
            return;
        }
        let Ok(chat) = self.chat_of(session_id, &row.message) else {
            self.later.push((wall + STORE_RETRY, session_id.to_owned(), row));
            return;
        };
        let Some(chat) = chat else {
            let why = "it has no destination, and this session has no chat of its own";
            return match Outbound::parse(row.message.kind, &row.message.content) {
                Outbound::Question(question) => self.withdraw(session_id, &row.message.id, &question, why),
                _ => self.refuse(session_id, &row.message.id, why),
            };
        };
        let source = Source::Row { session_id: session_id.to_owned(), message: row.message };
        self.conversations.push(chat, Job { source, tries: row.tries }, waits.map(|at| self.now.instant_of(at)));
    }

    /// What is for the host itself goes to no chat: done in the order of the rows, and at once.
    fn act(&mut self, session_id: &str, found: FoundRow) {
        let row = &found.message;
        if let Outbound::Action { name, arguments } = Outbound::parse(row.kind, &row.content) {
            if Action::NAMES.contains(&name.as_str()) {
                let action = Action::parse(&name, &arguments, &self.parts.zone);
                match (action, self.books(session_id)) {
                    (Ok(action), Some(books)) => books.act(row, action),
                    (Ok(_), None) => {} // read again with its session
                    (Err(why), _) => self.refuse(session_id, &row.id, &why),
                }
                // The agent's tool waits for it.
                return self.flush(session_id);
            }
        }
        let usage = match Outbound::parse(row.kind, &row.content) {
            Outbound::Action { name, arguments } if name == CreateAgent::ACTION => {
                return match self.create_agent(session_id, row, &arguments) {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => self.refuse(session_id, &row.id, &why),
                    Err(e) => {
                        log::warn!("An agent could not be created yet session={session_id} error={e:#}");
                        self.later.push((self.now.wall + ACTION_RETRY, session_id.to_owned(), found));
                    }
                };
            }
            Outbound::Action { name, arguments } if name == Usage::ACTION => {
                let known = |usage: &Usage| PROVIDERS.contains(&usage.provider.as_str());
                let usage = Usage::from_arguments(&arguments).map_err(str::to_owned);
                usage.and_then(
                    |u| if known(&u) { Ok(u) } else { Err(format!("no provider is called {:?}", u.provider)) },
                )
            }
            Outbound::Action { name, .. } => Err(format!("the host knows no action {name:?}")),
            Outbound::Invalid(why) => Err(why.to_owned()),
            _ => Err("it is for the host, and no action".to_owned()),
        };
        match (usage, self.books(session_id)) {
            (Ok(usage), Some(books)) => books.count(row, usage),
            (Ok(_), None) => {} // read again with its session
            (Err(why), _) => self.refuse(session_id, &row.id, &why),
        }
    }

    /// Makes an agent and says so to the one that asked for it. The inner error is a refusal.
    fn create_agent(
        &mut self,
        session_id: &str,
        row: &MessageOut,
        arguments: &Map<String, Value>,
    ) -> Result<Result<(), String>> {
        let Some(books) = self.books(session_id) else { return Ok(Ok(())) }; // read again with its session
        let (session, dir) = (books.session.clone(), books.dir.clone());
        let asked = match CreateAgent::from_arguments(arguments) {
            Ok(asked) => asked,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let Delivery { store, home, .. } = &self.parts;
        // The answer goes on with what it was asked for in.
        let hops = InboundDb::open(&dir, Durability::Normal)?.hops_so_far(row.in_reply_to.as_deref(), self.now.wall)?;
        let text = match create_agent::create(store, home, &session, &row.id, &asked, self.now.wall)? {
            Ok(text) => text,
            Err(why) => return Ok(Err(why)),
        };
        self.take_host_messages();
        self.note(session_id, text, Trigger::Wake, hops);
        self.row_final(session_id, no_message(&row.id, DeliveryStatus::Delivered));
        let (session_id, reason) = (session_id.to_owned(), StartReason::Message);
        self.for_sweep.push_back(sweep::Event::Wake { session_id, reason });
        Ok(Ok(()))
    }

    /// The conversation a row belongs to, before anything about it is checked.
    pub(super) fn chat_of(&self, session_id: &str, row: &MessageOut) -> Result<Option<Chat>> {
        match (&row.address.channel_type, &row.address.platform_id) {
            (Some(channel_type), Some(target)) if channel_type == peers::CHANNEL => {
                Ok(Some(peers::conversation(target, session_id)))
            }
            (Some(channel_type), Some(platform_id)) => {
                Ok(Some(Chat { channel_type: channel_type.clone(), platform_id: platform_id.clone() }))
            }
            _ => match self.books.get(session_id) {
                Some(books) => crate::destinations::own_chat(&self.parts.store, &books.session),
                None => Ok(None),
            },
        }
    }

    /// Tells the chats the messages came from that a turn is over, behind everything it had to say.
    pub(super) fn end_turns(&mut self, session_id: &str, finished: Vec<Finished>) {
        let Some(group) = self.books(session_id).map(|b| b.session.agent_group_id.clone()) else { return };
        let mut ends: HashMap<(Chat, TurnResult), Vec<String>> = HashMap::new();
        for Finished { id, status, chat } in finished {
            let result = if status == InStatus::Completed { TurnResult::Completed } else { TurnResult::Failed };
            if let Some(chat) = chat {
                ends.entry((chat, result)).or_default().push(crate::router::platform_id_of(&id, &group));
            }
        }
        for ((chat, result), message_ids) in ends {
            let source = Source::TurnEnd { message_ids, result };
            self.conversations.push(chat, Job { source, tries: Tries::default() }, None);
        }
    }

    /// The books of a session, opened when needed; `None` when they cannot be.
    pub(super) fn books(&mut self, session_id: &str) -> Option<&mut Books> {
        self.open_books(session_id).ok().flatten()
    }

    /// The same; `Ok(None)` when there is no such session. The fault is logged here.
    pub(super) fn open_books(&mut self, session_id: &str) -> Result<Option<&mut Books>, StoreError> {
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

    /// Writes what waits in a session's books. What cannot be written goes on waiting.
    pub(super) fn flush(&mut self, session_id: &str) {
        if self.books.get(session_id).is_some_and(Books::has_marks) {
            // Its fault is noted, and when it is tried again.
            let _ = self.write(session_id);
        }
    }

    fn write(&mut self, session_id: &str) -> Result<()> {
        let Now { instant: now, wall } = self.now;
        let Some(books) = self.books.get_mut(session_id) else { return Ok(()) };
        let flushed = books.flush(&self.parts.store, wall, &self.parts.zone).inspect_err(|e| {
            // The third time it is no lock that is held for a moment.
            if books.flush_failed(now) == 3 {
                log::warn!("Outcomes wait to be written session={session_id} error={e:#}");
            }
        })?;
        if flushed == Flushed::TurnsEnded {
            self.for_sweep.push_back(sweep::Event::Finished { session_id: session_id.to_owned() });
        }
        Ok(())
    }

    /// Writes what no outcome will take along: a session with something in flight waits for that,
    /// so that a turn costs one commit and not two. What could not be written waits no longer.
    pub(super) fn flush_idle(&mut self) {
        let now = self.now.instant;
        let busy: HashSet<&str> =
            self.conversations.all_in_flight().filter_map(|job| job.source.session_id()).collect();
        let idle: Vec<String> = self
            .books
            .iter()
            .filter(|(id, b)| b.has_marks() && b.flush_again.map_or(!busy.contains(id.as_str()), |at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for session_id in idle {
            self.flush(&session_id);
        }
    }

    pub(super) fn close_quiet_books(&mut self) {
        let quiet = |(id, books): (&String, &Books)| {
            let stamp = books.settled().filter(|_| books.is_quiet())?;
            Some(Settled { session_id: id.clone(), stamp })
        };
        let mut settled: Vec<Settled> = self.books.iter().filter_map(quiet).collect();
        self.books.retain(|_, books| !books.is_quiet());
        settled.retain(|new| self.settled.get(&new.session_id) != Some(&new.stamp));
        if settled.is_empty() {
            return;
        }
        let store = &self.parts.store;
        match store.transaction(|| settled.iter().try_for_each(|new| store.put_settled_session(new))) {
            Ok(()) => self.settled.extend(settled.into_iter().map(|new| (new.session_id, new.stamp))),
            // The next start opens these files in vain.
            Err(e) => log::debug!("Quiet sessions were not noted error={e}"),
        }
    }
}
