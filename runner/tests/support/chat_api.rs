//! A small, strict stand-in for a chat-completions endpoint: it streams what it was told to, in the manner of one of
//! four kinds of server, and takes a request only if every one of them would.
//!
//! Each request is reported to the test, with what is wrong with it, if anything. Without a script the n-th request is
//! answered with `answer n`.
//! Shapes: <https://platform.openai.com/docs/api-reference/chat-streaming>; the deviations are from the issues of the
//! projects named at [`Dialect`].

#![allow(dead_code)] // every test binary that includes this uses another part of it

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_http::{Connection, Listener, Stream, read_request};

#[path = "chat_rules.rs"]
mod rules;

/// Longest wait of a test for a request.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two signs of life while an answer waits.
const PING: Duration = Duration::from_millis(200);

/// Whose manners the stand-in has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// By the book: pieces with an index, usage in a chunk without choices, `[DONE]`.
    OpenAi,
    /// A call in one piece, all of them with index 0, `finish_reason` "stop"; thoughts in `reasoning`.
    Ollama,
    /// No ids, `content` null, no usage; thoughts in `reasoning_content`, wanted back.
    LlamaCpp,
    /// Comments in between, no index, one id for all calls, names repeated empty, usage beside the choices, no `[DONE]`;
    /// thoughts in `reasoning_details`, wanted back.
    OpenRouter,
}

pub const DIALECTS: [Dialect; 4] = [Dialect::OpenAi, Dialect::Ollama, Dialect::LlamaCpp, Dialect::OpenRouter];

/// How one request is answered.
#[derive(Debug, Clone)]
pub enum Script {
    Say(String),
    /// A text, and calls: names, and arguments as the model wrote them.
    Call {
        text: &'static str,
        calls: Vec<(&'static str, String)>,
    },
    /// The pieces one by one; after each one, signs of life until [`ChatApi::release`].
    Paced(Vec<String>),
    /// Not one byte until [`ChatApi::release`].
    Late(String),
    Status {
        code: u16,
        error: Value,
        retry_after: Option<u64>,
    },
    /// The connection ends in the middle of the answer.
    Cut(String),
    /// An error in the middle of the answer.
    ErrorEvent(Value),
    /// A text, and why it ends there.
    End(String, &'static str),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Request {
    /// `(role, text)` of each message but the system's.
    pub fn messages(&self) -> Vec<(String, String)> {
        let text = |content: &Value| match content {
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        let messages = self.body["messages"].as_array().cloned().unwrap_or_default();
        let told = messages.iter().map(|m| (m["role"].as_str().unwrap_or_default().to_owned(), text(&m["content"])));
        told.filter(|(role, _)| role != "system").collect()
    }

    /// The text of the last message.
    pub fn last(&self) -> String {
        self.messages().pop().map(|(_, text)| text).unwrap_or_default()
    }
}

/// What the test is told.
enum Report {
    Request(Request),
    Violation(String),
    /// The client left before the answer's end.
    ClientGone,
}

struct Shared {
    dialect: Dialect,
    script: Mutex<VecDeque<Script>>,
    answered: Mutex<usize>,
    /// Calls made so far.
    called: Mutex<usize>,
    gate: Mutex<Receiver<()>>,
    reports: Mutex<Sender<Report>>,
}

/// The server. Its threads end with the process.
pub struct ChatApi {
    shared: Arc<Shared>,
    release: Sender<()>,
    reports: Receiver<Report>,
    address: String,
}

impl ChatApi {
    /// Listens on a Unix socket at `path`.
    pub fn on_socket(path: &Path, dialect: Dialect) -> ChatApi {
        ChatApi::listening(Listener::on_socket(path), dialect)
    }

    /// Listens on a free port of the loopback interface.
    pub fn on_port(dialect: Dialect) -> ChatApi {
        ChatApi::listening(Listener::on_port(), dialect)
    }

    fn listening(listener: Listener, dialect: Dialect) -> ChatApi {
        let (release, gate) = channel();
        let (reporter, reports) = channel();
        let shared = Arc::new(Shared {
            dialect,
            script: Mutex::default(),
            answered: Mutex::default(),
            called: Mutex::default(),
            gate: Mutex::new(gate),
            reports: Mutex::new(reporter),
        });
        let api = ChatApi { shared: shared.clone(), release, reports, address: listener.address() };
        listener.serve(move |stream| serve_one(stream, &shared));
        api
    }

    /// The socket's path, or the URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Says how the next unscripted request is answered.
    pub fn script(&self, script: Script) {
        self.shared.script.lock().expect("the script").push_back(script);
    }

    /// Lets a paced or late answer go on.
    pub fn release(&self) {
        self.release.send(()).expect("the server");
    }

    /// The next request.
    ///
    /// # Panics
    /// When none comes, or it breaks a rule.
    #[track_caller]
    pub fn request(&self) -> Request {
        loop {
            match self.reports.recv_timeout(DEADLINE).expect("a request for a completion") {
                Report::Request(request) => return request,
                Report::Violation(what) => panic!("a chat-completions endpoint would refuse this request: {what}"),
                Report::ClientGone => {}
            }
        }
    }

    /// What was wrong with the next request.
    ///
    /// # Panics
    /// When none comes, or nothing is wrong with it.
    #[track_caller]
    pub fn violation(&self) -> String {
        match self.reports.recv_timeout(DEADLINE).expect("a request for a completion") {
            Report::Violation(what) => what,
            Report::Request(request) => panic!("a sound request: {}", request.body),
            Report::ClientGone => panic!("the client has left"),
        }
    }

    /// Waits until a client leaves in the middle of an answer.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn client_gone(&self) {
        while !matches!(self.reports.recv_timeout(DEADLINE).expect("the client to leave"), Report::ClientGone) {}
    }

    /// Requests that were not looked at yet.
    pub fn requests_left(&self) -> usize {
        self.reports.try_iter().filter(|r| matches!(r, Report::Request(_) | Report::Violation(_))).count()
    }
}

fn serve_one(stream: &mut BufReader<Stream>, shared: &Shared) -> io::Result<Option<Connection>> {
    let Some((line, headers, body)) = read_request(stream)? else { return Ok(None) };
    let report = |report| shared.reports.lock().expect("reports").send(report).map_err(io::Error::other);
    if let Err((code, what)) = rules::check(&line, &headers, &body, shared.dialect) {
        report(Report::Violation(what.clone()))?;
        let error = json!({"message": what, "type": "invalid_request_error", "param": null, "code": null});
        status(stream.get_mut(), code, &error, None)?;
        return Ok(Some(Connection::Keep));
    }
    let model = body["model"].clone();
    report(Report::Request(Request { headers, body }))?;
    let script = shared.script.lock().expect("the script").pop_front();
    let script = script.unwrap_or_else(|| {
        let mut answered = shared.answered.lock().expect("the count");
        *answered += 1;
        Script::Say(format!("answer {answered}"))
    });
    let answered = Answer { out: stream.get_mut(), model, shared }.give(script);
    if answered.is_err() {
        report(Report::ClientGone)?;
    }
    answered.map(Some)
}

fn status(out: &mut impl Write, code: u16, error: &Value, retry_after: Option<u64>) -> io::Result<()> {
    let body = json!({"error": error}).to_string();
    let retry_after = retry_after.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        out,
        "HTTP/1.1 {code} Status\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{retry_after}\r\n{body}"
    )
}

struct Answer<'a> {
    out: &'a mut Stream,
    model: Value,
    shared: &'a Shared,
}

