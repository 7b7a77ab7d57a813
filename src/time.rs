//! The host's only clocks. Everything else is given the time.

use jiff::Timestamp;

/// The wall clock, UTC. Durations are measured with [`std::time::Instant`], never with this.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The clock behind [`std::time::Instant`], as the service manager wants it. microseconds
pub fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}
