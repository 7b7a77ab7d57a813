//! Who hears a message, with which trigger, in which session, and why not: the whole decision,
//! pure. The router carries it out; `nanoclaw explain` shows it.

use nanoclaw_session::row::Trigger;

use super::command::{self, Command, HostCommand};
use super::engage::{Engagement, InThread, Pattern, engage};
use super::session::Scope;
use crate::channel::{ChatKind, InboundMessage, Mention};
use crate::permission::Standing;
use crate::store::{EngageMode, MessagingGroup, SenderScope, UnknownSenderPolicy, Wiring};

/// What of a message matters.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    pub text: &'a str,
    pub kind: ChatKind,
    pub mention: Mention,
    /// Empty where the chat has no threads, whatever the platform said.
    pub thread_id: Option<&'a str>,
    pub sender_id: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// The message as it is judged. A chat that is on record as a group is one.
    pub fn of(message: &'a InboundMessage, chat: Option<&MessagingGroup>) -> Subject<'a> {
        Subject {
            text: &message.content.text,
            kind: if chat.is_some_and(|c| c.is_group) { ChatKind::Group } else { message.kind },
            mention: message.mention,
            thread_id: message.thread(),
            sender_id: message.content.sender_id.as_deref(),
        }
    }

    /// Whether somebody talks to us, and not just in our presence.
    pub fn addresses_us(&self) -> bool {
        self.kind == ChatKind::Direct || self.mention == Mention::Addressed
    }
}

/// A wiring of the chat, and what is known about it and the sender.
#[derive(Debug)]
pub struct Candidate<'a> {
    pub wiring: &'a Wiring,
    pub pattern: &'a Pattern,
    pub standing: Standing,
    pub in_thread: InThread,
}

/// What is decided for one wiring, or for the message as a whole.
#[derive(Debug, PartialEq)]
pub struct Verdict<'a> {
    /// `None`: the message got no further than its chat.
    pub wiring: Option<&'a Wiring>,
    pub ruling: Ruling,
}

/// What becomes of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Heard {
        trigger: Trigger,
        scope: Scope,
        subscribe: Subscribe,
    },
    /// The host carries it out.
    Asked {
        command: HostCommand,
        scope: Scope,
    },
    NotHeard(Why),
}

/// Whether the channel is asked for all further messages of the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribe {
    /// The agent was addressed in a new thread, and stays.
    ToThread,
    No,
}

/// Why a message is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NoWiring,
    ChatDenied,
    NotAddressed,
    NoMatch,
    /// Under the policy `strict`.
    SenderUnknown,
    /// Under the policy `request_approval`.
    SenderAwaitsApproval,
    /// The wiring is for members only.
    SenderNotMember,
    CommandFiltered,
    CommandDenied,
    /// It was there already.
    Duplicate,
}

impl Why {
    /// The word under which it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::NoWiring => "no_wiring",
            Why::ChatDenied => "chat_denied",
            Why::NotAddressed => "mode_not_met",
            Why::NoMatch => "pattern_not_met",
            Why::SenderUnknown => "sender_unknown_strict",
            Why::SenderAwaitsApproval => "sender_unknown_request_approval",
            Why::SenderNotMember => "scope_known",
            Why::CommandFiltered => "command_filtered",
            Why::CommandDenied => "command_denied",
            Why::Duplicate => "duplicate",
        }
    }

    /// The reason in plain words.
    pub fn sentence(self) -> &'static str {
        match self {
            Why::NoWiring => "no agent is wired to this chat",
            Why::ChatDenied => "this chat was denied, and stays silent",
            Why::NotAddressed => "the agent answers only when it is addressed, and this message does not address it",
            Why::NoMatch => "the text does not match the wiring's pattern",
            Why::SenderUnknown => "the sender is unknown to the agent, and the chat is strict about strangers",
            Why::SenderAwaitsApproval => "the sender is unknown to the agent, and the owner was asked to let them in",
            Why::SenderNotMember => "this wiring is for members of the agent, and the sender is none",
            Why::CommandFiltered => "this command is of no use in a chat, and vanishes",
            Why::CommandDenied => "this command is for owners and admins, and the sender is neither",
            Why::Duplicate => "the same message was there already",
        }
    }
}

