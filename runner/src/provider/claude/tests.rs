//! What the real CLI was recorded to say, and what comes of it.

use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::protocol::{self, Line};
use super::talk::{Asked, Step, Talk};
use crate::provider::{TurnError, TurnEvent};

fn samples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/claude/samples")
}

fn read(text: &str) -> Vec<Line> {
    let mut stream = Cursor::new(text.to_owned());
    std::iter::from_fn(|| protocol::read(&mut stream).unwrap()).collect()
}

fn talk(continuation: Option<&str>) -> Talk {
    Talk::new(continuation.map(str::to_owned))
}

/// The steps a recording leads to, in short; each text is told where it ends a turn, and silence once.
fn replay(name: &str) -> Vec<String> {
    let text = fs::read_to_string(samples().join(name)).unwrap();
    let mut talk = talk((name == "13_resume_unknown.jsonl").then_some("old"));
    let mut told: Vec<String> = Vec::new();
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        if json["type"] == "command_lifecycle" && json["state"] == "queued" {
            let uuid = json["command_uuid"].as_str().unwrap().to_owned();
            talk.asked.push(Asked { uuid, text: String::new() });
        }
        for line in read(line) {
            told.extend(talk.apply(line, Timestamp::UNIX_EPOCH).into_iter().filter_map(short));
            if told.last().is_some_and(|t| t == "done") {
                told.pop();
                told.push(format!("done {:?}", std::mem::take(&mut talk.texts)));
            } else if told.last().is_some_and(|t| t.starts_with("failed")) {
                // As the provider does: the next turn begins with nothing asked.
                talk.asked.clear();
            }
        }
    }
    told
}

fn short(step: Step) -> Option<String> {
    Some(match step {
        Step::Emit(TurnEvent::Activity) => return None,
        Step::Emit(TurnEvent::Waiting { until })
            if until == Timestamp::UNIX_EPOCH + crate::gateway::SILENCE_TIMEOUT =>
        {
            return None;
        }
        Step::Emit(TurnEvent::Waiting { until }) => format!("silent {}", until.as_millisecond()),
        Step::Emit(TurnEvent::Init { continuation }) => format!("init {}", &continuation[..8]),
        Step::Emit(TurnEvent::ToolStarted { name, deadline }) => format!("tool {name} {deadline:?}"),
        Step::Emit(TurnEvent::ToolEnded) => "tool ended".into(),
        Step::Emit(TurnEvent::Cost { model, usage }) => {
            format!("cost {model} {} {} {} {}", usage.input, usage.output, usage.cache_read, usage.cache_write)
        }
        Step::Emit(other) => format!("{other:?}"),
        Step::Write(answer) => format!("answer {}", answer["response"]["response"]),
        Step::Call { message, .. } => format!("call {message}"),
        Step::Done => "done".into(),
        Step::Failed(TurnError { class, sentence }) => format!("failed {class:?} {sentence}"),
    })
}

