//! The central database, `<home>/data/v2.db`: who may talk to whom, and what the host must remember.
//!
//! Owns every line of SQL on that file: a file per topic, with typed rows and the operations they
//! need. A thread that needs the database opens its own [`Store`]; the type holds
//! one connection and no lock, so it is `Send` but not `Sync`.
//!
//! Invariants
//! - A file is opened in one place, which sets the pragmas; migrations run before anything else.
//! - Every write that reads first runs in an immediate transaction, so two connections wait for
//!   each other (up to five seconds) and never meet `SQLITE_BUSY` halfway.
//! - Times are passed in. They are written in one form and compared through one expression.
//! - Absent: platform calls, docker calls, session files. No transaction spans any of them.
//!
//! Failure: every operation is all or nothing and returns a [`StoreError`]; after an error the
//! store is usable. A value that no table knows is an error that names table, row and column.

#[macro_use]
mod table;

mod agent_groups;
mod chats;
mod dependents;
mod destinations;
mod error;
mod host_outbox;
mod legacy;
mod migrate;
mod parked;
mod people;
mod records;
mod runs;
mod sessions;
mod tasks;
mod usage;
mod waiting;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params_from_iter};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

pub use agent_groups::{
    AgentGroup, CliScope, ContainerConfig, NetworkMode, Skills, validate_agent_group_id, validate_folder,
};
pub use chats::{
    EngageMode, IgnoredMessagePolicy, MessagingGroup, SenderScope, SessionMode, Threads, UnknownSenderPolicy, Wiring,
};
pub use dependents::Dependent;
pub use destinations::{Destination, Target, local_name};
pub use error::{Result, StoreError};
pub use host_outbox::HostMessage;
pub use legacy::LegacyDb;
pub use people::{Member, PAIRING_VALID_MINUTES, PairingCode, Redeemed, Role, RoleGrant, User, UserDm};
pub use records::{Decision, DroppedSender, MAX_DROPPED_CHATS};
pub use runs::{ContainerRun, EndReason, GatewayToken, RunEnd, StartReason};
pub(crate) use sessions::Settled;
pub use sessions::{ContainerStatus, Session, SessionStatus};
pub use table::Row;
pub use tasks::{TaskLine, TaskOutcome, TaskRun};
pub use usage::UsageSum;
pub use waiting::{Approval, ChannelApproval, Question, SenderApproval};

use table::ToColumn;

/// How long a statement waits for another connection's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_millis(5000);

/// How often a new file is switched to WAL while others do the same. attempts.
const MAX_WAL_ATTEMPTS: u32 = 100;

/// Page cache of a connection. KiB; every thread has a connection, so it stays small.
const CACHE_KIB: i64 = 128;

/// What a find-or-create came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Ensured<T> {
    /// It was there, and is returned as stored.
    Existing(T),
    /// It was not; the caller's row is in now.
    Created(T),
}

impl<T> Ensured<T> {
    pub fn into_inner(self) -> T {
        match self {
            Ensured::Existing(row) | Ensured::Created(row) => row,
        }
    }
}

