//! Messages that were accepted for a session whose inbound.db cannot be written just now: its
//! container holds a lock, its disk is full, its file is broken. They wait here, in order.

use jiff::Timestamp;
use nanoclaw_session::row::{Address, InKind, NewMessageIn, Trigger};

use super::{Result, Store, StoreError};

/// Most messages that wait for one session.
const MAX_PER_SESSION: usize = 1_000;

table! {
    /// One message, as it is to be written.
    pub struct Parked in "parked_messages" as "parked message", key 1 {
        id: i64,
        session_id: String,
        message_id: String,
        kind: InKind,
        timestamp: Timestamp,
        wakes: bool,
        channel_type: Option<String>,
        platform_id: Option<String>,
        thread_id: Option<String>,
        content: String,
    }
}

impl Parked {
    pub(crate) fn into_row(self) -> NewMessageIn {
        let Parked { channel_type, platform_id, thread_id, .. } = self;
        let address = Address { channel_type, platform_id, thread_id };
        let trigger = if self.wakes { Trigger::Wake } else { Trigger::Context };
        NewMessageIn {
            kind: self.kind,
            trigger,
            ..NewMessageIn::chat(self.message_id, self.timestamp, address, self.content)
        }
    }
}

impl Store {
    /// Keeps messages for a session; a power loss does not undo that.
    /// An error, such as too many that wait already, keeps nothing.
    pub(crate) fn park(&self, session_id: &str, rows: &[NewMessageIn]) -> Result<()> {
        if self.parked(session_id)?.len() + rows.len() > MAX_PER_SESSION {
            return Err(StoreError::invalid::<Parked>(session_id, "too many messages wait for this session"));
        }
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let kept = self.transaction(|| {
            rows.iter().try_for_each(|row| {
                let Address { channel_type, platform_id, thread_id } = &row.address;
                let wakes = row.trigger == Trigger::Wake;
                self.execute(
                    "INSERT INTO parked_messages (session_id, message_id, kind, timestamp, wakes, channel_type,
                       platform_id, thread_id, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    &[
                        &session_id,
                        &row.id,
                        &row.kind,
                        &row.timestamp,
                        &wakes,
                        channel_type,
                        platform_id,
                        thread_id,
                        &row.content,
                    ],
                )
                .map(drop)
            })
        });
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        kept
    }

    /// The sessions messages wait for.
    pub(crate) fn parked_sessions(&self) -> Result<Vec<String>> {
        self.column("SELECT DISTINCT session_id FROM parked_messages", &[])
    }

    /// What waits for a session, in order.
    pub(crate) fn parked(&self, session_id: &str) -> Result<Vec<Parked>> {
        self.all("WHERE session_id = ?1 ORDER BY id", &[&session_id])
    }

    /// These are written.
    pub(crate) fn unpark(&self, session_id: &str, up_to: i64) -> Result<()> {
        self.execute("DELETE FROM parked_messages WHERE session_id = ?1 AND id <= ?2", &[&session_id, &up_to]).map(drop)
    }
}
