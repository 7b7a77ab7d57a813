//! `inbound.db`: written by the host alone, read by the container.
//!
//! Neither side keeps it open (rule 2): the host opens it for one write or one look
//! ([`InboundDb`]), the runner for every look ([`reader`]). What the host must remember about a
//! container's rows lives here too, because each file has one writer (rule 3).
//!
//! Every fault is SQLite's. [`is_transient`] ones mean that the other side holds a lock: park the
//! write, or look again, and go on.

pub mod reader;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params, params_from_iter};

use crate::database::{HOST_BUSY_MS, add_missing_columns, busy, open_writer, run};
use crate::layout::{SessionDir, journal_of};
use crate::row::{Address, Audience, DeliveryStatus, Destination, InStatus, MessageIn, NewMessageIn, Trigger};
use crate::schedule::{Content, Task};
use crate::time::{comparable, format_utc, parse_utc};

pub use crate::database::{Durability, is_transient};

/// Most versions of one message id that are kept. Platforms repeat and edit; nobody edits a
/// message a thousand times.
const MAX_VERSIONS_OF_AN_ID: u32 = 1_000;

/// Newest rows among which the one that made an agent write is looked for.
const MAX_CAUSES: u32 = 200;

/// Most unfinished rows one look returns: those that wake come first, since context may pile up.
const MAX_UNFINISHED_ROWS: u32 = 1_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS messages_in (
  id TEXT PRIMARY KEY, seq INTEGER UNIQUE, kind TEXT NOT NULL, timestamp TEXT NOT NULL,
  status TEXT DEFAULT 'pending', process_after TEXT, recurrence TEXT, series_id TEXT,
  tries INTEGER DEFAULT 0, trigger INTEGER NOT NULL DEFAULT 1,
  platform_id TEXT, channel_type TEXT, thread_id TEXT, content TEXT NOT NULL,
  source_session_id TEXT, on_wake INTEGER NOT NULL DEFAULT 0, hops INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS delivered (
  message_out_id TEXT PRIMARY KEY, platform_message_id TEXT,
  status TEXT NOT NULL DEFAULT 'delivered', delivered_at TEXT NOT NULL, channel_type TEXT, platform_id TEXT);
CREATE TABLE IF NOT EXISTS delivery_attempts (
  message_out_id TEXT PRIMARY KEY, attempts INTEGER NOT NULL, next_attempt_at TEXT NOT NULL, last_error TEXT,
  first_attempt_at TEXT);
CREATE TABLE IF NOT EXISTS delivery_cursor (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS destinations (
  name TEXT PRIMARY KEY, display_name TEXT, type TEXT NOT NULL, channel_type TEXT, platform_id TEXT,
  agent_group_id TEXT);
CREATE TABLE IF NOT EXISTS session_routing (
  id INTEGER PRIMARY KEY CHECK (id = 1), channel_type TEXT, platform_id TEXT, thread_id TEXT);
";

/// After the additions: they name columns an older file gets only then. The partial indexes make
/// a look at what is unfinished, or at a peer's last message, cost the same with 100 rows of history as with 100,000.
const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS idx_messages_in_series ON messages_in(series_id);
CREATE INDEX IF NOT EXISTS idx_messages_in_pending ON messages_in(seq) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS idx_messages_in_paused ON messages_in(seq) WHERE status = 'paused';
CREATE INDEX IF NOT EXISTS idx_messages_in_peers ON messages_in(platform_id, seq)
  WHERE channel_type = 'agent' AND source_session_id IS NOT NULL;
";

const ADDITIONS: &[(&str, &str)] = &[
    ("series_id", "TEXT"),
    ("tries", "INTEGER DEFAULT 0"),
    ("trigger", "INTEGER NOT NULL DEFAULT 1"),
    ("source_session_id", "TEXT"),
    ("on_wake", "INTEGER NOT NULL DEFAULT 0"),
    ("hops", "INTEGER NOT NULL DEFAULT 0"),
];
const DELIVERED_ADDITIONS: &[(&str, &str)] = &[
    ("platform_message_id", "TEXT"),
    ("status", "TEXT NOT NULL DEFAULT 'delivered'"),
    ("channel_type", "TEXT"),
    ("platform_id", "TEXT"),
];

/// What became of a message the host was asked to store (rule 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// Written under this id, which has a suffix when its own was taken by other content.
    Stored { id: String, seq: i64 },
    /// The same id with the same content is there already.
    Absorbed { id: String },
}

/// The final outcome of one outbound row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub message_out_id: String,
    pub platform_message_id: Option<String>,
    pub status: DeliveryStatus,
    /// The chat it went to, without a thread: what the container's row says can be changed. Empty when it went
    /// nowhere, and in a file of an older host.
    pub chat: Address,
}

