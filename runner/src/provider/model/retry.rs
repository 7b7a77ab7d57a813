//! When a failed request is tried again. Pure: time is passed in.
//!
//! The pause doubles from one second to a minute; the server's own `retry-after` is honoured in its
//! place.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What a server asks for beyond this is not waited for within a turn.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest time from the first request to the last one's beginning.
const LONGEST_TRYING: Duration = Duration::from_secs(600);
const MAX_TRIES: u32 = 14;

/// The tries of one request.
#[derive(Debug)]
pub struct Retry {
    began: Instant,
    tries: u32,
    pause: Duration,
}

impl Retry {
    /// The first try begins now.
    pub fn new(now: Instant) -> Retry {
        Retry { began: now, tries: 1, pause: FIRST_PAUSE }
    }

    /// A try has failed: the pause before the next one, if there is to be one.
    pub fn next(&mut self, now: Instant, retry_after: Option<Duration>) -> Option<Duration> {
        let pause = match retry_after {
            Some(asked) if asked > LONGEST_PAUSE => return None,
            Some(asked) => asked.max(FIRST_PAUSE),
            None => self.pause,
        };
        if self.tries == MAX_TRIES || now.duration_since(self.began) + pause > LONGEST_TRYING {
            return None;
        }
        self.tries += 1;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_minute_and_end_after_ten() {
        let began = Instant::now();
        let (mut retry, mut now, mut pauses) = (Retry::new(began), began, Vec::new());
        while let Some(pause) = retry.next(now, None) {
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(now - began <= LONGEST_TRYING);
        assert!(now - began > LONGEST_TRYING / 2);
    }

    #[test]
    fn quick_failures_end_too() {
        let now = Instant::now();
        let mut retry = Retry::new(now);
        let tries = 1 + std::iter::from_fn(|| retry.next(now, None)).count();
        assert_eq!(tries, MAX_TRIES as usize);
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_or_too_late() {
        let now = Instant::now();
        let mut retry = Retry::new(now);
        assert_eq!(retry.next(now, Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(retry.next(now, Some(Duration::ZERO)), Some(FIRST_PAUSE));
        let hour = Duration::from_secs(3_600);
        assert_eq!(retry.next(now, Some(hour)), None);
    }
}
