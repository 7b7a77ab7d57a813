//! Channel approvals: chats the owner was asked to wire. One card for each chat; the row goes when
//! it is decided.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Inserted, Result, Store};

table! {
    /// A row of `pending_channel_approvals`.
    pub struct ChannelApproval in "pending_channel_approvals" as "channel approval", key 1 {
        messaging_group_id: String,
        /// The agent that would be wired.
        agent_group_id: String,
        /// The message to be routed again once it is.
        original_message: Value,
        approver_user_id: String,
        title: String,
        options_json: Value,
        /// The card, once it is sent.
        platform_message_id: Option<String>,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    }
}

impl Store {
    /// Records the request, unless one for the same chat is pending.
    pub fn request_channel_approval(&self, approval: &ChannelApproval) -> Result<Inserted> {
        self.insert_absent(approval)
    }

    pub fn find_channel_approval(&self, messaging_group_id: &str) -> Result<Option<ChannelApproval>> {
        self.find("WHERE messaging_group_id = ?1", &[&messaging_group_id])
    }

    pub fn channel_approvals(&self) -> Result<Vec<ChannelApproval>> {
        self.all("ORDER BY rowid", &[])
    }

    /// Remembers the message that is the request's card.
    pub fn set_channel_approval_card(&self, messaging_group_id: &str, platform_message_id: &str) -> Result<()> {
        self.execute_on::<ChannelApproval>(
            messaging_group_id,
            "UPDATE pending_channel_approvals SET platform_message_id = ?2
             WHERE messaging_group_id = ?1",
            &[&messaging_group_id, &platform_message_id],
        )
    }

    /// Removes the request and returns it: to the first who decides, and to nobody else.
    pub fn take_channel_approval(&self, messaging_group_id: &str) -> Result<Option<ChannelApproval>> {
        Ok(self.take("WHERE messaging_group_id = ?1", &[&messaging_group_id])?.pop())
    }

    /// Removes and returns the requests that nobody decided in time.
    pub fn take_expired_channel_approvals(&self, now: Timestamp) -> Result<Vec<ChannelApproval>> {
        let tail = format!("WHERE {} <= {}", comparable("expires_at"), comparable("?1"));
        self.take(&tail, &[&now])
    }
}
