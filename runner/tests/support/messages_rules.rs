//! What the real Messages API refuses in a body, as far as our requests could break it.
//! Rules: <https://docs.anthropic.com/en/api/messages>, `.../docs/build-with-claude/{tool-use,prompt-caching,vision,
//! pdf-support,extended-thinking}`.

use std::collections::BTreeSet;

use serde_json::Value;

/// Largest request. bytes
pub const MAX_BODY_BYTES: usize = 32_000_000;
const MAX_CACHE_MARKS: usize = 4;
const MAX_IMAGE_BASE64: usize = 5 * 1024 * 1024 * 4 / 3 + 4;

const KNOWN: [&str; 14] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "stream",
    "metadata",
    "stop_sequences",
    "temperature",
    "top_k",
    "top_p",
    "thinking",
    "tools",
    "tool_choice",
    "output_config",
];

/// A body without what those betas add that the Claude Code CLI uses.
pub fn without_betas(mut body: Value) -> Value {
    let Some(fields) = body.as_object_mut() else { return body };
    fields.remove("context_management");
    if let Some(thinking) = fields.get_mut("thinking").and_then(Value::as_object_mut) {
        thinking.remove("display");
    }
    for tool in fields.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        tool.as_object_mut().map(|tool| tool.remove("defer_loading"));
    }
    if let Some(messages) = fields.get_mut("messages").and_then(Value::as_array_mut) {
        messages.retain(|message| message["role"] != "system");
    }
    body
}

/// The first rule that a body breaks.
pub fn broken(body: &Value) -> Result<(), String> {
    let fields = body.as_object().ok_or("the body is no JSON object")?;
    if let Some(extra) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(format!("{extra}: Extra inputs are not permitted"));
    }
    check(body["model"].as_str().is_some_and(|m| !m.is_empty()), "model: Field required")?;
    check(body["max_tokens"].as_u64().is_some_and(|n| n > 0), "max_tokens: must be a positive integer")?;
    check(body["stream"] == true, "this stand-in only streams")?;
    if let Some(thinking) = fields.get("thinking") {
        check(thinking == &serde_json::json!({"type": "adaptive"}), "thinking: this model knows only adaptive")?;
    }
    if let Some(config) = fields.get("output_config") {
        let efforts = ["low", "medium", "high", "xhigh", "max"];
        check(config["effort"].as_str().is_some_and(|e| efforts.contains(&e)), "output_config.effort: unknown")?;
    }
    if let Some(system) = fields.get("system") {
        texts("system", system)?;
    }
    tools(body)?;
    messages(body)?;
    let mut marks = Vec::new();
    cache_marks(body, &mut marks);
    check(marks.len() <= MAX_CACHE_MARKS, "A maximum of 4 blocks with cache_control may be provided")?;
    check(marks.iter().all(|mark| mark["type"] == "ephemeral"), "cache_control.type: must be ephemeral")
}

fn check(ok: bool, what: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(what.to_owned()) }
}

fn cache_marks<'a>(value: &'a Value, marks: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            marks.extend(fields.get("cache_control"));
            // What tools are called with is not ours.
            fields.iter().filter(|(name, _)| *name != "input").for_each(|(_, v)| cache_marks(v, marks));
        }
        Value::Array(items) => items.iter().for_each(|item| cache_marks(item, marks)),
        _ => {}
    }
}

fn only(what: &str, block: &Value, known: &[&str]) -> Result<(), String> {
    let fields = block.as_object().ok_or(format!("{what}: must be an object"))?;
    match fields.keys().find(|name| *name != "cache_control" && !known.contains(&name.as_str())) {
        Some(extra) => Err(format!("{what}.{extra}: Extra inputs are not permitted")),
        None => Ok(()),
    }
}

/// A text, or a list of them.
fn texts(what: &str, content: &Value) -> Result<(), String> {
    match content {
        Value::String(text) => check(!text.trim().is_empty(), &format!("{what}: text content must be non-empty")),
        Value::Array(blocks) => blocks.iter().try_for_each(|block| {
            only(what, block, &["type", "text"])?;
            check(block["type"] == "text", &format!("{what}: must be text"))?;
            check(
                block["text"].as_str().is_some_and(|t| !t.trim().is_empty()),
                &format!("{what}: text content blocks must be non-empty"),
            )
        }),
        _ => Err(format!("{what}: must be a string or a list")),
    }
}

fn tools(body: &Value) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for tool in body["tools"].as_array().into_iter().flatten() {
        only("tools", tool, &["name", "description", "input_schema"])?;
        let name = tool["name"].as_str().unwrap_or_default();
        let fits =
            (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        check(fits, "tools.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'")?;
        check(names.insert(name), "tools: Tool names must be unique.")?;
        check(tool["input_schema"]["type"] == "object", "tools.input_schema.type: must be object")?;
    }
    Ok(())
}

