//! The database of another program's install, NanoClaw's `v2.db`, read row by row.
//!
//! The file is a private copy: SQLite may have to roll back or to replay what its owner left beside
//! it, and it is brought to the newest schema. What is there counts, not the version it names, and a
//! row that cannot be read is an error of its own, which names table, row and column.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Result, Row, Store, StoreError, Wiring};

/// What a column holds that some version of the schema lacks or may leave NULL: an SQL literal.
const DEFAULTS: [(&str, &str); 11] = [
    ("cli_scope", "'group'"),
    ("container_status", "'stopped'"),
    ("engage_mode", "'mention'"),
    ("ignored_message_policy", "'drop'"),
    ("is_group", "0"),
    ("options_json", "'[]'"),
    ("priority", "0"),
    ("sender_scope", "'all'"),
    ("session_mode", "'shared'"),
    ("status", "'active'"),
    ("title", "''"),
];

/// NanoClaw's own migration to engage modes. Rules that are no JSON count as none.
const TO_ENGAGE_MODES: &str = "
    ALTER TABLE messaging_group_agents ADD COLUMN engage_mode TEXT;
    ALTER TABLE messaging_group_agents ADD COLUMN engage_pattern TEXT;
    ALTER TABLE messaging_group_agents ADD COLUMN sender_scope TEXT;
    UPDATE messaging_group_agents SET trigger_rules = '{}' WHERE json_valid(trigger_rules) IS NOT 1;
    UPDATE messaging_group_agents SET sender_scope = 'known' WHERE response_scope = 'allowlisted';
    UPDATE messaging_group_agents SET engage_mode = 'pattern', engage_pattern = '.'
      WHERE response_scope = 'all' OR json_type(trigger_rules, '$.requiresTrigger') = 'false';
    UPDATE messaging_group_agents SET engage_mode = 'pattern', engage_pattern = trigger_rules ->> 'pattern'
      WHERE json_type(trigger_rules, '$.pattern') = 'text' AND trigger_rules ->> 'pattern' <> '';";

/// A copy of a foreign `v2.db`.
#[derive(Debug)]
pub struct LegacyDb {
    connection: Connection,
}

impl LegacyDb {
    /// Opens the private copy at `path`; what lies beside it (`-wal`, `-journal`) is applied.
    pub fn open(path: &Path) -> Result<LegacyDb> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0;")?;
        let invalid = |problem: String| StoreError::Invalid { noun: "database", id: "v2.db".to_owned(), problem };
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(invalid(format!("it is damaged: {check}")));
        }
        let db = LegacyDb { connection };
        if !db.has_column("agent_groups", "id")? {
            return Err(invalid("it has no table agent_groups: no database of NanoClaw v2".to_owned()));
        }
        if db.has_column(Wiring::TABLE, "trigger_rules")? && !db.has_column(Wiring::TABLE, "engage_mode")? {
            db.connection.execute_batch(TO_ENGAGE_MODES)?;
        }
        Ok(db)
    }

    /// Every table with the number of its rows.
    pub fn tables(&self) -> Result<Vec<(String, i64)>> {
        let mut names = self.connection.prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name",
        )?;
        let counted = names.query_map([], |row| {
            let name: String = row.get(0)?;
            let sql = format!("SELECT count(*) FROM \"{}\"", name.replace('"', "\"\""));
            Ok((name, self.connection.query_row(&sql, [], |row| row.get(0))?))
        })?;
        Ok(counted.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether the table exists and has the column.
    pub fn has_column(&self, table: &str, column: &str) -> Result<bool> {
        Ok(self.connection.column_exists(None, table, column)?)
    }

    /// The rows of a table in the order they were written, each of them or what is wrong with it.
    /// No rows where there is no such table.
    pub fn rows<T: Row>(&self) -> Result<Vec<Result<T>>> {
        if !self.connection.table_exists(None, T::TABLE)? {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for column in T::COLUMNS {
            let default = DEFAULTS.iter().find(|(name, _)| name == column).map_or("NULL", |(_, value)| value);
            let there = self.has_column(T::TABLE, column)?;
            let value = if there { format!("coalesce({column}, {default})") } else { default.to_owned() };
            wanted.push(format!("{value} AS {column}"));
        }
        let sql = format!("SELECT {} FROM {} ORDER BY rowid", wanted.join(", "), T::TABLE);
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| Ok(T::read(row)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

impl Store {
    /// Adds a row as it is. Import only: everybody else uses the entity's own functions.
    pub(crate) fn adopt<T: Row>(&self, row: &T) -> Result<()> {
        self.insert(row)
    }
}
