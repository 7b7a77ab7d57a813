//! What answers: the seam between the agent loop and a model. Nothing else in the runner knows
//! which provider is in use.
//!
//! A turn runs on a thread of its own: events come out, follow-ups go in. It ends with exactly one
//! [`TurnEvent::Result`] or [`TurnEvent::Error`], unless it is stopped: then its channel closes,
//! within two seconds. A provider retries what is transient and declares how long it may be silent.

pub mod anthropic;
pub mod claude;
pub mod demo;
pub mod missing;
pub mod model;
pub mod openai;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::content::{Answer, Outbound, Question};
use nanoclaw_session::layout::SessionDir;
use serde::{Deserialize, Serialize};

use self::model::Model;
use crate::destinations::Current;
use crate::gateway::Gateway;
use crate::stop::{self, Stop, Stopped, Stopper};
use crate::tools;

/// Stack of every thread of the runner but the first.
pub const STACK_BYTES: usize = 256 * 1024;
/// Events a turn may be ahead of the agent.
const MAX_EVENTS_AHEAD: usize = 64;
/// Follow-ups that wait in a turn; further ones wait in `inbound.db`.
const MAX_FOLLOW_UPS_WAITING: usize = 16;

/// Text for the model, and the rows it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    /// Ids of inbound rows; a provider that keeps a history uses them to know a prompt that is
    /// asked again after a crash. Empty for what the runner itself says.
    pub message_ids: Vec<String>,
    pub text: String,
    /// Pictures and PDFs that came with them, for models that can see.
    pub files: Vec<PromptFile>,
}

/// A file for the model to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptFile {
    pub path: PathBuf,
    /// Of the kinds in [`model::media::KINDS`].
    pub media_type: String,
}

/// What an answer cost. tokens
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Not from the cache.
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
    }
}

/// A slash command that the provider answers, in a turn of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Shorten the conversation now.
    Compact,
    /// Say what fills the model's window.
    Context,
}

/// What a turn starts with.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    pub prompt: Prompt,
    /// `None`: the prompt is for the model. Else its text is the command's line.
    pub command: Option<Command>,
    pub system: String,
    pub destinations: Current,
    /// What an earlier turn of this provider handed out; `None` starts a new conversation.
    pub continuation: Option<String>,
}

/// What a turn reports.
#[derive(Debug)]
pub enum TurnEvent {
    /// The conversation's continuation, as soon as it is known.
    Init { continuation: String },
    /// Something arrived, such as a piece of the answer: the turn makes progress.
    Activity,
    /// No news is to be expected before `until`.
    Waiting { until: Timestamp },
    /// A tool begins; the longest time it may take, where that is known.
    ToolStarted { name: String, deadline: Option<Duration> },
    /// No tool runs any more.
    ToolEnded,
    /// What the model has cost since the last such report.
    Cost { model: String, usage: Usage },
    /// Something is sent in the middle of the turn.
    Send(Outgoing),
    /// The same, for whom wants to hear the number the agent knows it by; closed when it was not sent.
    SendNumbered(Outgoing, Sender<i64>),
    /// The people of the session's own chat are asked; `answer` hears what becomes of that, or is dropped.
    Ask { question: Question, answer: Sender<Answer> },
    /// The runner itself has something to say to the user. It is no answer.
    Notice(String),
    /// The turn ended well.
    Result(TurnResult),
    /// The turn failed.
    Error(TurnError),
}

/// A message sent in the middle of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The id of its row; files lie in the outbox under this id.
    pub id: String,
    /// The destination's name; `None` is the session's own chat.
    pub to: Option<String>,
    pub message: Outbound,
}

/// How a turn ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnResult {
    /// The final texts, one for each answer given in the turn.
    pub texts: Vec<String>,
    /// How many of the follow-ups were answered. The others came too late.
    pub follow_ups_taken: usize,
    /// What the next turn continues, when that changed.
    pub continuation: Option<String>,
}

/// How a turn failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnError {
    pub class: ErrorClass,
    /// For the user: one plain sentence.
    pub sentence: String,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It went on for longer than the provider is willing to wait.
    Transient,
    /// A limit is used up until then.
    Quota { reset: Timestamp },
    /// The key is wrong or may not do this.
    Auth,
    /// The same request will never succeed.
    InvalidRequest,
    /// The continuation leads nowhere; without it, the turn may well succeed.
    StaleContinuation,
    /// The model declined.
    Refused,
}

/// A source of answers.
pub trait Provider {
    /// Its name in `container.json`, and the key of its continuation.
    fn name(&self) -> &str;