/// One connection to the central database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the database, creating it (mode 0600, in a folder that exists) and migrating it as
    /// needed. `now` is recorded with the migrations.
    pub fn open(path: &Path, now: Timestamp) -> Result<Store> {
        // A node made without a descriptor: closing one on a database drops the locks that
        // other connections of this process hold on it.
        match mknodat(CWD, path, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => Store::open_existing(path, now),
            Err(errno) => Err(StoreError::Io(errno.into())),
        }
    }

    /// Like [`Store::open`], but a missing file is [`StoreError::NotFound`].
    pub fn open_existing(path: &Path, now: Timestamp) -> Result<Store> {
        let store = Store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // First, because the switch to WAL changes a file that is not ours.
        migrate::require_ours(&store)?;
        store.switch_to_wal(path)?;
        migrate::migrate(&store, migrate::MIGRATIONS, now)?;
        Ok(store)
    }

    /// Opens the database for reading only. Nothing is migrated: an older schema is an error, a missing file
    /// [`StoreError::NotFound`].
    pub(crate) fn open_read_only(path: &Path) -> Result<Store> {
        let store = Store::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        migrate::require_current(&store)?;
        Ok(store)
    }

    fn switch_to_wal(&self, path: &Path) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
                Ok(mode) if mode == "wal" => return Ok(()),
                Ok(mode) => {
                    return Err(StoreError::Invalid {
                        noun: "database",
                        id: path.display().to_string(),
                        problem: format!("its file system has no shared memory for WAL (journal mode `{mode}`)"),
                    });
                }
                // Of several connections that switch a new file at once, SQLite turns all but one
                // away without waiting. A transaction does wait, for whoever holds the lock.
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && attempt < MAX_WAL_ATTEMPTS =>
                {
                    attempt += 1;
                    self.transaction(|| -> Result<()> { Ok(()) })?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn connect(path: &Path, access: OpenFlags) -> Result<Store> {
        if !path.exists() {
            return Err(StoreError::NotFound { noun: "database", id: path.display().to_string() });
        }
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(Store { connection })
    }

    /// Runs `work` in one immediate transaction: all of its writes happen, or none.
    ///
    /// Called inside another transaction it joins that one; an error must then be passed on, so
    /// that the outermost call rolls back.
    pub(crate) fn transaction<T, E: From<StoreError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if !self.connection.is_autocommit() {
            return work();
        }
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let value = work()?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(value)
    }

    /// Writes a consistent copy of the database to `target`, which must not exist.
    pub(crate) fn snapshot_to(&self, target: &Path) -> Result<()> {
        let target = target.to_str().ok_or_else(|| StoreError::Invalid {
            noun: "snapshot",
            id: target.display().to_string(),
            problem: "the path is not UTF-8".to_owned(),
        })?;
        self.execute("VACUUM INTO ?1", &[&target]).map(drop)
    }

    /// What SQLite's own check finds wrong, references included. Empty: the database is sound.
    pub(crate) fn integrity_problems(&self) -> Result<Vec<String>> {
        let mut problems: Vec<String> = self.column("PRAGMA integrity_check", &[])?;
        problems.retain(|line| line != "ok");
        let dangling: Vec<String> = self.column("SELECT DISTINCT \"table\" FROM pragma_foreign_key_check", &[])?;
        problems.extend(dangling.iter().map(|table| format!("{table}: a row refers to one that does not exist")));
        Ok(problems)
    }

    // The query helpers of the entity files. `tail` is what follows `FROM <table>`.

    fn all<T: Row>(&self, tail: &str, binds: &[&dyn ToColumn]) -> Result<Vec<T>> {
        let columns = T::COLUMNS.join(", ");
        self.rows(&format!("SELECT {columns} FROM {} {tail}", T::TABLE), binds)
    }

    fn find<T: Row>(&self, tail: &str, binds: &[&dyn ToColumn]) -> Result<Option<T>> {
        Ok(self.all(tail, binds)?.into_iter().next())
    }

    /// The row whose first key column is `id`.
    fn get<T: Row>(&self, id: &str) -> Result<T> {
        self.find(&format!("WHERE {} = ?1", T::COLUMNS[0]), &[&id])?.ok_or_else(|| StoreError::not_found::<T>(id))
    }

    fn insert<T: Row>(&self, row: &T) -> Result<()> {
        self.insert_or(row, "").map(drop)
    }

    /// Inserts unless a unique key is taken; says whether it did.
    fn insert_absent<T: Row>(&self, row: &T) -> Result<Inserted> {
        let inserted = self.insert_or(row, "ON CONFLICT DO NOTHING")?;
        Ok(if inserted == 0 { Inserted::AlreadyThere } else { Inserted::New })
    }

    /// Inserts, or overwrites the row with the same primary key.
    fn put<T: Row>(&self, row: &T) -> Result<()> {
        let (key, rest) = T::COLUMNS.split_at(T::KEY);
        let sets: Vec<_> = rest.iter().map(|c| format!("{c} = excluded.{c}")).collect();
        let conflict = format!("ON CONFLICT({}) DO UPDATE SET {}", key.join(", "), sets.join(", "));
        self.insert_or(row, &conflict).map(drop)
    }

    fn insert_or<T: Row>(&self, row: &T, on_conflict: &str) -> Result<usize> {
        let marks: Vec<_> = (1..=T::COLUMNS.len()).map(|n| format!("?{n}")).collect();
        let (columns, marks) = (T::COLUMNS.join(", "), marks.join(", "));
        let sql = format!("INSERT INTO {} ({columns}) VALUES ({marks}) {on_conflict}", T::TABLE);
        self.execute(&sql, &row.columns()).map_err(|error| error.about(row))
    }

    /// Overwrites the row with the same first column, which must exist.
    fn update<T: Row>(&self, row: &T) -> Result<()> {
        let sets: Vec<_> = (1..).zip(T::COLUMNS).skip(1).map(|(n, column)| format!("{column} = ?{n}")).collect();
        self.set::<T>(&row.name(), &sets.join(", "), &row.columns()[1..]).map_err(|error| error.about(row))
    }

    /// Changes the row `id`, which must exist. `sets` assigns to columns; its values count from `?2`.
    fn set<T: Row>(&self, id: &str, sets: &str, values: &[&dyn ToColumn]) -> Result<()> {
        let sql = format!("UPDATE {} SET {sets} WHERE {} = ?1", T::TABLE, T::COLUMNS[0]);
        let mut binds: Vec<&dyn ToColumn> = vec![&id];
        binds.extend(values);
        match self.execute(&sql, &binds)? {
            0 => Err(StoreError::not_found::<T>(id)),
            _ => Ok(()),
        }
    }

    /// Deletes what matches and returns it.
    fn take<T: Row>(&self, tail: &str, binds: &[&dyn ToColumn]) -> Result<Vec<T>> {
        let columns = T::COLUMNS.join(", ");
        let sql = format!("DELETE FROM {} {tail} RETURNING {columns}", T::TABLE);
        // In a transaction, so that a row that cannot be read is not lost.
        self.transaction(|| self.rows(&sql, binds))
    }

    /// Deletes what matches and says how many rows that were.
    fn delete<T: Row>(&self, tail: &str, binds: &[&dyn ToColumn]) -> Result<usize> {
        self.execute(&format!("DELETE FROM {} {tail}", T::TABLE), binds)
    }

    /// Deletes the one row that matches, which must exist; people call it `name`.
    fn remove<T: Row>(&self, name: &str, tail: &str, binds: &[&dyn ToColumn]) -> Result<()> {
        match self.delete::<T>(tail, binds)? {
            0 => Err(StoreError::not_found::<T>(name)),
            _ => Ok(()),
        }
    }

    fn execute(&self, sql: &str, binds: &[&dyn ToColumn]) -> Result<usize> {
        Ok(self.connection.prepare(sql)?.execute(params_from_iter(binds))?)
    }

    /// The first column of every row.
    fn column<T: FromSql>(&self, sql: &str, binds: &[&dyn ToColumn]) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare(sql)?;
        Ok(statement.query_map(params_from_iter(binds), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    }

    fn rows<T: Row>(&self, sql: &str, binds: &[&dyn ToColumn]) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare(sql)?;
        statement.query_and_then(params_from_iter(binds), T::read)?.collect()
    }
}

/// Whether an insert that tolerates an existing row made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    New,
    AlreadyThere,
}
