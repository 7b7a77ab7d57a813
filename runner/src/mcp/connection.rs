//! One running MCP server: a child process, and the requests that wait for its answers.
//!
//! Two threads that do nothing between messages: one writes to the server, one reads from it. Whoever asks waits on a
//! channel of its own, so a stop is heard whatever the server does. Its stderr is ours: the container's log.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, ErrorKind, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, bounded, select};
use nanoclaw_session::config::McpServer;
use serde_json::{Value, json};

use super::content::cut;
use super::{lock, rpc};
use crate::process::{self, Child};
use crate::provider::STACK_BYTES;
use crate::stop::Stop;

/// Messages that may wait for a server that does not read.
const MAX_UNREAD: usize = 16;
/// Most tools of a server.
const MAX_TOOLS: usize = 200;
/// Largest description of all tools that is taken: a model would have to read it with every request. bytes
const MAX_LIST_BYTES: usize = 512 * 1024;
/// Longest explanation by a server of what went wrong. characters
const MAX_WHY_CHARS: usize = 500;
/// Of a server that closes its pipes, whichever is noticed first.
const ENDED: &str = "it ended";

/// Why a request has no result. In words, it is the end of a sentence about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Stopped,
    TimedOut,
    /// The server has ended, is no longer understood, or refuses.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Stopped => f.write_str("it was stopped"),
            Failure::TimedOut => f.write_str("it did not answer in time"),
            Failure::Failed(why) => f.write_str(why),
        }
    }
}

/// The server's process and our end of its pipes. Dropped: killed.
pub struct Connection {
    _child: Child,
    out: Sender<String>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
}

/// What the threads of a connection and those who ask have in common.
struct Shared {
    name: String,
    /// Who waits for which answer; the reason, once none will come.
    waiting: Mutex<Result<HashMap<u64, Sender<Value>>, String>>,
    tools_changed: AtomicBool,
}

impl Connection {
    /// Starts a server, greets it, and asks for its tools.
    pub fn open(
        name: &str,
        config: &McpServer,
        until: Instant,
        stop: &Stop,
    ) -> Result<(Connection, Vec<Value>), Failure> {
        let connection = Connection::spawn(name, config).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::Failed(format!("there is no program {:?}", config.command)),
            _ => Failure::Failed(e.to_string()),
        })?;
        let hello =
            json!({"protocolVersion": rpc::VERSIONS[0], "capabilities": {}, "clientInfo": rpc::implementation()});
        // Tools are the same in every revision: whichever the server has chosen will do.
        connection.request("initialize", hello, until, stop)?;
        connection.tell(rpc::notification("notifications/initialized", json!({})));
        let tools = connection.list(until, stop)?;
        Ok((connection, tools))
    }

    fn spawn(name: &str, config: &McpServer) -> io::Result<Connection> {
        let mut command = process::command(&config.command);
        command.args(&config.args).envs(&config.env).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let waiting = Mutex::new(Ok(HashMap::new()));
        let shared = Arc::new(Shared { name: name.into(), waiting, tools_changed: AtomicBool::new(false) });
        let (out, lines) = bounded(MAX_UNREAD);
        let thread = || thread::Builder::new().name("mcp".into()).stack_size(STACK_BYTES);
        if let Some(stdin) = child.stdin.take() {
            let shared = shared.clone();
            thread().spawn(move || write(&shared, stdin, &lines))?;
        }
        if let Some(stdout) = child.stdout.take() {
            let (shared, out) = (shared.clone(), out.clone());
            thread().spawn(move || listen(&shared, stdout, &out))?;
        }
        Ok(Connection { _child: child, out, shared, next_id: AtomicU64::new(1) })
    }

    pub fn is_open(&self) -> bool {
        lock(&self.shared.waiting).is_ok()
    }

    /// Asks for the tools again if they were said to have changed.
    pub fn renew(&self, tools: &mut Vec<Value>, until: Instant, stop: &Stop) -> Result<(), Failure> {
        if self.shared.tools_changed.swap(false, Ordering::Relaxed) {
            *tools =
                self.list(until, stop).inspect_err(|_| self.shared.tools_changed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }

    /// The descriptions of the server's tools.
    fn list(&self, until: Instant, stop: &Stop) -> Result<Vec<Value>, Failure> {
        let (mut tools, mut params, mut left) = (Vec::new(), json!({}), MAX_LIST_BYTES);
        loop {
            let mut page = self.request("tools/list", params, until, stop)?;
            if let Some(found) = page.get_mut("tools").and_then(Value::as_array_mut) {
                found.retain(|tool| {
                    let size = tool.to_string().len();
                    let fits = size <= left;
                    left -= if fits { size } else { 0 };
                    fits
                });
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

    /// Asks and waits for the answer until then.
    pub fn request(&self, method: &str, params: Value, until: Instant, stop: &Stop) -> Result<Value, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = rpc::notification(method, params);
        message["id"] = id.into();
        // There is one answer, so the reader is not held up.
        let (sender, answer) = bounded(1);
        lock(&self.shared.waiting).as_mut().map_err(|why| Failure::Failed(why.clone()))?.insert(id, sender);
        let failure = select! {
            send(self.out, format!("{message}\n")) -> _ => select! {
                recv(answer) -> answer => match answer {
                    Ok(answer) => return taken_apart(answer),
                    Err(_) => Failure::Failed(lock(&self.shared.waiting).as_ref().err().cloned().unwrap_or_default()),
                },
                recv(stop.word()) -> _ => Failure::Stopped,
                recv(at(until)) -> _ => Failure::TimedOut,
            },
            recv(stop.word()) -> _ => Failure::Stopped,
            recv(at(until)) -> _ => Failure::TimedOut,
        };
        if let Ok(waiting) = lock(&self.shared.waiting).as_mut() {
            waiting.remove(&id);
        }
        self.tell(rpc::notification(
            "notifications/cancelled",
            json!({"requestId": id, "reason": failure.to_string()}),
        ));
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
        error => {
            let message = cut(error["message"].as_str().unwrap_or("an error"), MAX_WHY_CHARS);
            Err(Failure::Failed(format!("it answered: {message} ({})", error["code"])))
        }
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
        let reply = match message["method"].as_str() {
            Some("notifications/tools/list_changed") => return self.tools_changed.store(true, Ordering::Relaxed),
            Some(_) if id.is_null() => return,
            Some("ping") => rpc::result(id, json!({})),
            Some(_) => rpc::error(id, rpc::METHOD_NOT_FOUND, "not supported by this client"),
            None => {
                let waiting = id.as_u64().and_then(|id| lock(&self.waiting).as_mut().ok()?.remove(&id));
                if let Some(sender) = waiting {
                    // Who has just left need not know.
                    let _ = sender.try_send(message);
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
            Ok(Some(Ok(message))) => shared.hear(message, out),
            Ok(Some(Err(e))) => eprintln!("MCP server says what is no message server={:?} error={e}", shared.name),
            Ok(None) => return shared.close(ENDED),
            Err(e) => return shared.close(&e.to_string()),
        }
    }
}
