//! What the events of a streamed answer add up to. Pure.
//! Events: <https://docs.anthropic.com/en/api/messages-streaming>; unknown ones are to be ignored.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{NAME, bad_key, invalid};
use crate::provider::Usage;
use crate::provider::model::api::{Answer, End, Failure, Reader, Step};
use crate::provider::model::message::Block;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        delta: Delta,
    },
    ContentBlockStop,
    MessageDelta {
        delta: MessageDelta,
        #[serde(default)]
        usage: RawUsage,
    },
    MessageStop,
    Error {
        error: Reported,
    },
    /// `ping`, and what is added in later years.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    usage: RawUsage,
}

/// A piece of a block. Which field it has depends on the block.
#[derive(Deserialize)]
struct Delta {
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    partial_json: Option<String>,
}

#[derive(Deserialize)]
struct MessageDelta {
    stop_reason: Option<String>,
}

/// The counts so far; what a later event leaves out stays as it was.
#[derive(Default, Deserialize)]
struct RawUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Reported {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// A message that is being read.
#[derive(Default)]
pub struct MessageReader {
    answer: Answer,
    /// The block that has begun, and its pieces.
    open: Option<(Map<String, Value>, String)>,
}

impl Reader for MessageReader {
    fn event(&mut self, name: &str, data: &str) -> Result<Step, Failure> {
        let event = serde_json::from_str(data)
            .map_err(|e| Failure::Again { why: format!("event {name:?} of the answer: {e}") })?;
        match event {
            Event::MessageStart { message } => self.count(message.usage),
            Event::ContentBlockStart { content_block } => self.open = Some((content_block, String::new())),
            Event::ContentBlockDelta { delta } => self.piece(delta),
            Event::ContentBlockStop => self.close(),
            Event::MessageDelta { delta, usage } => {
                self.count(usage);
                self.answer.end = delta.stop_reason.as_deref().map(end).or(self.answer.end);
            }
            Event::MessageStop => return Ok(Step::Done),
            Event::Error { error: Reported { kind, message } } => {
                return Err(match kind.as_str() {
                    "invalid_request_error" | "not_found_error" => invalid(&message),
                    "request_too_large" => Failure::TooLong { why: message },
                    "authentication_error" | "permission_error" => bad_key(&message),
                    _ => Failure::Again { why: format!("{kind}: {message}") },
                });
            }
            Event::Other => {}
        }
        Ok(Step::More)
    }

    fn answer(&mut self) -> &mut Answer {
        // A text that was broken off is worth something; nothing else is.
        if self.open.as_ref().is_some_and(|(block, _)| block.get("type") == Some(&"text".into())) {
            self.close();
        }
        &mut self.answer
    }
}

impl MessageReader {
    fn count(&mut self, new: RawUsage) {
        let Usage { input, output, cache_read, cache_write } = &mut self.answer.usage;
        *input = new.input_tokens.unwrap_or(*input);
        *output = new.output_tokens.unwrap_or(*output);
        *cache_read = new.cache_read_input_tokens.unwrap_or(*cache_read);
        *cache_write = new.cache_creation_input_tokens.unwrap_or(*cache_write);
    }

    fn piece(&mut self, delta: Delta) {
        let Some((block, pieces)) = &mut self.open else { return };
        for piece in [delta.text, delta.thinking, delta.partial_json].into_iter().flatten() {
            pieces.push_str(&piece);
        }
        if let Some(signature) = delta.signature {
            block.insert("signature".into(), signature.into());
        }
    }

    fn close(&mut self) {
        let Some((mut block, pieces)) = self.open.take() else { return };
        let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let whole = match text("type").as_str() {
            "text" => Block::Text { text: text("text") + &pieces },
            "tool_use" => Block::ToolUse { id: text("id"), name: text("name"), input: input(&block, &pieces) },
            "thinking" => {
                let thinking = text("thinking") + &pieces;
                block.insert("thinking".into(), thinking.into());
                Block::Opaque { api: NAME.into(), block: block.into() }
            }
            // Redacted thinking, and what only the server understands.
            _ => Block::Opaque { api: NAME.into(), block: block.into() },
        };
        self.answer.blocks.push(whole);
    }
}

/// The input of a call: always an object, since the API takes back nothing else.
fn input(block: &Map<String, Value>, pieces: &str) -> Value {
    if pieces.trim().is_empty() {
        return block.get("input").filter(|input| input.is_object()).cloned().unwrap_or_else(|| json!({}));
    }
    match serde_json::from_str(pieces) {
        Ok(Value::Object(input)) => input.into(),
        _ => json!({ "not_json": pieces }),
    }
}

fn end(reason: &str) -> End {
    match reason {
        "tool_use" => End::ToolUse,
        "max_tokens" => End::MaxTokens,
        "model_context_window_exceeded" => End::WindowFull,
        "pause_turn" => End::Pause,
        "refusal" => End::Refusal,
        _ => End::Turn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> (MessageReader, Result<Step, Failure>) {
        let mut reader = MessageReader::default();
        let mut last = Ok(Step::More);
        for data in events {
            last = reader.event("e", data);
        }
        (reader, last)
    }

    const TEXT: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}"#;
    const STOP: &str = r#"{"type":"content_block_stop","index":0}"#;
    const BEGIN: &str = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;

    #[test]
    fn blocks_and_counts_add_up_and_the_rest_is_ignored() {
        let (mut reader, last) = read(&[
            r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}"#,
            STOP,
            BEGIN,
            r#"{"type":"ping"}"#,
            TEXT,
            r#"{"type":"something_new","x":1}"#,
            TEXT,
            STOP,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t","name":"bash","input":{}}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"comm"}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"and\":\"ls\"}"}}"#,
            STOP,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":20}}"#,
            r#"{"type":"message_stop"}"#,
        ]);
        assert_eq!(last, Ok(Step::Done));
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "sig"});
        assert_eq!(
            reader.answer().blocks,
            [
                Block::Opaque { api: NAME.into(), block: thinking },
                Block::Text { text: "hihi".into() },
                Block::ToolUse { id: "t".into(), name: "bash".into(), input: json!({"command": "ls"}) },
            ]
        );
        assert_eq!(reader.answer.end, Some(End::ToolUse));
        assert_eq!(reader.answer.usage, Usage { input: 9, output: 20, cache_read: 4, cache_write: 0 });
    }

    #[test]
    fn of_an_answer_that_broke_off_its_text_is_left() {
        let (mut reader, _) = read(&[BEGIN, TEXT]);
        assert_eq!(reader.answer().blocks, [Block::Text { text: "hi".into() }]);
        let call =
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"b"}}"#;
        assert_eq!(read(&[call]).0.answer().blocks, []);
    }

    #[test]
    fn an_input_that_is_no_object_is_one_for_the_api() {
        let none = Map::new();
        assert_eq!(input(&none, ""), json!({}));
        assert_eq!(input(&none, "[1]"), json!({"not_json": "[1]"}));
        assert_eq!(input(&none, "{\"a\":"), json!({"not_json": "{\"a\":"}));
    }

    #[test]
    fn faults_are_told_apart() {
        let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        assert_eq!(read(&[error]).1, Err(Failure::Again { why: "overloaded_error: Overloaded".into() }));
        assert!(matches!(read(&["{"]).1, Err(Failure::Again { .. })));
    }
}
