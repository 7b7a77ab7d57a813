//! Real files, each made to hurt a host without the guard in question. Every look here goes
//! through [`look`], which fails when it hangs, leaves a descriptor open or changes anything below
//! `out/`.

mod damage;
mod hostile;
mod killed;
mod rows;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc;

use jiff::Timestamp;
use rusqlite::Connection;

use super::recovery::MAX_JOURNAL_BYTES;
use super::snapshot::{MAX_CONTENT_BYTES, MAX_ID_BYTES, MAX_ROWS};
use super::*;
use crate::layout::journal_of;
use crate::outbound::OutboundDb;
use crate::row::{Address, NewMessageOut, OutKind};
use std::path::Path;

/// Far more than a look may take, far less than what it waits for without its guards.
const HANG: Duration = Duration::from_secs(3);

pub(super) fn folder() -> (tempfile::TempDir, SessionDir) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = SessionDir::new(tmp.path().join("session"));
    dir.prepare().unwrap();
    (tmp, dir)
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn message(id: &str, content: &str) -> NewMessageOut {
    NewMessageOut {
        id: id.into(),
        in_reply_to: None,
        deliver_after: None,
        kind: OutKind::Chat,
        address: Address::default(),
        content: content.into(),
    }
}

/// A session whose runner wrote messages with these ids.
fn session(ids: &[&str]) -> (tempfile::TempDir, SessionDir) {
    let (tmp, dir) = folder();
    let mut db = OutboundDb::open(&dir).unwrap();
    db.write(|tx| ids.iter().try_for_each(|id| tx.insert(&message(id, "text"), 0, now()).map(|_| ()))).unwrap();
    (tmp, dir)
}

/// A session whose container ran this SQL on its database, which has no tables yet.
fn crafted(sql: &str) -> (tempfile::TempDir, SessionDir) {
    let (tmp, dir) = folder();
    Connection::open(dir.outbound_db()).unwrap().execute_batch(sql).unwrap();
    (tmp, dir)
}

pub(super) fn fifo(path: &Path) {
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a terminated path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
}

/// A write lease: whoever opens the file waits 45 s for its holder, who never gives way.
pub(super) fn lease(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: plain calls; the signal that asks to give way is ignored.
    unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        assert_eq!(libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK), 0);
    }
    file
}

/// Takes or looks for a write lock that belongs to the descriptor and not to this process.
fn ofd_lock(file: &File, command: i32, start: i64, bytes: i64) -> libc::flock {
    // SAFETY: all zeros is a value of this plain struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_start = start;
    lock.l_len = bytes;
    // SAFETY: the struct lives for the length of the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) }, 0);
    lock
}

/// The ids of everything the container sent.
fn ids(snapshot: &Snapshot<'_>) -> Result<Vec<String>, UntrustedError> {
    let rows = snapshot.messages_after(0, MAX_ROWS)?.rows;
    Ok(rows
        .into_iter()
        .map(|row| match row {
            OutRow::Message(message) => message.id,
            OutRow::Malformed { reason, .. } => reason,
        })
        .collect())
}

/// Looks as the host does.
fn look<T, F>(dir: &SessionDir, f: F) -> Result<T, UntrustedError>
where
    T: Send + 'static,
    F: FnOnce(&Snapshot<'_>) -> Result<T, UntrustedError> + Send + 'static,
{
    let session = dir.clone();
    undisturbed(dir, move || open_untrusted(&session)?.read(f))
}

/// Looks at what the container put in place just after the host had looked at its kind.
fn look_too_late(dir: &SessionDir) -> Result<Vec<String>, UntrustedError> {
    let db = UntrustedDb { path: out_folder(dir).unwrap().join(OUTBOUND_DB), _private: None };
    undisturbed(dir, move || db.read(ids))
}

/// Runs `f`, which must end in time and leave the container's files and our descriptors alone.
fn undisturbed<T: Send + 'static>(dir: &SessionDir, f: impl FnOnce() -> T + Send + 'static) -> T {
    let before = (listing(&dir.out()), descriptors(dir));
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(f()));
    let result = receive.recv_timeout(HANG).expect("the look hangs, or panicked");
    assert_eq!((listing(&dir.out()), descriptors(dir)), before);
    result
}

/// Everything `lstat` says that changes when a file does.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (u64, u64, u32, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let state = (meta.ino(), meta.size(), meta.mode(), meta.uid(), meta.ctime(), meta.ctime_nsec());
        found.insert(path, state);
    }
    found
}

/// How many descriptors of this process are open on files of the session.
fn descriptors(dir: &SessionDir) -> usize {
    let out = dir.out().canonicalize().unwrap();
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&out))).count()
}
