//! The schema's history: named, append-only steps, each in one immediate transaction.
//!
//! A step that fails leaves nothing behind, and two programs that start together run each step
//! once. A history that is not a prefix of ours is refused before anything is written.

use jiff::Timestamp;

use super::error::{Result, StoreError};
use super::{Row, Store};

/// One step; its version is its position, counted from one.
pub struct Migration {
    pub name: &'static str,
    pub sql: &'static str,
}

pub const MIGRATIONS: &[Migration] = &[
    Migration { name: "entities", sql: include_str!("migrations/0001-entities.sql") },
    Migration { name: "host", sql: include_str!("migrations/0002-host.sql") },
    Migration { name: "pairing", sql: include_str!("migrations/0003-pairing.sql") },
    Migration { name: "settled", sql: include_str!("migrations/0004-settled.sql") },
    Migration { name: "parked", sql: include_str!("migrations/0005-parked.sql") },
    Migration { name: "first-attempt", sql: include_str!("migrations/0006-first-attempt.sql") },
    Migration { name: "usage", sql: include_str!("migrations/0007-usage.sql") },
    Migration { name: "task-runs", sql: include_str!("migrations/0008-task-runs.sql") },
];

table! {
    /// A step that was taken.
    pub struct Applied in "schema_version" as "migration", key 1 {
        version: i64,
        name: String,
        applied: Timestamp,
    }
}

pub fn migrate(store: &Store, migrations: &[Migration], now: Timestamp) -> Result<()> {
    while applied(store, migrations)? < migrations.len() {
        store.transaction(|| -> Result<()> {
            store.connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS schema_version (
                   version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL);
                 CREATE UNIQUE INDEX IF NOT EXISTS idx_schema_version_name ON schema_version(name);",
            )?;
            // Counted again under the lock: another program may have taken this step meanwhile.
            let done = applied(store, migrations)?;
            if let Some(migration) = migrations.get(done) {
                store.connection.execute_batch(migration.sql)?;
                store.insert(&Applied { version: done as i64 + 1, name: migration.name.to_owned(), applied: now })?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Errors unless the history is a prefix of ours.
pub fn require_ours(store: &Store) -> Result<()> {
    applied(store, MIGRATIONS).map(drop)
}

/// Errors unless every step has been taken.
pub fn require_current(store: &Store) -> Result<()> {
    let done = applied(store, MIGRATIONS)?;
    if done < MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        let problem =
            format!("the database has schema {done} and waits for its migration to {known}: start the daemon once");
        return Err(StoreError::Schema(problem));
    }
    Ok(())
}

/// How many of `migrations` the database has.
fn applied(store: &Store, migrations: &[Migration]) -> Result<usize> {
    if !store.connection.table_exists(None, Applied::TABLE)? {
        return Ok(0);
    }
    let history: Vec<Applied> = store.all("ORDER BY version", &[])?;
    for (step, known) in history.iter().zip(migrations) {
        if step.name != known.name {
            return Err(StoreError::Schema(format!(
                "the database was not made by this program (schema {} is `{}`); `nanoclaw import` takes over a NanoClaw install",
                step.version, step.name
            )));
        }
    }
    if let Some(unknown) = history.get(migrations.len()..).and_then(|unknown| unknown.last()) {
        let (found, known) = (unknown.version, migrations.len());
        let problem = format!("the database has schema {found}, written by a newer nanoclaw; this one knows {known}");
        return Err(StoreError::Schema(problem));
    }
    Ok(history.len())
}