impl Answer<'_> {
    fn give(mut self, script: Script) -> io::Result<Connection> {
        if let Script::Status { code, error, retry_after } = &script {
            status(self.out, *code, error, *retry_after)?;
            return Ok(Connection::Keep);
        }
        if let Script::Late(_) = &script {
            self.wait(|_| Ok(()))?;
        }
        write!(self.out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        self.begin()?;
        let mut reason = "stop";
        match script {
            Script::Say(text) | Script::Late(text) => self.text(&text)?,
            Script::Call { text, calls } => {
                self.text(text)?;
                self.calls(&calls)?;
                reason = if self.shared.dialect == Dialect::Ollama { "stop" } else { "tool_calls" };
            }
            Script::Paced(pieces) => {
                for piece in pieces {
                    self.delta(&json!({"content": piece}))?;
                    self.wait(|answer| answer.sign_of_life())?;
                }
            }
            Script::Cut(text) => {
                self.delta(&json!({"content": text}))?;
                return Ok(Connection::Close);
            }
            Script::ErrorEvent(error) => {
                self.delta(&json!({"content": "half an ans"}))?;
                self.event(&json!({"error": error}))?;
                write!(self.out, "0\r\n\r\n")?;
                return Ok(Connection::Keep);
            }
            Script::End(text, why) => {
                self.text(&text)?;
                reason = why;
            }
            Script::Status { .. } => {}
        }
        self.end(reason)?;
        Ok(Connection::Keep)
    }

    /// The role, and what the model thinks: "hmm".
    fn begin(&mut self) -> io::Result<()> {
        match self.shared.dialect {
            Dialect::OpenAi => self.delta(&json!({"role": "assistant", "content": "", "refusal": null})),
            Dialect::Ollama => self.delta(&json!({"role": "assistant", "content": "", "reasoning": "hmm"})),
            Dialect::LlamaCpp => {
                self.delta(&json!({"role": "assistant", "content": null}))?;
                self.delta(&json!({"reasoning_content": "hm"}))?;
                self.delta(&json!({"reasoning_content": "m"}))
            }
            Dialect::OpenRouter => {
                self.sign_of_life()?;
                for detail in [json!({"text": "hm"}), json!({"text": "m"}), json!({"signature": "s", "text": null})] {
                    let mut detail = detail;
                    detail["type"] = "reasoning.text".into();
                    detail["index"] = 0.into();
                    self.delta(&json!({"content": "", "reasoning": detail["text"], "reasoning_details": [detail]}))?;
                }
                Ok(())
            }
        }
    }

    /// A text in two pieces.
    fn text(&mut self, text: &str) -> io::Result<()> {
        let half = (text.len() / 2..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
        self.delta(&json!({"content": text[..half]}))?;
        self.delta(&json!({"content": text[half..]}))
    }

    fn calls(&mut self, calls: &[(&'static str, String)]) -> io::Result<()> {
        for (index, (name, arguments)) in calls.iter().enumerate() {
            let id = {
                let mut called = self.shared.called.lock().expect("the count");
                *called += 1;
                format!("call_{called}")
            };
            let half = (arguments.len() / 2..).find(|&i| arguments.is_char_boundary(i)).unwrap_or(0);
            let (head, tail) = arguments.split_at(half);
            let pieces = match self.shared.dialect {
                Dialect::OpenAi => vec![
                    json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}),
                    json!({"index": index, "function": {"arguments": head}}),
                    json!({"index": index, "function": {"arguments": tail}}),
                ],
                Dialect::Ollama => {
                    let function = json!({"name": name, "arguments": arguments});
                    vec![json!({"index": 0, "id": id, "type": "function", "function": function})]
                }
                Dialect::LlamaCpp => vec![
                    json!({"index": index, "type": "function", "function": {"name": name, "arguments": head}}),
                    json!({"index": index, "function": {"arguments": tail}}),
                ],
                Dialect::OpenRouter => vec![
                    json!({"id": "call_0", "type": "function", "function": {"name": name, "arguments": head}}),
                    json!({"id": "", "type": "function", "function": {"name": "", "arguments": tail}}),
                ],
            };
            for piece in pieces {
                self.delta(&json!({"content": null, "tool_calls": [piece]}))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, reason: &str) -> io::Result<()> {
        let mut last = self.chunk(&json!({}), reason.into());
        let cached = json!({"cached_tokens": 4});
        let usage =
            json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": cached});
        match self.shared.dialect {
            Dialect::OpenAi | Dialect::Ollama => {
                self.event(&last)?;
                last["choices"] = json!([]);
                last["usage"] = usage;
                self.event(&last)?;
            }
            Dialect::LlamaCpp => self.event(&last)?,
            Dialect::OpenRouter => {
                last["usage"] = usage;
                self.event(&last)?;
                return write!(self.out, "0\r\n\r\n");
            }
        }
        self.bytes("data: [DONE]\n\n")?;
        write!(self.out, "0\r\n\r\n")
    }

    fn chunk(&self, delta: &Value, reason: Value) -> Value {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model,
               "choices": [choice], "usage": null})
    }

    fn delta(&mut self, delta: &Value) -> io::Result<()> {
        let chunk = self.chunk(delta, Value::Null);
        self.event(&chunk)
    }

    /// Something that says nothing: a comment where there are such, else an empty piece.
    fn sign_of_life(&mut self) -> io::Result<()> {
        match self.shared.dialect {
            Dialect::OpenRouter => self.bytes(": OPENROUTER PROCESSING\n\n"),
            _ => self.delta(&json!({"content": ""})),
        }
    }

    fn event(&mut self, data: &Value) -> io::Result<()> {
        self.bytes(&format!("data: {data}\n\n"))
    }

    fn bytes(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "{:x}\r\n{text}\r\n", text.len())
    }

    /// Waits for [`ChatApi::release`].
    fn wait(&mut self, meanwhile: impl Fn(&mut Self) -> io::Result<()>) -> io::Result<()> {
        let shared = self.shared;
        let gate = shared.gate.lock().expect("the gate");
        while let Err(e) = gate.recv_timeout(PING) {
            if e == RecvTimeoutError::Disconnected {
                return Err(io::Error::other("the test has ended"));
            }
            meanwhile(self)?;
        }
        Ok(())
    }
}
