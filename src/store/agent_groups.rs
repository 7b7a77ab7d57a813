//! Agent groups: a workspace with its folder, memory and personality.

use jiff::Timestamp;

use super::{CliScope, ContainerConfig, Result, Store, StoreError};

/// Longest id; it becomes part of image and container names. characters.
const MAX_ID_CHARS: usize = 50;
/// Longest folder name. characters.
const MAX_FOLDER_CHARS: usize = 64;
/// The folder every group can read, so no group's own.
const SHARED_FOLDER: &str = "global";

table! {
    /// A row of `agent_groups`.
    pub struct AgentGroup in "agent_groups" as "agent group", key 1 {
        /// `^[a-z][a-z0-9-]{0,49}$`: it names images, folders and gateway agents.
        id: String,
        name: String,
        /// The name of its folder under `groups/`; unique.
        folder: String,
        agent_provider: Option<String>,
        created_at: Timestamp,
    }
}

/// Errors unless `id` may be an agent group's.
pub fn validate_agent_group_id(id: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.starts_with(|c: char| c.is_ascii_lowercase()) && id.len() <= MAX_ID_CHARS && id.chars().all(legal) {
        return Ok(());
    }
    Err(StoreError::invalid::<AgentGroup>(id, "an id is a lower-case letter, then up to 49 of a-z, 0-9 and -"))
}

/// Errors unless `folder` may be an agent group's folder: one safe path component.
pub fn validate_folder(folder: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if folder.starts_with(|c: char| c.is_ascii_alphanumeric())
        && folder.len() <= MAX_FOLDER_CHARS
        && folder.chars().all(legal)
        && folder != SHARED_FOLDER
    {
        return Ok(());
    }
    Err(StoreError::invalid::<AgentGroup>(
        folder,
        "a folder is a letter or digit, then up to 63 of a-z, A-Z, 0-9, - and _; `global` is taken",
    ))
}

impl Store {
    /// Adds a group with a default container configuration. The first group of all is
    /// privileged: its `cli_scope` is `global`.
    pub fn create_agent_group(&self, group: &AgentGroup) -> Result<()> {
        validate_agent_group_id(&group.id)?;
        validate_folder(&group.folder)?;
        self.transaction(|| {
            let mut config = ContainerConfig::new(&group.id, group.created_at);
            if self.agent_groups()?.is_empty() {
                config.cli_scope = CliScope::Global;
            }
            self.insert(group)?;
            self.put_container_config(&config)
        })
    }

    pub fn agent_group(&self, id: &str) -> Result<AgentGroup> {
        self.get(id)
    }

    pub fn find_agent_group_by_folder(&self, folder: &str) -> Result<Option<AgentGroup>> {
        self.find("WHERE folder = ?1", &[&folder])
    }

    /// The group meant by an id, a folder or a name that only one group has.
    pub fn resolve_agent_group(&self, word: &str) -> Result<AgentGroup> {
        self.resolve(&["WHERE id = ?1", "WHERE folder = ?1", "WHERE name = ?1"], word)
    }

    /// All groups, the oldest first.
    pub fn agent_groups(&self) -> Result<Vec<AgentGroup>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn update_agent_group(&self, group: &AgentGroup) -> Result<()> {
        validate_folder(&group.folder)?;
        self.update(group)
    }
}
