//! The Claude Code CLI as a child: it has its own loop, tools, history and compaction, and we have its ear.
//!
//! One process lives across the turns of a conversation; another conversation or system prompt takes another one,
//! which resumes. A turn ends when everything that was said to the CLI in it is answered. A turn that the CLI begins
//! by itself, because a background task has ended, wakes the agent, which then starts one with an empty prompt.
//!
//! Pictures and PDFs are named in the prompt: the CLI looks at them with a tool of its own.
//!
//! The CLI's history is its own, under `$HOME/.claude`; the continuation is its session's id.

mod child;
mod protocol;
mod relay;
mod talk;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::layout::SessionDir;
use serde_json::{Value, json};

use self::child::{Cli, Conversation, Launch};
use self::protocol::Line;
use self::talk::{Asked, Step, Talk};
use super::{Command, ErrorClass, Provider, TurnError, TurnEvent, TurnHandle, TurnPort, TurnRequest};
use crate::destinations::Current;
use crate::gateway::{Gateway, SILENCE_TIMEOUT};
use crate::mcp;
use crate::stop::Stopped;
use crate::tools::{Context, Tool};
use crate::{id, time};

pub const NAME: &str = "claude";

/// How long the CLI may take to give up a turn. What is left of two seconds is for killing it.
const INTERRUPT_PATIENCE: Duration = Duration::from_millis(1_000);

/// The name of their server: they are called `mcp__nanoclaw__<tool>`.
const OWN_SERVER: &str = "nanoclaw";

/// See the module.
pub struct Claude {
    shared: Arc<Shared>,
    wakes: Receiver<()>,
}

/// What turns leave to the next one.
struct Shared {
    launch: Launch,
    /// Our own.
    tools: Vec<Arc<dyn Tool>>,
    /// The CLI between two turns.
    cli: Mutex<Option<Cli>>,
}

impl Claude {
    /// `home` is the agent's home.
    pub fn new(
        config: &ContainerConfig,
        dir: &SessionDir,
        gateway: Gateway,
        home: PathBuf,
        tools: Vec<Arc<dyn Tool>>,
    ) -> Claude {
        let (wake, wakes) = bounded(1);
        let launch = Launch::new(config, dir, gateway, home, &[OWN_SERVER], wake);
        Claude { shared: Arc::new(Shared { launch, tools, cli: Mutex::new(None) }), wakes }
    }
}

impl Provider for Claude {
    fn name(&self) -> &str {
        NAME
    }

    fn start(&self, request: TurnRequest) -> io::Result<TurnHandle> {
        let shared = self.shared.clone();
        let text = match request.command {
            None => request.prompt.text,
            Some(Command::Compact) => "/compact".into(),
            Some(Command::Context) => "/context".into(),
        };
        let talk = Talk::new(request.continuation);
        let turn = Turn { shared, talk, system: request.system, destinations: request.destinations };
        super::spawn(|| (), move |port| turn.run(port, text))
    }

    fn wakes(&self) -> Receiver<()> {
        self.wakes.clone()
    }

    fn is_busy(&self) -> bool {
        self.shared.slot().as_ref().is_some_and(Cli::is_busy)
    }
}

impl Drop for Claude {
    fn drop(&mut self) {
        if let Some(cli) = self.shared.slot().take() {
            cli.leave();
        }
    }
}

impl Shared {
    /// Held for a moment only, never while something is waited for.
    fn slot(&self) -> MutexGuard<'_, Option<Cli>> {
        self.cli.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CLI for this conversation: the one that is there, or a new one.
    fn cli(&self, conversation: Conversation) -> io::Result<Cli> {
        let old = self.slot().take();
        self.launch.idle.store(false, Ordering::SeqCst);
        match old {
            Some(cli) if cli.suits(&conversation) => return Ok(cli),
            Some(cli) => cli.leave(),
            None => {}
        }
        self.launch.start(conversation)
    }
}

struct Turn {
    shared: Arc<Shared>,
    destinations: Current,
    talk: Talk,
    system: String,
}

/// Why nobody listens to the CLI any more.
enum Ended {
    Done,
    Failed(TurnError),
    Died,
    Stopped,
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Ended {
        Ended::Stopped
    }
}

impl Turn {
    fn run(mut self, mut port: TurnPort, text: String) -> Result<(), Stopped> {
        // Without one, the CLI's own turn is listened to.
        let mut prompts = vec![text];
        prompts.retain(|text| !text.is_empty());
        let mut is_second = false;
        loop {
            let continuation = self.talk.continuation.clone();
            let cli = match self.shared.cli(Conversation { continuation, system: self.system.clone() }) {
                Ok(cli) => cli,
                Err(e) => return port.fail(not_started(&e)),
            };
            for text in std::mem::take(&mut prompts) {
                self.say(&cli, text);
            }
            let Err(ended) = self.converse(&cli, &mut port);
            match ended {
                Ended::Done => {
                    self.put_back(cli);
                    return port.finish(self.talk.texts, None);
                }
                Ended::Failed(error) => {
                    // What is still asked would be answered in the next turn, which does not expect it.
                    if self.talk.asked.len() <= 1 && !self.talk.active {
                        self.put_back(cli);
                    }
                    return port.fail(error);
                }
                Ended::Stopped => {
                    let is_at_rest = self.talk.asked.is_empty() && !self.talk.active;
                    if is_at_rest || self.interrupt(&cli) {
                        self.put_back(cli);
                    }
                    return Err(Stopped);
                }
                Ended::Died => {
                    eprintln!("Claude Code ended in the middle of a turn");
                    prompts = self.talk.asked.drain(..).map(|asked| asked.text).collect();
                    if prompts.is_empty() {
                        return port.finish(self.talk.texts, None);
                    }
                    if is_second {
                        let sentence = "Claude Code ended unexpectedly, twice.".into();
                        return port.fail(TurnError { class: ErrorClass::Transient, sentence });
                    }
                    is_second = true;
                }
            }
        }
    }

