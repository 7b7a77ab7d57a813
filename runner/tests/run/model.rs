//! Our own loop with its tools, against a strict stand-in for the Messages API.

use std::fs;
use std::time::{Duration, Instant};

use nanoclaw_session::content::{Attachment, ChatIn};
use nanoclaw_session::row::{AckStatus, NewMessageIn};
use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Script};
use crate::session::{Runner, Session, message, now};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot really";

pub fn session() -> (Session, MessagesApi) {
    let session = Session::new();
    session.configure(|c| c.provider = "anthropic".into());
    fs::write(session.dir.instructions(), "Be kind.").unwrap();
    let api = MessagesApi::on_socket(&session.path("gateway.sock"));
    (session, api)
}

pub fn start(session: &Session, api: &MessagesApi) -> Runner {
    let path = std::env::var("PATH").unwrap();
    let environment =
        [("NANOCLAW_GATEWAY", api.address()), ("NANOCLAW_GATEWAY_TOKEN", "token-1"), ("PATH", path.as_str())];
    session.start_with(&environment)
}

fn bash(command: &str) -> (&'static str, Value) {
    ("bash", json!({ "command": command }))
}

/// The blocks of the last message of a request.
fn last_blocks(body: &Value) -> Vec<Value> {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_array().unwrap().clone()
}

/// A result's text.
pub fn result(block: &Value) -> String {
    assert_eq!(block["type"], "tool_result", "{block:#}");
    block["content"].as_array().unwrap().iter().filter_map(|b| b["text"].as_str()).collect()
}

#[test]
fn calls_of_one_answer_get_their_results_in_order_and_only_the_last_text_is_sent() {
    let (session, api) = session();
    fs::write(session.dir.root().join("agent/a.txt"), "one\ntwo\n").unwrap();
    let _runner = start(&session, &api);
    api.script(Script::Blocks {
        blocks: vec![
            json!({"type": "thinking", "thinking": "hm", "signature": "sig"}),
            json!({"type": "text", "text": "Let me look."}),
            json!({"type": "tool_use", "id": "t1", "name": "read_file", "input": {"path": "a.txt"}}),
            json!({"type": "tool_use", "id": "t2", "name": "bash", "input": {"command": "echo three >> a.txt; exit 3"}}),
            json!({"type": "tool_use", "id": "t3", "name": "nonsense", "input": {}}),
        ],
        end: "tool_use",
    });
    session.say("m1", "what is in a.txt?");
    let first = api.request();
    let names: Vec<&str> = first.body["tools"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    for name in ["bash", "read_file", "write_file", "edit_file", "glob", "grep", "web_fetch", "todo", "task"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let second = api.request();
    let messages = second.body["messages"].as_array().unwrap();
    assert_eq!(messages[1]["content"][0], json!({"type": "thinking", "thinking": "hm", "signature": "sig"}));
    let results = last_blocks(&second.body);
    let ids: Vec<&Value> = results.iter().map(|b| &b["tool_use_id"]).collect();
    assert_eq!(ids, ["t1", "t2", "t3"]);
    assert!(result(&results[0]).contains("two"));
    assert!(result(&results[1]).contains('3'), "{}", results[1]);
    assert!(result(&results[2]).contains("There is no tool \"nonsense\"") && results[2]["is_error"] == true);
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1"]);
    assert_eq!(fs::read_to_string(session.dir.root().join("agent/a.txt")).unwrap(), "one\ntwo\nthree\n");
}

#[test]
fn what_only_reads_runs_side_by_side_and_so_do_helpers() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let task = |n: u32| ("task", json!({"prompt": format!("find number {n}")}));
    let tasks = [task(1), task(2)];
    api.script(Script::Blocks {
        blocks: tasks
            .iter()
            .enumerate()
            .map(|(n, (name, input))| json!({"type": "tool_use", "id": format!("t{n}"), "name": name, "input": input}))
            .collect(),
        end: "tool_use",
    });
    // Each helper's answer waits until the other's request is there, too.
    api.script(Script::Paced(vec!["found".into()]));
    api.script(Script::Paced(vec!["found".into()]));
    session.say("m1", "find both");
    api.request();
    let mut asked = [api.request(), api.request()].map(|request| {
        let names = request.body["tools"].to_string();
        assert!(names.contains("read_file") && !names.contains("\"task\""), "helpers have no helpers");
        request.last()
    });
    asked.sort();
    assert_eq!(asked, ["find number 1", "find number 2"]);
    api.release();
    api.release();
    let results = last_blocks(&api.request().body);
    assert_eq!(results.iter().map(result).collect::<Vec<_>>(), ["found", "found"]);
    session.wait_ack("m1", AckStatus::Completed);
}

#[test]
fn a_follow_up_in_the_middle_of_a_tool_is_read_with_its_result() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let gate = session.path("gate");
    api.script(Script::calls(&[bash(&format!("while ! test -e {}; do sleep 0.05; done; echo done", gate.display()))]));
    session.say("m1", "work");
    api.request();
    session.wait_for("the tool", || session.current_tool().filter(|tool| tool == "bash"));
    session.say("m2", "and hurry");
    session.wait_ack("m2", AckStatus::Processing);
    fs::write(gate, "").unwrap();
    let blocks = last_blocks(&api.request().body);
    assert!(result(&blocks[0]).contains("done"));
    assert!(blocks[1]["text"].as_str().unwrap().contains("and hurry"));
    session.wait_ack("m2", AckStatus::Completed);
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1"]);
    assert_eq!(session.current_tool(), None);
}

