//! The sweep's decisions, pure: what a session needs next, and what becomes of the messages a
//! dead container had taken.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::content::{Inbound, System};
use nanoclaw_session::row::{InKind, MessageIn, Trigger};

use crate::config::ContainerSettings;
use crate::store::StartReason;

/// How often a message is tried before its sender is told that it failed.
pub const MAX_TRIES: u32 = 5;
/// Wait before the first retry; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// What a container takes before its agent does anything: its shim and its runner, rounded up. bytes
const CONTAINER_BYTES: u64 = 32 << 20;
/// Longest wait between two starts of a session whose containers do not live.
const MAX_CRASH_BACKOFF: Duration = Duration::from_secs(300);

/// What a session without a container needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Start(StartReason),
    /// Nothing before this time.
    At(Timestamp),
    Nothing,
}

/// What becomes of a message a dead container had taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Retry { id: String, tries: u32, after: Timestamp },
    Fail { id: String },
}

/// What the machine has left for one more container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Containers that run, start or end.
    pub live: usize,
    pub max_live: usize,
    /// What the kernel says is available, where it says it. bytes
    pub memory_available: Option<u64>,
    /// What is to be left for everything else. bytes
    pub memory_reserve: u64,
}

/// Why a container is not started yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Place {
        max_live: usize,
    },
    /// bytes
    Memory {
        available: u64,
        needed: u64,
    },
}

impl Room {
    /// What the settings allow; `memory_available` as the kernel says. bytes
    pub fn of(settings: &ContainerSettings, live: usize, memory_available: Option<u64>) -> Room {
        let ContainerSettings { max_concurrent, memory_reserve, .. } = *settings;
        Room { live, max_live: max_concurrent, memory_available, memory_reserve }
    }

    /// What one more container has to wait for.
    pub fn wait(&self) -> Option<Wait> {
        let needed = self.memory_reserve.saturating_add(CONTAINER_BYTES);
        match self.memory_available {
            _ if self.live >= self.max_live => Some(Wait::Place { max_live: self.max_live }),
            Some(available) if self.memory_reserve > 0 && available < needed => {
                Some(Wait::Memory { available, needed })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Place { max_live } => {
                write!(f, "{max_live} agents are at work, as many as may be at once (MAX_CONCURRENT_CONTAINERS)")
            }
            Wait::Memory { available, needed } => write!(
                f,
                "this machine is short of memory: {} MiB are available, {} are needed (CONTAINER_MEMORY_RESERVE)",
                available >> 20,
                needed >> 20
            ),
        }
    }
}

/// Judges a session by its unfinished rows. Context wakes nobody, nor does a system row but the answer to a question.
pub fn next(unfinished: &[MessageIn], now: Timestamp) -> Next {
    let is_news = |m: &MessageIn| match m.kind {
        InKind::System => matches!(Inbound::parse(m.kind, &m.content), Inbound::System(Some(System::Answer(_)))),
        _ => true,
    };
    let waking = || unfinished.iter().filter(|m| m.trigger == Trigger::Wake && is_news(m));
    match waking().find(|m| is_due(m, now)) {
        Some(m) if m.tries > 0 => Next::Start(StartReason::Retry),
        Some(m) if m.kind == InKind::Task => Next::Start(StartReason::Task),
        Some(_) => Next::Start(StartReason::Message),
        None => waking().filter_map(|m| m.process_after).min().map_or(Next::Nothing, Next::At),
    }
}

/// Whether something is due, or is tried again before `until`.
pub fn has_work(unfinished: &[MessageIn], now: Timestamp, until: Timestamp) -> bool {
    let retried: Vec<MessageIn> = unfinished.iter().filter(|m| m.tries > 0).cloned().collect();
    matches!(next(unfinished, now), Next::Start(_)) || matches!(next(&retried, until), Next::Start(_))
}

/// Judges what a container had claimed when it died. A row that waits for its retry already is
/// not put off again, and none fails without having been tried.
pub fn after_death(claims: &[String], unfinished: &[MessageIn], now: Timestamp) -> Vec<Verdict> {
    unfinished
        .iter()
        .filter(|m| claims.contains(&m.id) && is_due(m, now))
        .map(|m| {
            let tries = m.tries + 1;
            if tries >= MAX_TRIES {
                return Verdict::Fail { id: m.id.clone() };
            }
            let wait = SignedDuration::try_from(FIRST_RETRY * 2u32.pow(m.tries)).unwrap_or(SignedDuration::MAX);
            Verdict::Retry { id: m.id.clone(), tries, after: now.saturating_add(wait).unwrap_or(Timestamp::MAX) }
        })
        .collect()
}

/// How long a session waits after its containers died `crashes` times in a row without taking a
/// message: an image that cannot run must not be started in a loop.
pub fn crash_backoff(crashes: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2u32.saturating_pow(crashes.saturating_sub(1))).min(MAX_CRASH_BACKOFF)
}

