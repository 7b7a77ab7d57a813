//! "Look again": both sides watch a directory of the other (rule 10).
//!
//! The *directory* is watched, because SQLite's journal comes and goes beside its database. A watch
//! says only that something happened; where a mount carries none, the caller's 1 s poll does.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Most buffers read in one [`DirWatch::drain`]: a storm of events must not hold the reader.
const MAX_READS_PER_DRAIN: usize = 8;

/// A watch on one directory. Its descriptor becomes readable when something happened.
#[derive(Debug)]
pub struct DirWatch {
    inotify: OwnedFd,
}

impl DirWatch {
    /// Watches `directory`. Add the watch before the first read, or a change is missed.
    /// Fails when the directory is gone or the user's limit of inotify instances is reached.
    pub fn new(directory: &Path) -> io::Result<DirWatch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, directory, flags)?;
        Ok(DirWatch { inotify })
    }

    /// Takes what is queued; true when it concerns `database` or its journal, or when the queue
    /// overflowed and so anything may have happened. On a failure the caller falls back to polling.
    pub fn drain(&self, database: &str) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let (mut relevant, mut reads) = (false, 0);
        loop {
            if reader.is_buffer_empty() {
                if reads == MAX_READS_PER_DRAIN {
                    return Ok(true);
                }
                reads += 1;
            }
            match reader.next() {
                Ok(event) => {
                    relevant |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                        || event.file_name().is_some_and(|name| concerns(name, database));
                }
                Err(Errno::AGAIN) => return Ok(relevant),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for DirWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn concerns(name: &CStr, database: &str) -> bool {
    name.to_str().is_ok_and(|n| n.strip_prefix(database).is_some_and(|rest| matches!(rest, "" | "-journal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_seen_and_other_files_are_not() {
        let tmp = tempfile::tempdir().unwrap();
        let watch = DirWatch::new(tmp.path()).unwrap();
        assert!(!watch.drain("outbound.db").unwrap());
        std::fs::write(tmp.path().join("heartbeat"), b"").unwrap();
        std::fs::write(tmp.path().join("outbound.db-storm"), b"").unwrap();
        assert!(!watch.drain("outbound.db").unwrap());
        let db = rusqlite::Connection::open(tmp.path().join("outbound.db")).unwrap();
        db.execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(watch.drain("outbound.db").unwrap());
        assert!(!watch.drain("outbound.db").unwrap());
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(watch.drain("outbound.db").unwrap());
    }

    #[test]
    fn a_storm_is_cut_short_and_counts_as_news() {
        let tmp = tempfile::tempdir().unwrap();
        let watch = DirWatch::new(tmp.path()).unwrap();
        for i in 0..2_000 {
            std::fs::write(tmp.path().join(format!("storm-{i}")), b"").unwrap();
        }
        assert!(watch.drain("outbound.db").unwrap());
    }
}
