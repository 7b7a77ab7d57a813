//! The router: decides who hears a message and writes it to their inbound.db.
//!
//! Runs on its own thread. It never waits for docker or a platform; its only waits are commits.
//! A batch is acknowledged to its poller once every row of it is on disk, so a crash at any
//! moment repeats messages (which are absorbed) and loses none. All rows a batch adds to one
//! session are one commit.
//!
//! A session whose file is locked by its container is parked: its rows wait in memory, its batch
//! stays unacknowledged, and everybody else goes on.

mod engage;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nanoclaw_session::content::Attachment;
use nanoclaw_session::inbound::{Durability, InboundDb, Intake, is_transient};
use nanoclaw_session::layout::{SessionDir, confined_file_name, folder_name};
use nanoclaw_session::row::{Address, NewMessageIn, Trigger};

use crate::channel::{Chat, InboundFile, InboundMessage};
use crate::home::Home;
use crate::id::new_id;
use crate::store::{EngageMode, MessagingGroup, Session, SessionMode, StartReason, Store, User, Wiring};
use crate::sweep;
use engage::{Engagement, InThread};

/// How soon parked rows are tried again.
const PARKED_RETRY: Duration = Duration::from_millis(200);
/// How long a container may hold a lock on its inbound.db before it is stopped.
const MAX_LOCKED: Duration = Duration::from_secs(10);
/// Batches that may wait for a locked session before pollers are held up.
const MAX_PARKED: usize = 64;
/// Largest attachment that is kept. bytes
const MAX_ATTACHMENT_BYTES: usize = 50 * 1024 * 1024;

/// Everything that can wake the router.
#[derive(Debug)]
pub enum Event {
    /// Messages from a poller, which waits for `accepted` before it moves its cursor.
    Batch { messages: Vec<InboundMessage>, accepted: Sender<()> },
}

/// What the router works with.
pub struct Router {
    pub store: Store,
    pub home: Arc<Home>,
    pub sweep: Sender<sweep::Event>,
}

/// A batch on its way to disk.
struct Pending {
    since: Instant,
    sessions: Vec<ForSession>,
    accepted: Sender<()>,
}

/// The rows of one batch for one session.
struct ForSession {
    session: Session,
    rows: Vec<NewMessageIn>,
}

/// Whether a commit brought something that wakes the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Wakes,
    /// Context, or what was there already.
    Quiet,
}

