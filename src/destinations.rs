//! What an agent may call its peers: the rows of `agent_destinations`, and their projection into
//! the `destinations` table of each session. The table is both name map and permission.
//!
//! Runs on the thread that asks. [`change`] is the only way to change what the rows say while
//! sessions may be alive. A session that cannot be told has the old names until its container
//! starts again; what it sends is judged by the central database all the same.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::{Address, Destination, DestinationType};

use crate::channel::Chat;
use crate::home::Home;
use crate::store::{Session, Store, StoreError};

/// A change that is stored.
#[derive(Debug)]
#[must_use]
pub struct Changed<T> {
    pub value: T,
    /// The sessions that could not be told, and why. They are told when they start again.
    pub untold: Vec<(Session, anyhow::Error)>,
}

/// Grants, revokes, renames or deletes: runs `work` in one transaction, then tells every live
/// session of each agent to whom the destinations now read differently. Not to be called inside a
/// transaction.
pub fn change<T>(store: &Store, home: &Home, work: impl FnOnce() -> Result<T>) -> Result<Changed<T>> {
    let (value, stale) = store.transaction(|| -> Result<_> {
        let before = of_every_group(store)?;
        let value = work()?;
        let mut stale = of_every_group(store)?;
        stale.retain(|group, list| before.get(group) != Some(list));
        Ok((value, stale))
    })?;
    let mut untold = Vec::new();
    for group in stale.keys() {
        for session in store.active_sessions_of(group)? {
            let dir = home.session(group, &session.id);
            // One that has none yet is told when it starts.
            if !dir.inbound_db().exists() {
                continue;
            }
            if let Err(e) = project(store, &dir, &session) {
                untold.push((session, e));
            }
        }
    }
    Ok(Changed { value, untold })
}

fn of_every_group(store: &Store) -> Result<BTreeMap<String, Vec<Destination>>> {
    store.agent_groups()?.into_iter().map(|group| Ok((group.id.clone(), of_group(store, &group.id)?))).collect()
}

/// Writes into a session's inbound.db where it belongs and whom it may write to.
pub fn project(store: &Store, dir: &SessionDir, session: &Session) -> Result<()> {
    let routing = match own_chat(store, session)? {
        Some(chat) => chat.address(session.thread_id.as_deref()),
        None => Address { thread_id: session.thread_id.clone(), ..Address::default() },
    };
    let mut inbound = InboundDb::open(dir, Durability::Normal).context("cannot open inbound.db")?;
    let mut list = of_group(store, &session.agent_group_id)?;
    loop {
        let write = inbound.write(|tx| {
            tx.replace_destinations(&list)?;
            tx.set_routing(&routing)
        });
        write.context("cannot write destinations into inbound.db")?;
        // Somebody else's change may have been written between our reading and our writing.
        let now = of_group(store, &session.agent_group_id)?;
        if now == list {
            return Ok(());
        }
        list = now;
    }
}

/// The destinations of an agent group as its sessions see them. One whose target is gone is left
/// out.
pub fn of_group(store: &Store, agent_group_id: &str) -> Result<Vec<Destination>> {
    let mut list = Vec::new();
    for row in store.destinations_of(agent_group_id)? {
        let (display_name, address, agent_group_id) = match row.target_type {
            DestinationType::Channel => match found(store.messaging_group(&row.target_id))? {
                None => continue,
                Some(chat) => (chat.name, Chat::new(&chat.channel_type, &chat.platform_id).address(None), None),
            },
            DestinationType::Agent => match found(store.agent_group(&row.target_id))? {
                None => continue,
                Some(group) => (Some(group.name), Address::default(), Some(group.id)),
            },
        };
        list.push(Destination { name: row.local_name, display_name, kind: row.target_type, address, agent_group_id });
    }
    Ok(list)
}

/// `None` where there is no such row.
pub(crate) fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(row) => Ok(Some(row)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The session's own chat, where there is one: what it may always answer to.
pub fn own_chat(store: &Store, session: &Session) -> Result<Option<Chat>> {
    let Some(id) = &session.messaging_group_id else { return Ok(None) };
    let chat = found(store.messaging_group(id))?;
    Ok(chat.map(|c| Chat { channel_type: c.channel_type, platform_id: c.platform_id }))
}

/// The chats an agent may send to, beside a session's own.
pub fn chats_of_group(store: &Store, agent_group_id: &str) -> Result<HashMap<Chat, String>> {
    Ok(of_group(store, agent_group_id)?
        .into_iter()
        .filter_map(|d| match (d.address.channel_type, d.address.platform_id) {
            (Some(channel_type), Some(platform_id)) => Some((Chat { channel_type, platform_id }, d.name)),
            _ => None,
        })
        .collect())
}
