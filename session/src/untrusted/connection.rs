//! A connection that expects the worst of its file (rule 6).

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use super::syscall::{self, Confined};
use super::{UntrustedError, snapshot};
use crate::database::busy;

/// Longest wait for a lock the container holds. ms.
pub const BUSY_LIMIT_MS: i32 = 50;

/// How many steps of SQLite's machine pass between two looks at the clock.
const STEPS_PER_CLOCK_LOOK: c_int = 200;

/// What a file may make SQLite do. A runner's schema has five small tables.
const LIMITS: [(c_int, c_int); 10] = [
    (ffi::SQLITE_LIMIT_LENGTH, snapshot::MAX_CONTENT_BYTES as c_int),
    (ffi::SQLITE_LIMIT_SQL_LENGTH, 16 << 10),
    (ffi::SQLITE_LIMIT_COLUMN, 64),
    (ffi::SQLITE_LIMIT_EXPR_DEPTH, 32),
    (ffi::SQLITE_LIMIT_COMPOUND_SELECT, 2),
    (ffi::SQLITE_LIMIT_ATTACHED, 0),
    (ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 0),
    (ffi::SQLITE_LIMIT_VARIABLE_NUMBER, 8),
    (ffi::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
    (ffi::SQLITE_LIMIT_WORKER_THREADS, 0),
];

const SWITCHES: [(DbConfig, bool); 6] = [
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
];

/// In this order: with `locking_mode=EXCLUSIVE` before the first read, SQLite never maps the
/// shared memory of a WAL, a file that the container can truncate under it (SIGBUS). Setting the
/// page cache is the first read: the one in the file's header may be of any size.
const PRAGMAS: &str = "
PRAGMA locking_mode=EXCLUSIVE;
PRAGMA temp_store=MEMORY;
PRAGMA mmap_size=0;
BEGIN;
PRAGMA cache_size=-256;
";

/// A hardened connection. SQLite reads the deadline through a pointer, so that outlives it.
#[derive(Debug)]
pub(super) struct Hardened<'d> {
    db: Connection,
    _deadline: PhantomData<&'d Instant>,
}

impl Hardened<'_> {
    pub(super) fn db(&self) -> &Connection {
        &self.db
    }
}

/// Opens a container's database for one look. The read transaction has begun when this returns,
/// and its lock is kept until the connection is closed.
pub(super) fn open_for_look<'d>(path: &Path, deadline: &'d Instant) -> Result<Hardened<'d>, UntrustedError> {
    let _nothing = Confined::to_nothing();
    Ok(harden(open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?, deadline)?)
}

/// Opens a private copy of a container's database, which rolls back its journal.
pub(super) fn roll_back(path: &Path, folder: &Path, deadline: &Instant) -> Result<(), UntrustedError> {
    let _folder = Confined::to_folder(folder);
    harden(open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?, deadline)?;
    Ok(())
}

/// Opens the file and reads nothing that matters yet. `path` is below a canonical folder, or
/// NOFOLLOW refuses it.
pub(super) fn open(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    syscall::install();
    let flags = access | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
}

fn harden(db: Connection, deadline: &Instant) -> rusqlite::Result<Hardened<'_>> {
    db.busy_handler(Some(busy::<BUSY_LIMIT_MS>))?;
    // SAFETY: the handle is open, and the deadline outlives the connection (see `Hardened`).
    // Dropping the modules leaves no virtual table's code within reach of a schema.
    unsafe {
        for (limit, value) in LIMITS {
            ffi::sqlite3_limit(db.handle(), limit, value);
        }
        ffi::sqlite3_drop_modules(db.handle(), std::ptr::null_mut());
        let deadline = std::ptr::from_ref(deadline).cast_mut().cast();
        ffi::sqlite3_progress_handler(db.handle(), STEPS_PER_CLOCK_LOOK, Some(is_over), deadline);
    }
    for (switch, on) in SWITCHES {
        db.set_db_config(switch, on)?;
    }
    db.execute_batch(PRAGMAS)?;
    Ok(Hardened { db, _deadline: PhantomData })
}

unsafe extern "C" fn is_over(deadline: *mut c_void) -> c_int {
    // SAFETY: the deadline given to `harden`, which outlives the connection.
    c_int::from(Instant::now() >= unsafe { *deadline.cast::<Instant>() })
}
