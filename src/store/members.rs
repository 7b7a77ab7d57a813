//! Members: whom an agent group knows. Whoever holds a role over a group is one without a row.

use jiff::Timestamp;

use super::{Inserted, Result, Store, StoreError};

table! {
    /// A row of `agent_group_members`.
    pub struct Member in "agent_group_members" as "member", key 2 {
        user_id: String,
        agent_group_id: String,
        added_by: Option<String>,
        added_at: Timestamp,
    }
}

impl Store {
    pub fn add_member(&self, member: &Member) -> Result<Inserted> {
        self.insert_absent(member)
    }

    pub fn remove_member(&self, user_id: &str, agent_group_id: &str) -> Result<Member> {
        self.take("WHERE user_id = ?1 AND agent_group_id = ?2", &[&user_id, &agent_group_id])?
            .pop()
            .ok_or_else(|| StoreError::not_found::<Member>(&format!("{user_id}/{agent_group_id}")))
    }

    /// Whether the group knows the user, by a row or by a role over the group.
    pub fn is_member(&self, user_id: &str, agent_group_id: &str) -> Result<bool> {
        let found: Vec<i64> = self.column(
            "SELECT 1 FROM agent_group_members WHERE user_id = ?1 AND agent_group_id = ?2
             UNION SELECT 1 FROM user_roles
             WHERE user_id = ?1 AND (agent_group_id = ?2 OR agent_group_id IS NULL)",
            &[&user_id, &agent_group_id],
        )?;
        Ok(!found.is_empty())
    }

    pub fn members(&self) -> Result<Vec<Member>> {
        self.all("ORDER BY agent_group_id, rowid", &[])
    }

    pub fn members_of(&self, agent_group_id: &str) -> Result<Vec<Member>> {
        self.all("WHERE agent_group_id = ?1 ORDER BY rowid", &[&agent_group_id])
    }
}
