//! The CLI's wire: one JSON object per line, both ways. What we do not know is skipped: newer versions add to it.
//!
//! A line may hold a whole file. It is parsed as it streams in, and only what is asked for is kept.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::provider::Usage;

/// What the CLI says: the fields that matter here, of all kinds of lines. Which of them a line has is up to its kind.
#[derive(Debug, Deserialize)]
pub struct Line {
    #[serde(rename = "type")]
    pub kind: String,
    pub subtype: Option<String>,
    pub session_id: Option<String>,
    /// It is about a sub-agent.
    pub parent_tool_use_id: Option<IgnoredAny>,
    pub message: Option<Message>,
    /// Why there is no answer, in one of the CLI's words.
    pub error: Option<String>,
    pub is_error: Option<bool>,
    /// The final text.
    pub result: Option<String>,
    pub errors: Option<Vec<String>>,
    /// The command of its own that the CLI has executed.
    pub local_command: Option<String>,
    pub terminal_reason: Option<String>,
    pub stop_reason: Option<String>,
    /// What made the CLI begin a turn by itself.
    pub origin: Option<IgnoredAny>,
    /// The messages of ours that are answered.
    pub user_message_uuids: Option<Vec<String>>,
    /// By the model's name.
    pub model_usage_since_last_result: Option<BTreeMap<String, Tokens>>,
    pub retry_delay_ms: Option<f64>,
    /// An HTTP status.
    pub error_status: Option<u16>,
    pub rate_limit_info: Option<Limit>,
    pub tasks: Option<Vec<IgnoredAny>>,
    pub request_id: Option<String>,
    pub request: Option<Request>,
}

#[derive(Debug, Deserialize)]
pub struct Message {
    model: Option<String>,
}

impl Message {
    /// Not what the CLI says in a model's place.
    pub fn is_a_models(&self) -> bool {
        self.model.as_ref().is_some_and(|model| model != "<synthetic>")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Usage {
        Usage {
            input: tokens.input_tokens,
            output: tokens.output_tokens,
            cache_read: tokens.cache_read_input_tokens,
            cache_write: tokens.cache_creation_input_tokens,
        }
    }
}

/// An account's limit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    pub status: Option<String>,
    /// Seconds since 1970.
    pub resets_at: Option<i64>,
}

/// Something that wants an answer.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Of a hook.
    pub input: Option<Call>,
    /// A JSON-RPC message to our own tools.
    pub message: Option<Value>,
}

/// A call of a tool.
#[derive(Debug, Deserialize)]
pub struct Call {
    pub hook_event_name: String,
    #[serde(default)]
    pub tool_name: String,
    pub tool_input: Option<Input>,
    #[serde(default)]
    pub tool_use_id: String,
}

#[derive(Debug, Deserialize)]
pub struct Input {
    /// `Bash` takes milliseconds.
    pub timeout: Option<Value>,
}

impl Line {
    /// A turn begins.
    pub fn is_init(&self) -> bool {
        self.kind == "system" && self.subtype.as_deref() == Some("init")
    }

    /// How many tasks go on in the background, when that changes.
    pub fn background(&self) -> Option<usize> {
        (self.kind == "system").then_some(self.tasks.as_ref()?.len())
    }

    /// Whether anybody wants to know. The rest may come at any time, also between two turns.
    fn matters(&self) -> bool {
        const SYSTEM: [&str; 4] = ["init", "status", "api_retry", "background_tasks_changed"];
        const OTHERS: [&str; 7] =
            ["assistant", "user", "stream_event", "tool_progress", "rate_limit_event", "result", "control_request"];
        match &self.subtype {
            Some(subtype) if self.kind == "system" => SYSTEM.contains(&subtype.as_str()),
            _ => OTHERS.contains(&self.kind.as_str()),
        }
    }
}

/// The next line that matters; `None` at the end.
pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Line>> {
    while !stream.fill_buf()?.is_empty() {
        let mut line = OneLine { stream, ended: false };
        let parsed = serde_json::from_reader::<_, Line>(BufReader::new(&mut line));
        io::copy(&mut line, &mut io::sink())?;
        // Not JSON, or not as we know it: by the CLI's own rules to be skipped.
        if let Some(line) = parsed.ok().filter(Line::matters) {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

/// Reads up to the end of a line.
struct OneLine<'a, R> {
    stream: &'a mut R,
    ended: bool,
}

impl<R: BufRead> Read for OneLine<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let there = self.stream.fill_buf()?;
        let there = &there[..there.len().min(buffer.len())];
        let end = there.iter().position(|b| *b == b'\n');
        let n = end.unwrap_or(there.len());
        buffer[..n].copy_from_slice(&there[..n]);
        self.ended = end.is_some();
        self.stream.consume(n + usize::from(self.ended));
        Ok(n)
    }
}

/// A message of ours. Only a text that begins with a slash may be a command of the CLI, and only such a text may
/// name files it shall put in with an `@`: what users say is neither.
pub fn user(uuid: &str, text: &str) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": text}, "uuid": uuid,
        "client_composed": !text.starts_with('/')})
}

/// The answer to a request of the CLI's.
pub fn answer(request: &str, response: Value) -> Value {
    json!({"type": "control_response",
        "response": {"subtype": "success", "request_id": request, "response": response}})
}
