//! Why a message was or was not answered: for one that came, from what is on record about it; for
//! one that never came, from the same decision the router would make. It writes no row.
//!
//! Runs in the command's own process, with the daemon up or down. What was pruned cannot be
//! explained, and is said so.

use std::iter;

use anyhow::{Context, Result};
use jiff::Timestamp;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::{DeliveryStatus, InKind, InStatus, MessageIn, Trigger};
use nanoclaw_session::time::format_utc;
use nanoclaw_session::untrusted::{OutRow, open_untrusted};
use serde::Serialize;

use crate::channel::InboundMessage;
use crate::destinations;
use crate::home::Home;
use crate::router::judge::{Ruling, Subject, Why, judge};
use crate::router::{Facts, row_id};
use crate::store::{ContainerStatus, EndReason, Session, Store};
use crate::sweep::decide::{MAX_TRIES, Room};
use crate::sweep::fault::FaultKind;

/// Most versions of one message that are looked for.
const MAX_VERSIONS: u32 = 20;
/// Rows of a session's answers that are looked at.
const MAX_ANSWERS: usize = 1_000;

/// One thing that is known about a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A stable word.
    pub reason: String,
    /// The same in plain words.
    pub detail: String,
    /// The agent group it is about; absent when the message got no further than its chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Finding {
    fn new(reason: &str, detail: impl Into<String>) -> Finding {
        Finding { reason: reason.to_owned(), detail: detail.into(), agent: None, session: None, at: None }
    }
}

/// All that is known about a message that came, by its platform's id or the id of its row. Empty:
/// it left no trace. `room` is what the machine allows; who runs is looked up.
pub fn past(store: &Store, home: &Home, room: Room, id: &str, now: Timestamp) -> Result<Vec<Finding>> {
    let mut past = Past { store, home, room, now, findings: Vec::new() };
    for decision in store.decisions_about(id)? {
        past.findings.push(Finding {
            agent: decision.agent_group_id,
            at: Some(format_utc(decision.at)),
            ..Finding::new(&decision.reason, decision.detail.unwrap_or_default())
        });
    }
    for session in store.sessions()? {
        let is_it = |message_id: &str| message_id == id || message_id == row_id(id, &session.agent_group_id);
        if store.parked(&session.id)?.iter().any(|parked| is_it(&parked.message_id)) {
            let detail = "the session's inbound.db cannot be written; the message is kept, and written there later";
            past.found(&session, "parked", detail.to_owned());
            continue;
        }
        let dir = home.session(&session.agent_group_id, &session.id);
        if !dir.inbound_db().exists() {
            continue;
        }
        let inbound = InboundDb::open(&dir, Durability::Normal)
            .with_context(|| format!("cannot open the inbound.db of session {}", session.id))?;
        for row in rows_of(&inbound, id, &session.agent_group_id)? {
            past.taken(&session, &inbound, &row)?;
        }
    }
    Ok(past.findings)
}

/// The rows of a message in a session: one for each of its versions.
fn rows_of(inbound: &InboundDb, id: &str, agent_group_id: &str) -> Result<Vec<MessageIn>> {
    for first in [row_id(id, agent_group_id), id.to_owned()] {
        let later = (2..MAX_VERSIONS).map(|n| format!("{first}#{n}"));
        let versions = iter::once(first.clone()).chain(later);
        let rows =
            versions.map_while(|version| inbound.message(&version).transpose()).collect::<Result<Vec<_>, _>>()?;
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
    Ok(Vec::new())
}

/// A look at what is on record.
struct Past<'a> {
    store: &'a Store,
    home: &'a Home,
    room: Room,
    now: Timestamp,
    findings: Vec<Finding>,
}

