//! What is sent.

use std::path::Path;

use super::*;

fn text(text: &str) -> Block {
    Block::Text { text: text.into() }
}

fn user(content: Vec<Block>) -> Message {
    Message { role: Role::User, content }
}

fn assistant(content: Vec<Block>) -> Message {
    Message { role: Role::Assistant, content }
}

fn result(id: &str, content: Vec<Block>) -> Block {
    Block::ToolResult { tool_use_id: id.into(), content, is_error: false }
}

fn sent(messages: &[Message], tools: &[Spec]) -> Value {
    let request = Request { model: "m", effort: None, system: "be kind", messages, tools };
    serde_json::from_slice(&body(&request)).unwrap()
}

fn file(path: &Path, media_type: &str) -> Block {
    Block::File { path: path.into(), media_type: media_type.into() }
}

#[test]
fn a_request_says_what_all_endpoints_take_and_no_more() {
    let body_ = sent(&[user(vec![text("hi")])], &[]);
    let messages = json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]);
    let expected =
        json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": messages});
    assert_eq!(body_, expected);
    let request =
        Request { model: "m", effort: Some("low"), system: "", messages: &[user(vec![text("hi")])], tools: &[] };
    let body: Value = serde_json::from_slice(&body(&request)).unwrap();
    assert_eq!(body["reasoning_effort"], "low");
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
}

#[test]
fn calls_are_answered_one_by_one_right_after_and_what_the_user_said_comes_then() {
    let thought = |api: &str| Block::Opaque { api: api.into(), block: json!({"reasoning_content": "hm", "x": 1}) };
    let call = |id: &str| Block::ToolUse { id: id.into(), name: "bash".into(), input: json!({"command": "ls"}) };
    let failed = Block::ToolResult { tool_use_id: "b".into(), content: vec![text("no such file")], is_error: true };
    let messages = [
        user(vec![text("one"), text("two")]),
        assistant(vec![thought("anthropic"), thought(NAME), text("I look."), call("a"), call("b"), call("c")]),
        user(vec![result("a", vec![text("x"), text("y")]), failed, result("c", vec![]), text("be quick")]),
        assistant(vec![thought("anthropic")]),
        user(vec![text("well?")]),
    ];
    let call =
        |id| json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":\"ls\"}"}});
    let expected = json!([
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one\n\ntwo"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call("a"), call("b"), call("c")], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "a", "content": "x\ny"},
        {"role": "tool", "tool_call_id": "b", "content": "Error:\nno such file"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": "be quick"},
        {"role": "user", "content": "well?"},
    ]);
    assert_eq!(sent(&messages, &[])["messages"], expected);
}

#[test]
fn a_tool_without_parameters_has_an_empty_list_of_them() {
    let spec = |schema| Spec { name: "t".into(), description: "d".into(), schema };
    let tools = [spec(json!({"type": "object"})), spec(json!({"type": "object", "properties": {"a": {}}}))];
    let body = sent(&[user(vec![text("hi")])], &tools);
    assert_eq!(body["tools"][0]["function"]["parameters"], json!({"type": "object", "properties": {}}));
    assert_eq!(body["tools"][1]["function"]["parameters"], tools[1].schema);
    assert_eq!(body["tools"][1]["type"], "function");
}

#[test]
fn pictures_are_data_urls_and_those_of_tools_follow_the_results() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("a.png");
    std::fs::write(&path, b"\x89PNG\r\n\x1a\n").unwrap();
    let messages = [
        user(vec![text("look"), file(&path, "image/png"), file(Path::new("/x/b.pdf"), "application/pdf")]),
        assistant(vec![Block::ToolUse { id: "a".into(), name: "read_file".into(), input: json!({}) }]),
        user(vec![result("a", vec![file(&path, "image/png")])]),
    ];
    let sent = sent(&messages, &[]);
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}});
    let note = |text: &str| json!({"type": "text", "text": text});
    let pdf = note("[A file (application/pdf) is at /x/b.pdf; read it with your tools.]");
    assert_eq!(sent["messages"][1]["content"], json!([note("look"), picture, pdf]));
    assert_eq!(sent["messages"][3]["content"], "[The picture is in the next message of the user.]");
    assert_eq!(sent["messages"][4]["content"], json!([note("[From the tool call a:]"), picture]));
}

#[test]
fn a_picture_that_is_gone_is_told() {
    let sent = sent(&[user(vec![text("look"), file(Path::new("/gone.png"), "image/png")])], &[]);
    assert_eq!(sent["messages"][1]["content"], "look\n\n[/gone.png: no longer there]");
}

#[test]
fn openai_s_newer_models_are_told_not_to_think_where_there_are_tools() {
    let messages = [user(vec![text("hi")])];
    let effort = |model: &str, tools: &[Spec]| {
        let request = Request { model, effort: Some("high"), system: "", messages: &messages, tools };
        serde_json::from_slice::<Value>(&body(&request)).unwrap()["reasoning_effort"].clone()
    };
    let tools = [Spec { name: "t".into(), description: "d".into(), schema: json!({"type": "object"}) }];
    for model in ["gpt-5.4", "gpt-5.4-mini", "gpt-5.10", "gpt-6"] {
        assert_eq!((effort(model, &tools), effort(model, &[])), (json!("none"), json!("high")), "{model}");
    }
    for model in ["gpt-4o", "gpt-5", "gpt-5.2", "gpt-oss:20b", "openai/gpt-5.6", "qwen3"] {
        assert_eq!(effort(model, &tools), "high", "{model}");
    }
}
