//! A running turn, as the agent keeps it: which rows it answers, what it has sent, what it may
//! still do. Values only; the agent does the effects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crossbeam_channel::Sender;
use nanoclaw_session::content::{Answer, Outbound};
use nanoclaw_session::row::{Address, MessageIn, NewMessageOut};

use crate::destinations::{Destinations, same_chat};
use crate::provider::{Prompt, PromptFile, TurnHandle, Usage};
use crate::reply::Sent;

/// What a turn must remember of a row it has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub id: String,
    pub address: Address,
}

/// Rows that were handed over as one prompt.
#[derive(Debug, Clone)]
pub struct Share {
    pub claims: Vec<Claim>,
    pub prompt: Prompt,
}

impl Share {
    /// `text` is the rendering of `rows`, `files` what came with them.
    pub fn new(rows: &[MessageIn], text: String, files: Vec<PromptFile>) -> Share {
        Share {
            claims: rows.iter().map(|row| Claim { id: row.id.clone(), address: row.address.clone() }).collect(),
            prompt: Prompt { message_ids: rows.iter().map(|row| row.id.clone()).collect(), text, files },
        }
    }

    /// Several shares as one, in order; `None` when there is none.
    pub fn joined(shares: impl IntoIterator<Item = Share>) -> Option<Share> {
        shares.into_iter().reduce(|mut all, next| {
            all.claims.extend(next.claims);
            all.prompt.message_ids.extend(next.prompt.message_ids);
            all.prompt.text.push_str("\n\n");
            all.prompt.text.push_str(&next.prompt.text);
            all.prompt.files.extend(next.prompt.files);
            all
        })
    }
}

/// Whether the agent may still be told something in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nudge {
    Unused,
    Used,
}

/// What the provider was asked to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The stored continuation.
    Continued,
    /// Nothing: the stored one led nowhere.
    Afresh,
}

/// What a turn answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Messages: the model's text says where it goes.
    Prompt,
    /// A command: the text is the runner's, for who gave it.
    Command,
}

/// One turn, from claim to acknowledgement.
pub struct Turn {
    pub asked: Asked,
    pub handle: TurnHandle,
    /// What the provider has been given.
    pub given: Share,
    /// Follow-ups pushed into it, not known to be answered yet.
    pub pushed: Vec<Share>,
    pub destinations: Arc<Destinations>,
    pub sent: Sent,
    /// What the turn's end will send.
    pub outbox: Vec<NewMessageOut>,
    pub nudge: Nudge,
    pub attempt: Attempt,
    /// Whether the user was told that it waits for the model's limit.
    pub parked: bool,
    /// What it has cost, by model.
    pub costs: BTreeMap<String, Usage>,
    /// Who waits for the answer to a question of this turn, by the question's id.
    pub questions: HashMap<String, Sender<Answer>>,
    /// The rows of the answers they got.
    pub answers: Vec<String>,
}

impl Turn {
    /// A turn that has just been started with `given`.
    pub fn new(asked: Asked, handle: TurnHandle, given: Share, destinations: Arc<Destinations>) -> Turn {
        Turn {
            asked,
            parked: false,
            costs: BTreeMap::new(),
            questions: HashMap::new(),
            answers: Vec::new(),
            handle,
            given,
            pushed: Vec::new(),
            destinations,
            sent: Sent::default(),
            outbox: Vec::new(),
            nudge: Nudge::Unused,
            attempt: Attempt::Continued,
        }
    }

    /// Every row this turn has claimed.
    pub fn claims(&self) -> impl DoubleEndedIterator<Item = &Claim> {
        self.given.claims.iter().chain(self.pushed.iter().flat_map(|share| &share.claims))
    }

    pub fn claim_ids(&self) -> impl Iterator<Item = String> {
        self.claims().map(|claim| claim.id.clone()).chain(self.answers.iter().cloned())
    }

    /// Takes what was pushed in with what was given: all of it is asked again.
    pub fn gather(&mut self) {
        let shares = std::iter::once(self.given.clone()).chain(std::mem::take(&mut self.pushed));
        if let Some(all) = Share::joined(shares) {
            self.given = all;
        }
    }

    /// The first `answered` of the pushed shares were answered: they belong to the turn's own rows.
    pub fn answered(&mut self, answered: usize) {
        let answered = self.pushed.drain(..answered.min(self.pushed.len()));
        self.given.claims.extend(answered.flat_map(|share| share.claims));
    }

    /// The row for a text to the destination called `to`, else to the session's own chat.
    pub fn text_row(&self, id: String, to: Option<&str>, text: String) -> NewMessageOut {
        let peer = to.and_then(|name| self.destinations.by_name(name));
        self.row(id, self.destinations.address(peer), &Outbound::Text { text, files: Vec::new() })
    }

    /// A row to `address`, in reply to the latest row that came from there, else to the latest.
    pub fn row(&self, id: String, address: Address, message: &Outbound) -> NewMessageOut {
        let from_there = self.claims().rfind(|claim| same_chat(&claim.address, &address));
        let in_reply_to = from_there.or_else(|| self.claims().next_back()).map(|claim| claim.id.clone());
        let (kind, content) = message.to_row();
        NewMessageOut { id, in_reply_to, deliver_after: None, kind, address, content }
    }
}
