//! Reads of the databases from outside, as somebody with the `sqlite3` program would.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// All rows of a query, every value as text; NULL is empty.
///
/// # Errors
/// SQLite's: the file is not there, or its writer is in the middle of something.
pub fn query(database: &Path, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let db = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(Duration::from_secs(2))?;
    let mut statement = db.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|i| {
                Ok(match row.get_ref(i)? {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(n) => n.to_string(),
                    ValueRef::Real(x) => x.to_string(),
                    ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
                })
            })
            .collect()
    })?;
    rows.collect()
}

/// The first column of a query.
///
/// # Errors
/// As [`query`].
pub fn column(database: &Path, sql: &str) -> rusqlite::Result<Vec<String>> {
    Ok(query(database, sql)?.into_iter().map(|row| row.into_iter().next().unwrap_or_default()).collect())
}

/// The journal modes in a file's header: 1 is a rollback journal, 2 is WAL.
pub fn format_versions(database: &Path) -> (u8, u8) {
    let header = std::fs::read(database).expect("a database");
    (header[18], header[19])
}
