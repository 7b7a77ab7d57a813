//! The body of a request. Files are read here; else pure.
//!
//! It is written straight from the conversation, and base64 straight from a picture: no copy in between.

use std::fs;
use std::path::Path;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{NAME, THOUGHT_DETAILS, THOUGHT_TEXT};
use crate::provider::model::api::Request;
use crate::provider::model::message::{Block, Message, Role};
use crate::tools::Spec;

/// Most bytes of pictures in one request, the latest first. With their base64 this stays well within the runner's memory.
const MAX_PICTURE_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    stream_options: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    messages: Vec<Wire<'a>>,
    /// OpenAI refuses an empty list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Wire<'a> {
    System {
        content: &'a str,
    },
    User {
        content: Content<'a>,
    },
    Assistant {
        /// Never null: some servers' templates stumble over it.
        content: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Value>,
        #[serde(flatten)]
        thought: Map<String, Value>,
    },
    Tool {
        tool_call_id: &'a str,
        content: String,
    },
}

/// Servers without eyes often take a plain text only.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: String },
    ImageUrl { image_url: Picture<'a> },
}

#[derive(Serialize)]
struct Picture<'a> {
    url: DataUrl<'a>,
}

struct DataUrl<'a> {
    media_type: &'a str,
    bytes: Vec<u8>,
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let base64 = Base64Display::new(&self.bytes, &STANDARD);
        serializer.collect_str(&format_args!("data:{};base64,{base64}", self.media_type))
    }
}

/// The request for one streamed answer.
pub fn body(request: &Request<'_>) -> Vec<u8> {
    let mut room = MAX_PICTURE_BYTES;
    // Backwards, so that it is old pictures that there is no room for.
    let mut messages: Vec<Wire<'_>> = Vec::new();
    for message in request.messages.iter().rev() {
        let wire = match message.role {
            Role::Assistant => said(message),
            Role::User => asked(message, &mut room),
        };
        messages.extend(wire.into_iter().rev());
    }
    if !request.system.is_empty() {
        messages.push(Wire::System { content: request.system });
    }
    messages.reverse();
    let body = Body {
        model: request.model,
        stream: true,
        stream_options: json!({"include_usage": true}),
        reasoning_effort: request.effort,
        messages,
        tools: request.tools.iter().map(tool).collect(),
    };
    serde_json::to_vec(&body).expect("texts and numbers, under keys that are texts")
}

fn tool(spec: &Spec) -> Value {
    let mut parameters = spec.schema.clone();
    // OpenAI refuses an object without them; servers of tools often leave them out.
    if let Value::Object(schema) = &mut parameters {
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    let function = json!({"name": spec.name, "description": spec.description, "parameters": parameters});
    json!({"type": "function", "function": function})
}

fn said(message: &Message) -> Vec<Wire<'_>> {
    let (mut texts, mut tool_calls, mut thought) = (Vec::new(), Vec::new(), Map::new());
    for block in &message.content {
        match block {
            Block::Text { text } => texts.push(text.as_str()),
            Block::ToolUse { id, name, input } => {
                let function = json!({"name": name, "arguments": input.to_string()});
                tool_calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Block::Opaque { api, block: Value::Object(fields) } if api == NAME => {
                let ours = fields.iter().filter(|(field, _)| [THOUGHT_TEXT, THOUGHT_DETAILS].contains(&field.as_str()));
                thought.extend(ours.map(|(field, value)| (field.clone(), value.clone())));
            }
            Block::Opaque { .. } | Block::File { .. } | Block::ToolResult { .. } => {}
        }
    }
    let content = texts.join("\n\n");
    // An answer of which nothing is left would be refused.
    let empty = content.is_empty() && tool_calls.is_empty();
    if empty { Vec::new() } else { vec![Wire::Assistant { content, tool_calls, thought }] }
}

/// The results of tools, each in its message; then the rest, and the pictures the tools have shown.
fn asked<'a>(message: &'a Message, room: &mut u64) -> Vec<Wire<'a>> {
    let (mut wire, mut parts) = (Vec::new(), Vec::new());
    for block in &message.content {
        match block {
            Block::ToolResult { tool_use_id, content, is_error } => {
                let mut texts = if *is_error { vec!["Error:".to_owned()] } else { Vec::new() };
                for part in content.iter().filter_map(|block| part(block, room)) {
                    match part {
                        Part::Text { text } => texts.push(text),
                        picture @ Part::ImageUrl { .. } => {
                            texts.push("[The picture is in the next message of the user.]".into());
                            parts.push(Part::Text { text: format!("[A picture from the tool call {tool_use_id}:]") });
                            parts.push(picture);
                        }
                    }
                }
                if texts.iter().all(String::is_empty) {
                    texts.push("[no output]".into());
                }
                wire.push(Wire::Tool { tool_call_id: tool_use_id, content: texts.join("\n") });
            }
            other => parts.extend(part(other, room)),
        }
    }
    let texts: Vec<&str> =
        parts.iter().filter_map(|p| if let Part::Text { text } = p { Some(&**text) } else { None }).collect();
    if texts.len() < parts.len() {
        wire.push(Wire::User { content: Content::Parts(parts) });
    } else if !texts.is_empty() {
        wire.push(Wire::User { content: Content::Text(texts.join("\n\n")) });
    }
    wire
}

/// What a text or a file is to the model. Many endpoints take no PDF, and a text tells the model what to do about it.
fn part<'a>(block: &'a Block, room: &mut u64) -> Option<Part<'a>> {
    match block {
        Block::Text { text } => Some(Part::Text { text: text.clone() }),
        Block::File { path, media_type } if media_type.starts_with("image/") => Some(match picture(path, room) {
            Ok(bytes) => Part::ImageUrl { image_url: Picture { url: DataUrl { media_type, bytes } } },
            Err(why) => Part::Text { text: format!("[The picture {} is left out: {why}.]", path.display()) },
        }),
        Block::File { path, media_type } => Some(Part::Text {
            text: format!("[A file ({media_type}) is at {}; read it with your tools.]", path.display()),
        }),
        Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => None,
    }
}

fn picture(path: &Path, room: &mut u64) -> Result<Vec<u8>, String> {
    let length = fs::metadata(path).map_err(|e| e.to_string())?.len();
    let left = room.checked_sub(length).ok_or("there are too many")?;
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    *room = left;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
