//! The body of a request, and the message in the body of an error. Pure.
//! Shapes: <https://docs.anthropic.com/en/api/messages>, <https://docs.anthropic.com/en/api/errors>.

use serde_json::{Value, json};

use super::history::Message;

/// Longest answer. tokens
const MAX_ANSWER_TOKENS: u32 = 16_384;
/// Longest part of an error's text that is shown to people. characters
const MAX_MESSAGE_CHARS: usize = 300;

/// The request for one streamed answer.
pub fn body(model: &str, system: &str, messages: &[Message]) -> Vec<u8> {
    let mut body = json!({
        "model": model,
        "max_tokens": MAX_ANSWER_TOKENS,
        "stream": true,
        "messages": messages,
    });
    if !system.is_empty() {
        body["system"] = system.into();
    }
    body.to_string().into_bytes()
}

/// What an error says, on one line.
pub fn error_message(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    let message = value.get("error")?.get("message")?.as_str()?;
    Some(message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_MESSAGE_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::super::history::Role;
    use super::*;

    #[test]
    fn a_request_has_what_the_api_demands() {
        let message = Message { role: Role::User, content: "hi".into() };
        let body: Value = serde_json::from_slice(&body("m", "s", &[message])).unwrap();
        assert_eq!(
            body,
            json!({"model": "m", "max_tokens": MAX_ANSWER_TOKENS, "stream": true, "system": "s",
                   "messages": [{"role": "user", "content": "hi"}]})
        );
    }

    #[test]
    fn an_error_s_message_is_found() {
        let body = r#"{"type":"error","error":{"type":"x","message":"bad\n  thing"}}"#;
        assert_eq!(error_message(body).as_deref(), Some("bad thing"));
        assert_eq!(error_message("<html>"), None);
    }
}
