//! Our own agent loop: a model behind an HTTP API, a conversation on disk, tools.
//!
//! The APIs are stateless: each request sends the whole conversation, and the continuation is the name of its file.
//! What is transient is retried here, by the rule in [`retry`]. Follow-ups are put in between two requests of a turn.
//!
//! A request that the API calls invalid may be so because of the conversation. With one, the turn is reported as stale,
//! which makes the agent ask once more without; the old conversation is given up only when that works.

pub mod api;
mod ask;
mod calls;
mod compact;
mod engine;
mod history;
pub mod media;
pub mod message;
mod retry;
mod sse;
mod todo;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::layout::SessionDir;

use self::api::Api;
use self::engine::{Ended, Engine, Rank, error};
use self::history::History;
use super::{Command, ErrorClass, Provider, TurnEvent, TurnHandle, TurnPort, TurnRequest};
use crate::gateway::{Gateway, SILENCE_TIMEOUT};
use crate::mcp::{self, Servers};
use crate::prompt::skills;
use crate::stop::Stopped;
use crate::time;
use crate::tools::{self, Tool};

/// See the module.
pub struct Model {
    api: Arc<dyn Api>,
    gateway: Gateway,
    model: String,
    effort: Option<String>,
    dir: SessionDir,
    tools: Vec<Arc<dyn Tool>>,
    servers: Arc<Servers>,
}

impl Model {
    pub fn new(
        api: Arc<dyn Api>,
        config: &ContainerConfig,
        dir: &SessionDir,
        zone: &TimeZone,
        gateway: Gateway,
    ) -> Model {
        let set = |value: &Option<String>| value.clone().filter(|v| !v.trim().is_empty());
        let model = set(&config.model).unwrap_or_else(|| api.default_model().into());
        let mut tools = tools::builtin(dir);
        tools.extend(tools::own(config, dir, zone));
        tools.push(Arc::new(todo::Todo(todo_of(dir))));
        let servers = Arc::new(Servers::new(&config.mcp_servers, dir.state().join("mcp")));
        Model { api, gateway, model, effort: set(&config.effort), dir: dir.clone(), tools, servers }
    }
}

fn todo_of(dir: &SessionDir) -> PathBuf {
    dir.state().join("todo.json")
}

impl Provider for Model {
    fn name(&self) -> &str {
        self.api.name()
    }

    fn start(&self, request: TurnRequest) -> io::Result<TurnHandle> {
        let client = self.gateway.client();
        let interrupted = client.clone();
        let told = [request.system.clone(), skills::prompt(&self.dir)];
        let (api, gateway, dir) = (self.api.clone(), self.gateway.clone(), self.dir.clone());
        let (model, effort) = (self.model.clone(), self.effort.clone());
        let (mut tools, servers) = (self.tools.clone(), self.servers.clone());
        super::spawn(
            move || interrupted.shutdown(),
            move |port| {
                port.emit(TurnEvent::Waiting { until: time::now() + mcp::START_TIMEOUT + SILENCE_TIMEOUT })?;
                let (theirs, missing) = servers.tools(port.stop());
                tools.extend(theirs);
                let engine = Engine {
                    folder: dir.state().join(api.name()),
                    archive: dir.root().join("agent").join("conversations"),
                    todo: todo_of(&dir),
                    specs: tools.iter().map(|tool| tool.spec()).chain([calls::task_spec()]).collect(),
                    api,
                    gateway,
                    client,
                    model,
                    effort,
                    system: told.into_iter().chain(missing).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("\n\n"),
                    tools,
                    stop: port.stop().clone(),
                    events: port.events(),
                    destinations: request.destinations.clone(),
                    rank: Rank::Agent,
                };
                turn(&engine, port, &request)
            },
        )
    }
}

fn turn(engine: &Engine, mut port: TurnPort, request: &TurnRequest) -> Result<(), Stopped> {
    let opened = match request.continuation.as_deref() {
        None => History::create(&engine.folder).map(Some),
        Some(name) => History::open(&engine.folder, name),
    };
    let mut history = match opened {
        Ok(Some(history)) => history,
        Ok(None) => return port.fail(error(ErrorClass::StaleContinuation, "I lost our conversation.")),
        Err(e) => return port.fail(disk_error(&e)),
    };
    let worked = match request.command {
        None => history
            .begin(&request.prompt)
            .map_err(Ended::from)
            .and_then(|()| engine.converse(&mut history, Some(&mut port))),
        Some(command) => engine.command(&mut history, command),
    };
    match worked {
        Ok(texts) => match history.sync() {
            Ok(()) => port.finish(texts, None),
            Err(e) => port.fail(disk_error(&e)),
        },
        Err(Ended::Stopped) => {
            if let Err(e) = Engine::stopped(&mut history) {
                eprintln!("The end of a stopped turn was not written error={e}");
            }
            Err(Stopped)
        }
        Err(Ended::Failed(failed)) => {
            history.fail(&failed.sentence);
            port.fail(failed)
        }
    }
}

fn disk_error(e: &io::Error) -> super::TurnError {
    error(ErrorClass::Transient, format!("I could not store our conversation: {e}."))
}

impl Engine {
    /// Answers a slash command.
    fn command(&self, history: &mut History, command: Command) -> Result<Vec<String>, Ended> {
        let before = history.tokens();
        Ok(vec![match command {
            Command::Compact if history.lines().len() < 2 => "There is nothing to shorten yet.".into(),
            Command::Compact => {
                self.compact(history)?;
                format!("I shortened our conversation from about {before} to {} tokens.", history.tokens())
            }
            Command::Context => {
                let tools = self.specs.iter().map(|s| s.description.len() + s.schema.to_string().len()).sum();
                let [system, tools] = [self.system.len(), tools].map(history::tokens_of);
                let window = self.api.window(&self.model);
                format!(
                    "{} with a window of {window} tokens. About {system} of them are instructions, {tools} tools, \
                     {before} our conversation ({} lines).",
                    self.model,
                    history.lines().len(),
                )
            }
        }])
    }
}
