//! Deleting what others depend on, with all of them in one transaction.
//!
//! What belongs to a session (runs, due time, questions, tokens) goes with it by the schema and is
//! not listed. Usage and decisions are history and stay.

use std::fmt;

use super::{AgentGroup, MessagingGroup, Result, Row, Store, User};

/// Rows of one kind that depend on something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// What they are called, in the plural.
    pub noun: &'static str,
    pub count: i64,
}

impl fmt::Display for Dependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.count == 1 { self.noun.trim_end_matches('s') } else { self.noun };
        write!(f, "{} {noun}", self.count)
    }
}

/// All that may depend on a row: a noun, and its rows as `<table> WHERE ...` with the id as `?1`.
/// Referring rows come before those they refer to.
type Dependencies = [(&'static str, &'static str)];

const OF_GROUP: &Dependencies = &[
    ("approvals", "pending_approvals WHERE agent_group_id = ?1"),
    ("sender approvals", "pending_sender_approvals WHERE agent_group_id = ?1"),
    ("channel approvals", "pending_channel_approvals WHERE agent_group_id = ?1"),
    ("sessions", "sessions WHERE agent_group_id = ?1"),
    ("wirings", "messaging_group_agents WHERE agent_group_id = ?1"),
    ("members", "agent_group_members WHERE agent_group_id = ?1"),
    ("roles", "user_roles WHERE agent_group_id = ?1"),
    ("destinations", "agent_destinations WHERE agent_group_id = ?1 OR (target_type = 'agent' AND target_id = ?1)"),
];

const OF_CHAT: &Dependencies = &[
    ("sender approvals", "pending_sender_approvals WHERE messaging_group_id = ?1"),
    ("channel approvals", "pending_channel_approvals WHERE messaging_group_id = ?1"),
    ("sessions", "sessions WHERE messaging_group_id = ?1"),
    ("wirings", "messaging_group_agents WHERE messaging_group_id = ?1"),
    ("direct chats", "user_dms WHERE messaging_group_id = ?1"),
    ("destinations", "agent_destinations WHERE target_type = 'channel' AND target_id = ?1"),
];

const OF_USER: &Dependencies = &[
    ("roles", "user_roles WHERE user_id = ?1"),
    ("members", "agent_group_members WHERE user_id = ?1"),
    ("direct chats", "user_dms WHERE user_id = ?1"),
];

impl Store {
    pub(crate) fn dependents_of_group(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, OF_GROUP)
    }

    pub(crate) fn dependents_of_chat(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, OF_CHAT)
    }

    pub(crate) fn dependents_of_user(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, OF_USER)
    }

    /// Deletes a group with all that depends on it, destinations of other agents too. Folders and
    /// containers are the caller's.
    pub(crate) fn delete_agent_group_cascade(&self, id: &str) -> Result<()> {
        self.delete_cascade::<AgentGroup>(id, OF_GROUP)
    }

    /// Deletes a chat with all that depends on it, as [`Store::delete_agent_group_cascade`] does.
    pub(crate) fn delete_messaging_group_cascade(&self, id: &str) -> Result<()> {
        self.delete_cascade::<MessagingGroup>(id, OF_CHAT)
    }

    /// Deletes a user with roles, memberships and direct chats.
    pub(crate) fn delete_user_cascade(&self, id: &str) -> Result<()> {
        self.delete_cascade::<User>(id, OF_USER)
    }

    fn dependents(&self, id: &str, on: &Dependencies) -> Result<Vec<Dependent>> {
        let mut dependents = Vec::new();
        for (noun, rows) in on {
            for count in self.column(&format!("SELECT count(*) FROM {rows}"), &[&id])? {
                dependents.push(Dependent { noun, count });
            }
        }
        dependents.retain(|dependent| dependent.count > 0);
        Ok(dependents)
    }

    fn delete_cascade<T: Row>(&self, id: &str, on: &Dependencies) -> Result<()> {
        self.transaction(|| {
            for (_, rows) in on {
                self.execute(&format!("DELETE FROM {rows}"), &[&id])?;
            }
            self.remove::<T>(id, "WHERE id = ?1", &[&id])
        })
    }
}
