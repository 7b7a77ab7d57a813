//! What is read in one look: rows, checked one by one. A row that is not what a runner writes is
//! told apart, never skipped in silence and never an error, so that no row holds up the next.
//!
//! SQL never loads a value before it knows its size, and rows are read one at a time by seq:
//! memory is bounded even when the container left out the indexes and SQLite has to sort.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::UntrustedError;
use crate::row::{AckStatus, Address, ContainerState, MessageOut, OutKind};
use crate::time::parse_utc;

/// Longest id of a message. bytes.
pub const MAX_ID_BYTES: usize = 200;
/// Longest address part, name or reference to another message. bytes.
pub const MAX_FIELD_BYTES: usize = 1024;
/// Longest content. bytes.
pub const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Most rows one call returns.
pub const MAX_ROWS: usize = 500;

/// Longest kind or status; a longer one is none we know. bytes.
const MAX_KIND_BYTES: usize = 32;

/// One call of [`Snapshot::messages_after`] returns contents of about this size in all, at least
/// one.
const MAX_ROWS_BYTES: usize = 4 << 20;

/// What counts as a seq of a container (rule 4): at most 2^53, to which JavaScript counts exactly.
/// It has no lower bound: SQLite would start at that one and not at the cursor.
const COUNTS: &str = "seq <= 9007199254740992 AND typeof(seq) = 'integer' AND seq % 2 = 1";

const MESSAGES_OUT: &str = "messages_out";
const PROCESSING_ACK: &str = "processing_ack";
const CONTAINER_STATE: &str = "container_state";

/// Names what stands in for the tables. A generated column would run the container's expressions.
const TABLES: &str = "
SELECT t.name, t.type, CASE t.type WHEN 'table' THEN
         EXISTS (SELECT 1 FROM pragma_table_xinfo(t.name) WHERE hidden <> 0 LIMIT 1) ELSE 0 END
FROM pragma_table_list AS t
WHERE t.schema = 'main' AND t.name IN ('messages_out', 'processing_ack', 'container_state') LIMIT 3";

/// A row of `messages_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutRow {
    /// What a runner writes.
    Message(MessageOut),
    /// Anything else. It counts as seen; `id` is there if that at least is in order.
    Malformed { seq: i64, id: Option<String>, reason: String },
}

impl OutRow {
    pub fn seq(&self) -> i64 {
        match self {
            OutRow::Message(message) => message.seq,
            OutRow::Malformed { seq, .. } => *seq,
        }
    }
}

/// Rows by seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRows {
    pub rows: Vec<OutRow>,
    /// There may be more after the last of these rows.
    pub more: bool,
}

/// The container's database within one read transaction.
#[derive(Debug)]
pub struct Snapshot<'c> {
    db: &'c Connection,
    /// Those that exist; a file that was just made has none.
    tables: Vec<String>,
}