#[test]
fn stop_ends_a_tool_with_its_processes_within_two_seconds_and_the_conversation_goes_on() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let pid_file = session.path("pid");
    api.script(Script::calls(&[bash(&format!("sleep 1000 & echo $! > {}; wait", pid_file.display()))]));
    session.say("m1", "work");
    api.request();
    let pid = session.wait_for("the process", || fs::read_to_string(&pid_file).ok().filter(|pid| pid.ends_with('\n')));
    let asked = Instant::now();
    session.stop("s1");
    session.wait_ack("m1", AckStatus::Completed);
    let stat = format!("/proc/{}/stat", pid.trim());
    session.wait_for("its end", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(session.texts(), ["Stopped."]);
    session.say("m2", "and now?");
    let messages = api.request().messages();
    assert!(messages[2].1.contains("The user stopped this."), "{messages:?}");
    session.wait_ack("m2", AckStatus::Completed);
}

#[test]
fn an_answer_that_reached_its_longest_length_goes_on_and_a_pause_too() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let text = |text: &str| json!({"type": "text", "text": text});
    api.script(Script::Blocks { blocks: vec![text("The first half, ")], end: "max_tokens" });
    api.script(Script::Blocks {
        blocks: vec![text("a pause, "), json!({"type": "server_tool_use", "id": "s1", "name": "x", "input": {}})],
        end: "pause_turn",
    });
    session.say("m1", "tell me");
    assert_eq!(api.request().messages().len(), 1);
    assert!(api.request().last().contains("Go on exactly where it stopped"));
    let paused = api.request();
    assert_eq!(paused.messages().last().unwrap().0, "assistant");
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["The first half, a pause, answer 1"]);
}

#[test]
fn a_call_that_was_cut_off_is_not_run() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let call = json!({"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "touch cut"}});
    api.script(Script::Blocks { blocks: vec![call], end: "max_tokens" });
    session.say("m1", "work");
    api.request();
    assert!(api.request().last().contains("Go on exactly"));
    session.wait_ack("m1", AckStatus::Completed);
    assert!(!session.dir.root().join("agent/cut").exists());
}

#[test]
fn pictures_are_seen_when_they_come_and_when_they_are_read() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let inbox = session.dir.inbox("m1");
    fs::create_dir_all(&inbox).unwrap();
    fs::write(inbox.join("cat.png"), PNG).unwrap();
    fs::write(inbox.join("paper.pdf"), b"%PDF-1.7 not really").unwrap();
    fs::write(session.dir.root().join("agent/dog.png"), PNG).unwrap();
    let attachment = |name: &str| Attachment {
        name: name.into(),
        local_path: Some(format!("inbox/m1/{name}")),
        ..Attachment::default()
    };
    let attachments = vec![attachment("cat.png"), attachment("paper.pdf"), attachment("gone.png")];
    let chat = ChatIn { text: "look".into(), attachments, ..ChatIn::default() };
    api.script(Script::calls(&[("read_file", json!({"path": "dog.png"}))]));
    session.insert(&NewMessageIn { content: chat.to_json(), ..message("m1", "") });
    let blocks = last_blocks(&api.request().body);
    let kinds: Vec<&str> = blocks.iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text", "image", "document"]);
    assert_eq!(blocks[1]["source"]["media_type"], "image/png");
    let results = last_blocks(&api.request().body);
    let shown = results[0]["content"].as_array().unwrap().iter().any(|b| b["type"] == "image");
    assert!(shown, "{results:#?}");
    session.wait_ack("m1", AckStatus::Completed);
}

