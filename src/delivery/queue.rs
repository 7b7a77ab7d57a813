//! Who may send next: one queue per conversation, one item of it in flight. Pure; time is passed
//! in.
//!
//! Order within a conversation is kept: what waits for its head's retry, or for someone to come
//! back, waits in line. Conversations know nothing of each other, so a dead one delays only
//! itself. A channel whose platform fails again and again is asked by one conversation at a time
//! (a circuit breaker): the others wait without using up their attempts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::channel::Chat;

/// First wait after a send that may succeed later; doubled for each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait.
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// How long a message is tried before it is given up.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Tries there must have been by then: a clock that was set, or a host that was off, give nothing up.
const MIN_TRIES: u32 = 12;
/// Failures of a channel in a row before its circuit opens.
const MAX_CHANNEL_FAILURES: u32 = 3;
/// Longest time between two tries of a channel whose circuit is open.
const MAX_CIRCUIT_WAIT: Duration = Duration::from_secs(60);

/// One thing to send: where it comes from, and how it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job<S> {
    pub source: S,
    pub tries: Tries,
}

/// How often something was tried in vain, and since when. How often says little: each time a
/// channel answers another, what waits for it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tries {
    pub count: u32,
    pub since: Option<Timestamp>,
}

impl Tries {
    /// Whether it is given up.
    pub fn are_enough(self, now: Timestamp) -> bool {
        self.count >= MIN_TRIES && self.since.is_some_and(|since| now.duration_since(since) >= GIVE_UP_AFTER)
    }
}

/// The queues.
#[derive(Debug)]
pub struct Conversations<S> {
    by_chat: BTreeMap<Chat, Conversation<S>>,
    /// Channels that have failed since they last answered.
    failing: HashMap<String, Circuit>,
}

#[derive(Debug)]
struct Circuit {
    failures: u32,
    /// When one conversation may try again, once the circuit is open.
    try_at: Option<Instant>,
}

#[derive(Debug)]
struct Conversation<S> {
    waiting: VecDeque<Job<S>>,
    in_flight: Option<Job<S>>,
    hold: Hold,
    /// Someone came back while an item was in flight: whether it found them is not known yet.
    came_back: bool,
}

/// Why the head of a queue does not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Free,
    /// It is not due, or its platform said when.
    Until(Instant),
    /// Its last try failed.
    Failed(Instant),
    /// Nobody is there.
    Away,
}

impl<S> Default for Conversations<S> {
    fn default() -> Self {
        Conversations { by_chat: BTreeMap::new(), failing: HashMap::new() }
    }
}

impl<S: Clone> Conversations<S> {
    /// Adds a job at the end of its conversation; `hold` says that its first attempt is not due yet.
    pub fn push(&mut self, chat: Chat, job: Job<S>, hold: Option<Instant>) {
        let conversation = self.by_chat.entry(chat).or_insert_with(|| Conversation {
            waiting: VecDeque::new(),
            in_flight: None,
            hold: Hold::Free,
            came_back: false,
        });
        if let (Some(until), true) = (hold, conversation.waiting.is_empty() && conversation.in_flight.is_none()) {
            conversation.hold = Hold::Until(until);
        }
        conversation.waiting.push_back(job);
    }

    /// The chats whose head may go at `now`.
    pub fn sendable(&self, now: Instant) -> Vec<Chat> {
        let mut sendable = Vec::new();
        let mut tried: Vec<&str> = Vec::new();
        for (chat, conversation) in &self.by_chat {
            let channel = chat.channel_type.as_str();
            let circuit = self.failing.get(channel).and_then(|circuit| circuit.try_at);
            let may_try = |at| at <= now && !tried.contains(&channel) && !self.is_asked(channel);
            if conversation.may_go(now) && circuit.is_none_or(may_try) {
                if circuit.is_some() {
                    tried.push(channel);
                }
                sendable.push(chat.clone());
            }
        }
        sendable
    }

