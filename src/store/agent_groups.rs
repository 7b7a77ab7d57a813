//! Agent groups - a workspace with its folder, memory and personality - and what their containers
//! are made of. Every group has a container configuration.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Result, Store, StoreError, local_name};

/// Longest id; it becomes part of image and container names. characters.
const MAX_ID_CHARS: usize = 50;
/// Longest folder name. characters.
const MAX_FOLDER_CHARS: usize = 64;
/// The folder every group can read, so no group's own.
const SHARED_FOLDER: &str = "global";

table! {
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

text_enum! {
    /// What the agent may do with the `nanoclaw` command line.
    #[derive(Default)]
    pub enum CliScope {
        Disabled = "disabled",
        /// Look at and change its own group.
        #[default]
        Group = "group",
        /// Everything, creating agents included: the group is privileged.
        Global = "global",
    }
}

text_enum! {
    /// What a container reaches besides the gateway's socket.
    pub enum NetworkMode {
        None = "none",
        Bridge = "bridge",
    }
}

/// Which skills a group's agents have. As JSON: `"all"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Skills {
    #[default]
    All,
    Named(Vec<String>),
}

impl From<Skills> for Value {
    fn from(skills: Skills) -> Value {
        match skills {
            Skills::All => "all".into(),
            Skills::Named(names) => names.into(),
        }
    }
}

impl TryFrom<Value> for Skills {
    type Error = serde_json::Error;

    fn try_from(value: Value) -> Result<Skills, serde_json::Error> {
        if value == "all" {
            return Ok(Skills::All);
        }
        serde_json::from_value(value).map(Skills::Named)
    }
}

json_column!(Skills);

table! {
    /// `None` means the host's default throughout.
    #[derive(Default)]
    pub struct ContainerConfig in "container_configs" as "container config", key 1 {
        agent_group_id: String,
        provider: Option<String>,
        model: Option<String>,
        effort: Option<String>,
        image_tag: Option<String>,
        assistant_name: Option<String>,
        max_messages_per_prompt: Option<u32>,
        skills: Skills,
        /// Name to `{command, args, env}`; each entry is judged alone when a container is made.
        mcp_servers: Map<String, Value>,
        packages_apt: Vec<String>,
        packages_npm: Vec<String>,
        /// Each entry is judged alone, so that a malformed one stops only itself.
        additional_mounts: Vec<Value>,
        cli_scope: CliScope,
        /// As docker takes it, such as `512m`.
        memory: Option<String>,
        /// As docker takes it, such as `1.5`.
        cpus: Option<String>,
        pids: Option<u32>,
        network: Option<NetworkMode>,
        updated_at: Timestamp,
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
    let problem = "a folder is a letter or digit, then up to 63 of a-z, A-Z, 0-9, - and _; `global` is taken";
    Err(StoreError::invalid::<AgentGroup>(folder, problem))
}

impl ContainerConfig {
    /// The configuration of a new group: the host's defaults, all skills, scope `group`.
    pub fn new(agent_group_id: &str, now: Timestamp) -> ContainerConfig {
        ContainerConfig { agent_group_id: agent_group_id.to_owned(), updated_at: now, ..ContainerConfig::default() }
    }
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

    pub(crate) fn find_agent_group_by_folder(&self, folder: &str) -> Result<Option<AgentGroup>> {
        self.find("WHERE folder = ?1", &[&folder])
    }

    /// All groups, the oldest first.
    pub(crate) fn agent_groups(&self) -> Result<Vec<AgentGroup>> {
        self.all("ORDER BY rowid", &[])
    }

    /// An id or a folder, made of a name, that no group has and of which `is_used` is false. `None` when
    /// nothing of the name can be either.
    pub(crate) fn free_group_word(&self, name: &str, is_used: impl Fn(&str) -> bool) -> Result<Option<String>> {
        let Some(name) = local_name(name) else { return Ok(None) };
        let base = if name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { format!("agent-{name}") };
        let groups = self.agent_groups()?;
        let is_free = |word: &String| {
            word != SHARED_FOLDER && !groups.iter().any(|g| g.id == *word || g.folder == *word) && !is_used(word)
        };
        Ok(std::iter::once(base.clone()).chain((2..1_000).map(|n| format!("{base}-{n}"))).find(is_free))
    }

    pub(crate) fn update_agent_group(&self, group: &AgentGroup) -> Result<()> {
        validate_folder(&group.folder)?;
        self.update(group)
    }

    pub fn container_config(&self, agent_group_id: &str) -> Result<ContainerConfig> {
        self.get(agent_group_id)
    }

    pub fn put_container_config(&self, config: &ContainerConfig) -> Result<()> {
        self.put(config)
    }
}
