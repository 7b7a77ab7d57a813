//! The terminal as a channel: a Unix socket that only the owner can open, one JSON object per
//! line in both directions ([`wire`]).
//!
//! Whoever opens the socket is the owner, so a line may say `to`, and is then routed as if it
//! had come from that chat. Replies to the terminal's own chat go to every client that listens
//! to it; while none does they wait.

mod clients;
pub mod wire;

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nanoclaw_session::content::ChatIn;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Channel, Chat, ChatKind, Inbound, InboundFile, InboundMessage, Mention, Outbound, OutboundItem, Outcome, Payload,
    PollError, Polled, Ready, Stop, Threads, user_id,
};
use crate::watch::timespec;
use clients::{ClientId, Clients};
use wire::{FromClient, ToClient};

/// `channel_type` of the terminal's own chats.
pub const CHANNEL: &str = "cli";
/// The terminal's own chat, wired to the first agent group.
pub const LOCAL_CHAT: &str = "local";
/// Who sits at the terminal.
pub const LOCAL_USER: &str = "cli:local";

/// Most clients at once.
const MAX_CLIENTS: usize = 32;
/// Longest line, attachments included. bytes
const MAX_LINE_BYTES: usize = 80 * 1024 * 1024;
/// Most that is taken from a client at once: a burst becomes one batch, and shares its commits. bytes
const MAX_READ_BYTES: usize = 256 * 1024;
/// Largest file that is sent to a terminal. bytes
const MAX_FILE_BYTES: u64 = 25 * 1024 * 1024;

/// Opens the terminal's socket at `path`.
pub fn open(path: &Path) -> Result<Channel> {
    // The home is closed to others already.
    let listener = crate::home::listen(path, 0o600)?;
    listener.set_nonblocking(true)?;
    let clients = Clients::default();
    Ok(Channel {
        name: CHANNEL,
        inbound: Box::new(CliInbound {
            listener,
            clients: clients.clone(),
            readers: HashMap::new(),
            waiting: Vec::new(),
        }),
        outbound: Box::new(CliOutbound { clients }),
    })
}

/// The poller's half: the listener and what clients wrote so far.
struct CliInbound {
    listener: UnixListener,
    clients: Clients,
    readers: HashMap<ClientId, Reader>,
    /// Who waits to hear that which message is on disk.
    waiting: Vec<(ClientId, String)>,
}

struct Reader {
    stream: UnixStream,
    state: ReaderState,
    buffer: Vec<u8>,
    /// Up to here the buffer holds no line end.
    scanned: usize,
}

impl Inbound for CliInbound {
    fn account(&self) -> String {
        CHANNEL.to_owned()
    }

    fn poll(&mut self, _cursor: Option<&str>, stop: &Stop) -> Result<Polled, PollError> {
        let mut polled = Polled::default();
        while polled.messages.is_empty() && polled.ready == Ready::Unchanged {
            let transient = |e: io::Error| PollError::Transient(e.to_string());
            let ids: Vec<ClientId> = self.readers.keys().copied().collect();
            let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            fds.extend(ids.iter().map(|id| {
                let reader = &self.readers[id];
                let wanted = match reader.state {
                    ReaderState::Open => PollFlags::IN,
                    // That it is gone is always told.
                    ReaderState::SaidAll => PollFlags::empty(),
                };
                PollFd::new(&reader.stream, wanted)
            }));
            match poll(&mut fds, stop.limit().map(timespec).as_ref()) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(transient(e.into())),
            }
            let news: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            drop(fds);
            if !news[0].is_empty() {
                break;
            }
            if !news[1].is_empty() {
                self.accept().map_err(transient)?;
            }
            for (id, news) in ids.into_iter().zip(&news[2..]).filter(|(_, news)| !news.is_empty()) {
                if self.readers.get(&id).is_some_and(|r| r.state == ReaderState::Open) {
                    self.read(id, &mut polled);
                }
                let said_all = self.readers.get(&id).is_some_and(|r| r.state == ReaderState::SaidAll);
                if said_all && news.intersects(PollFlags::HUP | PollFlags::ERR) {
                    self.forget(id);
                }
            }
        }
        Ok(polled)
    }

    fn rejected(&mut self) {
        for (client, id) in self.waiting.drain(..) {
            let message = format!("the message {id} could not be stored; see the log, and send it again");
            self.clients.write(client, &ToClient::Error { message });
        }
    }

    fn accepted(&mut self) {
        for (client, id) in self.waiting.drain(..) {
            self.clients.write(client, &ToClient::Accepted { id });
        }
    }
}

