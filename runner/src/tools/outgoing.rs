//! What an agent sends before its turn ends: messages, files, changes of messages, signs to them, cards.
//!
//! Each call is over when the row is written, so its result names the number of the message. The host looks at
//! everything again: what is checked here is what the agent can do something about.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nanoclaw_session::card::Card;
use nanoclaw_session::content::{Outbound, is_emoji};
use nanoclaw_session::inbound::{is_transient, reader};
use nanoclaw_session::layout::{SessionDir, confined_file_name};
use nanoclaw_session::outbound;
use nanoclaw_session::row::{Address, InKind};
use nanoclaw_session::untrusted::MAX_OUTBOX_FILE_BYTES;
use serde::Deserialize;
use serde_json::json;

use super::own::names;
use super::{Context, Effect, Output, SLACK, Tool, files, tool};
use crate::stop::Stop;
use crate::{id, time};

/// Longest copying of a file of the largest size, onto an SD card.
const COPY_TIME: Duration = Duration::from_secs(60);
/// How much is copied between two looks whether the turn was stopped. bytes
const COPY_STEP: u64 = 4 * 1024 * 1024;
/// Pause before a second look at a file somebody writes.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    to: Option<String>,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentFile {
    to: Option<String>,
    path: PathBuf,
    text: Option<String>,
    filename: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    #[serde(rename = "messageId")]
    message_id: MessageId,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reaction {
    #[serde(rename = "messageId")]
    message_id: MessageId,
    emoji: String,
}

/// The number of a message as models write it: `"5"`, `"#5"` or `5`.
#[derive(Deserialize)]
#[serde(untagged)]
enum MessageId {
    Text(String),
    Number(i64),
}

/// For the agent of this session.
pub fn tools(dir: &SessionDir) -> Vec<Arc<dyn Tool>> {
    let text = |description: &str| json!({"type": "string", "description": description});
    let to = || text("Name of a destination; without it, this conversation.");
    let number = || text("The number of a message: its id, as in id=\"4\", or what you were told when you sent it.");
    let pair = |first: &str, second: &str| {
        json!({
            "type": "array",
            "items": {
                "type": "object",
                "properties": {first: {"type": "string"}, second: {"type": "string"}},
                "required": [first, second],
                "additionalProperties": false,
            },
        })
    };
    let (home, sender, editor, reactor) = (dir.root().join("agent"), dir.clone(), dir.clone(), dir.clone());
    let path = format!("Relative paths are below {}.", home.display());
    vec![
        tool(
            (
                "send_message",
                "Sends a message now, before your turn ends: word that something takes long, or a message to somebody \
                 else. What you send here need not be in your final text.",
            ),
            (json!({"to": to(), "text": {"type": "string"}}), &["text"]),
            Effect::Changes,
            |_: &Message| SLACK,
            send_message,
        ),
        tool(
            ("send_file", "Sends a copy of a file you can read, with a text if you like."),
            (
                json!({
                    "to": to(),
                    "path": text(&path),
                    "text": {"type": "string"},
                    "filename": text("What it is called for whoever gets it; its own name unless said."),
                }),
                &["path"],
            ),
            Effect::Changes,
            |_: &SentFile| COPY_TIME,
            move |input: SentFile, context| send_file(input, &home, &sender, context),
        ),
        tool(
            ("edit_message", "Replaces the text of a message you have sent."),
            (json!({"messageId": number(), "text": {"type": "string"}}), &["messageId", "text"]),
            Effect::Changes,
            |_: &Edit| SLACK,
            move |input, context| edit_message(input, &editor, context),
        ),
        tool(
            ("add_reaction", "Puts an emoji to a message."),
            (json!({"messageId": number(), "emoji": text("One emoji.")}), &["messageId", "emoji"]),
            Effect::Changes,
            |_: &Reaction| SLACK,
            move |input, context| add_reaction(input, &reactor, context),
        ),
        tool(
            (
                "send_card",
                "Sends a card to this conversation: a title, a text, fields (name and value) and links, as buttons \
                 where the platform has them and as text where it has none.",
            ),
            (
                json!({
                    "title": {"type": "string"},
                    "text": {"type": "string"},
                    "fields": pair("name", "value"),
                    "links": pair("label", "url"),
                }),
                &["title"],
            ),
            Effect::Changes,
            |_: &Card| SLACK,
            send_card,
        ),
    ]
}