    /// The channel could not be reached.
    pub fn channel_failed(&mut self, channel_type: &str, now: Instant) {
        let circuit = self.failing.entry(channel_type.to_owned()).or_insert(Circuit { failures: 0, try_at: None });
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.failures >= MAX_CHANNEL_FAILURES {
            circuit.try_at = Some(now + backoff(circuit.failures - MAX_CHANNEL_FAILURES + 1, 0).min(MAX_CIRCUIT_WAIT));
        }
    }

    /// The channel has answered, be it with a refusal. What waited because it had failed may go.
    pub fn channel_answered(&mut self, channel_type: &str) {
        if self.failing.remove(channel_type).is_some_and(|circuit| circuit.try_at.is_some()) {
            for (chat, c) in &mut self.by_chat {
                if chat.channel_type == channel_type && matches!(c.hold, Hold::Failed(_)) {
                    c.hold = Hold::Free;
                }
            }
        }
    }

    /// The head of a conversation.
    pub fn head(&self, chat: &Chat) -> Option<&Job<S>> {
        self.by_chat.get(chat)?.waiting.front()
    }

    /// The head was handed over.
    pub fn sent(&mut self, chat: &Chat) {
        if let Some(c) = self.by_chat.get_mut(chat) {
            c.in_flight = c.waiting.pop_front();
            c.hold = Hold::Free;
            c.came_back = false;
        }
    }

    /// The head came to an end without being handed over.
    pub fn drop_head(&mut self, chat: &Chat) -> Option<Job<S>> {
        let c = self.by_chat.get_mut(chat)?;
        let job = c.waiting.pop_front();
        self.tidy(chat);
        job
    }

    /// What was in flight is done; it is returned for the books.
    pub fn done(&mut self, chat: &Chat) -> Option<Job<S>> {
        let job = self.by_chat.get_mut(chat)?.in_flight.take();
        self.tidy(chat);
        job
    }

    /// What is in flight was tried in vain.
    pub fn tried(&mut self, chat: &Chat, now: Timestamp) -> Option<&Job<S>> {
        let job = self.by_chat.get_mut(chat)?.in_flight.as_mut()?;
        job.tries = Tries { count: job.tries.count.saturating_add(1), since: job.tries.since.or(Some(now)) };
        Some(job)
    }

    /// What was in flight failed; it goes back to the head and is tried again after `wait`, or when
    /// its channel answers another.
    pub fn failed(&mut self, chat: &Chat, now: Instant, wait: Duration) {
        self.back_to_head(chat, Hold::Failed(now + wait));
    }

    /// What was in flight goes back to the head and is not tried again before `wait` is over.
    pub fn put_off(&mut self, chat: &Chat, now: Instant, wait: Duration) {
        self.back_to_head(chat, Hold::Until(now + wait));
    }

    /// What was in flight goes back to the head until [`Conversations::back`] - or goes again at
    /// once, if that was said while it was in flight.
    pub fn away(&mut self, chat: &Chat) {
        let came_back = self.by_chat.get(chat).is_some_and(|c| c.came_back);
        self.back_to_head(chat, if came_back { Hold::Free } else { Hold::Away });
    }

    fn back_to_head(&mut self, chat: &Chat, hold: Hold) {
        if let Some(c) = self.by_chat.get_mut(chat) {
            c.in_flight.take().into_iter().for_each(|job| c.waiting.push_front(job));
            c.hold = hold;
        }
    }

    /// Someone is back on this channel: what waits for that may go.
    pub fn back(&mut self, channel_type: &str) {
        for (chat, c) in &mut self.by_chat {
            if chat.channel_type == channel_type {
                c.came_back = c.in_flight.is_some();
                if c.hold == Hold::Away {
                    c.hold = Hold::Free;
                }
            }
        }
    }

