//! Whether an agent answers a message: the decision, pure.

use regex_lite::Regex;

use crate::channel::{ChatKind, Mention};
use crate::store::{EngageMode, IgnoredMessagePolicy, Wiring};

/// What an agent does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engagement {
    /// It is woken.
    Answers,
    /// It is told with the next message that wakes it.
    Accumulates,
    /// It never hears of it.
    Ignores,
}

/// Whether a session of this agent lives in the message's thread already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InThread {
    AlreadyThere,
    NotYet,
}

/// Judges one wiring.
pub fn engage(wiring: &Wiring, text: &str, kind: ChatKind, mention: Mention, in_thread: InThread) -> Engagement {
    let addressed = mention == Mention::Addressed;
    let answers = match wiring.engage_mode {
        EngageMode::Pattern => matches(wiring.engage_pattern.as_deref().unwrap_or_default(), text),
        EngageMode::Mention => addressed,
        EngageMode::MentionSticky => addressed || (kind == ChatKind::Group && in_thread == InThread::AlreadyThere),
    };
    match (answers, wiring.ignored_message_policy) {
        (true, _) => Engagement::Answers,
        (false, IgnoredMessagePolicy::Accumulate) => Engagement::Accumulates,
        (false, IgnoredMessagePolicy::Drop) => Engagement::Ignores,
    }
}

/// `.` is everything, also a message without text. A pattern that is no regular expression
/// engages: better one answer too many than a mute assistant.
fn matches(pattern: &str, text: &str) -> bool {
    pattern == "." || Regex::new(pattern).map_or(true, |regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{SenderScope, SessionMode};

    fn wiring(engage_mode: EngageMode, pattern: Option<&str>) -> Wiring {
        Wiring {
            id: "w".into(),
            messaging_group_id: "m".into(),
            agent_group_id: "a".into(),
            engage_mode,
            engage_pattern: pattern.map(str::to_owned),
            sender_scope: SenderScope::All,
            ignored_message_policy: IgnoredMessagePolicy::Drop,
            session_mode: SessionMode::Shared,
            priority: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn patterns_match_text_and_a_broken_one_engages() {
        let judge = |pattern: &str, text: &str| {
            let w = wiring(EngageMode::Pattern, Some(pattern));
            engage(&w, text, ChatKind::Group, Mention::NotAddressed, InThread::NotYet)
        };
        assert_eq!(judge(".", ""), Engagement::Answers);
        assert_eq!(judge(r"^@Andy\b", "@Andy hi"), Engagement::Answers);
        assert_eq!(judge(r"^@Andy\b", "hi @Andy"), Engagement::Ignores);
        assert_eq!(judge("(", "anything"), Engagement::Answers);
    }

    #[test]
    fn mentions_stick_to_threads_of_groups_only() {
        let judge = |mode, kind, mention, thread| engage(&wiring(mode, None), "x", kind, mention, thread);
        use ChatKind::{Direct, Group};
        use InThread::{AlreadyThere, NotYet};
        use Mention::{Addressed, NotAddressed};
        assert_eq!(judge(EngageMode::Mention, Group, Addressed, NotYet), Engagement::Answers);
        assert_eq!(judge(EngageMode::Mention, Group, NotAddressed, AlreadyThere), Engagement::Ignores);
        assert_eq!(judge(EngageMode::MentionSticky, Group, NotAddressed, AlreadyThere), Engagement::Answers);
        assert_eq!(judge(EngageMode::MentionSticky, Group, NotAddressed, NotYet), Engagement::Ignores);
        assert_eq!(judge(EngageMode::MentionSticky, Direct, NotAddressed, AlreadyThere), Engagement::Ignores);
    }

    #[test]
    fn what_is_not_answered_may_be_kept_as_context() {
        let mut w = wiring(EngageMode::Mention, None);
        w.ignored_message_policy = IgnoredMessagePolicy::Accumulate;
        let judged = engage(&w, "x", ChatKind::Group, Mention::NotAddressed, InThread::NotYet);
        assert_eq!(judged, Engagement::Accumulates);
    }
}
