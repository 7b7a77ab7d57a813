//! What a decision needs to know, read from the store: each thing once per batch, so that a burst
//! costs its commits and not its look-ups. Reads only; `nanoclaw explain` uses the same.

use std::collections::HashMap;
use std::rc::Rc;

use super::engage::{InThread, Pattern};
use super::judge::{Candidate, Subject};
use super::session::Scope;
use crate::channel::Chat;
use crate::permission::{self, Standing};
use crate::store::{EngageMode, MessagingGroup, Result, Session, Store, Wiring};

/// A chat and who is wired to it, in the order in which they are judged.
#[derive(Debug, Default)]
pub struct Wired {
    pub chat: Option<MessagingGroup>,
    pub wirings: Vec<(Wiring, Pattern)>,
}

/// Group, chat and thread of a session.
type SessionKey = (String, Option<String>, Option<String>);

/// The facts of one batch.
pub struct Facts<'a> {
    store: &'a Store,
    chats: HashMap<Chat, Rc<Wired>>,
    standings: HashMap<(Option<String>, String), Standing>,
    /// Those that exist; others may come to exist within the batch.
    sessions: HashMap<SessionKey, Session>,
}

impl<'a> Facts<'a> {
    pub fn new(store: &'a Store) -> Facts<'a> {
        Facts { store, chats: HashMap::new(), standings: HashMap::new(), sessions: HashMap::new() }
    }

    pub fn wired(&mut self, chat: &Chat) -> Result<Rc<Wired>> {
        if let Some(known) = self.chats.get(chat) {
            return Ok(Rc::clone(known));
        }
        let row = self.store.find_messaging_group(&chat.channel_type, &chat.platform_id)?;
        let wirings = match &row {
            Some(row) => self.store.wirings_of_chat(&row.id)?,
            None => Vec::new(),
        };
        let wirings = wirings.into_iter().map(|w| (Pattern::of(&w), w)).map(|(pattern, w)| (w, pattern)).collect();
        let wired = Rc::new(Wired { chat: row, wirings });
        self.chats.insert(chat.clone(), Rc::clone(&wired));
        Ok(wired)
    }

    /// A chat's row or wirings, or somebody's roles, have changed.
    pub fn forget(&mut self) {
        self.chats.clear();
        self.standings.clear();
    }

    pub fn candidates<'w>(&mut self, wired: &'w Wired, subject: &Subject<'_>) -> Result<Vec<Candidate<'w>>> {
        let Some(chat) = &wired.chat else { return Ok(Vec::new()) };
        wired
            .wirings
            .iter()
            .map(|(wiring, pattern)| {
                Ok(Candidate {
                    wiring,
                    pattern,
                    standing: self.standing(subject.sender_id, &wiring.agent_group_id)?,
                    in_thread: self.in_thread(wiring, chat, subject)?,
                })
            })
            .collect()
    }

    fn standing(&mut self, user_id: Option<&str>, agent_group_id: &str) -> Result<Standing> {
        let key = (user_id.map(str::to_owned), agent_group_id.to_owned());
        if let Some(known) = self.standings.get(&key) {
            return Ok(*known);
        }
        let standing = permission::standing(self.store, user_id, agent_group_id)?;
        self.standings.insert(key, standing);
        Ok(standing)
    }

    fn in_thread(&mut self, wiring: &Wiring, chat: &MessagingGroup, subject: &Subject<'_>) -> Result<InThread> {
        let (EngageMode::MentionSticky, Some(thread)) = (wiring.engage_mode, subject.thread_id) else {
            return Ok(InThread::NotYet);
        };
        let scope = Scope::Thread(thread.to_owned());
        let found = self.session(&wiring.agent_group_id, &chat.id, &scope)?;
        Ok(if found.is_some() { InThread::AlreadyThere } else { InThread::NotYet })
    }

    /// The active session of an agent for this scope, where there is one.
    pub fn session(&mut self, agent_group_id: &str, chat_id: &str, scope: &Scope) -> Result<Option<Session>> {
        let (chat, thread) = scope.columns(chat_id);
        let key = (agent_group_id.to_owned(), chat.map(str::to_owned), thread.map(str::to_owned));
        if let Some(known) = self.sessions.get(&key) {
            return Ok(Some(known.clone()));
        }
        let found = self.store.find_session(agent_group_id, chat, thread)?;
        if let Some(session) = &found {
            self.sessions.insert(key, session.clone());
        }
        Ok(found)
    }
}
