//! The body of a request.

use serde_json::{Value, json};

use super::{NAME, THOUGHT_DETAILS, THOUGHT_TEXT};
use crate::provider::model::api::Request;
use crate::provider::model::media;
use crate::provider::model::message::{Block, Message, Role};
use crate::tools::Spec;

/// The request for one streamed answer.
pub fn body(request: &Request<'_>) -> Vec<u8> {
    let system = (!request.system.is_empty()).then(|| message("system", request.system.into()));
    let turns = request.messages.iter().flat_map(|message| match message.role {
        Role::Assistant => said(message).into_iter().collect(),
        Role::User => asked(message),
    });
    let mut body = json!({"model": request.model, "stream": true, "stream_options": {"include_usage": true}});
    body["messages"] = system.into_iter().chain(turns).collect();
    let no_thought = !request.tools.is_empty() && thinks_without_tools(request.model);
    if let Some(effort) = if no_thought { Some("none") } else { request.effort } {
        body["reasoning_effort"] = effort.into();
    }
    // OpenAI refuses an empty list.
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    body.to_string().into_bytes()
}

/// Whether a model calls no tools here unless it is told not to think: OpenAI's since 5.4, which do both in another API
/// only. By the bare name, for OpenRouter (`openai/gpt-5.4`) does what it takes itself.
fn thinks_without_tools(model: &str) -> bool {
    let version = model.strip_prefix("gpt-").and_then(|rest| rest.split('-').next()).unwrap_or_default();
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    matches!((major.parse::<u32>(), minor.parse::<u32>()), (Ok(major), Ok(minor)) if (major, minor) >= (5, 4))
}

/// Takes the content as it is: `json!` would copy it, pictures and all.
fn message(role: &str, content: Value) -> Value {
    let mut message = json!({"role": role});
    message["content"] = content;
    message
}

fn tool(spec: &Spec) -> Value {
    let mut parameters = spec.schema.clone();
    // OpenAI refuses an object without them; MCP servers often leave them out.
    if let Value::Object(schema) = &mut parameters {
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    let function = json!({"name": spec.name, "description": spec.description, "parameters": parameters});
    json!({"type": "function", "function": function})
}

fn said(answer: &Message) -> Option<Value> {
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    let mut message = json!({"role": "assistant"});
    for block in &answer.content {
        match block {
            Block::Text { text } => texts.push(text.as_str()),
            Block::ToolUse { id, name, input } => {
                let function = json!({"name": name, "arguments": input.to_string()});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Block::Opaque { api, block } if api == NAME => {
                for field in [THOUGHT_TEXT, THOUGHT_DETAILS] {
                    if let Some(thought) = block.get(field) {
                        message[field] = thought.clone();
                    }
                }
            }
            Block::Opaque { .. } | Block::File { .. } | Block::ToolResult { .. } => {}
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return None; // It would be refused.
    }
    // Never null: some servers' templates stumble over it.
    message["content"] = texts.join("\n\n").into();
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Some(message)
}

/// Each result of a tool in a message of its own; then the pictures the tools have shown, and what the user says.
fn asked(prompt: &Message) -> Vec<Value> {
    let (mut messages, mut parts) = (Vec::new(), Vec::new());
    for block in &prompt.content {
        let Block::ToolResult { tool_use_id, content, is_error } = block else {
            parts.extend(part(block));
            continue;
        };
        let (shown, mut told): (Vec<Value>, Vec<Value>) =
            content.iter().filter_map(part).partition(|part| part["type"] == "image_url");
        if !shown.is_empty() {
            told.push(text_part("[The picture is in the next message of the user.]"));
            parts.push(text_part(&format!("[From the tool call {tool_use_id}:]")));
            parts.extend(shown);
        }
        let mark = if *is_error { "Error:\n" } else { "" };
        let mut message = message("tool", format!("{mark}{}", joined(&told, "\n")).into());
        message["tool_call_id"] = tool_use_id.as_str().into();
        messages.push(message);
    }
    // Servers without eyes often take nothing but a plain text.
    if parts.iter().any(|part| part["type"] == "image_url") {
        messages.push(message("user", parts.into()));
    } else if !parts.is_empty() {
        messages.push(message("user", joined(&parts, "\n\n").into()));
    }
    messages
}

/// What a text or a file is to the model. Many endpoints take no PDF; a note tells the model what to do about it.
fn part(block: &Block) -> Option<Value> {
    match block {
        Block::Text { text } => Some(text_part(text)),
        Block::File { path, media_type } if media_type.starts_with("image/") => Some(match media::base64(path) {
            Some(data) => {
                let mut part = json!({"type": "image_url"});
                part["image_url"]["url"] = format!("data:{media_type};base64,{data}").into();
                part
            }
            None => text_part(&format!("[{}: no longer there]", path.display())),
        }),
        Block::File { path, media_type } => {
            Some(text_part(&format!("[A file ({media_type}) is at {}; read it with your tools.]", path.display())))
        }
        Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => None,
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn joined(parts: &[Value], between: &str) -> String {
    parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests;
