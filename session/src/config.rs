//! `container.json`: this session's configuration, rendered by the host before each start and
//! read-only for the container. The keys are those NanoClaw's runner reads; ours are marked.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layout::SessionDir;

/// Rows in one prompt when nothing else is configured.
pub const DEFAULT_MAX_MESSAGES_PER_PROMPT: u32 = 10;
/// How long a runner stays with nothing to do, when nothing else is configured. seconds
pub const DEFAULT_IDLE_SECONDS: u64 = 300;

/// What a container is told about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerConfig {
    pub provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    pub assistant_name: String,
    pub group_name: String,
    pub agent_group_id: String,
    pub max_messages_per_prompt: u32,
    pub mcp_servers: BTreeMap<String, McpServer>,
    pub packages: Packages,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_tag: Option<String>,
    pub additional_mounts: Vec<Value>,
    /// `"all"`, or a list of names.
    pub skills: Value,
    /// Ours: the group is privileged, so its agents have the tool. The host checks it again.
    pub may_create_agents: bool,
    /// Ours: how long the runner stays with nothing to do. seconds
    pub idle_seconds: u64,
    /// Ours: the zone times are shown in (an IANA name).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// A stdio MCP server of the group.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct McpServer {
    pub command: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// Packages installed into the group's image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Packages {
    pub apt: Vec<String>,
    pub npm: Vec<String>,
}

impl Default for ContainerConfig {
    fn default() -> Self {
        ContainerConfig {
            provider: "demo".into(),
            model: None,
            effort: None,
            assistant_name: "Claw".into(),
            group_name: String::new(),
            agent_group_id: String::new(),
            max_messages_per_prompt: DEFAULT_MAX_MESSAGES_PER_PROMPT,
            mcp_servers: BTreeMap::new(),
            packages: Packages::default(),
            image_tag: None,
            additional_mounts: Vec::new(),
            skills: Value::from("all"),
            may_create_agents: false,
            idle_seconds: DEFAULT_IDLE_SECONDS,
            timezone: None,
        }
    }
}

impl ContainerConfig {
    /// Reads the session's configuration; unknown keys are ignored, missing ones get defaults.
    pub fn load(dir: &SessionDir) -> io::Result<ContainerConfig> {
        Ok(serde_json::from_slice(&fs::read(dir.container_json())?)?)
    }

    /// Replaces the session's configuration by rename.
    pub fn store(&self, dir: &SessionDir) -> io::Result<()> {
        replace(&dir.container_json(), &serde_json::to_vec_pretty(self)?)
    }
}

/// Replaces `path` by a file with `content`, by rename: a reader sees the old or the new whole.
pub fn replace(path: &std::path::Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_round_trips_and_a_file_of_nanoclaw_reads() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        let config = ContainerConfig { model: Some("m".into()), idle_seconds: 5, ..ContainerConfig::default() };
        config.store(&dir).unwrap();
        assert_eq!(ContainerConfig::load(&dir).unwrap(), config);

        let theirs = r#"{"mcpServers":{},"packages":{"apt":[],"npm":[]},"additionalMounts":[],
            "skills":"all","provider":"mock","groupName":"Bench","assistantName":"Bench","agentGroupId":"ag-bench"}"#;
        fs::write(dir.container_json(), theirs).unwrap();
        let read = ContainerConfig::load(&dir).unwrap();
        assert_eq!((read.provider.as_str(), read.max_messages_per_prompt), ("mock", 10));

        fs::write(dir.container_json(), "{").unwrap();
        assert_eq!(ContainerConfig::load(&dir).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
