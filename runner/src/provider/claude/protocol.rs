//! The CLI's wire: one JSON object per line, both ways. What we do not know is skipped: newer versions add to it.
//!
//! A line may hold a whole file. It is parsed as it streams in, and only what is asked for is kept.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::provider::Usage;

/// What the CLI says, as far as it matters here.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A turn begins.
    Init {
        session: String,
    },
    /// The model has said something.
    Answered,
    /// What the CLI says in the model's place when there is no answer; `kind` is the CLI's name for the reason.
    Fault {
        kind: String,
    },
    /// Something else moves.
    Progress,
    /// The model is about to be asked, or the conversation to be shortened.
    Busy,
    /// A request failed and is tried again after `delay`; no status: there was no connection.
    Retry {
        delay: Duration,
        status: Option<u16>,
    },
    /// An account's limit is used up, until then where that is known.
    Limited {
        until: Option<Timestamp>,
    },
    /// That many tasks run in the background.
    Background(usize),
    Result(Box<Outcome>),
    /// A tool is about to run, or has run. To be answered.
    Hook {
        request: String,
        event: HookEvent,
    },
    /// A JSON-RPC message to our own tools. To be answered.
    Mcp {
        request: String,
        message: Value,
    },
    /// Something else that wants an answer.
    Request {
        request: String,
        kind: String,
    },
}

#[derive(Debug, PartialEq)]
pub enum HookEvent {
    Before { tool: String, call: String, timeout: Option<Duration> },
    After { call: String },
}

/// How a turn ended.
#[derive(Debug, PartialEq, Default)]
pub struct Outcome {
    pub failed: bool,
    /// The final text, or what went wrong.
    pub text: String,
    /// The messages of ours it answers.
    pub answers: Vec<String>,
    /// The CLI began this turn by itself.
    pub unasked: bool,
    /// Why the model ended.
    pub stop_reason: Option<String>,
    pub reason: Option<String>,
    pub usage: Vec<(String, Usage)>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    subtype: Option<String>,
    session_id: Option<String>,
    parent_tool_use_id: Option<IgnoredAny>,
    message: Option<RawMessage>,
    error: Option<String>,
    is_error: Option<bool>,
    result: Option<String>,
    errors: Option<Vec<String>>,
    terminal_reason: Option<String>,
    stop_reason: Option<String>,
    origin: Option<IgnoredAny>,
    user_message_uuids: Option<Vec<String>>,
    model_usage_since_last_result: Option<BTreeMap<String, RawUsage>>,
    retry_delay_ms: Option<f64>,
    error_status: Option<u16>,
    rate_limit_info: Option<RawLimit>,
    tasks: Option<Vec<IgnoredAny>>,
    request_id: Option<String>,
    request: Option<RawRequest>,
}

#[derive(Deserialize)]
struct RawMessage {
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RawUsage {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLimit {
    status: Option<String>,
    resets_at: Option<i64>,
}

#[derive(Deserialize)]
struct RawRequest {
    subtype: String,
    input: Option<RawHook>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct RawHook {
    hook_event_name: String,
    tool_name: Option<String>,
    tool_input: Option<RawInput>,
    tool_use_id: Option<String>,
}

#[derive(Deserialize)]
struct RawInput {
    timeout: Option<Value>,
}

/// What stands for the model when the CLI speaks in its place.
const NO_MODEL: &str = "<synthetic>";

/// The next line that matters; `None` at the end.
pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Line>> {
    while !stream.fill_buf()?.is_empty() {
        let mut line = OneLine { stream, ended: false };
        let raw = serde_json::from_reader::<_, Raw>(BufReader::new(&mut line));
        io::copy(&mut line, &mut io::sink())?;
        // Not JSON, or not as we know it: by the CLI's own rules to be skipped.
        if let Some(line) = raw.ok().and_then(Raw::line) {
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

impl Raw {
    fn line(self) -> Option<Line> {
        match (self.kind.as_str(), self.subtype.as_deref().unwrap_or_default()) {
            ("system", "init") => Some(Line::Init { session: self.session_id? }),
            ("system", "status") => Some(Line::Busy),
            ("system", "api_retry") => Some(Line::Retry {
                delay: Duration::from_millis(self.retry_delay_ms.unwrap_or_default() as u64),
                status: self.error_status,
            }),
            ("system", "background_tasks_changed") => Some(Line::Background(self.tasks?.len())),
            ("assistant", _) => match (self.error, self.message?.model) {
                (Some(kind), _) => Some(Line::Fault { kind }),
                (None, Some(model)) if model != NO_MODEL && self.parent_tool_use_id.is_none() => Some(Line::Answered),
                _ => Some(Line::Progress),
            },
            ("user" | "stream_event" | "tool_progress", _) => Some(Line::Progress),
            ("rate_limit_event", _) => {
                let limit = self.rate_limit_info.filter(|l| l.status.as_deref() == Some("rejected"))?;
                Some(Line::Limited { until: limit.resets_at.and_then(|t| Timestamp::from_second(t).ok()) })
            }
            ("result", _) => Some(Line::Result(Box::new(self.outcome()))),
            ("control_request", _) => self.request?.line(self.request_id?),
            _ => None,
        }
    }

    fn outcome(self) -> Outcome {
        let usage = |u: RawUsage| Usage {
            input: u.input_tokens,
            output: u.output_tokens,
            cache_read: u.cache_read_input_tokens,
            cache_write: u.cache_creation_input_tokens,
        };
        Outcome {
            failed: self.is_error.unwrap_or_default(),
            text: self.result.unwrap_or_else(|| self.errors.unwrap_or_default().join("; ")),
            answers: self.user_message_uuids.unwrap_or_default(),
            unasked: self.origin.is_some(),
            stop_reason: self.stop_reason,
            reason: self.terminal_reason,
            usage: self.model_usage_since_last_result.into_iter().flatten().map(|(m, u)| (m, usage(u))).collect(),
        }
    }
}

impl RawRequest {
    fn line(self, request: String) -> Option<Line> {
        match (self.subtype.as_str(), self.input, self.message) {
            ("hook_callback", Some(hook), _) => {
                let call = hook.tool_use_id.unwrap_or_default();
                let timeout = hook.tool_input.and_then(|i| i.timeout?.as_u64()).map(Duration::from_millis);
                let event = match hook.hook_event_name.as_str() {
                    "PreToolUse" => HookEvent::Before { tool: hook.tool_name.unwrap_or_default(), call, timeout },
                    _ => HookEvent::After { call },
                };
                Some(Line::Hook { request, event })
            }
            ("mcp_message", _, Some(message)) => Some(Line::Mcp { request, message }),
            (kind, _, _) => Some(Line::Request { request, kind: kind.to_owned() }),
        }
    }
}

/// A message of ours. Only a text that begins with a slash may be a command of the CLI, and only such a text may
/// name files it shall put in with an `@`: what users say is neither.
pub fn user(uuid: &str, text: &str) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": text}, "uuid": uuid,
        "client_composed": !text.starts_with('/')})
}

/// A request of ours; none of their answers is waited for.
pub fn control(request: Value) -> Value {
    json!({"type": "control_request", "request_id": "runner", "request": request})
}

/// The answer to a request of the CLI's.
pub fn answer(request: &str, response: Value) -> Value {
    json!({"type": "control_response",
        "response": {"subtype": "success", "request_id": request, "response": response}})
}

/// The answer to a request we do not understand.
pub fn refusal(request: &str, kind: &str) -> Value {
    json!({"type": "control_response",
        "response": {"subtype": "error", "request_id": request, "error": format!("{kind} is not supported")}})
}