/// What is left to wait for from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Open,
    /// It says nothing more, and still listens.
    SaidAll,
}

impl CliInbound {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            if self.readers.len() >= MAX_CLIENTS {
                log::warn!("A terminal was turned away: there are {MAX_CLIENTS} already");
                continue; // dropping it tells the client
            }
            let id = self.clients.join(stream.try_clone()?)?;
            self.readers.insert(id, Reader { stream, state: ReaderState::Open, buffer: Vec::new(), scanned: 0 });
        }
    }

    /// Takes what a client wrote; a client that left or breaks the rules is forgotten.
    fn read(&mut self, id: ClientId, polled: &mut Polled) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        match reader.read_lines() {
            Ok((lines, end)) => {
                for line in lines {
                    self.line(id, &line, polled);
                }
                if let (true, Some(reader)) = (end, self.readers.get_mut(&id)) {
                    reader.state = ReaderState::SaidAll;
                }
            }
            Err(e) => {
                log::warn!("A terminal was cut off error={e}");
                self.clients.write(id, &ToClient::Error { message: e.to_string() });
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: ClientId) {
        self.readers.remove(&id);
        self.clients.leave(id);
    }

    fn line(&mut self, client: ClientId, line: &[u8], polled: &mut Polled) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let parsed = serde_json::from_slice::<FromClient>(line).map_err(|e| e.to_string());
        match parsed.and_then(|line| self.understand(client, line, polled)) {
            Ok(()) => {}
            Err(why) => {
                let message = format!("this line is not understood: {why}");
                self.clients.write(client, &ToClient::Error { message });
            }
        }
    }

    fn understand(&mut self, client: ClientId, line: FromClient, polled: &mut Polled) -> Result<(), String> {
        if let Some(platform_id) = line.listen {
            self.clients.listen(client, &platform_id);
            polled.ready = Ready::NowReachable;
        }
        if line.option.is_some() != line.question_id.is_some() || (line.option.is_some() && line.text.is_some()) {
            return Err("an answer is questionId and option, and nothing else is said with it".into());
        }
        let text = match (line.text.or(line.option), line.attachments.is_empty()) {
            (Some(text), _) => text,
            (None, false) => String::new(),
            (None, true) => return Ok(()),
        };
        let (chat, thread_id) = match line.to {
            Some(to) => to.into(),
            None => (Chat::new(CHANNEL, LOCAL_CHAT), None),
        };
        if chat.channel_type == CHANNEL && self.clients.listen(client, &chat.platform_id) {
            polled.ready = Ready::NowReachable;
        }
        let attachments = line
            .attachments
            .into_iter()
            .map(|a| {
                let bytes = BASE64.decode(&a.data).map_err(|e| format!("attachment {:?} is no base64: {e}", a.name))?;
                Ok(InboundFile { name: a.name, mime_type: a.mime_type, bytes })
            })
            .collect::<Result<_, String>>()?;
        let id = line.id.unwrap_or_else(|| crate::id::new_id("cli"));
        self.waiting.push((client, id.clone()));
        let sender_id = line.sender_id.filter(|id| !id.is_empty()).map(|id| user_id(&chat.channel_type, &id));
        polled.messages.push(InboundMessage {
            id,
            chat,
            // The terminal has no threads; the chat that is spoken for may.
            threads: if thread_id.is_some() { Threads::Supported } else { Threads::Absent },
            thread_id,
            kind: if line.is_group { ChatKind::Group } else { ChatKind::Direct },
            mention: if line.is_mention { Mention::Addressed } else { Mention::NotAddressed },
            timestamp: crate::time::now(),
            content: ChatIn {
                text,
                sender: Some(line.sender.unwrap_or_else(|| "local".to_owned())),
                sender_id: Some(sender_id.unwrap_or_else(|| LOCAL_USER.to_owned())),
                ..ChatIn::default()
            },
            attachments,
            answers: line.question_id,
            reply_to: line.reply_to.map(Into::into),
        });
        Ok(())
    }
}