/// An outbound row that is still being tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub message_out_id: String,
    pub attempts: u32,
    /// The first of them; `None` when there was none yet.
    pub first_attempt_at: Option<Timestamp>,
    pub next_attempt_at: Timestamp,
    pub last_error: Option<String>,
}

/// The host's connection to `inbound.db`, held for one operation.
#[derive(Debug)]
pub struct InboundDb {
    db: Connection,
}

impl InboundDb {
    /// Opens, creates and completes the file. A hot journal left by a host that died inside a
    /// commit is rolled back here.
    pub fn open(dir: &SessionDir, durability: Durability) -> rusqlite::Result<InboundDb> {
        let db = open_writer(&dir.inbound_db(), busy::<HOST_BUSY_MS>, durability, |db| {
            db.execute_batch(SCHEMA)?;
            add_missing_columns(db, "messages_in", ADDITIONS)?;
            add_missing_columns(db, "delivered", DELIVERED_ADDITIONS)?;
            add_missing_columns(db, "delivery_attempts", &[("first_attempt_at", "TEXT")])?;
            db.execute_batch(INDEXES)
        })?;
        Ok(InboundDb { db })
    }

    /// Runs `f` in one write transaction; when it fails, nothing is written.
    pub fn write<T>(&mut self, f: impl FnOnce(&InboundTx<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let tx = InboundTx { tx: self.db.transaction_with_behavior(TransactionBehavior::Immediate)? };
        let value = f(&tx)?;
        tx.tx.commit()?;
        Ok(value)
    }

    /// Rows that are neither completed nor failed nor paused: those that wake first, by seq.
    pub fn unfinished(&self) -> rusqlite::Result<Vec<MessageIn>> {
        let sql = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages_in WHERE status = 'pending' AND {KNOWN_KIND}
             ORDER BY trigger DESC, seq LIMIT {MAX_UNFINISHED_ROWS}"
        );
        self.db.prepare(&sql)?.query_map([], message_in)?.collect()
    }

    /// The ids of those rows.
    pub fn unfinished_ids(&self) -> rusqlite::Result<Vec<String>> {
        let sql = format!(
            "SELECT id FROM messages_in WHERE status = 'pending' ORDER BY trigger DESC, seq LIMIT {MAX_UNFINISHED_ROWS}"
        );
        self.db.prepare(&sql)?.query_map([], |r| r.get(0))?.collect()
    }

    /// The ids of rows that are paused, but may have been taken before.
    pub fn paused_ids(&self) -> rusqlite::Result<Vec<String>> {
        let sql = format!("SELECT id FROM messages_in WHERE status = 'paused' LIMIT {MAX_UNFINISHED_ROWS}");
        self.db.prepare(&sql)?.query_map([], |r| r.get(0))?.collect()
    }

    /// The live occurrence of each task, the next one first.
    pub fn tasks(&self) -> rusqlite::Result<Vec<Task>> {
        tasks(&self.db, None)
    }