/// Judges a message: one verdict for each wiring, or a single one when the chat is the end of it.
pub fn judge<'a>(
    subject: &Subject<'_>,
    chat: Option<&MessagingGroup>,
    candidates: &[Candidate<'a>],
) -> Vec<Verdict<'a>> {
    let chat = match chat {
        Some(chat) if chat.denied_at.is_some() => return vec![at_the_chat(Why::ChatDenied)],
        Some(chat) if !candidates.is_empty() => chat,
        _ => return vec![at_the_chat(Why::NoWiring)],
    };
    let command = command::parse(subject.text);
    candidates
        .iter()
        .map(|candidate| Verdict {
            wiring: Some(candidate.wiring),
            ruling: rule(subject, command, chat.unknown_sender_policy, candidate),
        })
        .collect()
}

fn at_the_chat(why: Why) -> Verdict<'static> {
    Verdict { wiring: None, ruling: Ruling::NotHeard(why) }
}

fn rule(
    subject: &Subject<'_>,
    command: Option<Command>,
    policy: UnknownSenderPolicy,
    candidate: &Candidate<'_>,
) -> Ruling {
    let Candidate { wiring, pattern, standing, in_thread } = candidate;
    let engaged = engage(wiring, pattern, subject.text, subject.kind, subject.mention, *in_thread);
    let allowed = access(policy, wiring.sender_scope, *standing);
    let scope = Scope::of(wiring.session_mode, subject.kind, subject.thread_id);
    match (engaged, command, allowed) {
        (Engagement::Ignores(why), _, _) => Ruling::NotHeard(why),
        (Engagement::Accumulates(_), None, Ok(())) => {
            Ruling::Heard { trigger: Trigger::Context, scope, subscribe: Subscribe::No }
        }
        // Context holds no commands, and nothing of somebody who may not be heard.
        (Engagement::Accumulates(why), _, _) => Ruling::NotHeard(why),
        (Engagement::Answers, Some(Command::Filtered), _) => Ruling::NotHeard(Why::CommandFiltered),
        (Engagement::Answers, _, Err(why)) => Ruling::NotHeard(why),
        (Engagement::Answers, Some(_), _) if !standing.may_administer() => Ruling::NotHeard(Why::CommandDenied),
        (Engagement::Answers, Some(Command::Host(command)), _) => Ruling::Asked { command, scope },
        (Engagement::Answers, Some(Command::Runner) | None, Ok(())) => {
            let sticks = wiring.engage_mode == EngageMode::MentionSticky
                && matches!(scope, Scope::Thread(_))
                && *in_thread == InThread::NotYet;
            let subscribe = if sticks { Subscribe::ToThread } else { Subscribe::No };
            Ruling::Heard { trigger: Trigger::Wake, scope, subscribe }
        }
    }
}

/// Whether the sender is heard by this agent in this chat, if they say what it listens to.
///
/// # Errors
/// Why not.
pub fn lets_in(chat: &MessagingGroup, candidate: &Candidate<'_>) -> Result<(), Why> {
    if chat.denied_at.is_some() {
        return Err(Why::ChatDenied);
    }
    access(chat.unknown_sender_policy, candidate.wiring.sender_scope, candidate.standing)
}

/// Somebody the group knows is heard; a stranger needs a public chat and a wiring for everybody.
fn access(policy: UnknownSenderPolicy, scope: SenderScope, standing: Standing) -> Result<(), Why> {
    match (policy, scope) {
        _ if standing.is_known() => Ok(()),
        (UnknownSenderPolicy::Strict, _) => Err(Why::SenderUnknown),
        (UnknownSenderPolicy::RequestApproval, _) => Err(Why::SenderAwaitsApproval),
        (UnknownSenderPolicy::Public, SenderScope::Known) => Err(Why::SenderNotMember),
        (UnknownSenderPolicy::Public, SenderScope::All) => Ok(()),
    }
}
