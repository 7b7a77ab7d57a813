//! A small, strict stand-in for the Messages API: it streams what it was told to, and takes a
//! request only if the real one would.
//!
//! Plain threads and blocking sockets, on a Unix socket or a TCP port. Each request is reported
//! to the test, with what is wrong with it, if anything. Without a script the n-th request is
//! answered with `answer n`.
//! Shapes: <https://docs.anthropic.com/en/api/messages>, `.../messages-streaming`, `.../errors`.

#![allow(dead_code)] // every test binary that includes this uses another part of it

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_http::{Connection, Listener, Stream, read_request};

#[path = "messages_rules.rs"]
mod rules;

/// Longest wait of a test for a request.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two pings while a paced answer waits.
const PING: Duration = Duration::from_millis(200);

/// How one request is answered.
#[derive(Debug, Clone)]
pub enum Script {
    Say(String),
    /// The pieces one by one; after each one, pings until [`MessagesApi::release`].
    Paced(Vec<String>),
    Status {
        code: u16,
        kind: &'static str,
        message: &'static str,
        retry_after: Option<u64>,
    },
    /// The connection ends in the middle of the answer.
    Cut(String),
    /// An error in the middle of the answer.
    ErrorEvent {
        kind: &'static str,
        message: &'static str,
    },
    /// The model declines.
    Refuse,
    /// Any blocks, and why the answer ends.
    Blocks {
        blocks: Vec<Value>,
        end: &'static str,
    },
    /// Nothing, for as long as the client stays.
    Silent,
}

