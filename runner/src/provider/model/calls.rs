//! The calls of one answer: run in order, those that only read side by side.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::{Ended, Engine, Rank};
use super::history::History;
use super::message::{Block, UNPARSED, head};
use crate::provider::{Prompt, STACK_BYTES, TurnEvent};
use crate::stop::Stopped;
use crate::tools::{Context, Effect, Outcome, Output, Part, Spec, Tool};

/// Most calls at once.
const MAX_SIDE_BY_SIDE: usize = 8;
/// Longest text of one result, and of all results of one answer: a window takes hardly twice as much. bytes
const MAX_RESULT_BYTES: usize = 100_000;
const MAX_RESULTS_BYTES: usize = 300_000;
/// The tool that asks a helper.
const TASK: &str = "task";
const HELPER_NOTE: &str = "You are a helper of this agent, working on one task it gave you. You cannot ask back. Your \
                           final text goes to the agent, not to a person: say what you found or did, and what you could not.";

/// A call as the model made it.
pub struct Call {
    pub id: String,
    pub name: String,
    pub input: Value,
}

impl Call {
    pub fn of(block: &Block) -> Option<Call> {
        match block {
            Block::ToolUse { id, name, input } => {
                Some(Call { id: id.clone(), name: name.clone(), input: input.clone() })
            }
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    prompt: String,
}

/// What [`TASK`] looks like.
pub fn task_spec() -> Spec {
    Spec {
        name: TASK.into(),
        description: "Gives a task to a helper with tools and a mind of its own, which knows nothing of this \
                      conversation, and returns its report. Good for long searches whose details you do not need, and \
                      for independent pieces of work: several calls in one answer run side by side."
            .into(),
        schema: json!({
            "type": "object",
            "properties": {"prompt": {"type": "string", "description": "Everything the helper must know."}},
            "required": ["prompt"],
            "additionalProperties": false,
        }),
    }
}

/// Runs all of them; the results, in order.
pub fn run(engine: &Engine, calls: &[Call]) -> Result<Vec<Block>, Stopped> {
    let mut results = Vec::new();
    let mut rest = calls;
    while !rest.is_empty() {
        let readers = rest.iter().take_while(|call| engine.effect(call) == Effect::Reads).count();
        let (group, after) = rest.split_at(readers.clamp(1, MAX_SIDE_BY_SIDE));
        let names: Vec<&str> = group.iter().map(|call| call.name.as_str()).collect();
        let deadline = group.iter().filter_map(|call| engine.deadline(call)).max();
        engine.emit(TurnEvent::ToolStarted { name: names.join(", "), deadline })?;
        let outputs = match group {
            [one] => vec![engine.call(one)],
            _ => side_by_side(engine, group),
        };
        engine.emit(TurnEvent::ToolEnded)?;
        let max_bytes = MAX_RESULT_BYTES.min(MAX_RESULTS_BYTES / calls.len());
        results.extend(group.iter().zip(outputs).map(|(call, output)| result(call, output, max_bytes)));
        rest = after;
    }
    Ok(results)
}

fn side_by_side(engine: &Engine, calls: &[Call]) -> Vec<Output> {
    thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|call| {
                let builder = thread::Builder::new().name("tool".into()).stack_size(STACK_BYTES);
                builder.spawn_scoped(scope, move || engine.call(call))
            })
            .collect();
        let output = |thread: std::io::Result<thread::ScopedJoinHandle<'_, Output>>| match thread.map(|t| t.join()) {
            Ok(Ok(output)) => output,
            Ok(Err(_)) => Output::failed("The tool broke down."),
            Err(e) => Output::failed(format!("The tool could not be started: {e}")),
        };
        threads.into_iter().map(output).collect()
    })
}

impl Engine {
    /// The tool of a call; the loop's own are none of these.
    fn tool(&self, call: &Call) -> Option<&Arc<dyn Tool>> {
        self.tools.get(self.specs.iter().position(|spec| spec.name == call.name)?)
    }

    fn effect(&self, call: &Call) -> Effect {
        // Helpers are asked to do independent things.
        self.tool(call).map_or(Effect::Reads, |tool| tool.effect())
    }

    fn deadline(&self, call: &Call) -> Option<Duration> {
        self.tool(call).map(|tool| tool.deadline(&call.input))
    }

    fn call(&self, call: &Call) -> Output {
        if let Some(written) = call.input.get(UNPARSED) {
            return Output::failed(format!("The arguments are no JSON object. You wrote: {written}"));
        }
        if call.name == TASK && self.rank == Rank::Agent {
            return self.help(&call.input);
        }
        match self.tool(call) {
            Some(tool) => tool.call(&call.input, &self.context()),
            None => {
                let names: Vec<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
                Output::failed(format!("There is no tool {:?}. There are: {}.", call.name, names.join(", ")))
            }
        }
    }

    fn context(&self) -> Context {
        let (stop, events) = (self.stop.clone(), self.events.clone());
        Context { stop, events, destinations: self.destinations.get() }
    }

    /// Works on a task as a helper, in a conversation of its own.
    fn help(&self, input: &Value) -> Output {
        let Task { prompt } = match Task::deserialize(input) {
            Ok(task) => task,
            Err(e) => return Output::failed(format!("{TASK}: {e}.")),
        };
        let helper = Engine {
            rank: Rank::Helper,
            system: format!("{}\n\n{HELPER_NOTE}", self.system),
            specs: self.specs.iter().filter(|spec| spec.name != TASK).cloned().collect(),
            ..self.clone()
        };
        let mut history = History::unkept();
        let worked = history
            .begin(&Prompt { text: prompt, ..Prompt::default() })
            .map_err(Ended::from)
            .and_then(|()| helper.converse(&mut history, None));
        match worked {
            Ok(texts) => Output::text(texts.join("\n\n")),
            Err(Ended::Failed(error)) => Output::failed(format!("The helper failed: {}", error.sentence)),
            Err(Ended::Stopped) => Output::failed("The helper was stopped."),
        }
    }
}

fn result(call: &Call, output: Output, max_bytes: usize) -> Block {
    let mut content: Vec<Block> = output.parts.into_iter().map(|part| block(part, max_bytes)).collect();
    content.retain(|block| !matches!(block, Block::Text { text } if text.trim().is_empty()));
    if content.is_empty() {
        content.push(Block::Text { text: "(no output)".into() });
    }
    Block::ToolResult { tool_use_id: call.id.clone(), content, is_error: output.outcome == Outcome::Failed }
}

fn block(part: Part, max_bytes: usize) -> Block {
    match part {
        Part::File { path, media_type } => Block::File { path, media_type },
        Part::Text(mut text) => {
            if text.len() > max_bytes {
                text.truncate(head(&text, max_bytes).len());
                text.push_str("\n[cut here]");
            }
            Block::Text { text }
        }
    }
}
