//! The only way the host may look into what a container wrote (rules 6 and 7).
//!
//! Whatever a container puts below `out/`, and however it changes that while the host looks: a look
//! ends after [`LOOK_LIMIT_MS`] and takes a few MiB of memory; nothing below `out/` is created,
//! changed or deleted by the host; no lock, descriptor or connection outlives the look.
//!
//! In reading order: `syscall` (what SQLite may open), `connection` (what it may do then),
//! `snapshot` (what is read), `recovery` (a killed container's transaction), `files` (attachments).

mod connection;
mod files;
mod recovery;
mod snapshot;
mod syscall;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{ErrorCode, ffi};

use crate::layout::{OUT, OUTBOUND_DB, SessionDir};

pub use files::{MAX_OUTBOX_FILE_BYTES, open_outbox_file};
pub use recovery::recover_copy;
pub use snapshot::{OutRow, OutRows, Snapshot};
pub use syscall::install as install_guards;

/// Longest one look may take, with the waiting for a lock and the caller's own part. ms.
pub const LOOK_LIMIT_MS: u64 = 200;
/// Largest database that is looked at. It bounds the steps SQLite cannot be interrupted in (the
/// walk along one value's pages), and the copy of [`recover_copy`].
pub const MAX_DATABASE_BYTES: u64 = 256 << 20;

/// Longest text of a fault. It may quote the container. characters.
const MAX_FAULT_CHARS: usize = 200;

/// Why a look at a container's files came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UntrustedError {
    /// The container is in the middle of something, or was killed there: locked, or a hot
    /// journal. Look again soon; [`recover_copy`] once its container is proven dead.
    Again,
    /// The container has not made the file yet.
    NotThere,
    /// The file is not what a runner writes.
    Hostile(String),
    /// SQLite cannot make sense of the file.
    Corrupt(String),
    /// The look took longer than [`LOOK_LIMIT_MS`].
    TimedOut,
    /// The system, or a lease on the file, refused.
    Io(String),
}

impl fmt::Display for UntrustedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UntrustedError::Again => f.write_str("busy, or a transaction was cut short"),
            UntrustedError::NotThere => f.write_str("not there yet"),
            UntrustedError::Hostile(what) => write!(f, "refused: {what}"),
            UntrustedError::Corrupt(what) => write!(f, "unreadable: {what}"),
            UntrustedError::TimedOut => write!(f, "took longer than {LOOK_LIMIT_MS} ms"),
            UntrustedError::Io(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for UntrustedError {}

impl UntrustedError {
    fn hostile(what: impl fmt::Display) -> Self {
        UntrustedError::Hostile(shown(what))
    }
}

impl From<rusqlite::Error> for UntrustedError {
    fn from(error: rusqlite::Error) -> Self {
        use ErrorCode::{CannotOpen, DiskFull, OperationInterrupted, OutOfMemory, PermissionDenied, SystemIoFailure};
        if crate::database::is_transient(&error) {
            return UntrustedError::Again;
        }
        match (error.sqlite_error_code(), error.sqlite_extended_error_code()) {
            // A write lock on a file that was opened for reading: only a WAL needs one.
            (_, Some(ffi::SQLITE_IOERR_LOCK)) => UntrustedError::hostile("outbound.db wants a write-ahead log"),
            (_, Some(ffi::SQLITE_IOERR_SHORT_READ)) => UntrustedError::Corrupt("cut short".into()),
            (Some(OperationInterrupted), _) => UntrustedError::TimedOut,
            (Some(CannotOpen | DiskFull | OutOfMemory | PermissionDenied | SystemIoFailure), _) => {
                UntrustedError::Io(shown(error))
            }
            _ => UntrustedError::Corrupt(shown(error)),
        }
    }
}

impl From<io::Error> for UntrustedError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => UntrustedError::NotThere,
            // A lease: the kernel asks its holder to give way.
            io::ErrorKind::WouldBlock => UntrustedError::Again,
            _ => UntrustedError::Io(shown(error)),
        }
    }
}

/// Text that may quote the container, fit for a line of the log.
fn shown(what: impl fmt::Display) -> String {
    what.to_string().chars().take(MAX_FAULT_CHARS).flat_map(char::escape_debug).collect()
}

/// A container's database, located. It is opened anew for each look: the host must not hold the
/// lock that a look takes, or the container could not write.
#[derive(Debug)]
pub struct UntrustedDb {
    path: PathBuf,
    /// Holds the copy at `path`, if it is one.
    _private: Option<recovery::PrivateFolder>,
}

/// Locates the outbound database of a session; it must be a regular file, and not too large.
pub fn open_untrusted(dir: &SessionDir) -> Result<UntrustedDb, UntrustedError> {
    let path = out_folder(dir)?.join(OUTBOUND_DB);
    // To name the fault. What protects is `syscall`, at the moment of opening.
    let meta = fs::symlink_metadata(&path)?;
    if !meta.is_file() {
        return Err(UntrustedError::hostile("outbound.db is no regular file"));
    }
    if meta.len() > MAX_DATABASE_BYTES {
        return Err(UntrustedError::hostile(format_args!("outbound.db has {} bytes", meta.len())));
    }
    Ok(UntrustedDb { path, _private: None })
}

impl UntrustedDb {
    /// One look: opens the file, runs `f` in one read transaction, closes the file. The container
    /// cannot write meanwhile, so `f` reads and returns; what is to be done comes afterwards.
    pub fn read<T>(&self, f: impl FnOnce(&Snapshot<'_>) -> Result<T, UntrustedError>) -> Result<T, UntrustedError> {
        let deadline = Instant::now() + Duration::from_millis(LOOK_LIMIT_MS);
        let look = connection::open_for_look(&self.path, &deadline)?;
        f(&Snapshot::begin(look.db())?)
    }
}

/// The canonical `out/`. The path above it is the host's own; `out` itself must be a folder.
fn out_folder(dir: &SessionDir) -> Result<PathBuf, UntrustedError> {
    let out = dir.root().canonicalize()?.join(OUT);
    if fs::symlink_metadata(&out)?.is_dir() { Ok(out) } else { Err(UntrustedError::hostile("out is no folder")) }
}

#[cfg(test)]
mod tests;
