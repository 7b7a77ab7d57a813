//! What a channel is: one platform's way in and its way out, each run by one thread.
//!
//! The poller thread drives [`Inbound`], the sender thread drives [`Outbound`]; they share
//! nothing the platform does not force them to. Nothing in here knows a platform.

pub mod cli;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use nanoclaw_session::content::{ChatIn, Question};
use nanoclaw_session::row::Address;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};

/// One platform, as two halves for two threads.
pub struct Channel {
    /// `channel_type` of its addresses.
    pub name: &'static str,
    pub inbound: Box<dyn Inbound>,
    pub outbound: Box<dyn Outbound>,
}

/// The way in.
pub trait Inbound: Send {
    /// The account the cursor belongs to, such as a bot's id: a new token for another account
    /// must not inherit its cursor.
    fn account(&self) -> String;

    /// Waits for messages after `cursor`, until there are some, `stop` says so or its limit is over.
    /// On an error the poller backs off and polls again, or gives the channel up.
    fn poll(&mut self, cursor: Option<&str>, stop: &Stop) -> Result<Polled, PollError>;

    /// Every message of the last poll is on disk.
    fn accepted(&mut self);

    /// The last poll's messages could not all be stored. The cursor stays, so a platform brings
    /// them again; a channel that cannot ask again tells its sender.
    fn rejected(&mut self);
}

/// The way out. One call at a time; it may block up to the channel's own deadline.
pub trait Outbound: Send {
    /// Brings one item to its chat.
    fn send(&mut self, item: &OutboundItem) -> Outcome;

    /// Shows in a chat that an answer is being written, for a few seconds. Best effort.
    fn show_typing(&mut self, chat: &Chat, thread_id: Option<&str>);
}

/// What one poll brought.
#[derive(Debug, Default)]
pub struct Polled {
    pub messages: Vec<InboundMessage>,
    /// Where the next poll starts once these are on disk.
    pub cursor: Option<String>,
    /// Someone who was away is back: deliver what waits.
    pub ready: Ready,
}

/// Whether a receiver appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ready {
    #[default]
    Unchanged,
    NowReachable,
}

/// Why a poll failed.
#[derive(Debug)]
pub enum PollError {
    /// Worth another try.
    Transient(String),
    /// The channel cannot go on, such as with a refused token.
    Fatal(String),
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PollError::Transient(why) | PollError::Fatal(why) => f.write_str(why),
        }
    }
}

pub use crate::store::Threads;

/// A chat on a platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chat {
    pub channel_type: String,
    pub platform_id: String,
}

impl Chat {
    pub fn new(channel_type: &str, platform_id: &str) -> Chat {
        Chat { channel_type: channel_type.to_owned(), platform_id: platform_id.to_owned() }
    }

    /// The chat, or a thread in it, as a row has it.
    pub fn address(&self, thread_id: Option<&str>) -> Address {
        Address {
            channel_type: Some(self.channel_type.clone()),
            platform_id: Some(self.platform_id.clone()),
            thread_id: thread_id.map(str::to_owned),
        }
    }
}

impl fmt::Display for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.channel_type, self.platform_id)
    }
}

/// The id of a user: `<channel>:<handle>`. A handle that has a channel already keeps it.
pub fn user_id(channel_type: &str, handle: &str) -> String {
    match handle.split_once(':') {
        Some((channel, rest)) if !channel.is_empty() && !rest.is_empty() => handle.to_owned(),
        _ => format!("{channel_type}:{handle}"),
    }
}

/// Whether a chat has several people in it. The adapter says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatKind {
    Direct,
    Group,
}

/// Whether the platform itself says that a message addresses the assistant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mention {
    Addressed,
    NotAddressed,
}

