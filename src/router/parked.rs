//! Sessions whose inbound.db cannot be written: a container holds a lock on it, the disk is full,
//! the file is broken. Their messages are kept in the store, in order, and acknowledged; they are
//! written as soon as that works. Nobody else waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use nanoclaw_session::inbound::is_transient;
use nanoclaw_session::row::NewMessageIn;

use super::{News, Router};
use crate::notice;
use crate::store::{Inserted, Session, StartReason, Store, StoreError};
use crate::thread::tell;
use crate::{delivery, sweep};

/// First wait before another try; doubled every ten tries.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest such wait.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// How long a container may hold a lock on its inbound.db before it is stopped.
const MAX_LOCKED: Duration = Duration::from_secs(10);
/// Tries after which it is no lock that passes: the owner is told, and no cycle waits for it.
const HOPELESS: u32 = 10;

/// The sessions that have something in the store.
#[derive(Debug, Default)]
pub struct ParkedSessions {
    by_id: BTreeMap<String, Wait>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    failures: u32,
    next_try: Instant,
}

impl ParkedSessions {
    /// What an earlier life left.
    pub fn taken_up(store: &Store) -> ParkedSessions {
        let mut parked = ParkedSessions::default();
        match store.parked_sessions() {
            Ok(sessions) => sessions.into_iter().for_each(|id| parked.add(id, Instant::now())),
            Err(e) => log::error!("Messages that were kept could not be read error={e}"),
        }
        parked
    }

    fn add(&mut self, session_id: String, next_try: Instant) {
        self.by_id.entry(session_id).or_insert(Wait { since: Instant::now(), failures: 0, next_try });
    }

    pub fn next_try(&self) -> Option<Instant> {
        self.by_id.values().map(|wait| wait.next_try).min()
    }

    /// Whether there is none that may go on in a moment.
    pub fn are_hopeless(&self) -> bool {
        self.by_id.values().all(|wait| wait.failures >= HOPELESS)
    }
}

impl Router {
    /// Puts rows on disk, into the session's own file if that works; false when they are nowhere.
    pub(super) fn keep(&self, session: &Session, rows: &[NewMessageIn], parked: &mut ParkedSessions) -> bool {
        if !parked.by_id.contains_key(&session.id) {
            match self.commit(session, rows) {
                Ok(news) => {
                    self.wake(&session.id, news);
                    return true;
                }
                Err(e) => log::warn!("Messages are kept aside session={} error={e:#}", session.id),
            }
        }
        match self.store.park(&session.id, rows) {
            Ok(()) => {
                parked.add(session.id.clone(), Instant::now() + FIRST_RETRY);
                true
            }
            Err(e) => {
                log::error!("Messages were not stored session={} error={e}", session.id);
                false
            }
        }
    }

    /// Writes what is parked where that works now.
    pub(super) fn try_parked(&self, parked: &mut ParkedSessions) {
        let now = Instant::now();
        parked.by_id.retain(|session_id, wait| {
            if wait.next_try > now {
                return true;
            }
            let Err(e) = self.unpark(session_id) else { return false };
            wait.failures += 1;
            wait.next_try = now + (FIRST_RETRY * 2u32.pow((wait.failures / 10).min(9))).min(MAX_RETRY);
            let is_lock = e.downcast_ref::<rusqlite::Error>().is_some_and(is_transient);
            if is_lock && wait.since.elapsed() > MAX_LOCKED {
                tell(&self.sweep, sweep::Event::Locked { session_id: session_id.clone() });
            }
            if wait.failures == HOPELESS {
                log::error!("Messages still wait for a session's file session={session_id} error={e:#}");
                if !is_lock {
                    self.tell_of(session_id, &e);
                }
            }
            true
        });
    }

    fn unpark(&self, session_id: &str) -> Result<()> {
        let session = match self.store.session(session_id) {
            // Its messages went with it.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            session => session?,
        };
        let rows = self.store.parked(session_id)?;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(()) };
        let rows: Vec<NewMessageIn> = rows.into_iter().map(|row| row.into_row()).collect();
        let news = self.commit(&session, &rows)?;
        // A crash before this writes them again, and they are absorbed.
        self.store.unpark(session_id, last)?;
        log::info!("Messages that were kept aside are written session={session_id} messages={}", rows.len());
        self.store.release_dedup_key(&notice_key(session_id))?;
        self.wake(session_id, news);
        Ok(())
    }

    fn tell_of(&self, session_id: &str, error: &anyhow::Error) {
        let text = format!(
            "Messages for the session {session_id} cannot be written ({error:#}). They are kept and tried again; `nanoclaw doctor` says what helps."
        );
        match notice::tell_owner(&self.store, &text, &notice_key(session_id)) {
            Ok(Inserted::New) => {
                tell(&self.delivery, delivery::Event::HostOutbox);
            }
            Ok(_) => {}
            Err(e) => log::error!("The owner could not be told session={session_id} error={e:#}"),
        }
    }

    fn wake(&self, session_id: &str, news: News) {
        if news == News::Wakes {
            let session_id = session_id.to_owned();
            tell(&self.sweep, sweep::Event::Wake { session_id, reason: StartReason::Message });
        }
    }
}

fn notice_key(session_id: &str) -> String {
    format!("parked:{session_id}")
}
