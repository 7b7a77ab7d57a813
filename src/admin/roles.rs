//! `nanoclaw roles`: who owns the install, and who administers it or one agent group.

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use nanoclaw_session::time::format_utc;
use serde_json::json;

use super::{Admin, Answer, DryRun, Verbs, listed, words};
use crate::router::pairing;
use crate::store::{AgentGroup, PAIRING_VALID_MINUTES, Role, RoleGrant, Store, User};

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all
    #[default]
    List,
    /// Give a role
    Grant(Grant),
    /// Take a role away
    Revoke {
        #[command(flatten)]
        grant: Grant,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Print a code with which somebody becomes an owner: they send it to the assistant in a direct chat
    ///
    /// It is good once. A further code replaces it.
    Pair,
}

#[derive(Debug, Args)]
pub struct Grant {
    /// Who: <channel>:<native user id>, or a display name
    #[arg(long)]
    user: String,
    /// An owner decides everything, an admin for one agent group or all
    #[arg(long, value_parser = words(Role::ALL, Role::as_str))]
    role: Role,
    /// The agent group an admin is for [default: all]
    #[arg(long)]
    group: Option<String>,
}

impl Grant {
    fn agent_group_id(&self, admin: &Admin<'_>) -> Result<Option<String>> {
        ensure!(self.group.is_none() || self.role == Role::Admin, "an owner is global: leave --group out");
        self.group.as_deref().map(|word| Ok(admin.find::<AgentGroup>(word)?.id)).transpose()
    }
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match self {
            Verb::List => Answer::list(store, &store.roles()?, None),
            Verb::Grant(args) => {
                let agent_group_id = args.agent_group_id(admin)?;
                let grant = RoleGrant {
                    user_id: admin.user_or_new(&args.user)?.id,
                    role: args.role,
                    agent_group_id,
                    granted_by: admin.acting()?,
                    granted_at: admin.now,
                };
                store.grant_role(&grant)?;
                Ok(Answer::one(&find(store, &grant.user_id, grant.role, grant.agent_group_id.as_deref())?))
            }
            Verb::Pair => {
                let pairing = pairing::open(store, admin.now)?;
                let text = format!(
                    "{}\nWhoever sends this to your assistant in a direct chat within {PAIRING_VALID_MINUTES} minutes owns this install.",
                    pairing.code
                );
                let json = json!({ "code": pairing.code, "expires_at": format_utc(pairing.expires_at) });
                Ok(Answer { text, json })
            }
            Verb::Revoke { grant, dry_run } => {
                let agent_group_id = grant.agent_group_id(admin)?;
                let role = find(store, &admin.find::<User>(&grant.user)?.id, grant.role, agent_group_id.as_deref())?;
                dry_run.remove(&role, || {
                    store.transaction(|| {
                        if role.role == Role::Owner {
                            keep_an_owner(store, &role.user_id)?;
                        }
                        Ok(store.revoke_role(&role.user_id, role.role, role.agent_group_id.as_deref()).map(drop)?)
                    })
                })
            }
        }
    }
}

fn find(store: &Store, user_id: &str, role: Role, agent_group_id: Option<&str>) -> Result<RoleGrant> {
    let roles = store.roles_of_user(user_id)?;
    let over = |group: Option<&str>| group.unwrap_or("all").to_owned();
    let has: Vec<_> = roles.iter().map(|g| format!("{} of {}", g.role, over(g.agent_group_id.as_deref()))).collect();
    roles
        .into_iter()
        .find(|grant| grant.role == role && grant.agent_group_id.as_deref() == agent_group_id)
        .with_context(|| format!("`{user_id}` is no {role} of {}; roles: {}", over(agent_group_id), listed(&has)))
}

/// Errors when nobody but this user is an owner: an install without one obeys nobody.
pub fn keep_an_owner(store: &Store, user_id: &str) -> Result<()> {
    let owners = store.owners()?;
    let last = !owners.is_empty() && owners.iter().all(|owner| owner.user_id == user_id);
    ensure!(!last, "`{user_id}` is the last owner: make somebody else one first, with `roles grant --role owner`");
    Ok(())
}
