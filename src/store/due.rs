//! Due times: when each session next has something to do, so that neither the sweep nor `tasks`
//! opens every session file.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;

use super::{Result, Store};

table! {
    /// A row of `due`. A session without one has nothing ahead of it.
    pub struct Due in "due" as "due time", key 1 {
        session_id: String,
        next_due_at: Timestamp,
    }
}

impl Store {
    /// Sets, or with `None` clears, the time the session is next due.
    pub fn set_due(&self, session_id: &str, next_due_at: Option<Timestamp>) -> Result<()> {
        match next_due_at {
            Some(next_due_at) => self.put(&Due { session_id: session_id.to_owned(), next_due_at }),
            None => {
                self.delete::<Due>("WHERE session_id = ?1", &[&session_id])?;
                Ok(())
            }
        }
    }

    /// The sessions that are due at `now`, the longest waiting first.
    pub fn due_sessions(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>> {
        let at = comparable("next_due_at");
        let tail = format!("WHERE {at} <= {} ORDER BY {at} LIMIT ?2", comparable("?1"));
        self.all(&tail, &[&now, &limit])
    }

    /// The session that is due next, now or later.
    pub fn next_due(&self) -> Result<Option<Due>> {
        let tail = format!("ORDER BY {} LIMIT 1", comparable("next_due_at"));
        self.find(&tail, &[])
    }

    pub fn find_due(&self, session_id: &str) -> Result<Option<Due>> {
        self.find("WHERE session_id = ?1", &[&session_id])
    }
}
