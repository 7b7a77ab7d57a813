//! The container's look at `inbound.db`: opened fresh, read-only, without mmap, for every read
//! of any of its tables, and closed again (rule 2).
//!
//! A file of an older host may lack columns; what they would say is their default. Every fault is
//! SQLite's; [`super::is_transient`] ones mean: again in a few milliseconds.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{KNOWN_KIND, MESSAGE_COLUMNS, message_in, tasks};
use crate::database::{RUNNER_BUSY_MS, busy, open_reader};
use crate::layout::SessionDir;
use crate::row::{Address, Audience, DeliveryStatus, Destination, InKind, MessageIn, Trigger};
use crate::schedule::Task;
use crate::time::{comparable, format_utc};

/// Most pending rows one look considers.
const MAX_PENDING_ROWS: u32 = 10_000;

/// What a poll must know of a pending row in order to choose; its content is read once chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRow {
    pub id: String,
    pub seq: i64,
    pub kind: InKind,
    pub trigger: Trigger,
    pub audience: Audience,
}

/// One consistent look: all reads through it see the same moment.
#[derive(Debug)]
pub struct InboundView {
    db: Connection,
    /// The select list of a message, with defaults for columns the file lacks.
    message_columns: String,
}

/// Opens the file, lets `f` look, closes it.
pub fn look<T>(dir: &SessionDir, f: impl FnOnce(&InboundView) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let db = open_reader(&dir.inbound_db(), busy::<RUNNER_BUSY_MS>)?;
    db.execute_batch("BEGIN")?;
    let mut columns = Vec::new();
    for column in MESSAGE_COLUMNS.split(',').map(str::trim) {
        columns.push(match column {
            c if db.column_exists(None, "messages_in", c)? => c,
            "trigger" => "1",
            "tries" | "on_wake" => "0",
            _ => "NULL",
        });
    }
    f(&InboundView { message_columns: columns.join(", "), db })
}

impl InboundView {
    /// Pending rows that are due, by seq. A time that cannot be read counts as due.
    pub fn pending(&self, now: Timestamp) -> rusqlite::Result<Vec<PendingRow>> {
        let sql = format!(
            "SELECT {} FROM messages_in WHERE status = 'pending' AND {KNOWN_KIND} AND COALESCE({}, '') <= ?1
             ORDER BY seq LIMIT {MAX_PENDING_ROWS}",
            // Content may be large and most rows are not chosen.
            self.message_columns.replace("content", "''"),
            comparable("process_after"),
        );
        let row = |r: &Row<'_>| {
            let MessageIn { id, seq, kind, trigger, audience, .. } = message_in(r)?;
            Ok(PendingRow { id, seq, kind, trigger, audience })
        };
        self.db.prepare(&sql)?.query_map([format_utc(now)], row)?.collect()
    }

    /// When the next row that is pending, but not yet due, will be.
    pub fn next_due(&self, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
        let due = comparable("process_after");
        let sql = format!("SELECT MIN({due}) FROM messages_in WHERE status = 'pending' AND {due} > ?1");
        let text: Option<String> = self.db.query_row(&sql, [format_utc(now)], |r| r.get(0))?;
        Ok(text.as_deref().and_then(crate::time::parse_utc))
    }

    /// One whole row.
    pub fn message(&self, id: &str) -> rusqlite::Result<Option<MessageIn>> {
        let sql = format!("SELECT {} FROM messages_in WHERE id = ?1", self.message_columns);
        self.db.prepare_cached(&sql)?.query_row([id], message_in).optional()
    }

    /// The row the agent knows by this number.
    pub fn message_by_seq(&self, seq: i64) -> rusqlite::Result<Option<MessageIn>> {
        let sql = format!("SELECT {} FROM messages_in WHERE seq = ?1 AND {KNOWN_KIND}", self.message_columns);
        self.db.query_row(&sql, [seq], message_in).optional()
    }

    /// The live occurrence of each task, the next one first.
    pub fn tasks(&self) -> rusqlite::Result<Vec<Task>> {
        tasks(&self.db, None)
    }

    /// What became of an outbound row, once that is final.
    pub fn outcome(&self, message_out_id: &str) -> rusqlite::Result<Option<DeliveryStatus>> {
        let sql = "SELECT status FROM delivered WHERE message_out_id = ?1";
        self.db.query_row(sql, [message_out_id], |r| r.get(0)).optional()
    }

    /// The outbound rows whose delivery, good or bad, was over before `before`.
    pub fn delivered_before(&self, before: Timestamp) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT message_out_id FROM delivered WHERE datetime(delivered_at) < datetime(?1)";
        self.db.prepare(sql)?.query_map([format_utc(before)], |r| r.get(0))?.collect()
    }

    /// The highest seq in the file; 0 when it is empty.
    pub fn max_seq(&self) -> rusqlite::Result<i64> {
        self.db.query_row("SELECT COALESCE(MAX(seq), 0) FROM messages_in", [], |r| r.get(0))
    }

    /// The thread of the latest row that came from this chat: where a reply belongs.
    pub fn latest_thread(&self, channel_type: &str, platform_id: &str) -> rusqlite::Result<Option<String>> {
        let sql = "SELECT thread_id FROM messages_in WHERE channel_type = ?1 AND platform_id = ?2
                   ORDER BY seq DESC LIMIT 1";
        Ok(self.db.query_row(sql, [channel_type, platform_id], |r| r.get(0)).optional()?.flatten())
    }

    /// What the agent may call its peers, by name.
    pub fn destinations(&self) -> rusqlite::Result<Vec<Destination>> {
        if !self.db.table_exists(None, "destinations")? {
            return Ok(Vec::new());
        }
        self.db
            .prepare(
                "SELECT name, display_name, type, channel_type, platform_id, agent_group_id
                 FROM destinations ORDER BY name",
            )?
            .query_map([], |r| {
                Ok(Destination {
                    name: r.get(0)?,
                    display_name: r.get(1)?,
                    kind: r.get(2)?,
                    address: Address { channel_type: r.get(3)?, platform_id: r.get(4)?, thread_id: None },
                    agent_group_id: r.get(5)?,
                })
            })?
            .collect()
    }

    /// The session's own chat and thread.
    pub fn routing(&self) -> rusqlite::Result<Address> {
        if !self.db.table_exists(None, "session_routing")? {
            return Ok(Address::default());
        }
        let sql = "SELECT channel_type, platform_id, thread_id FROM session_routing WHERE id = 1";
        let address =
            |r: &Row<'_>| Ok(Address { channel_type: r.get(0)?, platform_id: r.get(1)?, thread_id: r.get(2)? });
        Ok(self.db.query_row(sql, [], address).optional()?.unwrap_or_default())
    }
}
