//! What an agent can do besides talking. A tool is one struct behind [`Tool`]; which model calls it,
//! and over which wire, it does not know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use nanoclaw_session::layout::SessionDir;
use serde_json::Value;

use crate::provider::TurnEvent;
use crate::stop::Stop;

/// What every agent of our own loop has.
pub fn builtin(_dir: &SessionDir) -> Vec<Arc<dyn Tool>> {
    Vec::new()
}

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
pub struct Context {
    /// Ends the call at once, and the processes it has started with it.
    pub stop: Stop,
    /// For what is told or sent in the middle of a call.
    pub events: Sender<TurnEvent>,
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
