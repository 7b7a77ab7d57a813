//! Decisions: why a message was not answered, for `explain`. The newest [`MAX_DECISIONS`] are kept.

use jiff::Timestamp;

use super::{Result, Store};

/// How many decisions are kept. rows.
pub const MAX_DECISIONS: i64 = 1000;

table! {
    /// A row of `decisions`.
    pub struct Decision in "decisions" as "decision", key 1 {
        message_id: String,
        at: Timestamp,
        channel_type: String,
        platform_id: String,
        thread_id: Option<String>,
        sender_id: Option<String>,
        /// `None`: the message got no further than its chat.
        agent_group_id: Option<String>,
        /// In the words of the module that decided; shown, never decided on.
        reason: String,
        detail: Option<String>,
    }
}

impl Store {
    pub fn record_decision(&self, decision: &Decision) -> Result<()> {
        self.transaction(|| {
            self.insert(decision)?;
            self.delete::<Decision>("WHERE seq <= (SELECT max(seq) FROM decisions) - ?1", &[&MAX_DECISIONS])?;
            Ok(())
        })
    }

    /// Records several in one commit.
    pub fn record_decisions(&self, decisions: &[Decision]) -> Result<()> {
        if decisions.is_empty() {
            return Ok(());
        }
        self.transaction(|| decisions.iter().try_for_each(|decision| self.record_decision(decision)))
    }

    /// What was decided about a message, in order.
    pub fn decisions_about(&self, message_id: &str) -> Result<Vec<Decision>> {
        self.all("WHERE message_id = ?1 ORDER BY seq", &[&message_id])
    }

    /// The newest decisions, the newest first.
    pub fn decisions(&self, limit: u32) -> Result<Vec<Decision>> {
        self.all("ORDER BY seq DESC LIMIT ?1", &[&limit])
    }
}
