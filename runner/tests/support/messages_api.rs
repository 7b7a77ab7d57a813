//! A small, strict stand-in for the Messages API: it streams what it was told to, and takes a
//! request only if the real one would.
//!
//! Plain threads and blocking sockets, on a Unix socket or a TCP port. Each request is reported
//! to the test, with what is wrong with it, if anything. Without a script the n-th request is
//! answered with `answer n`.
//! Shapes: <https://docs.anthropic.com/en/api/messages>, `.../messages-streaming`, `.../errors`.

#![allow(dead_code)] // every test binary that includes this uses another part of it

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

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
    /// The model calls a tool.
    Call {
        name: &'static str,
        input: Value,
    },
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
            Value::Array(blocks) => blocks.iter().filter_map(|b| b["text"].as_str()).collect(),
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

/// What the test is told.
enum Report {
    Request(Request),
    Violation(String),
    /// The client left before the answer's end.
    ClientGone,
}

struct Shared {
    script: Mutex<VecDeque<Script>>,
    answered: Mutex<usize>,
    gate: Mutex<Receiver<()>>,
    /// Tools called so far.
    calls: AtomicUsize,
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
        let listener = UnixListener::bind(path).expect("bind the socket");
        let api = MessagesApi::new(path.display().to_string());
        let shared = api.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(Stream::Unix(stream), shared.clone());
            }
        });
        api
    }

    /// Listens on a free port of the loopback interface.
    pub fn on_port() -> MessagesApi {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
        let address = listener.local_addr().expect("an address");
        let api = MessagesApi::new(format!("http://{address}"));
        let shared = api.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(Stream::Tcp(stream), shared.clone());
            }
        });
        api
    }

    fn new(address: String) -> MessagesApi {
        let (release, gate) = channel();
        let (reporter, reports) = channel();
        let shared = Shared {
            script: Mutex::default(),
            answered: Mutex::default(),
            gate: Mutex::new(gate),
            calls: AtomicUsize::default(),
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

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buffer),
            Stream::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(bytes),
            Stream::Tcp(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(stream: Stream, shared: Arc<Shared>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        // A connection ends when the client leaves, between requests or within an answer.
        while let Ok(Some(open)) = serve_one(&mut stream, &shared) {
            if open == Connection::Close {
                return;
            }
        }
    });
}

#[derive(PartialEq, Eq)]
enum Connection {
    Keep,
    Close,
}

fn serve_one(stream: &mut BufReader<Stream>, shared: &Shared) -> io::Result<Option<Connection>> {
    let Some((line, headers)) = read_head(stream)? else { return Ok(None) };
    let length = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let report = |report| shared.reports.lock().expect("reports").send(report).map_err(io::Error::other);
    if let Some((code, kind, what)) = violation(&line, &headers, &body) {
        report(Report::Violation(what.clone()))?;
        status(stream.get_mut(), code, kind, &what, None)?;
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
    let answered = answer(stream.get_mut(), &script, &model, shared);
    if answered.is_err() {
        report(Report::ClientGone)?;
    }
    answered.map(Some)
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => return Ok(Some((first.trim_end().to_owned(), headers))),
        };
    }
}

/// What the real API would refuse: status, type and message.
fn violation(line: &str, headers: &BTreeMap<String, String>, body: &Value) -> Option<(u16, &'static str, String)> {
    let invalid = |what: String| Some((400, "invalid_request_error", what));
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    // The Claude Code CLI asks for betas by name, and uses what they add.
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
    let Some(fields) = body.as_object() else { return invalid("the body is no JSON object".into()) };
    const KNOWN: [&str; 13] = [
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "metadata",
        "stop_sequences",
        "temperature",
        "top_k",
        "top_p",
        "thinking",
        "tools",
        "tool_choice",
    ];
    const BETAS: [&str; 2] = ["context_management", "output_config"];
    let is_known = |name: &str| KNOWN.contains(&name) || betas && BETAS.contains(&name);
    if let Some(extra) = fields.keys().find(|name| !is_known(name)) {
        return invalid(format!("{extra}: Extra inputs are not permitted"));
    }
    if body["model"].as_str().is_none_or(str::is_empty) {
        return invalid("model: Field required".into());
    }
    if body["max_tokens"].as_u64().is_none_or(|n| n == 0) {
        return invalid("max_tokens: must be a positive integer".into());
    }
    if body["stream"] != true {
        return invalid("this stand-in only streams".into());
    }
    if fields.get("system").is_some_and(has_empty_text) {
        return invalid("system: text content blocks must be non-empty".into());
    }
    let mut messages: Vec<&Value> = body["messages"].as_array().into_iter().flatten().collect();
    // What the operator says in the middle stands between any two others.
    messages.retain(|message| !(betas && message["role"] == "system"));
    if messages.is_empty() {
        return invalid("messages: at least one message is required".into());
    }
    for (i, message) in messages.iter().enumerate() {
        let expected = if i % 2 == 0 { "user" } else { "assistant" };
        if message["role"] != expected {
            return invalid(format!("messages.{i}: role must be {expected:?}, is {}", message["role"]));
        }
        if has_empty_text(&message["content"]) {
            return invalid(format!("messages.{i}: text content must be non-empty"));
        }
        let extra = |m: &serde_json::Map<String, Value>| m.keys().any(|k| k != "role" && k != "content");
        if message.as_object().is_none_or(extra) {
            return invalid(format!("messages.{i}: Extra inputs are not permitted"));
        }
    }
    if messages.len() % 2 == 0 {
        return invalid("the last message must be the user's".into());
    }
    None
}

fn has_empty_text(content: &Value) -> bool {
    match content {
        Value::String(text) => text.trim().is_empty(),
        Value::Array(blocks) => {
            blocks.is_empty() || blocks.iter().any(|b| b["text"].as_str().is_some_and(|t| t.trim().is_empty()))
        }
        _ => true,
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
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1}});
    event(out, &json!({"type": "message_start", "message": message}))?;
    if let Script::Call { name, input } = script {
        let id = format!("toolu_{}", shared.calls.fetch_add(1, Ordering::Relaxed));
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        event(out, &json!({"type": "content_block_start", "index": 0, "content_block": block}))?;
        let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
        event(out, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))?;
        return end(out, "tool_use");
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
        Script::Refuse | Script::Status { .. } | Script::Call { .. } => {}
    }
    end(out, if matches!(script, Script::Refuse) { "refusal" } else { "end_turn" })
}

fn end(out: &mut impl Write, reason: &str) -> io::Result<Connection> {
    event(out, &json!({"type": "content_block_stop", "index": 0}))?;
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
