//! Threads: named, with small stacks, and their deaths are noticed.
//!
//! Every long-lived thread is an actor that ends when its channels close. One that ends while
//! the daemon is not stopping is a fault; its [`Actor`] says so through the `ended` channel and
//! the daemon exits non-zero, so that the service manager starts it afresh.

use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Enough for SQLite, TLS and our own frames, measured with room to spare. bytes
const STACK_BYTES: usize = 512 * 1024;

/// A running thread.
#[derive(Debug)]
pub struct Actor {
    name: &'static str,
    handle: JoinHandle<()>,
    done: Receiver<()>,
}

/// Starts `body` on a thread called `name`; its name is sent on `ended` when it returns.
///
/// # Errors
/// The system has no thread left.
pub fn spawn_actor(
    name: &'static str,
    ended: Sender<&'static str>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<Actor> {
    let (done_tx, done) = bounded::<()>(0);
    let handle = Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
        body();
        // Nobody listens any more once the daemon is past its main loop.
        let _ = ended.try_send(name);
        drop(done_tx);
    })?;
    Ok(Actor { name, handle, done })
}

/// Starts a thread that does one thing and is not waited for.
///
/// # Errors
/// The system has no thread left.
pub fn spawn_worker(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(body).map(drop)
}

impl Actor {
    /// Waits for the thread to end, until `deadline`.
    ///
    /// # Errors
    /// Its name, when it did not end in time or panicked.
    pub fn join_until(self, deadline: Instant) -> Result<(), &'static str> {
        let left = deadline.saturating_duration_since(Instant::now());
        // The sender is never used: dropping it is the news.
        match self.done.recv_timeout(left.max(Duration::from_millis(1))) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(self.name),
            _ => self.handle.join().map_err(|_| self.name),
        }
    }
}
