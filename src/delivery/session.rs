//! What delivery knows of one session: which rows it has read, which are still open, and what is
//! to be written into its inbound.db.
//!
//! The books are kept so that a crash at any moment repeats at most what was in flight: a row is
//! behind the durable cursor only once it is in `delivered` or in `delivery_attempts`.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::{Attempt, Delivered, Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::{AckStatus, Address, DeliveryStatus, InStatus, MessageOut, NewMessageIn, Trigger};
use nanoclaw_session::schedule::Action;
use nanoclaw_session::stamp::Stamp;
use nanoclaw_session::untrusted::{OutRow, OutRows, UntrustedDb, UntrustedError};
use nanoclaw_session::usage::Usage;

use super::queue::Tries;
use crate::channel::Chat;
use crate::id::new_id;
use crate::store::{Session, Store};
use crate::{tasks, time};

/// Rows read in one look; the rest is read in the next.
const ROWS_PER_LOOK: usize = 100;
/// Rows of one session that may wait for delivery in memory. The others wait in its file, so an
/// agent that writes without end costs disk of its own and no memory of ours.
const MAX_OPEN_ROWS: usize = 1_000;
/// How far the cursor moves before that is worth a page of its database. seq
const CURSOR_STEP: i64 = 64;
/// When a session that has more to say than may wait is looked at again.
const LOOK_LATER: Duration = Duration::from_millis(200);

/// One session's books.
#[derive(Debug)]
pub struct Books {
    pub session: Session,
    pub dir: SessionDir,
    /// Every row up to here was read; `None` until the durable cursor was loaded.
    read_to: Option<i64>,
    /// The durable cursor as stored.
    stored_cursor: i64,
    /// Rows that were read and have no final outcome, by seq.
    open: BTreeMap<i64, OpenRow>,
    marks: Marks,
    stamp: Option<Stamp>,
    /// What the file was like before the last look at it.
    looked: Option<Stamp>,
    /// When to look again after a look that could not be finished.
    pub look_again: Option<Instant>,
    /// Looks in a row that failed.
    pub faults: u32,
    flush_faults: u32,
    /// When to write again what could not be written.
    pub flush_again: Option<Instant>,
    pub life: Life,
    /// What the sweep was last told of a live container.
    told: Option<(Vec<String>, Option<Timestamp>)>,
}

/// Whether a container of this session runs, as the sweep said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    None,
    /// Its file is looked at once a second in case notifications do not cross the mount.
    Live,
    /// Proven dead: its last words are to be read and its claims to be told.
    Dead {
        run_id: String,
    },
}

#[derive(Debug)]
struct OpenRow {
    id: String,
    attempt: Option<Attempt>,
}

/// What waits to be written in one transaction; before it, into the store, what turns have cost.
#[derive(Debug, Default)]
struct Marks {
    /// By the seq of the row that says it.
    usage: Vec<(i64, Usage)>,
    /// By the id of the row that asks for it.
    actions: Vec<(String, Action)>,
    delivered: Vec<Delivered>,
    attempts: Vec<Attempt>,
    finished: Vec<Finished>,
    notes: Vec<NewMessageIn>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Inbound rows came to their end: the container may have nothing to do now.
    TurnsEnded,
    OutcomesOnly,
}

/// What one look found.
#[derive(Debug, Default)]
pub struct Found {
    /// New rows, in order, with the number of attempts they have behind them.
    pub rows: Vec<FoundRow>,
    /// Rows that can never be sent, and why.
    pub malformed: Vec<(String, String)>,
    /// Inbound rows the container is done with.
    pub finished: Vec<Finished>,
    /// Inbound rows it has taken and not finished.
    pub claims: Vec<String>,
    /// Until when it says that it will be silent.
    pub silent_until: Option<Timestamp>,
    pub more: bool,
}

/// An inbound row that came to its end, and the chat that waits for it.
#[derive(Debug, Clone)]
pub struct Finished {
    pub id: String,
    pub status: InStatus,
    pub chat: Option<Chat>,
}

impl Finished {
    pub fn new(inbound: &InboundDb, id: String, status: InStatus) -> rusqlite::Result<Finished> {
        let address = inbound.message(&id)?.map(|row| row.address).unwrap_or_default();
        let chat = address.channel_type.zip(address.platform_id);
        let chat = chat.map(|(channel_type, platform_id)| Chat { channel_type, platform_id });
        Ok(Finished { id, status, chat })
    }
}

/// A row to deliver.
#[derive(Debug)]
pub struct FoundRow {
    pub message: MessageOut,
    pub tries: Tries,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
}

