//! Dropped senders: who was not heard, and how often. One row for each chat, holding its last sender.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;

use super::{Result, Store};

/// How many chats are remembered. rows.
pub const MAX_DROPPED_CHATS: i64 = 1000;

table! {
    /// A row of `unregistered_senders`.
    pub struct DroppedSender in "unregistered_senders" as "dropped sender", key 2 {
        channel_type: String,
        platform_id: String,
        user_id: Option<String>,
        sender_name: Option<String>,
        /// In the router's words; shown, never decided on.
        reason: String,
        messaging_group_id: Option<String>,
        agent_group_id: Option<String>,
        message_count: i64,
        first_seen: Timestamp,
        last_seen: Timestamp,
    }
}

impl Store {
    /// Counts a dropped message: a first row as given, later the newest sender and reason with
    /// `message_count` added. The chats heard of longest ago make room.
    pub fn record_dropped(&self, dropped: &DroppedSender) -> Result<()> {
        self.transaction(|| {
            self.insert_or(
                dropped,
                "ON CONFLICT(channel_type, platform_id) DO UPDATE SET
                   user_id = excluded.user_id,
                   sender_name = coalesce(excluded.sender_name, sender_name),
                   reason = excluded.reason,
                   messaging_group_id = excluded.messaging_group_id,
                   agent_group_id = excluded.agent_group_id,
                   message_count = message_count + excluded.message_count,
                   last_seen = excluded.last_seen",
            )?;
            let kept = format!("SELECT rowid FROM unregistered_senders {}", newest());
            self.delete::<DroppedSender>(&format!("WHERE rowid NOT IN ({kept})"), &[&MAX_DROPPED_CHATS])?;
            Ok(())
        })
    }

    /// The chats heard of last, the latest first.
    pub fn dropped_senders(&self, limit: u32) -> Result<Vec<DroppedSender>> {
        self.all(&newest(), &[&limit])
    }

    /// Forgets a chat, once it is wired.
    pub fn forget_dropped(&self, channel_type: &str, platform_id: &str) -> Result<()> {
        self.delete::<DroppedSender>("WHERE channel_type = ?1 AND platform_id = ?2", &[&channel_type, &platform_id])?;
        Ok(())
    }
}

/// The rows heard of last, as many as `?1` says.
fn newest() -> String {
    format!("ORDER BY {} DESC LIMIT ?1", comparable("last_seen"))
}
