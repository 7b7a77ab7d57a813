//! How the two session databases are opened by those who own or trust them: pragmas, busy
//! handlers, and which faults mean "again in a few milliseconds".
//!
//! (What the host may open of a container's files is in [`crate::untrusted`].)

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

/// Longest wait of the host for a lock a container may hold. The writes are parked then.
pub const HOST_BUSY_MS: i32 = 100;
/// Longest wait of the runner for a lock the host holds: a commit takes a few fsyncs.
pub const RUNNER_BUSY_MS: i32 = 1_000;

/// One step of a busy handler. SQLite's own handler backs off to 100 ms and starves readers for
/// seconds (rule 2).
const BUSY_STEP: Duration = Duration::from_millis(1);

fn host_busy(step: i32) -> bool {
    pause();
    step < HOST_BUSY_MS
}

fn runner_busy(step: i32) -> bool {
    pause();
    step < RUNNER_BUSY_MS
}

// A busy handler can do nothing but wait; there is no event to wait for.
#[allow(clippy::disallowed_methods)]
pub(crate) fn pause() {
    std::thread::sleep(BUSY_STEP);
}

/// How much a commit must survive (rule 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power loss must not undo it: an accepted message.
    Acknowledged,
    /// Survives the death of any process; repeated after a power loss at worst.
    Normal,
}

/// Opens a database for the one side that writes it. `journal_mode=DELETE` (rule 1), no mmap.
pub(crate) fn open_writer(path: &Path, side: Side, durability: Durability) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(resolved(path), flags)?;
    prepare(&db, side)?;
    let mode: String = db.query_row("PRAGMA journal_mode=DELETE", [], |r| r.get(0))?;
    debug_assert_eq!(mode, "delete");
    let synchronous = match durability {
        Durability::Acknowledged => "EXTRA",
        Durability::Normal => "NORMAL",
    };
    db.execute_batch(&format!("PRAGMA synchronous={synchronous}"))?;
    Ok(db)
}

/// Opens a trusted database for reading only.
pub(crate) fn open_reader(path: &Path, side: Side) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    prepare(&db, side)?;
    Ok(db)
}

/// Whose busy limit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Runner,
}

fn prepare(db: &Connection, side: Side) -> rusqlite::Result<()> {
    db.busy_handler(Some(match side {
        Side::Host => host_busy,
        Side::Runner => runner_busy,
    }))?;
    db.execute_batch("PRAGMA mmap_size=0; PRAGMA cache_size=-128; PRAGMA temp_store=MEMORY;")
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
    match error {
        rusqlite::Error::SqliteFailure(e, _) => {
            matches!(e.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                || e.extended_code == ffi::SQLITE_READONLY_ROLLBACK
        }
        _ => false,
    }
}

/// Adds the columns of `wanted` that `table` lacks: files of an older NanoClaw.
pub(crate) fn add_missing_columns(db: &Connection, table: &str, wanted: &[(&str, &str)]) -> rusqlite::Result<()> {
    let present = columns(db, table)?;
    for (name, declaration) in wanted {
        if !present.iter().any(|c| c == name) {
            db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {name} {declaration}"))?;
        }
    }
    Ok(())
}

/// The names of a table's columns; empty when there is no such table.
pub(crate) fn columns(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let names = statement.query_map([table], |r| r.get(0))?;
    names.collect()
}
