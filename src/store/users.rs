//! Users: somebody on a platform. The same person on two platforms is two users.

use jiff::Timestamp;

use super::{Ensured, Inserted, Result, Store, StoreError};

table! {
    /// A row of `users`.
    pub struct User in "users" as "user", key 1 {
        /// `<channel>:<handle>`.
        id: String,
        /// The channel.
        kind: String,
        display_name: Option<String>,
        created_at: Timestamp,
    }
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
    pub fn create_user(&self, user: &User) -> Result<()> {
        user.validate()?;
        self.insert(user)
    }

    /// The user as stored, or `user` itself, added. A display name given now replaces the old one.
    pub fn ensure_user(&self, user: &User) -> Result<Ensured<User>> {
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

    pub fn user(&self, id: &str) -> Result<User> {
        self.get(id)
    }

    pub fn find_user(&self, id: &str) -> Result<Option<User>> {
        self.find("WHERE id = ?1", &[&id])
    }

    /// All users, the oldest first.
    pub fn users(&self) -> Result<Vec<User>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn update_user(&self, user: &User) -> Result<()> {
        self.update(user)
    }
}
