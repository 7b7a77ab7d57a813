//! The Messages API.
//! Shapes: <https://docs.anthropic.com/en/api/messages>, <https://docs.anthropic.com/en/api/errors>.

mod reader;

use serde_json::{Value, json};

use super::ErrorClass;
use super::model::api::{Api, Failure, Reader, Request};
use super::model::media;
use super::model::message::{Block, Message};

pub const NAME: &str = "anthropic";

const DEFAULT_MODEL: &str = "claude-sonnet-5-5";
const API_VERSION: &str = "2023-06-01";
/// Longest answer, thinking included. tokens
const MAX_ANSWER_TOKENS: u32 = 16_384;
/// What every model takes at least. tokens
const WINDOW_TOKENS: u64 = 200_000;
/// Longest part of an error's text that is shown to people. characters
const MAX_MESSAGE_CHARS: usize = 300;
/// Parts of the names of models that know no adaptive thinking and no effort: those before 4.6.
const OLDER_MODELS: [&str; 7] = ["claude-2", "claude-3", "claude-instant", "-4-0", "-4-1", "-4-5", "-4-2025"];

/// See the module.
pub struct Messages;

impl Api for Messages {
    fn name(&self) -> &'static str {
        NAME
    }

    fn default_model(&self) -> &'static str {
        DEFAULT_MODEL
    }

    fn path(&self) -> &'static str {
        "/v1/messages"
    }

    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        vec![("x-api-key", token.to_owned()), ("anthropic-version", API_VERSION.to_owned())]
    }

    fn window(&self, _: &str) -> u64 {
        WINDOW_TOKENS
    }

    fn body(&self, request: &Request<'_>) -> Vec<u8> {
        let cached = json!({"type": "ephemeral"});
        let mut messages: Vec<Value> = request.messages.iter().map(message).collect();
        // The history only grows: what was sent last time is found in the cache up to its last block, and this time's
        // last block is where the next request finds it.
        for message in messages.iter_mut().rev().filter(|m| m["role"] == "user").take(2) {
            if let Some(last) = message["content"].as_array_mut().and_then(|content| content.last_mut()) {
                last["cache_control"] = cached.clone();
            }
        }
        let mut body = json!({
            "model": request.model,
            "max_tokens": MAX_ANSWER_TOKENS,
            "stream": true,
            "messages": messages,
        });
        if !request.system.is_empty() {
            body["system"] = json!([{"type": "text", "text": request.system, "cache_control": cached}]);
        }
        if !request.tools.is_empty() {
            let tool = |t: &crate::tools::Spec| json!({"name": t.name, "description": t.description, "input_schema": t.schema});
            let mut tools: Vec<Value> = request.tools.iter().map(tool).collect();
            if let Some(last) = tools.last_mut() {
                last["cache_control"] = cached;
            }
            body["tools"] = tools.into();
        }
        if thinks(request.model) {
            body["thinking"] = json!({"type": "adaptive"});
            if let Some(effort) = request.effort {
                body["output_config"] = json!({"effort": effort});
            }
        }
        body.to_string().into_bytes()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(reader::MessageReader::default())
    }

    fn refusal(&self, status: u16, body: &str) -> Failure {
        let message = error_message(body).unwrap_or_else(|| format!("HTTP {status}"));
        match status {
            401 | 403 => bad_key(&message),
            413 => Failure::TooLong { why: message },
            429 => Failure::Limited { why: message },
            408 | 409 | 500..=599 => Failure::Again { why: format!("{message} (HTTP {status})") },
            _ => invalid(&message),
        }
    }
}

/// Whether a model takes adaptive thinking and effort. Other vendors' models behind this API take neither.
fn thinks(model: &str) -> bool {
    model.contains("claude-") && !OLDER_MODELS.iter().any(|old| model.contains(old))
}

fn message(message: &Message) -> Value {
    json!({"role": message.role, "content": message.content.iter().filter_map(block).collect::<Vec<_>>()})
}

/// A block as the API takes it; `None` for what is another API's.
fn block(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::File { path, media_type } => {
            let kind = if media_type == "application/pdf" { "document" } else { "image" };
            match media::base64(path) {
                Some(data) => {
                    json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}})
                }
                None => json!({"type": "text", "text": format!("[{}: no longer there]", path.display())}),
            }
        }
        Block::ToolUse { id, name, input } => json!({"type": "tool_use", "id": id, "name": name, "input": input}),
        Block::ToolResult { tool_use_id, content, is_error } => {
            let content: Vec<Value> = content.iter().filter_map(self::block).collect();
            json!({"type": "tool_result", "tool_use_id": tool_use_id, "content": content, "is_error": is_error})
        }
        Block::Opaque { api, block } if api == NAME => block.clone(),
        Block::Opaque { .. } => return None,
    })
}

