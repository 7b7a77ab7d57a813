//! An agent asks for another agent: group, folder, configuration and the names by which both know each other.
//!
//! Runs on delivery's thread. Exactly once for each row that asks: the notice to the owner carries the row's name, and
//! is in the same transaction as everything in the store. Folders are made before that commits, so a crash leaves an
//! empty one at most, which the next try takes.

use std::fs;

use anyhow::{Context, Result};
use jiff::Timestamp;
use nanoclaw_session::config::replace;
use nanoclaw_session::create_agent::CreateAgent;

use crate::destinations;
use crate::home::Home;
use crate::notice;
use crate::store::{AgentGroup, CliScope, ContainerConfig, Session, Store, Target};

/// What a new agent calls the one that asked for it.
const PARENT: &str = "parent";
/// Folder and name of an agent in whose name nothing can be either.
const NAMELESS: &str = "agent";
/// Most agents there may be for one more to be made by an agent.
const MAX_AGENTS: usize = 100;

/// Makes what the row `row_id` of `session` asks for; the sentence for who asked, or why not.
///
/// # Errors
/// The store's, or a folder's: nothing is made then, and it can be tried again.
pub fn create(
    store: &Store,
    home: &Home,
    session: &Session,
    row_id: &str,
    asked: &CreateAgent,
    now: Timestamp,
) -> Result<Result<String, String>> {
    let config = store.container_config(&session.agent_group_id)?;
    if config.cli_scope != CliScope::Global {
        return Ok(Err("your group is not privileged, so you may not create agents".into()));
    }
    let key = format!("create-agent:{}:{row_id}", session.id);
    if let Some(done) = store.find_host_message_by_key(&key)? {
        return Ok(Ok(done.content["text"].as_str().unwrap_or_default().to_owned()));
    }
    if store.agent_groups()?.len() >= MAX_AGENTS {
        return Ok(Err(format!("there are {MAX_AGENTS} agents already")));
    }
    let made = destinations::change(store, home, || {
        let parent = store.agent_group(&session.agent_group_id)?;
        let is_used = |word: &str| has_a_past(home, word, asked.instructions.as_deref());
        let word = match store.free_group_word(&asked.name, is_used)? {
            Some(word) => word,
            None => store.free_group_word(NAMELESS, is_used)?.context("there is no free name left")?,
        };
        let child = AgentGroup {
            id: word.clone(),
            name: asked.name.clone(),
            folder: word.clone(),
            agent_provider: parent.agent_provider,
            created_at: now,
        };
        store.create_agent_group(&child)?;
        // It thinks with the same model, reaches no more, and may do less.
        store.put_container_config(&ContainerConfig {
            provider: config.provider.clone(),
            model: config.model.clone(),
            effort: config.effort.clone(),
            network: config.network,
            ..store.container_config(&child.id)?
        })?;
        let name = store.free_local_name(&parent.id, &asked.name, NAMELESS)?;
        store.grant_destination(&parent.id, &name, Target::Agent(&child.id), now)?;
        store.grant_destination(&child.id, PARENT, Target::Agent(&parent.id), now)?;
        home.make_group(&child.folder)?;
        if let Some(text) = &asked.instructions {
            let path = home.instructions_of(&child.folder);
            replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let text = format!("{} has created the agent {:?} and writes to it as {name:?}.", parent.name, child.name);
        notice::tell_owner(store, &text, &key)?;
        log::info!("Agent created group={} by={}", child.id, parent.id);
        Ok(text)
    })?;
    for (session, e) in &made.untold {
        log::warn!("A session does not know of a new agent yet session={} error={e:#}", session.id);
    }
    Ok(Ok(made.value))
}

/// Whether a group that is gone has left something under this name that a new one must not get.
fn has_a_past(home: &Home, word: &str, instructions: Option<&str>) -> bool {
    let has_files = fs::read_dir(home.group(word)).is_ok_and(|mut files| files.next().is_some());
    let others = fs::read_to_string(home.instructions_of(word)).is_ok_and(|text| Some(text.as_str()) != instructions);
    has_files || others || home.claude_state(word).exists()
}
