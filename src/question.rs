//! What agents ask people: on record once it is on its way, ended once, and shown with its outcome.
//!
//! Delivery records a question ([`record`]) before a person can see it. The router ends it with an answer, or
//! because the people go on without one; the sweep ends it when its time is over. Whoever ends it writes the row the
//! agent's tool waits for first and calls [`end`] then: a crash in between repeats the row, and it is absorbed.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::content::{Answer, Question as Asked, QuestionOption};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::question::Outcome;
use nanoclaw_session::row::{Address, InKind, NewMessageIn, OutKind, Trigger};
use serde_json::{Map, Value, json};

use crate::channel::{Chat, Payload};
use crate::home::Home;
use crate::id::new_id;
use crate::store::{HostMessage, Question, Session, Store, StoreError};

/// The action of a host message that shows what became of a question.
pub const SHOW_OUTCOME: &str = "show_question_outcome";
/// Longest life of a question, whatever the agent says.
const MAX_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Most questions of one session that are open at once.
const MAX_OPEN: usize = 20;

/// Puts a question on record, again when its delivery is tried again. The inner error is a sentence for the agent.
///
/// # Errors
/// The store's.
pub fn record(
    store: &Store,
    session: &Session,
    message_out_id: &str,
    (chat, thread_id): (&Chat, Option<&str>),
    asked: &Asked,
    now: Timestamp,
) -> Result<Result<(), String>> {
    let expires_at = asked.expires_at().unwrap_or(now + MAX_LIFE).min(now + MAX_LIFE);
    if expires_at <= now {
        return Ok(Err("nobody was there to see the question in time".into()));
    }
    match store.find_question(&asked.question_id)? {
        Some(known) if known.session_id != session.id || known.message_out_id != message_out_id => {
            return Ok(Err("another question has this questionId".into()));
        }
        None if store.questions_of_session(&session.id)?.len() >= MAX_OPEN => {
            return Ok(Err(format!("{MAX_OPEN} questions of yours are open, as many as may be")));
        }
        _ => {}
    }
    store.put_question(&Question {
        question_id: asked.question_id.clone(),
        session_id: session.id.clone(),
        message_out_id: message_out_id.to_owned(),
        platform_id: Some(chat.platform_id.clone()),
        channel_type: Some(chat.channel_type.clone()),
        thread_id: thread_id.map(str::to_owned),
        title: asked.title.clone(),
        options_json: json!(asked.options),
        created_at: now,
        expires_at: Some(expires_at),
    })?;
    Ok(Ok(()))
}

/// Its options; none, when another program wrote them.
pub fn options(question: &Question) -> Vec<QuestionOption> {
    serde_json::from_value(question.options_json.clone()).unwrap_or_default()
}

/// The row that tells a session what became of a question. Only a choice wakes an agent that does not wait for it.
pub fn answer_row(id: String, now: Timestamp, address: Address, answer: &Answer) -> NewMessageIn {
    let trigger = match answer.outcome {
        Outcome::Chosen { .. } => Trigger::Wake,
        Outcome::Expired | Outcome::Withdrawn { .. } => Trigger::Context,
    };
    NewMessageIn { kind: InKind::System, trigger, ..NewMessageIn::chat(id, now, address, answer.to_json()) }
}

/// Takes a question off the record and has its message say `shown`. The caller nudges delivery.
///
/// # Errors
/// The store's.
pub fn end(store: &Store, question: &Question, shown: &str) -> Result<()> {
    store.transaction(|| {
        let taken = store.take_question(&question.question_id)?;
        let place = (question.channel_type.as_deref(), question.platform_id.as_deref());
        let (Some(_), (Some(channel_type), Some(platform_id))) = (taken, place) else { return Ok(()) };
        let content = json!({"action": SHOW_OUTCOME, "session": question.session_id,
            "message": question.message_out_id, "text": format!("{}: {shown}", question.title)});
        let mut message = HostMessage::new(&new_id("note"), channel_type, platform_id, content, crate::time::now());
        message.kind = OutKind::System;
        message.thread_id.clone_from(&question.thread_id);
        store.enqueue_host_message(&message).map(drop)
    })?;
    Ok(())
}

/// What a channel is asked for by [`SHOW_OUTCOME`]: an edit of the question, or a text where it never arrived.
///
/// # Errors
/// The session's files could not be read.
pub fn outcome_payload(store: &Store, home: &Home, arguments: &Map<String, Value>) -> Result<Payload> {
    let of = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let sent = match store.session(&of("session")) {
        Ok(session) => {
            let dir = home.session(&session.agent_group_id, &session.id);
            let inbound = InboundDb::open(&dir, Durability::Normal).context("cannot open inbound.db")?;
            inbound.delivered(&of("message"))?
        }
        Err(StoreError::NotFound { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    Ok(match sent.and_then(|delivered| delivered.platform_message_id) {
        Some(platform_message_id) => Payload::Edit { platform_message_id, text: of("text") },
        None => Payload::Text { text: of("text"), files: Vec::new() },
    })
}
