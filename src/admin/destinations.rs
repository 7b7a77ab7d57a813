//! `nanoclaw destinations`: where an agent may write to, and what it calls that place.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::{Admin, Answer, DryRun, Verbs, listed};
use crate::store::{AgentGroup, MessagingGroup, StoreError, Target};

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all
    #[default]
    List,
    /// Let an agent write to a chat, or to another agent
    Add {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        to: To,
    },
    /// Forbid it again
    Remove {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Args)]
pub struct Name {
    /// The agent group that may write, by id, folder or name
    #[arg(long)]
    group: String,
    /// What it calls the destination: a-z, 0-9 and -
    #[arg(long)]
    name: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct To {
    /// The chat it leads to, by id, platform id or name
    #[arg(long)]
    chat: Option<String>,
    /// The agent group it leads to, by id, folder or name
    #[arg(long, value_name = "GROUP")]
    to_group: Option<String>,
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match self {
            Verb::List => Answer::list(store, &store.destinations()?, None),
            Verb::Add { name, to } => {
                let group = admin.find::<AgentGroup>(&name.group)?;
                let chat = to.chat.map(|word| admin.find::<MessagingGroup>(&word)).transpose()?;
                let agent = to.to_group.map(|word| admin.find::<AgentGroup>(&word)).transpose()?;
                let target = match (&chat, &agent) {
                    (Some(chat), _) => Target::Channel(&chat.id),
                    (None, Some(agent)) => Target::Agent(&agent.id),
                    (None, None) => bail!("give --chat or --to-group"),
                };
                let granted =
                    admin.change(|| match store.grant_destination(&group.id, &name.name, target, admin.now) {
                        Err(StoreError::Conflict { .. }) => {
                            bail!("`{}` of `{}` leads elsewhere: remove it first", name.name, group.folder)
                        }
                        granted => Ok(granted?.into_inner()),
                    })?;
                Ok(Answer::one(&granted))
            }
            Verb::Remove { name, dry_run } => {
                let group = admin.find::<AgentGroup>(&name.group)?;
                let known = store.destinations_of(&group.id)?.into_iter().map(|row| row.local_name).collect::<Vec<_>>();
                let there = store.find_destination(&group.id, &name.name)?.with_context(|| {
                    format!("`{}` has no destination `{}`; it has: {}", group.folder, name.name, listed(&known))
                })?;
                dry_run.remove(&there, || {
                    admin.change(|| Ok(store.revoke_destination(&group.id, &there.local_name).map(drop)?))
                })
            }
        }
    }
}
