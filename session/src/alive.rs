//! Life and progress (rule 9): the `alive` lock and the heartbeat.
//!
//! Both are hints. Only the engine's word proves that a container is dead.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timestamps};
use rustix::time::Timespec;

use crate::layout::SessionDir;

/// The runner's lock on `alive`. Freed by the kernel when the last process that holds it is gone.
#[derive(Debug)]
pub struct AliveLock {
    _file: File,
}

impl AliveLock {
    /// Takes the lock: an open-file-description read lock, so a file opened read-only (the
    /// workspace is) will do, and a child that inherits nothing does not free it. Fails on a file
    /// system without such locks.
    pub fn take(dir: &SessionDir) -> io::Result<AliveLock> {
        let file = File::open(dir.alive())?;
        ofd_lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK)?;
        Ok(AliveLock { _file: file })
    }
}

/// Asks whether a runner holds the lock. Never takes it.
pub fn is_locked(dir: &SessionDir) -> io::Result<bool> {
    let file = File::open(dir.alive())?;
    let held = ofd_lock(&file, libc::F_OFD_GETLK, libc::F_WRLCK)?;
    Ok(i32::from(held) != libc::F_UNLCK)
}

/// Issues one OFD lock command over the whole file; returns the lock type it reports.
fn ofd_lock(file: &File, command: libc::c_int, kind: libc::c_int) -> io::Result<libc::c_short> {
    // SAFETY: all zeroes is a valid flock: whole file, pid 0 as OFD locks demand.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open and `lock` outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(lock.l_type) }
}

/// Touches the heartbeat: the runner made progress at `now`.
pub fn touch_heartbeat(dir: &SessionDir, now: Timestamp) -> io::Result<()> {
    let path = dir.heartbeat();
    let time = Timespec { tv_sec: now.as_second(), tv_nsec: now.subsec_nanosecond().max(0).into() };
    let times = Timestamps { last_access: time, last_modification: time };
    // By path, not by descriptor: closing a file opened for writing would wake the watchers.
    match rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644))?;
            Ok(rustix::fs::futimens(file, &times)?)
        }
        other => Ok(other?),
    }
}

/// When the runner last made progress; `None` when there is no heartbeat.
pub fn last_heartbeat(dir: &SessionDir) -> Option<Timestamp> {
    let modified = dir.heartbeat().symlink_metadata().and_then(|meta| meta.modified()).ok()?;
    Timestamp::try_from(modified).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_seen_from_another_description_and_freed_with_its_holder() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        dir.prepare().unwrap();
        assert!(!is_locked(&dir).unwrap());
        let lock = AliveLock::take(&dir).unwrap();
        assert!(is_locked(&dir).unwrap());
        assert!(is_locked(&dir).unwrap(), "asking does not disturb it");
        drop(lock);
        assert!(!is_locked(&dir).unwrap());
    }

    #[test]
    fn the_heartbeat_carries_the_time_it_was_given() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        dir.prepare().unwrap();
        std::fs::remove_file(dir.root().join(".heartbeat")).unwrap();
        assert_eq!(last_heartbeat(&dir), None);
        for t in ["2026-11-21T12:00:00.5Z", "2026-11-21T12:00:07Z"] {
            let t: Timestamp = t.parse().unwrap();
            touch_heartbeat(&dir, t).unwrap();
            assert_eq!(last_heartbeat(&dir), Some(t));
        }
    }
}