    /// The ids of all rows, by seq.
    ///
    /// # Errors
    /// SQLite's.
    pub fn ids(&self) -> rusqlite::Result<Vec<String>> {
        self.db.prepare("SELECT id FROM messages_in ORDER BY seq")?.query_map([], |r| r.get(0))?.collect()
    }

    /// The id of the row the agent knows by this number.
    pub fn id_of_seq(&self, seq: i64) -> rusqlite::Result<Option<String>> {
        self.db.query_row("SELECT id FROM messages_in WHERE seq = ?1", [seq], |r| r.get(0)).optional()
    }

    /// One row by id.
    pub fn message(&self, id: &str) -> rusqlite::Result<Option<MessageIn>> {
        let sql = format!("SELECT {MESSAGE_COLUMNS} FROM messages_in WHERE id = ?1");
        self.db.query_row(&sql, [id], message_in).optional()
    }

    /// The sessions a message to the agent `peer` may return to, the likeliest first: where the row it
    /// replies to came from, then where the newest row from that peer did.
    ///
    /// # Errors
    /// SQLite's.
    pub fn asking_sessions(&self, in_reply_to: Option<&str>, peer: &str) -> rusqlite::Result<Vec<String>> {
        let replied = "SELECT source_session_id FROM messages_in WHERE id = ?1 AND source_session_id IS NOT NULL";
        let newest = "SELECT source_session_id FROM messages_in
             WHERE channel_type = 'agent' AND platform_id = ?1 AND source_session_id IS NOT NULL
             ORDER BY seq DESC LIMIT 1";
        let find = |sql, key: &str| self.db.query_row(sql, [key], |r| r.get(0)).optional();
        let replied = in_reply_to.map_or(Ok(None), |id| find(replied, id))?;
        Ok(replied.into_iter().chain(find(newest, peer)?).collect())
    }

    /// How many agents in a row were at it before the one of this session: the hops of what it was
    /// last woken by, or of what it says it replies to, should those be more.
    ///
    /// # Errors
    /// SQLite's.
    pub fn hops_so_far(&self, in_reply_to: Option<&str>, now: Timestamp) -> rusqlite::Result<u32> {
        // A repeated task that is yet to come has a high seq already.
        let effective = comparable("COALESCE(process_after, timestamp)");
        let sql = format!(
            "SELECT MAX(COALESCE((SELECT hops FROM messages_in WHERE id = ?1), 0), COALESCE((
               SELECT hops FROM (SELECT * FROM messages_in ORDER BY seq DESC LIMIT {MAX_CAUSES})
               WHERE trigger = 1 AND kind <> 'system' AND {effective} <= {}
               ORDER BY {effective} DESC, seq DESC LIMIT 1), 0))",
            comparable("?2")
        );
        self.db.query_row(&sql, params![in_reply_to, format_utc(now)], |r| r.get(0))
    }

    /// Every outbound row with a seq up to this one is in `delivered` or in
    /// `delivery_attempts`; 0 when nothing was looked at yet.
    pub fn delivery_cursor(&self) -> rusqlite::Result<i64> {
        Ok(self.db.query_row("SELECT seq FROM delivery_cursor", [], |r| r.get(0)).optional()?.unwrap_or(0))
    }

    /// What is still being tried.
    pub fn attempts(&self) -> rusqlite::Result<Vec<Attempt>> {
        self.db
            .prepare(
                "SELECT message_out_id, attempts, next_attempt_at, last_error, first_attempt_at FROM delivery_attempts",
            )?
            .query_map([], |r| {
                Ok(Attempt {
                    message_out_id: r.get(0)?,
                    attempts: r.get(1)?,
                    // A time that cannot be read is due: trying once too often loses nothing.
                    next_attempt_at: time_of(r, 2)?.unwrap_or(Timestamp::UNIX_EPOCH),
                    last_error: r.get(3)?,
                    first_attempt_at: time_of(r, 4)?,
                })
            })?
            .collect()
    }

    /// The final outcome of an outbound row, if it has one.
    pub fn delivered(&self, message_out_id: &str) -> rusqlite::Result<Option<Delivered>> {
        self.db
            .prepare_cached(
                "SELECT message_out_id, platform_message_id, status, channel_type, platform_id FROM delivered
                 WHERE message_out_id = ?1",
            )?
            .query_row([message_out_id], |r| {
                Ok(Delivered {
                    message_out_id: r.get(0)?,
                    platform_message_id: r.get(1)?,
                    status: r.get(2)?,
                    chat: Address { channel_type: r.get(3)?, platform_id: r.get(4)?, thread_id: None },
                })
            })
            .optional()
    }
}

