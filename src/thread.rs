//! Threads: named, with small stacks, and their deaths are noticed.
//!
//! Every long-lived thread is an actor that ends when its channels close. One that ends while
//! the daemon is not stopping is a fault; its [`Actor`] says so through the `ended` channel and
//! the daemon exits non-zero, so that the service manager starts it afresh. One that hangs is
//! found by its pulse: every wait of an actor stamps it ([`beat`], [`next`]), and while a watchdog
//! is on no wait is longer than a tick.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, Sender, bounded};

/// Enough for SQLite, TLS and our own frames, measured with room to spare. bytes
const STACK_BYTES: usize = 512 * 1024;

/// A running thread.
#[derive(Debug)]
pub struct Actor {
    pub name: &'static str,
    handle: JoinHandle<()>,
    done: Receiver<()>,
    pulse: Pulse,
}

/// When a thread was last seen to turn.
#[derive(Debug, Clone)]
struct Pulse {
    start: Instant,
    /// Since `start`.
    last_ms: Arc<AtomicU64>,
    tick: Option<Duration>,
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

thread_local! {
    /// This thread's own, when it is an actor.
    static PULSE: OnceCell<Pulse> = const { OnceCell::new() };
}

/// Says that this thread turns; called before each wait. How long that may be at most: as long
/// as it likes, when nobody watches.
pub fn beat() -> Option<Duration> {
    PULSE.with(|pulse| {
        let pulse = pulse.get()?;
        pulse.last_ms.store(pulse.now_ms(), Ordering::Relaxed);
        pulse.tick
    })
}

/// Waits for an actor's next event, until `deadline`; `None` is a reason to look at the time.
/// An error says that the channel is closed: stop.
pub fn next<E>(events: &Receiver<E>, deadline: Option<Instant>) -> Result<Option<E>, RecvError> {
    let until = [deadline, beat().map(|tick| Instant::now() + tick)].into_iter().flatten().min();
    let Some(until) = until else { return events.recv().map(Some) };
    match events.recv_deadline(until) {
        Ok(event) => Ok(Some(event)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(RecvError),
    }
}

/// Tells another actor something. One that is gone is told nothing: it goes only when the host stops
/// (or is about to, since it ended early), and the next start finds on disk what it is about.
pub fn tell<E>(actor: &Sender<E>, event: E) {
    drop(actor.send(event));
}

/// Waits, where what is waited for is in another process that sends no news.
pub fn pause(wait: Duration) {
    // This channel is never closed.
    let _ = crossbeam_channel::after(wait).recv();
}

/// Starts `body` on a thread called `name`; its name is sent on `ended` when it returns. It shows
/// itself once in a `tick`, if that is given.
pub fn spawn_actor(
    name: &'static str,
    ended: Sender<&'static str>,
    tick: Option<Duration>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<Actor> {
    let (done_tx, done) = bounded::<()>(0);
    let pulse = Pulse { start: Instant::now(), last_ms: Arc::default(), tick };
    let own = pulse.clone();
    let handle = Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
        PULSE.with(|pulse| pulse.set(own).expect("a new thread has none"));
        body();
        // Nobody listens any more once the daemon is past its main loop.
        let _ = ended.try_send(name);
        drop(done_tx);
    })?;
    Ok(Actor { name, handle, done, pulse })
}

/// Starts a thread that does one thing and is not waited for.
pub fn spawn_worker(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(body).map(drop)
}

impl Actor {
    /// How long it has not turned.
    pub fn silence(&self) -> Duration {
        let last_ms = self.pulse.last_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.pulse.now_ms().saturating_sub(last_ms))
    }

    /// Waits for the thread to end, until `deadline`.
    /// The error is its name, when it did not end in time or panicked.
    pub fn join_until(self, deadline: Instant) -> Result<(), &'static str> {
        let left = deadline.saturating_duration_since(Instant::now());
        // The sender is never used: dropping it is the news.
        match self.done.recv_timeout(left.max(Duration::from_millis(1))) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(self.name),
            _ => self.handle.join().map_err(|_| self.name),
        }
    }
}
