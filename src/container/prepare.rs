//! What must lie ready on disk before a container starts, and the [`Spec`] that comes of it.
//! Runs on the sweep's thread, while no container of the session runs.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use nanoclaw_session::config::{self, ContainerConfig, McpServer, Packages};
use nanoclaw_session::layout::{CONTAINER_WORKSPACE, SessionDir};
use rustix::fs::{AtFlags, CWD, chownat};
use rustix::process::{Gid, Uid, getegid, geteuid};
use serde_json::Value;

use super::mounts;
use super::skills::{self, Skill};
use super::spec::{AGENT_HOME, Access, GATEWAY_DIR, MAX_PROCESSES, Mount, Spec, User};
use crate::config::Settings;
use crate::destinations;
use crate::home::Home;
use crate::store::{self, AgentGroup, CliScope, NetworkMode, Session, Skills, Store};

/// Environment variable of the session's gateway token.
pub const TOKEN_VARIABLE: &str = "NANOCLAW_GATEWAY_TOKEN";

/// The name of a session's next container: `nanoclaw-<folder>-<short id>`, never used twice.
pub fn container_name(group: &AgentGroup) -> String {
    format!("nanoclaw-{}-{}", group.folder, &crate::id::new_secret()[..8])
}

/// Renders the session's files and says what to run.
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

    let (extra, refused) = mounts::of_group(home, &own);
    for reason in refused {
        log::warn!("Additional mount refused group={} reason={reason}", group.folder);
    }
    mount_points(&dir, &extra).with_context(|| format!("cannot make mount points in {}", dir.root().display()))?;
    let mut container = render_config(settings, session, &group, &own)?;
    container.additional_mounts = extra.iter().map(shown_to_agent).collect();
    container.store(&dir).with_context(|| format!("cannot write {}", dir.container_json().display()))?;
    let skills = skills::chosen(&settings.containers.shared.join("skills"), &own.skills, &group.folder)?;
    config::replace(&dir.instructions(), instructions(home, settings, &group, &skills)?.as_bytes())
        .with_context(|| format!("cannot write {}", dir.instructions().display()))?;
    link_skills(&dir, &skills)?;
    destinations::project(store, &dir, session)?;

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
    mounts.extend(extra);
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
        pids: own.pids.unwrap_or(MAX_PROCESSES),
        network: own.network.unwrap_or(NetworkMode::Bridge),
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
        may_create_agents: own.cli_scope == CliScope::Global,
        idle_seconds: settings.containers.idle.as_secs(),
        timezone: Some(settings.agents.timezone.clone()),
    })
}

/// The shared base, what the chosen skills want to be known always, then the owner's instructions for
/// this group, which have the last word.
fn instructions(home: &Home, settings: &Settings, group: &AgentGroup, skills: &[Skill]) -> Result<String> {
    store::validate_folder(&group.folder)?;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(read_if_there(&settings.containers.shared.join("CLAUDE.md"))?);
    parts.extend(skills.iter().filter_map(|skill| skill.fragment.clone()));
    parts.extend(read_if_there(&home.instructions_of(&group.folder))?);
    Ok(parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n") + "\n")
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the links in `skills/` by the chosen ones. They point into the container.
fn link_skills(dir: &SessionDir, skills: &[Skill]) -> Result<()> {
    let folder = dir.skills();
    for entry in fs::read_dir(&folder)? {
        fs::remove_file(entry?.path())?;
    }
    for skill in skills {
        symlink(Path::new("/app/skills").join(&skill.name), folder.join(&skill.name))?;
    }
    Ok(())
}

/// Makes `extra/` hold a place for each mount and nothing else: the folder above is read-only in the
/// container, where the engine could make none.
fn mount_points(dir: &SessionDir, extra: &[Mount]) -> io::Result<()> {
    let folder = dir.root().join("extra");
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        // What is not empty is not ours to remove; an unused place does no harm.
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir(entry.path()) } else { fs::remove_file(entry.path()) };
        if let Err(e) = removed {
            log::warn!("A mount point stays path={} error={e}", entry.path().display());
        }
    }
    for mount in extra {
        let name = Path::new(&mount.target).file_name().unwrap_or_default();
        let place = folder.join(name);
        match mount.source.is_dir() {
            true if place.is_dir() => {}
            true => fs::create_dir(place)?,
            false => drop(fs::File::create_new(place)?),
        }
    }
    Ok(())
}