/// One write transaction on `inbound.db`.
#[derive(Debug)]
pub struct InboundTx<'a> {
    tx: Transaction<'a>,
}

impl InboundTx<'_> {
    /// Stores a message unless it is there already; its seq is even, above everything in this
    /// file and above what the host last saw of the container's.
    pub fn insert(&self, message: &NewMessageIn) -> rusqlite::Result<Intake> {
        let mut id = message.id.clone();
        for version in 2..=MAX_VERSIONS_OF_AN_ID {
            let stored: Option<String> = self
                .tx
                .prepare_cached("SELECT content FROM messages_in WHERE id = ?1")?
                .query_row([&id], |r| r.get(0))
                .optional()?;
            match stored {
                None => break,
                Some(content) if content == message.content => return Ok(Intake::Absorbed { id }),
                Some(_) => id = format!("{}#{version}", message.id),
            }
        }
        let floor: i64 = self.tx.query_row(
            "SELECT MAX(COALESCE((SELECT MAX(seq) FROM messages_in), 0),
                        COALESCE((SELECT seq FROM delivery_cursor), 0))",
            [],
            |r| r.get(0),
        )?;
        let seq = floor + 2 - (floor & 1);
        run(
            &self.tx,
            "INSERT INTO messages_in (id, seq, kind, timestamp, process_after, recurrence, series_id,
               trigger, platform_id, channel_type, thread_id, content, source_session_id, on_wake, hops)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            params![
                id,
                seq,
                message.kind,
                format_utc(message.timestamp),
                message.process_after.map(format_utc),
                message.recurrence,
                message.series_id.as_deref().unwrap_or(&id),
                message.trigger == Trigger::Wake,
                message.address.platform_id,
                message.address.channel_type,
                message.address.thread_id,
                message.content,
                message.source_session_id,
                message.audience == Audience::FreshContainer,
                message.hops,
            ],
        )?;
        Ok(Intake::Stored { id, seq })
    }

    /// The live occurrence of each task, the next one first.
    pub fn tasks(&self) -> rusqlite::Result<Vec<Task>> {
        tasks(&self.tx, None)
    }

    /// The task whose live occurrence is this row.
    pub fn task_of_row(&self, row_id: &str) -> rusqlite::Result<Option<Task>> {
        Ok(tasks(&self.tx, Some(row_id))?.pop())
    }

    /// Whether a row has this id, or is of this series.
    pub fn is_taken(&self, id: &str) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM messages_in WHERE id = ?1)
                     OR EXISTS (SELECT 1 FROM messages_in WHERE series_id = ?1)";
        self.tx.query_row(sql, [id], |r| r.get(0))
    }

    /// The session's own chat and thread.
    pub fn routing(&self) -> rusqlite::Result<Address> {
        let sql = "SELECT channel_type, platform_id, thread_id FROM session_routing WHERE id = 1";
        let address =
            |r: &Row<'_>| Ok(Address { channel_type: r.get(0)?, platform_id: r.get(1)?, thread_id: r.get(2)? });
        Ok(self.tx.query_row(sql, [], address).optional()?.unwrap_or_default())
    }

    /// Changes a task's live row.
    pub fn set_task(&self, task: &Task) -> rusqlite::Result<()> {
        let Task { row_id, status, due, planned, recurrence, content, .. } = task;
        run(
            &self.tx,
            "UPDATE messages_in SET status = ?2, process_after = ?3, timestamp = COALESCE(?4, timestamp),
               recurrence = ?5, content = ?6 WHERE id = ?1 AND status IN ('pending', 'paused')",
            params![row_id, status, due.map(format_utc), planned.map(format_utc), recurrence, content.to_json()],
        )
    }

    /// Ends a row that is still live: the container acknowledged it, or the host gave up.
    pub fn finish(&self, id: &str, status: InStatus) -> rusqlite::Result<()> {
        let sql = "UPDATE messages_in SET status = ?2 WHERE id = ?1 AND status IN ('pending', 'paused')";
        run(&self.tx, sql, params![id, status])
    }

    /// Puts a row off after its container died with it: one more try, not before `after`.
    pub fn retry(&self, id: &str, tries: u32, after: Timestamp) -> rusqlite::Result<()> {
        let sql = "UPDATE messages_in SET tries = ?2, process_after = ?3 WHERE id = ?1 AND status = 'pending'";
        run(&self.tx, sql, params![id, tries, format_utc(after)])
    }

    /// Forgets at most `limit` rows from before `before` that are done with, or context that nobody
    /// asked for; returns their ids. The highest row stays: seq goes on from it (rule 4).
    ///
    /// # Errors
    /// SQLite's.
    pub fn prune(&self, before: Timestamp, limit: u32) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.tx.prepare(
            "DELETE FROM messages_in WHERE id IN (
               SELECT id FROM messages_in
               WHERE (status IN ('completed', 'failed') OR (status = 'pending' AND trigger = 0))
                 AND datetime(timestamp) < datetime(?1) AND seq < (SELECT MAX(seq) FROM messages_in)
               ORDER BY seq LIMIT ?2) RETURNING id",
        )?;
        statement.query_map(params![format_utc(before), limit], |r| r.get(0))?.collect()
    }

    /// Records a final outcome and forgets the attempts.
    pub fn mark_delivered(&self, outcome: &Delivered, now: Timestamp) -> rusqlite::Result<()> {
        let Delivered { message_out_id, platform_message_id, status, chat } = outcome;
        run(
            &self.tx,
            "INSERT INTO delivered (message_out_id, platform_message_id, status, delivered_at, channel_type, platform_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (message_out_id) DO NOTHING",
            params![
                message_out_id,
                platform_message_id,
                status,
                format_utc(now),
                chat.channel_type,
                chat.platform_id
            ],
        )?;
        run(&self.tx, "DELETE FROM delivery_attempts WHERE message_out_id = ?1", [message_out_id])
    }

    /// Records that a row is still being tried.
    pub fn set_attempt(&self, attempt: &Attempt) -> rusqlite::Result<()> {
        let Attempt { message_out_id, attempts, first_attempt_at, next_attempt_at, last_error } = attempt;
        let (first, next) = (first_attempt_at.map(format_utc), format_utc(*next_attempt_at));
        run(
            &self.tx,
            "INSERT OR REPLACE INTO delivery_attempts
               (message_out_id, attempts, next_attempt_at, last_error, first_attempt_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![message_out_id, attempts, next, last_error, first],
        )
    }

    /// Moves the delivery cursor; see [`InboundDb::delivery_cursor`].
    pub fn set_delivery_cursor(&self, seq: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO delivery_cursor (id, seq) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET seq = ?1";
        run(&self.tx, sql, [seq])
    }

    /// Replaces the destinations of this session.
    pub fn replace_destinations(&self, destinations: &[Destination]) -> rusqlite::Result<()> {
        self.tx.execute("DELETE FROM destinations", [])?;
        destinations.iter().try_for_each(|d| {
            let Address { channel_type, platform_id, .. } = &d.address;
            run(
                &self.tx,
                "INSERT INTO destinations (name, display_name, type, channel_type, platform_id, agent_group_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![d.name, d.display_name, d.kind, channel_type, platform_id, d.agent_group_id],
            )
        })
    }

    /// Says which chat and thread the session answers in by default.
    pub fn set_routing(&self, address: &Address) -> rusqlite::Result<()> {
        run(
            &self.tx,
            "INSERT INTO session_routing (id, channel_type, platform_id, thread_id) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET channel_type=?1, platform_id=?2, thread_id=?3",
            params![address.channel_type, address.platform_id, address.thread_id],
        )
    }
}

