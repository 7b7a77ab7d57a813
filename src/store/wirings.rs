//! Wirings: which agent group hears which chat, and when it answers.

use jiff::Timestamp;

use super::destinations::Target;
use super::{Destination, Ensured, MessagingGroup, Result, Store, StoreError};

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
    /// A row of `messaging_group_agents`.
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

/// What a wiring says about answering, apart from whom it joins.
#[derive(Debug, Clone, PartialEq)]
pub struct Engagement {
    pub mode: EngageMode,
    pub pattern: Option<String>,
    pub sender_scope: SenderScope,
    pub ignored_message_policy: IgnoredMessagePolicy,
    pub session_mode: SessionMode,
}

impl Engagement {
    /// What a wiring of `chat` says unless told otherwise: an agent answers everything, except
    /// in a group with threads, where it waits to be addressed.
    pub fn default_for(chat: &MessagingGroup, threads: Threads) -> Engagement {
        let addressed = chat.is_group && threads == Threads::Supported && chat.channel_type != "cli";
        let (mode, pattern) =
            if addressed { (EngageMode::MentionSticky, None) } else { (EngageMode::Pattern, Some(".".to_owned())) };
        Engagement {
            mode,
            pattern,
            sender_scope: SenderScope::All,
            ignored_message_policy: IgnoredMessagePolicy::Drop,
            session_mode: SessionMode::Shared,
        }
    }
}

impl Wiring {
    /// A wiring of `chat` to an agent group with the usual [`Engagement`] and priority 0.
    pub fn defaults(id: &str, chat: &MessagingGroup, threads: Threads, agent_group_id: &str, now: Timestamp) -> Wiring {
        let engagement = Engagement::default_for(chat, threads);
        Wiring {
            id: id.to_owned(),
            messaging_group_id: chat.id.clone(),
            agent_group_id: agent_group_id.to_owned(),
            engage_mode: engagement.mode,
            engage_pattern: engagement.pattern,
            sender_scope: engagement.sender_scope,
            ignored_message_policy: engagement.ignored_message_policy,
            session_mode: engagement.session_mode,
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
    /// Adds the wiring and, unless the agent has one already, the destination to its chat. The
    /// caller projects a created destination into the agent's sessions.
    pub fn create_wiring(&self, wiring: &Wiring) -> Result<Ensured<Destination>> {
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

    pub fn wiring(&self, id: &str) -> Result<Wiring> {
        self.get(id)
    }

    pub fn find_wiring(&self, messaging_group_id: &str, agent_group_id: &str) -> Result<Option<Wiring>> {
        self.find("WHERE messaging_group_id = ?1 AND agent_group_id = ?2", &[&messaging_group_id, &agent_group_id])
    }

    /// All wirings, chat by chat, in the order they are judged.
    pub fn wirings(&self) -> Result<Vec<Wiring>> {
        self.all("ORDER BY messaging_group_id, priority DESC, rowid", &[])
    }

    /// The wirings of a chat, in the order they are judged.
    pub fn wirings_of_chat(&self, messaging_group_id: &str) -> Result<Vec<Wiring>> {
        self.all("WHERE messaging_group_id = ?1 ORDER BY priority DESC, rowid", &[&messaging_group_id])
    }

    pub fn wirings_of_group(&self, agent_group_id: &str) -> Result<Vec<Wiring>> {
        self.all("WHERE agent_group_id = ?1 ORDER BY rowid", &[&agent_group_id])
    }

    pub fn update_wiring(&self, wiring: &Wiring) -> Result<()> {
        wiring.validate()?;
        self.update(wiring)
    }

    /// Removes the wiring, and with it the agent's destinations to that chat: who no longer
    /// hears it does not write there either. Returns the revoked destinations, for projection.
    pub fn delete_wiring(&self, id: &str) -> Result<Vec<Destination>> {
        self.transaction(|| {
            let wiring = self.wiring(id)?;
            self.delete::<Wiring>("WHERE id = ?1", &[&id])?;
            self.revoke_destinations_to(&wiring.agent_group_id, Target::Channel(&wiring.messaging_group_id))
        })
    }
}
