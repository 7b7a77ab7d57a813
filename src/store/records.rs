//! What the host remembers of its channels: how far each was read, whom it did not hear, and why a
//! message was not answered. Reasons are shown, never decided on.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;

use super::{Result, Store};

/// How many chats with dropped senders are remembered. rows.
pub const MAX_DROPPED_CHATS: i64 = 1000;
/// How many decisions are kept. rows.
pub const MAX_DECISIONS: i64 = 1000;

table! {
    /// How far an account has read its platform. Written after the batch is durable.
    pub struct Cursor in "channel_cursors" as "cursor", key 1 {
        /// The channel and the account's own id: a new token does not inherit an old cursor.
        channel_account: String,
        cursor: String,
        updated_at: Timestamp,
    }
}

table! {
    /// Who was not heard in a chat last, and how many messages were not in all.
    pub struct DroppedSender in "unregistered_senders" as "dropped sender", key 2 {
        channel_type: String,
        platform_id: String,
        user_id: Option<String>,
        sender_name: Option<String>,
        /// In the router's words.
        reason: String,
        messaging_group_id: Option<String>,
        agent_group_id: Option<String>,
        message_count: i64,
        first_seen: Timestamp,
        last_seen: Timestamp,
    }
}

table! {
    /// Why a message was not answered, for `explain`.
    pub struct Decision in "decisions" as "decision", key 1 {
        message_id: String,
        at: Timestamp,
        channel_type: String,
        platform_id: String,
        thread_id: Option<String>,
        sender_id: Option<String>,
        /// `None`: the message got no further than its chat.
        agent_group_id: Option<String>,
        /// In the words of the module that decided.
        reason: String,
        detail: Option<String>,
    }
}

impl Store {
    pub(crate) fn cursor(&self, channel_account: &str) -> Result<Option<String>> {
        let row: Option<Cursor> = self.find("WHERE channel_account = ?1", &[&channel_account])?;
        Ok(row.map(|row| row.cursor))
    }

    pub(crate) fn set_cursor(&self, channel_account: &str, cursor: &str, now: Timestamp) -> Result<()> {
        self.put(&Cursor { channel_account: channel_account.to_owned(), cursor: cursor.to_owned(), updated_at: now })
    }

    /// Counts a dropped message: a first row as given, later the newest sender and reason with
    /// `message_count` added. The chats heard of longest ago make room.
    pub(crate) fn record_dropped(&self, dropped: &DroppedSender) -> Result<()> {
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
    pub(crate) fn dropped_senders(&self, limit: u32) -> Result<Vec<DroppedSender>> {
        self.all(&newest(), &[&limit])
    }

    /// Forgets a chat, once it is wired.
    pub(crate) fn forget_dropped(&self, channel_type: &str, platform_id: &str) -> Result<()> {
        let tail = "WHERE channel_type = ?1 AND platform_id = ?2";
        self.delete::<DroppedSender>(tail, &[&channel_type, &platform_id]).map(drop)
    }

    /// Records several decisions in one commit; the oldest ones make room.
    pub(crate) fn record_decisions(&self, decisions: &[Decision]) -> Result<()> {
        if decisions.is_empty() {
            return Ok(());
        }
        self.transaction(|| {
            decisions.iter().try_for_each(|decision| self.insert(decision))?;
            self.delete::<Decision>("WHERE seq <= (SELECT max(seq) FROM decisions) - ?1", &[&MAX_DECISIONS])?;
            Ok(())
        })
    }

    /// What was decided about a message, in order.
    pub(crate) fn decisions_about(&self, message_id: &str) -> Result<Vec<Decision>> {
        self.all("WHERE message_id = ?1 ORDER BY seq", &[&message_id])
    }
}

/// The rows heard of last, as many as `?1` says.
fn newest() -> String {
    format!("ORDER BY {} DESC LIMIT ?1", comparable("last_seen"))
}