impl Router {
    /// The thread's body: returns when all pollers are gone and nothing is parked.
    pub fn run(self, events: &Receiver<Event>) {
        let mut parked: Vec<Pending> = Vec::new();
        loop {
            let event = if parked.is_empty() {
                events.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else if parked.len() >= MAX_PARKED {
                crossbeam_channel::after(PARKED_RETRY).recv().ok();
                Err(RecvTimeoutError::Timeout)
            } else {
                events.recv_deadline(Instant::now() + PARKED_RETRY)
            };
            match event {
                Ok(Event::Batch { messages, accepted }) => {
                    parked.extend(self.place(messages, accepted));
                }
                Err(RecvTimeoutError::Timeout) => {}
                // What is parked was not acknowledged: its platform brings it again.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            parked = parked.into_iter().filter_map(|batch| self.write(batch)).collect();
        }
    }

    /// Decides where each message of a batch goes. A message that cannot be judged does not hold
    /// up the others, but its batch is not acknowledged, so that it comes again.
    fn place(&self, messages: Vec<InboundMessage>, accepted: Sender<()>) -> Option<Pending> {
        let mut sessions: BTreeMap<String, ForSession> = BTreeMap::new();
        let mut whole = true;
        for message in messages {
            let id = message.id.clone();
            if let Err(e) = self.route(message, &mut sessions) {
                log::error!("A message could not be routed message={id} error={e:#}");
                whole = false;
            }
        }
        let accepted = if whole { accepted } else { crossbeam_channel::bounded(1).0 };
        Some(Pending { since: Instant::now(), sessions: sessions.into_values().collect(), accepted })
    }

    fn route(&self, message: InboundMessage, sessions: &mut BTreeMap<String, ForSession>) -> Result<()> {
        self.remember_sender(&message)?;
        let Some(chat) = self.store.find_messaging_group(&message.chat.channel_type, &message.chat.platform_id)? else {
            log::info!("Message ignored: nobody is wired to this chat message={} chat={}", message.id, message.chat);
            return Ok(());
        };
        let wirings = self.store.wirings_of_chat(&chat.id)?;
        if wirings.is_empty() || chat.denied_at.is_some() {
            log::info!("Message ignored: nobody is wired to this chat message={} chat={}", message.id, message.chat);
        }
        for wiring in wirings {
            let in_thread = self.in_thread(&wiring, &chat, &message)?;
            let judged = engage::engage(&wiring, &message.content.text, message.kind, message.mention, in_thread);
            let trigger = match judged {
                Engagement::Answers => Trigger::Wake,
                Engagement::Accumulates => Trigger::Context,
                Engagement::Ignores => {
                    log::debug!("Message does not engage message={} agent={}", message.id, wiring.agent_group_id);
                    continue;
                }
            };
            let session = self.session_for(&wiring, &chat, &message)?;
            let row = self.row(&message, &session, trigger)?;
            log::info!(
                "Message routed message={} session={} agent={} trigger={}",
                message.id,
                session.id,
                wiring.agent_group_id,
                u8::from(trigger == Trigger::Wake)
            );
            sessions
                .entry(session.id.clone())
                .or_insert_with(|| ForSession { session, rows: Vec::new() })
                .rows
                .push(row);
        }
        Ok(())
    }

    fn remember_sender(&self, message: &InboundMessage) -> Result<()> {
        if let Some(id) = &message.content.sender_id {
            self.store.ensure_user(&User {
                id: id.clone(),
                kind: message.chat.channel_type.clone(),
                display_name: message.content.sender.clone(),
                created_at: crate::time::now(),
            })?;
        }
        Ok(())
    }

    fn in_thread(&self, wiring: &Wiring, chat: &MessagingGroup, message: &InboundMessage) -> Result<InThread> {
        let (EngageMode::MentionSticky, Some(thread)) = (wiring.engage_mode, message.thread_id.as_deref()) else {
            return Ok(InThread::NotYet);
        };
        let found = self.store.find_session(&wiring.agent_group_id, Some(&chat.id), Some(thread))?;
        Ok(if found.is_some() { InThread::AlreadyThere } else { InThread::NotYet })
    }

    /// The session a message belongs to, made when there is none.
    fn session_for(&self, wiring: &Wiring, chat: &MessagingGroup, message: &InboundMessage) -> Result<Session> {
        let (chat_id, thread) = match wiring.session_mode {
            SessionMode::AgentShared => (None, None),
            SessionMode::Shared => (Some(chat.id.as_str()), None),
            SessionMode::PerThread => (Some(chat.id.as_str()), message.thread_id.as_deref()),
        };
        let new = Session::new(&new_id("sess"), &wiring.agent_group_id, chat_id, thread, crate::time::now());
        Ok(self.store.ensure_session(&new)?.into_inner())
    }

    /// The row for one agent, with its attachments already in place.
    fn row(&self, message: &InboundMessage, session: &Session, trigger: Trigger) -> Result<NewMessageIn> {
        let id = row_id(&message.id, &session.agent_group_id);
        let dir = self.home.session(&session.agent_group_id, &session.id);
        let mut content = message.content.clone();
        content.attachments.extend(store_attachments(&dir, &id, &message.attachments));
        let (chat, thread_id) = match &message.reply_to {
            Some((chat, thread)) => (chat, thread.clone()),
            None => (&message.chat, message.thread_id.clone()),
        };
        let mut row = NewMessageIn::chat(id, message.timestamp, address(chat, thread_id), content.to_json());
        row.trigger = trigger;
        Ok(row)
    }

    /// Writes a batch; what could not be written because of a lock comes back.
    fn write(&self, mut batch: Pending) -> Option<Pending> {
        batch.sessions.retain(|part| match self.commit(part) {
            Ok(news) => {
                if news == News::Wakes {
                    let session_id = part.session.id.clone();
                    // Gone means that the host stops; the next start finds the rows.
                    let _ = self.sweep.send(sweep::Event::Wake { session_id, reason: StartReason::Message });
                }
                false
            }
            Err(e) if e.downcast_ref::<rusqlite::Error>().is_some_and(is_transient) => {
                let session_id = &part.session.id;
                log::warn!("Messages wait for a locked session session={session_id}");
                if batch.since.elapsed() > MAX_LOCKED {
                    let _ = self.sweep.send(sweep::Event::Locked { session_id: session_id.clone() });
                }
                true
            }
            Err(e) => {
                log::error!("Messages wait: they cannot be written session={} error={e:#}", part.session.id);
                true
            }
        });
        if batch.sessions.is_empty() {
            // The poller stopped waiting only if it stopped.
            let _ = batch.accepted.send(());
            return None;
        }
        Some(batch)
    }

    fn commit(&self, part: &ForSession) -> Result<News> {
        let session = &part.session;
        let dir = self.home.session(&session.agent_group_id, &session.id);
        if !dir.root().exists() {
            dir.prepare().with_context(|| format!("cannot create {}", dir.root().display()))?;
        }
        let mut inbound = InboundDb::open(&dir, Durability::Acknowledged)?;
        let mut news = News::Quiet;
        inbound.write(|tx| {
            for row in &part.rows {
                match tx.insert(row)? {
                    Intake::Absorbed { id } => {
                        log::info!("Message absorbed: it is there already message={id} session={}", session.id);
                    }
                    Intake::Stored { .. } if row.trigger == Trigger::Wake => news = News::Wakes,
                    Intake::Stored { .. } => {}
                }
            }
            Ok(())
        })?;
        // The rows are there: a retry would find them absorbed and wake nobody.
        if let Err(e) = self.store.touch_session(&session.id, crate::time::now()) {
            log::warn!("A session's last activity was not recorded session={} error={e}", session.id);
        }
        Ok(news)
    }
}

/// The id of a platform's message in an agent's session: one message may reach several agents.
pub fn row_id(platform_id: &str, agent_group_id: &str) -> String {
    format!("{platform_id}:{agent_group_id}")
}

/// The platform's id of a row: [`row_id`] undone, and the suffix of a later version dropped.
pub fn platform_id_of(row_id: &str, agent_group_id: &str) -> String {
    let id = match row_id.rsplit_once('#') {
        Some((id, version)) if version.parse::<u32>().is_ok() => id,
        _ => row_id,
    };
    id.strip_suffix(agent_group_id).and_then(|id| id.strip_suffix(':')).unwrap_or(id).to_owned()
}

fn address(chat: &Chat, thread_id: Option<String>) -> Address {
    Address { channel_type: Some(chat.channel_type.clone()), platform_id: Some(chat.platform_id.clone()), thread_id }
}

/// Puts attachments into the session's inbox. One that cannot be kept is named without a path:
/// the text still arrives.
fn store_attachments(dir: &SessionDir, row_id: &str, files: &[InboundFile]) -> Vec<Attachment> {
    let mut kept: Vec<Attachment> = Vec::with_capacity(files.len());
    let folder = dir.inbox(row_id);
    for file in files {
        // A later version of the message may bring another file of the same name.
        let other_content = |n: &str| fs::read(folder.join(n)).is_ok_and(|there| there != file.bytes);
        let name = confined_file_name(&file.name, |n| kept.iter().any(|k| k.name == n) || other_content(n));
        let local_path = match store_attachment(dir, row_id, &name, &file.bytes) {
            Ok(()) => Some(format!("inbox/{}/{name}", folder_name(row_id))),
            Err(e) => {
                log::warn!("An attachment was not kept message={row_id} name={name:?} error={e:#}");
                None
            }
        };
        let kind = file.mime_type.as_deref().and_then(|m| m.split('/').next()).unwrap_or("file");
        kept.push(Attachment {
            name,
            kind: Some(if matches!(kind, "image" | "audio" | "video") { kind } else { "file" }.to_owned()),
            mime_type: file.mime_type.clone(),
            size: Some(file.bytes.len() as u64),
            local_path,
        });
    }
    kept
}

fn store_attachment(dir: &SessionDir, row_id: &str, name: &str, bytes: &[u8]) -> Result<()> {
    anyhow::ensure!(bytes.len() <= MAX_ATTACHMENT_BYTES, "larger than {MAX_ATTACHMENT_BYTES} bytes");
    let folder = dir.inbox(row_id);
    fs::create_dir_all(&folder)?;
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(folder.join(name))?;
    file.write_all(bytes)?;
    // The row that names it is durable; so must the file be.
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_id_leads_back_to_the_platform_id() {
        for id in ["c-1", "a:b", "x#y", "42:7"] {
            assert_eq!(platform_id_of(&row_id(id, "main"), "main"), id);
            assert_eq!(platform_id_of(&format!("{}#3", row_id(id, "main")), "main"), id);
        }
        assert_eq!(platform_id_of("from-elsewhere", "main"), "from-elsewhere");
    }

    #[test]
    fn attachments_are_confined_and_a_refused_one_is_still_named() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        let file =
            |name: &str, bytes: Vec<u8>| InboundFile { name: name.into(), mime_type: Some("image/png".into()), bytes };
        let kept = store_attachments(
            &dir,
            "m:main",
            &[file("../../x.png", vec![1]), file("x.png", vec![2]), file("big", vec![0; MAX_ATTACHMENT_BYTES + 1])],
        );
        let again = store_attachments(&dir, "m:main", &[file("x.png", vec![1]), file("x.png", vec![9])]);
        let names: Vec<_> = again.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["x.png", "x-3.png"], "the same file again, and another version's");
        let paths: Vec<_> = kept.iter().map(|a| a.local_path.as_deref()).collect();
        assert_eq!(paths, [Some("inbox/m:main/x.png"), Some("inbox/m:main/x-2.png"), None]);
        assert_eq!(fs::read(dir.inbox("m:main").join("x-2.png")).unwrap(), [2]);
        assert_eq!(kept[2].name, "big");
    }
}