/// A mount as `container.json` has it. Where it lies on the machine is not the agent's business.
fn shown_to_agent(mount: &Mount) -> Value {
    serde_json::json!({ "containerPath": mount.target, "readonly": mount.access == Access::ReadOnly })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Home, Settings) {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&tmp.path().join("home"))).unwrap();
        home.create().unwrap();
        let mut settings = Settings::load(&home).unwrap();
        settings.containers.shared = tmp.path().join("shared");
        fs::create_dir_all(settings.containers.shared.join("skills/tone")).unwrap();
        fs::write(settings.containers.shared.join("CLAUDE.md"), "Base.\n\n").unwrap();
        fs::write(settings.containers.shared.join("skills/tone/CLAUDE.md"), "Tone.\n").unwrap();
        (tmp, home, settings)
    }

    fn group(folder: &str) -> AgentGroup {
        AgentGroup {
            id: "g".into(),
            name: "G".into(),
            folder: folder.into(),
            agent_provider: None,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn instructions_are_base_then_skills_then_the_owners() {
        let (_tmp, home, settings) = world();
        fs::write(home.instructions().join("g.md"), "Own.\n").unwrap();
        let skills = skills::chosen(&settings.containers.shared.join("skills"), &Skills::All, "g").unwrap();
        assert_eq!(instructions(&home, &settings, &group("g"), &skills).unwrap(), "Base.\n\nTone.\n\nOwn.\n");
        assert_eq!(instructions(&home, &settings, &group("other"), &[]).unwrap(), "Base.\n");
        assert!(instructions(&home, &settings, &group("../g"), &[]).is_err());
    }

    #[test]
    fn the_limits_of_a_group_count() {
        let (_tmp, home, settings) = world();
        let store = Store::open(&home.store(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        store.create_agent_group(&group("g")).unwrap();
        let session = Session::new("s", "g", None, None, jiff::Timestamp::UNIX_EPOCH);
        let limits = |pids, memory: Option<&str>| {
            let memory = memory.map(str::to_owned);
            let own = store::ContainerConfig { pids, memory, ..store.container_config("g").unwrap() };
            store.put_container_config(&own).unwrap();
            let spec = prepare(&store, &home, &settings, &session, "c", "token").unwrap();
            (spec.pids, spec.memory)
        };
        assert_eq!(limits(None, None), (MAX_PROCESSES, settings.containers.memory.clone()));
        assert_eq!(limits(Some(64), Some("99m")), (64, "99m".to_owned()));
    }

    #[test]
    fn mount_points_are_those_of_the_mounts_and_go_with_them() {
        let (tmp, home, _) = world();
        let dir = home.session("g", "s");
        dir.prepare().unwrap();
        let (folder, file) = (tmp.path().join("folder"), tmp.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "x").unwrap();
        let extra = [Mount::read_write(folder, "/workspace/extra/a"), Mount::read_only(file, "/workspace/extra/b")];
        for _ in 0..2 {
            mount_points(&dir, &extra).unwrap();
            assert!(dir.root().join("extra/a").is_dir() && dir.root().join("extra/b").is_file());
        }
        assert_eq!(
            shown_to_agent(&extra[1]),
            serde_json::json!({"containerPath": "/workspace/extra/b", "readonly": true})
        );
        mount_points(&dir, &[]).unwrap();
        assert_eq!(fs::read_dir(dir.root().join("extra")).unwrap().count(), 0);
    }
}
