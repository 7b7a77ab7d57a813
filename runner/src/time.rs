//! The only clock of the runner, and the zone in which the agent sees times.
//!
//! Called from every thread. Intervals use `std::time::Instant`, which no clock change moves;
//! wall time goes into rows and is compared with theirs.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Wall time.
#[allow(clippy::disallowed_methods)] // the one place
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The zone of the first of these names that is one; else UTC. A wrong name must not keep an
/// agent from answering.
pub fn zone<'a>(names: impl IntoIterator<Item = &'a str>) -> TimeZone {
    names
        .into_iter()
        .map(|name| name.trim_start_matches(':'))
        .filter(|name| !name.is_empty())
        .find_map(|name| TimeZone::get(name).ok())
        .unwrap_or(TimeZone::UTC)
}

/// The name of a zone, as the agent reads it.
pub fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// A time as people write it: `Nov 21, 2026, 14:03`.
pub fn local(t: Timestamp, zone: &TimeZone) -> String {
    t.to_zoned(zone.clone()).strftime("%b %-d, %Y, %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_real_zone_wins() {
        assert_eq!(zone_name(&zone(["Mars/Olympus", ":Europe/Berlin", "UTC"])), "Europe/Berlin");
        assert_eq!(zone_name(&zone(["", "nonsense"])), "UTC");
    }

    #[test]
    fn times_are_local() {
        let t = "2026-11-05T13:03:59Z".parse().unwrap();
        assert_eq!(local(t, &zone(["Europe/Berlin"])), "Nov 5, 2026, 14:03");
        assert_eq!(local(t, &TimeZone::UTC), "Nov 5, 2026, 13:03");
    }
}