    /// When the next held head may go. What could go by `now` and did not waits for an answer, and
    /// that is an event.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        self.by_chat
            .iter()
            .filter(|(_, c)| c.in_flight.is_none() && !c.waiting.is_empty())
            .filter_map(|(chat, c)| {
                let circuit = self.failing.get(&chat.channel_type).and_then(|circuit| circuit.try_at);
                match c.hold {
                    Hold::Until(at) | Hold::Failed(at) => Some(circuit.map_or(at, |circuit| circuit.max(at))),
                    Hold::Free => circuit,
                    Hold::Away => None,
                }
            })
            .filter(|at| *at > now)
            .min()
    }

    /// What was handed over and not answered for.
    pub fn all_in_flight(&self) -> impl Iterator<Item = &Job<S>> {
        self.by_chat.values().filter_map(|c| c.in_flight.as_ref())
    }

    fn is_asked(&self, channel_type: &str) -> bool {
        self.by_chat.iter().any(|(chat, c)| chat.channel_type == channel_type && c.in_flight.is_some())
    }

    fn tidy(&mut self, chat: &Chat) {
        if self.by_chat.get(chat).is_some_and(|c| c.waiting.is_empty() && c.in_flight.is_none()) {
            self.by_chat.remove(chat);
        }
    }
}

impl<S> Conversation<S> {
    fn may_go(&self, now: Instant) -> bool {
        let held = match self.hold {
            Hold::Free => false,
            Hold::Until(at) | Hold::Failed(at) => at > now,
            Hold::Away => true,
        };
        !held && self.in_flight.is_none() && !self.waiting.is_empty()
    }
}

