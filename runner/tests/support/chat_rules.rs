//! What a chat-completions endpoint refuses: the strictest of OpenAI, Groq, Mistral, Ollama and llama.cpp's server in
//! each point, for a body that only one of them refuses is a fault too.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::Dialect;

/// Most characters of a name, and of an id.
const MAX_NAME: usize = 64;
const MAX_ID: usize = 40;
const MAX_TOOLS: usize = 128;

/// A status and what is wrong.
pub type Refused = (u16, String);

pub fn check(line: &str, headers: &BTreeMap<String, String>, body: &Value, dialect: Dialect) -> Result<(), Refused> {
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    if line != "POST /v1/chat/completions HTTP/1.1" {
        return Err((404, format!("Invalid URL ({line})")));
    }
    if header("authorization").strip_prefix("Bearer ").is_none_or(str::is_empty) {
        return Err((401, "You didn't provide an API key.".into()));
    }
    let sound = || {
        demand(header("content-type") == "application/json", "the content type must be application/json")?;
        top_level(body)?;
        messages(list(&body["messages"]), dialect)?;
        tools(&body["tools"])
    };
    sound().map_err(|what: String| (400, what))
}

fn demand(condition: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// An object with no other keys than these.
fn object<'a>(value: &'a Value, what: &str, keys: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let fields = value.as_object().ok_or_else(|| format!("{what} must be an object"))?;
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(extra) => Err(format!("{what}: unknown key {extra:?}")),
        None => Ok(fields),
    }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| format!("{what} must be a text that is not empty"))
}

fn name(value: &Value, what: &str) -> Result<(), String> {
    let name = text(value, what)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    demand(name.len() <= MAX_NAME && name.chars().all(allowed), format!("{what}: {name:?} is no name"))
}

fn top_level(body: &Value) -> Result<(), String> {
    // Neither `max_tokens`, which newer models refuse, nor `max_completion_tokens`, which Ollama ignores.
    let known =
        ["model", "messages", "stream", "stream_options", "reasoning_effort", "tools", "tool_choice", "temperature"];
    let fields = object(body, "the body", &known)?;
    text(&body["model"], "model")?;
    demand(fields.get("stream").is_none_or(Value::is_boolean), "stream must be a boolean")?;
    if let Some(options) = fields.get("stream_options") {
        demand(body["stream"] == true, "stream_options are for streams only")?;
        object(options, "stream_options", &["include_usage"])?;
    }
    demand(body["stream"] == true, "this stand-in only streams")?;
    demand(body["stream_options"]["include_usage"] == true, "without include_usage nobody knows the cost")?;
    let effort = fields.get("reasoning_effort");
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh"];
    demand(effort.is_none_or(|e| e.as_str().is_some_and(|e| efforts.contains(&e))), "reasoning_effort: no such effort")
}

fn messages(messages: &[Value], dialect: Dialect) -> Result<(), String> {
    // Ids of the calls of the latest answer that have no result yet.
    let mut open: Vec<&str> = Vec::new();
    let mut users = 0;
    for (i, message) in messages.iter().enumerate() {
        let what = format!("messages.{i}");
        let role = message["role"].as_str().unwrap_or_default();
        demand(role == "tool" || open.is_empty(), format!("{what}: tool calls without a result before it: {open:?}"))?;
        match role {
            "system" => {
                demand(i == 0, format!("{what}: the system's message must be the first"))?;
                object(message, &what, &["role", "content"])?;
                text(&message["content"], &what)?;
            }
            "user" => {
                users += 1;
                object(message, &what, &["role", "content"])?;
                content(&message["content"], &what)?;
            }
            "assistant" => {
                demand(users > 0, format!("{what}: the user must speak first"))?;
                open = answer(message, &what, dialect)?;
            }
            "tool" => {
                object(message, &what, &["role", "content", "tool_call_id"])?;
                demand(message["content"].is_string(), format!("{what}: the content must be a text"))?;
                let id = text(&message["tool_call_id"], &what)?;
                let at = open.iter().position(|open| *open == id);
                open.remove(at.ok_or_else(|| format!("{what}: {id:?} answers no call right before it"))?);
            }
            _ => return Err(format!("{what}: no such role: {role:?}")),
        }
    }
    demand(open.is_empty(), format!("tool calls without a result: {open:?}"))?;
    let last = messages.last().map(|m| &m["role"]);
    demand(last.is_some_and(|role| role == "user" || role == "tool"), "the last message must be the user's or a tool's")
}

