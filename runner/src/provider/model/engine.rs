//! The loop: ask, run the tools that were asked for, ask again, until the model has nothing more to do.

use std::path::PathBuf;
use std::sync::Arc;

use super::api::{Answer, Api, End};
use super::ask::Unanswered;
use super::calls::{self, Call};
use super::compact;
use super::history::History;
use super::message::{Block, Role};
use crate::destinations::Current;
use crate::gateway::Gateway;
use crate::provider::{ErrorClass, TurnError, TurnEvent, TurnPort};
use crate::stop::{Stop, Stopped};
use crate::tools::{Spec, Tool};
use crossbeam_channel::Sender;

/// Answers in one turn; a model that runs in circles ends here.
const MAX_ANSWERS: u32 = 300;
/// How often in a row an answer that reached its longest length is asked to go on.
const MAX_CONTINUATIONS: u32 = 5;

/// How often a conversation is shortened for one answer: what is kept word for word may still be too long.
const MAX_SHORTENED: u32 = 2;

/// What stands in the history for a reply that was cut short by the user.
const STOPPED_NOTE: &str = "[The user stopped this reply.]";
/// What the user reads below a reply that the model could not end.
const CUT_OFF_NOTE: &str = "[The answer was cut off here: it reached the model's limit.]";
/// What the user reads when a turn does not come to an end.
const ENDLESS_NOTE: &str = "[I stopped here: this went on for too long. Tell me to go on if I should.]";
const GO_ON: &str = "[Your answer reached its longest length. Go on exactly where it stopped.]";

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// The agent itself.
    Agent,
    /// A helper of its, which has none of its own.
    Helper,
}

/// All that a turn needs but its conversation.
#[derive(Clone)]
pub struct Engine {
    pub api: Arc<dyn Api>,
    pub gateway: Gateway,
    pub client: ureq::Agent,
    pub model: String,
    pub effort: Option<String>,
    pub system: String,
    pub tools: Vec<Arc<dyn Tool>>,
    /// Of `tools`, in their order, and then of what the loop itself offers.
    pub specs: Vec<Spec>,
    pub stop: Stop,
    pub events: Sender<TurnEvent>,
    pub destinations: Current,
    pub rank: Rank,
    /// Where conversations lie.
    pub folder: PathBuf,
    /// Where the owner finds conversations that were shortened.
    pub archive: PathBuf,
    /// Where the agent's list of things to do lies.
    pub todo: PathBuf,
}

/// Why a turn has no result.
#[derive(Debug)]
pub enum Ended {
    Stopped,
    Failed(TurnError),
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Ended {
        Ended::Stopped
    }
}

impl From<TurnError> for Ended {
    fn from(error: TurnError) -> Ended {
        Ended::Failed(error)
    }
}

impl From<std::io::Error> for Ended {
    fn from(e: std::io::Error) -> Ended {
        error(ErrorClass::Transient, format!("I could not store our conversation: {e}.")).into()
    }
}

pub fn error(class: ErrorClass, sentence: impl Into<String>) -> TurnError {
    TurnError { class, sentence: sentence.into() }
}

impl Engine {
    pub fn emit(&self, event: TurnEvent) -> Result<(), Stopped> {
        self.stop.check()?;
        self.events.send(event).map_err(|_| Stopped)
    }

