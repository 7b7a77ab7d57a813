//! From agent to agent: what one writes becomes a row in a session of the other's, with no platform in
//! between. Whether it may is read from the central database at this moment.
//!
//! The row's id is made of the sender's, so what a crash repeats is found to be there. A session that cannot be
//! written is a reason to try again, like a platform that does not answer; each pair of a session and an agent is a
//! conversation of its own, so nobody else waits for it.
//!
//! A conversation ends: after so many messages that no person or task came between ([`MAX_HOPS`], counted in
//! `messages_in.hops`), and when a pair writes faster than anything useful ([`MAX_PER_WINDOW`]).

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::SignedDuration;
use nanoclaw_session::content::{Attachment, ChatIn, Outbound};
use nanoclaw_session::inbound::{Durability, InboundDb, is_transient};
use nanoclaw_session::layout::{SessionDir, confined_file_name, folder_name};
use nanoclaw_session::row::{Address, InStatus, MessageOut, NewMessageIn};

use super::Actor;
use super::queue::Tries;
use super::resolve::open_files;
use crate::channel::{Chat, OutboundFile, Outcome};
use crate::destinations::found;
use crate::id::new_id;
use crate::notice;
use crate::store::{Inserted, Session, SessionStatus, StartReason, Target};
use crate::sweep;

/// The channel type of agents.
pub const CHANNEL: &str = "agent";
/// Most messages between agents that follow from one another.
pub const MAX_HOPS: u32 = 16;
/// Most messages between two agents within [`WINDOW`], both ways together.
pub const MAX_PER_WINDOW: u32 = 60;
const WINDOW: Duration = Duration::from_secs(600);
/// Most that the files of one message may have: they are copied while others wait. bytes
const MAX_FILES_BYTES: u64 = 50 << 20;
/// How long a container may hold a lock on its inbound.db before it is stopped.
const MAX_LOCKED: SignedDuration = SignedDuration::from_secs(10);

/// How often which two agents have written to each other, and since when.
#[derive(Debug, Default)]
pub struct Rates(HashMap<[String; 2], (Instant, u32)>);

impl Rates {
    /// How many messages the window has already.
    fn of(&mut self, pair: &[String; 2], now: Instant) -> u32 {
        self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        self.0.get(pair).map_or(0, |(_, count)| *count)
    }

    fn count(&mut self, pair: [String; 2], now: Instant) {
        self.0.entry(pair).or_insert((now, 0)).1 += 1;
    }
}

/// The conversation that a session's messages to an agent are.
pub fn conversation(target: &str, session_id: &str) -> Chat {
    Chat::new(CHANNEL, &format!("{target} from {session_id}"))
}

/// One message, and the session that wrote it.
struct Letter<'a> {
    from: Session,
    dir: SessionDir,
    target: &'a str,
    row: &'a MessageOut,
    tries: Tries,
}

impl Letter<'_> {
    /// Both agents, whoever writes.
    fn pair(&self) -> [String; 2] {
        let mut pair = [self.from.agent_group_id.clone(), self.target.to_owned()];
        pair.sort();
        pair
    }
}

impl Actor {
    /// Delivers the head of a conversation with an agent.
    pub(super) fn pass_on(&mut self, chat: &Chat, session_id: &str, row: &MessageOut, tries: Tries) {
        self.gate.worked();
        let passed = match self.books(session_id).map(|books| (books.session.clone(), books.dir.clone())) {
            None => Ok(Err("its session is gone".to_owned())),
            Some((from, dir)) => {
                let target = row.address.platform_id.as_deref().unwrap_or_default();
                self.write_to(&Letter { from, dir, target, row, tries })
            }
        };
        match passed {
            Ok(Ok(())) => {
                self.conversations.sent(chat);
                self.outcome(chat, Outcome::Sent { platform_message_id: None });
            }
            Ok(Err(why)) => {
                self.conversations.drop_head(chat);
                self.refuse(session_id, &row.id, &why);
            }
            Err(e) => {
                self.conversations.sent(chat);
                self.outcome(chat, Outcome::Retry { after: Some(Duration::ZERO), why: format!("{e:#}") });
            }
        }
    }

