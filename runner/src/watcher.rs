//! Everything that reaches the runner from outside: changes of `inbound.db`, and signals.
//!
//! One thread waits in `poll(2)` for both and says "look again" or "leave". Where a mount carries
//! no notifications, or none can be had, the file's stamp is compared once a second. The thread
//! ends with the agent's end of the channel.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nanoclaw_session::layout::{INBOUND_DB, SessionDir};
use nanoclaw_session::stamp::Stamp;
use nanoclaw_session::watch::DirWatch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::provider::STACK_BYTES;

/// How often the file's stamp is compared when nothing was heard.
const FALLBACK: Duration = Duration::from_millis(1_000);
/// Least time between two drains: one commit makes several events, of which the first says enough.
/// Far less than the host allows itself: only the host, which is trusted, writes here, and a
/// message that follows another commit closely must not wait.
const BETWEEN_DRAINS: Duration = Duration::from_millis(2);

/// What can happen outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// `inbound.db` may have changed: look again.
    Inbound,
    /// SIGTERM or SIGINT: leave.
    Terminate,
}

/// Starts the thread. The watch exists when this returns, so a read that follows misses nothing.
pub fn start(dir: &SessionDir) -> io::Result<Receiver<Outside>> {
    let (signals, write) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGINT, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, write)?;
    let watch = match DirWatch::new(dir.root()) {
        Ok(watch) => Some(watch),
        Err(e) => {
            eprintln!("No notifications, polling instead error={e}");
            None
        }
    };
    let file = dir.inbound_db();
    let (events, receiver) = bounded(2);
    let watcher = Watcher { stamp: Stamp::take(&file).ok(), file, watch, signals, events };
    thread::Builder::new().name("watcher".into()).stack_size(STACK_BYTES).spawn(move || watcher.run())?;
    Ok(receiver)
}

struct Watcher {
    file: PathBuf,
    stamp: Option<Stamp>,
    watch: Option<DirWatch>,
    signals: UnixStream,
    events: Sender<Outside>,
}

impl Watcher {
    fn run(mut self) {
        let mut quiet_until = Instant::now();
        loop {
            let pause = quiet_until.saturating_duration_since(Instant::now());
            let heard = match self.wait(pause) {
                Ok(heard) => heard,
                Err(e) => {
                    eprintln!("Waiting failed, leaving error={e}");
                    Heard::Signal
                }
            };
            let changed = match heard {
                Heard::Signal => {
                    // A failed send: the agent is gone already.
                    let _gone = self.events.send(Outside::Terminate);
                    return;
                }
                Heard::Directory => {
                    quiet_until = Instant::now() + BETWEEN_DRAINS;
                    self.drain()
                }
                Heard::Nothing => false,
            };
            let stamp = Stamp::take(&self.file).ok();
            let stamp_changed = std::mem::replace(&mut self.stamp, stamp) != stamp;
            if changed || stamp_changed {
                match self.events.try_send(Outside::Inbound) {
                    // Full: a look is due anyway.
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
        }
    }

    /// Waits for a signal or, after `pause`, for the directory; at most [`FALLBACK`].
    fn wait(&self, pause: Duration) -> io::Result<Heard> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut timeout = FALLBACK;
        match &self.watch {
            Some(_) if !pause.is_zero() => timeout = pause,
            Some(watch) => fds.push(PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)),
            None => {}
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)).map_err(io::Error::from) {
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Heard::Nothing),
            Err(e) => Err(e),
            Ok(_) if !fds[0].revents().is_empty() => Ok(Heard::Signal),
            Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => Ok(Heard::Directory),
            Ok(_) => Ok(Heard::Nothing),
        }
    }

    fn drain(&mut self) -> bool {
        let Some(watch) = &self.watch else { return false };
        watch.drain(INBOUND_DB).unwrap_or_else(|e| {
            eprintln!("Notifications failed, polling instead error={e}");
            self.watch = None;
            true
        })
    }
}

enum Heard {
    Signal,
    Directory,
    Nothing,
}
