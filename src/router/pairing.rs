//! Pairing: a private message that is exactly an open code makes its sender an owner, and wires
//! the chat to the first agent group.
//!
//! Everything happens in one transaction, so a message that comes again after a crash finds
//! either nothing done or all of it.

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::records::{chat_row, sender_row};
use crate::channel::InboundMessage;
use crate::destinations;
use crate::home::Home;
use crate::id::{new_code, new_id};
use crate::notice::{self, Repeat};
use crate::store::{MessagingGroup, PairingCode, Redeemed, Role, RoleGrant, Store, UserDm, Wiring};

/// Length of a code, its dash included. characters
const CODE_CHARS: usize = 9;

/// Whether a message was a pairing code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    Done,
    /// A message like any other; a code that is not valid is one, too.
    Nothing,
}

/// Opens a code, which replaces every earlier one.
pub fn open(store: &Store, now: Timestamp) -> Result<PairingCode> {
    Ok(store.create_pairing_code(&new_code(), now)?)
}

/// What of a text may be a code, as it was printed.
fn code_of(text: &str) -> Option<String> {
    let code = text.trim().to_ascii_uppercase();
    let shaped = code.len() == CODE_CHARS
        && code.bytes().enumerate().all(|(n, b)| if n == 4 { b == b'-' } else { b.is_ascii_alphanumeric() });
    shaped.then_some(code)
}

/// Recognises a private message that is a code, and does what it stands for.
/// On an error nothing is changed, and the code stays open.
pub fn recognise(store: &Store, home: &Home, message: &InboundMessage, now: Timestamp) -> Result<Pairing> {
    let (Some(code), Some(sender)) = (code_of(&message.content.text), message.content.sender_id.as_deref()) else {
        return Ok(Pairing::Nothing);
    };
    let changed = destinations::change(store, home, || {
        match store.redeem_pairing_code(&code, sender, now)? {
            Redeemed::Invalid => return Ok(Pairing::Nothing),
            Redeemed::Before => return Ok(Pairing::Done),
            Redeemed::Now => {}
        }
        pair(store, message, sender, now).context("a pairing could not be completed")?;
        Ok(Pairing::Done)
    })?;
    for (session, e) in changed.untold {
        log::warn!("A session does not know its new destination yet session={} error={e:#}", session.id);
    }
    Ok(changed.value)
}

fn pair(store: &Store, message: &InboundMessage, sender: &str, now: Timestamp) -> Result<()> {
    let chat = &message.chat;
    store.ensure_user(&sender_row(message, sender, now))?;
    store.grant_role(&RoleGrant {
        user_id: sender.to_owned(),
        role: Role::Owner,
        agent_group_id: None,
        granted_by: None,
        granted_at: now,
    })?;
    let new = MessagingGroup { name: message.content.sender.clone(), ..chat_row(message, now) };
    let mut row = store.ensure_messaging_group(&new)?.into_inner();
    if row.denied_at.take().is_some() {
        store.update_messaging_group(&row)?;
    }
    let wired_to = match store.agent_groups()?.into_iter().next() {
        Some(group) => {
            if store.find_wiring(&row.id, &group.id)?.is_none() {
                store.create_wiring(&Wiring::defaults(&new_id("wire"), &row, message.threads, &group.id, now))?;
            }
            format!("{} answers you here.", group.name)
        }
        None => "There is no agent yet: nanoclaw groups create --name NAME".to_owned(),
    };
    store.put_user_dm(&UserDm {
        user_id: sender.to_owned(),
        channel_type: chat.channel_type.clone(),
        messaging_group_id: row.id,
        resolved_at: now,
    })?;
    store.forget_dropped(&chat.channel_type, &chat.platform_id)?;
    log::info!("An owner was paired user={sender} chat={chat}");
    let (to, thread_id) = message.answer_to();
    let text = format!("You are an owner of this assistant now. {wired_to}");
    notice::post(store, to, thread_id, &text, Repeat::Always)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_whole_message() {
        assert_eq!(code_of(" k7qm-2xrt\n").as_deref(), Some("K7QM-2XRT"));
        assert_eq!(code_of(&new_code()).map(|c| c.len()), Some(CODE_CHARS));
        for text in ["", "K7QM2XRT", "code K7QM-2XRT", "K7QM-2XRT!", "K7QM_2XRT", "é7Q-2XRT"] {
            assert_eq!(code_of(text), None, "{text:?}");
        }
    }
}