impl<'c> Snapshot<'c> {
    pub(super) fn begin(db: &'c Connection) -> Result<Self, UntrustedError> {
        let mut statement = db.prepare(TABLES)?;
        let mut rows = statement.query([])?;
        let mut tables = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, kind, is_computed): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if kind != "table" {
                return Err(UntrustedError::hostile(format_args!("{name} is a {kind}")));
            }
            if is_computed {
                return Err(UntrustedError::hostile(format_args!("{name} has a generated column")));
            }
            tables.push(name);
        }
        Ok(Snapshot { db, tables })
    }

    /// The rows above `seq`, by seq, `limit` and [`MAX_ROWS`] at most.
    ///
    /// # Errors
    /// Those of a look; a malformed row is none.
    pub fn messages_after(&self, seq: i64, limit: usize) -> Result<OutRows, UntrustedError> {
        let mut found = OutRows { rows: Vec::new(), more: false };
        if !self.has(MESSAGES_OUT) {
            return Ok(found);
        }
        let limit = limit.min(MAX_ROWS);
        let mut statement = self.db.prepare(&seqs_after_sql())?;
        // One more than wanted says whether there are more.
        let seqs = statement.query_map((seq.max(0), limit as i64 + 1), |r| r.get::<_, i64>(0))?;
        let mut seqs = seqs.collect::<rusqlite::Result<Vec<_>>>()?;
        found.more = seqs.len() > limit;
        seqs.truncate(limit);
        seqs.dedup();
        let mut bytes = 0;
        for seq in seqs {
            if bytes >= MAX_ROWS_BYTES {
                found.more = true;
                break;
            }
            // Two indexes that disagree. A cursor must get past it all the same.
            let gone = || OutRow::Malformed { seq, id: None, reason: "the row is gone".into() };
            let row = self.message_by_seq(seq)?.unwrap_or_else(gone);
            if let OutRow::Message(message) = &row {
                bytes += message.content.len();
            }
            found.rows.push(row);
        }
        Ok(found)
    }

    /// The highest seq that counts.
    ///
    /// # Errors
    /// Those of a look.
    pub fn max_seq(&self) -> Result<Option<i64>, UntrustedError> {
        if !self.has(MESSAGES_OUT) {
            return Ok(None);
        }
        Ok(self.db.query_row(&max_seq_sql(), [], |r| r.get(0)).optional()?)
    }

    /// One row by id.
    ///
    /// # Errors
    /// Those of a look.
    pub fn message(&self, id: &str) -> Result<Option<OutRow>, UntrustedError> {
        self.one_message("id = ?1", [id])
    }

    /// One row by seq.
    ///
    /// # Errors
    /// Those of a look.
    pub fn message_by_seq(&self, seq: i64) -> Result<Option<OutRow>, UntrustedError> {
        self.one_message("seq = ?1", [seq])
    }

    fn one_message(&self, condition: &str, value: impl Params) -> Result<Option<OutRow>, UntrustedError> {
        if !self.has(MESSAGES_OUT) {
            return Ok(None);
        }
        Ok(self.db.prepare_cached(&message_sql(condition))?.query_row(value, out_row).optional()?)
    }

    /// What the container acknowledged of these inbound rows; those it did not are left out.
    ///
    /// # Errors
    /// Those of a look.
    pub fn acks(&self, ids: &[String]) -> Result<Vec<(String, AckStatus)>, UntrustedError> {
        let mut found = Vec::new();
        if !self.has(PROCESSING_ACK) {
            return Ok(found);
        }
        let sql =
            format!("SELECT {} FROM processing_ack WHERE message_id = ?1 LIMIT 1", sized("status", MAX_KIND_BYTES));
        let mut statement = self.db.prepare(&sql)?;
        for id in ids {
            let status = statement.query_row([id], |r| Ok(text(r, 0).ok().flatten())).optional()?.flatten();
            if let Some(status) = status.as_deref().and_then(AckStatus::parse) {
                found.push((id.clone(), status));
            }
        }
        Ok(found)
    }

    /// What the runner says it is doing. A field that cannot be read is empty.
    ///
    /// # Errors
    /// Those of a look.
    pub fn container_state(&self) -> Result<Option<ContainerState>, UntrustedError> {
        if !self.has(CONTAINER_STATE) {
            return Ok(None);
        }
        let field = |name: &str| match self.db.column_exists(None, CONTAINER_STATE, name)? {
            true => Ok(sized(name, MAX_FIELD_BYTES)),
            false => Ok::<_, rusqlite::Error>("NULL, NULL".into()),
        };
        let sql = format!(
            "SELECT {}, {}, {}, {}, {} FROM container_state WHERE id = 1 LIMIT 1",
            field("current_tool")?,
            field("tool_started_at")?,
            field("silent_until")?,
            field("phase")?,
            field("tool_declared_timeout_ms")?,
        );
        let state = self.db.query_row(&sql, [], |r| {
            let field = |i| text(r, i).ok().flatten();
            let time = |i| field(i).as_deref().and_then(parse_utc);
            Ok(ContainerState {
                current_tool: field(0),
                tool_started_at: time(1),
                silent_until: time(2),
                phase: field(3),
                tool_declared_timeout_ms: match r.get_ref(9)? {
                    ValueRef::Integer(ms) => Some(ms),
                    _ => None,
                },
            })
        });
        Ok(state.optional()?)
    }

    fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|t| t == table)
    }
}

