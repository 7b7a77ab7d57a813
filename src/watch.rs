//! One thread that waits for descriptors on behalf of the actors: the notifications of every
//! live session's `out/`, and the pidfd of every running container.
//!
//! It turns readiness into messages and knows nothing else. A container that storms its own
//! notification queue costs a bounded share: after a burst of [`BURST`] drains a session's watch
//! rests until [`DRAIN_INTERVAL`] has passed for each (rule 10 of the session contract).

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use nanoclaw_session::layout::OUTBOUND_DB;
use nanoclaw_session::watch::DirWatch;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::delivery;
use crate::sweep;
use crate::thread;

/// At least this long between two drains of one session's queue, on average.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Drains that may follow each other at once: a claim and its answer are a few milliseconds apart.
const BURST: u32 = 4;
/// Commands that wait for the thread. Sweep sends a handful per container start.
const QUEUE: usize = 64;
/// The token of the descriptor that says "there are commands".
const COMMANDS: u64 = 0;

/// What to wait for.
#[derive(Debug)]
pub enum Command {
    /// [`delivery::Event::Changed`] is sent whenever the container of this session wrote.
    Session {
        session_id: String,
        watch: DirWatch,
    },
    ForgetSession {
        session_id: String,
    },
    /// [`sweep::Event::Died`] is sent once when the process is gone.
    Process {
        run_id: String,
        pidfd: OwnedFd,
    },
    Stop,
}

/// Handle to the thread.
#[derive(Debug, Clone)]
pub struct Watcher {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Watcher {
    pub fn send(&self, command: Command) {
        // The thread is gone only when the daemon stops; then nobody waits for an answer.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// Creates the handle and the thread's body.
pub fn watcher(
    delivery: Sender<delivery::Event>,
    sweep: Sender<sweep::Event>,
) -> io::Result<(Watcher, impl FnOnce() + Send)> {
    let (commands, queue) = bounded(QUEUE);
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &*wake, EventData::new_u64(COMMANDS), EventFlags::IN)?;
    let body = Body {
        queue,
        wake: Arc::clone(&wake),
        epoll,
        delivery,
        sweep,
        watched: HashMap::new(),
        next_token: COMMANDS + 1,
    };
    Ok((Watcher { commands, wake }, move || {
        if let Err(e) = body.run() {
            log::error!("The watcher stopped error={e}");
        }
    }))
}

#[derive(Debug)]
enum Watched {
    Session { session_id: String, watch: DirWatch, rest: Rest },
    Process { run_id: String, pidfd: OwnedFd },
}

/// How much a session has used of its share of drains.
#[derive(Debug)]
struct Rest {
    /// Drains not yet paid for with time, at `since`.
    used: u32,
    since: Instant,
    /// While set, the descriptor is not armed.
    until: Option<Instant>,
}

struct Body {
    queue: Receiver<Command>,
    wake: Arc<OwnedFd>,
    epoll: OwnedFd,
    delivery: Sender<delivery::Event>,
    sweep: Sender<sweep::Event>,
    watched: HashMap<u64, Watched>,
    next_token: u64,
}

impl Body {
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(32);
        loop {
            let rearm = self.resting().map(|(_, until)| until).min();
            let rearm = rearm.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = [rearm, thread::beat()].into_iter().flatten().min().map(timespec);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                let token = event.data.u64();
                let flow = if token == COMMANDS { self.obey()? } else { self.ready(token)? };
                if flow.is_break() {
                    return Ok(());
                }
            }
            self.rearm_rested()?;
        }
    }

