//! The host's outbox: what the host itself has to say (denials, cards, alerts). Same delivery and
//! same retries as an agent's messages, never written into `outbound.db`.
//!
//! A row with a `dedup_key` is said once: a second one with that key is not taken, also after the
//! first was delivered, until the key is released or the row pruned.

use jiff::Timestamp;
use nanoclaw_session::row::OutKind;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Inserted, Result, Store};

text_enum! {
    /// What became of a message.
    pub enum OutboxStatus {
        /// It is still being tried.
        Pending = "pending",
        Delivered = "delivered",
        /// It is not tried any more.
        Failed = "failed",
    }
}

table! {
    pub struct HostMessage in "host_outbox" as "host message", key 1 {
        id: String,
        channel_type: String,
        platform_id: String,
        thread_id: Option<String>,
        kind: OutKind,
        /// Shaped as in `messages_out`.
        content: Value,
        created_at: Timestamp,
        deliver_after: Option<Timestamp>,
        attempts: u32,
        first_attempt_at: Option<Timestamp>,
        next_attempt_at: Option<Timestamp>,
        last_error: Option<String>,
        status: OutboxStatus,
        platform_message_id: Option<String>,
        dedup_key: Option<String>,
    }
}

table! {
    /// What a queue must know of a pending message.
    pub struct PendingHostMessage in "host_outbox" as "host message", key 1 {
        id: String,
        /// Its place in line.
        seq: i64,
        channel_type: String,
        platform_id: String,
        deliver_after: Option<Timestamp>,
        attempts: u32,
        first_attempt_at: Option<Timestamp>,
        next_attempt_at: Option<Timestamp>,
    }
}

impl HostMessage {
    /// A chat message that waits to be delivered at once.
    pub fn new(id: &str, channel_type: &str, platform_id: &str, content: Value, now: Timestamp) -> HostMessage {
        HostMessage {
            id: id.to_owned(),
            channel_type: channel_type.to_owned(),
            platform_id: platform_id.to_owned(),
            thread_id: None,
            kind: OutKind::Chat,
            content,
            created_at: now,
            deliver_after: None,
            attempts: 0,
            first_attempt_at: None,
            next_attempt_at: None,
            last_error: None,
            status: OutboxStatus::Pending,
            platform_message_id: None,
            dedup_key: None,
        }
    }
}

impl Store {
    /// Adds a message, unless one with its `dedup_key` was taken before.
    pub(crate) fn enqueue_host_message(&self, message: &HostMessage) -> Result<Inserted> {
        match message.dedup_key {
            Some(_) => self.insert_absent(message),
            None => self.insert(message).map(|()| Inserted::New),
        }
    }

    pub(crate) fn find_host_message(&self, id: &str) -> Result<Option<HostMessage>> {
        self.find("WHERE id = ?1", &[&id])
    }

    /// What was said under this key, as long as the key is not released.
    pub(crate) fn find_host_message_by_key(&self, dedup_key: &str) -> Result<Option<HostMessage>> {
        self.find("WHERE dedup_key = ?1", &[&dedup_key])
    }

    /// The pending messages, due or not, in the order they were added.
    pub(crate) fn pending_host_messages(&self, limit: u32) -> Result<Vec<HostMessage>> {
        self.all("WHERE status = 'pending' ORDER BY seq LIMIT ?1", &[&limit])
    }

    /// The first pending messages behind `seq`, due or not, in the order they were added.
    pub(crate) fn pending_host_messages_after(&self, seq: i64, limit: u32) -> Result<Vec<PendingHostMessage>> {
        self.all("WHERE status = 'pending' AND seq > ?1 ORDER BY seq LIMIT ?2", &[&seq, &limit])
    }

    pub(crate) fn mark_host_delivered(&self, id: &str, platform_message_id: Option<&str>) -> Result<()> {
        let sets = "status = ?2, platform_message_id = ?3, attempts = attempts + 1,
            next_attempt_at = NULL, last_error = NULL";
        self.set::<HostMessage>(id, sets, &[&OutboxStatus::Delivered, &platform_message_id])
    }

    /// Gives the message up.
    pub(crate) fn mark_host_failed(&self, id: &str, error: &str) -> Result<()> {
        let sets = "status = ?2, last_error = ?3, attempts = attempts + 1, next_attempt_at = NULL";
        self.set::<HostMessage>(id, sets, &[&OutboxStatus::Failed, &error])
    }

    /// Counts an attempt that failed `now`; the message is due again at `next`.
    pub(crate) fn retry_host_message(&self, id: &str, now: Timestamp, next: Timestamp, error: &str) -> Result<()> {
        let sets = "attempts = attempts + 1, first_attempt_at = COALESCE(first_attempt_at, ?2),
            next_attempt_at = ?3, last_error = ?4";
        self.set::<HostMessage>(id, sets, &[&now, &next, &error])
    }

    /// Lets a notice be said again: what it was about is over.
    pub(crate) fn release_dedup_key(&self, dedup_key: &str) -> Result<()> {
        self.execute("UPDATE host_outbox SET dedup_key = NULL WHERE dedup_key = ?1", &[&dedup_key]).map(drop)
    }

    /// Deletes the finished messages made before `before`; returns how many. The last one stays: who
    /// has read up to it must not miss the next.
    pub fn prune_host_outbox(&self, before: Timestamp) -> Result<usize> {
        let tail = format!(
            "WHERE status <> 'pending' AND {} < {} AND seq < (SELECT MAX(seq) FROM host_outbox)",
            comparable("created_at"),
            comparable("?1")
        );
        self.delete::<HostMessage>(&tail, &[&before])
    }
}