/// The fields of a message and their longest value, in the order of [`out_row`].
const MESSAGE_FIELDS: [(&str, usize); 8] = [
    ("id", MAX_ID_BYTES),
    ("kind", MAX_KIND_BYTES),
    ("content", MAX_CONTENT_BYTES),
    ("in_reply_to", MAX_FIELD_BYTES),
    ("deliver_after", MAX_FIELD_BYTES),
    ("channel_type", MAX_FIELD_BYTES),
    ("platform_id", MAX_FIELD_BYTES),
    ("thread_id", MAX_FIELD_BYTES),
];

// Apart from their use, for the test of what they cost.
pub(super) fn seqs_after_sql() -> String {
    format!("SELECT seq FROM messages_out WHERE seq > ?1 AND {COUNTS} ORDER BY seq LIMIT ?2")
}
pub(super) fn max_seq_sql() -> String {
    format!("SELECT seq FROM messages_out WHERE seq > 0 AND {COUNTS} ORDER BY seq DESC LIMIT 1")
}
pub(super) fn message_sql(condition: &str) -> String {
    let fields: Vec<String> = MESSAGE_FIELDS.iter().map(|(name, max_bytes)| sized(name, *max_bytes)).collect();
    format!("SELECT {}, seq FROM messages_out WHERE {condition} AND seq > 0 AND {COUNTS} LIMIT 1", fields.join(", "))
}

/// SQL for a value's size and for the value itself if it is no longer than `max_bytes`. Asking
/// for the size does not load the value.
fn sized(column: &str, max_bytes: usize) -> String {
    format!("octet_length({column}), CASE WHEN octet_length({column}) <= {max_bytes} THEN {column} END")
}

/// Reads the `field`th pair that [`sized`] made; NULL is `None`.
fn text(row: &Row<'_>, field: usize) -> Result<Option<String>, String> {
    let value = |i| row.get_ref(i).map_err(|e| e.to_string());
    match (value(2 * field)?, value(2 * field + 1)?) {
        // Text that is no UTF-8 is content all the same.
        (_, ValueRef::Text(bytes)) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
        (ValueRef::Null, _) => Ok(None),
        (ValueRef::Integer(bytes), ValueRef::Null) => Err(format!("a field has {bytes} bytes")),
        (_, other) => Err(format!("a field is of type {}", other.data_type())),
    }
}

fn out_row(row: &Row<'_>) -> rusqlite::Result<OutRow> {
    let seq = row.get(2 * MESSAGE_FIELDS.len())?;
    let id = match text(row, 0) {
        Ok(Some(id)) if id.is_empty() || id.chars().any(char::is_control) => Err("id is empty or not printable".into()),
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err("id is missing".into()),
        Err(fault) => Err(fault),
    };
    Ok(match id {
        Err(reason) => OutRow::Malformed { seq, id: None, reason },
        Ok(id) => match message(row, seq, id.clone()) {
            Ok(message) => OutRow::Message(message),
            Err(reason) => OutRow::Malformed { seq, id: Some(id), reason },
        },
    })
}

fn message(row: &Row<'_>, seq: i64, id: String) -> Result<MessageOut, String> {
    let required = |field: usize| text(row, field)?.ok_or_else(|| format!("{} is missing", MESSAGE_FIELDS[field].0));
    let kind = required(1)?;
    Ok(MessageOut {
        id,
        seq,
        kind: OutKind::parse(&kind).ok_or_else(|| format!("kind is {kind:?}"))?,
        content: required(2)?,
        in_reply_to: text(row, 3)?,
        // A time that cannot be read is now: a message too early loses nothing.
        deliver_after: text(row, 4)?.as_deref().and_then(parse_utc),
        address: Address { channel_type: text(row, 5)?, platform_id: text(row, 6)?, thread_id: text(row, 7)? },
    })
}
