//! People: users, what they may decide, which groups know them, where they are reached in private,
//! and the code by which the first one claims the install.

use jiff::{SignedDuration, Timestamp};

use super::{Ensured, Inserted, Result, Store, StoreError};

/// How long a pairing code may be used.
pub const PAIRING_VALID_MINUTES: i64 = 10;

table! {
    /// Somebody on a platform. The same person on two platforms is two users.
    pub struct User in "users" as "user", key 1 {
        /// `<channel>:<handle>`.
        id: String,
        /// The channel.
        kind: String,
        display_name: Option<String>,
        created_at: Timestamp,
    }
}

text_enum! {
    /// What a user may decide.
    pub enum Role {
        /// Everything; always global.
        Owner = "owner",
        Admin = "admin",
    }
}

table! {
    pub struct RoleGrant in "user_roles" as "role", key 3 {
        user_id: String,
        role: Role,
        /// `None`: global.
        agent_group_id: Option<String>,
        granted_by: Option<String>,
        granted_at: Timestamp,
    }
}

table! {
    /// Whom an agent group knows. Whoever holds a role over a group is a member without a row.
    pub struct Member in "agent_group_members" as "member", key 2 {
        user_id: String,
        agent_group_id: String,
        added_by: Option<String>,
        added_at: Timestamp,
    }
}

table! {
    /// Where a user is reached in private, remembered so that a platform is asked once.
    pub struct UserDm in "user_dms" as "direct chat", key 2 {
        user_id: String,
        channel_type: String,
        messaging_group_id: String,
        resolved_at: Timestamp,
    }
}

table! {
    /// With one, a person claims ownership from a private chat. At most one is open.
    pub struct PairingCode in "pairing_codes" as "pairing code", key 1 {
        code: String,
        created_at: Timestamp,
        expires_at: Timestamp,
        used_by: Option<String>,
        used_at: Option<Timestamp>,
    }
}

/// What a code was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    Now,
    /// The same user used it already: their message came again.
    Before,
    /// It is unknown, expired or somebody else's.
    Invalid,
}

impl User {
    fn validate(&self) -> Result<()> {
        match self.id.split_once(':') {
            Some((channel, handle)) if !channel.is_empty() && !handle.is_empty() => Ok(()),
            _ => Err(StoreError::invalid::<User>(&self.id, "an id is <channel>:<handle>")),
        }
    }
}

impl Store {
    pub(crate) fn create_user(&self, user: &User) -> Result<()> {
        user.validate()?;
        self.insert(user)
    }

    /// The user as stored, or `user` itself, added. A display name given now replaces the old one.
    pub(crate) fn ensure_user(&self, user: &User) -> Result<Ensured<User>> {
        user.validate()?;
        self.transaction(|| {
            if self.insert_absent(user)? == Inserted::New {
                return Ok(Ensured::Created(user.clone()));
            }
            let mut stored = self.user(&user.id)?;
            if user.display_name.is_some() && user.display_name != stored.display_name {
                stored.display_name.clone_from(&user.display_name);
                self.update(&stored)?;
            }
            Ok(Ensured::Existing(stored))
        })
    }

    pub(crate) fn user(&self, id: &str) -> Result<User> {
        self.get(id)
    }

    pub(crate) fn find_user(&self, id: &str) -> Result<Option<User>> {
        self.find("WHERE id = ?1", &[&id])
    }

    /// All users, the oldest first.
    pub(crate) fn users(&self) -> Result<Vec<User>> {
        self.all("ORDER BY rowid", &[])
    }

    pub(crate) fn update_user(&self, user: &User) -> Result<()> {
        self.update(user)
    }

    /// Gives a role; one that the user has stays as it is.
    pub(crate) fn grant_role(&self, grant: &RoleGrant) -> Result<Inserted> {
        if grant.role == Role::Owner && grant.agent_group_id.is_some() {
            return Err(StoreError::invalid::<RoleGrant>(&grant.user_id, "an owner is global: no agent group"));
        }
        self.insert_absent(grant)
    }