    /// Starts a turn. Fails when no thread can be started.
    fn start(&self, request: TurnRequest) -> io::Result<TurnHandle>;

    /// Ready when a turn has begun by itself: one that is started with an empty prompt reports it.
    fn wakes(&self) -> Receiver<()> {
        never()
    }

    /// Whether work goes on outside of turns that may wake it.
    fn is_busy(&self) -> bool {
        false
    }
}

/// The provider that `container.json` names.
pub fn named(config: &ContainerConfig, dir: &SessionDir, zone: &TimeZone, gateway: Gateway) -> Box<dyn Provider> {
    match config.provider.trim().to_lowercase().as_str() {
        demo::NAME => Box::new(demo::Demo::new(dir.clone(), tools::own(config, dir, zone))),
        anthropic::NAME => Box::new(Model::new(Arc::new(anthropic::Messages), config, dir, zone, gateway)),
        openai::NAME => Box::new(Model::new(Arc::new(openai::OpenAi), config, dir, zone, gateway)),
        claude::NAME => {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/home/agent".into());
            let own = tools::own(config, dir, zone);
            Box::new(claude::Claude::new(config, dir, gateway, home.into(), own))
        }
        _ => Box::new(missing::Missing::new(
            &config.provider,
            &[demo::NAME, anthropic::NAME, openai::NAME, claude::NAME],
        )),
    }
}

/// A turn that says `text`.
pub fn say(text: String) -> io::Result<TurnHandle> {
    spawn(|| (), move |port| port.finish(vec![text], None))
}

/// The agent's end of a running turn.
pub struct TurnHandle {
    follow_ups: Sender<Prompt>,
    events: Receiver<TurnEvent>,
    stopper: Stopper,
    interrupt: Box<dyn FnOnce() + Send>,
}

impl TurnHandle {
    /// Hands a follow-up to the running turn; false when it takes none any more, or not now.
    pub fn push(&self, prompt: Prompt) -> bool {
        self.follow_ups.try_send(prompt).is_ok()
    }

    pub fn events(&self) -> &Receiver<TurnEvent> {
        &self.events
    }

    /// Ends the turn. The channel that is returned closes when the thread is gone.
    pub fn stop(self) -> Receiver<TurnEvent> {
        drop(self.stopper);
        (self.interrupt)();
        self.events
    }
}

/// The provider's end of a turn.
pub struct TurnPort {
    events: Sender<TurnEvent>,
    follow_ups: Receiver<Prompt>,
    stop: Stop,
    taken: usize,
}

impl TurnPort {
    /// Fails once the turn was stopped, like everything here.
    pub fn emit(&self, event: TurnEvent) -> Result<(), Stopped> {
        self.stop.check()?;
        self.events.send(event).map_err(|_| Stopped)
    }

    /// For what runs beside the turn's own thread.
    pub fn events(&self) -> Sender<TurnEvent> {
        self.events.clone()
    }

    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The follow-ups that came since the last call. They count as answered by this turn.
    pub fn take_follow_ups(&mut self) -> Result<Vec<Prompt>, Stopped> {
        self.stop.check()?;
        let prompts: Vec<Prompt> = self.follow_ups.try_iter().collect();
        self.taken += prompts.len();
        Ok(prompts)
    }

    /// Ends the turn well.
    pub fn finish(self, texts: Vec<String>, continuation: Option<String>) -> Result<(), Stopped> {
        self.emit(TurnEvent::Result(TurnResult { texts, follow_ups_taken: self.taken, continuation }))
    }

    /// Ends the turn badly.
    pub fn fail(self, error: TurnError) -> Result<(), Stopped> {
        self.emit(TurnEvent::Error(error))
    }
}

/// Runs `turn` on a thread. `interrupt` ends a wait of its that does not hear the word to stop.
fn spawn(
    interrupt: impl FnOnce() + Send + 'static,
    turn: impl FnOnce(TurnPort) -> Result<(), Stopped> + Send + 'static,
) -> io::Result<TurnHandle> {
    let (events, agent_events) = bounded(MAX_EVENTS_AHEAD);
    let (agent_follow_ups, follow_ups) = bounded(MAX_FOLLOW_UPS_WAITING);
    let (stopper, stop) = stop::pair();
    let port = TurnPort { events, follow_ups, stop, taken: 0 };
    thread::Builder::new().name("turn".into()).stack_size(STACK_BYTES).spawn(move || {
        // A stopped turn ends like any other: by closing its channel.
        let (Ok(()) | Err(Stopped)) = turn(port);
    })?;
    Ok(TurnHandle { follow_ups: agent_follow_ups, events: agent_events, stopper, interrupt: Box::new(interrupt) })
}
