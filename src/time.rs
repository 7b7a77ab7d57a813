//! The host's only clock. Everything else is given the time.

use jiff::Timestamp;

/// The wall clock, UTC. Durations are measured with [`std::time::Instant`], never with this.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