impl Script {
    /// The model calls tools: their names and inputs.
    pub fn calls(calls: &[(&str, Value)]) -> Script {
        let block = |(n, (name, input)): (usize, &(&str, Value))| json!({"type": "tool_use", "id": format!("toolu_{n}_{name}"), "name": name, "input": input});
        Script::Blocks { blocks: calls.iter().enumerate().map(block).collect(), end: "tool_use" }
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Request {
    /// `(role, text)` of each message.
    pub fn messages(&self) -> Vec<(String, String)> {
        let text = |content: &Value| match content {
            Value::String(s) => s.clone(),
            Value::Array(blocks) => blocks.iter().map(block_text).collect(),
            _ => String::new(),
        };
        let messages = self.body["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().map(|m| (m["role"].as_str().unwrap_or_default().to_owned(), text(&m["content"]))).collect()
    }

    /// The text of the last message.
    pub fn last(&self) -> String {
        self.messages().pop().map(|(_, text)| text).unwrap_or_default()
    }
}

/// The text of a block, or of the result of a tool.
fn block_text(block: &Value) -> String {
    let inner = block["content"].as_array().into_iter().flatten().map(block_text);
    block["text"].as_str().map(str::to_owned).into_iter().chain(inner).collect()
}

/// What the test is told.
enum Report {
    Request(Request),
    Violation(String),
    /// The client left before the answer's end.
    ClientGone,
}

type ByRequest = Box<dyn Fn(&Request) -> Option<Script> + Send>;

struct Shared {
    script: Mutex<VecDeque<Script>>,
    by_request: Mutex<Option<ByRequest>>,
    answered: Mutex<usize>,
    gate: Mutex<Receiver<()>>,
    reports: Mutex<Sender<Report>>,
}

/// The server. Its threads end with the process.
pub struct MessagesApi {
    shared: Arc<Shared>,
    release: Sender<()>,
    reports: Receiver<Report>,
    address: String,
}

impl MessagesApi {
    /// Listens on a Unix socket at `path`.
    pub fn on_socket(path: &Path) -> MessagesApi {
        MessagesApi::listening(Listener::on_socket(path))
    }

    /// Listens on a free port of the loopback interface.
    pub fn on_port() -> MessagesApi {
        MessagesApi::listening(Listener::on_port())
    }

    fn listening(listener: Listener) -> MessagesApi {
        let api = MessagesApi::new(listener.address());
        let shared = api.shared.clone();
        listener.serve(move |stream| serve_one(stream, &shared));
        api
    }

    fn new(address: String) -> MessagesApi {
        let (release, gate) = channel();
        let (reporter, reports) = channel();
        let shared = Shared {
            script: Mutex::default(),
            by_request: Mutex::default(),
            answered: Mutex::default(),
            gate: Mutex::new(gate),
            reports: Mutex::new(reporter),
        };
        MessagesApi { shared: Arc::new(shared), release, reports, address }
    }

    /// The socket's path, or the URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Says how the next unscripted request is answered.
    pub fn script(&self, script: Script) {
        self.shared.script.lock().expect("the script").push_back(script);
    }

    /// Answers each request without a script as `choose` says.
    pub fn script_by(&self, choose: impl Fn(&Request) -> Option<Script> + Send + 'static) {
        *self.shared.by_request.lock().expect("the script") = Some(Box::new(choose));
    }

    /// Answers what comes next without a script.
    pub fn forget_script(&self) {
        self.shared.script.lock().expect("the script").clear();
    }

    /// What was wrong with the requests that were not looked at yet.
    pub fn violations(&self) -> Vec<String> {
        let violation = |report| match report {
            Report::Violation(what) => Some(what),
            _ => None,
        };
        self.reports.try_iter().filter_map(violation).collect()
    }

    /// Lets a paced answer go on with its next piece.
    pub fn release(&self) {
        self.release.send(()).expect("the server");
    }

    /// The next request.
    ///
    /// # Panics
    /// When none comes, or it breaks a rule of the API.
    #[track_caller]
    pub fn request(&self) -> Request {
        loop {
            match self.reports.recv_timeout(DEADLINE).expect("a request to the Messages API") {
                Report::Request(request) => return request,
                Report::Violation(what) => panic!("the Messages API would refuse this request: {what}"),
                Report::ClientGone => {}
            }
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
    if let Some((code, kind, what)) = violation(&line, &headers, &body) {
        report(Report::Violation(what.clone()))?;
        status(stream.get_mut(), code, kind, &what, None)?;
        return Ok(Some(Connection::Keep));
    }
    let model = body["model"].clone();
    let request = Request { headers, body };
    let chosen = |choose: &ByRequest| choose(&request);
    let script = shared.script.lock().expect("the script").pop_front();
    let script = script.or_else(|| shared.by_request.lock().expect("the script").as_ref().and_then(chosen));
    report(Report::Request(request))?;
    let script = script.unwrap_or_else(|| {
        let mut answered = shared.answered.lock().expect("the count");
        *answered += 1;
        Script::Say(format!("answer {answered}"))
    });
    let answered = answer(stream.get_mut(), &script, &model, shared);
    if answered.is_err() {
        report(Report::ClientGone)?;
    }
    answered.map(Some)
}

/// What the real API would refuse: status, type and message.
fn violation(line: &str, headers: &BTreeMap<String, String>, body: &Value) -> Option<(u16, &'static str, String)> {
    let invalid = |what: String| Some((400, "invalid_request_error", what));
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    // The Claude Code CLI asks for betas by name; without what they add, its requests are like any other.
    let betas = line == "POST /v1/messages?beta=true HTTP/1.1" && !header("anthropic-beta").is_empty();
    if line != "POST /v1/messages HTTP/1.1" && !betas {
        return Some((404, "not_found_error", format!("{line:?}")));
    }
    if header("x-api-key").is_empty() && header("authorization").is_empty() {
        return Some((401, "authentication_error", "x-api-key header is required".into()));
    }
    if header("anthropic-version") != "2023-06-01" {
        return invalid("anthropic-version: header is required".into());
    }
    if header("content-type") != "application/json" {
        return invalid("content-type must be application/json".into());
    }
    if body.to_string().len() > rules::MAX_BODY_BYTES {
        return Some((413, "request_too_large", "Request exceeds the maximum size".into()));
    }
    let broken = if betas { rules::broken(&rules::without_betas(body.clone())) } else { rules::broken(body) };
    match broken {
        Ok(()) => None,
        Err(what) => invalid(what),
    }
}

fn status(out: &mut impl Write, code: u16, kind: &str, message: &str, retry_after: Option<u64>) -> io::Result<()> {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}}).to_string();
    let retry_after = retry_after.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        out,
        "HTTP/1.1 {code} Status\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{retry_after}\r\n{body}"
    )
}

fn answer(out: &mut impl Write, script: &Script, model: &Value, shared: &Shared) -> io::Result<Connection> {
    if let Script::Status { code, kind, message, retry_after } = script {
        status(out, *code, kind, message, *retry_after)?;
        return Ok(Connection::Keep);
    }
    write!(out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
    if let Script::Silent = script {
        let gate = shared.gate.lock().expect("the gate");
        while let Err(RecvTimeoutError::Timeout) = gate.recv_timeout(PING) {
            event(out, &json!({"type": "ping"}))?;
        }
        return Ok(Connection::Close);
    }
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1}});
    event(out, &json!({"type": "message_start", "message": message}))?;
    if let Script::Blocks { blocks, end } = script {
        for block in blocks {
            whole(out, block)?;
        }
        return end_of(out, end);
    }
    let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
    event(out, &block)?;
    event(out, &json!({"type": "ping"}))?;
    match script {
        Script::Say(text) => {
            let half = text.len() / 2;
            let half = (half..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
            piece(out, &text[..half])?;
            piece(out, &text[half..])?;
        }
        Script::Paced(pieces) => {
            for text in pieces {
                piece(out, text)?;
                let gate = shared.gate.lock().expect("the gate");
                while let Err(e) = gate.recv_timeout(PING) {
                    if e == RecvTimeoutError::Disconnected {
                        return Err(io::Error::other("the test has ended"));
                    }
                    event(out, &json!({"type": "ping"}))?;
                }
            }
        }
        Script::Cut(text) => {
            piece(out, text)?;
            return Ok(Connection::Close);
        }
        Script::ErrorEvent { kind, message } => {
            piece(out, "half an ans")?;
            event(out, &json!({"type": "error", "error": {"type": kind, "message": message}}))?;
            write!(out, "0\r\n\r\n")?;
            return Ok(Connection::Keep);
        }
        Script::Refuse | Script::Status { .. } | Script::Blocks { .. } | Script::Silent => {}
    }
    event(out, &json!({"type": "content_block_stop", "index": 0}))?;
    end_of(out, if matches!(script, Script::Refuse) { "refusal" } else { "end_turn" })
}

