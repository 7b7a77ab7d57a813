//! What a container had committed before it was killed inside a transaction (rule 7).
//!
//! Reading a file with a hot journal means rolling back first, and that writes: it is done on a
//! copy. A journal that names a super-journal, which SQLite would delete, is refused, and SQLite is
//! confined to the folder of the copy besides.

use std::ffi::c_int;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, ffi};

use super::syscall::Confined;
use super::{MAX_DATABASE_BYTES, UntrustedDb, UntrustedError, connection, files, open_untrusted};
use crate::layout::{OUTBOUND_DB, SessionDir, journal_of};

/// Largest journal that is rolled back. bytes.
pub const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// The last eight bytes of a journal that names a super-journal (and the first of any journal).
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Longest rollback; it reads the schema once, besides. s.
const ROLLBACK_LIMIT_S: u64 = 5;

/// Most bytes of one read; SQLite counts them in an `int`.
const MAX_READ_BYTES: usize = 1 << 20;

/// Like [`open_untrusted`] for a container that is proven dead and has no successor yet: rolls
/// back the transaction it was killed in, on a copy in the folder `private`. The folder lies where no
/// container reaches, is created (mode 0700; what a crashed host left of it goes first) and is
/// removed with the returned value. Without a journal nothing is copied.
pub fn recover_copy(dir: &SessionDir, private: &Path) -> Result<UntrustedDb, UntrustedError> {
    let original = open_untrusted(dir)?;
    match fs::symlink_metadata(journal_of(&original.path)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(original),
        Err(e) => return Err(e.into()),
    }
    let folder = PrivateFolder::create(private).map_err(own_fault)?;
    let path = folder.path.join(OUTBOUND_DB);
    copy_database(&original.path, &path)?;
    copy_journal(&original.path, &journal_of(&path))?;
    let deadline = Instant::now() + Duration::from_secs(ROLLBACK_LIMIT_S);
    connection::roll_back(&path, &folder.path, &deadline)?;
    Ok(UntrustedDb { path, _private: Some(folder) })
}

/// A folder that only the host's user enters.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    fn create(path: &Path) -> io::Result<PrivateFolder> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(path)?;
        Ok(PrivateFolder { path: path.canonicalize()? })
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next recovery.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// Copies a database through SQLite's own descriptor: closing any other one would drop the locks
/// this process holds on the file (POSIX), if another thread looks at it.
fn copy_database(from: &Path, to: &Path) -> Result<(), UntrustedError> {
    let _nothing = Confined::to_nothing();
    let db = connection::open(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut source = DatabaseFile::of(&db)?;
    copy(&mut source, to, MAX_DATABASE_BYTES, OUTBOUND_DB)?;
    Ok(())
}

fn copy_journal(original: &Path, to: &Path) -> Result<(), UntrustedError> {
    let (Some(out), Some(name)) = (original.parent(), original.file_name()) else {
        return Err(UntrustedError::NotThere);
    };
    let (mut journal, _) = files::open_regular(out, &journal_of(Path::new(name)))?;
    let mut copied = copy(&mut journal, to, MAX_JOURNAL_BYTES, "its journal")?;
    let mut last = [0; MAGIC.len()];
    if copied.metadata()?.len() >= last.len() as u64 {
        copied.seek(SeekFrom::End(-(last.len() as i64)))?;
        copied.read_exact(&mut last)?;
    }
    if last == MAGIC {
        return Err(UntrustedError::hostile("its journal names a super-journal"));
    }
    Ok(())
}

/// Copies at most `max_bytes` into the new file `to`.
fn copy(source: &mut impl Read, to: &Path, max_bytes: u64, what: &str) -> Result<File, UntrustedError> {
    let mut copied =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to).map_err(own_fault)?;
    if io::copy(&mut source.take(max_bytes + 1), &mut copied)? > max_bytes {
        return Err(UntrustedError::hostile(format_args!("{what} has more than {max_bytes} bytes")));
    }
    Ok(copied)
}

/// A fault of the host's own folder: that it is missing does not mean that the container's is.
fn own_fault(error: io::Error) -> UntrustedError {
    UntrustedError::Io(format!("the private copy: {error}"))
}

/// The bytes of a database file, read with the descriptor that `db` has open.
struct DatabaseFile<'c> {
    file: *mut ffi::sqlite3_file,
    offset: i64,
    bytes: i64,
    _db: PhantomData<&'c Connection>,
}

impl<'c> DatabaseFile<'c> {
    fn of(db: &'c Connection) -> rusqlite::Result<DatabaseFile<'c>> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let mut bytes = 0;
        // SAFETY: with this operation SQLite stores the address of its file object, which lives as
        // long as the connection; an open file has methods.
        unsafe {
            let operation = ffi::SQLITE_FCNTL_FILE_POINTER;
            check(ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), operation, (&raw mut file).cast()))?;
            let size = (*(*file).pMethods).xFileSize.expect("every file has a size");
            check(size(file, &mut bytes))?;
        }
        Ok(DatabaseFile { file, offset: 0, bytes, _db: PhantomData })
    }
}

impl Read for DatabaseFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.bytes - self.offset).map_err(io::Error::other)?;
        let count = buffer.len().min(rest).min(MAX_READ_BYTES);
        if count > 0 {
            // SAFETY: the file is open (see `of`), and the buffer has room for `count` bytes.
            let code = unsafe {
                let read = (*(*self.file).pMethods).xRead.expect("every file can be read");
                read(self.file, buffer.as_mut_ptr().cast(), count as c_int, self.offset)
            };
            check(code).map_err(io::Error::other)?;
            self.offset += count as i64;
        }
        Ok(count)
    }
}

fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}
