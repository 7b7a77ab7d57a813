//! Sender approvals: strangers the owner was asked about. One card for each stranger and chat, not
//! one for each message; the row goes when it is decided.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Inserted, Result, Store};

table! {
    /// A row of `pending_sender_approvals`.
    pub struct SenderApproval in "pending_sender_approvals" as "sender approval", key 1 {
        id: String,
        messaging_group_id: String,
        agent_group_id: String,
        /// The stranger's user id; unique with the chat.
        sender_identity: String,
        sender_name: Option<String>,
        /// The message to be routed again once they are known.
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
    /// Records the request, unless one for the same chat and sender is pending.
    pub fn request_sender_approval(&self, approval: &SenderApproval) -> Result<Inserted> {
        self.insert_absent(approval)
    }

    pub fn find_sender_approval(&self, id: &str) -> Result<Option<SenderApproval>> {
        self.find("WHERE id = ?1", &[&id])
    }

    pub fn sender_approvals(&self) -> Result<Vec<SenderApproval>> {
        self.all("ORDER BY rowid", &[])
    }

    /// Remembers the message that is the request's card.
    pub fn set_sender_approval_card(&self, id: &str, platform_message_id: &str) -> Result<()> {
        self.execute_on::<SenderApproval>(
            id,
            "UPDATE pending_sender_approvals SET platform_message_id = ?2 WHERE id = ?1",
            &[&id, &platform_message_id],
        )
    }

    /// Removes the request and returns it: to the first who decides, and to nobody else.
    pub fn take_sender_approval(&self, id: &str) -> Result<Option<SenderApproval>> {
        Ok(self.take("WHERE id = ?1", &[&id])?.pop())
    }

    /// Removes and returns the requests that nobody decided in time.
    pub fn take_expired_sender_approvals(&self, now: Timestamp) -> Result<Vec<SenderApproval>> {
        let tail = format!("WHERE {} <= {}", comparable("expires_at"), comparable("?1"));
        self.take(&tail, &[&now])
    }
}
