//! Who is shown as typing. Pure; time is passed in.
//!
//! It starts when a session is woken and goes on while its agent makes progress. What was just
//! delivered took it away on most platforms, so it comes back only after a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::channel::Chat;

/// How often it is said again: platforms let it fade after 5 s (Telegram's sendChatAction).
const REPEAT: Duration = Duration::from_secs(4);
/// How long a delivery silences it.
const PAUSE: Duration = Duration::from_secs(10);
/// How long it goes on after the last sign of progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sessions that are at work.
#[derive(Debug, Default)]
pub struct Typing {
    by_session: HashMap<String, Shown>,
}

#[derive(Debug)]
struct Shown {
    chat: Chat,
    thread_id: Option<String>,
    next: Instant,
    until: Instant,
}

impl Typing {
    /// A session has something to answer in this chat.
    pub fn woken(&mut self, session_id: &str, chat: Chat, thread_id: Option<String>, now: Instant) {
        let next = self.by_session.get(session_id).map_or(now, |shown| shown.next);
        self.by_session.insert(session_id.to_owned(), Shown { chat, thread_id, next, until: now + PATIENCE });
    }

    /// Its agent did something at `at`.
    pub fn progressed(&mut self, session_id: &str, at: Instant) {
        if let Some(shown) = self.by_session.get_mut(session_id) {
            shown.until = shown.until.max(at + PATIENCE);
        }
    }

    /// Something was delivered to this chat.
    pub fn delivered(&mut self, chat: &Chat, now: Instant) {
        for shown in self.by_session.values_mut().filter(|shown| shown.chat == *chat) {
            shown.next = now + PAUSE;
        }
    }

    /// It has nothing more to answer.
    pub fn ended(&mut self, session_id: &str) {
        self.by_session.remove(session_id);
    }

    /// Whose turn it is to be shown; those that showed no progress for long are forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<(Chat, Option<String>)> {
        self.by_session.retain(|_, shown| shown.until > now);
        let due = self.by_session.values_mut().filter(|shown| shown.next <= now);
        due.map(|shown| {
            shown.next = now + REPEAT;
            (shown.chat.clone(), shown.thread_id.clone())
        })
        .collect()
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.by_session.values().map(|shown| shown.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_the_wake_repeats_pauses_after_a_delivery_and_ends() {
        let now = Instant::now();
        let chat = Chat { channel_type: "telegram".into(), platform_id: "1".into() };
        let shown = [(chat.clone(), None)];
        let mut typing = Typing::default();
        typing.woken("s", chat.clone(), None, now);
        assert_eq!(typing.due(now), shown);
        assert_eq!(typing.due(now), []);
        assert_eq!(typing.next_due(), Some(now + REPEAT));
        assert_eq!(typing.due(now + REPEAT), shown);
        typing.delivered(&chat, now + REPEAT);
        assert_eq!(typing.due(now + REPEAT * 2), []);
        assert_eq!(typing.due(now + REPEAT + PAUSE), shown);
        typing.ended("s");
        assert_eq!(typing.next_due(), None);
    }

    #[test]
    fn it_fades_without_progress() {
        let now = Instant::now();
        let chat = Chat { channel_type: "telegram".into(), platform_id: "1".into() };
        let mut typing = Typing::default();
        typing.woken("s", chat, None, now);
        typing.progressed("s", now + PATIENCE / 2);
        assert_eq!(typing.due(now + PATIENCE).len(), 1);
        assert_eq!(typing.due(now + PATIENCE * 2).len(), 0);
    }
}