#[test]
fn what_the_cli_was_recorded_to_say_has_its_meaning() {
    let cost = |rest: &str| format!("cost claude-opus-5-5 {rest}");
    let text = "The model gave no answer: ";
    for (name, expected) in [
        ("01_text_turn", vec!["init bfd1cf67".into(), cost("100 20 12357 0"), r#"done ["Hello."]"#.into()]),
        ("02_bash_turn", vec!["init 256455e8".into(), cost("200 40 24790 0"), r#"done ["done"]"#.into()]),
        ("04_steer_mid_tool", vec!["init a0e5fdfb".into(), cost("200 40 24890 0"), r#"done ["handled both"]"#.into()]),
        (
            "05_queue_during_text",
            vec![
                "init 40074e12".into(),
                cost("100 20 12358 0"),
                cost("100 20 12391 0"),
                r#"done ["aaaa bbbb cccc dddd", "second answer"]"#.into(),
            ],
        ),
        (
            "07_api_529_then_ok",
            vec![
                "silent 600537".into(),
                "silent 601053".into(),
                "init 22696c22".into(),
                cost("100 20 12357 0"),
                r#"done ["recovered"]"#.into(),
            ],
        ),
        (
            "10_api_429_retry_after_3600",
            vec![format!("failed Transient {text}API Error: Request rejected (429) · fake error 429")],
        ),
        (
            "11_oauth_429_rate_limit_event",
            vec![format!(
                "failed Quota {{ reset: 2026-11-21T22:26:40Z }} {text}You've hit your 5-hour limit · resets 10:26pm (UTC)"
            )],
        ),
        ("03_mcp_turn", vec!["init 416aa06c".into(), cost("200 40 39226 0"), r#"done ["done"]"#.into()]),
        (
            "06_interrupt",
            vec![
                "init 0064fdd6".into(),
                cost("100 20 12358 0"),
                format!(
                    "failed Transient {text}[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=tool_use"
                ),
                cost("100 20 12615 0"),
                r#"done ["resumed"]"#.into(),
            ],
        ),
        (
            "08_api_401_fatal",
            vec![
                "failed Auth The model refused the key. The owner has to set a valid one.".into(),
                format!("failed Auth {text}Invalid API key · Fix external API key"),
            ],
        ),
        ("17_partial_messages", vec!["init 5b4a699c".into(), cost("200 40 24803 0"), r#"done ["done"]"#.into()]),
        (
            "18_control_hooks",
            vec![
                "init 27fa5d6f".into(),
                "answer {}".into(),
                "tool Bash Some(9s)".into(),
                "answer {}".into(),
                "tool Bash Some(120s)".into(),
                "answer {}".into(),
                cost("300 60 37323 0"),
                r#"done ["done"]"#.into(),
            ],
        ),
        (
            "20_bash_timeout_backgrounds",
            vec![
                "init ed079095".into(),
                cost("200 40 24975 0"),
                r#"done ["done"]"#.into(),
                cost("100 20 12869 0"),
                r#"done ["noticed bg"]"#.into(),
            ],
        ),
        (
            "15_compact",
            vec![
                "init dd5354f1".into(),
                cost("100 20 12357 0"),
                format!("done [{:?}]", "A ".repeat(30)),
                cost("100 20 12395 0"),
                format!("done [{:?}]", "B ".repeat(30)),
                cost("100 20 14193 0"),
                r#"done ["Done: /compact."]"#.into(),
            ],
        ),
        ("24_end_session", vec!["init 8ab2d4f2".into(), cost("100 20 12357 0"), r#"done ["x"]"#.into()]),
        ("13_resume_unknown", vec!["failed StaleContinuation I lost our conversation.".into()]),
    ] {
        assert_eq!(replay(&format!("{name}.jsonl")), expected, "{name}");
    }
}

#[test]
fn every_recorded_line_of_a_known_kind_is_understood() {
    for file in fs::read_dir(samples()).unwrap() {
        let path = file.unwrap().path();
        let mut stream = BufReader::new(File::open(&path).unwrap());
        let understood =
            std::iter::from_fn(|| protocol::read(&mut stream).unwrap()).map(|line| (line.kind, line.subtype));
        let expected = fs::read_to_string(&path).unwrap();
        let expected = expected.lines().map(|line| serde_json::from_str(line).unwrap()).filter_map(|line: Value| {
            let (kind, subtype) = (line["type"].as_str()?, line["subtype"].as_str().map(str::to_owned));
            let ignored = ["compact_boundary", "informational", "thinking_tokens"];
            let is_ignored = ["command_lifecycle", "control_response"].contains(&kind)
                || kind == "system"
                    && subtype.as_deref().is_some_and(|s| ignored.contains(&s) || s.starts_with("task_"));
            (!is_ignored).then(|| (kind.to_owned(), subtype))
        });
        assert_eq!(understood.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{}", path.display());
    }
}

#[test]
fn what_is_not_understood_is_skipped_however_long_and_what_follows_is_read() {
    let long = "x".repeat(300_000);
    let text = format!(
        "warning: something\n\n[]\n{{\"type\":\"result\",\"result\":7}}\n{{\"type\":\"new\",\"message\":\"{long}\"}}\n\
         {{\"type\":\"user\",\"message\":{{\"content\":\"{long}\"}}}}\n{{\"type\":\"system\",\"subtype\":\"status\"}}\n{{\"type\":\"sys"
    );
    assert_eq!(read(&text).into_iter().map(|line| line.kind).collect::<Vec<_>>(), ["user", "system"]);
}

fn steps(talk: &mut Talk, line: Value) -> Vec<String> {
    let line = read(&line.to_string()).pop().unwrap();
    talk.apply(line, Timestamp::UNIX_EPOCH).into_iter().filter_map(short).collect()
}

fn hook(event: &str, tool: &str, call: &str, input: Value) -> Value {
    let input = json!({"hook_event_name": event, "tool_name": tool, "tool_use_id": call, "tool_input": input});
    json!({"type": "control_request", "request_id": "r", "request": {"subtype": "hook_callback", "input": input}})
}

#[test]
fn a_tool_is_running_until_the_last_call_has_ended() {
    let mut talk = Talk::default();
    let before = |tool: &str, call: &str, input| hook("PreToolUse", tool, call, input);
    let bash = before("Bash", "a", json!({"timeout": 3_600_000}));
    assert_eq!(steps(&mut talk, bash), ["answer {}", "tool Bash Some(600s)"]);
    let read = before("Read", "b", json!({"timeout": "soon"}));
    assert_eq!(steps(&mut talk, read.clone()), ["answer {}", "tool Read None"]);
    assert_eq!(steps(&mut talk, hook("PostToolUse", "Bash", "a", json!({}))), ["answer {}"]);
    assert_eq!(steps(&mut talk, hook("PostToolUseFailure", "Read", "b", json!({}))), ["answer {}", "tool ended"]);
    // Its end was never told.
    steps(&mut talk, read);
    let status = json!({"type": "system", "subtype": "status", "status": "requesting"});
    assert_eq!(steps(&mut talk, status.clone()), ["tool ended"]);
    assert!(steps(&mut talk, status).is_empty());
    let refused = steps(&mut talk, before("EnterPlanMode", "d", json!({})));
    assert!(refused.len() == 1 && refused[0].contains("\"deny\"") && refused[0].contains("ask_user_question"));
}

#[test]
fn a_user_is_told_once_that_it_takes_long() {
    let mut talk = Talk::default();
    let retry = |ms: u32| json!({"type": "system", "subtype": "api_retry", "retry_delay_ms": ms, "error_status": null});
    assert_eq!(steps(&mut talk, retry(8_000)), ["silent 608000"]);
    assert_eq!(steps(&mut talk, retry(17_000)).len(), 2);
    assert_eq!(steps(&mut talk, retry(39_000)), ["silent 639000"]);
}

#[test]
fn a_turn_of_the_clis_own_neither_ends_ours_nor_fails_it() {
    let mut talk = talk(Some("s"));
    talk.asked.push(Asked { uuid: "u".into(), text: "hello".into() });
    let origin = json!({"kind": "task-notification"});
    let own = json!({"type": "result", "origin": origin, "is_error": false, "result": "the build is done"});
    assert!(steps(&mut talk, own).is_empty());
    let failed = json!({"type": "result", "origin": origin, "is_error": true, "result": "no"});
    assert!(steps(&mut talk, failed).is_empty());
    let ours = json!({"type": "result", "is_error": false, "result": "hi", "user_message_uuids": ["u"]});
    assert_eq!(steps(&mut talk, ours), ["done"]);
    assert_eq!(talk.texts, ["the build is done", "hi"]);
}

#[test]
fn a_request_that_is_invalid_blames_the_history_where_there_is_one() {
    let failed = |continuation: Option<&str>| {
        let mut talk = talk(continuation);
        steps(&mut talk, json!({"type": "assistant", "error": "invalid_request"}));
        steps(&mut talk, json!({"type": "result", "is_error": true, "result": "no"})).remove(0)
    };
    assert!(failed(Some("s")).starts_with("failed StaleContinuation"));
    assert!(failed(None).starts_with("failed InvalidRequest"));
}

#[test]
fn tokens_of_a_model_that_has_no_cache_do_not_hide_the_end_of_a_turn() {
    let cost = json!({"m": {"inputTokens": 3, "outputTokens": 4}});
    let ours = json!({"type": "result", "is_error": false, "result": "hi", "model_usage_since_last_result": cost});
    assert_eq!(steps(&mut Talk::default(), ours), ["cost m 3 4 0 0", "done"]);
}
