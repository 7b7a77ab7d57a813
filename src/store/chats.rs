//! Chats - one conversation on one platform, called messaging groups - and wirings: which agent
//! group hears which of them, and when it answers.

use jiff::Timestamp;

use super::{Destination, Ensured, Result, Store, StoreError, Target};

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

text_enum! {
    /// What makes the agent answer.
    pub enum EngageMode {
        /// `engage_pattern` matches.
        Pattern = "pattern",
        /// The message addresses it.
        Mention = "mention",
        /// The message addresses it, or continues a thread in which it was addressed.
        MentionSticky = "mention-sticky",
    }
}

text_enum! {
    /// Whose messages count.
    pub enum SenderScope {
        All = "all",
        /// Members of the agent group.
        Known = "known",
    }
}

text_enum! {
    /// What becomes of a message that did not engage the agent.
    pub enum IgnoredMessagePolicy {
        Drop = "drop",
        /// It is kept as context for the next one that does.
        Accumulate = "accumulate",
    }
}

text_enum! {
    /// Which conversations share a session.
    pub enum SessionMode {
        /// All of a chat.
        Shared = "shared",
        /// Each thread has its own.
        PerThread = "per-thread",
        /// All chats of the agent group.
        AgentShared = "agent-shared",
    }
}

table! {
    pub struct Wiring in "messaging_group_agents" as "wiring", key 1 {
        id: String,
        messaging_group_id: String,
        agent_group_id: String,
        engage_mode: EngageMode,
        /// A regular expression; required in the mode `pattern`.
        engage_pattern: Option<String>,
        sender_scope: SenderScope,
        ignored_message_policy: IgnoredMessagePolicy,
        session_mode: SessionMode,
        /// Higher is judged first.
        priority: i64,
        created_at: Timestamp,
    }
}

/// Whether a chat's platform has threads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    Supported,
    Absent,
}

impl Wiring {
    /// A wiring of `chat` that says the usual: the agent answers everything, except in a group with
    /// threads, where it waits to be addressed.
    pub fn defaults(id: &str, chat: &MessagingGroup, threads: Threads, agent_group_id: &str, now: Timestamp) -> Wiring {
        let addressed = chat.is_group && threads == Threads::Supported && chat.channel_type != "cli";
        Wiring {
            id: id.to_owned(),
            messaging_group_id: chat.id.clone(),
            agent_group_id: agent_group_id.to_owned(),
            engage_mode: if addressed { EngageMode::MentionSticky } else { EngageMode::Pattern },
            engage_pattern: (!addressed).then(|| ".".to_owned()),
            sender_scope: SenderScope::All,
            ignored_message_policy: IgnoredMessagePolicy::Drop,
            session_mode: SessionMode::Shared,
            priority: 0,
            created_at: now,
        }
    }

    fn validate(&self) -> Result<()> {
        let pattern = self.engage_pattern.as_deref().unwrap_or_default();
        if self.engage_mode == EngageMode::Pattern && pattern.is_empty() {
            let problem = "the engage mode `pattern` needs an engage pattern";
            return Err(StoreError::invalid::<Wiring>(&self.id, problem));
        }
        Ok(())
    }
}

impl Store {
    pub(crate) fn create_messaging_group(&self, chat: &MessagingGroup) -> Result<()> {
        self.insert(chat)
    }

    /// The chat with this channel and platform id, or `chat` itself, added.
    pub(crate) fn ensure_messaging_group(&self, chat: &MessagingGroup) -> Result<Ensured<MessagingGroup>> {
        self.transaction(|| match self.find_messaging_group(&chat.channel_type, &chat.platform_id)? {
            Some(existing) => Ok(Ensured::Existing(existing)),
            None => {
                self.insert(chat)?;
                Ok(Ensured::Created(chat.clone()))
            }
        })
    }

    pub fn messaging_group(&self, id: &str) -> Result<MessagingGroup> {
        self.get(id)
    }

    pub fn find_messaging_group(&self, channel_type: &str, platform_id: &str) -> Result<Option<MessagingGroup>> {
        self.find("WHERE channel_type = ?1 AND platform_id = ?2", &[&channel_type, &platform_id])
    }

    /// All chats, the oldest first.
    pub(crate) fn messaging_groups(&self) -> Result<Vec<MessagingGroup>> {
        self.all("ORDER BY rowid", &[])
    }

    pub(crate) fn update_messaging_group(&self, chat: &MessagingGroup) -> Result<()> {
        self.update(chat)
    }

    /// Adds the wiring and, unless the agent has one already, the destination to its chat. The
    /// caller projects a created destination into the agent's sessions.
    pub(crate) fn create_wiring(&self, wiring: &Wiring) -> Result<Ensured<Destination>> {
        wiring.validate()?;
        self.transaction(|| {
            self.insert(wiring)?;
            let agent = &wiring.agent_group_id;
            let target = Target::Channel(&wiring.messaging_group_id);
            if let Some(destination) = self.find_destination_to(agent, target)? {
                return Ok(Ensured::Existing(destination));
            }
            let chat = self.messaging_group(&wiring.messaging_group_id)?;
            let wanted = chat.name.as_deref().unwrap_or(&chat.channel_type);
            let name = self.free_local_name(agent, wanted, &chat.channel_type)?;
            self.grant_destination(agent, &name, target, wiring.created_at)
        })
    }

    pub(crate) fn wiring(&self, id: &str) -> Result<Wiring> {
        self.get(id)
    }

    pub(crate) fn find_wiring(&self, messaging_group_id: &str, agent_group_id: &str) -> Result<Option<Wiring>> {
        self.find("WHERE messaging_group_id = ?1 AND agent_group_id = ?2", &[&messaging_group_id, &agent_group_id])
    }

    /// All wirings, chat by chat, in the order they are judged.
    pub(crate) fn wirings(&self) -> Result<Vec<Wiring>> {
        self.all("ORDER BY messaging_group_id, priority DESC, rowid", &[])
    }

    /// The wirings of a chat, in the order they are judged.
    pub(crate) fn wirings_of_chat(&self, messaging_group_id: &str) -> Result<Vec<Wiring>> {
        self.all("WHERE messaging_group_id = ?1 ORDER BY priority DESC, rowid", &[&messaging_group_id])
    }

    pub(crate) fn update_wiring(&self, wiring: &Wiring) -> Result<()> {
        wiring.validate()?;
        self.update(wiring)
    }

    /// Removes the wiring, and with it the agent's destinations to that chat: who no longer
    /// hears it does not write there either.
    pub(crate) fn delete_wiring(&self, id: &str) -> Result<()> {
        self.transaction(|| {
            let wiring = self.wiring(id)?;
            self.remove::<Wiring>(id, "WHERE id = ?1", &[&id])?;
            self.delete::<Destination>(
                "WHERE agent_group_id = ?1 AND target_type = 'channel' AND target_id = ?2",
                &[&wiring.agent_group_id, &wiring.messaging_group_id],
            )?;
            Ok(())
        })
    }
}