/// What an error says, on one line.
fn error_message(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    let message = value.get("error")?.get("message")?.as_str()?;
    Some(message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_MESSAGE_CHARS).collect())
}

/// A request that will never succeed as it is.
fn invalid(message: &str) -> Failure {
    if message.contains("prompt is too long") || message.contains("exceed context limit") {
        return Failure::TooLong { why: message.into() };
    }
    let sentence = format!("The model rejected the request: {message}");
    Failure::Final { class: ErrorClass::InvalidRequest, sentence }
}

fn bad_key(message: &str) -> Failure {
    let sentence = format!("The model refused the key ({message}). The owner has to set a valid one.");
    Failure::Final { class: ErrorClass::Auth, sentence }
}

#[cfg(test)]
mod tests {
    use super::super::model::message::Role;
    use super::*;
    use crate::tools::Spec;

    fn body(model: &str, messages: &[Message], tools: &[Spec]) -> Value {
        let request = Request { model, effort: Some("high"), system: "s", messages, tools };
        serde_json::from_slice(&Messages.body(&request)).unwrap()
    }

    fn text(text: &str) -> Block {
        Block::Text { text: text.into() }
    }

    #[test]
    fn a_request_has_what_the_api_demands() {
        let call = Block::ToolUse { id: "t1".into(), name: "bash".into(), input: json!({"command": "ls"}) };
        let result = Block::ToolResult { tool_use_id: "t1".into(), content: vec![text("a")], is_error: false };
        let thinking = Block::Opaque { api: NAME.into(), block: json!({"type": "thinking", "signature": "x"}) };
        let other = Block::Opaque { api: "openai".into(), block: json!({}) };
        let messages = [
            Message { role: Role::User, content: vec![text("hi")] },
            Message { role: Role::Assistant, content: vec![thinking, other, call] },
            Message { role: Role::User, content: vec![result, text("quick")] },
        ];
        let tools = [Spec { name: "bash".into(), description: "d".into(), schema: json!({"type": "object"}) }];
        let cached = json!({"type": "ephemeral"});
        assert_eq!(
            body("claude-opus-5-5", &messages, &tools),
            json!({"model": "claude-opus-5-5", "max_tokens": MAX_ANSWER_TOKENS, "stream": true,
                "system": [{"type": "text", "text": "s", "cache_control": cached}],
                "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
                "tools": [{"name": "bash", "description": "d", "input_schema": {"type": "object"}, "cache_control": cached}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": cached}]},
                    {"role": "assistant", "content": [
                        {"type": "thinking", "signature": "x"},
                        {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}}]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "is_error": false,
                         "content": [{"type": "text", "text": "a"}]},
                        {"type": "text", "text": "quick", "cache_control": cached}]}]})
        );
    }

    #[test]
    fn only_models_that_think_are_asked_to() {
        for (model, thinking) in [
            ("claude-sonnet-5-5", true),
            ("claude-opus-4-6", true),
            ("claude-opus-4-8", true),
            ("claude-sonnet-4-5", false),
            ("claude-sonnet-4-20250514", false),
            ("claude-3-7-sonnet-latest", false),
            ("glm-5", false),
        ] {
            assert_eq!(thinks(model), thinking, "{model}");
            assert_eq!(body(model, &[], &[]).get("output_config").is_some(), thinking, "{model}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let body = |message: &str| json!({"type": "error", "error": {"type": "x", "message": message}}).to_string();
        assert!(
            matches!(Messages.refusal(401, &body("bad\n  key")), Failure::Final { class: ErrorClass::Auth, sentence }
            if sentence.contains("(bad key)"))
        );
        assert!(matches!(Messages.refusal(400, &body("prompt is too long: 1 > 0")), Failure::TooLong { .. }));
        assert!(matches!(Messages.refusal(400, &body("messages: no")), Failure::Final { .. }));
        assert!(matches!(Messages.refusal(429, "<html>"), Failure::Limited { why } if why == "HTTP 429"));
        assert!(matches!(Messages.refusal(529, ""), Failure::Again { .. }));
    }
}
