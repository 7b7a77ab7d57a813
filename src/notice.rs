//! What the host itself has to say in a chat: denials, faults, alerts. One way in, so that each
//! is durable, delivered like an agent's message, and said once where that is wanted.

use anyhow::Result;
use serde_json::json;

use crate::channel::Chat;
use crate::channel::cli::{CHANNEL, LOCAL_CHAT};
use crate::id::new_id;
use crate::store::{HostMessage, Inserted, Store};

/// How often a notice is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat<'a> {
    Always,
    /// Once, until [`Store::release_dedup_key`] says that the matter is over.
    OncePer(&'a str),
}

/// Writes a notice into the host's outbox. The caller nudges delivery.
pub fn post(store: &Store, chat: &Chat, thread_id: Option<&str>, text: &str, repeat: Repeat<'_>) -> Result<Inserted> {
    let now = crate::time::now();
    let mut message =
        HostMessage::new(&new_id("note"), &chat.channel_type, &chat.platform_id, json!({"text": text}), now);
    message.thread_id = thread_id.map(str::to_owned);
    message.dedup_key = match repeat {
        Repeat::Always => None,
        Repeat::OncePer(key) => Some(key.to_owned()),
    };
    Ok(store.enqueue_host_message(&message)?)
}

/// Tells the owner something, once per `key`, in the terminal's chat. The caller nudges delivery.
pub fn tell_owner(store: &Store, text: &str, key: &str) -> Result<Inserted> {
    post(store, &Chat::new(CHANNEL, LOCAL_CHAT), None, text, Repeat::OncePer(key))
}
