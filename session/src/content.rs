//! What the `content` column means, on both sides.
//!
//! Content is JSON written by programs of different ages, so reading is lenient: a field of the
//! wrong type counts as absent, and content that is not JSON at all is plain text. A row is
//! never lost because of its content. Writing is strict: the types below are what we produce.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use crate::question::{Answer, Question, QuestionOption};
use crate::row::{InKind, OutKind};

/// What a row of `messages_in` says.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    Chat(ChatIn),
    Task(TaskIn),
    Webhook(WebhookIn),
    /// For the runner itself. `None`: nothing it knows.
    System(Option<System>),
}

/// A message from a person (or a note from the host, sender `system`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatIn {
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Namespaced user id, `<channel>:<handle>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Quote>,
    /// A later version of a message that was already delivered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
}

/// A file that came with a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub name: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// bytes
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Relative to the workspace; absent when the file could not be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_path: Option<String>,
}

/// The message a reply quotes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Quote {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    pub text: String,
}

/// A scheduled prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskIn {
    pub prompt: String,
}

/// An event from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookIn {
    pub source: String,
    pub event: String,
    pub payload: Value,
}

/// What a row of kind `system` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    Control(Control),
    /// For the tool that waits for it.
    Answer(Answer),
}

/// What a control row asks of the runner, which obeys at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Cancel the running turn.
    Stop,
}

impl Control {
    /// The content of the control row.
    pub fn to_json(self) -> String {
        let action = match self {
            Control::Stop => "stop",
        };
        json!({"type": "control", "action": action}).to_string()
    }
}

impl Inbound {
    /// Reads a row's content. Never fails: see the module's rule.
    pub fn parse(kind: InKind, content: &str) -> Inbound {
        let o = object(content).unwrap_or_else(|plain| {
            Map::from_iter([("text".into(), plain.into()), ("payload".into(), content.into())])
        });
        match kind {
            InKind::Chat | InKind::ChatSdk => Inbound::Chat(ChatIn::from_object(&o)),
            InKind::Task => {
                let prompt = text(&o, "prompt").or_else(|| text(&o, "text")).unwrap_or_default();
                Inbound::Task(TaskIn { prompt })
            }
            InKind::Webhook => Inbound::Webhook(WebhookIn {
                source: text(&o, "source").unwrap_or_else(|| "unknown".into()),
                event: text(&o, "event").unwrap_or_else(|| "unknown".into()),
                payload: o.get("payload").cloned().unwrap_or(Value::Null),
            }),
            InKind::System => {
                let is_stop = || text(&o, "action").as_deref() == Some("stop");
                Inbound::System(match text(&o, "type").as_deref() {
                    Some("control") => is_stop().then_some(System::Control(Control::Stop)),
                    Some(Answer::TYPE) => Answer::from_object(&o).map(System::Answer),
                    _ => None,
                })
            }
        }
    }
}

impl ChatIn {
    /// The content column of this message.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    fn from_object(o: &Map<String, Value>) -> ChatIn {
        let author = o.get("author").and_then(Value::as_object);
        let of_author = |keys: [&str; 2]| author.and_then(|a| keys.iter().find_map(|k| text(a, k)));
        ChatIn {
            text: text(o, "text").unwrap_or_default(),
            sender: text(o, "sender").or_else(|| of_author(["fullName", "userName"])),
            sender_id: text(o, "senderId").or_else(|| of_author(["userId", "id"])),
            attachments: list(o, "attachments").filter_map(Value::as_object).map(Attachment::from_object).collect(),
            reply_to: o.get("replyTo").and_then(Value::as_object).map(|q| Quote {
                id: text(q, "id"),
                sender: text(q, "sender"),
                text: text(q, "text").unwrap_or_default(),
            }),
            edited: o.get("edited").and_then(Value::as_bool).unwrap_or(false),
        }
    }
}

impl Attachment {
    fn from_object(o: &Map<String, Value>) -> Attachment {
        Attachment {
            name: text(o, "name").or_else(|| text(o, "filename")).unwrap_or_else(|| "file".into()),
            kind: text(o, "type"),
            mime_type: text(o, "mimeType"),
            size: o.get("size").and_then(Value::as_u64),
            local_path: text(o, "localPath"),
        }
    }
}

/// What a row of `messages_out` asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// `files` are names in `outbox/<message id>/`.
    Text { text: String, files: Vec<String> },
    /// Replace the text of an earlier message, named by the seq the agent saw.
    Edit { message_id: String, text: String },
    /// Put a sign to such a message.
    Reaction { message_id: String, emoji: String },
    /// Ask, and wait for the answer.
    Question(Question),
    /// Rich content as the platform takes it, and a text for where it does not.
    Card { card: Value, fallback_text: String },
    /// `kind = system`: something the host does for the agent.
    Action { name: String, arguments: Map<String, Value> },
    /// Understood as JSON, but not as anything we know: an error for the agent, never "sent".
    Invalid(&'static str),
}

impl Outbound {
    /// Reads what an agent wrote. Not JSON: plain text. JSON we do not know: [`Outbound::Invalid`].
    pub fn parse(kind: OutKind, content: &str) -> Outbound {
        let o = match (object(content), kind) {
            (Ok(o), _) => o,
            (Err(_), OutKind::System) => return Outbound::Invalid("a system row without a JSON object"),
            (Err(text), OutKind::Chat | OutKind::ChatSdk) => return Outbound::Text { text, files: Vec::new() },
        };
        if kind == OutKind::System {
            return match text(&o, "action") {
                Some(name) => Outbound::Action { name, arguments: o },
                None => Outbound::Invalid("a system row without an action"),
            };
        }
        let o = &o;
        match (text(o, "operation").as_deref(), text(o, "type").as_deref()) {
            (Some("edit"), _) => match (reference(o), text(o, "text")) {
                (Some(message_id), Some(text)) if !text.trim().is_empty() => Outbound::Edit { message_id, text },
                _ => Outbound::Invalid("an edit needs messageId and text"),
            },
            (Some("reaction"), _) => match (reference(o), text(o, "emoji")) {
                (Some(message_id), Some(emoji)) if is_emoji(&emoji) => Outbound::Reaction { message_id, emoji },
                _ => Outbound::Invalid("a reaction needs messageId and one emoji"),
            },
            (Some(_), _) => Outbound::Invalid("an unknown operation (known: edit, reaction)"),
            (None, Some("ask_question")) => match Question::deserialize(o) {
                Ok(q) => q.check().map_or_else(Outbound::Invalid, |()| Outbound::Question(q)),
                Err(_) => Outbound::Invalid("a question needs questionId, a title and options"),
            },
            (None, Some("card")) => match o.get("card").cloned() {
                Some(card) => Outbound::Card { card, fallback_text: text(o, "fallbackText").unwrap_or_default() },
                None => Outbound::Invalid("a card needs a card"),
            },
            (None, _) => {
                let files: Vec<String> = list(o, "files").filter_map(Value::as_str).map(str::to_owned).collect();
                match text(o, "text").or_else(|| text(o, "markdown")) {
                    Some(text) => Outbound::Text { text, files },
                    None if !files.is_empty() => Outbound::Text { text: String::new(), files },
                    None => Outbound::Invalid("a message needs text or files"),
                }
            }
        }
    }

    /// The row's kind and content column.
    pub fn to_row(&self) -> (OutKind, String) {
        let value = match self {
            Outbound::Text { text, files } if files.is_empty() => json!({"text": text}),
            Outbound::Text { text, files } => json!({"text": text, "files": files}),
            Outbound::Edit { message_id, text } => {
                json!({"operation": "edit", "messageId": message_id, "text": text})
            }
            Outbound::Reaction { message_id, emoji } => {
                json!({"operation": "reaction", "messageId": message_id, "emoji": emoji})
            }
            Outbound::Question(q) => {
                let mut value = serde_json::to_value(q).expect("strings always serialise");
                value["type"] = "ask_question".into();
                value
            }
            Outbound::Card { card, fallback_text } => {
                json!({"type": "card", "card": card, "fallbackText": fallback_text})
            }
            Outbound::Action { name, arguments } => {
                let mut arguments = arguments.clone();
                arguments.insert("action".into(), Value::from(name.as_str()));
                return (OutKind::System, Value::Object(arguments).to_string());
            }
            Outbound::Invalid(why) => json!({"text": format!("(unreadable message: {why})")}),
        };
        (OutKind::Chat, value.to_string())
    }
}

pub(crate) fn text(o: &Map<String, Value>, key: &str) -> Option<String> {
    o.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn list<'o>(o: &'o Map<String, Value>, key: &str) -> impl Iterator<Item = &'o Value> {
    o.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// `messageId` as the agent wrote it: `5`, `"5"` or `"#5"`.
fn reference(o: &Map<String, Value>) -> Option<String> {
    match o.get("messageId")? {
        Value::String(s) => Some(s.trim_start_matches('#').to_owned()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Whether this may be put to a message: one emoji, or a platform's own name for one (`:party_parrot:`).
pub fn is_emoji(sign: &str) -> bool {
    const MAX_BYTES: usize = 64;
    (1..=MAX_BYTES).contains(&sign.len()) && !sign.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Content that is not an object is plain text: a JSON string means itself, anything else its own.
fn object(content: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(content) {
        Ok(Value::Object(o)) => Ok(o),
        Ok(Value::String(text)) => Err(text),
        _ => Err(content.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chat(content: &str) -> ChatIn {
        match Inbound::parse(InKind::Chat, content) {
            Inbound::Chat(chat) => chat,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn chat_round_trips() {
        let message = ChatIn {
            text: "hi".into(),
            sender: Some("Ann".into()),
            sender_id: Some("telegram:7".into()),
            attachments: vec![Attachment {
                name: "a.png".into(),
                kind: Some("image".into()),
                mime_type: Some("image/png".into()),
                size: Some(9),
                local_path: Some("inbox/1/a.png".into()),
            }],
            reply_to: Some(Quote { id: Some("3".into()), sender: None, text: "q".into() }),
            edited: true,
        };
        assert_eq!(chat(&message.to_json()), message);
    }

    #[test]
    fn unparseable_content_is_plain_text() {
        assert_eq!(chat("not json").text, "not json");
        assert_eq!(chat("\"quoted\"").text, "quoted");
        assert_eq!(chat("[1]").text, "[1]");
        assert_eq!(Outbound::parse(OutKind::Chat, "hello {"), Outbound::Text { text: "hello {".into(), files: vec![] });
    }

    #[test]
    fn fields_of_the_wrong_type_count_as_absent() {
        let c = chat(r#"{"text":"t","sender":4,"attachments":[{"name":"n","mimeType":{}},7],"replyTo":"x"}"#);
        assert_eq!(c.sender, None);
        assert_eq!(c.attachments.len(), 1);
        assert_eq!(c.attachments[0].mime_type, None);
        assert_eq!(c.reply_to, None);
    }

    #[test]
    fn a_chat_sdk_author_is_the_sender() {
        let Inbound::Chat(c) =
            Inbound::parse(InKind::ChatSdk, r#"{"text":"t","author":{"fullName":"Ann","userId":"7"}}"#)
        else {
            panic!()
        };
        assert_eq!((c.sender.as_deref(), c.sender_id.as_deref()), (Some("Ann"), Some("7")));
    }

    #[test]
    fn a_control_row_is_a_control() {
        assert_eq!(
            Inbound::parse(InKind::System, &Control::Stop.to_json()),
            Inbound::System(Some(System::Control(Control::Stop)))
        );
        assert_eq!(Inbound::parse(InKind::System, "garbage"), Inbound::System(None));
    }

    #[test]
    fn outbound_round_trips() {
        let question = Question {
            question_id: "q1".into(),
            title: "Which?".into(),
            question: "?".into(),
            options: vec![QuestionOption { label: "A".into(), selected_label: None, value: Some("a".into()) }],
            expires_at: None,
        };
        for out in [
            Outbound::Text { text: "t".into(), files: vec![] },
            Outbound::Text { text: String::new(), files: vec!["f".into()] },
            Outbound::Edit { message_id: "5".into(), text: "t".into() },
            Outbound::Reaction { message_id: "5".into(), emoji: "👍".into() },
            Outbound::Question(question),
            Outbound::Card { card: json!({"title": "x"}), fallback_text: "f".into() },
        ] {
            let (kind, content) = out.to_row();
            assert_eq!(Outbound::parse(kind, &content), out);
        }
    }

    #[test]
    fn what_is_not_understood_is_invalid_and_not_text() {
        for bad in [
            r#"{"operation":"explode"}"#,
            r#"{"operation":"edit","messageId":5}"#,
            r#"{"operation":"edit","messageId":5,"text":" "}"#,
            r#"{"operation":"reaction","messageId":5,"emoji":""}"#,
            r#"{"operation":"reaction","messageId":5,"emoji":"well done"}"#,
            r#"{"type":"ask_question","questionId":"q","options":[{"label":"a"}]}"#,
            r#"{"nothing":1}"#,
        ] {
            assert!(matches!(Outbound::parse(OutKind::Chat, bad), Outbound::Invalid(_)), "{bad}");
        }
        assert!(matches!(Outbound::parse(OutKind::System, "text"), Outbound::Invalid(_)));
    }

    #[test]
    fn a_message_reference_may_be_written_three_ways() {
        for id in ["5", "\"5\"", "\"#5\""] {
            let content = format!(r#"{{"operation":"reaction","messageId":{id},"emoji":"x"}}"#);
            assert_eq!(
                Outbound::parse(OutKind::Chat, &content),
                Outbound::Reaction { message_id: "5".into(), emoji: "x".into() }
            );
        }
    }

    proptest! {
        #[test]
        fn no_content_panics_or_is_lost(content in ".{0,80}") {
            for kind in InKind::ALL {
                let _parsed = Inbound::parse(kind, &content);
            }
            if serde_json::from_str::<Value>(&content).is_err() {
                prop_assert_eq!(chat(&content).text, content);
            }
        }
    }
}
