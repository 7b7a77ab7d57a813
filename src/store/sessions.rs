//! Sessions - one conversation of one agent group, with a folder and at most one container - and
//! when each next has something to do, so that neither the sweep nor `tasks` opens every file.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;

use super::{Ensured, Result, Store};

text_enum! {
    /// Whether a conversation goes on.
    pub enum SessionStatus {
        Active = "active",
        /// The next message of its chat starts another one.
        Closed = "closed",
    }
}

text_enum! {
    /// What the sweep last knew of the session's container.
    pub enum ContainerStatus {
        Stopped = "stopped",
        Running = "running",
        /// It lives and has nothing to do.
        Idle = "idle",
    }
}

table! {
    pub struct Session in "sessions" as "session", key 1 {
        id: String,
        agent_group_id: String,
        /// `None`: the session belongs to no chat (`agent-shared`, agent to agent).
        messaging_group_id: Option<String>,
        /// `None`: all threads of the chat.
        thread_id: Option<String>,
        agent_provider: Option<String>,
        status: SessionStatus,
        container_status: ContainerStatus,
        /// The last inbound write.
        last_active: Option<Timestamp>,
        created_at: Timestamp,
    }
}

table! {
    /// A session without one has nothing ahead of it.
    pub struct Due in "due" as "due time", key 1 {
        session_id: String,
        next_due_at: Timestamp,
    }
}

impl Session {
    /// An active session with no container and no provider of its own.
    pub fn new(
        id: &str,
        agent_group_id: &str,
        messaging_group_id: Option<&str>,
        thread_id: Option<&str>,
        now: Timestamp,
    ) -> Session {
        Session {
            id: id.to_owned(),
            agent_group_id: agent_group_id.to_owned(),
            messaging_group_id: messaging_group_id.map(str::to_owned),
            thread_id: thread_id.map(str::to_owned),
            agent_provider: None,
            status: SessionStatus::Active,
            container_status: ContainerStatus::Stopped,
            last_active: None,
            created_at: now,
        }
    }
}

table! {
    /// A session in whose outbound.db nothing is left to do, as long as the file's stamp is this.
    pub struct Settled in "settled_sessions" as "settled session", key 1 {
        session_id: String,
        stamp: String,
    }
}

impl Store {
    pub(crate) fn settled_sessions(&self) -> Result<Vec<Settled>> {
        self.all("", &[])
    }

    pub(crate) fn put_settled_session(&self, settled: &Settled) -> Result<()> {
        self.put(settled)
    }

    /// The active session with the group, chat and thread of `session`, or `session`, added.
    pub fn ensure_session(&self, session: &Session) -> Result<Ensured<Session>> {
        self.transaction(|| {
            let (chat, thread) = (session.messaging_group_id.as_deref(), session.thread_id.as_deref());
            if let Some(existing) = self.find_session(&session.agent_group_id, chat, thread)? {
                return Ok(Ensured::Existing(existing));
            }
            self.insert(session)?;
            Ok(Ensured::Created(session.clone()))
        })
    }

    pub fn session(&self, id: &str) -> Result<Session> {
        self.get(id)
    }

    /// The active session with exactly this group, chat and thread.
    pub(crate) fn find_session(
        &self,
        agent_group_id: &str,
        messaging_group_id: Option<&str>,
        thread_id: Option<&str>,
    ) -> Result<Option<Session>> {
        self.find(
            "WHERE agent_group_id = ?1 AND messaging_group_id IS ?2 AND thread_id IS ?3
             AND status = ?4 ORDER BY rowid",
            &[&agent_group_id, &messaging_group_id, &thread_id, &SessionStatus::Active],
        )
    }

    /// All sessions, closed ones too, the oldest first.
    pub(crate) fn sessions(&self) -> Result<Vec<Session>> {
        self.all("ORDER BY rowid", &[])
    }

    pub fn active_sessions(&self) -> Result<Vec<Session>> {
        self.all("WHERE status = ?1 ORDER BY rowid", &[&SessionStatus::Active])
    }

    pub fn active_sessions_of(&self, agent_group_id: &str) -> Result<Vec<Session>> {
        self.all("WHERE agent_group_id = ?1 AND status = ?2 ORDER BY rowid", &[&agent_group_id, &SessionStatus::Active])
    }

    /// Remembers an inbound write.
    pub(crate) fn touch_session(&self, id: &str, now: Timestamp) -> Result<()> {
        self.set::<Session>(id, "last_active = ?2", &[&now])
    }

    pub(crate) fn set_container_status(&self, id: &str, status: ContainerStatus) -> Result<()> {
        self.set::<Session>(id, "container_status = ?2", &[&status])
    }

    pub(crate) fn set_session_status(&self, id: &str, status: SessionStatus) -> Result<()> {
        self.set::<Session>(id, "status = ?2", &[&status])
    }

    /// `None`: the provider of the group again.
    pub(crate) fn set_session_provider(&self, id: &str, provider: Option<&str>) -> Result<()> {
        self.set::<Session>(id, "agent_provider = ?2", &[&provider])
    }

    /// Deletes the session and what the host remembers about it, except its usage. The folder,
    /// and a container that still runs, are the caller's.
    pub(crate) fn delete_session(&self, id: &str) -> Result<()> {
        self.remove::<Session>(id, "WHERE id = ?1", &[&id])
    }

    /// Sets, or with `None` clears, the time the session is next due.
    pub(crate) fn set_due(&self, session_id: &str, next_due_at: Option<Timestamp>) -> Result<()> {
        match next_due_at {
            Some(next_due_at) => self.put(&Due { session_id: session_id.to_owned(), next_due_at }),
            None => self.delete::<Due>("WHERE session_id = ?1", &[&session_id]).map(drop),
        }
    }

    /// The sessions that are due at `now`, the longest waiting first.
    pub(crate) fn due_sessions(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>> {
        let at = comparable("next_due_at");
        self.all(&format!("WHERE {at} <= {} ORDER BY {at} LIMIT ?2", comparable("?1")), &[&now, &limit])
    }

    /// The session that is due next, now or later.
    pub(crate) fn next_due(&self) -> Result<Option<Due>> {
        self.find(&format!("ORDER BY {} LIMIT 1", comparable("next_due_at")), &[])
    }

    pub(crate) fn find_due(&self, session_id: &str) -> Result<Option<Due>> {
        self.find("WHERE session_id = ?1", &[&session_id])
    }
}
