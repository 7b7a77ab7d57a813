//! The database of another program's install, NanoClaw's `v2.db`, read row by row.
//!
//! What is there counts, not the version it names: a column that is missing has a default, a row
//! that cannot be read is an error of its own and does not hide the others. The file is a private
//! copy: SQLite may have to roll back or to replay what its owner left beside it.
//!
//! Failure: an error names the table, the row and the column. Nothing but the copy is written.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{EngageMode, IgnoredMessagePolicy, Result, Row, SenderScope, SessionMode, Store, StoreError, Wiring};

/// A copy of a foreign `v2.db`.
#[derive(Debug)]
pub struct LegacyDb {
    connection: Connection,
}

/// What a column holds where the database has no such column, or NULL: an SQL literal.
pub type LegacyDefault = (&'static str, &'static str);

impl LegacyDb {
    /// Opens the private copy at `path`; what lies beside it (`-wal`, `-journal`) is applied.
    /// An error: it is no database, it is damaged, or it has no agent groups and so is no NanoClaw v2's.
    pub fn open(path: &Path) -> Result<LegacyDb> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0;")?;
        let invalid = |problem: String| StoreError::Invalid { noun: "database", id: "v2.db".to_owned(), problem };
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(invalid(format!("it is damaged: {check}")));
        }
        connection.execute_batch("PRAGMA query_only=ON")?;
        if !connection.table_exists(None, "agent_groups")? {
            return Err(invalid("it has no table agent_groups: no database of NanoClaw v2".to_owned()));
        }
        Ok(LegacyDb { connection })
    }

    /// Every table with the number of its rows.
    pub fn tables(&self) -> Result<BTreeMap<String, u64>> {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        let mut statement = self.connection.prepare(names)?;
        let mut tables = BTreeMap::new();
        for name in statement.query_map([], |row| row.get::<_, String>(0))? {
            let name = name?;
            let sql = format!("SELECT count(*) FROM \"{}\"", name.replace('"', "\"\""));
            let count: i64 = self.connection.query_row(&sql, [], |row| row.get(0))?;
            tables.insert(name, count.unsigned_abs());
        }
        Ok(tables)
    }

    /// Whether the table exists and has the column.
    pub fn has_column(&self, table: &str, column: &str) -> Result<bool> {
        Ok(self.connection.column_exists(None, table, column)?)
    }

    /// The rows of a table in the order they were written, each of them or what is wrong with it.
    /// No rows where there is no such table.
    pub fn rows<T: Row>(&self, defaults: &[LegacyDefault]) -> Result<Vec<Result<T>>> {
        if !self.connection.table_exists(None, T::TABLE)? {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for column in T::COLUMNS {
            let default = defaults.iter().find(|(name, _)| name == column).map_or("NULL", |(_, value)| value);
            let there = self.has_column(T::TABLE, column)?;
            let value = if there { format!("coalesce({column}, {default})") } else { default.to_owned() };
            wanted.push(format!("{value} AS {column}"));
        }
        let sql = format!("SELECT {} FROM {} ORDER BY rowid", wanted.join(", "), T::TABLE);
        let mut statement = self.connection.prepare(&sql)?;
        Ok(statement.query_map([], |row| Ok(T::read(row)))?.collect::<rusqlite::Result<_>>()?)
    }
}

table! {
    /// A wiring as NanoClaw kept it before it had engage modes.
    pub struct LegacyWiring in "messaging_group_agents" as "wiring", key 1 {
        id: String,
        messaging_group_id: String,
        agent_group_id: String,
        /// JSON: `pattern` and `requiresTrigger`.
        trigger_rules: Option<String>,
        /// `all`, `triggered` or `allowlisted`.
        response_scope: Option<String>,
        session_mode: SessionMode,
        priority: i64,
        created_at: Timestamp,
    }
}

impl LegacyWiring {
    /// The wiring that NanoClaw's own migration to engage modes makes of it. Rules that are no JSON
    /// count as none.
    pub fn into_wiring(self) -> Wiring {
        let rules = self.trigger_rules.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let rule = |name: &str| rules.as_ref().and_then(|rules| rules.get(name));
        let scope = self.response_scope.as_deref();
        let pattern = match rule("pattern").and_then(Value::as_str) {
            Some(pattern) if !pattern.is_empty() => Some(pattern.to_owned()),
            _ if rule("requiresTrigger") == Some(&Value::Bool(false)) || scope == Some("all") => Some(".".to_owned()),
            _ => None,
        };
        Wiring {
            id: self.id,
            messaging_group_id: self.messaging_group_id,
            agent_group_id: self.agent_group_id,
            engage_mode: if pattern.is_some() { EngageMode::Pattern } else { EngageMode::Mention },
            engage_pattern: pattern,
            sender_scope: if scope == Some("allowlisted") { SenderScope::Known } else { SenderScope::All },
            ignored_message_policy: IgnoredMessagePolicy::Drop,
            session_mode: self.session_mode,
            priority: self.priority,
            created_at: self.created_at,
        }
    }
}

impl Store {
    /// Adds a row as it is. Import only: everybody else uses the entity's own functions.
    pub(crate) fn adopt<T: Row>(&self, row: &T) -> Result<()> {
        self.insert(row)
    }
}