fn messages(body: &Value) -> Result<(), String> {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    check(!messages.is_empty(), "messages: at least one message is required")?;
    let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    // Calls of the last message that wait for their results.
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for (i, message) in messages.iter().enumerate() {
        let at = format!("messages.{i}");
        only(&at, message, &["role", "content"])?;
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        check(message["role"] == role, &format!("{at}: role must be {role:?}, is {}", message["role"]))?;
        let Value::Array(blocks) = &message["content"] else {
            texts(&at, &message["content"])?;
            check(open.is_empty(), &format!("{at}: tool_use ids were found without tool_result blocks"))?;
            continue;
        };
        check(!blocks.is_empty(), &format!("{at}: content must be non-empty"))?;
        let mut calls = BTreeSet::new();
        let mut results_over = false;
        for block in blocks {
            match (role, block["type"].as_str().unwrap_or_default()) {
                ("user", "tool_result") => {
                    only(&at, block, &["type", "tool_use_id", "content", "is_error"])?;
                    check(!results_over, &format!("{at}: tool_result blocks must come first"))?;
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    check(open.remove(id), &format!("{at}: unexpected tool_use_id {id:?} in tool_result"))?;
                    for inner in block["content"].as_array().into_iter().flatten() {
                        shown(&at, inner)?;
                    }
                }
                ("user", _) => {
                    results_over = true;
                    check(open.is_empty(), &format!("{at}: tool_use ids were found without tool_result blocks"))?;
                    shown(&at, block)?;
                }
                ("assistant", "tool_use") => {
                    only(&at, block, &["type", "id", "name", "input"])?;
                    check(has_tools, "Requests which include tool_use blocks must define tools")?;
                    check(block["input"].is_object(), &format!("{at}.input: must be an object"))?;
                    let id = block["id"].as_str().unwrap_or_default();
                    check(!id.is_empty() && calls.insert(id), &format!("{at}: tool_use ids must be unique"))?;
                }
                ("assistant", "thinking") => {
                    let signed = block["signature"].as_str().is_some_and(|s| !s.is_empty());
                    check(signed, &format!("{at}: Invalid signature in thinking block"))?;
                    check(block.get("cache_control").is_none(), "thinking blocks cannot be cached")?;
                }
                ("assistant", "server_tool_use") => {}
                ("assistant", _) => texts(&at, &Value::Array(vec![block.clone()]))?,
                _ => return Err(format!("{at}: unknown role")),
            }
        }
        check(open.is_empty(), &format!("{at}: tool_use ids were found without tool_result blocks: {open:?}"))?;
        open = calls;
    }
    check(open.is_empty(), "tool_use ids were found without tool_result blocks at the end")?;
    let paused = messages.last().is_some_and(|m| m["content"].to_string().contains("server_tool_use"));
    check(messages.len() % 2 == 1 || paused, "the last message must be the user's")
}

/// What a model can be shown.
fn shown(at: &str, block: &Value) -> Result<(), String> {
    let (kinds, max): (&[&str], usize) = match block["type"].as_str() {
        Some("image") => (&["image/png", "image/jpeg", "image/gif", "image/webp"], MAX_IMAGE_BASE64),
        Some("document") => (&["application/pdf"], MAX_BODY_BYTES),
        _ => return texts(at, &Value::Array(vec![block.clone()])),
    };
    only(at, block, &["type", "source"])?;
    let source = &block["source"];
    check(source["type"] == "base64", &format!("{at}.source.type"))?;
    check(
        source["media_type"].as_str().is_some_and(|m| kinds.contains(&m)),
        &format!("{at}.source.media_type: {}", source["media_type"]),
    )?;
    let data = source["data"].as_str().unwrap_or_default();
    let is_base64 = !data.is_empty()
        && data.len() % 4 == 0
        && data.trim_end_matches('=').bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    check(is_base64, &format!("{at}.source.data: invalid base64 data"))?;
    check(data.len() <= max, &format!("{at}: image exceeds 5 MB maximum"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(messages: Value) -> Value {
        json!({"model": "m", "max_tokens": 1, "stream": true, "messages": messages,
               "tools": [{"name": "t", "input_schema": {"type": "object"}}]})
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "t", "input": {}}]});
        let result = json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]});
        let user = json!({"role": "user", "content": "hi"});
        let good = with(json!([user, call, {"role": "user", "content": [result]}]));
        assert_eq!(broken(&good), Ok(()));
        let text = json!({"type": "text", "text": "late"});
        let marked = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
        for (bad, why) in [
            (with(json!([user, user])), "role must be"),
            (with(json!([user, call, user])), "without tool_result"),
            (with(json!([user, call])), "without tool_result"),
            (with(json!([user, call, {"role": "user", "content": [text, result]}])), "without tool_result"),
            (with(json!([user, call, {"role": "user", "content": [result, result]}])), "unexpected tool_use_id"),
            (with(json!([{"role": "user", "content": [result]}])), "unexpected tool_use_id"),
            (with(json!([{"role": "user", "content": [marked, marked, marked, marked, marked]}])), "maximum of 4"),
            (with(json!([{"role": "user", "content": " "}])), "non-empty"),
            (with(json!([user, {"role": "assistant", "content": "no"}])), "last message"),
            (
                with(json!([{"role": "user", "content": [{"type": "image", "source":
                {"type": "base64", "media_type": "image/tiff", "data": "AAAA"}}]}])),
                "media_type",
            ),
        ] {
            let said = broken(&bad).expect_err(why);
            assert!(said.contains(why), "{said} / {why}");
        }
    }
}
