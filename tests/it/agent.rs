//! Agents with tools in real containers: what they do, what they see, and what a kill in the middle leaves.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chat_api::{self, ChatApi, Dialect};
use crate::messages_api::{MessagesApi, Script};
use crate::support::docker::{attempt, docker};
use crate::support::wait::wait_for;
use crate::support::{Client, Host, Random, sqlite, texts};

fn start(api: &MessagesApi) -> Host {
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "sk-the-real-key");
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.set("MAX_CONCURRENT_CONTAINERS", "20");
    host.start();
    host
}

fn bash(command: &str) -> Script {
    Script::calls(&[("bash", json!({ "command": command }))])
}

fn folder(host: &Host, agent: &str) -> std::path::PathBuf {
    host.home().group(agent)
}

fn usage(host: &Host) -> Value {
    host.json(&["usage", "list"])
}

#[test]
fn an_agent_works_in_its_own_folder_as_nobody_in_particular_and_its_cost_is_counted_once() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script(bash("id -u; pwd; echo made > made.txt; env | grep -c GATEWAY_TOKEN"));
    let mut client = host.client();
    assert_eq!(client.ask("m1", "look around"), ["answer 1"]);
    api.request();
    let result = api.request().last();
    let lines: Vec<&str> = result.lines().collect();
    // Never root, the folder, and no token in what a command prints by accident.
    assert!(lines[0] != "0" && lines[1..3] == ["/workspace/agent", "0"], "{result}");
    assert_eq!(fs::read_to_string(folder(&host, "main").join("made.txt")).unwrap(), "made\n");
    let counted = wait_for("the usage", &[], || {
        let rows = usage(&host);
        (rows.as_array().is_some_and(|rows| !rows.is_empty())).then_some(rows)
    });
    assert_eq!(counted[0]["input_tokens"], 20, "{counted:#}");
    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_run_ended(1);
    assert_eq!(client.ask("m2", "again"), ["answer 2"]);
    wait_for("the next", &[], || (usage(&host)[0]["input_tokens"] == 30).then_some(()));
}

#[test]
fn stop_from_the_chat_ends_a_tool_in_its_container() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script(bash("sleep 4711"));
    let mut client = host.client();
    client.say("m1", "sleep");
    api.request();
    let container = wait_for("a container", &[], || host.containers().pop());
    let sleeps = || attempt(&["top", &container]).stdout.contains("sleep 4711");
    wait_for("the tool", &[], || sleeps().then_some(()));
    client.say("m2", "/stop");
    wait_for("its end", &[], || (!sleeps()).then_some(()));
    assert_eq!(texts(&client.turn("m1")), ["Stopped."]);
    assert_eq!(client.ask("m3", "still there?"), ["answer 1"]);
}

#[test]
fn a_follow_up_is_read_between_two_tools_and_a_long_conversation_is_shortened() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    let gate = folder(&host, "main").join("gate");
    api.script(bash("while ! test -e gate; do sleep 0.05; done"));
    let mut client = host.client();
    client.say("m1", "work");
    api.request();
    client.say("m2", "and hurry");
    let claimed = "SELECT COUNT(*) FROM processing_ack WHERE status = 'processing'";
    let outbound = host.dir().outbound_db();
    wait_for("both", &[], || (sqlite::column(&outbound, claimed).ok()? == ["2"]).then_some(()));
    fs::create_dir_all(gate.parent().unwrap()).unwrap();
    fs::write(&gate, "").unwrap();
    assert!(api.request().last().contains("and hurry"));
    assert_eq!(texts(&client.turn("m1")), ["answer 1"]);
    let too_long = "prompt is too long: 200001 tokens > 200000 maximum";
    api.script(Script::Status { code: 400, kind: "invalid_request_error", message: too_long, retry_after: None });
    api.script(Script::Say("They were in a hurry.".into()));
    assert_eq!(client.ask("m3", "why?"), ["answer 2"]);
    let kept = fs::read_dir(folder(&host, "main").join("conversations")).unwrap().count();
    assert_eq!(kept, 1);
}

#[test]
fn a_chat_completions_server_serves_the_same_agent() {
    let api = ChatApi::on_port(Dialect::Ollama);
    let mut host = Host::new();
    host.set("OPENAI_BASE_URL", api.address());
    host.set("NANOCLAW_MODEL", "qwen");
    host.start();
    let command = json!({"command": "echo made > made.txt; cat made.txt"}).to_string();
    api.script(chat_api::Script::Call { text: "", calls: vec![("bash", command)] });
    let mut client = host.client();
    assert_eq!(client.ask("m1", "make it"), ["answer 1"]);
    api.request();
    let second = api.request();
    assert!(second.last().contains("made"), "{:?}", second.messages());
    assert_eq!(fs::read_to_string(folder(&host, "main").join("made.txt")).unwrap(), "made\n");
}

/// Each agent's container is killed once, at a random moment of a turn with several tools.
#[test]
fn killed_at_random_moments_of_their_work_all_agents_answer_once() {
    const AGENTS: usize = 20;
    let mut random = Random::new("kills");
    let api = MessagesApi::on_port();
    let host = start(&api);
    let names: Vec<String> = (0..AGENTS).map(|n| format!("a{n}")).collect();
    for name in &names {
        host.add_agent(name);
    }
    // Whoever asks: three rounds of work, then an answer, as the conversation itself says.
    api.script_by(|request| {
        let rounds = request.messages().iter().filter(|(role, _)| role == "assistant").count();
        (rounds < 3).then(|| bash("sleep 0.2; echo round >> log"))
    });
    let mut client = host.client();
    for name in &names {
        client.send(&json!({"listen": format!("local:{name}")}));
        say(&mut client, name);
    }
    let seen = |name: &String| host.containers().into_iter().find(|c| c.starts_with(&format!("nanoclaw-{name}-")));
    let victims: Vec<(String, Duration)> = names
        .iter()
        .map(|name| wait_for("a container", &[], || seen(name)))
        .map(|container| (container, Duration::from_millis(random.within(0..1_500))))
        .collect();
    thread::scope(|scope| {
        for (container, moment) in &victims {
            scope.spawn(move || {
                let _nothing = crossbeam_channel::after(*moment).recv();
                attempt(&["kill", "--signal", "KILL", container])
            });
        }
    });
    let mut answered = std::collections::BTreeMap::new();
    while answered.len() < AGENTS {
        let line = client.next();
        if line["type"] == "text" {
            let chat = line["platformId"].as_str().unwrap_or_default().to_owned();
            *answered.entry(chat).or_insert(0) += 1;
        }
    }
    assert!(answered.values().all(|n| *n == 1), "{}: {answered:?}", random.seed());
    assert_eq!(api.violations(), Vec::<String>::new(), "{}", random.seed());
    for name in &names {
        let log = folder(&host, name).join("log");
        assert!(Path::new(&log).exists(), "{name}");
    }
}

fn say(client: &mut Client, name: &str) {
    let to = json!({"channelType": "cli", "platformId": format!("local:{name}")});
    client.send(&json!({"id": format!("{name}-1"), "text": "work", "to": to}));
}
