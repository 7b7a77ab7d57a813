//! Roles: who owns the install, and who administers it or one agent group.

use jiff::Timestamp;

use super::{Inserted, Result, Store, StoreError};

text_enum! {
    /// What a user may decide.
    pub enum Role {
        /// Everything; always global.
        Owner = "owner",
        Admin = "admin",
    }
}

table! {
    /// A row of `user_roles`.
    pub struct RoleGrant in "user_roles" as "role", key 3 {
        user_id: String,
        role: Role,
        /// `None`: global.
        agent_group_id: Option<String>,
        granted_by: Option<String>,
        granted_at: Timestamp,
    }
}

impl Store {
    /// Gives a role; one that the user has stays as it is.
    pub fn grant_role(&self, grant: &RoleGrant) -> Result<Inserted> {
        if grant.role == Role::Owner && grant.agent_group_id.is_some() {
            let problem = "an owner is global: no agent group";
            return Err(StoreError::invalid::<RoleGrant>(&grant.user_id, problem));
        }
        self.insert_absent(grant)
    }

    pub fn revoke_role(&self, user_id: &str, role: Role, agent_group_id: Option<&str>) -> Result<RoleGrant> {
        self.take("WHERE user_id = ?1 AND role = ?2 AND agent_group_id IS ?3", &[&user_id, &role, &agent_group_id])?
            .pop()
            .ok_or_else(|| StoreError::not_found::<RoleGrant>(&format!("{user_id}/{role}")))
    }

    pub fn roles(&self) -> Result<Vec<RoleGrant>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn roles_of_user(&self, user_id: &str) -> Result<Vec<RoleGrant>> {
        self.all("WHERE user_id = ?1 ORDER BY rowid", &[&user_id])
    }

    /// Who may decide for an agent group: its own admins, then global admins, then owners.
    pub fn roles_over(&self, agent_group_id: &str) -> Result<Vec<RoleGrant>> {
        self.all(
            "WHERE agent_group_id = ?1 OR agent_group_id IS NULL
             ORDER BY role = 'owner', agent_group_id IS NULL, rowid",
            &[&agent_group_id],
        )
    }

    /// The owners, the first one first. Empty: nobody has claimed the install.
    pub fn owners(&self) -> Result<Vec<RoleGrant>> {
        self.all("WHERE role = ?1 ORDER BY rowid", &[&Role::Owner])
    }
}
