//! What the chunks of a streamed answer add up to. Pure.
//!
//! Deviations that are known of and taken as they are: calls without an id, or with one twice; without an index, or all
//! with index 0; a name that is empty or repeated in later pieces; arguments in one piece, as an object, as JSON within
//! JSON; `content` null; no usage, or in a chunk without choices; a `finish_reason` that does not speak
//! of the calls; no `[DONE]`; an error among the chunks.

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::refusal;
use super::{NAME, THOUGHT_DETAILS, THOUGHT_TEXT};
use crate::id;
use crate::provider::Usage;
use crate::provider::model::api::{Answer, End, Failure, Reader, Step};
use crate::provider::model::message::{Block, UNPARSED};

/// What OpenAI takes back as a name. characters
const MAX_NAME_CHARS: usize = 64;

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    /// Thoughts and calls are in it at the end only.
    answer: Answer,
    thought: Map<String, Value>,
    calls: Vec<Call>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Reader for Stream {
    fn event(&mut self, _: &str, data: &str) -> Result<Step, Failure> {
        if data.trim() == "[DONE]" {
            return self.close();
        }
        let chunk: Value = serde_json::from_str(data)
            .map_err(|e| Failure::Again { why: format!("a piece of the answer is no JSON: {e}") })?;
        let choice = &chunk["choices"][0];
        if let Some(failed) = [&chunk, choice].into_iter().find(|part| !part["error"].is_null()) {
            return Err(refusal::in_stream(failed));
        }
        if let Some(usage) = usage(&chunk["usage"]) {
            self.answer.usage = usage;
        }
        let delta = &choice["delta"];
        for text in [&delta["content"], &delta["refusal"]].into_iter().filter_map(Value::as_str) {
            self.say(text);
        }
        if let Some(text) = delta[THOUGHT_TEXT].as_str() {
            append(self.thought.entry(THOUGHT_TEXT).or_insert(Value::Null), text);
        }
        for detail in list(&delta[THOUGHT_DETAILS]).iter().filter_map(Value::as_object) {
            self.detail(detail);
        }
        for piece in list(&delta["tool_calls"]) {
            self.call(&piece["index"], &piece["id"], &piece["function"]);
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|r| !r.is_empty()) {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(Step::More)
    }

    fn answer(&mut self) -> &mut Answer {
        &mut self.answer
    }

    fn end_of_body(&mut self) -> Result<Step, Failure> {
        if self.finish_reason.is_some() { self.close() } else { Ok(Step::More) }
    }
}

impl Stream {
    fn say(&mut self, piece: &str) {
        match self.answer.blocks.last_mut() {
            Some(Block::Text { text }) => text.push_str(piece),
            _ if piece.is_empty() => {}
            _ => self.answer.blocks.push(Block::Text { text: piece.to_owned() }),
        }
    }

    /// Adds a piece of thought: those of one kind and index are one, as they have to be when they go back.
    fn detail(&mut self, piece: &Map<String, Value>) {
        let Value::Array(details) = self.thought.entry(THOUGHT_DETAILS).or_insert_with(|| json!([])) else { return };
        let known = details.last_mut().and_then(Value::as_object_mut);
        let same =
            |known: &&mut Map<String, Value>| ["type", "index"].iter().all(|key| known.get(*key) == piece.get(*key));
        let Some(known) = known.filter(same) else { return details.push(piece.clone().into()) };
        for (field, value) in piece.iter().filter(|(_, value)| !value.is_null()) {
            match value.as_str() {
                Some(text) if ["text", "summary", "data"].contains(&field.as_str()) => {
                    append(known.entry(field).or_insert(Value::Null), text);
                }
                _ => drop(known.insert(field.clone(), value.clone())),
            }
        }
    }

    /// Adds a piece of a call to the one it belongs to.
    fn call(&mut self, index: &Value, id: &Value, function: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (index, id, name) = (index.as_u64(), text(id), text(&function["name"]));
        let arguments = match &function["arguments"] {
            object @ Value::Object(_) => object.to_string(),
            other => text(other),
        };
        let goes_on = |call: &&mut Call| {
            let same = |new: &str, known: &str| new.is_empty() || known.is_empty() || new == known;
            let adds_nothing = name.is_empty() || arguments.trim().is_empty();
            same(&id, &call.id)
                && same(&name, &call.name)
                && (adds_nothing || serde_json::from_str::<IgnoredAny>(&call.arguments).is_err())
        };
        let latest = self.calls.iter_mut().rev().find(|call| index.is_none() || call.index == index);
        let Some(call) = latest.filter(goes_on) else {
            return self.calls.push(Call { index, id, name, arguments });
        };
        call.arguments.push_str(&arguments);
        for (known, new) in [(&mut call.id, id), (&mut call.name, name)] {
            if known.is_empty() {
                *known = new;
            }
        }
    }

    /// The stream has ended well.
    fn close(&mut self) -> Result<Step, Failure> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain(|call| !call.name.is_empty() || !call.arguments.is_empty());
        let blocks = &mut self.answer.blocks;
        let nothing = blocks.is_empty() && calls.is_empty();
        self.answer.end = Some(match self.finish_reason.as_deref() {
            None if nothing => return Err(Failure::Again { why: "the answer is empty".into() }),
            Some("error") => return Err(Failure::Again { why: "the answer broke off".into() }),
            Some("content_filter") => End::Refusal,
            _ if !calls.is_empty() => End::ToolUse,
            // There was no room for even one word.
            Some("length") if nothing => End::WindowFull,
            Some("length") => End::MaxTokens,
            _ => End::Turn,
        });
        if self.answer.end == Some(End::Refusal) {
            return Ok(Step::Done);
        }
        if !self.thought.is_empty() {
            blocks.insert(0, Block::Opaque { api: NAME.into(), block: std::mem::take(&mut self.thought).into() });
        }
        let mut ids = Vec::new();
        for call in calls {
            let id = if call.id.is_empty() || ids.contains(&call.id) { id::random() } else { call.id };
            ids.push(id.clone());
            blocks.push(Block::ToolUse { id, name: sent_back(&call.name), input: input(&call.arguments) });
        }
        Ok(Step::Done)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn append(value: &mut Value, piece: &str) {
    match value {
        Value::String(text) => text.push_str(piece),
        other => *other = piece.into(),
    }
}

/// A name that endpoints take back, whatever the model has made up.
fn sent_back(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    if name.is_empty() { "unnamed".into() } else { name.chars().take(MAX_NAME_CHARS).map(allowed).collect() }
}

fn input(arguments: &str) -> Value {
    let read = |text: &str| serde_json::from_str(text).unwrap_or(Value::Bool(false));
    match read(arguments) {
        _ if ["", "null"].contains(&arguments.trim()) => json!({}),
        object @ Value::Object(_) => object,
        Value::String(inner) if read(&inner).is_object() => read(&inner),
        _ => json!({UNPARSED: arguments}),
    }
}

/// All tokens so far; what came from the cache is told under more than one name.
fn usage(usage: &Value) -> Option<Usage> {
    let prompt = usage["prompt_tokens"].as_u64()?;
    let cached = [&usage["prompt_tokens_details"]["cached_tokens"], &usage["prompt_cache_hit_tokens"]];
    let cache_read = cached.into_iter().find_map(Value::as_u64).unwrap_or(0);
    let output = usage["completion_tokens"].as_u64().unwrap_or(0);
    Some(Usage { input: prompt.saturating_sub(cache_read), output, cache_read, cache_write: 0 })
}

#[cfg(test)]
mod tests;
