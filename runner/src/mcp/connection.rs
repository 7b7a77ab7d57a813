//! One running MCP server: a child process, and the requests that wait for its answers.
//!
//! Three threads that do nothing between messages: one writes to the server, one reads from it, one passes its
//! stderr on to ours. Whoever asks waits on a channel of its own, so a stop is heard whatever the server does.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, select};
use nanoclaw_session::config::McpServer;
use serde_json::{Value, json};

use super::{lock, rpc};
use crate::process::{self, Child};
use crate::provider::STACK_BYTES;
use crate::stop::{self, Stop, Stopper};

/// Messages that may wait for a server that does not read.
const MAX_UNREAD: usize = 16;
/// Longest piece of a line that is passed on from a server's stderr. bytes
const MAX_STDERR_LINE_BYTES: u64 = 2_000;
/// Most that one process may write into our log. lines
const MAX_STDERR_LINES: usize = 1_000;
/// Wait for the last words of a server that has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Most pages of a list of tools, and most tools in it.
const MAX_PAGES: usize = 50;
const MAX_TOOLS: usize = 200;
/// Largest description of a tool that is taken: a model would have to read it with every request. bytes
const MAX_TOOL_BYTES: usize = 64 * 1024;
/// Of a server that closes its pipes, whichever is noticed first.
const ENDED: &str = "it ended";

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Stopped,
    TimedOut,
    /// The server has ended, or is no longer understood.
    Gone(String),
    /// The server's own answer.
    Refused {
        code: i64,
        message: String,
    },
}

impl Failure {
    /// The end of a sentence about the server.
    pub fn reason(&self) -> String {
        match self {
            Failure::Stopped => "it was stopped".into(),
            Failure::TimedOut => "it did not answer in time".into(),
            Failure::Gone(why) => why.clone(),
            Failure::Refused { code, message } => format!("it answered: {message} ({code})"),
        }
    }
}

/// How the two sides know each other's revision of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Handshake,
    EachRequest,
}

/// The server's process and our end of its pipes. Dropped or ended: killed.
pub struct Connection {
    child: Mutex<Option<Child>>,
    out: Sender<String>,
    shared: Arc<Shared>,
    last_words: Stop,
    next_id: AtomicU64,
    era: Era,
}

/// Who waits for which answer, and is told `None` for progress; the reason, once none will come.
type Waiting = Result<HashMap<u64, Sender<Option<Value>>>, String>;

/// What the threads of a connection and those who ask have in common.
struct Shared {
    name: String,
    waiting: Mutex<Waiting>,
    tools_changed: AtomicBool,
    /// The last line of its stderr.
    last_line: Mutex<String>,
}

