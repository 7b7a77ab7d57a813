//! Whether an agent is called by a message: the decision, pure.

use regex_lite::Regex;

use super::judge::Why;
use crate::channel::{ChatKind, Mention};
use crate::store::{EngageMode, IgnoredMessagePolicy, Wiring};

/// What a message is to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engagement {
    /// It is for the agent.
    Answers,
    /// It is not, and is kept as context.
    Accumulates(Why),
    /// It is not.
    Ignores(Why),
}

/// Whether a session of this agent lives in the message's thread already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InThread {
    AlreadyThere,
    NotYet,
}

/// The pattern of a wiring, ready to match.
#[derive(Debug)]
pub enum Pattern {
    /// `.`: also a message without text.
    Everything,
    Matches(Regex),
    /// No regular expression, and why. It engages: better one answer too many than a mute
    /// assistant.
    Broken(String),
    /// The mode needs none.
    Unused,
}

impl Pattern {
    pub fn of(wiring: &Wiring) -> Pattern {
        match (wiring.engage_mode, wiring.engage_pattern.as_deref().unwrap_or_default()) {
            (EngageMode::Mention | EngageMode::MentionSticky, _) => Pattern::Unused,
            (EngageMode::Pattern, ".") => Pattern::Everything,
            (EngageMode::Pattern, pattern) => match Regex::new(pattern) {
                Ok(regex) => Pattern::Matches(regex),
                Err(e) => Pattern::Broken(e.to_string()),
            },
        }
    }
}

/// Judges one wiring.
pub fn engage(
    wiring: &Wiring,
    pattern: &Pattern,
    text: &str,
    kind: ChatKind,
    mention: Mention,
    in_thread: InThread,
) -> Engagement {
    let addressed = mention == Mention::Addressed;
    let (answers, miss) = match wiring.engage_mode {
        EngageMode::Pattern => {
            let matched = match pattern {
                Pattern::Matches(regex) => regex.is_match(text),
                Pattern::Everything | Pattern::Broken(_) | Pattern::Unused => true,
            };
            (matched, Why::NoMatch)
        }
        EngageMode::Mention => (addressed, Why::NotAddressed),
        EngageMode::MentionSticky => {
            (addressed || (kind == ChatKind::Group && in_thread == InThread::AlreadyThere), Why::NotAddressed)
        }
    };
    match (answers, wiring.ignored_message_policy) {
        (true, _) => Engagement::Answers,
        (false, IgnoredMessagePolicy::Accumulate) => Engagement::Accumulates(miss),
        (false, IgnoredMessagePolicy::Drop) => Engagement::Ignores(miss),
    }
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
            engage(&w, &Pattern::of(&w), text, ChatKind::Group, Mention::NotAddressed, InThread::NotYet)
        };
        assert_eq!(judge(".", ""), Engagement::Answers);
        assert_eq!(judge(r"^@Andy\b", "@Andy hi"), Engagement::Answers);
        assert_eq!(judge(r"^@Andy\b", "hi @Andy"), Engagement::Ignores(Why::NoMatch));
        assert_eq!(judge("(", "anything"), Engagement::Answers);
    }

    #[test]
    fn mentions_stick_to_threads_of_groups_only() {
        let judge = |mode, kind, mention, thread| {
            engage(&wiring(mode, None), &Pattern::Unused, "x", kind, mention, thread) == Engagement::Answers
        };
        use ChatKind::{Direct, Group};
        use InThread::{AlreadyThere, NotYet};
        use Mention::{Addressed, NotAddressed};
        assert!(judge(EngageMode::Mention, Group, Addressed, NotYet));
        assert!(!judge(EngageMode::Mention, Group, NotAddressed, AlreadyThere));
        assert!(judge(EngageMode::MentionSticky, Group, NotAddressed, AlreadyThere));
        assert!(!judge(EngageMode::MentionSticky, Group, NotAddressed, NotYet));
        assert!(!judge(EngageMode::MentionSticky, Direct, NotAddressed, AlreadyThere));
    }
}
