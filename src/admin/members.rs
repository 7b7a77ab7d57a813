//! `nanoclaw members`: whom an agent group knows. Whoever holds a role over a group is one without a row.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::{Admin, Answer, DryRun, Verbs};
use crate::store::{AgentGroup, Member, User};

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all
    #[default]
    List,
    /// Let a group know somebody
    Add(Who),
    /// Let it forget them
    Remove {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Args)]
pub struct Who {
    /// Who: <channel>:<native user id>, or a display name
    #[arg(long)]
    user: String,
    /// The agent group, by id, folder or name
    #[arg(long)]
    group: String,
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        let find = |user: &str, group: &str| -> Result<Member> {
            let mut members = store.members_of(group)?.into_iter();
            members.find(|member| member.user_id == user).with_context(|| format!("`{user}` is no member of `{group}`"))
        };
        match self {
            Verb::List => Answer::list(store, &store.members()?, None),
            Verb::Add(who) => {
                let group = admin.find::<AgentGroup>(&who.group)?;
                let member = Member {
                    user_id: admin.user_or_new(&who.user)?.id,
                    agent_group_id: group.id,
                    added_by: admin.acting()?,
                    added_at: admin.now,
                };
                store.add_member(&member)?;
                Ok(Answer::one(&find(&member.user_id, &member.agent_group_id)?))
            }
            Verb::Remove { who, dry_run } => {
                let (user, group) = (admin.find::<User>(&who.user)?, admin.find::<AgentGroup>(&who.group)?);
                let member = find(&user.id, &group.id)?;
                dry_run.remove(&member, || Ok(store.remove_member(&user.id, &group.id).map(drop)?))
            }
        }
    }
}
