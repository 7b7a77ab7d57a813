//! What the real CLI was recorded to say, and what comes of it.

use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::protocol::{self, HookEvent, Line, Outcome};
use super::talk::{Asked, Step, Talk};
use crate::provider::{ErrorClass, TurnError, TurnEvent};

fn samples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/claude/samples")
}

fn read(text: &str) -> Vec<Line> {
    let mut stream = Cursor::new(text.to_owned());
    std::iter::from_fn(|| protocol::read(&mut stream).unwrap()).collect()
}

/// The steps a recording leads to, in short; each text is told where it ends a turn, and silence once.
fn replay(name: &str) -> Vec<String> {
    let text = fs::read_to_string(samples().join(name)).unwrap();
    let mut talk = Talk::new((name == "13_resume_unknown.jsonl").then(|| "old".into()), 0);
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
        ("24_end_session", vec!["init 8ab2d4f2".into(), cost("100 20 12357 0"), r#"done ["x"]"#.into()]),
        ("13_resume_unknown", vec!["failed StaleContinuation I lost our conversation.".into()]),
    ] {
        assert_eq!(replay(&format!("{name}.jsonl")), expected, "{name}");
    }
}

#[test]
fn every_recorded_line_of_interest_is_understood() {
    let mut kinds = std::collections::BTreeMap::new();
    for file in fs::read_dir(samples()).unwrap() {
        let path = file.unwrap().path();
        let mut stream = BufReader::new(File::open(&path).unwrap());
        while let Some(line) = protocol::read(&mut stream).unwrap() {
            let kind = format!("{line:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for file in fs::read_dir(samples()).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines().map(json) {
            let kind = match (line["type"].as_str().unwrap(), line["subtype"].as_str().unwrap_or_default()) {
                ("system", "init") => "Init",
                ("system", "status") => "Busy",
                ("system", "api_retry") => "Retry",
                ("system", "background_tasks_changed") => "Background",
                ("assistant", _) if line["error"].is_string() => "Fault",
                ("assistant", _) if line["message"]["model"] == "<synthetic>" => "Progress",
                ("assistant", _) => "Answered",
                ("user" | "stream_event", _) => "Progress",
                ("rate_limit_event", _) => "Limited",
                ("result", _) => "Result",
                ("control_request", _) => "Hook",
                _ => continue,
            };
            *expected.entry(kind.to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(kinds, expected);
}

#[test]
fn what_is_not_understood_is_skipped_however_long_and_what_follows_is_read() {
    let long = "x".repeat(300_000);
    let text = format!(
        "warning: something\n\n[]\n{{\"type\":\"result\",\"result\":7}}\n{{\"type\":\"new\",\"message\":\"{long}\"}}\n\
         {{\"type\":\"user\",\"message\":{{\"content\":\"{long}\"}}}}\n{{\"type\":\"system\",\"subtype\":\"status\"}}\n{{\"type\":\"sys"
    );
    assert_eq!(read(&text), [Line::Progress, Line::Busy]);
}

fn before(tool: &str, call: &str, timeout: Option<Duration>) -> Line {
    let event = HookEvent::Before { tool: tool.into(), call: call.into(), timeout };
    Line::Hook { request: "r".into(), event }
}

fn steps(talk: &mut Talk, line: Line) -> Vec<String> {
    talk.apply(line, Timestamp::UNIX_EPOCH).into_iter().filter_map(short).collect()
}

#[test]
fn a_tool_is_running_until_the_last_call_has_ended() {
    let mut talk = Talk::default();
    let after = |call: &str| Line::Hook { request: "r".into(), event: HookEvent::After { call: call.into() } };
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!(steps(&mut talk, before("Bash", "a", hour)), ["answer {}", "tool Bash Some(600s)"]);
    assert_eq!(steps(&mut talk, before("Read", "b", None)), ["answer {}", "tool Read None"]);
    assert_eq!(steps(&mut talk, after("a")), ["answer {}"]);
    assert_eq!(steps(&mut talk, after("b")), ["answer {}", "tool ended"]);
    // Its end was never told.
    steps(&mut talk, before("Read", "c", None));
    assert_eq!(steps(&mut talk, Line::Busy), ["tool ended"]);
    assert!(steps(&mut talk, Line::Busy).is_empty());
    let refused = steps(&mut talk, before("EnterPlanMode", "d", None));
    assert!(refused.len() == 1 && refused[0].contains("\"deny\"") && refused[0].contains("ask_user_question"));
}

#[test]
fn a_user_is_told_once_that_it_takes_long() {
    let mut talk = Talk::default();
    let retry = |ms| Line::Retry { delay: Duration::from_millis(ms), status: None };
    assert_eq!(steps(&mut talk, retry(8_000)), ["silent 608000"]);
    assert_eq!(steps(&mut talk, retry(17_000)).len(), 2);
    assert_eq!(steps(&mut talk, retry(39_000)), ["silent 639000"]);
}

#[test]
fn a_turn_of_the_clis_own_neither_ends_ours_nor_fails_it() {
    let mut talk = Talk::new(Some("s".into()), 1);
    talk.asked.push(Asked { uuid: "u".into(), text: "hello".into() });
    let own = Outcome { unasked: true, text: "the build is done".into(), ..Outcome::default() };
    assert!(steps(&mut talk, Line::Result(Box::new(own))).is_empty());
    let failed = Outcome { unasked: true, failed: true, text: "no".into(), ..Outcome::default() };
    assert!(steps(&mut talk, Line::Result(Box::new(failed))).is_empty());
    let ours = Outcome { text: "hi".into(), answers: vec!["u".into()], ..Outcome::default() };
    assert_eq!(steps(&mut talk, Line::Result(Box::new(ours))), ["done"]);
    assert_eq!(talk.texts, ["the build is done", "hi"]);
}

#[test]
fn a_request_that_is_invalid_blames_the_history_where_there_is_one() {
    let class = |continuation: Option<String>| {
        let mut talk = Talk::new(continuation, 0);
        steps(&mut talk, Line::Fault { kind: "invalid_request".into() });
        let failed = Outcome { failed: true, text: "no".into(), ..Outcome::default() };
        match talk.apply(Line::Result(Box::new(failed)), Timestamp::UNIX_EPOCH).pop() {
            Some(Step::Failed(error)) => error.class,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(class(Some("s".into())), ErrorClass::StaleContinuation);
    assert_eq!(class(None), ErrorClass::InvalidRequest);
}
