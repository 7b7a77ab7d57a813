//! Destinations: the names by which an agent knows chats and agents, and its permission to
//! write to them. Whoever changes them projects the change into the agent's live sessions.

use jiff::Timestamp;
use nanoclaw_session::row::DestinationType;

use super::{AgentGroup, Ensured, MessagingGroup, Result, Store, StoreError};

/// Longest local name. characters.
const MAX_NAME_CHARS: usize = 50;
/// Longest local name that is made up, before a suffix like `-2`. characters.
const MAX_BASE_CHARS: usize = 40;

table! {
    pub struct Destination in "agent_destinations" as "destination", key 2 {
        agent_group_id: String,
        /// `[a-z0-9-]+`, unique for the agent.
        local_name: String,
        target_type: DestinationType,
        /// A messaging group or an agent group, as the type says.
        target_id: String,
        created_at: Timestamp,
    }
}

/// What a destination leads to, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A messaging group.
    Channel(&'a str),
    /// An agent group.
    Agent(&'a str),
}

impl<'a> Target<'a> {
    fn parts(self) -> (DestinationType, &'a str) {
        match self {
            Target::Channel(id) => (DestinationType::Channel, id),
            Target::Agent(id) => (DestinationType::Agent, id),
        }
    }
}

/// `wanted` as a local name: lower case, everything else than `a-z0-9` a single `-`. `None` when
/// nothing is left.
pub fn local_name(wanted: &str) -> Option<String> {
    let mut name = String::new();
    for c in wanted.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == MAX_BASE_CHARS {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

impl Store {
    /// Gives the agent a destination under exactly this name. The same grant again changes
    /// nothing; a name that leads elsewhere is a [`StoreError::Conflict`].
    pub(crate) fn grant_destination(
        &self,
        agent_group_id: &str,
        name: &str,
        target: Target<'_>,
        now: Timestamp,
    ) -> Result<Ensured<Destination>> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(legal) {
            return Err(StoreError::invalid::<Destination>(name, "a name is 1 to 50 of a-z, 0-9 and -"));
        }
        self.transaction(|| {
            match target {
                Target::Channel(id) => drop(self.get::<MessagingGroup>(id)?),
                Target::Agent(id) => drop(self.get::<AgentGroup>(id)?),
            }
            let (target_type, target_id) = target.parts();
            let there = self.find_destination(agent_group_id, name)?;
            if let Some(same) = there.filter(|row| (row.target_type, row.target_id.as_str()) == target.parts()) {
                return Ok(Ensured::Existing(same));
            }
            let granted = Destination {
                agent_group_id: agent_group_id.to_owned(),
                local_name: name.to_owned(),
                target_type,
                target_id: target_id.to_owned(),
                created_at: now,
            };
            self.insert(&granted)?;
            Ok(Ensured::Created(granted))
        })
    }

    /// Takes a destination away.
    pub(crate) fn revoke_destination(&self, agent_group_id: &str, name: &str) -> Result<()> {
        let tail = "WHERE agent_group_id = ?1 AND local_name = ?2";
        self.remove::<Destination>(name, tail, &[&agent_group_id, &name])
    }

    pub(crate) fn find_destination(&self, agent_group_id: &str, name: &str) -> Result<Option<Destination>> {
        self.find("WHERE agent_group_id = ?1 AND local_name = ?2", &[&agent_group_id, &name])
    }

    /// Whether, and under which name, the agent may write to `target`.
    pub(crate) fn find_destination_to(&self, agent_group_id: &str, target: Target<'_>) -> Result<Option<Destination>> {
        let (kind, id) = target.parts();
        self.find(
            "WHERE agent_group_id = ?1 AND target_type = ?2 AND target_id = ?3 ORDER BY rowid",
            &[&agent_group_id, &kind, &id],
        )
    }

    pub(crate) fn destinations(&self) -> Result<Vec<Destination>> {
        self.all("ORDER BY agent_group_id, local_name", &[])
    }

    pub(crate) fn destinations_of(&self, agent_group_id: &str) -> Result<Vec<Destination>> {
        self.all("WHERE agent_group_id = ?1 ORDER BY local_name", &[&agent_group_id])
    }

    /// A name for a new destination of the agent: `wanted` normalised (or `fallback`, where
    /// nothing of it is left), with `-2`, `-3`, ... when it is taken.
    pub(crate) fn free_local_name(&self, agent_group_id: &str, wanted: &str, fallback: &str) -> Result<String> {
        let base = local_name(wanted).or_else(|| local_name(fallback)).unwrap_or_else(|| "chat".to_owned());
        let (mut name, mut suffix) = (base.clone(), 1);
        while self.find_destination(agent_group_id, &name)?.is_some() {
            suffix += 1;
            name = format!("{base}-{suffix}");
        }
        Ok(name)
    }
}
