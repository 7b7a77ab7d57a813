//! The host's only clocks. Everything else is given the time.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The wall clock, UTC. Durations are measured with [`Instant`], never with this.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The day it is at `at` in a time zone; of UTC, should the zone be unknown.
pub fn day(at: Timestamp, zone: &str) -> Date {
    at.to_zoned(TimeZone::get(zone).unwrap_or(TimeZone::UTC)).date()
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}

impl Now {
    pub fn read() -> Now {
        Now { instant: Instant::now(), wall: now() }
    }

    /// How long from now until `at`; zero when that is over.
    pub fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.wall)).unwrap_or_default()
    }

    /// When the wall clock will say `at`, unless it is set meanwhile.
    pub fn instant_of(&self, at: Timestamp) -> Instant {
        self.instant.checked_add(self.until(at)).unwrap_or(self.instant)
    }
}

/// The clock behind [`std::time::Instant`]: since the machine booted.
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
impl std::ops::Add<Duration> for Now {
    type Output = Now;

    fn add(self, by: Duration) -> Now {
        Now { instant: self.instant + by, wall: self.wall + by }
    }
}
