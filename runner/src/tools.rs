//! What an agent can do besides talking. A tool is one struct behind [`Tool`]; which model calls it,
//! and over which wire, it does not know.

mod bash;
mod capture;
mod create_agent;
mod files;
mod html;
mod outgoing;
mod own;
pub mod question;
mod running;
mod schedule;
mod search;
mod web_fetch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use nanoclaw_session::content::Outbound;
use nanoclaw_session::layout::SessionDir;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::destinations::Destinations;
use crate::provider::{Outgoing, STACK_BYTES, TurnEvent};
use crate::stop::Stop;

/// How a tool presents itself to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// `[a-zA-Z0-9_-]{1,64}`.
    pub name: String,
    pub description: String,
    /// JSON Schema of the input: an object.
    pub schema: Value,
}

/// Whether calls may run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing: runs beside other calls of this kind.
    Reads,
    /// Runs alone, in the order of the calls.
    Changes,
}

/// What a running call works with.
#[derive(Clone)]
pub struct Context {
    /// Ends the call at once, and the processes it has started with it.
    pub stop: Stop,
    /// For what is told or sent in the middle of a call.
    pub events: Sender<TurnEvent>,
    /// Whom the agent may write to.
    pub destinations: Arc<Destinations>,
}

impl Context {
    /// Has something sent to the destination called `to` (`None`: to the session's own chat), and returns the number
    /// of its row.
    fn send(&self, id: String, to: Option<String>, message: Outbound) -> Result<i64, String> {
        let (number, written) = bounded(1);
        // Should nobody listen any more, nobody answers either.
        let _gone = self.events.send(TurnEvent::SendNumbered(Outgoing { id, to, message }, number));
        written.recv().map_err(|_| "It was not sent: this turn is over, or your destinations have changed.".into())
    }
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub parts: Vec<Part>,
    pub outcome: Outcome,
}

/// A piece of what a call came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    /// A picture or a PDF the model is to see; read when a request is made.
    File {
        path: PathBuf,
        media_type: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The text says what is wrong and what would be right: the model reads it.
    Failed,
}

impl Output {
    pub fn text(text: impl Into<String>) -> Output {
        Output { parts: vec![Part::Text(text.into())], outcome: Outcome::Done }
    }

    pub fn failed(why: impl Into<String>) -> Output {
        Output { parts: vec![Part::Text(why.into())], outcome: Outcome::Failed }
    }
}

/// Something a model can call.
pub trait Tool: Send + Sync {
    fn spec(&self) -> Spec;

    fn effect(&self) -> Effect;

    /// Longest time a call with this input takes: the runner declares it as silence.
    fn deadline(&self, input: &Value) -> Duration;

    /// Runs one call. What is wrong with the input is an [`Outcome::Failed`] like any other.
    fn call(&self, input: &Value, context: &Context) -> Output;
}

/// What a call may take beyond what it is meant to: all of it, where it is meant to be over at once.
const SLACK: Duration = Duration::from_secs(10);

/// The tools every agent has. The shell's folder is remembered as long as these values live.
pub fn builtin(dir: &SessionDir) -> Vec<Arc<dyn Tool>> {
    let home = dir.root().join("agent");
    let outputs = dir.state().join("tool-output");
    let mut tools = vec![bash::new(home.clone(), outputs.clone())];
    tools.extend(files::tools(&home));
    tools.extend(search::tools(&home, &outputs));
    tools.push(web_fetch::tool(web_fetch::is_public));
    tools
}

/// Those that are about nanoclaw itself: for every agent, whoever drives it.
pub use own::tools as own;

/// A tool that is one function: its input is read as an `I`, and what goes wrong is a sentence for the model.
struct Builtin<I, F> {
    spec: Spec,
    effect: Effect,
    /// Longest time a call with this input is meant to take.
    longest: fn(&I) -> Duration,
    run: F,
}

/// A [`Builtin`] whose input has these properties and no others.
fn tool<I: DeserializeOwned + 'static>(
    (name, description): (&str, &str),
    (properties, required): (Value, &[&str]),
    effect: Effect,
    longest: fn(&I) -> Duration,
    run: impl Fn(I, &Context) -> Result<Output, String> + Send + Sync + 'static,
) -> Arc<dyn Tool> {
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let spec = Spec { name: name.into(), description: description.into(), schema };
    Arc::new(Builtin { spec, effect, longest, run })
}

impl<I, F> Tool for Builtin<I, F>
where
    I: DeserializeOwned,
    F: Fn(I, &Context) -> Result<Output, String> + Send + Sync,
{
    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn deadline(&self, input: &Value) -> Duration {
        I::deserialize(input).map_or(SLACK, |input| (self.longest)(&input) + SLACK)
    }

    fn call(&self, input: &Value, context: &Context) -> Output {
        let input = I::deserialize(input).map_err(|e| format!("Wrong input: {e}. It must match {}", self.spec.schema));
        input.and_then(|input| (self.run)(input, context)).unwrap_or_else(Output::failed)
    }
}

/// Runs `work` on a thread of its own; what it comes to can be waited for.
fn beside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (sender, receiver) = bounded(1);
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
        // Nobody waits any more.
        let _gone = sender.send(work());
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests;