impl Connection {
    /// Starts a server, agrees on a revision with it, and asks for its tools.
    pub fn open(
        name: &str,
        config: &McpServer,
        until: Instant,
        stop: &Stop,
    ) -> Result<(Connection, Vec<Value>), Failure> {
        let mut connection = Connection::spawn(name, config).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::Gone(format!("there is no program {:?}", config.command)),
            _ => Failure::Gone(e.to_string()),
        })?;
        let tools = connection.greet(until, stop).and_then(|()| connection.list(until, stop));
        match tools {
            Ok(tools) => Ok((connection, tools)),
            Err(failure) => Err(connection.explained(failure)),
        }
    }

    fn spawn(name: &str, config: &McpServer) -> io::Result<Connection> {
        let mut command = process::command(&config.command);
        command.args(&config.args).envs(&config.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let waiting = Mutex::new(Ok(HashMap::new()));
        let (tools_changed, last_line) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { name: name.into(), waiting, tools_changed, last_line });
        let (out, lines) = bounded(MAX_UNREAD);
        let (stopper, last_words) = stop::pair();
        let thread = || thread::Builder::new().name("mcp".into()).stack_size(STACK_BYTES);
        if let Some(stdin) = child.stdin.take() {
            let shared = shared.clone();
            thread().spawn(move || write(&shared, stdin, &lines))?;
        }
        if let Some(stdout) = child.stdout.take() {
            let (shared, out) = (shared.clone(), out.clone());
            thread().spawn(move || listen(&shared, stdout, &out))?;
        }
        if let Some(stderr) = child.stderr.take() {
            let shared = shared.clone();
            thread().spawn(move || pass_on(&shared, stderr, stopper))?;
        }
        let child = Mutex::new(Some(child));
        Ok(Connection { child, out, shared, last_words, next_id: AtomicU64::new(1), era: Era::Handshake })
    }

    fn greet(&mut self, until: Instant, stop: &Stop) -> Result<(), Failure> {
        let hello = json!({"protocolVersion": rpc::HANDSHAKE_VERSIONS[0], "capabilities": {},
            "clientInfo": rpc::implementation()});
        match self.request("initialize", hello, until, stop, |until| until) {
            // Tools are the same in every revision: whichever the server has chosen will do.
            Ok(_) => {
                self.tell(rpc::notification("notifications/initialized", json!({})));
                Ok(())
            }
            Err(refused @ Failure::Refused { .. }) => {
                self.era = Era::EachRequest;
                match self.request("server/discover", json!({}), until, stop, |until| until) {
                    Err(Failure::Refused { .. }) => Err(refused),
                    other => other.map(drop),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// A failure, with what the server itself had to say about its end.
    pub fn explained(&self, failure: Failure) -> Failure {
        let Failure::Gone(mut why) = failure else { return failure };
        // Ended or not: what matters is what was said until now.
        let _ = self.last_words.wait(LAST_WORDS);
        let last_line = lock(&self.shared.last_line);
        if !last_line.is_empty() {
            why = format!("{why}; its last words: {last_line}");
        }
        Failure::Gone(why)
    }

    pub fn is_open(&self) -> bool {
        lock(&self.shared.waiting).is_ok()
    }

    /// Whether the list of tools was said to have changed since this was last asked.
    pub fn take_changed(&self) -> bool {
        self.shared.tools_changed.swap(false, Ordering::Relaxed)
    }

    /// Kills the server. Who waits for it hears of that.
    pub fn end(&self) {
        self.shared.close("it was ended");
        drop(lock(&self.child).take());
    }

    /// The descriptions of the server's tools.
    pub fn list(&self, until: Instant, stop: &Stop) -> Result<Vec<Value>, Failure> {
        let (mut tools, mut params) = (Vec::new(), json!({}));
        for _ in 0..MAX_PAGES {
            let mut page = match self.request("tools/list", params, until, stop, |until| until) {
                // It has none.
                Err(Failure::Refused { code: rpc::METHOD_NOT_FOUND, .. }) => break,
                page => page?,
            };
            if let Some(found) = page.get_mut("tools").and_then(Value::as_array_mut) {
                found.retain(|tool| tool.to_string().len() <= MAX_TOOL_BYTES);
                tools.append(found);
            }
            match page["nextCursor"].as_str() {
                Some(cursor) if tools.len() < MAX_TOOLS => params = json!({"cursor": cursor}),
                _ => break,
            }
        }
        tools.truncate(MAX_TOOLS);
        Ok(tools)
    }

    /// Asks and waits for the answer until then, or until whatever `on_progress` makes of that.
    pub fn request(
        &self,
        method: &str,
        mut params: Value,
        mut until: Instant,
        stop: &Stop,
        mut on_progress: impl FnMut(Instant) -> Instant,
    ) -> Result<Value, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if method == "tools/call" {
            params["_meta"]["progressToken"] = id.into();
        }
        if self.era == Era::EachRequest {
            params["_meta"][rpc::META_VERSION] = rpc::VERSION.into();
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
            params["_meta"]["io.modelcontextprotocol/clientInfo"] = rpc::implementation();
        }
        let mut message = rpc::notification(method, params);
        message["id"] = id.into();
        // Never more than one piece of progress and the answer, so that the reader is not held up.
        let (sender, heard) = bounded(2);
        lock(&self.shared.waiting).as_mut().map_err(|why| Failure::Gone(why.clone()))?.insert(id, sender);
        let failure = select! {
            send(self.out, format!("{}\n", message)) -> _ => loop {
                select! {
                    recv(heard) -> heard => match heard {
                        Ok(None) => until = on_progress(until),
                        Ok(Some(answer)) => return taken_apart(answer),
                        Err(_) => break Failure::Gone(lock(&self.shared.waiting).as_ref().err().cloned().unwrap_or_default()),
                    },
                    recv(stop.word()) -> _ => break Failure::Stopped,
                    recv(at(until)) -> _ => break Failure::TimedOut,
                }
            },
            recv(stop.word()) -> _ => Failure::Stopped,
            recv(at(until)) -> _ => Failure::TimedOut,
        };
        if let Ok(waiting) = lock(&self.shared.waiting).as_mut() {
            waiting.remove(&id);
        }
        self.tell(rpc::notification("notifications/cancelled", json!({"requestId": id, "reason": failure.reason()})));
        Err(failure)
    }

    fn tell(&self, message: Value) {
        // A server that does not read, or that is gone, need not be told anything.
        let _ = self.out.try_send(format!("{message}\n"));
    }
}

fn taken_apart(mut answer: Value) -> Result<Value, Failure> {
    match &answer["error"] {
        Value::Null => Ok(answer["result"].take()),
        error => Err(Failure::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: super::content::cut(error["message"].as_str().unwrap_or("an error"), super::MAX_WHY_CHARS),
        }),
    }
}

impl Shared {
    /// No more answers: everybody who waits for one is told.
    fn close(&self, why: &str) {
        let mut waiting = lock(&self.waiting);
        if waiting.is_ok() {
            *waiting = Err(why.to_owned());
        }
    }

    /// What the server says. A request of its own is refused: there is nobody here whom it could ask.
    fn hear(&self, message: Value, out: &Sender<String>) {
        let id = &message["id"];
        let reply = match (message["method"].as_str(), id) {
            (Some("notifications/tools/list_changed"), _) => return self.tools_changed.store(true, Ordering::Relaxed),
            (Some("notifications/progress"), _) => {
                let waiting = lock(&self.waiting);
                let who = message["params"]["progressToken"].as_u64().zip(waiting.as_ref().ok());
                if let Some(sender) = who.and_then(|(id, waiting)| waiting.get(&id)).filter(|who| who.is_empty()) {
                    // Who has just left need not know.
                    let _ = sender.try_send(None);
                }
                return;
            }
            (Some(_), Value::Null) => return,
            (Some("ping"), id) => rpc::result(id, json!({})),
            (Some(_), id) => rpc::error(id, rpc::METHOD_NOT_FOUND, "not supported by this client"),
            (None, id) => {
                let mut waiting = lock(&self.waiting);
                if let Some(sender) = id.as_u64().and_then(|id| waiting.as_mut().ok()?.remove(&id)) {
                    // As above.
                    let _ = sender.try_send(Some(message));
                }
                return;
            }
        };
        // A server that asks and does not read gets no answer.
        let _ = out.try_send(format!("{reply}\n"));
    }
}

fn write(shared: &Shared, mut stdin: ChildStdin, lines: &Receiver<String>) {
    for line in lines {
        if stdin.write_all(line.as_bytes()).is_err() {
            return shared.close(ENDED);
        }
    }
}

fn listen(shared: &Shared, stdout: ChildStdout, out: &Sender<String>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        match rpc::read(&mut stdout) {
            Ok(Some(Ok(Value::Array(batch)))) => batch.into_iter().for_each(|message| shared.hear(message, out)),
            Ok(Some(Ok(message))) => shared.hear(message, out),
            Ok(Some(Err(e))) => eprintln!("MCP server says what is no message server={:?} error={e}", shared.name),
            Ok(None) => return shared.close(ENDED),
            Err(e) => return shared.close(&e.to_string()),
        }
    }
}

/// Until the end of `stderr`; `_stopper` is dropped there.
fn pass_on(shared: &Shared, stderr: ChildStderr, _stopper: Stopper) {
    let (mut stderr, mut line, mut left) = (BufReader::new(stderr), Vec::new(), MAX_STDERR_LINES);
    while stderr.by_ref().take(MAX_STDERR_LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(line.trim_ascii()).replace(char::is_control, " ");
        match left {
            0 => {}
            1 => eprintln!("mcp {}: (the rest is not shown)", shared.name),
            _ => eprintln!("mcp {}: {text}", shared.name),
        }
        left = left.saturating_sub(1);
        if !text.is_empty() {
            *lock(&shared.last_line) = super::content::cut(&text, super::MAX_WHY_CHARS);
        }
        line.clear();
    }
}
