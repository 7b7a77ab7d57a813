//! Approvals: what an agent asked permission for. A row is decided once and kept, so that its
//! card can be edited to the outcome.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Result, Store};

text_enum! {
    /// How far a request is.
    pub enum ApprovalStatus {
        Pending = "pending",
        Approved = "approved",
        Rejected = "rejected",
        /// Nobody decided in time.
        Expired = "expired",
    }
}

/// What a person decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Approve,
    Reject,
}

table! {
    /// A row of `pending_approvals`.
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

impl Store {
    pub fn create_approval(&self, approval: &Approval) -> Result<()> {
        self.insert(approval)
    }

    pub fn find_approval(&self, approval_id: &str) -> Result<Option<Approval>> {
        self.find("WHERE approval_id = ?1", &[&approval_id])
    }

    pub fn approvals(&self) -> Result<Vec<Approval>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn pending_approvals(&self) -> Result<Vec<Approval>> {
        self.all("WHERE status = ?1 ORDER BY rowid", &[&ApprovalStatus::Pending])
    }

    /// Remembers the message that is the approval's card.
    pub fn set_approval_card(&self, approval_id: &str, platform_message_id: &str) -> Result<()> {
        self.execute_on::<Approval>(
            approval_id,
            "UPDATE pending_approvals SET platform_message_id = ?2 WHERE approval_id = ?1",
            &[&approval_id, &platform_message_id],
        )
    }

    /// Decides a pending approval and returns it as decided. `None`: it was not pending (any
    /// more), and nothing changed.
    pub fn decide_approval(
        &self,
        approval_id: &str,
        verdict: Verdict,
        decided_by: &str,
        now: Timestamp,
    ) -> Result<Option<Approval>> {
        let outcome = match verdict {
            Verdict::Approve => ApprovalStatus::Approved,
            Verdict::Reject => ApprovalStatus::Rejected,
        };
        self.transaction(|| {
            let decided = self.execute(
                "UPDATE pending_approvals SET status = ?2, decided_by = ?3, decided_at = ?4
                 WHERE approval_id = ?1 AND status = ?5",
                &[&approval_id, &outcome, &decided_by, &now, &ApprovalStatus::Pending],
            )?;
            match decided {
                0 => Ok(None),
                _ => self.find_approval(approval_id),
            }
        })
    }

    /// Expires what nobody decided in time, and returns it.
    pub fn expire_approvals(&self, now: Timestamp) -> Result<Vec<Approval>> {
        self.transaction(|| {
            let mut expired = self.pending_approvals()?;
            expired.retain(|approval| approval.expires_at.is_some_and(|at| at <= now));
            for approval in &mut expired {
                approval.status = ApprovalStatus::Expired;
                approval.decided_at = Some(now);
                self.update(approval)?;
            }
            Ok(expired)
        })
    }

    /// Deletes what was decided or expired and was asked before `before`; returns how many.
    pub fn prune_approvals(&self, before: Timestamp) -> Result<usize> {
        let tail = format!("WHERE status <> ?2 AND {} < {}", comparable("created_at"), comparable("?1"));
        self.delete::<Approval>(&tail, &[&before, &ApprovalStatus::Pending])
    }
}