#[test]
fn a_conversation_that_is_too_long_is_shortened_and_asked_again() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    session.say("m1", "my name is Ann");
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    let too_long = Script::Status {
        code: 400,
        kind: "invalid_request_error",
        message: "prompt is too long: 200001 tokens > 200000 maximum",
        retry_after: None,
    };
    api.script(too_long.clone());
    api.script(Script::Say("Her name is Ann.".into()));
    session.say("m2", "who am I?");
    assert_eq!(api.request().messages().len(), 3);
    let asked = api.request();
    assert!(asked.last().contains("my name is Ann") && asked.body.get("tools").is_none(), "{}", asked.last());
    let shortened = api.request().messages();
    assert_eq!(shortened.len(), 1);
    assert!(shortened[0].1.contains("Her name is Ann.") && shortened[0].1.contains("who am I?"), "{shortened:?}");
    session.wait_ack("m2", AckStatus::Completed);
    let archive = session.dir.root().join("agent/conversations");
    let file = fs::read_dir(archive).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read_to_string(file).unwrap().contains("my name is Ann"));
    session.say("m3", "still?");
    assert_eq!(api.request().messages().len(), 3, "what was shortened stays so");
}

#[test]
fn a_window_that_is_smaller_than_thought_is_found_out() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    session.say("m1", &"my name is Ann ".repeat(1_000));
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    let too_long = Script::Status {
        code: 400,
        kind: "invalid_request_error",
        message: "prompt is too long: 9000 tokens > 8192 maximum",
        retry_after: None,
    };
    // The turn, the first try of the summary, and what is left after it.
    for script in [too_long.clone(), too_long.clone(), Script::Say("Ann.".into()), too_long, Script::Say("Ann!".into())]
    {
        api.script(script);
    }
    session.say("m2", "who am I?");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1", "answer 2"]);
    let lengths: Vec<usize> = (0..5).map(|_| api.request().last().len()).collect();
    assert!(lengths[2] < lengths[1], "{lengths:?}");
}

#[test]
fn slash_commands_are_answered_by_the_runner_and_stand_alone() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    fs::write(session.dir.root().join("agent/notes.md"), "tea").unwrap();
    session.say("c0", "/compact");
    session.wait_ack("c0", AckStatus::Completed);
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Completed);
    for (id, command) in [("c1", "/files"), ("c2", "/cost"), ("c3", "/context"), ("c4", "/compact")] {
        session.say(id, command);
        session.wait_ack(id, AckStatus::Completed);
    }
    session.say("c5", "/clear");
    session.say("m2", "hello again");
    session.wait_ack("m2", AckStatus::Completed);
    let texts = session.texts();
    assert_eq!(texts[0], "We have no conversation yet.");
    assert_eq!(texts[1], "answer 1");
    assert_eq!(texts[2], "notes.md (3 bytes)");
    assert!(texts[3].contains("10 in, 5 out"), "{texts:?}");
    assert!(texts[4].contains("window of 200000 tokens"), "{texts:?}");
    assert!(texts[5].starts_with("I shortened our conversation"), "{texts:?}");
    assert!(texts[6].starts_with("I have forgotten our conversation"), "{texts:?}");
    assert_eq!(texts[7], "answer 3", "the second answer was the summary");
    let requests: Vec<usize> = (0..3).map(|_| api.request().messages().len()).collect();
    assert_eq!(requests, [1, 1, 1]);
    assert_eq!(api.requests_left(), 0);
}

#[test]
fn a_model_may_be_silent_for_minutes_before_its_first_word() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::Silent);
    session.say("m1", "think hard");
    api.request();
    let declared = session.wait_for("the declaration", || session.silent_until());
    assert!(declared.duration_since(now()).as_secs() > 5 * 60, "{declared}");
    session.stop("s1");
    session.wait_ack("m1", AckStatus::Completed);
    api.client_gone();
}

#[test]
fn each_provider_goes_on_where_it_was() {
    let (session, api) = session();
    let turn = |provider: &str, id: &str| {
        session.configure(|c| c.provider = provider.into());
        let runner = start(&session, &api);
        session.say(id, "hello");
        session.wait_ack(id, AckStatus::Completed);
        runner.kill();
    };
    for (provider, id) in [("anthropic", "m1"), ("demo", "m2"), ("anthropic", "m3"), ("demo", "m4")] {
        turn(provider, id);
    }
    assert_eq!([api.request().messages().len(), api.request().messages().len()], [1, 3]);
    assert!(session.texts()[3].contains("turn 2"), "{:?}", session.texts());
}

