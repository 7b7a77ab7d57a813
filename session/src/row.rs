//! Typed rows of the two session databases: enums with one parse/format table each.

use jiff::{SignedDuration, Timestamp};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Declares enums stored as text: one table each, both directions, all variants.
macro_rules! text_enums {
    ($($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal),+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// Every variant, in declaration order.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$variant),+];

            /// The stored spelling.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// Reads the stored spelling.
            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.into_iter().find(|known| known.as_str() == text)
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.as_str()))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let text = value.as_str()?;
                $name::parse(text).ok_or_else(|| {
                    FromSqlError::Other(format!("{text:?} is no {}", stringify!($name)).into())
                })
            }
        }
    )+};
}

text_enums! {
    /// `messages_in.kind`. `ChatSdk` has a nested `author`, as NanoClaw's chat bridge writes it;
    /// `System` is for controls and answers to waiting tools, and never part of a prompt.
    InKind { Chat = "chat", ChatSdk = "chat-sdk", Task = "task", Webhook = "webhook", System = "system" }

    /// `messages_in.status`
    InStatus { Pending = "pending", Completed = "completed", Failed = "failed", Paused = "paused" }

    /// `messages_out.kind`. `System` is an action the host is asked for.
    OutKind { Chat = "chat", ChatSdk = "chat-sdk", System = "system" }

    /// `processing_ack.status`
    AckStatus { Processing = "processing", Completed = "completed", Failed = "failed" }

    /// `delivered.status`: final outcomes only.
    DeliveryStatus { Delivered = "delivered", Failed = "failed" }

    /// `destinations.type`
    DestinationType { Channel = "channel", Agent = "agent" }
}

/// Whether a row may wake the agent (`messages_in.trigger`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// `0`: context for the next message that wakes it.
    Context,
    /// `1`
    Wake,
}

/// Which poll may take a row (`messages_in.on_wake`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// `0`
    AnyPoll,
    /// `1`: only the first poll of a fresh container, so that a dying one cannot take it.
    FreshContainer,
}

/// A conversation on a platform. All empty: the session's own default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Address {
    pub channel_type: Option<String>,
    pub platform_id: Option<String>,
    pub thread_id: Option<String>,
}

/// A row of `messages_in`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageIn {
    pub id: String,
    pub seq: i64,
    pub kind: InKind,
    /// `None` when the stored text is no time.
    pub timestamp: Option<Timestamp>,
    pub status: InStatus,
    pub process_after: Option<Timestamp>,
    pub tries: u32,
    pub trigger: Trigger,
    pub audience: Audience,
    pub address: Address,
    pub content: String,
    pub source_session_id: Option<String>,
}

/// A row the host adds to `messages_in`; `seq` is given when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessageIn {
    pub id: String,
    pub kind: InKind,
    pub timestamp: Timestamp,
    pub process_after: Option<Timestamp>,
    pub recurrence: Option<String>,
    /// Defaults to the row's own id.
    pub series_id: Option<String>,
    pub trigger: Trigger,
    pub audience: Audience,
    pub address: Address,
    pub content: String,
    pub source_session_id: Option<String>,
    pub hops: u32,
}

impl NewMessageIn {
    /// A plain chat row that wakes the agent.
    pub fn chat(id: String, timestamp: Timestamp, address: Address, content: String) -> Self {
        NewMessageIn {
            id,
            kind: InKind::Chat,
            timestamp,
            process_after: None,
            recurrence: None,
            series_id: None,
            trigger: Trigger::Wake,
            audience: Audience::AnyPoll,
            address,
            content,
            source_session_id: None,
            hops: 0,
        }
    }
}

/// A row of `messages_out` as its reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageOut {
    pub id: String,
    pub seq: i64,
    pub in_reply_to: Option<String>,
    pub deliver_after: Option<Timestamp>,
    pub kind: OutKind,
    pub address: Address,
    pub content: String,
}

/// A row the runner adds to `messages_out`; `seq` is given when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessageOut {
    pub id: String,
    pub in_reply_to: Option<String>,
    pub deliver_after: Option<Timestamp>,
    pub kind: OutKind,
    pub address: Address,
    pub content: String,
}

/// A row of `destinations`: what an agent may call a peer, and where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub name: String,
    pub display_name: Option<String>,
    pub kind: DestinationType,
    /// Where a channel destination is; empty for an agent.
    pub address: Address,
    /// The agent group of an agent destination.
    pub agent_group_id: Option<String>,
}

/// The one row of `container_state`: what the runner says it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerState {
    pub current_tool: Option<String>,
    pub tool_declared_timeout_ms: Option<i64>,
    pub tool_started_at: Option<Timestamp>,
    /// Until when no progress is expected (ours).
    pub silent_until: Option<Timestamp>,
    /// What the runner is at, for `status` (ours).
    pub phase: Option<String>,
}

impl ContainerState {
    /// Until when no progress is to be expected. An older runner declares the time-out of its tool.
    pub fn declared_silence(&self) -> Option<Timestamp> {
        self.silent_until.or_else(|| {
            let timeout = SignedDuration::from_millis(self.tool_declared_timeout_ms?);
            self.tool_started_at?.checked_add(timeout).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_round_trips() {
        macro_rules! check {
            ($($name:ident),+) => {$(
                for v in $name::ALL {
                    assert_eq!($name::parse(v.as_str()), Some(v));
                }
                assert_eq!($name::parse("no such thing"), None);
            )+};
        }
        check!(InKind, InStatus, OutKind, AckStatus, DeliveryStatus, DestinationType);
    }
}
