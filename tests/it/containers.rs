//! What a container may do, how its end is noticed, and who gets one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nanoclaw::setup::wire_terminal;
use nanoclaw::store::{AgentGroup, ContainerStatus, EndReason, StartReason};
use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Script};
use crate::support::docker::{attempt, docker, inspect, labelled};
use crate::support::wait::{now, pass, wait_for, wait_until};
use crate::support::{Host, Random, files_below, process, sqlite, texts};

const NOTICED: Duration = Duration::from_secs(1);

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_container_has_no_more_than_it_needs() {
    let host = Host::started();
    host.chat("hello");
    let container = inspect(&host.container());
    let limits = &container["HostConfig"];
    assert_eq!(limits["CapDrop"], json!(["ALL"]));
    assert_eq!(limits["CapAdd"], Value::Null);
    assert_eq!(limits["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(limits["ReadonlyRootfs"], true);
    assert_eq!(limits["Privileged"], false);
    assert_eq!(limits["Memory"], 512 << 20);
    assert_eq!(limits["MemorySwap"], 512 << 20);
    assert!(limits["PidsLimit"].as_i64().is_some_and(|n| (1..=4096).contains(&n)), "{limits}");
    assert!(limits["Ulimits"].as_array().is_some_and(|u| u.iter().any(|u| u["Name"] == "fsize")), "{limits}");
    assert_eq!(limits["LogConfig"]["Type"], "json-file");
    assert_eq!(limits["LogConfig"]["Config"], json!({"max-size": "1m", "max-file": "2"}));
    assert_eq!(limits["AutoRemove"], false);

    let user = container["Config"]["User"].as_str().unwrap();
    let own = if uid() == 0 {
        "70707:70707".to_owned()
    } else {
        format!("{}:{}", uid(), rustix::process::getegid().as_raw())
    };
    assert_eq!(user, own);
    assert!(!user.starts_with("0:"));

    let mounts = container["Mounts"].as_array().unwrap();
    let writable = |target: &str| {
        let mount =
            mounts.iter().find(|m| m["Destination"] == target).unwrap_or_else(|| panic!("{target}: {mounts:#?}"));
        mount["RW"].as_bool().unwrap()
    };
    for target in ["/workspace", "/workspace/global", "/app/nanoclaw-runner", "/run/nanoclaw"] {
        assert!(!writable(target), "{target}");
    }
    for target in ["/workspace/out", "/workspace/agent"] {
        assert!(writable(target), "{target}");
    }
    let sources: Vec<&str> = mounts.iter().filter_map(|m| m["Source"].as_str()).collect();
    assert!(
        !sources.iter().any(|s| s.ends_with("docker.sock") || s.ends_with("v2.db") || s.ends_with(".env")),
        "{sources:?}"
    );
    assert_eq!(container["Config"]["Labels"]["nanoclaw.session"], host.session().id);
}

#[test]
fn nothing_can_be_written_to_the_workspace_from_inside() {
    let host = Host::started();
    host.chat("hello");
    let container = host.container();
    for attack in [
        "echo x >/workspace/inbound.db",
        "echo x >/workspace/container.json",
        "touch /workspace/new",
        "ln -s /etc /workspace/skills/x",
        "mv /workspace/inbound.db /workspace/out/",
        "rm /workspace/alive",
        "echo x >/workspace/inbound.db-journal",
        "touch /workspace/global/x",
        "touch /app/x",
        "touch /usr/bin/x",
        "rm /run/nanoclaw/gateway.sock",
    ] {
        let tried = attempt(&["exec", &container, "sh", "-c", attack]);
        assert_ne!(tried.code, Some(0), "{attack}");
    }
    let allowed = attempt(&["exec", &container, "sh", "-c", "touch /workspace/out/x /workspace/agent/x /tmp/x ~/x"]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    assert!(host.chat("still there?").contains("turn 2"));
}

/// Everything of a container that can be seen, and every process, file and log there is: the
/// model's key is in the host's own environment and nowhere else.
#[test]
fn the_key_of_the_model_is_nowhere_but_in_the_host() {
    let api = MessagesApi::on_port();
    let mut host = Host::new();
    let key = format!("sk-marker-{}", now().as_nanosecond());
    host.set("ANTHROPIC_API_KEY", &key);
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.set("NANOCLAW_LOG", "debug");
    host.start();
    assert_eq!(host.chat("hello"), "answer 1\n");
    assert_eq!(api.request().headers["x-api-key"], key, "the key was used");
    let container = host.container();

    assert!(!inspect(&container).to_string().contains(&key));
    assert!(!docker(&["logs", &container]).contains(&key));
    let environment = docker(&["exec", &container, "env"]);
    assert!(environment.contains("HOME=") && !environment.contains(&key), "{environment}");
    let inside = "grep -rsl \"$0\" /workspace /tmp /home /app /run /etc /proc/[0-9]*/environ; true";
    assert_eq!(docker(&["exec", &container, "sh", "-c", inside, &key]).replace("/proc/self/environ", ""), "");

    let has_key = |bytes: &[u8]| bytes.windows(key.len()).any(|w| w == key.as_bytes());
    assert!(has_key(&process::read(host.pid(), "environ")), "the search finds what is there");
    for pid in process::all() {
        assert!(!has_key(&process::read(pid, "cmdline")), "{}", process::command_line(pid));
        if pid != host.pid() {
            assert!(!has_key(&process::read(pid, "environ")), "{}", process::command_line(pid));
        }
    }
    let files = files_below(host.home().root());
    assert!(files.len() > 5, "{files:?}");
    for path in files {
        assert!(!has_key(&fs::read(&path).unwrap()), "{}", path.display());
    }
    assert!(host.log().iter().all(|line| !line.contains(&key)));
}

/// The engine's command line program outlives nobody, but everyone of the same user can look at it.
#[test]
fn the_engine_s_program_is_not_handed_the_key() {
    let mut host = Host::new();
    let seen = host.scratch().join("seen");
    let wrapper = host.scratch().join("docker");
    let script = format!("#!/bin/sh\nenv >>'{0}'; echo \"$*\" >>'{0}'\nexec docker \"$@\"\n", seen.display());
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    host.set("DOCKER", wrapper.display().to_string());
    host.set("ANTHROPIC_API_KEY", "sk-marker-for-docker");
    host.set("NANOCLAW_PROVIDER", "demo");
    host.start();
    host.chat("hello");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("run --detach"), "{seen}");
    assert!(!seen.contains("sk-marker-for-docker"));
}

#[test]
fn an_exit_is_noticed_within_a_second_recorded_and_cleaned_up() {
    let host = Host::started();
    host.chat("hello");
    let container = host.container();
    assert_eq!(process::descendants(host.pid()), [0; 0], "nothing of the engine's runs while a container does");

    docker(&["kill", "--signal", "KILL", &container]);
    let died = host.events().wait("die", 1);
    let run = host.wait_run_ended(1);
    let late = run.ended_at.unwrap().duration_since(died.at);
    assert!(late.unsigned_abs() <= NOTICED, "noticed {late:#} after its end");
    assert_eq!((run.end_reason, run.exit_code, run.oom), (Some(EndReason::Crashed), Some(137), false));
    assert_eq!(host.containers(), [] as [&str; 0]);

    let log = host.home().container_logs(&host.session().id).join(format!("{container}.log"));
    assert!(fs::read_to_string(&log).unwrap().contains("Runner started"), "{}", log.display());
    assert_eq!(host.session().container_status, ContainerStatus::Stopped);
    let left = wait_until(NOTICED, &[], || process::descendants(host.pid()).is_empty().then_some(()));
    assert!(
        left.is_some(),
        "still there: {:?}",
        process::descendants(host.pid()).into_iter().map(process::command_line).collect::<Vec<_>>()
    );
    let asked = Instant::now();
    assert!(host.chat("second").contains("turn 2. You said: \"second\""));
    assert!(asked.elapsed() < Duration::from_secs(4), "one death is no loop: {:?}", asked.elapsed());
}

#[test]
fn an_idle_container_leaves_by_itself() {
    let mut host = Host::new();
    host.set("CONTAINER_IDLE_SECONDS", "1");
    host.start();
    host.chat("hello");
    let run = host.wait_run_ended(1);
    assert_eq!((run.end_reason, run.exit_code), (Some(EndReason::Exited), Some(0)));
    host.assert_no_complaint();
}

/// The next message comes at the very moment at which the idle container leaves.
#[test]
fn a_message_while_the_container_leaves_is_answered_once() {
    const MESSAGES: usize = 14;
    let mut random = Random::new("a_message_while_the_container_leaves");
    let mut host = Host::new();
    host.set("CONTAINER_IDLE_SECONDS", "1");
    host.start();
    let mut client = host.client();
    for n in 0..MESSAGES {
        let lines = {
            client.say(&format!("m{n}"), &format!("message {n}."));
            client.turn(&format!("m{n}"))
        };
        let answers = texts(&lines);
        assert!(answers.len() == 1 && answers[0].contains(&format!("\"message {n}.\"")), "message {n}: {lines:#?}");
        pass(Duration::from_millis(random.within(900..1_150)));
    }
    host.wait_completed(MESSAGES);
    assert_eq!(host.replies().len(), MESSAGES);
    let started = host.events().started(2);
    println!("{} containers for {MESSAGES} messages", started.len());
    assert!(started.len() > 1, "some containers did leave");
    assert_eq!(host.logged("tried again"), 0, "nobody died with a message");
}

#[test]
fn a_message_whose_container_is_killed_is_answered_once_by_the_next_one() {
    let api = MessagesApi::on_port();
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.start();
    api.script(Script::Paced(vec!["this is never he".into(), "ard".into()]));
    api.script(Script::Say("the answer".into()));
    let mut client = host.client();
    client.say("m1", "what is it?");
    assert!(api.request().last().contains("what is it?"));
    let killed = Instant::now();
    docker(&["kill", "--signal", "KILL", &host.container()]);
    assert!(api.request().last().contains("what is it?"));
    let waited = killed.elapsed();
    assert!((4..15).contains(&waited.as_secs()), "tried again after {waited:?}");
    assert_eq!(texts(&client.turn("m1")), ["the answer"]);
    host.wait_completed(1);

    let reasons: Vec<_> = host.runs().iter().map(|r| (r.start_reason, r.end_reason)).collect();
    assert_eq!(reasons, [(StartReason::Message, Some(EndReason::Crashed)), (StartReason::Retry, None)]);
    assert_eq!(sqlite::column(&host.dir().inbound_db(), "SELECT tries FROM messages_in").unwrap(), ["1"]);
    assert_eq!(api.requests_left(), 0);
}

/// A runner that cannot run: told once, with what helps, and no container is started in a loop.
#[test]
fn a_container_that_always_dies_is_reported_once_and_its_message_kept() {
    let mut host = Host::new();
    let broken = host.scratch().join("runner");
    fs::write(&broken, "this is no program").unwrap();
    host.set("NANOCLAW_RUNNER", broken.display().to_string());
    host.start();
    let mut client = host.client();
    let begun = Instant::now();
    client.say("m1", "is anybody there?");
    let notice = client.text();
    let waited = begun.elapsed();
    assert!(notice.contains("Your message is kept"), "{notice}");
    assert!(notice.contains("nanoclaw logs") || notice.contains("make build"), "no remedy: {notice}");
    let tries = host.runs().len();
    assert!(tries as u64 <= 2 + waited.as_secs() / 5, "{tries} tries in {waited:?}");
    assert_eq!(host.inbound(), [("m1:main".to_owned(), "pending".to_owned())]);

    // The next failure is no news.
    wait_for("another try", &[], || (host.runs().len() > tries).then_some(()));
    host.wait_run_ended(tries + 1);
    client.say("m2", "and now?");
    client.accepted("m2");
    host.sigterm();
    host.unset("NANOCLAW_RUNNER");
    host.start();
    let mut client = host.client();
    let answers = texts(&client.turn("m2"));
    assert!(answers.iter().any(|a| a.contains("is anybody there?")), "{answers:?}");
    assert!(!answers.iter().any(|a| a.contains("cannot start")), "told twice: {answers:?}");
    assert!(client.ask("m3", "hello")[0].contains("demo"));
    let notices = sqlite::column(&host.home().store(), "SELECT content FROM host_outbox").unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
}

#[test]
fn the_longest_idle_makes_room_when_all_places_are_taken() {
    let mut host = Host::new();
    host.set("MAX_CONCURRENT_CONTAINERS", "1");
    host.start();
    host.chat("hello");
    let store = host.store();
    let first = host.session();
    let second = AgentGroup {
        id: "second".into(),
        name: "Second".into(),
        folder: "second".into(),
        agent_provider: None,
        created_at: now(),
    };
    store.create_agent_group(&second).unwrap();
    wire_terminal(&store, "local:second", &second).unwrap();

    let output = host.run(&["chat", "--to", "second", "are you there?"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("turn 1. You said: \"are you there?\""), "{output:?}");
    let run = store.container_runs_of(&first.id, 1).unwrap().pop().unwrap();
    assert_eq!(run.end_reason, Some(EndReason::Evicted));
    assert_eq!(store.session(&first.id).unwrap().container_status, ContainerStatus::Stopped);
    assert_eq!(host.containers().len(), 1);
    assert!(host.chat("and you?").contains("turn 2. You said: \"and you?\""), "back again, with its memory");
    host.assert_no_complaint();
}

#[test]
fn two_agents_at_once_have_a_container_each() {
    let host = Host::started();
    host.chat("hello");
    let store = host.store();
    let second =
        AgentGroup { id: "b".into(), name: "B".into(), folder: "b".into(), agent_provider: None, created_at: now() };
    store.create_agent_group(&second).unwrap();
    assert_eq!(host.run(&["chat", "--to", "b", "hello"]).code, Some(0));
    assert_eq!(host.containers().len(), 2);
    assert_eq!(labelled(&host.label()).len(), 2);
}
