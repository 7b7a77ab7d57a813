//! The lines a stream gives, kept, for any number of waits that look at all of them.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// See the module. Clones share what was read.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `stream` to its end on a thread of its own.
    pub fn of(stream: impl Read + Send + 'static) -> Lines {
        let lines = Lines { shared: Arc::default() };
        let theirs = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                theirs.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                theirs.shared.1.notify_all();
            }
            theirs.lock().ended = true;
            theirs.shared.1.notify_all();
        });
        lines
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Waits until `found` makes something of the lines so far.
    ///
    /// # Errors
    /// The lines there are, when the stream ends or `limit` passes first.
    pub fn wait<T>(&self, limit: Duration, mut found: impl FnMut(&[String]) -> Option<T>) -> Result<T, Vec<String>> {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&state.lines) {
                return Ok(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return Err(state.lines.clone());
            }
            state = self.shared.1.wait_timeout(state, left).expect("no reader panics").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no reader panics")
    }
}
