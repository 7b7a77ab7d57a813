//! From what an agent wrote to what a channel is asked to send: where it goes, whether it may go
//! there, and which platform message it means. Everything is checked against the central
//! database at this moment, whatever the container's own copy says.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use nanoclaw_session::content::Outbound;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::{Address, InKind, MessageOut};
use nanoclaw_session::untrusted::{OutRow, UntrustedError, open_outbox_file, open_untrusted};

use super::session::Books;
use crate::channel::{Chat, OutboundFile, OutboundItem, Payload};
use crate::destinations;
use crate::question;
use crate::router;
use crate::store::Store;

/// Most files in one message.
const MAX_FILES: usize = 20;

/// What becomes of a row before any channel sees it.
#[derive(Debug)]
pub enum Resolved {
    Send(Box<OutboundItem>),
    /// Never: the sentence for the agent.
    Refused(String),
}

/// Where a row goes: the address it names, or the session's own chat. A question is put on record.
pub fn resolve(store: &Store, books: &Books, row: &MessageOut, now: Timestamp) -> Result<Resolved> {
    let Books { session, dir, .. } = books;
    let own = destinations::own_chat(store, session)?;
    let (chat, thread_id) = match (&row.address.channel_type, &row.address.platform_id) {
        (Some(channel_type), Some(platform_id)) => {
            let chat = Chat { channel_type: channel_type.clone(), platform_id: platform_id.clone() };
            (chat, row.address.thread_id.clone())
        }
        _ => match &own {
            Some(chat) => (chat.clone(), session.thread_id.clone()),
            None => return Ok(refused("it has no destination, and this session has no chat of its own")),
        },
    };
    if own.as_ref() != Some(&chat) && !destinations::chats_of_group(store, &session.agent_group_id)?.contains_key(&chat)
    {
        return Ok(refused(&format!("{chat} is not one of your destinations")));
    }
    let payload = match Outbound::parse(row.kind, &row.content) {
        Outbound::Text { text, files } => match open_files(dir, &row.id, &files)? {
            Ok(files) => Payload::Text { text, files },
            Err(why) => return Ok(refused(&why)),
        },
        Outbound::Edit { message_id, text } => match platform_message(books, &message_id, &chat, &own)? {
            Some((Sender::Agent, platform_message_id)) => Payload::Edit { platform_message_id, text },
            Some((Sender::Other, _)) => return Ok(refused(&format!("#{message_id} is not yours to edit"))),
            None => return Ok(refused(&format!("there is no message #{message_id} to edit in {chat}"))),
        },
        Outbound::Reaction { message_id, emoji } => match platform_message(books, &message_id, &chat, &own)? {
            Some((_, platform_message_id)) => Payload::Reaction { platform_message_id, emoji },
            None => return Ok(refused(&format!("there is no message #{message_id} to react to in {chat}"))),
        },
        Outbound::Question(_) if own.as_ref() != Some(&chat) => {
            return Ok(refused("a question goes to the session's own chat, and to no other"));
        }
        Outbound::Question(question) => {
            let place = (&chat, thread_id.as_deref());
            match question::record(store, session, &row.id, place, &question, now)? {
                Ok(()) => Payload::Question(question),
                Err(why) => return Ok(refused(&why)),
            }
        }
        Outbound::Card { fallback_text, .. } if !fallback_text.is_empty() => {
            Payload::Text { text: fallback_text, files: Vec::new() }
        }
        Outbound::Card { .. } => return Ok(refused("a card needs a fallbackText here")),
        Outbound::Action { .. } => return Ok(refused("an action is for the host, not for a chat")),
        Outbound::Invalid(why) => return Ok(refused(why)),
    };
    Ok(Resolved::Send(Box::new(OutboundItem {
        chat,
        thread_id,
        id: row.id.clone(),
        in_reply_to: row.in_reply_to.as_deref().map(|id| router::platform_id_of(id, &session.agent_group_id)),
        payload,
    })))
}

fn refused(why: &str) -> Resolved {
    Resolved::Refused(why.to_owned())
}

/// Opens the files a message names, by exact name, without following anything.
pub(super) fn open_files(
    dir: &SessionDir,
    message_id: &str,
    names: &[String],
) -> Result<Result<Vec<OutboundFile>, String>> {
    if names.len() > MAX_FILES {
        return Ok(Err(format!("a message takes at most {MAX_FILES} files")));
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        match open_outbox_file(dir, message_id, name) {
            Ok((content, size)) => files.push(OutboundFile {
                name: name.clone(),
                content: Arc::new(content),
                size,
                origin: PathBuf::from("outbox").join(message_id).join(name),
            }),
            Err(UntrustedError::Io(why)) => {
                return Err(anyhow::anyhow!(why)).with_context(|| format!("cannot open the file {name:?}"));
            }
            Err(e) => return Ok(Err(format!("the file {name:?} cannot be sent: {e}"))),
        }
    }
    Ok(Ok(files))
}

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Agent,
    Other,
}

/// What the platform calls the message that the agent knows by this number, when that is in `chat`: ids of another
/// chat may mean something else here. The agent's own are odd, those it received even.
fn platform_message(
    books: &Books,
    reference: &str,
    chat: &Chat,
    own: &Option<Chat>,
) -> Result<Option<(Sender, String)>> {
    let Ok(seq) = reference.parse::<i64>() else { return Ok(None) };
    let is_here = |address: Address| match address.channel_type.zip(address.platform_id) {
        Some((channel_type, platform_id)) => Chat { channel_type, platform_id } == *chat,
        // Sent by a host that did not note where to.
        None => own.as_ref() == Some(chat),
    };
    let inbound = InboundDb::open(&books.dir, Durability::Normal).context("cannot open inbound.db")?;
    if seq % 2 == 0 {
        let row = inbound.id_of_seq(seq)?.map(|id| inbound.message(&id)).transpose()?.flatten();
        let is_said = |kind| matches!(kind, InKind::Chat | InKind::ChatSdk);
        let row =
            row.filter(|row| is_said(row.kind) && row.address.platform_id.is_some() && is_here(row.address.clone()));
        let id = row.map(|row| router::platform_id_of(&row.id, &books.session.agent_group_id));
        return Ok(id.map(|id| (Sender::Other, id)));
    }
    let row = open_untrusted(&books.dir)
        .and_then(|db| db.read(|s| s.message_by_seq(seq)))
        .map_err(|e| anyhow::anyhow!("cannot read outbound.db: {e}"))?;
    let Some(OutRow::Message(message)) = row else { return Ok(None) };
    let sent = books.outcome_of(&inbound, &message.id)?.filter(|sent| is_here(sent.chat.clone()));
    Ok(sent.and_then(|sent| sent.platform_message_id).map(|id| (Sender::Agent, id)))
}
