//! What an agent may call its peers: the rows of `agent_destinations`, and their projection into
//! the `destinations` table of each session. The table is both name map and permission.

use std::collections::HashMap;

use anyhow::Result;
use nanoclaw_session::row::{Address, Destination, DestinationType};

use crate::channel::Chat;
use crate::store::{Session, Store, StoreError};

/// The destinations of an agent group as its sessions see them. One whose target is gone is left
/// out.
///
/// # Errors
/// The store's.
pub fn of_group(store: &Store, agent_group_id: &str) -> Result<Vec<Destination>> {
    let mut list = Vec::new();
    for row in store.destinations_of(agent_group_id)? {
        let destination = match row.target_type {
            DestinationType::Channel => match found(store.messaging_group(&row.target_id))? {
                None => continue,
                Some(chat) => Destination {
                    name: row.local_name,
                    display_name: chat.name,
                    kind: DestinationType::Channel,
                    address: Address {
                        channel_type: Some(chat.channel_type),
                        platform_id: Some(chat.platform_id),
                        thread_id: None,
                    },
                    agent_group_id: None,
                },
            },
            DestinationType::Agent => match found(store.agent_group(&row.target_id))? {
                None => continue,
                Some(group) => Destination {
                    name: row.local_name,
                    display_name: Some(group.name),
                    kind: DestinationType::Agent,
                    address: Address::default(),
                    agent_group_id: Some(group.id),
                },
            },
        };
        list.push(destination);
    }
    Ok(list)
}

fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(row) => Ok(Some(row)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The session's own chat, where there is one: what it may always answer to.
///
/// # Errors
/// The store's.
pub fn own_chat(store: &Store, session: &Session) -> Result<Option<Chat>> {
    let Some(id) = &session.messaging_group_id else { return Ok(None) };
    let chat = found(store.messaging_group(id))?;
    Ok(chat.map(|c| Chat { channel_type: c.channel_type, platform_id: c.platform_id }))
}

/// The chats an agent may send to, beside a session's own.
///
/// # Errors
/// The store's.
pub fn chats_of_group(store: &Store, agent_group_id: &str) -> Result<HashMap<Chat, String>> {
    Ok(of_group(store, agent_group_id)?
        .into_iter()
        .filter_map(|d| match (d.address.channel_type, d.address.platform_id) {
            (Some(channel_type), Some(platform_id)) => Some((Chat { channel_type, platform_id }, d.name)),
            _ => None,
        })
        .collect())
}
