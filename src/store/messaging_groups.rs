//! Messaging groups: one chat on one platform.

use jiff::Timestamp;

use super::{Ensured, Inserted, Result, Store, StoreError};

text_enum! {
    /// What happens to a message of somebody the group does not know.
    pub enum UnknownSenderPolicy {
        /// It is dropped.
        Strict = "strict",
        /// The owner is asked, once for each sender.
        RequestApproval = "request_approval",
        /// It counts like anybody's.
        Public = "public",
    }
}

table! {
    /// A row of `messaging_groups`.
    pub struct MessagingGroup in "messaging_groups" as "chat", key 1 {
        id: String,
        channel_type: String,
        /// `<channel>:<native id>`; `local` on `cli`.
        platform_id: String,
        name: Option<String>,
        is_group: bool,
        unknown_sender_policy: UnknownSenderPolicy,
        /// When the owner refused to wire it; nobody is asked again.
        denied_at: Option<Timestamp>,
        created_at: Timestamp,
    }
}

impl Store {
    pub fn create_messaging_group(&self, chat: &MessagingGroup) -> Result<()> {
        self.insert(chat)
    }

    /// The chat with this channel and platform id, or `chat` itself, added.
    pub fn ensure_messaging_group(&self, chat: &MessagingGroup) -> Result<Ensured<MessagingGroup>> {
        self.transaction(|| match self.insert_absent(chat)? {
            Inserted::New => Ok(Ensured::Created(chat.clone())),
            Inserted::AlreadyThere => self
                .find_messaging_group(&chat.channel_type, &chat.platform_id)?
                .map(Ensured::Existing)
                .ok_or_else(|| StoreError::Conflict {
                    noun: "chat",
                    id: chat.id.clone(),
                    taken: "messaging_groups.id".to_owned(),
                }),
        })
    }

    pub fn messaging_group(&self, id: &str) -> Result<MessagingGroup> {
        self.get(id)
    }

    pub fn find_messaging_group(&self, channel_type: &str, platform_id: &str) -> Result<Option<MessagingGroup>> {
        self.find("WHERE channel_type = ?1 AND platform_id = ?2", &[&channel_type, &platform_id])
    }

    /// The chat meant by an id, or by a platform id or name that only one chat has.
    pub fn resolve_messaging_group(&self, word: &str) -> Result<MessagingGroup> {
        self.resolve(&["WHERE id = ?1", "WHERE platform_id = ?1", "WHERE name = ?1"], word)
    }

    /// All chats, the oldest first.
    pub fn messaging_groups(&self) -> Result<Vec<MessagingGroup>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn update_messaging_group(&self, chat: &MessagingGroup) -> Result<()> {
        self.update(chat)
    }

    /// Remembers that the owner refused the chat.
    pub fn deny_messaging_group(&self, id: &str, now: Timestamp) -> Result<()> {
        self.execute_on::<MessagingGroup>(id, "UPDATE messaging_groups SET denied_at = ?2 WHERE id = ?1", &[&id, &now])
    }
}