/// Rolls back the journal a host left when it died inside a commit. Done for every session at
/// start, before containers are adopted: they may not do it (rule 2).
pub fn roll_back_journal(dir: &SessionDir) -> rusqlite::Result<()> {
    if journal_of(&dir.inbound_db()).exists() {
        // Opening reads, and the first read is what rolls back.
        InboundDb::open(dir, Durability::Normal)?;
    }
    Ok(())
}

/// The live rows of kind `task`, all of them or one.
fn tasks(db: &Connection, row_id: Option<&str>) -> rusqlite::Result<Vec<Task>> {
    // A reader may meet the file of an older host.
    let series = if db.column_exists(None, "messages_in", "series_id")? { "series_id" } else { "NULL" };
    let columns = format!(
        "COALESCE({series}, id), id, status, process_after, timestamp, NULLIF(recurrence, ''),
         channel_type, platform_id, thread_id, content, seq, {} AS due",
        comparable("process_after")
    );
    let of = |which| format!("SELECT {columns} FROM messages_in WHERE kind = 'task' AND {which}");
    let sql = match row_id {
        Some(_) => of("id = ?1 AND status IN ('pending', 'paused')"),
        // Two looks, each by an index of its own.
        None => format!(
            "{} UNION ALL {} ORDER BY due, seq LIMIT {MAX_UNFINISHED_ROWS}",
            of("status = 'pending'"),
            of("status = 'paused'")
        ),
    };
    db.prepare_cached(&sql)?
        .query_map(params_from_iter(row_id), |r| {
            Ok(Task {
                id: r.get(0)?,
                row_id: r.get(1)?,
                status: r.get(2)?,
                due: time_of(r, 3)?,
                planned: time_of(r, 4)?,
                recurrence: r.get(5)?,
                address: Address { channel_type: r.get(6)?, platform_id: r.get(7)?, thread_id: r.get(8)? },
                content: Content::parse(&r.get::<_, String>(9)?),
            })
        })?
        .collect()
}

