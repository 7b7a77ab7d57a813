//! What an error means: a status with its body, or an event in the middle of a stream. Pure.
//!
//! The status alone does not tell: a used-up account comes as 429, a conversation that is too long as 400, 429 or 500.
//! Codes: <https://platform.openai.com/docs/guides/error-codes>, <https://openrouter.ai/docs/api-reference/errors>;
//! llama.cpp's `exceed_context_size_error` and Ollama's plain sentences are in their sources.

use serde_json::Value;

use crate::provider::ErrorClass;
use crate::provider::model::api::Failure;

/// Longest part of an error's text that is shown to people. characters
const MAX_MESSAGE_CHARS: usize = 300;

/// What errors say when the conversation does not fit, in lower case.
const TOO_LONG: [&str; 9] = [
    "context_length",
    "context length",
    "context size",
    "context window",
    "prompt is too long",
    "input is too long",
    "request too large",
    "maximum number of tokens",
    "reduce the length",
];
const NO_CREDIT: [&str; 3] = ["insufficient_quota", "billing_hard_limit", "billing_not_active"];
const DECLINED: [&str; 3] = ["content_filter", "content_policy", "moderation"];
/// Pictures for a model, or a server, that takes none.
const NO_PICTURES: [&str; 3] = ["image input", "support image", "image_url"];

/// What a refusal means.
pub fn failure(status: u16, body: &Value) -> Failure {
    let error = body.get("error").unwrap_or(body);
    let text = message(error).unwrap_or_else(|| format!("HTTP {status}"));
    // Not all of the body: some repeat what the user wrote.
    let all = format!("{text} {} {}", error["code"], error["type"]).to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|p| all.contains(p));
    let why: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    let last = |class, sentence: String| Failure::Final { class, sentence };
    match status {
        401 => last(ErrorClass::Auth, format!("The model refused the key ({why}). The owner has to set a valid one.")),
        413 => Failure::TooLong { why },
        _ if says(&TOO_LONG) => Failure::TooLong { why },
        // There is no time at which it is filled up again, and no shorter history helps: the owner has to act.
        _ if status == 402 || says(&NO_CREDIT) => last(
            ErrorClass::Auth,
            format!("The model's provider wants to be paid first ({why}). The owner can do that."),
        ),
        400 | 403 if says(&DECLINED) => last(ErrorClass::Refused, "The model declined to answer that.".into()),
        403 => last(ErrorClass::Auth, format!("The key may not do this ({why}). The owner has to set a valid one.")),
        _ if says(&NO_PICTURES) => {
            last(ErrorClass::InvalidRequest, format!("The model takes no pictures, or not this one: {why}"))
        }
        404 => last(
            ErrorClass::InvalidRequest,
            format!("The model was not found ({why}). The owner has to set the model's name, or OPENAI_BASE_URL."),
        ),
        429 => Failure::Limited { why },
        408 | 409 | 425 | 500.. => Failure::Again { why: format!("{why} (HTTP {status})") },
        _ => last(ErrorClass::InvalidRequest, format!("The model rejected the request: {why}")),
    }
}

/// What an error in the middle of a stream means; its `code` is a status, or a word.
pub fn in_stream(body: &Value) -> Failure {
    let error = &body["error"];
    let code = &error["code"];
    let status = code.as_u64().or_else(|| code.as_str()?.parse().ok()).and_then(|s| u16::try_from(s).ok());
    let status = status.filter(|s| *s >= 400);
    let known = match (code.as_str(), error["type"].as_str()) {
        (Some("rate_limit_exceeded"), _) => 429,
        (_, Some("invalid_request_error")) => 400,
        _ => 500,
    };
    failure(status.unwrap_or(known), body)
}

