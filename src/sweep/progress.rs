//! Whether a running container makes progress. Pure: what was seen is told, with the time.
//!
//! Everything is measured on the monotonic clock, from when the host saw it: a clock that is set
//! kills nobody, and neither does a heartbeat that a predecessor left, or a time that cannot be
//! read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::time::Now;

/// No sign of progress for so long, with work at hand: stuck.
const MAX_QUIET: Duration = Duration::from_secs(30 * 60);
/// A message claimed for so long without any sign of progress since: stuck.
const MAX_CLAIM_QUIET: Duration = Duration::from_secs(60);
/// Longest silence a runner may declare.
const MAX_SILENCE: Duration = Duration::from_secs(2 * 3600);
/// Clocks that drift apart by more than this between two looks: one was set.
const MAX_DRIFT: Duration = Duration::from_secs(2);
/// When one that could not be stopped is judged again.
const JUDGE_AGAIN: Duration = Duration::from_secs(10);

/// What is known of one container.
#[derive(Debug)]
pub struct Progress {
    /// The newest sign; the start at first.
    last: Instant,
    heartbeat: Option<Timestamp>,
    looked: Now,
    /// What it has taken, since when.
    claims: BTreeMap<String, Instant>,
    /// A message came that it may not have taken.
    waiting_since: Option<Instant>,
    silent_until: Option<Instant>,
    not_before: Instant,
}

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// It has claimed messages and does nothing about them.
    Stuck,
    /// It may have left due messages lying: its file says.
    Idle,
}

impl Progress {
    /// A container that has just started, or was found running; with the heartbeat that is there.
    /// What it was started for waits until it says that it has taken it.
    pub fn new(now: Now, heartbeat: Option<Timestamp>) -> Progress {
        Progress {
            last: now.instant,
            heartbeat,
            looked: now,
            claims: BTreeMap::new(),
            waiting_since: Some(now.instant),
            silent_until: None,
            not_before: now.instant,
        }
    }

