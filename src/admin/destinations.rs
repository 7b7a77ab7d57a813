//! `nanoclaw destinations`: where an agent may write to, and what it calls that place.

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use super::{Admin, Answer, DryRun, Verbs};
use crate::store::{AgentGroup, MessagingGroup, Target};

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
            Verb::List => Ok(Answer::list(&store.destinations()?)),
            Verb::Add { name, to } => {
                let group = admin.find::<AgentGroup>(&name.group)?;
                let chat = to.chat.map(|word| admin.find::<MessagingGroup>(&word)).transpose()?;
                let agent = to.to_group.map(|word| admin.find::<AgentGroup>(&word)).transpose()?;
                let target = match (&chat, &agent) {
                    (Some(chat), _) => Target::Channel(&chat.id),
                    (None, Some(agent)) => Target::Agent(&agent.id),
                    (None, None) => anyhow::bail!("give --chat or --to-group"),
                };
                if let Some(there) = store.find_destination(&group.id, &name.name)? {
                    let same = Some(&there.target_id) == chat.as_ref().map(|c| &c.id).or(agent.as_ref().map(|a| &a.id));
                    ensure!(same, "`{}` of `{}` leads elsewhere: remove it first", name.name, group.folder);
                }
                let granted = admin
                    .change(|| Ok(store.grant_destination(&group.id, &name.name, target, admin.now)?.into_inner()))?;
                Ok(Answer::one(&granted))
            }
            Verb::Remove { name, dry_run } => {
                let group = admin.find::<AgentGroup>(&name.group)?;
                let there = store.find_destination(&group.id, &name.name)?.with_context(|| {
                    let known = store.destinations_of(&group.id).unwrap_or_default();
                    let known: Vec<_> = known.into_iter().map(|row| row.local_name).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    format!("`{}` has no destination `{}`; it has: {known}", group.folder, name.name)
                })?;
                dry_run.remove(&there, || {
                    admin.change(|| Ok(store.revoke_destination(&group.id, &there.local_name).map(drop)?))
                })
            }
        }
    }
}
