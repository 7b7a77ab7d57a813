//! Container configurations: what the containers of an agent group are made of. Every group has one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Result, Store};

text_enum! {
    /// What the agent may do with the `nanoclaw` command line.
    pub enum CliScope {
        Disabled = "disabled",
        /// Look at and change its own group.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Skills {
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
    /// A row of `container_configs`. `None` means the host's default throughout.
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

impl ContainerConfig {
    /// The configuration of a new group: the host's defaults, all skills, scope `group`.
    pub fn new(agent_group_id: &str, now: Timestamp) -> ContainerConfig {
        ContainerConfig {
            agent_group_id: agent_group_id.to_owned(),
            provider: None,
            model: None,
            effort: None,
            image_tag: None,
            assistant_name: None,
            max_messages_per_prompt: None,
            skills: Skills::All,
            mcp_servers: Map::new(),
            packages_apt: Vec::new(),
            packages_npm: Vec::new(),
            additional_mounts: Vec::new(),
            cli_scope: CliScope::Group,
            memory: None,
            cpus: None,
            pids: None,
            network: None,
            updated_at: now,
        }
    }
}

impl Store {
    pub fn container_config(&self, agent_group_id: &str) -> Result<ContainerConfig> {
        self.get(agent_group_id)
    }

    pub fn put_container_config(&self, config: &ContainerConfig) -> Result<()> {
        self.put(config)
    }

    /// Reads, changes and writes a configuration in one transaction; returns it as written.
    pub fn change_container_config(
        &self,
        agent_group_id: &str,
        now: Timestamp,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<ContainerConfig> {
        self.transaction(|| {
            let mut config = self.container_config(agent_group_id)?;
            change(&mut config);
            config.updated_at = now;
            self.update(&config)?;
            Ok(config)
        })
    }
}