impl Reader {
    /// The whole lines that have come, and whether the client closed its end.
    fn read_lines(&mut self) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let mut chunk = vec![0; MAX_READ_BYTES];
        // Readable, so this does not block. One read a turn: no client holds up the others.
        let n = match self.stream.read(&mut chunk) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok((Vec::new(), false));
            }
            Err(e) => return Err(e),
        };
        self.buffer.extend_from_slice(&chunk[..n]);
        let mut lines = Vec::new();
        while let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
            let rest = self.buffer.split_off(self.scanned + at + 1);
            lines.push(std::mem::replace(&mut self.buffer, rest));
            self.scanned = 0;
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() > MAX_LINE_BYTES {
            return Err(io::Error::other(format!("a line may have at most {MAX_LINE_BYTES} bytes")));
        }
        let end = n == 0;
        if end && !self.buffer.is_empty() {
            lines.push(std::mem::take(&mut self.buffer)); // a last line without its end
        }
        Ok((lines, end))
    }
}

/// The sender's half.
struct CliOutbound {
    clients: Clients,
}

impl Outbound for CliOutbound {
    fn send(&mut self, item: &OutboundItem) -> Outcome {
        let lines = match lines_of(item) {
            Ok(lines) => lines,
            Err(why) => return Outcome::Permanent { why },
        };
        for line in &lines {
            if self.clients.write_to_listeners(&item.chat.platform_id, line) == 0 {
                return Outcome::Away;
            }
        }
        Outcome::Sent { platform_message_id: Some(item.id.clone()) }
    }

    fn show_typing(&mut self, chat: &Chat, _: Option<&str>) {
        let platform_id = chat.platform_id.clone();
        self.clients.write_to_listeners(&chat.platform_id, &ToClient::Typing { platform_id });
    }
}

fn lines_of(item: &OutboundItem) -> Result<Vec<ToClient>, String> {
    let id = item.id.clone();
    Ok(match &item.payload {
        Payload::Text { text, files } => {
            let mut lines = Vec::new();
            if !text.is_empty() {
                lines.push(ToClient::Text {
                    id: id.clone(),
                    text: text.clone(),
                    platform_id: item.chat.platform_id.clone(),
                    in_reply_to: item.in_reply_to.clone(),
                });
            }
            for file in files {
                if file.size > MAX_FILE_BYTES {
                    return Err(format!("{} is larger than {MAX_FILE_BYTES} bytes", file.origin.display()));
                }
                let mut bytes = Vec::new();
                (&*file.content)
                    .take(MAX_FILE_BYTES)
                    .read_to_end(&mut bytes)
                    .map_err(|e| format!("{} cannot be read: {e}", file.origin.display()))?;
                lines.push(ToClient::File { id: id.clone(), name: file.name.clone(), data: BASE64.encode(bytes) });
            }
            lines
        }
        Payload::Edit { platform_message_id, text } => {
            vec![ToClient::Edit { id, message_id: platform_message_id.clone(), text: text.clone() }]
        }
        Payload::Reaction { platform_message_id, emoji } => {
            vec![ToClient::Reaction { id, message_id: platform_message_id.clone(), emoji: emoji.clone() }]
        }
        Payload::Subscribe => Vec::new(),
        Payload::Question(question) => vec![ToClient::Question { id, question: question.clone() }],
        Payload::TurnEnd { message_ids, result } => {
            vec![ToClient::TurnEnd { message_ids: message_ids.clone(), result: *result }]
        }
    })
}

#[cfg(test)]
mod tests;