impl Books {
    pub fn new(session: Session, dir: SessionDir) -> Books {
        Books {
            session,
            dir,
            read_to: None,
            stored_cursor: 0,
            open: BTreeMap::new(),
            marks: Marks::default(),
            stamp: None,
            looked: None,
            look_again: None,
            faults: 0,
            flush_faults: 0,
            flush_again: None,
            life: Life::None,
            told: None,
        }
    }

    /// A container runs, or is about to: the sweep wants to know what it is at.
    pub fn go_live(&mut self) {
        self.life = Life::Live;
        self.told = None;
    }

    /// Whether this is news to the sweep.
    pub fn is_news(&mut self, claims: &[String], silent_until: Option<Timestamp>) -> bool {
        let news = Some((claims.to_vec(), silent_until));
        self.life == Life::Live && std::mem::replace(&mut self.told, news.clone()) != news
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead { .. })
    }

    /// True when the container's file may have changed since the last look.
    pub fn may_have_changed(&mut self, now: Timestamp) -> bool {
        let Ok(stamp) = Stamp::take(&self.dir.outbound_db()) else { return true };
        let unchanged = self.stamp == Some(stamp) && stamp.is_settled(now);
        self.stamp = Some(stamp);
        !unchanged
    }

    /// Reads what is new.
    pub fn look(&mut self, db: &UntrustedDb) -> Result<Found, LookError> {
        self.looked = Stamp::take(&self.dir.outbound_db()).ok();
        let inbound = InboundDb::open(&self.dir, Durability::Normal)?;
        let mut unfinished = inbound.unfinished_ids()?;
        // One that was paused while it ran ends, too.
        unfinished.extend(inbound.paused_ids()?);
        let (cursor, attempts) = match self.read_to {
            Some(seq) => (seq, Vec::new()),
            None => (inbound.delivery_cursor()?, inbound.attempts()?),
        };
        let open = self.open.len();
        let live = self.life == Life::Live;
        let (from, seen, acks, retried, state) = db.read(|s| {
            // Below the cursor: the file was recreated, and `delivered` absorbs what repeats.
            let from = if s.max_seq()?.unwrap_or(0) < cursor { 0 } else { cursor };
            let mut retried = Vec::new();
            for attempt in attempts {
                if let Some(row) = s.message(&attempt.message_out_id)? {
                    retried.push((row, Some(attempt)));
                }
            }
            let room = MAX_OPEN_ROWS.saturating_sub(open).min(ROWS_PER_LOOK);
            let seen = if room == 0 {
                OutRows { rows: Vec::new(), more: s.max_seq()?.unwrap_or(0) > from }
            } else {
                s.messages_after(from, room)?
            };
            let state = if live { s.container_state()? } else { None };
            Ok((from, seen, s.acks(&unfinished)?, retried, state))
        })?;
        let read_to = seen.rows.last().map_or(from, OutRow::seq);
        // A row may be in both lists: with an attempt behind it, and above the cursor.
        let mut seen_ids = HashSet::new();
        let mut fresh = Vec::new();
        for (row, attempt) in retried.into_iter().chain(seen.rows.into_iter().map(|row| (row, None))) {
            let known = match &row {
                OutRow::Message(m) => {
                    !seen_ids.insert(m.id.clone())
                        || inbound.delivered(&m.id)?.is_some()
                        || self.open.values().any(|o| o.id == m.id)
                }
                OutRow::Malformed { id: Some(id), .. } => inbound.delivered(id)?.is_some(),
                OutRow::Malformed { seq, id: None, .. } => inbound.delivered(&unnamed(*seq))?.is_some(),
            };
            if !known {
                fresh.push((row, attempt));
            }
        }
        let (mut claims, mut finished) = (Vec::new(), Vec::new());
        for (id, status) in acks {
            match status {
                AckStatus::Processing => claims.push(id),
                AckStatus::Completed => finished.push(Finished::new(&inbound, id, InStatus::Completed)?),
                AckStatus::Failed => finished.push(Finished::new(&inbound, id, InStatus::Failed)?),
            }
        }
        // Nothing can fail from here on.
        if self.read_to.is_none() {
            self.stored_cursor = cursor;
        }
        self.read_to = Some(read_to);
        let silent_until = state.and_then(|state| state.declared_silence());
        let mut found = Found { more: seen.more, finished, claims, silent_until, ..Found::default() };
        for (row, attempt) in fresh {
            self.take(row, attempt, &mut found);
        }
        found.rows.sort_by_key(|r| r.message.seq);
        Ok(found)
    }

    fn take(&mut self, row: OutRow, attempt: Option<Attempt>, found: &mut Found) {
        match row {
            OutRow::Malformed { seq, id, reason } => {
                let id = id.unwrap_or_else(|| unnamed(seq));
                found.malformed.push((id, reason));
            }
            OutRow::Message(message) => {
                found.rows.push(FoundRow {
                    tries: attempt
                        .as_ref()
                        .map_or(Tries::default(), |a| Tries { count: a.attempts, since: a.first_attempt_at }),
                    not_before: attempt.as_ref().map(|a| a.next_attempt_at).or(message.deliver_after),
                    message: message.clone(),
                });
                self.open.insert(message.seq, OpenRow { id: message.id, attempt });
            }
        }
    }

    /// A row has its final outcome.
    pub fn mark_final(&mut self, outcome: Delivered) {
        self.open.retain(|_, r| r.id != outcome.message_out_id);
        self.marks.delivered.push(outcome);
    }

    /// The final outcome of a row, written or not yet.
    ///
    /// # Errors
    /// SQLite's.
    pub fn outcome_of(&self, inbound: &InboundDb, row_id: &str) -> rusqlite::Result<Option<Delivered>> {
        match self.marks.delivered.iter().find(|outcome| outcome.message_out_id == row_id) {
            Some(outcome) => Ok(Some(outcome.clone())),
            None => inbound.delivered(row_id),
        }
    }

    /// A row says what a turn has cost, and is done with when that is counted.
    pub fn count(&mut self, row: &MessageOut, usage: Usage) {
        self.marks.usage.push((row.seq, usage));
        self.mark_final(no_message(&row.id, DeliveryStatus::Delivered));
    }

    /// A row asks for something about a task, and is done with when that is.
    pub fn act(&mut self, row: &MessageOut, action: Action) {
        self.open.retain(|_, r| r.id != row.id);
        self.marks.actions.push((row.id.clone(), action));
    }

    /// A row is tried again (or for the first time) at `next_attempt_at`.
    pub fn mark_attempt(&mut self, row_id: &str, tries: Tries, next_attempt_at: Timestamp, last_error: Option<String>) {
        let (message_out_id, Tries { count: attempts, since: first_attempt_at }) = (row_id.to_owned(), tries);
        let attempt = Attempt { message_out_id, attempts, first_attempt_at, next_attempt_at, last_error };
        for row in self.open.values_mut().filter(|r| r.id == row_id) {
            row.attempt = Some(attempt.clone());
        }
        self.marks.attempts.push(attempt);
    }

    /// The container is done with these inbound rows; those that were not known to be are returned.
    pub fn mark_finished(&mut self, finished: Vec<Finished>) -> Vec<Finished> {
        let known = &self.marks.finished;
        let news: Vec<_> = finished.into_iter().filter(|new| !known.iter().any(|old| old.id == new.id)).collect();
        self.marks.finished.extend(news.clone());
        news
    }

    /// The agent is told something.
    pub fn note(&mut self, note: NewMessageIn) {
        self.marks.notes.push(note);
    }

    /// Whether anything waits to be written.
    pub fn has_marks(&self) -> bool {
        let Marks { usage: _counted_with_its_outcome, actions, delivered, attempts, finished, notes } = &self.marks;
        !(actions.is_empty() && delivered.is_empty() && attempts.is_empty() && finished.is_empty() && notes.is_empty())
    }

    /// Writes what waits, in one transaction. On an error everything still waits.
    pub fn flush(&mut self, store: &Store, now: Timestamp, zone: &str) -> Result<Flushed> {
        // Cut after this, the rows are read again, and the store knows that they are counted.
        store.count_usage(&self.session, &time::day(now, zone).to_string(), &self.marks.usage)?;
        // Behind the cursor is only what is in one of the two tables.
        let first_unrecorded = self.open.iter().find(|(_, row)| row.attempt.is_none()).map(|(seq, _)| *seq);
        let cursor = match (first_unrecorded, self.read_to) {
            (Some(seq), Some(read)) => Some((seq - 1).min(read)),
            (None, read) => read,
            (Some(_), None) => None,
        };
        // It only saves reading: a start reads what is above it again, and `delivered` absorbs that.
        let moved = |seq: &i64| *seq >= self.stored_cursor + CURSOR_STEP || *seq < self.stored_cursor;
        let cursor = cursor.filter(moved);
        let marks = &self.marks;
        let runs = InboundDb::open(&self.dir, Durability::Normal)?.write(|tx| {
            for outcome in &marks.delivered {
                tx.mark_delivered(outcome, now)?;
            }
            for attempt in &marks.attempts {
                tx.set_attempt(attempt)?;
            }
            // Done and marked as done in one commit: exactly once.
            for (row_id, action) in &marks.actions {
                let refused = tasks::act(tx, action, now, zone)?.err();
                let status = if refused.is_none() { DeliveryStatus::Delivered } else { DeliveryStatus::Failed };
                tx.mark_delivered(&no_message(row_id, status), now)?;
                if let Some(why) = refused {
                    log::warn!("An action was refused message={row_id} reason={why}");
                    tx.insert(&refusal(&why, now))?;
                }
            }
            let mut runs = Vec::new();
            for Finished { id, status, .. } in &marks.finished {
                runs.extend(tasks::finish(tx, id, *status, now, zone)?);
            }
            for note in &marks.notes {
                tx.insert(note)?;
            }
            cursor.map_or(Ok(()), |seq| tx.set_delivery_cursor(seq))?;
            Ok(runs)
        })?;
        // A line of history is all that is lost here.
        if let Err(e) = store.add_task_runs(&self.session.id, &runs) {
            log::warn!("Runs of tasks were not remembered session={} error={e}", self.session.id);
        }
        self.flush_faults = 0;
        self.flush_again = None;
        self.stored_cursor = cursor.unwrap_or(self.stored_cursor);
        let ended = !self.marks.finished.is_empty();
        self.marks = Marks::default();
        Ok(if ended { Flushed::TurnsEnded } else { Flushed::OutcomesOnly })
    }

    /// What waits could not be written: when to try again; how often that has happened in a row.
    pub fn flush_failed(&mut self, now: Instant) -> u32 {
        const FIRST_RETRY: Duration = Duration::from_millis(50);
        const MAX_RETRY: Duration = Duration::from_secs(5);
        self.flush_again = Some(now + (FIRST_RETRY * 2u32.pow(self.flush_faults.min(10))).min(MAX_RETRY));
        self.flush_faults = self.flush_faults.saturating_add(1);
        self.flush_faults
    }

    /// A look failed: when to try again. The first few times at once, since a writer is usually
    /// in the middle of a commit; then ever later.
    pub fn look_failed(&mut self, transient: bool, now: Instant) {
        const FIRST_RETRY: Duration = Duration::from_millis(3);
        const MAX_RETRY: Duration = Duration::from_secs(60);
        self.faults = self.faults.saturating_add(1);
        let shift = if transient { self.faults.saturating_sub(1).min(10) } else { self.faults.clamp(9, 15) };
        self.look_again = Some(now + (FIRST_RETRY * 2u32.pow(shift)).min(MAX_RETRY));
    }

    /// There is more than could be taken: look again soon.
    pub fn look_later(&mut self, now: Instant) {
        self.look_again = Some(now + LOOK_LATER);
    }

    /// A look succeeded; how many had failed before it.
    pub fn look_succeeded(&mut self) -> u32 {
        self.look_again = None;
        std::mem::take(&mut self.faults)
    }

    /// The stamp under which nothing is left to do, once these books are quiet.
    pub fn settled(&self) -> Option<String> {
        self.looked.as_ref().filter(|_| self.faults == 0)?.word()
    }

    /// Whether nothing keeps these books open.
    pub fn is_quiet(&self) -> bool {
        self.life == Life::None && self.open.is_empty() && !self.has_marks() && self.look_again.is_none()
    }
}

