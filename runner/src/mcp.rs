//! The Model Context Protocol: the tools of other programs, for our model ([`Servers`]), and ours, for the models
//! of other programs ([`server`]).
//!
//! A server is started when its tools are first listed, and again on the next use after it has ended; one that does
//! not start is left alone for [`RETRY_PAUSE`]. What a server does wrong is its tools' failure, never the agent's.

mod connection;
mod content;
mod rpc;
pub mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nanoclaw_session::config::McpServer;
use serde_json::{Value, json};

use self::connection::{Connection, Failure};
use crate::provider::STACK_BYTES;
use crate::stop::Stop;
use crate::tools::{Context, Effect, Output, Spec, Tool};

/// From a server's start to its list of tools.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest call.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a server is left alone that did not start.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Longest name of a tool. characters
const MAX_NAME_CHARS: usize = 64;
/// Longest description of a tool. characters
const MAX_DESCRIPTION_CHARS: usize = 8_000;

/// The group's MCP servers. They are killed when these and all their tools are dropped.
pub struct Servers {
    servers: Vec<Arc<Server>>,
}

struct Server {
    name: String,
    config: McpServer,
    /// Where pictures go.
    folder: PathBuf,
    patience: Patience,
    state: Mutex<State>,
}

/// How long is waited for a server.
#[derive(Debug, Clone, Copy)]
struct Patience {
    start: Duration,
    call: Duration,
}

enum State {
    Off,
    /// With the tools it offered last.
    Running(Arc<Connection>, Vec<Value>),
    /// Not to be started before.
    Resting {
        until: Instant,
        why: Failure,
    },
}

impl Servers {
    /// Starts nothing. Pictures that tools return are put into `folder`.
    pub fn new(config: &BTreeMap<String, McpServer>, folder: PathBuf) -> Servers {
        Servers::patient(config, folder, Patience { start: START_TIMEOUT, call: CALL_TIMEOUT })
    }

    fn patient(config: &BTreeMap<String, McpServer>, folder: PathBuf, patience: Patience) -> Servers {
        let server = |(name, config): (&String, &McpServer)| {
            let (name, config, folder) = (name.clone(), config.clone(), folder.clone());
            Arc::new(Server { name, config, folder, patience, state: Mutex::new(State::Off) })
        };
        Servers { servers: config.iter().map(server).collect() }
    }

    /// The tools of every server, as they are now, and a sentence about each server that has none to offer. Starts
    /// what is not running, all side by side.
    pub fn tools(&self, stop: &Stop) -> (Vec<Arc<dyn Tool>>, Vec<String>) {
        let lists: Vec<Result<Vec<Value>, String>> = thread::scope(|scope| {
            let spawn = |server: &Arc<Server>| {
                let server = server.clone();
                let thread = thread::Builder::new().name("mcp-start".into()).stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, move || server.tools(stop).map_err(|failure| failure.to_string()))
            };
            let started: Vec<_> = self.servers.iter().map(spawn).collect();
            let join = |thread: thread::ScopedJoinHandle<_>| thread.join().unwrap_or_else(|_| Err("a fault".into()));
            started.into_iter().map(|thread| thread.map_err(|e| e.to_string()).and_then(join)).collect()
        });
        let (mut tools, mut complaints, mut names) = (Vec::new(), Vec::new(), HashSet::new());
        for (server, list) in self.servers.iter().zip(lists) {
            match list {
                Ok(list) => tools.extend(list.into_iter().filter_map(|tool| server.offer(tool, &mut names))),
                Err(why) => complaints.push(server.cannot_be_used(&why)),
            }
        }
        (tools, complaints)
    }
}

impl Server {
    fn tools(&self, stop: &Stop) -> Result<Vec<Value>, Failure> {
        let mut state = lock(&self.state);
        let connection = self.running(&mut state, stop)?;
        let State::Running(_, tools) = &mut *state else { return Ok(Vec::new()) };
        connection.renew(tools, Instant::now() + self.patience.start, stop)?;
        Ok(tools.clone())
    }

    /// The connection to the server, which is started if it must be.
    fn running(&self, state: &mut State, stop: &Stop) -> Result<Arc<Connection>, Failure> {
        let now = Instant::now();
        match state {
            State::Running(connection, _) if connection.is_open() => return Ok(connection.clone()),
            State::Resting { until, why } if now < *until => return Err(why.clone()),
            _ => {}
        }
        match Connection::open(&self.name, &self.config, now + self.patience.start, stop) {
            Ok((connection, tools)) => {
                let connection = Arc::new(connection);
                *state = State::Running(connection.clone(), tools);
                Ok(connection)
            }
            Err(Failure::Stopped) => Err(Failure::Stopped),
            Err(why) => {
                *state = State::Resting { until: Instant::now() + RETRY_PAUSE, why: why.clone() };
                Err(why)
            }
        }
    }

    fn cannot_be_used(&self, why: &str) -> String {
        format!("The MCP server {:?} cannot be used: {why}.", self.name)
    }

    /// A tool as the server describes it, under a name that is not in `names` yet.
    fn offer(self: &Arc<Server>, mut tool: Value, names: &mut HashSet<String>) -> Option<Arc<dyn Tool>> {
        let real_name = tool["name"].as_str()?.to_owned();
        let description = content::cut(tool["description"].as_str().unwrap_or_default(), MAX_DESCRIPTION_CHARS);
        let effect = if tool["annotations"]["readOnlyHint"] == true { Effect::Reads } else { Effect::Changes };
        let mut schema = tool["inputSchema"].take();
        if !schema.is_object() {
            schema = json!({});
        }
        schema["type"] = "object".into();
        let spec = Spec { name: name(&self.name, &real_name, names), description, schema };
        Some(Arc::new(ServerTool { server: self.clone(), real_name, spec, effect }))
    }
}

/// `mcp__<server>__<tool>`, in the letters a model's API takes, and unlike all in `names`.
fn name(server: &str, tool: &str, names: &mut HashSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let mut name: String = format!("mcp__{server}__{tool}").chars().map(plain).take(MAX_NAME_CHARS).collect();
    let (whole, mut n) = (name.clone(), 1);
    while !names.insert(name.clone()) {
        n += 1;
        let suffix = format!("_{n}");
        name = format!("{}{suffix}", &whole[..whole.len().min(MAX_NAME_CHARS - suffix.len())]);
    }
    name
}

/// A tool of an MCP server.
struct ServerTool {
    server: Arc<Server>,
    real_name: String,
    spec: Spec,
    effect: Effect,
}

impl Tool for ServerTool {
    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    /// On a server that must be started first.
    fn deadline(&self, _input: &Value) -> Duration {
        self.server.patience.start + self.server.patience.call
    }

    fn call(&self, input: &Value, context: &Context) -> Output {
        let Server { name, patience, folder, .. } = &*self.server;
        let running = self.server.running(&mut lock(&self.server.state), &context.stop);
        let connection = match running {
            Ok(connection) => connection,
            Err(why) => return Output::failed(self.server.cannot_be_used(&why.to_string())),
        };
        let params = json!({"name": self.real_name, "arguments": input});
        match connection.request("tools/call", params, Instant::now() + patience.call, &context.stop) {
            Ok(result) => content::output(result, folder),
            Err(why) => Output::failed(format!(
                "The MCP server {name:?} did not do this: {why}. Whether it had any effect is not known."
            )),
        }
    }
}

/// What a thread that panicked has left is whole: nothing here changes in two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
