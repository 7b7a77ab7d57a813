//! Which conversation of an agent a message belongs to. Pure.

use crate::channel::ChatKind;
use crate::store::SessionMode;

/// What a session covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All chats of the agent.
    Agent,
    /// A whole chat, or what is said outside of its threads.
    Chat,
    /// One thread of the chat.
    Thread(String),
}

impl Scope {
    /// `thread_id` is empty where the chat has no threads. A private chat is one conversation,
    /// and in a group each thread is one, unless the agent has a single one for everything.
    pub fn of(mode: SessionMode, kind: ChatKind, thread_id: Option<&str>) -> Scope {
        match (mode, kind, thread_id) {
            (SessionMode::AgentShared, _, _) => Scope::Agent,
            (SessionMode::Shared | SessionMode::PerThread, ChatKind::Group, Some(thread)) => {
                Scope::Thread(thread.to_owned())
            }
            (SessionMode::Shared | SessionMode::PerThread, _, _) => Scope::Chat,
        }
    }

    /// The chat and thread of the session's row.
    pub fn columns<'a>(&'a self, chat_id: &'a str) -> (Option<&'a str>, Option<&'a str>) {
        match self {
            Scope::Agent => (None, None),
            Scope::Chat => (Some(chat_id), None),
            Scope::Thread(thread) => (Some(chat_id), Some(thread)),
        }
    }
}
