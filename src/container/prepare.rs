//! What must lie ready on disk before a container starts, and the [`Spec`] that comes of it.
//! Runs on the sweep's thread, while no container of the session runs.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use nanoclaw_session::config::{self, ContainerConfig, McpServer, Packages};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::{CONTAINER_WORKSPACE, SessionDir};
use nanoclaw_session::row::Address;
use rustix::fs::{AtFlags, CWD, chownat};
use rustix::process::{Gid, Uid, getegid, geteuid};
use serde_json::Value;

use super::spec::{AGENT_HOME, GATEWAY_DIR, Mount, Network, Spec, User};
use crate::config::Settings;
use crate::destinations;
use crate::home::Home;
use crate::store::{self, AgentGroup, NetworkMode, Session, Skills, Store};

/// Environment variable of the session's gateway token.
pub const TOKEN_VARIABLE: &str = "NANOCLAW_GATEWAY_TOKEN";

/// The name of a session's next container: `nanoclaw-<folder>-<short id>`, never used twice.
pub fn container_name(group: &AgentGroup) -> String {
    format!("nanoclaw-{}-{}", group.folder, &crate::id::new_secret()[..8])
}

/// Renders the session's files and says what to run.
///
/// # Errors
/// A file operation or the store failed; the message names what.
pub fn prepare(
    store: &Store,
    home: &Home,
    settings: &Settings,
    session: &Session,
    container_name: &str,
    token: &str,
) -> Result<Spec> {
    let group = store.agent_group(&session.agent_group_id)?;
    let own = store.container_config(&group.id)?;
    let user = User::for_host(geteuid().as_raw(), getegid().as_raw());
    let dir = home.session(&group.id, &session.id);
    dir.prepare().with_context(|| format!("cannot prepare {}", dir.root().display()))?;

    let container = render_config(settings, session, &group, &own)?;
    container.store(&dir).with_context(|| format!("cannot write {}", dir.container_json().display()))?;
    config::replace(&dir.instructions(), instructions(home, settings, &group)?.as_bytes())
        .with_context(|| format!("cannot write {}", dir.instructions().display()))?;
    link_skills(&dir, settings, &own.skills)?;
    project(store, &dir, session)?;

    let group_folder = home.group(&group.folder);
    let claude_state = home.claude_state(&group.id);
    for folder in [&group_folder, &claude_state] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    for folder in [&dir.out(), &group_folder, &claude_state] {
        give_to(folder, user).with_context(|| format!("cannot give {} to the container's user", folder.display()))?;
    }

    let mut mounts = vec![
        Mount::read_only(dir.root(), CONTAINER_WORKSPACE),
        Mount::read_write(dir.out(), format!("{CONTAINER_WORKSPACE}/out")),
        Mount::read_write(&group_folder, format!("{CONTAINER_WORKSPACE}/agent")),
        Mount::read_only(home.group("global"), format!("{CONTAINER_WORKSPACE}/global")),
        Mount::read_write(&claude_state, format!("{AGENT_HOME}/.claude")),
        Mount::read_only(&settings.containers.runner, super::spec::RUNNER),
        Mount::read_only(home.gateway_dir(), GATEWAY_DIR),
    ];
    let skills = settings.containers.shared.join("skills");
    if skills.is_dir() {
        mounts.push(Mount::read_only(skills, "/app/skills"));
    }
    Ok(Spec {
        name: container_name.to_owned(),
        image: own.image_tag.clone().unwrap_or_else(|| settings.containers.image.clone()),
        install_id: home.install_id(),
        session_id: session.id.clone(),
        user,
        mounts,
        env: vec![
            ("TZ".into(), settings.agents.timezone.clone()),
            ("HOME".into(), AGENT_HOME.into()),
            ("NANOCLAW_GATEWAY".into(), format!("{GATEWAY_DIR}/{}", crate::gateway::SOCKET_NAME)),
        ],
        secret_env: vec![(TOKEN_VARIABLE.into(), token.to_owned())],
        memory: own.memory.clone().unwrap_or_else(|| settings.containers.memory.clone()),
        cpus: own.cpus.clone(),
        network: match own.network {
            Some(NetworkMode::None) => Network::None,
            Some(NetworkMode::Bridge) | None => Network::Bridge,
        },
    })
}