    fn obey(&mut self) -> io::Result<ControlFlow<()>> {
        let mut count = [0; 8];
        // Nothing to read means another round took it; the queue is what counts.
        let _ = rustix::io::read(&*self.wake, &mut count);
        while let Ok(command) = self.queue.try_recv() {
            match command {
                Command::Session { session_id, watch } => {
                    self.forget(&session_id);
                    let rest = Rest { used: 0, since: Instant::now(), until: None };
                    self.add(Watched::Session { session_id, watch, rest })?;
                }
                Command::ForgetSession { session_id } => self.forget(&session_id),
                Command::Process { run_id, pidfd } => self.add(Watched::Process { run_id, pidfd })?,
                Command::Stop => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn add(&mut self, watched: Watched) -> io::Result<()> {
        let token = self.next_token;
        self.next_token += 1;
        let fd = match &watched {
            Watched::Session { watch, .. } => watch.as_fd(),
            Watched::Process { pidfd, .. } => pidfd.as_fd(),
        };
        epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::ONESHOT)?;
        self.watched.insert(token, watched);
        Ok(())
    }

    /// Dropping the descriptor takes it out of the epoll set.
    fn forget(&mut self, session: &str) {
        self.watched.retain(|_, w| !matches!(w, Watched::Session { session_id, .. } if session_id == session));
    }

    fn ready(&mut self, token: u64) -> io::Result<ControlFlow<()>> {
        let sent = match self.watched.get_mut(&token) {
            None => return Ok(ControlFlow::Continue(())),
            Some(Watched::Process { run_id, .. }) => {
                let event = sweep::Event::Died { run_id: std::mem::take(run_id) };
                self.watched.remove(&token);
                self.sweep.send(event).is_ok()
            }
            Some(Watched::Session { session_id, watch, rest }) => {
                // A watch that fails is given up; delivery looks once a second all the same.
                let news = match watch.drain(OUTBOUND_DB) {
                    Ok(news) => news,
                    Err(e) => {
                        log::warn!("Notifications of a session failed session={session_id} error={e}");
                        self.watched.remove(&token);
                        return Ok(ControlFlow::Continue(()));
                    }
                };
                rest.charge(Instant::now());
                if rest.until.is_none() {
                    arm(&self.epoll, watch, token)?;
                }
                !news || self.delivery.send(delivery::Event::Changed { session_id: session_id.clone() }).is_ok()
            }
        };
        Ok(if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn resting(&self) -> impl Iterator<Item = (u64, Instant)> + '_ {
        self.watched.iter().filter_map(|(token, w)| match w {
            Watched::Session { rest, .. } => rest.until.map(|until| (*token, until)),
            Watched::Process { .. } => None,
        })
    }

    fn rearm_rested(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let rested: Vec<u64> = self.resting().filter(|(_, until)| *until <= now).map(|(token, _)| token).collect();
        for token in rested {
            if let Some(Watched::Session { watch, rest, .. }) = self.watched.get_mut(&token) {
                rest.until = None;
                arm(&self.epoll, watch, token)?;
            }
        }
        Ok(())
    }
}

fn arm(epoll: &OwnedFd, fd: impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::modify(epoll, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::ONESHOT)?)
}

impl Rest {
    fn charge(&mut self, now: Instant) {
        let paid = now.duration_since(self.since).as_millis() / DRAIN_INTERVAL.as_millis();
        self.used = self.used.saturating_sub(u32::try_from(paid).unwrap_or(u32::MAX)) + 1;
        self.since = now;
        if self.used >= BURST {
            self.until = Some(now + DRAIN_INTERVAL);
        }
    }
}

/// Waits until `fd` is readable or `limit` has passed; true when it is readable.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(limit))) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A duration as poll(2) takes it, rounded up so that a deadline is never woken for early.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().min(i64::MAX as u64) as i64, tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Fixture {
        watcher: Watcher,
        changed: Receiver<delivery::Event>,
        died: Receiver<sweep::Event>,
    }

    fn start() -> Fixture {
        let (delivery, changed) = bounded(4096);
        let (sweep, died) = bounded(16);
        let (watcher, body) = watcher(delivery, sweep).unwrap();
        std::thread::spawn(body);
        Fixture { watcher, changed, died }
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_write_in_a_session_is_told_until_it_is_forgotten() {
        let f = start();
        let tmp = tempfile::tempdir().unwrap();
        f.watcher.send(Command::Session { session_id: "s1".into(), watch: DirWatch::new(tmp.path()).unwrap() });
        for _ in 0..3 {
            fs::write(tmp.path().join(OUTBOUND_DB), b"x").unwrap();
            assert!(
                matches!(f.changed.recv_timeout(SOON), Ok(delivery::Event::Changed { session_id }) if session_id == "s1")
            );
        }
        f.watcher.send(Command::ForgetSession { session_id: "s1".into() });
        f.watcher.send(Command::Stop);
        assert!(f.changed.recv_timeout(SOON).is_err(), "stopped without news");
    }

    #[test]
    fn a_storm_is_slowed_down() {
        let f = start();
        let tmp = tempfile::tempdir().unwrap();
        f.watcher.send(Command::Session { session_id: "s1".into(), watch: DirWatch::new(tmp.path()).unwrap() });
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(400) {
            fs::write(tmp.path().join(OUTBOUND_DB), b"x").unwrap();
        }
        let fair = started.elapsed().as_millis() / DRAIN_INTERVAL.as_millis() + u128::from(BURST);
        assert!(f.changed.len() as u128 <= fair + 1, "{} events, fair is {fair}", f.changed.len());
        assert!(f.changed.recv_timeout(SOON).is_ok());
    }

    #[test]
    fn the_death_of_a_process_is_told_once() {
        let f = start();
        #[allow(clippy::disallowed_methods)] // any child will do, and it is killed here
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        f.watcher.send(Command::Process { run_id: "run-1".into(), pidfd });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(f.died.recv_timeout(SOON), Ok(sweep::Event::Died { run_id }) if run_id == "run-1"));
        f.watcher.send(Command::Stop);
        assert!(f.died.recv_timeout(SOON).is_err());
    }
}