impl Past<'_> {
    fn found(&mut self, session: &Session, reason: &str, detail: impl Into<String>) {
        self.findings.push(Finding {
            agent: Some(session.agent_group_id.clone()),
            session: Some(session.id.clone()),
            ..Finding::new(reason, detail)
        });
    }

    /// What became of a row that was written for an agent.
    fn taken(&mut self, session: &Session, inbound: &InboundDb, row: &MessageIn) -> Result<()> {
        if row.kind == InKind::System {
            let detail = "it is a command to the agent's runner, which obeys it at once while it runs";
            self.found(session, "control", detail);
            return Ok(());
        }
        let (reason, detail) = match (row.status, row.trigger) {
            (InStatus::Completed, _) => ("answered", "the agent is done with it".to_owned()),
            (InStatus::Failed, _) => ("failed", format!("it was given up after {MAX_TRIES} tries")),
            (InStatus::Paused, _) => ("paused", "it is paused".to_owned()),
            (InStatus::Pending, Trigger::Context) => {
                ("context", "it is kept as context for the next message that calls the agent".to_owned())
            }
            (InStatus::Pending, Trigger::Wake) => match row.process_after.filter(|at| *at > self.now) {
                Some(at) if row.tries > 0 => {
                    let at = format_utc(at);
                    ("retry_waiting", format!("{} tries ended early; the next one is due at {at}", row.tries))
                }
                Some(at) => ("not_due", format!("it is due at {}", format_utc(at))),
                None => self.container(session)?,
            },
        };
        self.found(session, reason, detail);
        self.delivery(session, inbound, row)
    }

    /// Why a message that is due was not taken yet.
    fn container(&self, session: &Session) -> Result<(&'static str, String)> {
        // Said once and kept until it is over: the truest account there is.
        for kind in [FaultKind::Start, FaultKind::Crash] {
            if let Some(notice) = self.store.find_host_message_by_key(&kind.key(&session.id))? {
                let said = notice.content["text"].as_str().unwrap_or_default().to_owned();
                return Ok(("container_failing", format!("its container fails; the user was told: \"{said}\"")));
            }
        }
        let last = self.store.container_runs_of(&session.id, 1)?.pop();
        let bad = |end: &EndReason| !matches!(end, EndReason::Exited | EndReason::Stopped | EndReason::Evicted);
        if let Some((run, end)) = last.and_then(|run| run.end_reason.filter(bad).map(|end| (run, end))) {
            let code = run.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
            let when = run.ended_at.map_or(String::new(), |at| format!(" at {}", format_utc(at)));
            let help = format!("`nanoclaw logs {}` shows its last words", session.id);
            return Ok(("container_failing", format!("its last container ended{when} ({end}{code}); {help}")));
        }
        if self.home.holder()?.is_none() {
            return Ok(("daemon_down", "the daemon does not run: start it with `nanoclaw run`".into()));
        }
        if session.container_status != ContainerStatus::Stopped {
            return Ok(("working", "its container runs, and has it or takes it next".into()));
        }
        let live = self.store.open_container_runs()?.len();
        Ok(match (Room { live, ..self.room }).wait() {
            Some(wait) => ("container_waiting", format!("its container waits: {wait}")),
            None => ("starting", "its container is about to start".into()),
        })
    }

    /// Answers of this message, or of the host in its chat, that do not get through.
    fn delivery(&mut self, session: &Session, inbound: &InboundDb, row: &MessageIn) -> Result<()> {
        for id in answers(self.home, session, inbound, &row.id) {
            if inbound.delivered(&id)?.is_some_and(|delivered| delivered.status == DeliveryStatus::Failed) {
                self.found(session, "delivery_failed", format!("the answer {id} could not be delivered"));
            }
        }
        for attempt in inbound.attempts()? {
            if let Some(error) = attempt.last_error {
                let next = format_utc(attempt.next_attempt_at);
                let detail = format!(
                    "the answer {} did not get through {} times ({error}); it is tried again at {next}",
                    attempt.message_out_id, attempt.attempts
                );
                self.found(session, "delivery_failing", detail);
            }
        }
        let Some(chat) = destinations::own_chat(self.store, session)? else { return Ok(()) };
        for message in self.store.pending_host_messages(MAX_ANSWERS as u32)? {
            let here = message.channel_type == chat.channel_type && message.platform_id == chat.platform_id;
            if let Some(error) = message.last_error.filter(|_| here) {
                let detail = format!("what the host has to say there did not get through ({error})");
                self.found(session, "delivery_failing", detail);
            }
        }
        Ok(())
    }
}

/// The ids of the newest answers to a row. A file that cannot be read has none to show.
fn answers(home: &Home, session: &Session, inbound: &InboundDb, row_id: &str) -> Vec<String> {
    let dir = home.session(&session.agent_group_id, &session.id);
    let newest = inbound.delivery_cursor().unwrap_or(0);
    let from = newest.saturating_sub(2 * MAX_ANSWERS as i64);
    let read = open_untrusted(&dir).and_then(|db| db.read(|s| s.messages_after(from, MAX_ANSWERS)));
    let rows = read.map(|found| found.rows).unwrap_or_else(|e| {
        log::debug!("Answers cannot be read session={} error={e}", session.id);
        Vec::new()
    });
    rows.into_iter()
        .filter_map(|row| match row {
            OutRow::Message(message) if message.in_reply_to.as_deref() == Some(row_id) => Some(message.id),
            _ => None,
        })
        .collect()
}

/// What the router would do with a message. Nothing is written.
pub fn dry_run(store: &Store, message: &InboundMessage) -> Result<Vec<Finding>> {
    let mut facts = Facts::new(store);
    let wired = facts.wired(&message.chat)?;
    let subject = Subject::of(message, wired.chat.as_ref());
    let candidates = facts.candidates(&wired, &subject)?;
    let mut findings = Vec::new();
    for verdict in judge(&subject, wired.chat.as_ref(), &candidates) {
        let agent = verdict.wiring.map(|w| w.agent_group_id.clone());
        let finding = match verdict.ruling {
            Ruling::NotHeard(Why::NoWiring) if subject.addresses_us() => Finding::new(
                Why::NoWiring.as_str(),
                format!("{}; the owner is offered it, once", Why::NoWiring.sentence()),
            ),
            Ruling::NotHeard(why) => Finding::new(why.as_str(), why.sentence()),
            Ruling::Asked { .. } => Finding::new("host_command", "the host answers it, and wakes nobody"),
            Ruling::Heard { trigger, scope, .. } => {
                let chat_id = wired.chat.as_ref().map_or("", |chat| &chat.id);
                let group = agent.as_deref().unwrap_or_default();
                let session = facts.session(group, chat_id, &scope)?.map(|s| s.id);
                let place = if session.is_some() { "its session" } else { "a new session" };
                let (reason, what) = match trigger {
                    Trigger::Wake => ("heard", "the agent answers it"),
                    Trigger::Context => ("context", "the agent gets it as context with its next message"),
                };
                Finding { session, ..Finding::new(reason, format!("{what}, in {place}")) }
            }
        };
        findings.push(Finding { agent, ..finding });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;
