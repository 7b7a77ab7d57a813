//! How the two session databases are opened by those who own or trust them, and which faults
//! mean "again in a few milliseconds". What a container wrote is opened in [`crate::untrusted`].

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Params, TransactionBehavior, ffi};

/// Longest wait of the host for a lock a container may hold. The writes are parked then.
pub const HOST_BUSY_MS: i32 = 100;
/// Longest wait of the runner for a lock the host holds: a commit takes a few fsyncs.
pub const RUNNER_BUSY_MS: i32 = 1_000;

/// One step of a busy handler. SQLite's own handler backs off to 100 ms and starves readers for
/// seconds (rule 2).
const BUSY_STEP: Duration = Duration::from_millis(1);

/// Marks a file whose additions were made; ours, kept in `PRAGMA user_version`.
const REVISION: i64 = 3;

/// A busy handler that gives up after `LIMIT_MS`.
// It can do nothing but wait; there is no event to wait for.
#[allow(clippy::disallowed_methods)]
pub(crate) fn busy<const LIMIT_MS: i32>(step: i32) -> bool {
    std::thread::sleep(BUSY_STEP);
    step < LIMIT_MS
}

/// How much a commit must survive (rule 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power loss must not undo it: an accepted message.
    Acknowledged,
    /// Survives the death of any process; repeated after a power loss at worst.
    Normal,
}

/// Opens a database for the one side that writes it, with a rollback journal (rule 1).
/// `complete` makes what a new file or one of an older NanoClaw lacks.
pub(crate) fn open_writer(
    path: &Path,
    busy: fn(i32) -> bool,
    durability: Durability,
    complete: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = open(&resolved(path), flags, busy)?;
    let mode: String = db.query_row("PRAGMA journal_mode=DELETE", [], |r| r.get(0))?;
    debug_assert_eq!(mode, "delete");
    db.execute_batch(match durability {
        Durability::Acknowledged => "PRAGMA synchronous=EXTRA",
        Durability::Normal => "PRAGMA synchronous=NORMAL",
    })?;
    let revision: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if revision < REVISION {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        complete(&tx)?;
        tx.execute_batch(&format!("PRAGMA user_version={REVISION}"))?;
        tx.commit()?;
    }
    Ok(db)
}

/// Opens a trusted database for reading only.
pub(crate) fn open_reader(path: &Path, busy: fn(i32) -> bool) -> rusqlite::Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, busy)
}

fn open(path: &Path, flags: OpenFlags, busy: fn(i32) -> bool) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_handler(Some(busy))?;
    db.execute_batch("PRAGMA mmap_size=0; PRAGMA cache_size=-128; PRAGMA temp_store=MEMORY;")?;
    Ok(db)
}

/// NOFOLLOW refuses a symlink anywhere in the path, so the folder is made canonical first; the
/// file itself is not, which is the point.
fn resolved(path: &Path) -> std::path::PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// True for the faults that mean "the other side is in the middle of something": locked, or a
/// hot journal that a reader may not roll back (776, rule 2).
pub fn is_transient(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
        || error.sqlite_extended_error_code() == Some(ffi::SQLITE_READONLY_ROLLBACK)
}

/// Adds the columns of `wanted` that `table` lacks: files of an older NanoClaw.
pub(crate) fn add_missing_columns(db: &Connection, table: &str, wanted: &[(&str, &str)]) -> rusqlite::Result<()> {
    for (name, declaration) in wanted {
        if !db.column_exists(None, table, *name)? {
            db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {name} {declaration}"))?;
        }
    }
    Ok(())
}

/// One write; its statement is kept for the next one like it.
pub(crate) fn run(db: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}
