//! Streams as the servers send them, each with its deviations.

use super::*;

fn read(events: &[&str]) -> (Stream, Result<Step, Failure>) {
    let mut stream = Stream::default();
    let mut last = Ok(Step::More);
    for data in events {
        assert_eq!(last, Ok(Step::More), "before {data}");
        last = stream.event("", data);
    }
    (stream, last)
}

/// A whole answer.
#[track_caller]
fn answer(events: &[&str]) -> Answer {
    let (mut stream, last) = read(events);
    assert_eq!(last, Ok(Step::Done));
    std::mem::take(stream.answer())
}

fn delta(delta: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#)
}

/// An answer whose chunks have these `tool_calls`, and what it was found to call.
#[track_caller]
fn called(chunks: &[&str], reason: &str) -> Vec<(String, String, Value)> {
    let mut events: Vec<String> = chunks.iter().map(|c| delta(&format!(r#"{{"tool_calls":{c}}}"#))).collect();
    events.push(format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#));
    events.push("[DONE]".into());
    let answer = answer(&events.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(answer.end, Some(End::ToolUse));
    let calls = answer.blocks.into_iter().filter_map(|block| match block {
        Block::ToolUse { id, name, input } => Some((id, name, input)),
        _ => None,
    });
    calls.collect()
}

fn call(id: &str, name: &str, input: Value) -> (String, String, Value) {
    (id.to_owned(), name.to_owned(), input)
}

fn text(text: &str) -> Block {
    Block::Text { text: text.into() }
}

#[test]
fn openai_s_text_with_its_usage_in_a_chunk_without_choices() {
    let answer = answer(&[
        r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        &delta(r#"{"content":"Hel"}"#),
        &delta(r#"{"content":"lo"}"#),
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":120,"completion_tokens":7,"total_tokens":127,"prompt_tokens_details":{"cached_tokens":100,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}"#,
        "[DONE]",
    ]);
    assert_eq!(answer.blocks, [text("Hello")]);
    assert_eq!(answer.end, Some(End::Turn));
    assert_eq!(answer.usage, Usage { input: 20, output: 7, cache_read: 100, cache_write: 0 });
}

#[test]
fn openai_s_calls_in_pieces_side_by_side() {
    let calls = called(
        &[
            r#"[{"index":0,"id":"call_a","type":"function","function":{"name":"bash","arguments":""}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"comm"}}]"#,
            r#"[{"index":0,"function":{"arguments":"and\":\"ls\"}"}}]"#,
            r#"[{"index":1,"id":"call_b","type":"function","function":{"name":"glob","arguments":""}}]"#,
            r#"[{"index":1,"function":{"arguments":"{}"}}]"#,
        ],
        "tool_calls",
    );
    assert_eq!(calls, [call("call_a", "bash", json!({"command": "ls"})), call("call_b", "glob", json!({}))]);
}

#[test]
fn ollama_s_calls_are_whole_have_all_index_0_and_end_with_stop() {
    let calls = called(
        &[
            r#"[{"index":0,"id":"call_1","type":"function","function":{"name":"read","arguments":"{\"path\":\"a\"}"}}]"#,
            r#"[{"index":0,"id":"call_2","type":"function","function":{"name":"read","arguments":"{\"path\":\"b\"}"}}]"#,
        ],
        "stop",
    );
    assert_eq!(calls, [call("call_1", "read", json!({"path": "a"})), call("call_2", "read", json!({"path": "b"}))]);
}

#[test]
fn calls_without_index_and_id_are_told_apart_and_get_ids_of_their_own() {
    let calls = called(
        &[
            r#"[{"function":{"name":"read","arguments":"{\"path\":\"a\"}"}},{"function":{"name":"read","arguments":{"path":"b"}}}]"#,
            r#"[{"id":"","function":{"name":"read","arguments":"{\"pa"}}]"#,
            r#"[{"function":{"name":"","arguments":"th\":\"c\"}"}}]"#,
        ],
        "tool_calls",
    );
    let inputs: Vec<&Value> = calls.iter().map(|(_, _, input)| input).collect();
    assert_eq!(inputs, [&json!({"path": "a"}), &json!({"path": "b"}), &json!({"path": "c"})]);
    let mut ids: Vec<&str> = calls.iter().map(|(id, ..)| id.as_str()).collect();
    assert!(ids.iter().all(|id| !id.is_empty()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{calls:?}");
}

#[test]
fn another_id_or_another_name_is_another_call() {
    for second in
        [r#"{"id":"b","function":{"name":"f","arguments":""}}"#, r#"{"function":{"name":"g","arguments":""}}"#]
    {
        let calls = called(
            &[
                r#"[{"id":"a","function":{"name":"f","arguments":""}}]"#,
                r#"[{"function":{"arguments":"{}"}}]"#,
                &format!("[{second}]"),
                r#"[{"function":{"arguments":"{\"n\":1}"}}]"#,
            ],
            "tool_calls",
        );
        let inputs: Vec<&Value> = calls.iter().map(|(_, _, input)| input).collect();
        assert_eq!(inputs, [&json!({}), &json!({"n": 1})], "{second}");
    }
}

#[test]
fn an_id_that_comes_twice_is_given_to_one_call_only() {
    let calls = called(
        &[
            r#"[{"id":"x","function":{"name":"a","arguments":"{}"}}]"#,
            r#"[{"id":"x","function":{"name":"b","arguments":"{}"}}]"#,
        ],
        "tool_calls",
    );
    assert_eq!((calls[0].0.as_str(), calls.len()), ("x", 2));
    assert_ne!(calls[1].0, "x");
}

#[test]
fn a_name_and_an_id_in_every_piece_are_still_one_call() {
    let calls = called(
        &[
            r#"[{"index":0,"id":"x","function":{"name":"a","arguments":"{\"n\":"}}]"#,
            r#"[{"index":0,"id":"x","function":{"name":"a","arguments":"1}"}}]"#,
            r#"[{"index":0,"id":"x","function":{"name":"a","arguments":""}}]"#,
            r#"[{"index":1,"function":{"name":"","arguments":""}}]"#,
        ],
        "tool_calls",
    );
    assert_eq!(calls, [call("x", "a", json!({"n": 1}))]);
}

#[test]
fn arguments_are_read_in_every_shape_or_kept_as_they_came() {
    let input = |arguments: &str| {
        let call = json!([{"id": "x", "function": {"name": "a", "arguments": arguments}}]).to_string();
        called(&[&call], "tool_calls").remove(0).2
    };
    assert_eq!(input(""), json!({}));
    assert_eq!(input("null"), json!({}));
    assert_eq!(input(r#""{\"n\":1}""#), json!({"n": 1}));
    for raw in [r#"{"n": 1"#, "ls -l", "[1]", "7", r#""text""#] {
        assert_eq!(input(raw), json!({UNPARSED: raw}));
    }
}

#[test]
fn a_name_the_model_made_up_can_be_sent_back() {
    let calls = called(&[r#"[{"id":"x","function":{"name":"functions.bash tool","arguments":"{}"}}]"#], "tool_calls");
    assert_eq!(calls[0].1, "functions_bash_tool");
    let calls = called(&[r#"[{"id":"x","function":{"arguments":"{\"a\":1}"}}]"#], "tool_calls");
    assert_eq!(calls[0].1, "unnamed");
}

#[test]
fn text_before_a_call() {
    let answer = answer(&[
        &delta(r#"{"content":"I "}"#),
        &delta(r#"{"content":"look"}"#),
        &delta(r#"{"content":null,"tool_calls":[{"index":0,"id":"x","function":{"name":"a","arguments":"{}"}}]}"#),
        r#"{"choices":[{"delta":{"content":""},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_cache_hit_tokens":4}}"#,
        "[DONE]",
    ]);
    let called = Block::ToolUse { id: "x".into(), name: "a".into(), input: json!({}) };
    assert_eq!(answer.blocks, [text("I look"), called]);
    assert_eq!((answer.usage.input, answer.usage.cache_read), (1, 4));
}

#[test]
fn what_the_model_thought_is_kept_in_the_field_it_came_in() {
    let deepseek = answer(&[
        &delta(r#"{"role":"assistant","content":null,"reasoning_content":"hm"}"#),
        &delta(r#"{"content":null,"reasoning_content":"m"}"#),
        &delta(r#"{"content":"yes","reasoning_content":null}"#),
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ]);
    let thought = Block::Opaque { api: NAME.into(), block: json!({"reasoning_content": "hmm"}) };
    assert_eq!(deepseek.blocks, [thought, text("yes")]);

    let openrouter = answer(&[
        &delta(
            r#"{"reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a","index":0,"format":"f"}]}"#,
        ),
        &delta(
            r#"{"reasoning":"b","reasoning_details":[{"type":"reasoning.text","text":"b","index":0,"format":"f"}]}"#,
        ),
        &delta(r#"{"reasoning_details":[{"type":"reasoning.text","signature":"s","index":0,"text":null}]}"#),
        &delta(r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"d","id":"x","index":1}]}"#),
        &delta(r#"{"content":"yes"}"#),
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ]);
    let details = json!({"reasoning_details": [
        {"type": "reasoning.text", "text": "ab", "index": 0, "format": "f", "signature": "s"},
        {"type": "reasoning.encrypted", "data": "d", "id": "x", "index": 1},
    ]});
    assert_eq!(openrouter.blocks, [Block::Opaque { api: NAME.into(), block: details }, text("yes")]);

    let ollama = answer(&[&delta(r#"{"content":"yes","reasoning":"hm"}"#), "[DONE]"]);
    assert_eq!(ollama.blocks, [text("yes")]);
}

#[test]
fn why_it_ended() {
    let end = |said: &str, reason: &str| {
        let reason = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
        answer(&[&delta(said), &reason, "[DONE]"]).end
    };
    assert_eq!(end(r#"{"content":"x"}"#, "length"), Some(End::MaxTokens));
    assert_eq!(end(r#"{"reasoning":"x"}"#, "length"), Some(End::WindowFull));
    assert_eq!(end(r#"{"content":"x"}"#, "content_filter"), Some(End::Refusal));
    assert_eq!(end(r#"{"content":"x"}"#, "eos"), Some(End::Turn));
    let cut = r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"a","arguments":"{\"n"}}]}"#;
    assert_eq!(end(cut, "length"), Some(End::ToolUse), "the model hears that its call was cut off");
    assert_eq!(end(cut, "content_filter"), Some(End::Refusal));
}

#[test]
fn without_done_an_answer_is_whole_when_it_said_why_it_ended() {
    let end = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#;
    let (mut whole, _) = read(&[end]);
    assert_eq!(whole.end_of_body(), Ok(Step::Done));
    assert_eq!(whole.answer().end, Some(End::Turn));
    let (mut torn, _) = read(&[&delta(r#"{"content":"half an ans"}"#)]);
    assert_eq!(torn.end_of_body(), Ok(Step::More));
    assert_eq!(torn.answer().blocks, [text("half an ans")], "what came is there to be kept");
}

#[test]
fn what_is_no_answer_is_tried_again() {
    for events in [
        &["[DONE]"][..],
        &[r#"{"choices":[]}"#, "[DONE]"],
        &["{\"choices\":[{\"del"],
        &[r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"error"}]}"#, "[DONE]"],
        &[r#"{"error":{"message":"Overloaded","code":502}}"#],
        &[
            r#"{"id":"gen-1","choices":[{"delta":{"content":""},"finish_reason":"error","error":{"code":503,"message":"down"}}]}"#,
        ],
    ] {
        let (_, last) = read(events);
        assert!(matches!(last, Err(Failure::Again { .. })), "{events:?}: {last:?}");
    }
    let (_, full) =
        read(&[r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#]);
    assert!(matches!(full, Err(Failure::TooLong { .. })), "{full:?}");
}

#[test]
fn thoughts_of_no_known_shape_do_no_harm() {
    let answer = answer(&[
        &delta(r#"{"reasoning_details":["a",1,{"text":"b"},{"text":"c"}]}"#),
        &delta(r#"{"reasoning_details":"x","content":"yes"}"#),
        "[DONE]",
    ]);
    let thought = json!({"reasoning_details": [{"text": "bc"}]});
    assert_eq!(answer.blocks, [Block::Opaque { api: NAME.into(), block: thought }, text("yes")]);
}
