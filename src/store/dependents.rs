//! Deleting what others depend on: refused with a list of dependents, or, as a cascade, done with
//! all of them in one transaction.
//!
//! What belongs to a session (runs, due time, questions, tokens) goes with it by the schema and is
//! not listed. Usage and decisions are history and stay.

use std::fmt;

use super::{AgentGroup, Destination, MessagingGroup, Result, Row, Store, StoreError, User};

/// Rows of one kind that depend on something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// What they are called, in the plural.
    pub noun: &'static str,
    pub count: i64,
}

impl fmt::Display for Dependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.noun)
    }
}

/// All that may depend on a row.
struct Dependencies {
    /// A noun, and its rows as `<table> WHERE ...` with the id as `?1`. Referring rows come
    /// before those they refer to.
    rows: &'static [(&'static str, &'static str)],
    /// The condition on destinations, which are only ever revoked.
    destinations: Option<&'static str>,
}

const OF_GROUP: Dependencies = Dependencies {
    rows: &[
        ("approvals", "pending_approvals WHERE agent_group_id = ?1"),
        ("sender approvals", "pending_sender_approvals WHERE agent_group_id = ?1"),
        ("channel approvals", "pending_channel_approvals WHERE agent_group_id = ?1"),
        ("sessions", "sessions WHERE agent_group_id = ?1"),
        ("wirings", "messaging_group_agents WHERE agent_group_id = ?1"),
        ("members", "agent_group_members WHERE agent_group_id = ?1"),
        ("roles", "user_roles WHERE agent_group_id = ?1"),
    ],
    destinations: Some("WHERE agent_group_id = ?1 OR (target_type = 'agent' AND target_id = ?1)"),
};

const OF_CHAT: Dependencies = Dependencies {
    rows: &[
        ("sender approvals", "pending_sender_approvals WHERE messaging_group_id = ?1"),
        ("channel approvals", "pending_channel_approvals WHERE messaging_group_id = ?1"),
        ("sessions", "sessions WHERE messaging_group_id = ?1"),
        ("wirings", "messaging_group_agents WHERE messaging_group_id = ?1"),
        ("direct chats", "user_dms WHERE messaging_group_id = ?1"),
    ],
    destinations: Some("WHERE target_type = 'channel' AND target_id = ?1"),
};

const OF_USER: Dependencies = Dependencies {
    rows: &[
        ("roles", "user_roles WHERE user_id = ?1"),
        ("members", "agent_group_members WHERE user_id = ?1"),
        ("direct chats", "user_dms WHERE user_id = ?1"),
    ],
    destinations: None,
};

impl Store {
    pub fn dependents_of_group(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, &OF_GROUP)
    }

    pub fn dependents_of_chat(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, &OF_CHAT)
    }

    pub fn dependents_of_user(&self, id: &str) -> Result<Vec<Dependent>> {
        self.dependents(id, &OF_USER)
    }

    /// Deletes a group on which nothing depends; else [`StoreError::InUse`].
    pub fn delete_agent_group(&self, id: &str) -> Result<()> {
        self.delete_alone::<AgentGroup>(id, &OF_GROUP)
    }

    /// Deletes a group with all that depends on it. Returns the revoked destinations, those of
    /// other agents too, for projection. Folders and containers are the caller's.
    pub fn delete_agent_group_cascade(&self, id: &str) -> Result<Vec<Destination>> {
        self.delete_cascade::<AgentGroup>(id, &OF_GROUP)
    }

    /// Deletes a chat on which nothing depends; else [`StoreError::InUse`].
    pub fn delete_messaging_group(&self, id: &str) -> Result<()> {
        self.delete_alone::<MessagingGroup>(id, &OF_CHAT)
    }

    /// Deletes a chat with all that depends on it, as [`Store::delete_agent_group_cascade`] does.
    pub fn delete_messaging_group_cascade(&self, id: &str) -> Result<Vec<Destination>> {
        self.delete_cascade::<MessagingGroup>(id, &OF_CHAT)
    }

    /// Deletes a user on whom nothing depends; else [`StoreError::InUse`].
    pub fn delete_user(&self, id: &str) -> Result<()> {
        self.delete_alone::<User>(id, &OF_USER)
    }

    /// Deletes a user with roles, memberships and direct chats.
    pub fn delete_user_cascade(&self, id: &str) -> Result<()> {
        self.delete_cascade::<User>(id, &OF_USER)?;
        Ok(())
    }

    fn dependents(&self, id: &str, on: &Dependencies) -> Result<Vec<Dependent>> {
        let mut dependents = Vec::new();
        let mut count = |noun, rows: &str| -> Result<()> {
            let counts = self.column(&format!("SELECT count(*) FROM {rows}"), &[&id])?;
            let some = counts.into_iter().filter(|count| *count > 0);
            dependents.extend(some.map(|count| Dependent { noun, count }));
            Ok(())
        };
        for (noun, rows) in on.rows {
            count(noun, rows)?;
        }
        if let Some(destinations) = on.destinations {
            count("destinations", &format!("{} {destinations}", Destination::TABLE))?;
        }
        Ok(dependents)
    }

    fn delete_alone<T: Row>(&self, id: &str, on: &Dependencies) -> Result<()> {
        self.transaction(|| {
            let by = self.dependents(id, on)?;
            if !by.is_empty() {
                let (noun, id) = (T::NOUN, id.to_owned());
                return Err(StoreError::InUse { noun, id, by });
            }
            self.delete_cascade::<T>(id, on)?;
            Ok(())
        })
    }

    fn delete_cascade<T: Row>(&self, id: &str, on: &Dependencies) -> Result<Vec<Destination>> {
        self.transaction(|| {
            for (_, rows) in on.rows {
                self.execute(&format!("DELETE FROM {rows}"), &[&id])?;
            }
            let revoked = match on.destinations {
                Some(destinations) => self.revoke(destinations, &[&id])?,
                None => Vec::new(),
            };
            match self.delete::<T>("WHERE id = ?1", &[&id])? {
                0 => Err(StoreError::not_found::<T>(id)),
                _ => Ok(revoked),
            }
        })
    }
}
