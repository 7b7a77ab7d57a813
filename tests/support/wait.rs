//! Waiting: for a change in a folder, for the end of a process, for anything with a deadline.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Longest wait for anything that should happen by itself.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often is looked without news: for what no notification tells of.
const LOOK: Duration = Duration::from_millis(50);

/// The tests' clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Waits until `check` gives something: looked at whenever something changes in one of `folders`,
/// and every now and then.
///
/// # Panics
/// When it does not in time.
#[track_caller]
pub fn wait_for<T>(what: &str, folders: &[&Path], check: impl FnMut() -> Option<T>) -> T {
    match wait_until(DEADLINE, folders, check) {
        Some(value) => value,
        None => panic!("waited {} s for {what}", DEADLINE.as_secs()),
    }
}

/// The same; none when it does not within `limit`.
pub fn wait_until<T>(limit: Duration, folders: &[&Path], mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify");
    let changes = WatchFlags::CLOSE_WRITE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO;
    for folder in folders {
        inotify::add_watch(&inotify, *folder, changes).unwrap_or_else(|e| panic!("watch {}: {e}", folder.display()));
    }
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        if is_readable(&inotify, left.min(LOOK)) {
            drain(&inotify);
        }
    }
}

/// Tells at once when a file of some name is made in one of some folders.
pub struct Creations {
    inotify: OwnedFd,
    name: &'static str,
}

impl Creations {
    /// Listens from now on. Folders that are not there are left out.
    pub fn of(name: &'static str, folders: impl IntoIterator<Item = PathBuf>) -> Creations {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify");
        for folder in folders {
            match inotify::add_watch(&inotify, &folder, WatchFlags::CREATE) {
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => panic!("watch {}: {e}", folder.display()),
            }
        }
        Creations { inotify, name }
    }

    /// Waits for the next one; whether it came within `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.file_name().is_some_and(|n| n.to_bytes() == self.name.as_bytes()) => return true,
                Ok(_) => {}
                Err(_) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() || !is_readable(&self.inotify, left) {
                        return false;
                    }
                }
            }
        }
    }
}

/// Lets `time` pass, for what is itself a matter of time.
pub fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        // EINTR only means another round.
        let _interrupted = poll(&mut [], Some(&timespec(left)));
    }
}

/// Whether `fd` becomes readable within `limit`. A pidfd does when its process ends.
pub fn is_readable(fd: impl AsFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timespec(left))) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {}", io::Error::from(e)),
        }
    }
}

fn drain(inotify: &OwnedFd) {
    let mut buffer = [0; 16 * 1024];
    while rustix::io::read(inotify, &mut buffer).is_ok_and(|n| n > 0) {}
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
