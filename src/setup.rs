//! The first set-up: what must be in the store before anybody can say anything. Idempotent.

use anyhow::Result;
use jiff::Timestamp;

use crate::channel::cli::{CHANNEL, LOCAL_CHAT, LOCAL_USER};
use crate::config::AgentSettings;
use crate::id::new_id;
use crate::store::{
    AgentGroup, Ensured, MessagingGroup, Role, RoleGrant, Store, Threads, UnknownSenderPolicy, User, Wiring,
};

/// Id and folder of the first agent group.
pub const MAIN: &str = "main";

/// Makes the local user the owner, the agent group "main" when there is none at all, and the
/// terminal's wiring to the first group. Says what it made.
pub fn ensure_defaults(store: &Store, agents: &AgentSettings) -> Result<Vec<String>> {
    let now = crate::time::now();
    let mut made = Vec::new();
    store.transaction(|| -> Result<()> {
        let (user, owner) = local_owner(now);
        if let Ensured::Created(_) = store.ensure_user(&user)? {
            store.grant_role(&owner)?;
            made.push("you, at this terminal, are the owner".to_owned());
        }
        if store.agent_groups()?.is_empty() {
            store.create_agent_group(&AgentGroup {
                id: MAIN.to_owned(),
                name: agents.assistant_name.clone(),
                folder: MAIN.to_owned(),
                agent_provider: None,
                created_at: now,
            })?;
            made.push(format!("agent group {MAIN:?}"));
        }
        Ok(())
    })?;
    let groups = store.agent_groups()?;
    let first = groups.iter().find(|g| g.id == MAIN).or(groups.first());
    if let Some(group) = first {
        if store.find_messaging_group(CHANNEL, LOCAL_CHAT)?.is_none() {
            wire_terminal(store, LOCAL_CHAT, group)?;
            made.push(format!("the terminal talks to {:?}", group.folder));
        }
    }
    Ok(made)
}

/// Whoever is at this terminal, and what makes them the owner.
pub fn local_owner(now: Timestamp) -> (User, RoleGrant) {
    let id = LOCAL_USER.to_owned();
    let name = Some("local".to_owned());
    let user = User { id: id.clone(), kind: CHANNEL.to_owned(), display_name: name, created_at: now };
    (user, RoleGrant { user_id: id, role: Role::Owner, agent_group_id: None, granted_by: None, granted_at: now })
}

/// Wires a chat of the terminal to a group, when it is not yet.
pub fn wire_terminal(store: &Store, platform_id: &str, group: &AgentGroup) -> Result<()> {
    let now = crate::time::now();
    store.transaction(|| -> Result<()> {
        let chat = store
            .ensure_messaging_group(&MessagingGroup {
                id: new_id("chat"),
                channel_type: CHANNEL.to_owned(),
                platform_id: platform_id.to_owned(),
                name: Some("terminal".to_owned()),
                is_group: false,
                // Whoever opens the socket is the owner.
                unknown_sender_policy: UnknownSenderPolicy::Public,
                denied_at: None,
                created_at: now,
            })?
            .into_inner();
        if store.find_wiring(&chat.id, &group.id)?.is_none() {
            store.create_wiring(&Wiring::defaults(&new_id("wire"), &chat, Threads::Absent, &group.id, now))?;
        }
        Ok(())
    })
}