fn render_config(
    settings: &Settings,
    session: &Session,
    group: &AgentGroup,
    own: &store::ContainerConfig,
) -> Result<ContainerConfig> {
    let set = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    let provider = set(&session.agent_provider).or_else(|| set(&own.provider)).or_else(|| set(&group.agent_provider));
    let mcp_servers = own
        .mcp_servers
        .iter()
        .map(|(name, server)| {
            let server: McpServer = serde_json::from_value(server.clone())
                .with_context(|| format!("MCP server {name} of agent group {}", group.folder))?;
            Ok((name.clone(), server))
        })
        .collect::<Result<_>>()?;
    Ok(ContainerConfig {
        provider: provider.unwrap_or_else(|| settings.agents.provider.clone()),
        model: set(&own.model).or_else(|| settings.agents.model.clone()),
        effort: set(&own.effort),
        assistant_name: set(&own.assistant_name).unwrap_or_else(|| settings.agents.assistant_name.clone()),
        group_name: group.name.clone(),
        agent_group_id: group.id.clone(),
        max_messages_per_prompt: own.max_messages_per_prompt.unwrap_or(settings.agents.max_messages_per_prompt),
        mcp_servers,
        packages: Packages { apt: own.packages_apt.clone(), npm: own.packages_npm.clone() },
        image_tag: own.image_tag.clone(),
        additional_mounts: Vec::new(),
        skills: match &own.skills {
            Skills::All => Value::from("all"),
            Skills::Named(names) => Value::from(names.clone()),
        },
        idle_seconds: settings.containers.idle.as_secs(),
        timezone: Some(settings.agents.timezone.clone()),
    })
}

/// The shared base, then the owner's instructions for this group.
fn instructions(home: &Home, settings: &Settings, group: &AgentGroup) -> Result<String> {
    let mut parts = Vec::new();
    let own = home.instructions().join(format!("{}.md", group.folder));
    for path in [settings.containers.shared.join("CLAUDE.md"), own] {
        match fs::read_to_string(&path) {
            Ok(text) => parts.push(text.trim_end().to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(parts.join("\n\n") + "\n")
}

/// Replaces the links in `skills/` by the chosen ones. They point into the container.
fn link_skills(dir: &SessionDir, settings: &Settings, chosen: &Skills) -> Result<()> {
    let folder = dir.skills();
    for entry in fs::read_dir(&folder)? {
        fs::remove_file(entry?.path())?;
    }
    let installed = match fs::read_dir(settings.containers.shared.join("skills")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for entry in installed {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = match chosen {
            Skills::All => true,
            Skills::Named(names) => names.iter().any(|n| n.as_str() == name),
        };
        if wanted && entry.path().join("SKILL.md").is_file() {
            symlink(Path::new("/app/skills").join(&name), folder.join(&name))?;
        }
    }
    Ok(())
}

/// Tells the session where it belongs and whom it may write to.
fn project(store: &Store, dir: &SessionDir, session: &Session) -> Result<()> {
    let destinations = destinations::of_group(store, &session.agent_group_id)?;
    let chat = destinations::own_chat(store, session)?;
    let routing = Address {
        channel_type: chat.as_ref().map(|c| c.channel_type.clone()),
        platform_id: chat.map(|c| c.platform_id),
        thread_id: session.thread_id.clone(),
    };
    let mut inbound = InboundDb::open(dir, Durability::Normal).context("cannot open inbound.db")?;
    inbound
        .write(|tx| {
            tx.replace_destinations(&destinations)?;
            tx.set_routing(&routing)
        })
        .context("cannot write destinations into inbound.db")
}

/// Makes `folder` and what is in it belong to the container's user, if it does not. No symlink
/// is followed: an agent may have put any there.
fn give_to(folder: &Path, user: User) -> io::Result<()> {
    let meta = fs::symlink_metadata(folder)?;
    if meta.uid() == user.uid {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if meta.is_dir() {
        for entry in fs::read_dir(folder)? {
            give_to(&entry?.path(), user)?;
        }
    }
    // The folder last: an interrupted pass starts over.
    Ok(chownat(CWD, folder, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
