//! The stand-in for chat completions refuses what the real ones refuse: else it would prove nothing.

use serde_json::{Value, json};

use crate::chat_api::{ChatApi, Dialect};

fn sound() -> Value {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{}"}});
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORwD/"}});
    let schema = json!({"type": "object", "properties": {}});
    let tool = json!({"type": "function", "function": {"name": "bash", "description": "d", "parameters": schema}});
    json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true}, "reasoning_effort": "low",
        "tools": [tool],
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
            {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]},
            {"role": "tool", "tool_call_id": "a", "content": ""},
            {"role": "tool", "tool_call_id": "b", "content": "x"},
            {"role": "user", "content": "well?"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and?"},
        ],
    })
}

/// The status of the answer to a body with a token.
fn post(api: &ChatApi, path: &str, token: &str, body: &Value) -> u16 {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("{}{path}", api.address())).header("content-type", "application/json");
    let response = request.header("authorization", token).send(body.to_string()).expect("an answer");
    response.status().as_u16()
}

#[test]
fn a_sound_request_is_answered() {
    let api = ChatApi::on_port(Dialect::OpenAi);
    assert_eq!(post(&api, "/v1/chat/completions", "Bearer t", &sound()), 200);
    assert_eq!(api.request().last(), "and?");
}

#[test]
fn another_path_and_a_missing_key_are_refused() {
    let api = ChatApi::on_port(Dialect::OpenAi);
    assert_eq!(post(&api, "/v1/completions", "Bearer t", &sound()), 404);
    assert_eq!(post(&api, "/v1/chat/completions", "Bearer ", &sound()), 401);
}

#[test]
fn whatever_a_real_endpoint_refuses_is_refused() {
    let api = ChatApi::on_port(Dialect::OpenAi);
    let url = json!("data:image/png;base64,iVBO*");
    for (pointer, value, why) in [
        ("/messages/0/role", json!("developers"), "no such role"),
        ("/messages/1/content", json!(""), "not empty"),
        ("/messages/1/content", json!([]), "no parts"),
        ("/messages/1/content/1/image_url/url", url, "no base64"),
        ("/messages/1/content/1/image_url/url", json!("https://example.org/a.png"), "no data URL"),
        ("/messages/1/content/0/type", json!("file"), "no such part"),
        ("/messages/2/content", Value::Null, "must be a text"),
        ("/messages/2/tool_calls", json!([]), "empty list of calls"),
        ("/messages/2/tool_calls/0/id", json!(""), "not empty"),
        ("/messages/2/tool_calls/0/id", json!("b"), "twice"),
        ("/messages/2/tool_calls/0/id", json!("x".repeat(41)), "too long"),
        ("/messages/2/tool_calls/0/function/name", json!("a.b"), "no name"),
        ("/messages/2/tool_calls/0/function/arguments", json!({}), "must be a text"),
        ("/messages/2/tool_calls/0/function/arguments", json!("ls"), "no JSON object"),
        ("/messages/3/tool_call_id", json!("z"), "answers no call"),
        ("/messages/4/tool_call_id", json!("a"), "answers no call"),
        ("/messages/4/role", json!("user"), "without a result"),
        ("/messages/5/role", json!("system"), "must be the first"),
        ("/messages/6/content", json!(""), "says nothing"),
        ("/messages/7/role", json!("assistant"), "the last message"),
        ("/stream", json!(false), "for streams only"),
        ("/reasoning_effort", json!("much"), "no such effort"),
        ("/tools", json!([]), "tools: 1 to"),
        ("/tools/0/function/name", json!("a b"), "no name"),
        ("/tools/0/function/parameters", json!({"type": "object"}), "no object's schema"),
    ] {
        let mut body = sound();
        *body.pointer_mut(pointer).expect(pointer) = value.clone();
        assert_eq!(post(&api, "/v1/chat/completions", "Bearer t", &body), 400, "{pointer} = {value}");
        let violation = api.violation();
        assert!(violation.contains(why), "{pointer} = {value}: {violation}");
    }
    for (pointer, key) in [("", "max_tokens"), ("/messages/6", "reasoning_content"), ("/stream_options", "x")] {
        let mut body = sound();
        body.pointer_mut(pointer).expect(pointer)[key] = json!(1);
        assert_eq!(post(&api, "/v1/chat/completions", "Bearer t", &body), 400, "{key}");
        assert!(api.violation().contains("unknown key"));
    }
    let mut twice = sound();
    let tool = twice["tools"][0].clone();
    twice["tools"].as_array_mut().expect("tools").push(tool);
    assert_eq!(post(&api, "/v1/chat/completions", "Bearer t", &twice), 400);
    assert!(api.violation().contains("two tools"));
}

#[test]
fn a_thought_that_is_wanted_back_must_come_back() {
    let api = ChatApi::on_port(Dialect::LlamaCpp);
    assert_eq!(post(&api, "/v1/chat/completions", "Bearer t", &sound()), 400);
    assert!(api.violation().contains("thought is missing"));
}