fn send_message(Message { to, text }: Message, context: &Context) -> Result<Output, String> {
    if text.trim().is_empty() {
        return Err("The text is empty.".into());
    }
    let to = recipient(to, context)?;
    let number = context.send(new_id(), Some(to), Outbound::Text { text, files: Vec::new() })?;
    Ok(sent(&format!("Sent; it is your message #{number}."), context))
}

fn send_file(input: SentFile, home: &Path, dir: &SessionDir, context: &Context) -> Result<Output, String> {
    let to = recipient(input.to, context)?;
    let path = home.join(&input.path);
    let own_name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = confined_file_name(&input.filename.or_else(own_name).unwrap_or_default(), |_| false);
    let id = new_id();
    let folder = dir.outbox(&id);
    let message = Outbound::Text { text: input.text.unwrap_or_default(), files: vec![name.clone()] };
    // The row comes last: what it names is there.
    let number = copy(&path, &folder, &name, &context.stop)
        .and_then(|()| context.send(id, Some(to), message))
        .inspect_err(|_| {
            // It may not have been made.
            let _rest = fs::remove_dir_all(&folder);
        })?;
    Ok(sent(&format!("{name} is sent; it is your message #{number}."), context))
}

fn edit_message(Edit { message_id, text }: Edit, dir: &SessionDir, context: &Context) -> Result<Output, String> {
    if text.trim().is_empty() {
        return Err("The text is empty; a message cannot be taken back.".into());
    }
    let target = target(&message_id, dir, context)?;
    let number = target.number;
    if target.sender == Sender::Other {
        return Err(format!("#{number} is not from you: you can edit only what you have sent."));
    }
    let to = target.place(context)?;
    context.send(new_id(), Some(to), Outbound::Edit { message_id: number.to_string(), text })?;
    Ok(sent(&format!("#{number} is edited."), context))
}

fn add_reaction(
    Reaction { message_id, emoji }: Reaction,
    dir: &SessionDir,
    context: &Context,
) -> Result<Output, String> {
    let emoji = emoji.trim();
    if !is_emoji(emoji) {
        return Err(format!("{emoji:?} is not one emoji."));
    }
    let target = target(&message_id, dir, context)?;
    let (number, to) = (target.number, target.place(context)?);
    let message = Outbound::Reaction { message_id: number.to_string(), emoji: emoji.into() };
    context.send(new_id(), Some(to), message)?;
    Ok(sent(&format!("{emoji} is put to #{number}."), context))
}

fn send_card(card: Card, context: &Context) -> Result<Output, String> {
    card.check()?;
    let to = match context.destinations.own() {
        Some(_) => None,
        None => Some(recipient(None, context)?),
    };
    let number = context.send(new_id(), to, card.to_message())?;
    Ok(sent(&format!("The card is sent; it is your message #{number}."), context))
}

fn new_id() -> String {
    id::message(time::now())
}

/// What the model reads of something that was sent: it also changes what becomes of the final text.
fn sent(what: &str, context: &Context) -> Output {
    Output::text(match context.destinations.only() {
        Some(peer) => format!(
            "{what} If there is more to say in your final text, put it into <message to=\"{}\"> now: the rest is not \
             sent any more.",
            peer.name
        ),
        None => what.to_owned(),
    })
}

/// The destination called `to`; without a name the session's own chat, else the only one there is.
fn recipient(to: Option<String>, context: &Context) -> Result<String, String> {
    let destinations = &context.destinations;
    let (peer, wrong) = match to {
        Some(name) => (destinations.by_name(&name), format!("You have no destination {name:?}.")),
        None => (destinations.own().or(destinations.only()), "Say to whom, with `to`.".into()),
    };
    peer.map(|peer| peer.name.clone()).ok_or_else(|| match names(destinations) {
        names if names.is_empty() => "You have no destinations.".into(),
        names => format!("{wrong} You have:\n{names}"),
    })
}