    /// Writes a message into the session it is for; the inner error is a refusal.
    fn write_to(&mut self, letter: &Letter<'_>) -> Result<Result<(), String>> {
        let Letter { from, dir, target, row, .. } = letter;
        let (store, wall) = (&self.parts.store, self.now.wall);
        let may = from.agent_group_id == *target
            || store.find_destination_to(&from.agent_group_id, Target::Agent(target))?.is_some();
        if !may || found(store.agent_group(target))?.is_none() {
            return Ok(Err(format!("{CHANNEL}:{target} is not one of your destinations")));
        }
        let (text, names) = match Outbound::parse(row.kind, &row.content) {
            Outbound::Text { text, files } => (text, files),
            Outbound::Card { fallback_text, .. } if !fallback_text.is_empty() => (fallback_text, Vec::new()),
            Outbound::Invalid(why) => return Ok(Err(why.to_owned())),
            _ => return Ok(Err("another agent takes text and files only".to_owned())),
        };
        let own = InboundDb::open(dir, Durability::Normal).context("cannot open inbound.db")?;
        let hops = own.hops_so_far(row.in_reply_to.as_deref(), wall)?.saturating_add(1);
        let asking = own.asking_sessions(row.in_reply_to.as_deref(), target)?;
        drop(own);
        let session = self.session_for(target, &asking)?;
        let there = self.parts.home.session(target, &session.id);
        if !there.root().exists() {
            there.prepare().with_context(|| format!("cannot create {}", there.root().display()))?;
        }
        let id = format!("{}:{}", row.id, from.id);
        let mut inbound = self.unless_locked(letter, &session, InboundDb::open(&there, Durability::Acknowledged))?;
        match inbound.message(&id)? {
            // Written before a crash.
            Some(there) if there.status != InStatus::Pending => return Ok(Ok(())),
            Some(_) => {}
            None => {
                if let Some(why) = self.cut(letter, hops)? {
                    return Ok(Err(why));
                }
                let files = match open_files(dir, &row.id, &names)? {
                    Ok(files) if files.iter().map(|f| f.size).sum::<u64>() <= MAX_FILES_BYTES => files,
                    Ok(_) => return Ok(Err(format!("an agent takes files of {MAX_FILES_BYTES} bytes in all"))),
                    Err(why) => return Ok(Err(why)),
                };
                let content = ChatIn {
                    text,
                    sender: Some(self.parts.store.agent_group(&from.agent_group_id)?.name),
                    sender_id: Some(format!("{CHANNEL}:{}", from.agent_group_id)),
                    attachments: copy_files(&there, &id, files).context("cannot copy its files")?,
                    ..ChatIn::default()
                };
                let address = Address {
                    channel_type: Some(CHANNEL.into()),
                    platform_id: Some(from.agent_group_id.clone()),
                    thread_id: None,
                };
                let mut new = NewMessageIn::chat(id, wall, address, content.to_json());
                (new.source_session_id, new.hops) = (Some(from.id.clone()), hops);
                self.unless_locked(letter, &session, inbound.write(|tx| tx.insert(&new)))?;
                log::info!("Message passed on message={} from={} session={} hops={hops}", new.id, from.id, session.id);
                self.rates.count(letter.pair(), self.now.instant);
                self.began_anew(letter, hops);
            }
        }
        if let Err(e) = self.parts.store.touch_session(&session.id, wall) {
            log::warn!("A session's last activity was not recorded session={} error={e}", session.id);
        }
        self.for_sweep.push_back(sweep::Event::Wake { session_id: session.id, reason: StartReason::Message });
        Ok(Ok(()))
    }

    /// The session a message to the agent `target` belongs to: the one that asked, else the agent's shared one.
    fn session_for(&self, target: &str, asking: &[String]) -> Result<Session> {
        let store = &self.parts.store;
        for id in asking {
            let session = found(store.session(id))?;
            if let Some(session) = session.filter(|s| s.agent_group_id == target && s.status == SessionStatus::Active) {
                return Ok(session);
            }
        }
        let shared = Session::new(&new_id("sess"), target, None, None, self.now.wall);
        Ok(store.ensure_session(&shared)?.into_inner())
    }

    /// Why this message is one too many, if it is. The owner hears of it once.
    fn cut(&mut self, letter: &Letter<'_>, hops: u32) -> Result<Option<String>> {
        let (pair, target) = (letter.pair(), letter.target);
        let [a, b] = &pair;
        let (why, what) = if hops > MAX_HOPS {
            let what = format!("{MAX_HOPS} messages in a row, with no word from a person");
            (
                format!("{target} and you have exchanged {what}; the conversation is cut until somebody else writes"),
                what,
            )
        } else if self.rates.of(&pair, self.now.instant) >= MAX_PER_WINDOW {
            let what = format!("{MAX_PER_WINDOW} messages in ten minutes");
            (format!("{target} and you have exchanged {what}; there will be room again in some minutes"), what)
        } else {
            return Ok(None);
        };
        let text = format!("The agents {a} and {b} have exchanged {what}. Their conversation was cut.");
        if notice::tell_owner(&self.parts.store, &text, &cut_key(&pair))? == Inserted::New {
            self.take_host_messages();
        }
        Ok(Some(why))
    }

    /// What comes from a person or a task is another conversation: should it be cut, the owner hears of that.
    fn began_anew(&self, letter: &Letter<'_>, hops: u32) {
        if hops == 1 {
            if let Err(e) = self.parts.store.release_dedup_key(&cut_key(&letter.pair())) {
                log::warn!("A notice may be missing later session={} error={e}", letter.from.id);
            }
        }
    }

    /// Passes `result` on; a container that has held a lock on its file for too long is reported.
    fn unless_locked<T>(
        &mut self,
        letter: &Letter<'_>,
        session: &Session,
        result: rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let since = letter.tries.since.map(|since| self.now.wall.duration_since(since));
        if result.as_ref().is_err_and(is_transient) && since.is_some_and(|waited| waited > MAX_LOCKED) {
            self.for_sweep.push_back(sweep::Event::Locked { session_id: session.id.clone() });
        }
        result
    }
}

fn cut_key([a, b]: &[String; 2]) -> String {
    format!("agents-cut:{a}:{b}")
}

/// Copies what the sender's outbox has into the receiver's inbox. The sender can still write its files: no more is
/// read than they had when they were opened.
fn copy_files(dir: &SessionDir, row_id: &str, files: Vec<OutboundFile>) -> io::Result<Vec<Attachment>> {
    let folder = dir.inbox(row_id);
    let mut copied: Vec<Attachment> = Vec::with_capacity(files.len());
    for file in files {
        fs::create_dir_all(&folder)?;
        let name = confined_file_name(&file.name, |n| copied.iter().any(|there| there.name == n));
        // What lies there is of a try that ended before the row was written.
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(folder.join(&name))?;
        let size = io::copy(&mut (&*file.content).take(file.size), &mut to)?;
        // The row that names it is durable; so must the file be.
        to.sync_all()?;
        let local_path = Some(format!("inbox/{}/{name}", folder_name(row_id)));
        copied.push(Attachment { name, kind: Some("file".into()), mime_type: None, size: Some(size), local_path });
    }
    Ok(copied)
}