/// A block, streamed in pieces like the real ones.
fn whole(out: &mut impl Write, block: &Value) -> io::Result<()> {
    let mut empty = block.clone();
    let deltas = match block["type"].as_str() {
        Some("text") => {
            empty["text"] = "".into();
            vec![json!({"type": "text_delta", "text": block["text"]})]
        }
        Some("thinking") => {
            (empty["thinking"], empty["signature"]) = ("".into(), "".into());
            vec![
                json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                json!({"type": "signature_delta", "signature": block["signature"]}),
            ]
        }
        Some("tool_use") => {
            empty["input"] = json!({});
            let input = block["input"].to_string();
            let half = (input.len() / 2..).find(|&i| input.is_char_boundary(i)).unwrap_or(0);
            let piece = |part: &str| json!({"type": "input_json_delta", "partial_json": part});
            vec![piece(""), piece(&input[..half]), piece(&input[half..])]
        }
        _ => Vec::new(),
    };
    event(out, &json!({"type": "content_block_start", "index": 0, "content_block": empty}))?;
    for delta in deltas {
        event(out, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))?;
    }
    event(out, &json!({"type": "content_block_stop", "index": 0}))
}

fn end_of(out: &mut impl Write, reason: &str) -> io::Result<Connection> {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    event(out, &json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}))?;
    event(out, &json!({"type": "message_stop"}))?;
    write!(out, "0\r\n\r\n")?;
    Ok(Connection::Keep)
}

fn piece(out: &mut impl Write, text: &str) -> io::Result<()> {
    let delta = json!({"type": "text_delta", "text": text});
    event(out, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
}

fn event(out: &mut impl Write, data: &Value) -> io::Result<()> {
    let name = data["type"].as_str().unwrap_or_default();
    let text = format!("event: {name}\ndata: {data}\n\n");
    write!(out, "{:x}\r\n{text}\r\n", text.len())
}