    /// Works until nothing is left to do; the texts of the answers. `port` brings follow-ups.
    pub fn converse(&self, history: &mut History, mut port: Option<&mut TurnPort>) -> Result<Vec<String>, Ended> {
        let (mut texts, mut text, mut cut_off) = (Vec::new(), String::new(), 0);
        for _ in 0..MAX_ANSWERS {
            let Answer { mut blocks, end, .. } = self.answer(history)?;
            if end == Some(End::MaxTokens) {
                // A call that is not whole is none.
                blocks.retain(|block| !matches!(block, Block::ToolUse { .. }));
            }
            text.push_str(&text_of(&blocks));
            let calls: Vec<Call> = blocks.iter().filter_map(Call::of).collect();
            history.push(Role::Assistant, blocks)?;
            match end {
                Some(End::Refusal) => {
                    return Err(error(ErrorClass::Refused, "The model declined to answer that.").into());
                }
                _ if !calls.is_empty() => {
                    // What is said on the way is not the answer.
                    (text, cut_off) = (String::new(), 0);
                    let results = calls::run(self, &calls)?;
                    history.push(Role::User, results)?;
                    follow_up(history, &mut port)?;
                }
                Some(End::Pause) => {}
                Some(End::MaxTokens) if cut_off < MAX_CONTINUATIONS => {
                    cut_off += 1;
                    history.push(Role::User, vec![Block::Text { text: GO_ON.into() }])?;
                }
                _ => {
                    let note = match end {
                        Some(End::MaxTokens | End::WindowFull) => format!("\n\n{CUT_OFF_NOTE}"),
                        _ => String::new(),
                    };
                    texts.push(std::mem::take(&mut text) + &note);
                    if follow_up(history, &mut port)? == 0 {
                        return Ok(texts);
                    }
                }
            }
        }
        history.push(Role::Assistant, vec![Block::Text { text: ENDLESS_NOTE.into() }])?;
        texts.push(ENDLESS_NOTE.into());
        Ok(texts)
    }

    /// The model's next answer; a conversation that does not fit is shortened first.
    fn answer(&self, history: &mut History) -> Result<Answer, Ended> {
        if compact::is_due(history, self) {
            self.compact(history)?;
        }
        let mut shortened = 0;
        loop {
            let (mut said, messages) = (Answer::default(), history.messages());
            let begun = || match history.announce() {
                true => self.emit(TurnEvent::Init { continuation: history.name().to_owned() }),
                false => Ok(()),
            };
            match self.ask(messages, &self.specs, &mut said, begun) {
                Ok(()) if said.end == Some(End::WindowFull) && shortened < MAX_SHORTENED => {
                    shortened += 1;
                    self.compact(history)?;
                }
                Ok(()) => {
                    history.measured(said.usage);
                    return Ok(said);
                }
                Err(Unanswered::TooLong(why)) if shortened == MAX_SHORTENED => {
                    let sentence = format!("This is too much for the model at once: {why}");
                    return Err(error(ErrorClass::InvalidRequest, sentence).into());
                }
                Err(Unanswered::TooLong(_)) => {
                    shortened += 1;
                    self.compact(history)?;
                }
                Err(Unanswered::Invalid(sentence)) => {
                    let class =
                        if history.has_past() { ErrorClass::StaleContinuation } else { ErrorClass::InvalidRequest };
                    return Err(error(class, sentence).into());
                }
                Err(Unanswered::Ended(Ended::Stopped)) => {
                    let half = format!("{}\n\n{STOPPED_NOTE}", text_of(&said.blocks));
                    history.push(Role::Assistant, vec![Block::Text { text: half.trim().into() }])?;
                    history.sync()?;
                    return Err(Ended::Stopped);
                }
                Err(Unanswered::Ended(ended)) => return Err(ended),
            }
        }
    }

    /// Writes down that the user stopped a turn in the middle of its tools.
    pub fn stopped(history: &mut History) -> std::io::Result<()> {
        let in_tools = matches!(history.lines().next_back(), Some((Role::Assistant, blocks))
            if blocks.iter().any(|b| matches!(b, Block::ToolUse { .. })));
        if in_tools || matches!(history.lines().next_back(), Some((Role::User, _))) {
            history.close_calls("The user stopped this.")?;
            history.push(Role::Assistant, vec![Block::Text { text: STOPPED_NOTE.into() }])?;
        }
        history.sync()
    }
}

/// Takes in what the user said meanwhile; how many messages.
fn follow_up(history: &mut History, port: &mut Option<&mut TurnPort>) -> Result<usize, Ended> {
    let Some(port) = port else { return Ok(0) };
    let prompts = port.take_follow_ups()?;
    for prompt in &prompts {
        history.follow_up(prompt)?;
    }
    Ok(prompts.len())
}

pub fn text_of(blocks: &[Block]) -> String {
    let texts = blocks.iter().filter_map(|block| match block {
        Block::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}
