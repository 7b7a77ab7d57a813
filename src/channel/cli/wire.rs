//! The lines of the terminal's socket. `nanoclaw chat`, set-up scripts and tests speak them.

use nanoclaw_session::content::Question;
use serde::{Deserialize, Serialize};

use crate::channel::Chat;
use crate::channel::TurnResult;

/// A line from a client. With `text` or `attachments` it is a message, with `questionId` and `option` (a label, a value
/// or a number) an answer; with `listen` the client
/// asks for the replies of a chat without saying anything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FromClient {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(rename = "questionId", skip_serializing_if = "Option::is_none")]
    pub question_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub option: Option<String>,
    /// Route it as if it had come from this chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<WireAddress>,
    /// Where answers go, when not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<WireAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    #[serde(rename = "senderId", skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<String>,
    /// The same id with the same text is the same message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "isMention", skip_serializing_if = "std::ops::Not::not")]
    pub is_mention: bool,
    #[serde(rename = "isGroup", skip_serializing_if = "std::ops::Not::not")]
    pub is_group: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<WireAttachment>,
}

/// A chat, and a thread in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WireAddress {
    pub channel_type: String,
    pub platform_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<String>,
}

impl From<WireAddress> for (Chat, Option<String>) {
    fn from(address: WireAddress) -> Self {
        (Chat { channel_type: address.channel_type, platform_id: address.platform_id }, address.thread_id)
    }
}

/// A file in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WireAttachment {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// base64
    pub data: String,
}

/// A line to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ToClient {
    /// The message with this id is on disk: it will not be lost.
    Accepted {
        id: String,
    },
    Text {
        id: String,
        text: String,
        platform_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        in_reply_to: Option<String>,
    },
    /// `data` is base64.
    File {
        id: String,
        name: String,
        data: String,
    },
    Edit {
        id: String,
        message_id: String,
        text: String,
    },
    Reaction {
        id: String,
        message_id: String,
        emoji: String,
    },
    Question {
        id: String,
        #[serde(flatten)]
        question: Question,
    },
    /// An answer is being written; said again every few seconds.
    Typing {
        platform_id: String,
    },
    /// The agent is done with these messages.
    TurnEnd {
        message_ids: Vec<String>,
        result: TurnResult,
    },
    Error {
        message: String,
    },
}