#[test]
fn a_command_does_not_ask_the_model_about_what_is_only_context() {
    let (session, api) = session();
    session.context("x1", "just saying");
    session.say("c1", "/files");
    session.say("m1", "hello");
    let _runner = start(&session, &api);
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["My folder is empty.", "answer 1"]);
    let asked = api.request().last();
    assert!(asked.contains("just saying") && asked.contains("hello") && !asked.contains("/files"), "{asked}");
    assert_eq!(api.requests_left(), 0);
}

#[test]
fn what_a_turn_costs_is_reported_to_the_host() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::calls(&[bash("true")]));
    session.say("m1", "work");
    session.wait_ack("m1", AckStatus::Completed);
    let actions = session.actions();
    assert_eq!(actions.len(), 1);
    let report = &actions[0].content;
    assert_eq!(
        (&report["action"], &report["inputTokens"], &report["outputTokens"]),
        (&"usage".into(), &20.into(), &10.into())
    );
    assert_eq!(report["provider"], "anthropic");
}

#[test]
fn a_limit_that_is_over_soon_is_waited_for_with_one_notice() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let limited = Script::Status { code: 429, kind: "rate_limit_error", message: "limit", retry_after: Some(600) };
    api.script(limited);
    session.say("m1", "hello");
    api.request();
    session.wait_for("the notice", || session.texts().pop().filter(|t| t.ends_with("I will go on then.")));
    assert_eq!(session.ack("m1"), Some(AckStatus::Processing));
    let declared = session.silent_until().unwrap();
    assert!(declared.duration_since(now()).as_secs() > 590, "{declared}");
    session.stop("s1");
    session.wait_ack("m1", AckStatus::Completed);
    session.say("m2", "and now?");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.texts()[1..], ["Stopped.", "answer 1"]);
}

#[test]
fn a_kill_at_any_moment_of_a_turn_with_tools_leaves_a_conversation_that_goes_on() {
    const KILLS: u64 = 20;
    let (session, api) = session();
    let seed = now().as_nanosecond() as u64;
    eprintln!("seed {seed}");
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for n in 0..KILLS {
        let mut runner = start(&session, &api);
        for k in 0..3 {
            api.script(Script::calls(&[bash(&format!("echo {n}.{k} >> log; sleep 0.01")), bash("echo x")]));
        }
        let id = format!("m{n}");
        session.say(&id, &format!("work {n}"));
        // The moment is what is random here.
        let until = Instant::now() + Duration::from_millis(next() % 250);
        session.wait_for("the moment", || (Instant::now() >= until).then_some(()));
        assert!(runner.is_alive());
        runner.kill();
        let runner = start(&session, &api);
        session.wait_ack(&id, AckStatus::Completed);
        runner.kill();
        api.forget_script();
    }
    assert_eq!(api.violations(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(session.texts().len() as u64, KILLS, "seed {seed}: each is answered once");
}

#[test]
fn a_flood_from_a_tool_and_a_long_history_leave_the_runner_small() {
    const MAX_KIB: u64 = 40 * 1024;
    let (session, api) = session();
    let runner = start(&session, &api);
    api.script(Script::calls(&[bash("head -c 50000000 /dev/urandom | base64")]));
    session.say("m1", "flood");
    session.wait_ack("m1", AckStatus::Completed);
    let name = session.continuation("anthropic").unwrap();
    let peak = |runner: &Runner| {
        let status = fs::read_to_string(format!("/proc/{}/status", runner.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    assert!(peak(&runner) < MAX_KIB, "{} KiB", peak(&runner));
    runner.kill();
    let path = session.dir.state().join("anthropic").join(format!("{name}.jsonl"));
    let mut history = fs::read_to_string(&path).unwrap();
    for n in 0..5_000 {
        let line = |role: &str| json!({"role": role, "content": format!("{role} {n} {}", "word ".repeat(200))});
        history.push_str(&format!("{}\n{}\n", line("user"), line("assistant")));
    }
    fs::write(&path, history).unwrap();
    let runner = start(&session, &api);
    api.script(Script::Say("Much was said.".into()));
    session.say("m2", "and now?");
    session.wait_ack("m2", AckStatus::Completed);
    assert!(peak(&runner) < MAX_KIB, "{} KiB", peak(&runner));
    assert_eq!(session.texts().pop().unwrap(), "answer 2");
}
