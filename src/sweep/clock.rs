//! The wall clock as the sweep believes it. A machine without a battery clock boots with any
//! time; until the kernel says that it was set, what is scheduled does not fire by such a clock.
//! On a machine that has run for a while, a home may simply not have been used for long.
//!
//! What needs no clock (a message that just came) is not held up.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::time::Now;

/// A host may be switched off for so long, or its clock be behind for so long, without a doubt.
const PLAUSIBLE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A doubtful clock that nothing corrects is believed after so long: the machine may have no network.
const MAX_DOUBT: Duration = Duration::from_secs(600);

/// The time to judge by.
#[derive(Debug)]
pub struct Clock {
    doubt: Option<Doubt>,
}

#[derive(Debug)]
struct Doubt {
    /// The last moment that is known, and when the host started.
    last_known: Timestamp,
    since: Instant,
}

impl Clock {
    /// `last_known`: when the home was last written to, in an earlier life. `uptime`: since the boot.
    pub fn new(last_known: Option<Timestamp>, now: Now, uptime: Duration, is_synchronised: fn() -> bool) -> Clock {
        let doubtful = |last: &Timestamp| {
            now.wall.duration_since(*last).abs() > PLAUSIBLE && uptime < MAX_DOUBT && !is_synchronised()
        };
        let doubt = last_known.filter(doubtful).map(|last_known| Doubt { last_known, since: now.instant });
        if let Some(Doubt { last_known, .. }) = &doubt {
            log::warn!("The clock may be wrong: what is scheduled waits for it to be set last_known={last_known}");
        }
        Clock { doubt }
    }

    /// What time it is. In doubt, the last known moment and what has passed since the start.
    pub fn wall(&mut self, now: Now, is_synchronised: fn() -> bool) -> Timestamp {
        let Some(Doubt { last_known, since }) = &self.doubt else { return now.wall };
        let passed = now.instant.duration_since(*since);
        if passed < MAX_DOUBT && !is_synchronised() {
            return last_known.saturating_add(passed).unwrap_or(now.wall);
        }
        log::info!("The clock is believed now wall={} after_s={}", now.wall, passed.as_secs());
        self.doubt = None;
        now.wall
    }
}

/// Whether the kernel says that the clock is kept in step with others (adjtimex(2)).
pub fn is_synchronised() -> bool {
    // SAFETY: all zeroes is a valid request that changes nothing.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `request` is ours and outlives the call.
    let state = unsafe { libc::adjtimex(&mut request) };
    state != -1 && request.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that has just booted.
    const BOOT: Duration = Duration::from_secs(5);

    fn now() -> Now {
        Now { instant: Instant::now(), wall: "2026-11-21T12:00:00Z".parse().unwrap() }
    }

    fn days(n: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * n)
    }

    #[test]
    fn a_week_switched_off_is_no_reason_for_doubt() {
        for last_known in [None, Some(now().wall), Some(now().wall - days(29)), Some(now().wall + days(29))] {
            assert_eq!(
                Clock::new(last_known, now(), BOOT, || false).wall(now(), || false),
                now().wall,
                "{last_known:?}"
            );
        }
    }

    #[test]
    fn a_home_that_was_not_used_for_long_is_no_reason_on_a_machine_that_knows_the_time_or_runs_for_long() {
        let t = now();
        let long_ago = Some(t.wall - days(365));
        assert!(Clock::new(long_ago, t, BOOT, || false).doubt.is_some());
        assert!(Clock::new(long_ago, t, BOOT, || true).doubt.is_none());
        assert!(Clock::new(long_ago, t, MAX_DOUBT, || false).doubt.is_none(), "each of cron's cycles is too short");
    }

    #[test]
    fn a_clock_that_jumped_by_ten_years_is_not_believed_until_it_is_set() {
        let t = now();
        for jump in [days(3650), days(-3650)] {
            let mut clock = Clock::new(Some(t.wall - jump), t, BOOT, || false);
            let later = t + Duration::from_secs(60);
            assert_eq!(clock.wall(later, || false), t.wall - jump + Duration::from_secs(60));
            assert_eq!(clock.wall(later, || true), later.wall);
            assert_eq!(clock.wall(later, || false), later.wall, "once believed, always");
        }
    }

    #[test]
    fn a_machine_that_nobody_tells_the_time_goes_on_after_ten_minutes() {
        let t = now();
        let mut clock = Clock::new(Some(t.wall - days(3650)), t, BOOT, || false);
        let just_before = t + (MAX_DOUBT - Duration::from_secs(1));
        assert!(clock.wall(just_before, || false) < t.wall - days(3649));
        assert_eq!(clock.wall(t + MAX_DOUBT, || false), (t + MAX_DOUBT).wall);
    }
}