fn is_due(m: &MessageIn, now: Timestamp) -> bool {
    m.process_after.is_none_or(|after| after <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoclaw_session::row::{Address, Audience, InStatus};
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn in_seconds(s: i64) -> Timestamp {
        now() + SignedDuration::from_secs(s)
    }

    fn row(id: &str) -> MessageIn {
        MessageIn {
            id: id.into(),
            seq: 2,
            kind: InKind::Chat,
            timestamp: Some(now()),
            status: InStatus::Pending,
            process_after: None,
            tries: 0,
            trigger: Trigger::Wake,
            audience: Audience::AnyPoll,
            address: Address::default(),
            content: "x".into(),
            source_session_id: None,
        }
    }

    #[test]
    fn due_work_starts_a_container_and_context_does_not() {
        assert_eq!(next(&[], now()), Next::Nothing);
        assert_eq!(next(&[row("a")], now()), Next::Start(StartReason::Message));
        assert_eq!(next(&[MessageIn { trigger: Trigger::Context, ..row("a") }], now()), Next::Nothing);
        assert_eq!(next(&[MessageIn { kind: InKind::System, ..row("a") }], now()), Next::Nothing);
        let task = MessageIn { kind: InKind::Task, process_after: Some(now()), ..row("a") };
        assert_eq!(next(&[task], now()), Next::Start(StartReason::Task));
    }

    #[test]
    fn an_answer_to_a_question_wakes_as_other_system_rows_do_not() {
        let system = |content: &str| MessageIn { kind: InKind::System, content: content.into(), ..row("s") };
        let answer = r#"{"type":"question_response","questionId":"q","status":"answered","selectedOption":"r"}"#;
        assert_eq!(next(&[system(answer)], now()), Next::Start(StartReason::Message));
        let context = MessageIn { trigger: Trigger::Context, ..system(answer) };
        for other in [context, system("{}"), system(r#"{"type":"control","action":"stop"}"#)] {
            assert_eq!(next(&[other], now()), Next::Nothing);
        }
    }

    #[test]
    fn later_work_says_when_and_due_work_comes_first() {
        let later = |s| MessageIn { process_after: Some(in_seconds(s)), ..row("l") };
        assert_eq!(next(&[later(9), later(3)], now()), Next::At(in_seconds(3)));
        assert_eq!(next(&[later(9), row("a")], now()), Next::Start(StartReason::Message));
    }

    #[test]
    fn retries_wait_longer_each_time_and_the_fifth_death_is_the_last() {
        let claims = ["a".to_owned()];
        for (tries, wait) in [(0, 5), (1, 10), (2, 20), (3, 40)] {
            let verdict = after_death(&claims, &[MessageIn { tries, ..row("a") }], now());
            assert_eq!(verdict, [Verdict::Retry { id: "a".into(), tries: tries + 1, after: in_seconds(wait) }]);
        }
        let last = MessageIn { tries: 4, ..row("a") };
        assert_eq!(after_death(&claims, &[last], now()), [Verdict::Fail { id: "a".into() }]);
    }

    #[test]
    fn what_was_not_claimed_or_waits_already_is_left_alone() {
        let waiting = MessageIn { tries: 4, process_after: Some(in_seconds(1)), ..row("w") };
        assert_eq!(after_death(&["w".into(), "gone".into()], &[waiting, row("unclaimed")], now()), []);
    }

    #[test]
    fn there_is_room_up_to_the_limit_and_the_reserve() {
        let mib = |n: u64| n << 20;
        let room = Room { live: 1, max_live: 2, memory_available: Some(mib(100)), memory_reserve: mib(64) };
        assert_eq!(room.wait(), None);
        assert_eq!(Room { live: 2, ..room }.wait(), Some(Wait::Place { max_live: 2 }));
        let short = Room { memory_available: Some(mib(95)), ..room };
        assert_eq!(short.wait(), Some(Wait::Memory { available: mib(95), needed: mib(96) }));
        assert_eq!(Room { memory_reserve: 0, ..short }.wait(), None, "switched off");
        assert_eq!(Room { memory_available: None, ..room }.wait(), None, "a kernel that does not say");
    }

    #[test]
    fn crash_loops_slow_down_to_a_limit() {
        let waits: Vec<u64> = (1..=9).map(|n| crash_backoff(n).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    proptest! {
        /// However its containers die, a message is answered for within five deaths.
        #[test]
        fn every_message_ends(deaths in 1usize..20) {
            let mut m = row("a");
            let mut t = now();
            for _ in 0..deaths {
                match after_death(&["a".into()], &[m.clone()], t).pop() {
                    Some(Verdict::Retry { tries, after, .. }) => {
                        prop_assert!(after > t && tries == m.tries + 1 && tries < MAX_TRIES);
                        m.tries = tries;
                        m.process_after = Some(after);
                        t = after;
                    }
                    Some(Verdict::Fail { .. }) => {
                        prop_assert_eq!(m.tries, MAX_TRIES - 1);
                        return Ok(());
                    }
                    None => prop_assert!(false, "a claimed, due message was left in the air"),
                }
            }
            prop_assert!(deaths < MAX_TRIES as usize);
        }
    }
}
