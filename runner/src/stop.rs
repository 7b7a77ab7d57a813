//! One word to everything a turn has started: stop. Given by dropping the [`Stopper`]; heard by every clone of
//! its [`Stop`], at once and for good.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// The turn was stopped, or the agent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Whoever may say it. Dropped: said.
#[derive(Debug)]
pub struct Stopper {
    _word: Sender<Infallible>,
}

/// Whoever must hear it.
#[derive(Debug, Clone)]
pub struct Stop {
    word: Receiver<Infallible>,
}

/// A new pair.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = bounded(0);
    (Stopper { _word: sender }, Stop { word: receiver })
}

impl Stop {
    /// Whether it was said.
    pub fn check(&self) -> Result<(), Stopped> {
        self.wait(Duration::ZERO)
    }

    /// Waits for `pause`, unless it is said before.
    pub fn wait(&self, pause: Duration) -> Result<(), Stopped> {
        match self.word.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stopped),
            Ok(never) => match never {},
        }
    }

    /// For `select!`: ready, with an error, once it was said.
    pub fn word(&self) -> &Receiver<Infallible> {
        &self.word
    }
}
