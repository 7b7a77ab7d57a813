//! What the chunks of a streamed answer add up to. Pure.
//!
//! Deviations that are known of and taken as they are: calls without an id, or with one twice; without an index, or all
//! with index 0; a name that is empty or repeated in later pieces; arguments in one piece, as an object, as JSON within
//! JSON; `function_call`; `content` null, or a list of parts; no usage, or in a chunk without choices; a `finish_reason` that does not
//! speak of the calls; no `[DONE]`; an error among the chunks.

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::refusal;
use super::{NAME, THOUGHT_DETAILS, THOUGHT_TEXT, UNPARSED};
use crate::id;
use crate::provider::Usage;
use crate::provider::model::api::{Answer, End, Failure, Reader, Step};
use crate::provider::model::message::Block;

/// What OpenAI takes back as a name. characters
const MAX_NAME_CHARS: usize = 64;

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    /// Calls are in it at the end only.
    answer: Answer,
    calls: Vec<Call>,
    thought: String,
    details: Vec<Value>,
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
            let nothing = self.finish_reason.is_none() && self.answer.blocks.is_empty() && self.calls.is_empty();
            return if nothing { Err(broken_off()) } else { self.close() };
        }
        let chunk: Value = serde_json::from_str(data)
            .map_err(|e| Failure::Again { why: format!("a piece of the answer is no JSON: {e}") })?;
        let choice = &chunk["choices"][0];
        for holder in [&chunk, choice] {
            if !holder["error"].is_null() {
                return Err(refusal::in_stream(holder));
            }
        }
        if let Some(usage) = usage(&chunk["usage"]) {
            self.answer.usage = usage;
        }
        let delta = &choice["delta"];
        self.say(&delta["content"]);
        self.say(&delta["refusal"]);
        self.thought.push_str(delta[THOUGHT_TEXT].as_str().unwrap_or_default());
        for detail in delta[THOUGHT_DETAILS].as_array().into_iter().flatten() {
            self.detail(detail);
        }
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(piece);
        }
        if delta["function_call"].is_object() {
            self.call(&json!({"function": delta["function_call"]}));
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
    fn say(&mut self, content: &Value) {
        let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
        let texts = parts.iter().filter(|p| p["type"] == "text").filter_map(|p| p["text"].as_str());
        for piece in content.as_str().into_iter().chain(texts).filter(|t| !t.is_empty()) {
            match self.answer.blocks.last_mut() {
                Some(Block::Text { text }) => text.push_str(piece),
                _ => self.answer.blocks.push(Block::Text { text: piece.to_owned() }),
            }
        }
    }

    /// Adds a piece of thought: pieces of one kind and index are one, as they have to be when they go back.
    fn detail(&mut self, piece: &Value) {
        let same = |last: &&mut Value| last["type"] == piece["type"] && last["index"] == piece["index"];
        let (Some(Value::Object(last)), Value::Object(fields)) = (self.details.last_mut().filter(same), piece) else {
            return self.details.push(piece.clone());
        };
        for (field, value) in fields {
            match (last.get_mut(field), value) {
                (_, Value::Null) => {}
                (Some(Value::String(text)), Value::String(more)) if ["text", "summary", "data"].contains(&&**field) => {
                    text.push_str(more);
                }
                _ => {
                    last.insert(field.clone(), value.clone());
                }
            }
        }
    }

    fn call(&mut self, piece: &Value) {
        let (index, function) = (piece["index"].as_u64(), &piece["function"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, name) = (text(&piece["id"]), text(&function["name"]));
        let arguments = match &function["arguments"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let begun = self.calls.iter_mut().rev().find(|c| index.is_none() || c.index == index);
        let goes_on = |call: &&mut Call| {
            let other_id = !id.is_empty() && !call.id.is_empty() && id != call.id;
            let has_all = || !name.is_empty() && !arguments.trim().is_empty() && is_json(&call.arguments);
            !other_id && !has_all()
        };
        match begun.filter(goes_on) {
            None => self.calls.push(Call { index, id, name, arguments }),
            Some(call) => {
                call.arguments.push_str(&arguments);
                for (known, new) in [(&mut call.id, id), (&mut call.name, name)] {
                    if known.is_empty() {
                        *known = new;
                    }
                }
            }
        }
    }

    /// The answer is whole.
    fn close(&mut self) -> Result<Step, Failure> {
        let reason = self.finish_reason.as_deref().unwrap_or("stop");
        if reason == "error" {
            return Err(broken_off());
        }
        self.calls.retain(|call| !call.name.is_empty() || !call.arguments.is_empty());
        let blocks = &mut self.answer.blocks;
        self.answer.end = Some(match reason {
            "content_filter" => End::Refusal,
            _ if !self.calls.is_empty() => End::ToolUse,
            // It had no room for even one word.
            "length" if blocks.is_empty() => End::WindowFull,
            "length" => End::MaxTokens,
            _ => End::Turn,
        });
        if reason == "content_filter" {
            return Ok(Step::Done);
        }
        let mut thought = Map::new();
        if !self.thought.is_empty() {
            thought.insert(THOUGHT_TEXT.into(), std::mem::take(&mut self.thought).into());
        }
        if !self.details.is_empty() {
            thought.insert(THOUGHT_DETAILS.into(), std::mem::take(&mut self.details).into());
        }
        if !thought.is_empty() {
            blocks.insert(0, Block::Opaque { api: NAME.into(), block: thought.into() });
        }
        let mut ids = Vec::new();
        for call in std::mem::take(&mut self.calls) {
            let id = if call.id.is_empty() || ids.contains(&call.id) { id::random() } else { call.id };
            ids.push(id.clone());
            blocks.push(Block::ToolUse { id, name: sent_back(&call.name), input: input(&call.arguments) });
        }
        Ok(Step::Done)
    }
}

fn broken_off() -> Failure {
    Failure::Again { why: "the answer broke off".into() }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A name that endpoints take back, whatever the model has made up.
fn sent_back(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    if name.is_empty() { "unnamed".into() } else { name.chars().take(MAX_NAME_CHARS).map(allowed).collect() }
}

fn input(arguments: &str) -> Value {
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    let value = match serde_json::from_str(text) {
        Ok(Value::String(inner)) => serde_json::from_str(&inner).unwrap_or_default(),
        Ok(Value::Null) => json!({}),
        other => other.unwrap_or_default(),
    };
    if value.is_object() { value } else { json!({UNPARSED: arguments}) }
}

/// Everything so far; the cache's name differs.
fn usage(usage: &Value) -> Option<Usage> {
    let prompt = usage["prompt_tokens"].as_u64()?;
    let cached = [&usage["prompt_tokens_details"]["cached_tokens"], &usage["prompt_cache_hit_tokens"]];
    let cache_read = cached.into_iter().find_map(Value::as_u64).unwrap_or(0);
    let output = usage["completion_tokens"].as_u64().unwrap_or(0);
    Some(Usage { input: prompt.saturating_sub(cache_read), output, cache_read, cache_write: 0 })
}

#[cfg(test)]
mod tests;