/// One message as its channel understood it.
#[derive(Debug, Clone)]
pub struct InboundMessage {
    /// The platform's id, unique within the channel.
    pub id: String,
    pub chat: Chat,
    pub thread_id: Option<String>,
    /// Whether this chat has threads. Where it has none, `thread_id` does not count.
    pub threads: Threads,
    pub kind: ChatKind,
    pub mention: Mention,
    pub timestamp: Timestamp,
    /// Text, sender and quote; its attachments are filled in by the router.
    pub content: ChatIn,
    pub attachments: Vec<InboundFile>,
    /// The question it answers, where the platform says so; its text is the option then.
    pub answers: Option<String>,
    /// Where answers go when not to the chat itself.
    pub reply_to: Option<(Chat, Option<String>)>,
}

impl InboundMessage {
    /// Its thread, where the chat has threads.
    pub fn thread(&self) -> Option<&str> {
        match self.threads {
            Threads::Supported => self.thread_id.as_deref(),
            Threads::Absent => None,
        }
    }

    /// The chat and thread where answers go.
    pub fn answer_to(&self) -> (&Chat, Option<&str>) {
        match &self.reply_to {
            Some((chat, thread)) => (chat, thread.as_deref()),
            None => (&self.chat, self.thread()),
        }
    }
}

/// A file that came with a message.
#[derive(Debug, Clone)]
pub struct InboundFile {
    pub name: String,
    pub mime_type: Option<String>,
    pub bytes: Vec<u8>,
}

/// One thing to bring to a chat.
#[derive(Debug, Clone)]
pub struct OutboundItem {
    pub chat: Chat,
    pub thread_id: Option<String>,
    /// Our id of the row: the idempotency key where the platform has one.
    pub id: String,
    /// The inbound message it answers, as the platform knows it.
    pub in_reply_to: Option<String>,
    pub payload: Payload,
}

/// What to bring.
#[derive(Debug, Clone)]
pub enum Payload {
    Text {
        text: String,
        files: Vec<OutboundFile>,
    },
    Edit {
        platform_message_id: String,
        text: String,
    },
    Reaction {
        platform_message_id: String,
        emoji: String,
    },
    Question(Question),
    /// Bring in all further messages of the item's thread, also those that do not address us. A
    /// platform that does so anyway has sent it.
    Subscribe,
    /// The agent is done with these messages (their platform ids) and everything it had to say
    /// was handed over.
    TurnEnd {
        message_ids: Vec<String>,
        result: TurnResult,
    },
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnResult {
    Completed,
    Failed,
}

/// A file an agent sends, open for reading: its path is the container's and not to be trusted.
#[derive(Debug, Clone)]
pub struct OutboundFile {
    pub name: String,
    pub content: std::sync::Arc<std::fs::File>,
    /// bytes
    pub size: u64,
    /// For messages about it.
    pub origin: PathBuf,
}

/// What became of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With the platform's id where it gives one.
    Sent { platform_message_id: Option<String> },
    /// Not now; the platform may say when.
    Retry { after: Option<Duration>, why: String },
    /// Nobody is there: wait until [`Ready::NowReachable`].
    Away,
    /// Never.
    Permanent { why: String },
}

/// Tells a blocked poll to return. Cloned to the poller; readable once [`Stop::now`] was called.
#[derive(Debug, Clone)]
pub struct Stop {
    event: std::sync::Arc<OwnedFd>,
    limit: Option<Duration>,
}

impl Stop {
    pub fn new() -> std::io::Result<Stop> {
        use rustix::event::{EventfdFlags, eventfd};
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Stop { event: std::sync::Arc::new(event), limit: None })
    }

    /// For a poll that waits so long at most.
    pub fn within(&self, limit: Option<Duration>) -> Stop {
        Stop { limit, ..self.clone() }
    }

    /// How long a poll may wait; for ever, when nothing is said.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    pub fn now(&self) {
        // It can only fail by being set already.
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Waits until told to stop, at most `limit`; true when told.
    pub fn wait(&self, limit: Duration) -> std::io::Result<bool> {
        crate::watch::wait_readable(&*self.event, limit)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