/// How long to wait after the attempt number `attempts` (from 1) failed. `seed` spreads those that
/// failed together over a quarter more.
pub fn backoff(attempts: u32, seed: u64) -> Duration {
    let wait = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1))).min(MAX_BACKOFF);
    wait + wait / 4 * (seed % 256) as u32 / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chat(name: &str) -> Chat {
        Chat { channel_type: "cli".into(), platform_id: name.into() }
    }

    fn job(n: u32) -> Job<u32> {
        Job { source: n, tries: Tries::default() }
    }

    #[test]
    fn one_at_a_time_and_in_order() {
        let mut q = Conversations::default();
        let now = Instant::now();
        q.push(chat("a"), job(1), None);
        q.push(chat("a"), job(2), None);
        q.push(chat("b"), job(3), None);
        assert_eq!(q.sendable(now), [chat("a"), chat("b")]);
        q.sent(&chat("a"));
        assert_eq!(q.sendable(now), [chat("b")]);
        assert_eq!(q.done(&chat("a")).unwrap().source, 1);
        assert_eq!(q.head(&chat("a")).unwrap().source, 2);
    }

    #[test]
    fn a_retry_holds_its_own_conversation_only() {
        let mut q = Conversations::default();
        let now = Instant::now();
        for (c, n) in [("a", 1), ("a", 2), ("b", 3)] {
            q.push(chat(c), job(n), None);
        }
        q.sent(&chat("a"));
        q.put_off(&chat("a"), now, Duration::from_secs(5));
        assert_eq!(q.sendable(now), [chat("b")]);
        assert_eq!(q.next_release(now), Some(now + Duration::from_secs(5)));
        assert_eq!(q.sendable(now + Duration::from_secs(5)), [chat("a"), chat("b")]);
        assert_eq!(q.head(&chat("a")), Some(&job(1)));
    }

    #[test]
    fn who_is_away_waits_without_counting_attempts() {
        let mut q = Conversations::default();
        let now = Instant::now();
        q.push(chat("a"), job(1), None);
        q.sent(&chat("a"));
        q.away(&chat("a"));
        q.push(chat("a"), job(2), None);
        assert!(q.sendable(now).is_empty() && q.next_release(now).is_none());
        q.back("telegram");
        assert!(q.sendable(now).is_empty());
        q.back("cli");
        assert_eq!(q.head(&chat("a")), Some(&job(1)));
        assert_eq!(q.sendable(now), [chat("a")]);
    }

    #[test]
    fn who_comes_back_while_an_item_is_in_flight_is_not_missed() {
        let mut q = Conversations::default();
        let now = Instant::now();
        q.push(chat("a"), job(1), None);
        q.sent(&chat("a"));
        q.back("cli");
        q.away(&chat("a"));
        assert_eq!(q.sendable(now), [chat("a")]);
        q.sent(&chat("a"));
        q.away(&chat("a"));
        assert!(q.sendable(now).is_empty(), "the second time nobody had come back");
    }

    #[test]
    fn a_dead_channel_is_asked_by_one_at_a_time_and_delays_no_other() {
        let on = |channel: &str, n: u32| Chat { channel_type: channel.into(), platform_id: n.to_string() };
        let mut q = Conversations::default();
        let now = Instant::now();
        for n in 0..10 {
            q.push(on("dead", n), job(n), None);
            q.push(on("fine", n), job(n), None);
        }
        for n in 0..MAX_CHANNEL_FAILURES {
            q.sent(&on("dead", n));
            q.failed(&on("dead", n), now, MAX_BACKOFF);
            q.channel_failed("dead", now);
        }
        assert!(q.sendable(now).iter().all(|c| c.channel_type == "fine"), "the circuit is open");
        assert_eq!(q.sendable(now).len(), 10);
        let later = now + FIRST_BACKOFF;
        let tried: Vec<Chat> = q.sendable(later).into_iter().filter(|c| c.channel_type == "dead").collect();
        assert_eq!(tried, [on("dead", MAX_CHANNEL_FAILURES)], "one that has not failed yet tries");
        q.sent(&tried[0]);
        assert!(q.sendable(later).iter().all(|c| c.channel_type == "fine"), "and the others wait for its answer");
        q.channel_answered("dead");
        assert_eq!(q.sendable(later).len(), 10 + 9, "also those that had failed");
    }

    #[test]
    fn a_wait_for_an_answer_is_no_deadline() {
        let mut q = Conversations::default();
        let now = Instant::now();
        for n in 0..MAX_CHANNEL_FAILURES {
            q.push(chat(&n.to_string()), job(n), None);
            q.sent(&chat(&n.to_string()));
            q.failed(&chat(&n.to_string()), now, FIRST_BACKOFF);
            q.channel_failed("cli", now);
        }
        let later = now + MAX_BACKOFF;
        assert_eq!(q.next_release(now), Some(now + FIRST_BACKOFF));
        q.sent(&q.sendable(later)[0].clone());
        assert!(q.sendable(later).is_empty(), "one asks for all");
        assert_eq!(q.next_release(later), None, "a time that is over would be waited for in a loop");
    }

    #[test]
    fn waits_are_spread_by_a_quarter_at_most() {
        let waits: Vec<Duration> = (0..256).map(|seed| backoff(5, seed)).collect();
        assert!(waits.iter().all(|w| (16_000..=20_000).contains(&w.as_millis())));
        assert!(waits[200] - waits[20] > Duration::from_secs(1));
    }

    #[test]
    fn what_is_given_up_is_a_day_old_and_was_tried() {
        let mut q = Conversations::default();
        q.push(chat("a"), job(1), None);
        let first = Timestamp::UNIX_EPOCH;
        let mut enough = |at: Timestamp| {
            q.sent(&chat("a"));
            let tries = q.tried(&chat("a"), at).unwrap().tries;
            q.put_off(&chat("a"), Instant::now(), FIRST_BACKOFF);
            tries.are_enough(at)
        };
        assert!(!enough(first));
        assert!(!enough(first + GIVE_UP_AFTER), "the clock was set");
        assert!((0..500).all(|_| !enough(first + GIVE_UP_AFTER - SignedDuration::from_secs(1))), "the channel flaps");
        assert!(enough(first + GIVE_UP_AFTER));
    }

    proptest! {
        /// Whatever happens to sends, each conversation comes out in the order it went in.
        #[test]
        fn order_survives(outcomes in prop::collection::vec(0u8..3, 0..60), jobs in 1u32..10) {
            let mut q = Conversations::default();
            let mut now = Instant::now();
            for n in 0..jobs {
                q.push(chat("a"), job(n), None);
            }
            let mut finished = Vec::new();
            for outcome in outcomes {
                now += MAX_BACKOFF;
                if q.sendable(now).is_empty() {
                    break;
                }
                q.sent(&chat("a"));
                match outcome {
                    0 => finished.extend(q.done(&chat("a")).map(|j| j.source)),
                    1 => q.failed(&chat("a"), now, MAX_BACKOFF),
                    _ => {
                        q.away(&chat("a"));
                        q.back("cli");
                    }
                }
            }
            let expected: Vec<u32> = (0..jobs).take(finished.len()).collect();
            prop_assert_eq!(finished, expected);
        }
    }
}