/// A row of a kind that a newer host invented is left alone: it must not hide the others.
const KNOWN_KIND: &str = "kind IN ('chat', 'chat-sdk', 'task', 'webhook', 'system')";

const MESSAGE_COLUMNS: &str = "id, seq, kind, timestamp, status, process_after, tries, trigger, on_wake,
    channel_type, platform_id, thread_id, content, source_session_id";

fn message_in(r: &Row<'_>) -> rusqlite::Result<MessageIn> {
    Ok(MessageIn {
        id: r.get(0)?,
        seq: r.get::<_, Option<i64>>(1)?.unwrap_or(0),
        kind: r.get(2)?,
        timestamp: time_of(r, 3)?,
        status: r.get(4)?,
        process_after: time_of(r, 5)?,
        tries: r.get::<_, Option<u32>>(6)?.unwrap_or(0),
        trigger: if r.get(7)? { Trigger::Wake } else { Trigger::Context },
        audience: if r.get(8)? { Audience::FreshContainer } else { Audience::AnyPoll },
        address: Address { channel_type: r.get(9)?, platform_id: r.get(10)?, thread_id: r.get(11)? },
        content: r.get(12)?,
        source_session_id: r.get(13)?,
    })
}

fn time_of(r: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(r.get::<_, Option<String>>(column)?.as_deref().and_then(parse_utc))
}

#[cfg(test)]
mod tests;
