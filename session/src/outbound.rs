//! `out/outbound.db`: written by the container alone. This is the runner's side; the host reads
//! the file through [`crate::untrusted`] only.
//!
//! The runner keeps one connection open: it is the only writer, and the host's readers take
//! short locks. Every fault is SQLite's.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::database::{Durability, RUNNER_BUSY_MS, add_missing_columns, busy, open_reader, open_writer, run};
use crate::layout::SessionDir;
use crate::row::{AckStatus, Address, ContainerState, MessageOut, NewMessageOut};
use crate::time::{format_utc, format_utc_sqlite};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS messages_out (
  id TEXT PRIMARY KEY, seq INTEGER UNIQUE, in_reply_to TEXT, timestamp TEXT NOT NULL,
  deliver_after TEXT, recurrence TEXT, kind TEXT NOT NULL,
  platform_id TEXT, channel_type TEXT, thread_id TEXT, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS processing_ack (
  message_id TEXT PRIMARY KEY, status TEXT NOT NULL, status_changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS session_state (
  key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS container_state (
  id INTEGER PRIMARY KEY CHECK (id = 1), current_tool TEXT, tool_declared_timeout_ms INTEGER,
  tool_started_at TEXT, updated_at TEXT NOT NULL);
";

/// The key of NanoClaw's first continuation, before there was one per provider.
const LEGACY_CONTINUATION: &str = "sdk_session_id";

/// The runner's connection to its own database.
#[derive(Debug)]
pub struct OutboundDb {
    db: Connection,
}

impl OutboundDb {
    /// Opens, creates and completes the file, and drops what a predecessor had claimed and
    /// declared: its own file, so nobody else may. A hot journal is rolled back here, too.
    pub fn open(dir: &SessionDir) -> rusqlite::Result<OutboundDb> {
        let db = open_writer(&dir.outbound_db(), busy::<RUNNER_BUSY_MS>, Durability::Normal, |db| {
            db.execute_batch(SCHEMA)?;
            let updated_at = ("updated_at", "TEXT NOT NULL DEFAULT '1970-01-01T00:00:00.000Z'");
            add_missing_columns(db, "session_state", &[updated_at])?;
            add_missing_columns(db, "container_state", &[("silent_until", "TEXT"), ("phase", "TEXT")])
        })?;
        let stale: bool = db.query_row(
            "SELECT EXISTS (SELECT 1 FROM processing_ack WHERE status='processing')
                 OR EXISTS (SELECT 1 FROM container_state WHERE silent_until IS NOT NULL OR current_tool IS NOT NULL)",
            [],
            |r| r.get(0),
        )?;
        if stale {
            db.execute_batch(
                "BEGIN; DELETE FROM processing_ack WHERE status='processing'; DELETE FROM container_state; COMMIT",
            )?;
        }
        Ok(OutboundDb { db })
    }

    /// The acknowledgement of one inbound row, if there is one.
    pub fn ack(&self, message_id: &str) -> rusqlite::Result<Option<AckStatus>> {
        self.db
            .prepare_cached("SELECT status FROM processing_ack WHERE message_id=?1")?
            .query_row([message_id], |r| r.get(0))
            .optional()
    }

    /// Runs `f` in one write transaction: what belongs together is committed together (rule 11).
    /// When it fails, nothing is written.
    pub fn write<T>(&mut self, f: impl FnOnce(&OutboundTx<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let tx = OutboundTx { tx: self.db.transaction_with_behavior(TransactionBehavior::Immediate)? };
        let value = f(&tx)?;
        tx.tx.commit()?;
        Ok(value)
    }

    /// A value of `session_state`.
    pub fn state(&self, key: &str) -> rusqlite::Result<Option<String>> {
        self.db
            .prepare_cached("SELECT value FROM session_state WHERE key=?1")?
            .query_row([key], |r| r.get(0))
            .optional()
    }

    /// The stored continuation of `provider`. A legacy one is adopted into this provider's slot
    /// if that is empty, and gone in either case.
    pub fn continuation(&mut self, provider: &str, now: Timestamp) -> rusqlite::Result<Option<String>> {
        let key = continuation_key(provider);
        let own = self.state(&key)?;
        let Some(legacy) = self.state(LEGACY_CONTINUATION)? else { return Ok(own) };
        self.write(|tx| {
            if own.is_none() {
                tx.set_state(&key, &legacy, now)?;
            }
            run(&tx.tx, "DELETE FROM session_state WHERE key=?1", [LEGACY_CONTINUATION])
        })?;
        Ok(Some(own.unwrap_or(legacy)))
    }
}

/// The row the agent knows by this number, through a connection of its own: for threads beside the one that writes.
pub fn message_by_seq(dir: &SessionDir, seq: i64) -> rusqlite::Result<Option<MessageOut>> {
    let sql = "SELECT id, seq, in_reply_to, kind, channel_type, platform_id, thread_id, content FROM messages_out
               WHERE seq = ?1";
    open_reader(&dir.outbound_db(), busy::<RUNNER_BUSY_MS>)?
        .query_row(sql, [seq], |r| {
            Ok(MessageOut {
                id: r.get(0)?,
                seq: r.get(1)?,
                in_reply_to: r.get(2)?,
                deliver_after: None,
                kind: r.get(3)?,
                address: Address { channel_type: r.get(4)?, platform_id: r.get(5)?, thread_id: r.get(6)? },
                content: r.get(7)?,
            })
        })
        .optional()
}

/// The `session_state` key of a provider's continuation.
pub fn continuation_key(provider: &str) -> String {
    format!("continuation:{}", provider.to_lowercase())
}

/// One write transaction on `outbound.db`.
#[derive(Debug)]
pub struct OutboundTx<'a> {
    tx: Transaction<'a>,
}

impl OutboundTx<'_> {
    /// Adds a message and returns its seq: odd, above everything in this file and above
    /// `seen_inbound`, the highest inbound seq the runner has seen.
    pub fn insert(&self, message: &NewMessageOut, seen_inbound: i64, now: Timestamp) -> rusqlite::Result<i64> {
        let own: i64 = self.tx.query_row("SELECT COALESCE(MAX(seq), 0) FROM messages_out", [], |r| r.get(0))?;
        let floor = own.max(seen_inbound);
        let seq = floor + 1 + (floor & 1);
        run(
            &self.tx,
            "INSERT INTO messages_out (id, seq, in_reply_to, timestamp, deliver_after, kind,
               platform_id, channel_type, thread_id, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                message.id,
                seq,
                message.in_reply_to,
                format_utc(now),
                message.deliver_after.map(format_utc_sqlite),
                message.kind,
                message.address.platform_id,
                message.address.channel_type,
                message.address.thread_id,
                message.content,
            ],
        )?;
        Ok(seq)
    }

    /// Acknowledges inbound rows.
    pub fn acknowledge<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i str>,
        status: AckStatus,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO processing_ack (message_id, status, status_changed) VALUES (?1, ?2, ?3)
                   ON CONFLICT (message_id) DO UPDATE SET status=?2, status_changed=?3";
        ids.into_iter().try_for_each(|id| run(&self.tx, sql, params![id, status, format_utc(now)]))
    }

    /// Sets a value of `session_state`.
    pub fn set_state(&self, key: &str, value: &str, now: Timestamp) -> rusqlite::Result<()> {
        let sql = "INSERT INTO session_state (key, value, updated_at) VALUES (?1, ?2, ?3)
                   ON CONFLICT (key) DO UPDATE SET value=?2, updated_at=?3";
        run(&self.tx, sql, params![key, value, format_utc(now)])
    }

    /// Removes a value of `session_state`.
    pub fn forget_state(&self, key: &str) -> rusqlite::Result<()> {
        run(&self.tx, "DELETE FROM session_state WHERE key=?1", [key])
    }

    /// Says what the runner is doing.
    pub fn set_container_state(&self, state: &ContainerState, now: Timestamp) -> rusqlite::Result<()> {
        run(
            &self.tx,
            "INSERT INTO container_state (id, current_tool, tool_declared_timeout_ms, tool_started_at,
               updated_at, silent_until, phase) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET current_tool=?1, tool_declared_timeout_ms=?2,
               tool_started_at=?3, updated_at=?4, silent_until=?5, phase=?6",
            params![
                state.current_tool,
                state.tool_declared_timeout_ms,
                state.tool_started_at.map(format_utc),
                format_utc(now),
                state.silent_until.map(format_utc),
                state.phase,
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Address, OutKind};
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn message(id: &str) -> NewMessageOut {
        NewMessageOut {
            id: id.into(),
            in_reply_to: None,
            deliver_after: None,
            kind: OutKind::Chat,
            address: Address::default(),
            content: r#"{"text":"x"}"#.into(),
        }
    }

    fn folder() -> (tempfile::TempDir, SessionDir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        dir.prepare().unwrap();
        (tmp, dir)
    }

    proptest! {
        #[test]
        fn seq_is_odd_and_grows_whatever_the_other_side_shows(seen in prop::collection::vec(0i64..1000, 1..20)) {
            let (_tmp, dir) = folder();
            let mut db = OutboundDb::open(&dir).unwrap();
            let mut last = 0;
            for (i, seen) in seen.iter().enumerate() {
                let seq = db.write(|tx| tx.insert(&message(&i.to_string()), *seen, now())).unwrap();
                prop_assert!(seq % 2 == 1 && seq > last && seq > *seen);
                last = seq;
            }
        }
    }

    #[test]
    fn claims_of_a_predecessor_are_dropped_at_open_and_results_stay() {
        let (_tmp, dir) = folder();
        let mut db = OutboundDb::open(&dir).unwrap();
        db.write(|tx| {
            tx.acknowledge(["a", "b"], AckStatus::Processing, now())?;
            tx.acknowledge(["b"], AckStatus::Completed, now())
        })
        .unwrap();
        drop(db);
        let db = OutboundDb::open(&dir).unwrap();
        assert_eq!(db.ack("a").unwrap(), None);
        assert_eq!(db.ack("b").unwrap(), Some(AckStatus::Completed));
    }

    #[test]
    fn a_row_is_found_by_its_number_while_the_writer_is_open() {
        let (_tmp, dir) = folder();
        let mut db = OutboundDb::open(&dir).unwrap();
        let seq = db.write(|tx| tx.insert(&message("a"), 4, now())).unwrap();
        let found = message_by_seq(&dir, seq).unwrap().unwrap();
        assert_eq!((found.id.as_str(), found.seq, found.content.as_str()), ("a", 5, r#"{"text":"x"}"#));
        assert_eq!(message_by_seq(&dir, 7).unwrap(), None);
    }

    #[test]
    fn a_failed_transaction_writes_nothing() {
        let (_tmp, dir) = folder();
        let mut db = OutboundDb::open(&dir).unwrap();
        let result = db.write(|tx| {
            tx.insert(&message("a"), 0, now())?;
            tx.insert(&message("a"), 0, now())
        });
        assert!(result.is_err());
        assert_eq!(db.write(|tx| tx.insert(&message("a"), 0, now())).unwrap(), 1);
    }

    #[test]
    fn a_legacy_continuation_is_adopted_once_and_an_own_one_wins() {
        let (_tmp, dir) = folder();
        let mut db = OutboundDb::open(&dir).unwrap();
        db.write(|tx| tx.set_state("sdk_session_id", "old", now())).unwrap();
        assert_eq!(db.continuation("Claude", now()).unwrap().as_deref(), Some("old"));
        assert_eq!(db.state("continuation:claude").unwrap().as_deref(), Some("old"));
        assert_eq!(db.state("sdk_session_id").unwrap(), None);

        db.write(|tx| tx.set_state("sdk_session_id", "older", now())).unwrap();
        assert_eq!(db.continuation("claude", now()).unwrap().as_deref(), Some("old"));
        assert_eq!(db.state("sdk_session_id").unwrap(), None);
        assert_eq!(db.continuation("demo", now()).unwrap(), None);
    }

    #[test]
    fn an_older_file_gets_what_it_lacks_and_keeps_its_rows() {
        let (_tmp, dir) = folder();
        let old = Connection::open(dir.outbound_db()).unwrap();
        old.execute_batch(
            "CREATE TABLE messages_out (id TEXT PRIMARY KEY, seq INTEGER UNIQUE, in_reply_to TEXT,
               timestamp TEXT NOT NULL, deliver_after TEXT, recurrence TEXT, kind TEXT NOT NULL,
               platform_id TEXT, channel_type TEXT, thread_id TEXT, content TEXT NOT NULL);
             INSERT INTO messages_out VALUES ('m',3,NULL,'t',NULL,NULL,'chat',NULL,NULL,NULL,'x');
             CREATE TABLE session_state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
             INSERT INTO session_state VALUES ('sdk_session_id','s');",
        )
        .unwrap();
        drop(old);
        let mut db = OutboundDb::open(&dir).unwrap();
        assert_eq!(db.write(|tx| tx.insert(&message("n"), 0, now())).unwrap(), 5);
        assert_eq!(db.continuation("claude", now()).unwrap().as_deref(), Some("s"));
        let state = ContainerState { phase: Some("turn".into()), ..ContainerState::default() };
        db.write(|tx| tx.set_container_state(&state, now())).unwrap();
    }

    #[test]
    fn the_file_keeps_a_rollback_journal() {
        let (_tmp, dir) = folder();
        let mut db = OutboundDb::open(&dir).unwrap();
        db.write(|tx| tx.insert(&message("a"), 0, now())).unwrap();
        let header = std::fs::read(dir.outbound_db()).unwrap();
        assert_eq!(&header[18..20], [1, 1], "read and write format 1 is a rollback journal, 2 is WAL");
        assert!(!dir.out().join("outbound.db-wal").exists());
    }
}