#[derive(PartialEq)]
enum Sender {
    Agent,
    Other,
}

/// A message that is named by its number.
struct Target {
    number: i64,
    sender: Sender,
    /// Where it is.
    address: Address,
}

impl Target {
    /// The name of the conversation it is in.
    fn place(&self, context: &Context) -> Result<String, String> {
        let Target { number, address, .. } = self;
        if address.channel_type.as_deref() == Some("agent") {
            return Err(format!("#{number} passed between agents; such messages stay as they are. Write another one."));
        }
        let destinations = &context.destinations;
        let name = match address.platform_id {
            Some(_) => destinations.name_of(address),
            None => destinations.own().map(|peer| peer.name.as_str()),
        };
        name.map(str::to_owned)
            .ok_or_else(|| format!("#{number} is in a conversation that is none of your destinations any more."))
    }
}

/// Finds a message that people see: one that came in (even), or one of our own (odd).
fn target(id: &MessageId, dir: &SessionDir, context: &Context) -> Result<Target, String> {
    let (written, number) = match id {
        MessageId::Text(text) => (text.clone(), text.trim().trim_start_matches('#').parse().ok()),
        MessageId::Number(number) => (number.to_string(), Some(*number)),
    };
    let number: i64 = number.ok_or(format!("{written:?} is no number of a message, such as 4 or #4."))?;
    let found = if number % 2 == 0 {
        let row = again(&context.stop, || reader::look(dir, |view| view.message_by_seq(number)))?;
        row.map(|row| (Sender::Other, row.address, matches!(row.kind, InKind::Chat | InKind::ChatSdk)))
    } else {
        let row = again(&context.stop, || outbound::message_by_seq(dir, number))?;
        row.map(|row| {
            let said = Outbound::parse(row.kind, &row.content);
            let is_message = matches!(said, Outbound::Text { .. } | Outbound::Card { .. } | Outbound::Question(_));
            (Sender::Agent, row.address, is_message)
        })
    };
    match found {
        Some((sender, address, true)) => Ok(Target { number, sender, address }),
        Some(_) => Err(format!("#{number} is no message: nobody sees it in a chat.")),
        None => Err(format!("There is no message #{number}.")),
    }
}

/// Reads until nobody is in the middle of writing.
fn again<T>(stop: &Stop, read: impl Fn() -> rusqlite::Result<T>) -> Result<T, String> {
    loop {
        match read() {
            Err(e) if is_transient(&e) => stop.wait(LOOK_AGAIN).map_err(|_| "stopped".to_owned())?,
            other => return other.map_err(|e| format!("Your messages cannot be read: {e}.")),
        }
    }
}

/// Copies a file into a message's folder, and onto the disk: the row that names it must not outlive it.
fn copy(path: &Path, folder: &Path, name: &str, stop: &Stop) -> Result<(), String> {
    let too_large =
        || format!("{} is larger than {MAX_OUTBOX_FILE_BYTES} bytes, the most that is sent.", path.display());
    let fault = |e: io::Error| format!("{} cannot be copied: {e}.", path.display());
    let (from, length) = files::open(path)?;
    if length > MAX_OUTBOX_FILE_BYTES {
        return Err(too_large());
    }
    fs::create_dir_all(folder).map_err(fault)?;
    let mut to = File::create_new(folder.join(name)).map_err(fault)?;
    let mut bytes = 0;
    loop {
        stop.check().map_err(|_| "stopped".to_owned())?;
        match io::copy(&mut (&from).take(COPY_STEP), &mut to).map_err(fault)? {
            0 => break to.sync_all().map_err(fault),
            n => bytes += n,
        }
        // It may grow while we read, as files in /proc do.
        if bytes > MAX_OUTBOX_FILE_BYTES {
            return Err(too_large());
        }
    }
}

#[cfg(test)]
mod tests;