/// What an error says, on one line. Besides OpenAI's shape there are Ollama's (`error` is the text), FastAPI's
/// (`detail`), and OpenRouter's, which has another provider's answer in `raw`.
fn message(error: &Value) -> Option<String> {
    let text = [&error["message"], error, &error["detail"]].into_iter().find_map(Value::as_str)?;
    let raw = error["metadata"]["raw"].as_str().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().chain(raw.split_whitespace()).collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(status: u16, body: Value) -> Option<ErrorClass> {
        match failure(status, &body) {
            Failure::Final { class, .. } => Some(class),
            other => panic!("{status} {body}: {other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_too_long_under_every_status_it_comes_with() {
        for (status, error) in [
            (
                400,
                json!({"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"}),
            ),
            (
                400,
                json!({"code": 400, "message": "request (4390 tokens) exceeds the available context size (4096 tokens)",
                         "type": "exceed_context_size_error"}),
            ),
            (500, json!({"code": 500, "message": "Context size has been exceeded.", "type": "server_error"})),
            (
                400,
                json!({"message": "Provider returned error", "code": 400,
                         "metadata": {"raw": "{\"message\":\"prompt is too long: 201000 tokens > 200000 maximum\"}"}}),
            ),
            (
                429,
                json!({"message": "Request too large for gpt-4o on tokens per min (TPM)", "code": "rate_limit_exceeded"}),
            ),
            (413, json!("Payload Too Large")),
        ] {
            let failure = failure(status, &json!({"error": error}));
            assert!(matches!(failure, Failure::TooLong { .. }), "{status} {error}: {failure:?}");
        }
    }

    #[test]
    fn what_the_owner_has_to_mend_is_told_apart() {
        let quota = json!({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}});
        assert_eq!(class(429, quota), Some(ErrorClass::Auth));
        assert_eq!(
            class(402, json!({"error": {"message": "Insufficient credits", "code": 402}})),
            Some(ErrorClass::Auth)
        );
        assert_eq!(class(401, Value::Null), Some(ErrorClass::Auth));
        assert_eq!(class(403, json!({"error": "no access"})), Some(ErrorClass::Auth));
        let flagged = json!({"error": {"code": 403, "message": "requires moderation and your input was flagged"}});
        assert_eq!(class(403, flagged), Some(ErrorClass::Refused));
        assert_eq!(class(422, json!({"detail": "extra inputs"})), Some(ErrorClass::InvalidRequest));
        let blind = json!({"error": {"code": 500, "message": "image input is not supported", "type": "server_error"}});
        assert_eq!(class(500, blind), Some(ErrorClass::InvalidRequest));
        let missing = failure(404, &json!({"error": {"message": "model \"x\" not found, try pulling it first"}}));
        let Failure::Final { sentence, .. } = missing else { panic!("{missing:?}") };
        assert!(sentence.contains("\"x\"") && sentence.contains("OPENAI_BASE_URL"), "{sentence}");
    }

    #[test]
    fn what_passes_is_tried_again() {
        for status in [408, 409, 425, 500, 502, 503, 529] {
            assert!(matches!(failure(status, &json!({"error": {"message": "Loading model"}})), Failure::Again { .. }));
        }
        let repeated = json!({"error": {"message": "extra field", "input": "what is a context window? image_url"}});
        let Failure::Final { sentence, .. } = failure(422, &repeated) else {
            panic!("what the user wrote is no error")
        };
        assert_eq!(sentence, "The model rejected the request: extra field");
        let limited = failure(429, &json!({"error": {"message": " slow\n down "}}));
        assert_eq!(limited, Failure::Limited { why: "slow down".into() });
    }

    #[test]
    fn an_error_in_a_stream_has_its_status_inside() {
        let error =
            |code: Value, kind: &str| in_stream(&json!({"error": {"message": "m", "code": code, "type": kind}}));
        assert!(matches!(error(json!(502), ""), Failure::Again { .. }));
        assert!(matches!(error(json!("429"), ""), Failure::Limited { .. }));
        assert!(matches!(error(json!("rate_limit_exceeded"), ""), Failure::Limited { .. }));
        assert!(matches!(error(json!(0), ""), Failure::Again { .. }));
        assert!(matches!(error(Value::Null, "server_error"), Failure::Again { .. }));
        assert!(matches!(error(Value::Null, "invalid_request_error"), Failure::Final { .. }));
        assert!(matches!(in_stream(&json!({"error": "it broke"})), Failure::Again { .. }));
    }
}