    /// A message came for it.
    pub fn woken(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// What it says it has taken, and until when it will be silent.
    pub fn told(&mut self, claims: Vec<String>, silent_until: Option<Timestamp>, now: Now) {
        if claims.iter().any(|id| !self.claims.contains_key(id)) {
            self.waiting_since = None;
        }
        let since = |id: &String| self.claims.get(id).copied().unwrap_or(now.instant);
        self.claims = claims.into_iter().map(|id| (since(&id), id)).map(|(at, id)| (id, at)).collect();
        self.silent_until = silent_until.map(|at| now.instant + now.until(at).min(MAX_SILENCE));
    }

    /// The heartbeat as it is now.
    pub fn seen(&mut self, heartbeat: Option<Timestamp>, now: Now) {
        if heartbeat != self.heartbeat {
            let since_look = now.instant.duration_since(self.looked.instant);
            let by_wall = Duration::try_from(now.wall.duration_since(self.looked.wall)).unwrap_or(Duration::MAX);
            // By its own time, unless one of the clocks was set.
            let age = match heartbeat {
                Some(at) if by_wall.abs_diff(since_look) <= MAX_DRIFT => {
                    Duration::try_from(now.wall.duration_since(at)).unwrap_or_default().min(since_look)
                }
                _ => Duration::ZERO,
            };
            self.last = self.last.max(now.instant - age);
            self.heartbeat = heartbeat;
        }
        self.looked = now;
    }

    /// Nothing due waits for it after all.
    pub fn nothing_waits(&mut self) {
        self.waiting_since = None;
    }

    /// It could not be stopped: judge it again in a while.
    pub fn put_off(&mut self, now: Instant) {
        self.not_before = now + JUDGE_AGAIN;
    }

    /// Whether it is in no turn, as far as it has said, and was not just found impossible to stop.
    pub fn may_be_evicted(&self, now: Instant) -> bool {
        self.claims.is_empty() && self.not_before <= now
    }

    /// When to look at the heartbeat and judge; `None` while there is nothing to do.
    pub fn next_look(&self) -> Option<Instant> {
        Some(self.limit()?.max(self.not_before))
    }

    /// Judges by what was last [seen](Progress::seen).
    pub fn judge(&self, now: Instant) -> Verdict {
        match self.next_look() {
            Some(at) if at <= now && self.claims.is_empty() => Verdict::Idle,
            Some(at) if at <= now => Verdict::Stuck,
            _ => Verdict::Fine,
        }
    }

    fn limit(&self) -> Option<Instant> {
        let quiet = self.claims.values().filter(|since| self.last <= **since).map(|since| *since + MAX_CLAIM_QUIET);
        let silent = |at: Instant| self.silent_until.map_or(at, |until| until.max(at));
        let with_claims = (!self.claims.is_empty()).then(|| self.last + MAX_QUIET);
        let unclaimed = self.waiting_since.map(|since| since.max(self.last) + MAX_QUIET);
        quiet.chain(with_claims).chain(unclaimed).min().map(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn start() -> Now {
        Now { instant: Instant::now(), wall: "2026-11-21T12:00:00Z".parse().unwrap() }
    }

    fn claimed(t: Now) -> Progress {
        let mut p = Progress::new(t, None);
        p.told(vec!["a".into()], None, t);
        p
    }

    #[test]
    fn one_that_never_takes_what_it_was_started_for_is_asked_about() {
        let t = start();
        let mut p = Progress::new(t, None);
        p.told(vec![], None, t);
        assert_eq!(p.judge((t + (MAX_QUIET - Duration::from_millis(1))).instant), Verdict::Fine);
        assert_eq!(p.judge((t + MAX_QUIET).instant), Verdict::Idle);
    }

    #[test]
    fn one_that_has_nothing_to_do_is_never_judged() {
        let mut p = Progress::new(start(), None);
        p.nothing_waits();
        assert_eq!(p.next_look(), None);
        assert_eq!(p.judge(start().instant + MINUTE * 10_000), Verdict::Fine);
    }

    #[test]
    fn a_claim_without_any_sign_since_is_stuck_after_a_minute() {
        let t = start();
        let p = claimed(t);
        assert_eq!(p.next_look(), Some(t.instant + MINUTE));
        assert_eq!(p.judge((t + (MINUTE - Duration::from_millis(1))).instant), Verdict::Fine);
        assert_eq!(p.judge((t + MINUTE).instant), Verdict::Stuck);
    }

    #[test]
    fn progress_since_the_claim_leaves_half_an_hour() {
        let t = start();
        let mut p = claimed(t);
        let beat = t + MINUTE / 2;
        p.seen(Some(beat.wall), t + MINUTE);
        assert_eq!(p.judge((t + MINUTE * 2).instant), Verdict::Fine);
        assert_eq!(p.next_look(), Some((beat + MAX_QUIET).instant), "counted from the heartbeat, not from the look");
        assert_eq!(p.judge((beat + MAX_QUIET).instant), Verdict::Stuck);
    }

    #[test]
    fn a_heartbeat_left_by_a_predecessor_never_kills_and_never_counts() {
        let t = start();
        let old: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let mut p = Progress::new(t, Some(old));
        p.told(vec!["a".into()], None, t + MINUTE);
        assert_eq!(p.judge((t + MINUTE).instant), Verdict::Fine, "aged from its own start");
        p.seen(Some(old), t + MINUTE * 2);
        assert_eq!(p.judge((t + MINUTE * 2).instant), Verdict::Stuck);
    }

    #[test]
    fn declared_silence_is_waited_for_and_capped() {
        let t = start();
        for (declared, waited) in [(5, 5), (90, 90), (600, 120)] {
            let mut p = Progress::new(t, None);
            p.told(vec!["a".into()], Some((t + MINUTE * declared).wall), t);
            assert_eq!(p.next_look(), Some((t + MINUTE * waited).instant), "{declared} minutes declared");
        }
        let mut p = claimed(t);
        p.told(vec!["a".into()], Some((t + Duration::from_secs(5)).wall), t);
        assert_eq!(p.next_look(), Some((t + MINUTE).instant), "never less than the minute");
    }

    #[test]
    fn a_clock_that_jumps_kills_nobody_that_was_seen_to_live() {
        let t = start();
        let year = jiff::SignedDuration::from_hours(24 * 365);
        for jump in [year * 10, -year * 10] {
            let mut p = claimed(t);
            let beat = t + MINUTE / 2;
            let look = Now { wall: (t + MINUTE).wall + jump, ..t + MINUTE };
            p.seen(Some(beat.wall), look);
            assert_eq!(p.judge(look.instant), Verdict::Fine, "{jump:?}");
            p.seen(Some(beat.wall), Now { wall: look.wall, ..t + MINUTE * 40 });
            assert_eq!(p.judge((t + MINUTE * 40).instant), Verdict::Stuck, "and one that stopped then is found");
        }
    }

    #[test]
    fn a_followup_does_not_renew_what_was_claimed_before() {
        let t = start();
        let mut p = claimed(t);
        p.told(vec!["a".into(), "b".into()], None, t + MINUTE / 2);
        assert_eq!(p.next_look(), Some((t + MINUTE).instant));
    }

    #[test]
    fn messages_it_does_not_take_are_asked_about_after_half_an_hour() {
        let t = start();
        let mut p = Progress::new(t, None);
        p.woken((t + MINUTE).instant);
        p.woken((t + MINUTE * 20).instant);
        assert_eq!(p.judge((t + MINUTE * 31).instant), Verdict::Idle);
        p.nothing_waits();
        assert_eq!(p.judge((t + MINUTE * 90).instant), Verdict::Fine);
        p.woken((t + MINUTE).instant);
        p.told(vec!["a".into()], None, t + MINUTE);
        p.told(vec![], None, t + MINUTE * 2);
        assert_eq!(p.next_look(), None, "what was claimed was taken");
    }

    #[test]
    fn one_that_could_not_be_stopped_is_judged_again_later() {
        let t = start();
        let mut p = claimed(t);
        let late = t + MINUTE;
        assert_eq!(p.judge(late.instant), Verdict::Stuck);
        p.put_off(late.instant);
        assert_eq!(p.judge(late.instant), Verdict::Fine);
        assert_eq!(p.judge(late.instant + JUDGE_AGAIN), Verdict::Stuck);
    }
}
