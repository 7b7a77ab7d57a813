//! The decision against a model of it, over every combination there is.

use super::super::engage::{InThread, Pattern};
use super::super::judge::{Candidate, Ruling, Subject, Verdict, Why, judge};
use super::super::session::Scope;
use super::super::*;
use crate::channel::Mention;
use crate::permission::Standing::{self, *};
use crate::store::*;

const TEXTS: [&str; 5] = ["go on", "no", "/help go", "/clear go", "/status go"];
const KINDS: [ChatKind; 2] = [ChatKind::Direct, ChatKind::Group];
const MENTIONS: [Mention; 2] = [Mention::Addressed, Mention::NotAddressed];
const IN_THREAD: [InThread; 2] = [InThread::AlreadyThere, InThread::NotYet];
const THREADS: [Option<&str>; 2] = [None, Some("t")];

/// Every case of the decision for one wiring.
fn cases(mut check: impl FnMut(&Subject<'_>, &MessagingGroup, &Candidate<'_>)) {
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    let mut chat = MessagingGroup {
        id: "c".into(),
        channel_type: "telegram".into(),
        platform_id: "telegram:1".into(),
        name: None,
        is_group: true,
        unknown_sender_policy: UnknownSenderPolicy::Public,
        denied_at: None,
        created_at: epoch,
    };
    let mut wiring = Wiring {
        id: "w".into(),
        messaging_group_id: "c".into(),
        agent_group_id: "a".into(),
        engage_mode: EngageMode::Pattern,
        engage_pattern: Some("go".into()),
        sender_scope: SenderScope::All,
        ignored_message_policy: IgnoredMessagePolicy::Drop,
        session_mode: SessionMode::Shared,
        priority: 0,
        created_at: epoch,
    };
    for &mode in EngageMode::ALL {
        for &scope in SenderScope::ALL {
            for &ignored in IgnoredMessagePolicy::ALL {
                for &sessions in SessionMode::ALL {
                    for &policy in UnknownSenderPolicy::ALL {
                        wiring.engage_mode = mode;
                        wiring.sender_scope = scope;
                        wiring.ignored_message_policy = ignored;
                        wiring.session_mode = sessions;
                        chat.unknown_sender_policy = policy;
                        let pattern = Pattern::of(&wiring);
                        for standing in [Stranger, Member, GroupAdmin, GlobalAdmin, Owner] {
                            for in_thread in IN_THREAD {
                                let candidate = Candidate { wiring: &wiring, pattern: &pattern, standing, in_thread };
                                for text in TEXTS {
                                    for kind in KINDS {
                                        for mention in MENTIONS {
                                            for thread_id in THREADS {
                                                let subject =
                                                    Subject { text, kind, mention, thread_id, sender_id: Some("u") };
                                                check(&subject, &chat, &candidate);
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The rules as one would say them, in another order than the code takes them.
fn expected(s: &Subject<'_>, chat: &MessagingGroup, c: &Candidate<'_>) -> &'static str {
    let stranger = c.standing == Standing::Stranger;
    let mentioned = s.mention == Mention::Addressed;
    let sticks = s.kind == ChatKind::Group && c.in_thread == InThread::AlreadyThere;
    let called = match c.wiring.engage_mode {
        EngageMode::Pattern => s.text.contains("go"),
        EngageMode::Mention => mentioned,
        EngageMode::MentionSticky => mentioned || sticks,
    };
    let refused = stranger
        && (chat.unknown_sender_policy != UnknownSenderPolicy::Public || c.wiring.sender_scope == SenderScope::Known);
    let command = s.text.starts_with('/');
    if !called {
        let keeps = c.wiring.ignored_message_policy == IgnoredMessagePolicy::Accumulate;
        return if keeps && !refused && !command { "context" } else { "missed" };
    }
    if s.text.starts_with("/help") {
        return "vanishes";
    }
    if refused {
        return "refused";
    }
    let admin = !stranger && c.standing != Standing::Member;
    match (command, admin) {
        (true, false) => "denied",
        (true, true) if s.text.starts_with("/status") => "host",
        _ => "wakes",
    }
}

#[test]
fn every_combination_is_decided_as_the_rules_say() {
    let mut count = 0;
    cases(|subject, chat, candidate| {
        count += 1;
        let verdicts = judge(subject, Some(chat), std::slice::from_ref(candidate));
        let [Verdict { wiring: Some(_), ruling }] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        let (word, scope) = match ruling {
            Ruling::Heard { trigger: Trigger::Wake, scope, .. } => ("wakes", Some(scope)),
            Ruling::Heard { trigger: Trigger::Context, scope, .. } => ("context", Some(scope)),
            Ruling::Asked { scope, .. } => ("host", Some(scope)),
            Ruling::NotHeard(Why::NotAddressed | Why::NoMatch) => ("missed", None),
            Ruling::NotHeard(Why::SenderUnknown | Why::SenderAwaitsApproval | Why::SenderNotMember) => {
                ("refused", None)
            }
            Ruling::NotHeard(Why::CommandFiltered) => ("vanishes", None),
            Ruling::NotHeard(Why::CommandDenied) => ("denied", None),
            Ruling::NotHeard(Why::NoWiring | Why::ChatDenied | Why::Duplicate) => ("elsewhere", None),
        };
        assert_eq!(word, expected(subject, chat, candidate), "{subject:?} {chat:?} {candidate:?}");
        let threaded = subject.kind == ChatKind::Group && subject.thread_id.is_some();
        match (scope, candidate.wiring.session_mode) {
            (None, _) => {}
            (Some(scope), SessionMode::AgentShared) => assert_eq!(*scope, Scope::Agent),
            (Some(scope), _) if threaded => assert_eq!(*scope, Scope::Thread("t".into())),
            (Some(scope), _) => assert_eq!(*scope, Scope::Chat),
        }
    });
    assert_eq!(count, 3 * 2 * 2 * 3 * 3 * 5 * 2 * 5 * 2 * 2 * 2);
}

#[test]
fn no_permission_refused_leaves_context() {
    cases(|subject, chat, candidate| {
        let open = chat.unknown_sender_policy == UnknownSenderPolicy::Public
            && candidate.wiring.sender_scope == SenderScope::All;
        if candidate.standing == Standing::Stranger && !open {
            let verdicts = judge(subject, Some(chat), std::slice::from_ref(candidate));
            assert!(matches!(verdicts[0].ruling, Ruling::NotHeard(_)), "{verdicts:?}");
        }
    });
}
