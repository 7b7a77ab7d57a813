//! What waits for a person: an agent's questions, and what it or a stranger asked permission for.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Result, Store};

table! {
    /// What an agent asked a person. It goes when it is answered.
    pub struct Question in "pending_questions" as "question", key 1 {
        question_id: String,
        session_id: String,
        message_out_id: String,
        platform_id: Option<String>,
        channel_type: Option<String>,
        thread_id: Option<String>,
        title: String,
        options_json: Value,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    }
}

text_enum! {
    /// How far an approval is.
    pub enum ApprovalStatus {
        Pending = "pending",
        Approved = "approved",
        Rejected = "rejected",
        /// Nobody decided in time.
        Expired = "expired",
    }
}

table! {
    /// What an agent asked permission for.
    pub struct Approval in "pending_approvals" as "approval", key 1 {
        approval_id: String,
        /// The session that asked; `None` when none did.
        session_id: Option<String>,
        request_id: String,
        /// What will be done, such as `install_packages`.
        action: String,
        payload: Value,
        agent_group_id: Option<String>,
        /// Where the card is.
        channel_type: Option<String>,
        platform_id: Option<String>,
        platform_message_id: Option<String>,
        /// Who was asked; admins of the group may decide as well.
        approver_user_id: Option<String>,
        title: String,
        options_json: Value,
        status: ApprovalStatus,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
        decided_by: Option<String>,
        decided_at: Option<Timestamp>,
    }
}

table! {
    /// A stranger the owner was asked about: one card for each stranger and chat.
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

table! {
    /// A chat the owner was asked to wire: one card for each chat.
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
    /// Records a question; one with the same id (a delivery that is retried) is replaced.
    pub fn put_question(&self, question: &Question) -> Result<()> {
        self.put(question)
    }

    /// Removes the question and returns it: to the first who answers, and to nobody else.
    pub fn take_question(&self, question_id: &str) -> Result<Option<Question>> {
        Ok(self.take("WHERE question_id = ?1", &[&question_id])?.pop())
    }

    pub(crate) fn find_question(&self, question_id: &str) -> Result<Option<Question>> {
        self.find("WHERE question_id = ?1", &[&question_id])
    }

    /// What a session has asked and nobody has answered.
    pub(crate) fn questions_of_session(&self, session_id: &str) -> Result<Vec<Question>> {
        self.all("WHERE session_id = ?1", &[&session_id])
    }

    /// What is open in a chat, the newest first.
    pub(crate) fn questions_in_chat(&self, channel_type: &str, platform_id: &str) -> Result<Vec<Question>> {
        let tail = "WHERE channel_type = ?1 AND platform_id = ?2 ORDER BY created_at DESC, rowid DESC";
        self.all(tail, &[&channel_type, &platform_id])
    }

    /// The questions that nobody answered in time.
    pub(crate) fn expired_questions(&self, now: Timestamp) -> Result<Vec<Question>> {
        self.all(&format!("WHERE {} <= {}", comparable("expires_at"), comparable("?1")), &[&now])
    }
}