/// The outcome of a row that went to no chat.
pub fn no_message(row_id: &str, status: DeliveryStatus) -> Delivered {
    let (message_out_id, chat) = (row_id.to_owned(), Address::default());
    Delivered { message_out_id, platform_message_id: None, status, chat }
}

/// Tells the agent that what it wrote came to nothing.
pub fn refusal(why: &str, now: Timestamp) -> NewMessageIn {
    // A note that woke the agent could be answered with the same mistake, for ever.
    NewMessageIn { trigger: Trigger::Context, ..note(format!("Your message was not delivered: {why}."), now) }
}

/// Something the agent hears from the host.
pub fn note(text: String, now: Timestamp) -> NewMessageIn {
    let content = ChatIn { text, sender: Some("system".into()), ..ChatIn::default() };
    let address = Address { channel_type: Some("agent".into()), ..Address::default() };
    NewMessageIn::chat(new_id("note"), now, address, content.to_json())
}

/// What a row without a readable id is called in `delivered`.
fn unnamed(seq: i64) -> String {
    format!("seq-{seq}")
}

/// Why a look could not be finished.
#[derive(Debug)]
pub enum LookError {
    Theirs(UntrustedError),
    Ours(rusqlite::Error),
}

impl From<UntrustedError> for LookError {
    fn from(e: UntrustedError) -> Self {
        LookError::Theirs(e)
    }
}

impl From<rusqlite::Error> for LookError {
    fn from(e: rusqlite::Error) -> Self {
        LookError::Ours(e)
    }
}

impl LookError {
    /// Whether the file itself is at fault, so that no later look will fare better.
    pub fn is_final(&self) -> bool {
        matches!(self, LookError::Theirs(UntrustedError::Hostile(_) | UntrustedError::Corrupt(_)))
    }
}

impl std::fmt::Display for LookError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LookError::Theirs(e) => write!(f, "outbound.db: {e}"),
            LookError::Ours(e) => write!(f, "inbound.db: {e}"),
        }
    }
}
