//! What differs between model APIs: the body of a request, the events of an answer, what a refusal means.
//! Pure: the loop does the HTTP.

use super::message::{Block, Message};
use crate::provider::{ErrorClass, Usage};
use crate::tools::Spec;

/// One request for a streamed answer.
pub struct Request<'a> {
    pub model: &'a str,
    /// `low`, `medium`, `high` or what else the owner wrote.
    pub effort: Option<&'a str>,
    pub system: &'a str,
    pub messages: &'a [Message],
    pub tools: &'a [Spec],
}

/// A kind of endpoint.
pub trait Api: Send + Sync + 'static {
    /// The provider's name.
    fn name(&self) -> &'static str;

    /// The model when `container.json` names none.
    fn default_model(&self) -> &'static str;

    /// The path below the gateway.
    fn path(&self) -> &'static str;

    /// Headers beside `content-type` and `accept`; `token` stands for the key.
    fn headers(&self, token: &str) -> Vec<(&'static str, String)>;

    /// How much a model takes at once. tokens
    fn window(&self, model: &str) -> u64;

    fn body(&self, request: &Request<'_>) -> Vec<u8>;

    /// Reads one answer.
    fn reader(&self) -> Box<dyn Reader>;

    /// What an answer that is no 200 means.
    fn refusal(&self, status: u16, body: &str) -> Failure;
}

/// Puts an answer together from the events of its stream.
pub trait Reader {
    /// One event: its `data`, and its `event` where the API names them.
    fn event(&mut self, event: &str, data: &str) -> Result<Step, Failure>;

    /// The body has ended, as HTTP wants it to end, without [`Step::Done`]: whether the answer is whole all the same.
    fn end_of_body(&mut self) -> Result<Step, Failure> {
        Ok(Step::More)
    }

    /// What came so far.
    fn answer(&mut self) -> &mut Answer;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    More,
    /// The answer is whole.
    Done,
}

/// What the model said.
#[derive(Debug, Default)]
pub struct Answer {
    pub blocks: Vec<Block>,
    pub end: Option<End>,
    pub usage: Usage,
}

/// Why it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It has said what it wanted to say.
    Turn,
    ToolUse,
    /// The answer reached its longest length; it can be asked to go on.
    MaxTokens,
    /// The conversation fills the model's window.
    WindowFull,
    /// The server wants the same conversation again, with this answer, to go on.
    Pause,
    Refusal,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Worth another try.
    Again { why: String },
    /// Too many requests: another try after what the server asks for.
    Limited { why: String },
    /// The conversation is too long for the model: shorten it.
    TooLong { why: String },
    /// There will be none. The sentence is for the user.
    Final { class: ErrorClass, sentence: String },
}