    fn say(&mut self, cli: &Cli, text: String) {
        let uuid = id::uuid();
        cli.write(protocol::user(&uuid, &text));
        self.talk.asked.push(Asked { uuid, text });
    }

    /// Listens and passes on what is said until there is a reason to end.
    fn converse(&mut self, cli: &Cli, port: &mut TurnPort) -> Result<Infallible, Ended> {
        port.emit(TurnEvent::Waiting { until: time::now() + SILENCE_TIMEOUT })?;
        if self.talk.asked.is_empty() {
            self.catch_up(cli, port)?;
        }
        loop {
            select! {
                recv(cli.lines) -> line => self.obey(cli, port, line.map_err(|_| Ended::Died)?)?,
                recv(port.stop.word()) -> _ => return Err(Ended::Stopped),
                recv(port.follow_ups) -> prompt => {
                    self.say(cli, prompt.map_err(|_| Ended::Stopped)?.text);
                    port.taken += 1;
                }
            }
        }
    }

    fn obey(&mut self, cli: &Cli, port: &mut TurnPort, line: Line) -> Result<(), Ended> {
        let limit = self.shared.launch.limit.swap(0, Ordering::SeqCst);
        self.talk.limited_until = Some(limit).filter(|limit| *limit > 0).or(self.talk.limited_until);
        for step in self.talk.apply(line, time::now()) {
            match step {
                Step::Emit(event) => port.emit(event)?,
                Step::Write(message) => cli.write(message),
                Step::Call { request, message } => self.call(cli, port, request, message),
                // The CLI may have begun a turn by itself meanwhile: its answer belongs to this one.
                Step::Done => self.catch_up(cli, port)?,
                Step::Failed(error) => return Err(Ended::Failed(error)),
            }
        }
        Ok(())
    }

    /// Hears what is said already; ends if the CLI is at rest then.
    fn catch_up(&mut self, cli: &Cli, port: &mut TurnPort) -> Result<(), Ended> {
        for line in cli.lines.try_iter() {
            self.obey(cli, port, line)?;
        }
        if self.talk.active { Ok(()) } else { Err(Ended::Done) }
    }

    /// Answers a call of one of our own tools, on a thread of its own: it may take long.
    fn call(&self, cli: &Cli, port: &TurnPort, request: String, message: Value) {
        let (input, shared) = (cli.input.clone(), self.shared.clone());
        let (stop, events) = (port.stop().clone(), port.events());
        let context = Context { stop, events, destinations: self.destinations.get() };
        let answer = move || {
            let nothing = || json!({"jsonrpc": "2.0", "result": {}});
            let reply = mcp::server::answer(&shared.tools, &message, &context).unwrap_or_else(nothing);
            // The CLI is gone, and with it whoever asked.
            let _gone = input.send(protocol::answer(&request, json!({"mcp_response": reply})));
        };
        if let Err(e) = child::spawn(answer) {
            eprintln!("Tool not called error={e}");
        }
    }

    /// Makes the CLI give up its turn; whether it has.
    fn interrupt(&mut self, cli: &Cli) -> bool {
        // What can be resumed is what the agent knows of, and it does not listen any more.
        let continuation = self.talk.continuation.clone();
        cli.request(json!({"subtype": "interrupt", "cancel_queued": true}));
        let until = Instant::now() + INTERRUPT_PATIENCE;
        loop {
            let Ok(line) = cli.lines.recv_deadline(until) else { return false };
            let has_ended = line.kind == "result";
            for step in self.talk.apply(line, time::now()) {
                if let Step::Write(message) = step {
                    cli.write(message);
                }
            }
            if has_ended {
                self.talk.continuation = continuation;
                return true;
            }
        }
    }

    /// Keeps the CLI for the next turn.
    fn put_back(&self, mut cli: Cli) {
        cli.conversation.continuation = self.talk.continuation.clone();
        self.shared.launch.idle.store(true, Ordering::SeqCst);
        if !cli.lines.is_empty() {
            // It may have begun a turn a moment ago. If it has not, the turn that looks ends at once.
            let _given = self.shared.launch.wake.try_send(());
        }
        *self.shared.slot() = Some(cli);
    }
}

fn not_started(e: &io::Error) -> TurnError {
    if e.kind() == ErrorKind::NotFound {
        let sentence = "The Claude Code CLI is not in this image. Set INSTALL_CLAUDE=true in <home>/.env and run \
                        `make image`."
            .into();
        return TurnError { class: ErrorClass::InvalidRequest, sentence };
    }
    TurnError { class: ErrorClass::Transient, sentence: format!("Claude Code could not be started: {e}.") }
}
