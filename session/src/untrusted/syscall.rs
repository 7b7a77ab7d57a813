//! What SQLite may do to files, enforced where it calls the system.
//!
//! Process-wide entries of the table through which SQLite's unix VFS calls the system. A check
//! before the open would leave a window in which the container swaps the file; a check of the
//! descriptor leaves none.
//!
//! For every database, `open` never waits (a FIFO; a lease holds it for 45 s otherwise) and yields
//! a regular file or a folder, nothing else. On a thread that looks into a container's folder
//! SQLite cannot create, change or delete anything ([`Confined`]): it would delete a stray `-wal`
//! beside an empty database, give a journal the owner and mode of its database, and delete what a
//! crafted journal names as its super-journal.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Once;

use rusqlite::ffi;
use rustix::fs::FileType;

/// Installs the guards, once per process. The table is not synchronised: each `main` calls
/// this before it opens any database and starts any thread. (Later it is still right, but a
/// database opened by another thread at that very moment may be opened without the guard.)
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        type Syscall = unsafe extern "C" fn();
        // SAFETY: each function has the signature by which SQLite calls the entry of that name
        // (see `aSyscall` in its os_unix.c).
        let calls: [(&CStr, Syscall); 4] = unsafe {
            [
                (c"open", mem::transmute::<unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int, Syscall>(open)),
                (c"unlink", mem::transmute::<unsafe extern "C" fn(*const c_char) -> c_int, Syscall>(unlink)),
                (c"fchmod", mem::transmute::<extern "C" fn(c_int, libc::mode_t) -> c_int, Syscall>(fchmod)),
                (c"fchown", mem::transmute::<extern "C" fn(c_int, libc::uid_t, libc::gid_t) -> c_int, Syscall>(fchown)),
            ]
        };
        // SAFETY: plain calls of SQLite's interface; the VFS lives as long as the process.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let vfs = ffi::sqlite3_vfs_find(c"unix".as_ptr());
            let set = vfs.as_ref().and_then(|v| v.xSetSystemCall).expect("SQLite has its unix VFS");
            for (name, call) in calls {
                assert_eq!(set(vfs, name.as_ptr(), Some(call)), ffi::SQLITE_OK, "{name:?}");
            }
        }
    });
}

/// Where SQLite may create, change and delete files on a thread.
#[derive(Debug)]
enum Writes {
    Anywhere,
    Nowhere,
    /// Directly in this folder.
    In(Vec<u8>),
}

thread_local! {
    static WRITES: RefCell<Writes> = const { RefCell::new(Writes::Anywhere) };
}

/// While it lives, SQLite on this thread writes nowhere, or in one folder only.
#[derive(Debug)]
pub(super) struct Confined {
    before: Writes,
    /// It belongs to its thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Confined {
    pub(super) fn to_nothing() -> Confined {
        Confined::to(Writes::Nowhere)
    }

    /// `folder` is the canonical path by which SQLite was told to open what lies in it.
    pub(super) fn to_folder(folder: &Path) -> Confined {
        Confined::to(Writes::In(folder.as_os_str().as_bytes().to_owned()))
    }

    fn to(writes: Writes) -> Confined {
        Confined { before: WRITES.replace(writes), _not_send: std::marker::PhantomData }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        WRITES.replace(mem::replace(&mut self.before, Writes::Anywhere));
    }
}

/// Whether SQLite may write the file at `path`. It is free while its thread ends, when the look
/// is over.
fn may_write(path: &[u8]) -> bool {
    let allowed = |writes: &RefCell<Writes>| match &*writes.borrow() {
        Writes::Anywhere => true,
        Writes::Nowhere => false,
        Writes::In(folder) => path
            .strip_prefix(folder.as_slice())
            .and_then(|rest| rest.strip_prefix(b"/"))
            .is_some_and(|name| !name.contains(&b'/')),
    };
    WRITES.try_with(allowed).unwrap_or(true)
}

/// Whether a descriptor's owner and mode may be changed: of a container's file they may not.
fn may_change() -> bool {
    WRITES.try_with(|writes| !matches!(*writes.borrow(), Writes::Nowhere)).unwrap_or(true)
}

fn refuse(errno: c_int) -> c_int {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// SQLite gives up at once on both refusals; it repeats an open for EINTR only.
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: SQLite passes a terminated path.
    let name = unsafe { CStr::from_ptr(path) };
    let reads_only = flags & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) == libc::O_RDONLY;
    if !reads_only && !may_write(name.to_bytes()) {
        return refuse(libc::EROFS);
    }
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: as above. The mode is read when `O_CREAT` is set.
    let fd = unsafe { libc::open(path, flags, mode as c_uint) };
    // SQLite fills the standard descriptors with /dev/null when they are closed.
    if fd < 0 || is_plain(fd) || name == c"/dev/null" {
        return fd;
    }
    // SAFETY: the descriptor was opened above and is nobody else's.
    unsafe { libc::close(fd) };
    refuse(libc::EACCES)
}

fn is_plain(fd: c_int) -> bool {
    // SAFETY: the descriptor is open for the length of this call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory))
}

unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: SQLite passes a terminated path.
    if !may_write(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return refuse(libc::EROFS);
    }
    // SAFETY: as above.
    unsafe { libc::unlink(path) }
}

/// SQLite ignores the result of this one and of `fchown`.
extern "C" fn fchmod(fd: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: a system call on a number.
    if may_change() { unsafe { libc::fchmod(fd, mode) } } else { 0 }
}

extern "C" fn fchown(fd: c_int, uid: libc::uid_t, gid: libc::gid_t) -> c_int {
    // SAFETY: a system call on a number.
    if may_change() { unsafe { libc::fchown(fd, uid, gid) } } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::{Connection, OpenFlags};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn sqlite_opens_no_device() {
        install();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        assert!(Connection::open_with_flags("/dev/zero", flags).is_err());
        assert!(Connection::open_with_flags("/dev/null", flags).is_ok());
    }

    #[test]
    fn a_trusted_database_keeps_working_beside_a_look() {
        install();
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let db = Connection::open(tmp.path().join(name))?;
            db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        };
        write("before").unwrap();
        {
            let _nothing = Confined::to_nothing();
            assert!(write("during").is_err());
            assert!(!tmp.path().join("during").exists());
            std::thread::scope(|s| s.spawn(|| write("elsewhere").unwrap()).join().unwrap());
        }
        write("after").unwrap();
    }

    #[test]
    fn a_confined_thread_leaves_mode_and_owner_of_a_descriptor_alone() {
        let file = tempfile::tempfile().unwrap();
        let mode = || file.metadata().unwrap().permissions().mode() & 0o777;
        let before = mode();
        {
            let _nothing = Confined::to_nothing();
            assert_eq!(fchmod(file.as_raw_fd(), 0o777), 0);
            // Only root could give it away; the refusal is not even asked for.
            assert_eq!(fchown(file.as_raw_fd(), 1, 1), 0);
        }
        assert_eq!((mode(), file.metadata().unwrap().uid()), (before, rustix::process::getuid().as_raw()));
        assert_eq!(fchmod(file.as_raw_fd(), 0o777), 0);
        assert_eq!(mode(), 0o777);
    }

    #[test]
    fn a_confined_thread_writes_directly_in_its_folder_only() {
        let _folder = Confined::to_folder(Path::new("/private/s"));
        assert!(may_write(b"/private/s/outbound.db-journal"));
        for path in ["/private/s", "/private/sx/f", "/private/s/../f", "/private/s/a/f", "/etc/passwd", "f"] {
            assert!(!may_write(path.as_bytes()), "{path}");
        }
    }
}