fn content(content: &Value, what: &str) -> Result<(), String> {
    if !content.is_array() {
        return text(content, what).map(drop);
    }
    demand(!list(content).is_empty(), format!("{what}: no parts"))?;
    for part in list(content) {
        match part["type"].as_str() {
            Some("text") => {
                object(part, what, &["type", "text"])?;
                text(&part["text"], what)?;
            }
            Some("image_url") => {
                object(part, what, &["type", "image_url"])?;
                object(&part["image_url"], what, &["url", "detail"])?;
                let data = text(&part["image_url"]["url"], what)?.strip_prefix("data:image/");
                let base64 = data.and_then(|data| data.split_once(";base64,")).map(|(_, base64)| base64);
                let image = STANDARD.decode(base64.ok_or_else(|| format!("{what}: no data URL of an image"))?);
                demand(image.is_ok_and(|bytes| !bytes.is_empty()), format!("{what}: no base64"))?;
            }
            _ => return Err(format!("{what}: no such part: {part}")),
        }
    }
    Ok(())
}

/// Checks an answer; the ids of its calls.
fn answer<'a>(message: &'a Value, what: &str, dialect: Dialect) -> Result<Vec<&'a str>, String> {
    // Thoughts are for those that have them: Groq and Mistral refuse them.
    let keys: &[&str] = match dialect {
        Dialect::OpenAi | Dialect::Ollama => &["role", "content", "tool_calls"],
        Dialect::LlamaCpp => &["role", "content", "tool_calls", "reasoning_content"],
        Dialect::OpenRouter => &["role", "content", "tool_calls", "reasoning_details"],
    };
    let fields = object(message, what, keys)?;
    let calls = list(&message["tool_calls"]);
    demand(fields.contains_key("tool_calls") != calls.is_empty(), format!("{what}: an empty list of calls"))?;
    demand(message["content"].is_string(), format!("{what}: the content must be a text"))?;
    demand(message["content"] != "" || !calls.is_empty(), format!("{what}: says nothing"))?;
    let mut ids = Vec::new();
    for call in calls {
        object(call, what, &["id", "type", "function"])?;
        object(&call["function"], what, &["name", "arguments"])?;
        demand(call["type"] == "function", format!("{what}: no such kind of call"))?;
        name(&call["function"]["name"], what)?;
        let arguments = text(&call["function"]["arguments"], what)?;
        let input: Result<Map<String, Value>, _> = serde_json::from_str(arguments);
        demand(input.is_ok(), format!("{what}: the arguments are no JSON object: {arguments}"))?;
        let id = text(&call["id"], what)?;
        demand(id.len() <= MAX_ID && !ids.contains(&id), format!("{what}: the id {id:?} is too long or there twice"))?;
        ids.push(id);
    }
    // Each thought the stand-in has told before a call must come back whole.
    match dialect {
        _ if calls.is_empty() => {}
        Dialect::LlamaCpp => demand(message["reasoning_content"] == "hmm", format!("{what}: its thought is missing"))?,
        Dialect::OpenRouter => {
            let [detail] = list(&message["reasoning_details"]) else { return Err(format!("{what}: not one thought")) };
            demand(
                detail["text"] == "hmm" && detail["signature"] == "s",
                format!("{what}: not its thought: {detail}"),
            )?;
        }
        Dialect::OpenAi | Dialect::Ollama => {}
    }
    Ok(ids)
}

fn tools(tools: &Value) -> Result<(), String> {
    if tools.is_null() {
        return Ok(());
    }
    demand((1..=MAX_TOOLS).contains(&list(tools).len()), format!("tools: 1 to {MAX_TOOLS}"))?;
    let mut names = Vec::new();
    for tool in list(tools) {
        object(tool, "a tool", &["type", "function"])?;
        demand(tool["type"] == "function", "a tool must be a function")?;
        let function = &tool["function"];
        object(function, "a tool", &["name", "description", "parameters", "strict"])?;
        name(&function["name"], "a tool")?;
        demand(!names.contains(&&function["name"]), format!("two tools named {}", function["name"]))?;
        names.push(&function["name"]);
        demand(function["description"].is_string(), "a tool's description must be a text")?;
        let parameters = &function["parameters"];
        let sound = parameters["type"] == "object" && parameters["properties"].is_object();
        demand(sound, format!("{}: its parameters are no object's schema: {parameters}", function["name"]))?;
    }
    Ok(())
}