    pub(crate) fn revoke_role(&self, user_id: &str, role: Role, agent_group_id: Option<&str>) -> Result<()> {
        let tail = "WHERE user_id = ?1 AND role = ?2 AND agent_group_id IS ?3";
        self.remove::<RoleGrant>(&format!("{user_id}/{role}"), tail, &[&user_id, &role, &agent_group_id])
    }

    pub(crate) fn roles(&self) -> Result<Vec<RoleGrant>> {
        self.all("ORDER BY rowid", &[])
    }

    pub(crate) fn roles_of_user(&self, user_id: &str) -> Result<Vec<RoleGrant>> {
        self.all("WHERE user_id = ?1 ORDER BY rowid", &[&user_id])
    }

    /// The owners, the first one first. Empty: nobody has claimed the install.
    pub(crate) fn owners(&self) -> Result<Vec<RoleGrant>> {
        self.all("WHERE role = ?1 ORDER BY rowid", &[&Role::Owner])
    }

    pub(crate) fn add_member(&self, member: &Member) -> Result<Inserted> {
        self.insert_absent(member)
    }

    pub(crate) fn remove_member(&self, user_id: &str, agent_group_id: &str) -> Result<()> {
        let tail = "WHERE user_id = ?1 AND agent_group_id = ?2";
        self.remove::<Member>(&format!("{user_id}/{agent_group_id}"), tail, &[&user_id, &agent_group_id])
    }

    /// Whether the group knows the user, by a row or by a role over the group.
    pub(crate) fn is_member(&self, user_id: &str, agent_group_id: &str) -> Result<bool> {
        let found: Vec<i64> = self.column(
            "SELECT 1 FROM agent_group_members WHERE user_id = ?1 AND agent_group_id = ?2
             UNION SELECT 1 FROM user_roles
             WHERE user_id = ?1 AND (agent_group_id = ?2 OR agent_group_id IS NULL)",
            &[&user_id, &agent_group_id],
        )?;
        Ok(!found.is_empty())
    }

    pub(crate) fn members(&self) -> Result<Vec<Member>> {
        self.all("ORDER BY agent_group_id, rowid", &[])
    }

    pub(crate) fn members_of(&self, agent_group_id: &str) -> Result<Vec<Member>> {
        self.all("WHERE agent_group_id = ?1 ORDER BY rowid", &[&agent_group_id])
    }

    pub(crate) fn put_user_dm(&self, dm: &UserDm) -> Result<()> {
        self.put(dm)
    }

    pub(crate) fn find_user_dm(&self, user_id: &str, channel_type: &str) -> Result<Option<UserDm>> {
        self.find("WHERE user_id = ?1 AND channel_type = ?2", &[&user_id, &channel_type])
    }

    /// Opens a pairing code and forgets every earlier one.
    pub(crate) fn create_pairing_code(&self, code: &str, now: Timestamp) -> Result<PairingCode> {
        let expires_at = now + SignedDuration::from_mins(PAIRING_VALID_MINUTES);
        let row = PairingCode { code: code.to_owned(), created_at: now, expires_at, used_by: None, used_at: None };
        self.transaction(|| {
            self.delete::<PairingCode>("", &[])?;
            self.insert(&row)
        })?;
        Ok(row)
    }

    /// Uses a pairing code up.
    pub(crate) fn redeem_pairing_code(&self, code: &str, user_id: &str, now: Timestamp) -> Result<Redeemed> {
        self.transaction(|| {
            let Some(row) = self.find::<PairingCode>("WHERE code = ?1", &[&code])? else {
                return Ok(Redeemed::Invalid);
            };
            match row.used_by.as_deref() {
                Some(user) if user == user_id => Ok(Redeemed::Before),
                Some(_) => Ok(Redeemed::Invalid),
                None if row.expires_at < now => Ok(Redeemed::Invalid),
                None => {
                    self.update(&PairingCode { used_by: Some(user_id.to_owned()), used_at: Some(now), ..row })?;
                    Ok(Redeemed::Now)
                }
            }
        })
    }
}
