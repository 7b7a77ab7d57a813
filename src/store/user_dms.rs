//! User DMs: where a user is reached in private, remembered so that a platform is asked once.

use jiff::Timestamp;

use super::{Result, Store};

table! {
    /// A row of `user_dms`.
    pub struct UserDm in "user_dms" as "direct chat", key 2 {
        user_id: String,
        channel_type: String,
        messaging_group_id: String,
        resolved_at: Timestamp,
    }
}

impl Store {
    pub fn put_user_dm(&self, dm: &UserDm) -> Result<()> {
        self.put(dm)
    }

    pub fn find_user_dm(&self, user_id: &str, channel_type: &str) -> Result<Option<UserDm>> {
        self.find("WHERE user_id = ?1 AND channel_type = ?2", &[&user_id, &channel_type])
    }

    /// Every private chat known for the user, the most recently confirmed first.
    pub fn user_dms(&self, user_id: &str) -> Result<Vec<UserDm>> {
        let mut dms: Vec<UserDm> = self.all("WHERE user_id = ?1", &[&user_id])?;
        dms.sort_by_key(|dm| std::cmp::Reverse(dm.resolved_at));
        Ok(dms)
    }

    /// Forgets a chat that turned out to be unreachable.
    pub fn forget_user_dm(&self, user_id: &str, channel_type: &str) -> Result<()> {
        self.delete::<UserDm>("WHERE user_id = ?1 AND channel_type = ?2", &[&user_id, &channel_type])?;
        Ok(())
    }
}
