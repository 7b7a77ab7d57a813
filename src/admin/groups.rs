//! `nanoclaw groups`: agents, their folders, settings and containers.

mod config;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde_json::json;

use super::sessions::checked_provider;
use super::{Admin, Answer, Entity, Kind};
use crate::store::{AgentGroup, Store, validate_folder};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add an agent, with a folder of its own
    Create {
        /// What people call it
        #[arg(long)]
        name: String,
        /// Its folder below groups/ [default: made of the name]
        #[arg(long)]
        folder: Option<String>,
        /// Its id [default: made of the folder]
        #[arg(long)]
        id: Option<String>,
        /// Its provider [default: the install's]
        #[arg(long)]
        provider: Option<String>,
    },
    /// Change one
    Update {
        id: String,
        /// What people call it
        #[arg(long)]
        name: Option<String>,
        /// Its provider (empty: the install's)
        #[arg(long)]
        provider: Option<String>,
    },
    /// Stop its containers; the next message starts a fresh one
    Restart { id: String },
    /// What its containers are made of
    #[command(subcommand)]
    Config(config::Verb),
}

impl Entity for AgentGroup {
    type Verb = Verb;
    const KIND: Kind<AgentGroup> = Kind {
        names: |group| vec![&group.folder, &group.name],
        dependents: |store, group| store.dependents_of_group(&group.id),
        takes_along: |group, session| session.agent_group_id == group.id,
        folder: |home, group| Some(home.group(&group.folder)),
        ..Kind::new(Store::agent_groups, |store, group| Ok(store.delete_agent_group_cascade(&group.id).map(drop)?))
    };

    fn run(verb: Verb, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match verb {
            Verb::Create { name, folder, id, provider } => {
                ensure!(!name.trim().is_empty(), "--name may not be empty");
                let agent_provider = provider.map(checked_provider).transpose()?.flatten();
                let folder = folder.map_or_else(|| free(store, &name), Ok)?;
                validate_folder(&folder)?;
                if let Some(there) = store.find_agent_group_by_folder(&folder)? {
                    bail!("the folder `{folder}` is that of agent group `{}`", there.id);
                }
                let id = id.map_or_else(|| free(store, &folder), Ok)?;
                let group = AgentGroup { id, name, folder, agent_provider, created_at: admin.now };
                store.transaction(|| -> Result<()> {
                    store.create_agent_group(&group)?;
                    admin.home.make_group(&group.folder)
                })?;
                Ok(Answer::one(&group))
            }
            Verb::Update { id, name, provider } => {
                admin.update(&id, (name, provider), |group: &mut AgentGroup, (name, provider)| {
                    if let Some(name) = name {
                        ensure!(!name.trim().is_empty(), "--name may not be empty");
                        group.name = name;
                    }
                    if let Some(provider) = provider {
                        group.agent_provider = checked_provider(provider)?;
                    }
                    Ok(store.update_agent_group(group)?)
                })
            }
            Verb::Restart { id } => restart(admin, &admin.find(&id)?),
            Verb::Config(verb) => verb.run(admin),
        }
    }
}

fn restart(admin: &Admin<'_>, group: &AgentGroup) -> Result<Answer> {
    let runs = admin.containers_of(&admin.store.active_sessions_of(&group.id)?)?;
    admin.stop(&runs)?;
    let stopped: Vec<_> = runs.into_iter().map(|run| run.container_name).collect();
    let text = match &stopped[..] {
        [] => format!("no container of `{}` runs", group.folder),
        names => format!("stopped {}; the next message starts a fresh one", names.join(", ")),
    };
    Ok(Answer { text, json: json!({ "stopped": stopped }) })
}

/// An id or a folder, made of a name, that no group has.
fn free(store: &Store, name: &str) -> Result<String> {
    let free = store.free_group_word(name, |_| false)?;
    free.with_context(|| format!("nothing of {name:?} can be a folder: give --folder"))
}
