//! Chat completions: OpenAI, OpenRouter, Ollama, llama.cpp's server, and whatever else speaks it.
//!
//! These agree on little more than the shapes. What is sent is what all of them take; what comes is read with
//! patience, see [`stream`]. No longest answer is asked for: OpenAI's newer models refuse `max_tokens`, Ollama
//! ignores `max_completion_tokens`, and without either each allows what the model can do.
//! Shapes: <https://platform.openai.com/docs/api-reference/chat>.

mod refusal;
mod request;
mod stream;

use serde_json::Value;

use super::model::api::{Api, Failure, Reader, Request};

pub const NAME: &str = "openai";

/// OpenAI's own; other endpoints say that they do not know it.
const DEFAULT_MODEL: &str = "gpt-5.4";
/// What current models take at least. Where a local server takes less, it says so, and the conversation is shortened
/// then. tokens
const WINDOW_TOKENS: u64 = 128_000;

/// What a model thought, in the fields in which some endpoints demand it back (DeepSeek and Kimi the first, OpenRouter
/// the second). It goes back in the field it came in, so that an endpoint that does not know the field never sees it.
const THOUGHT_TEXT: &str = "reasoning_content";
const THOUGHT_DETAILS: &str = "reasoning_details";

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct OpenAi;

impl Api for OpenAi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn default_model(&self) -> &'static str {
        DEFAULT_MODEL
    }

    fn path(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        vec![("authorization", format!("Bearer {token}"))]
    }

    fn window(&self, _: &str) -> u64 {
        WINDOW_TOKENS
    }

    fn body(&self, request: &Request<'_>) -> Vec<u8> {
        request::body(request)
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(stream::Stream::default())
    }

    fn refusal(&self, status: u16, body: &str) -> Failure {
        // A body that is no JSON, such as a proxy's page, says nothing that could be shown.
        refusal::failure(status, &serde_json::from_str(body).unwrap_or(Value::Null))
    }
}
