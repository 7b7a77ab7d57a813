//! The `claude` provider: the real runner with the real Claude Code CLI, against a strict stand-in for the Messages
//! API. `make test-claude` gets the CLI and says where it is in `NANOCLAW_CLAUDE_CLI`; `cargo test` alone leaves this out.

#[path = "../support/fake_http.rs"]
mod fake_http;
#[path = "../support/messages_api.rs"]
mod messages_api;
#[path = "../run/session.rs"]
#[allow(dead_code)] // this binary uses another part of it
mod session;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nanoclaw_session::outbound::{OutboundDb, continuation_key};
use nanoclaw_session::row::AckStatus;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::json;

use crate::messages_api::{MessagesApi, Request, Script};
use crate::session::{Runner, Session, now};

/// A session with the provider, the API behind its gateway's socket, and a home.
struct World {
    session: Session,
    api: MessagesApi,
    path: String,
}

impl World {
    fn new() -> World {
        let session = Session::new();
        session.configure(|c| c.provider = "claude".into());
        fs::write(session.dir.instructions(), "Be kind.").unwrap();
        let api = MessagesApi::on_socket(&session.path("gateway.sock"));
        fs::create_dir(session.path("home")).unwrap();
        fs::create_dir(session.path("bin")).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", session.path("bin").display());
        World { session, api, path }
    }

    fn with_cli() -> World {
        let world = World::new();
        let cli = std::env::var_os("NANOCLAW_CLAUDE_CLI").expect("NANOCLAW_CLAUDE_CLI: make test-claude");
        std::os::unix::fs::symlink(cli, world.session.path("bin").join("claude")).unwrap();
        world
    }

    fn start(&self) -> Runner {
        let home = self.session.path("home");
        self.session.start_with(&[
            ("NANOCLAW_GATEWAY", self.api.address()),
            ("NANOCLAW_GATEWAY_TOKEN", "token-1"),
            ("HOME", home.to_str().unwrap()),
            ("PATH", &self.path),
        ])
    }

    /// The model runs a command that ends when the test opens the gate.
    fn script_gated(&self, input: serde_json::Value) -> Gate {
        let path = self.session.path("gate");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut input = input;
        input["command"] = format!("echo at the gate; cat {}", path.display()).into();
        input["description"] = "Wait".into();
        self.api.script(call("Bash", input));
        Gate { path }
    }

    /// The processes of the CLI in this session.
    fn clis(&self) -> Vec<Pid> {
        let mark = format!("--append-system-prompt-file={}", self.session.path("home").display());
        let is_ours = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&mark)
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).filter_map(Pid::from_raw).collect()
    }

    #[track_caller]
    fn cli(&self) -> Pid {
        let clis = self.clis();
        assert_eq!(clis.len(), 1, "{clis:?}");
        clis[0]
    }

    fn continuation(&self) -> Option<String> {
        self.session.continuation("claude")
    }

    #[track_caller]
    fn answered(&self, id: &str, text: &str) {
        self.session.say(id, text);
        self.session.wait_ack(id, AckStatus::Completed);
    }

    fn store_continuation(&self, value: &str) {
        let mut db = OutboundDb::open(&self.session.dir).unwrap();
        db.write(|tx| tx.set_state(&continuation_key("claude"), value, now())).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // In a container it would die with the runner.
        for pid in self.clis() {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Waits for the command; it is let through when what is returned is dropped.
    #[track_caller]
    fn arrived(&self, session: &Session) -> File {
        let open = || File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&self.path).ok();
        session.wait_for("command at the gate", open)
    }
}

#[track_caller]
fn gone(pid: Pid) {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let timeout = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    let ended =
        rustix::event::poll(&mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)], Some(&timeout));
    assert_eq!(ended.unwrap(), 1, "{pid:?} lives");
}

/// A container like the host's: without a network, capabilities or a root that can be written to.
struct Container(String);

impl Container {
    #[allow(clippy::disallowed_methods)] // the real engine is what is tested
    fn start(world: &World) -> Container {
        let name = format!("nanoclaw-claude-test-{}", std::process::id());
        let at = |path: &str| world.session.path(path).display().to_string();
        fs::create_dir(at("home/.claude")).unwrap();
        let open = |path: String| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        let root = world.session.dir.root().display().to_string();
        [at(""), at("home/.claude"), at("gateway.sock")].into_iter().for_each(open);
        ["/out", "/out/state", "/out/outbox", "/agent"].iter().for_each(|folder| open(format!("{root}{folder}")));
        let cli = fs::canonicalize(at("bin/claude")).unwrap().display().to_string();
        let runner = env!("CARGO_BIN_EXE_nanoclaw-runner").to_owned();
        let mounts = [
            (root.clone(), "/workspace", ",readonly"),
            (format!("{root}/out"), "/workspace/out", ""),
            (format!("{root}/agent"), "/workspace/agent", ""),
            (at("home/.claude"), "/home/agent/.claude", ""),
            (at("gateway.sock"), "/run/nanoclaw/gateway.sock", ""),
            (runner, "/app/nanoclaw-runner", ",readonly"),
            (cli, "/usr/local/bin/claude", ",readonly"),
        ];
        let mounts = mounts.map(|(from, to, mode)| format!("--mount=type=bind,source={from},target={to}{mode}"));
        let flags = "run --detach --init --user=70707:70707 --cap-drop=ALL --security-opt=no-new-privileges --read-only \
                     --pids-limit=512 --memory=512m --network=none --tmpfs=/tmp --tmpfs=/home/agent:mode=1777 \
                     --env=NANOCLAW_GATEWAY_TOKEN=token-1 --workdir=/workspace/agent --entrypoint=/app/nanoclaw-runner";
        let mut docker = std::process::Command::new("docker");
        docker.args(flags.split_whitespace()).arg(format!("--name={name}")).args(mounts);
        let started = docker.args(["nanoclaw-agent:latest", "run"]).output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Container(name)
    }
}

impl Drop for Container {
    #[allow(clippy::disallowed_methods)] // the real engine is what is tested
    fn drop(&mut self) {
        let removed = std::process::Command::new("docker").args(["rm", "--force", &self.0]).output();
        assert!(removed.is_ok_and(|removed| removed.status.success()) || std::thread::panicking());
    }
}

/// Everything the model is told with this request, as it is.
fn whole(request: &Request) -> String {
    request.body["messages"].to_string()
}

/// The model calls a tool. The CLI tells its calls apart by their ids.
fn call(name: &str, input: serde_json::Value) -> Script {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let id = format!("toolu_{}", CALLS.fetch_add(1, Ordering::Relaxed));
    let block = json!({"type": "tool_use", "id": id, "name": name, "input": input});
    Script::Blocks { blocks: vec![block], end: "tool_use" }
}

fn status(code: u16, retry_after: Option<u64>) -> Script {
    Script::Status { code, kind: "some_error", message: "some reason", retry_after }
}

#[test]
fn without_the_cli_the_user_reads_how_to_get_it() {
    let world = World::new();
    let _runner = world.start();
    world.session.say("m1", "hello");
    world.session.wait_ack("m1", AckStatus::Failed);
    let text = world.session.texts().remove(0);
    assert!(text.contains("INSTALL_CLAUDE=true") && text.contains("make image"), "{text}");
}

#[test]
fn a_conversation_goes_on_in_one_process_and_survives_it() {
    let world = World::with_cli();
    let runner = world.start();
    world.answered("m1", "my name is Ann");
    let request = world.api.request();
    assert_eq!((&*request.headers["x-api-key"], &*request.headers["authorization"]), ("token-1", "Bearer token-1"));
    assert!(request.body["system"].to_string().contains("Be kind."));
    let (cli, continuation) = (world.cli(), world.continuation().unwrap());
    world.answered("m2", "who am I?");
    assert_eq!(world.cli(), cli);
    let request = world.api.request();
    assert!(whole(&request).contains("my name is Ann") && whole(&request).contains("answer 1"));

    kill_process(cli, Signal::KILL).unwrap();
    gone(cli);
    world.answered("m3", "still there?");
    assert!(whole(&world.api.request()).contains("my name is Ann"), "it died between two turns");

    let cli = world.cli();
    runner.terminate();
    assert_eq!(runner.exit_code(), 0);
    gone(cli);
    let _runner = world.start();
    world.answered("m4", "and now?");
    let request = world.api.request();
    assert!(whole(&request).contains("my name is Ann") && whole(&request).contains("answer 3"));
    assert_eq!(world.continuation(), Some(continuation));
    assert_eq!(world.session.texts(), ["answer 1", "answer 2", "answer 3", "answer 4"]);
}

#[test]
fn a_tool_is_declared_while_it_runs_and_sees_no_key() {
    let world = World::with_cli();
    let _runner = world.start();
    let gate = world.script_gated(json!({"timeout": 300_000}));
    world.api.script(call("Bash", json!({"command": "env", "description": "Look"})));
    world.session.say("m1", "do it");
    let waits = gate.arrived(&world.session);
    let declared = world.session.wait_for("declaration", || world.session.silent_until());
    assert!(declared > now() + jiff::SignedDuration::from_secs(290), "{declared}");
    drop(waits);
    world.session.wait_ack("m1", AckStatus::Completed);
    world.api.request();
    assert!(whole(&world.api.request()).contains("at the gate"));
    let environment = whole(&world.api.request());
    assert!(environment.contains("HOME=") && !environment.contains("token-1"), "{environment}");
    assert_eq!((world.session.texts(), world.session.silent_until()), (vec!["answer 1".into()], None));
}

#[test]
fn a_tool_that_we_have_a_better_one_for_is_refused_with_a_hint() {
    let world = World::with_cli();
    let _runner = world.start();
    let input = json!({"cron": "0 9 * * *", "prompt": "x"});
    world.api.script(call("CronCreate", input));
    world.answered("m1", "remind me");
    world.api.request();
    let request = world.api.request();
    assert!(whole(&request).contains("mcp__nanoclaw__schedule_task"), "{}", whole(&request));
}

#[test]
fn a_follow_up_reaches_a_running_turn() {
    let world = World::with_cli();
    let _runner = world.start();
    let gate = world.script_gated(json!({}));
    world.session.say("m1", "do it");
    let waits = gate.arrived(&world.session);
    world.session.say("m2", "and this");
    world.session.wait_ack("m2", AckStatus::Processing);
    drop(waits);
    world.session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(world.session.ack_with_time("m1"), world.session.ack_with_time("m2"));

    world.api.script(Script::Paced(vec!["first".into()]));
    world.session.say("m3", "tell me");
    while !whole(&world.api.request()).contains("tell me") {}
    world.session.say("m4", "more");
    world.session.wait_ack("m4", AckStatus::Processing);
    world.api.release();
    world.session.wait_ack("m4", AckStatus::Completed);
    assert!(whole(&world.api.request()).contains("more"));
    assert_eq!(world.session.ack_with_time("m3"), world.session.ack_with_time("m4"));
    assert!(world.session.texts()[1].starts_with("first\n\nanswer "), "{:?}", world.session.texts());
}

#[test]
fn stop_ends_an_answer_and_a_tool_within_two_seconds_and_the_conversation_goes_on() {
    let world = World::with_cli();
    let _runner = world.start();
    world.api.script(Script::Paced(vec!["half an".into(), " answer".into()]));
    world.session.say("m1", "hello");
    world.api.request();
    let asked = Instant::now();
    world.session.stop("s1");
    world.api.client_gone();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    world.session.wait_ack("m1", AckStatus::Completed);
    let cli = world.cli();

    let gate = world.script_gated(json!({}));
    world.session.say("m2", "do it");
    let mut waits = gate.arrived(&world.session);
    let asked = Instant::now();
    world.session.stop("s2");
    world.session.wait_ack("m2", AckStatus::Completed);
    // Nobody reads it any more: the command is gone.
    world.session.wait_for("end of the command", || waits.write_all(b"x").err());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    world.answered("m3", "go on");
    assert_eq!(world.cli(), cli);
    assert_eq!(world.session.texts(), ["Stopped.", "Stopped.", "answer 1"]);
}

#[test]
fn a_cli_that_does_not_obey_is_killed_with_its_tools() {
    let world = World::with_cli();
    let _runner = world.start();
    let gate = world.script_gated(json!({}));
    world.session.say("m1", "do it");
    let mut waits = gate.arrived(&world.session);
    let cli = world.cli();
    kill_process(cli, Signal::STOP).unwrap();
    let asked = Instant::now();
    world.session.stop("s1");
    gone(cli);
    world.session.wait_for("end of the command", || waits.write_all(b"x").err());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    world.answered("m2", "go on");
}

#[test]
fn a_cli_that_dies_in_a_turn_is_started_again_and_resumes() {
    let world = World::with_cli();
    let _runner = world.start();
    world.answered("m1", "my name is Ann");
    world.api.request();
    world.api.script(Script::Paced(vec!["half".into()]));
    world.session.say("m2", "who am I?");
    world.api.request();
    kill_process(world.cli(), Signal::KILL).unwrap();
    world.session.wait_ack("m2", AckStatus::Completed);
    let request = world.api.request();
    assert!(whole(&request).contains("my name is Ann") && whole(&request).contains("who am I?"));
    assert_eq!(world.session.texts(), ["answer 1", "answer 2"]);
}

#[test]
fn a_runner_that_was_killed_in_a_turn_resumes() {
    let world = World::with_cli();
    let runner = world.start();
    world.answered("m1", "my name is Ann");
    world.api.request();
    world.api.script(Script::Paced(vec!["half".into()]));
    world.session.say("m2", "who am I?");
    world.api.request();
    let cli = world.cli();
    runner.kill();
    kill_process(cli, Signal::KILL).unwrap();
    let _runner = world.start();
    world.session.wait_ack("m2", AckStatus::Completed);
    assert!(whole(&world.api.request()).contains("my name is Ann"));
    assert_eq!(world.session.texts(), ["answer 1", "answer 2"]);
}

#[test]
fn a_conversation_that_is_lost_begins_anew_and_nobody_notices() {
    for lost in ["12345678-1234-4234-8234-123456789abc", "mock-session-1"] {
        let world = World::with_cli();
        world.store_continuation(lost);
        let _runner = world.start();
        world.answered("m1", "hello");
        world.api.request();
        assert_eq!(world.session.texts(), ["answer 1"]);
        assert!(world.continuation().is_some_and(|c| c != lost));
    }
}

#[test]
fn what_passes_is_waited_for_and_a_limit_is_not() {
    let world = World::with_cli();
    let _runner = world.start();
    world.api.script(status(529, None));
    world.api.script(status(529, None));
    world.answered("m1", "hello");
    world.api.script(status(429, Some(3_600)));
    world.session.say("m2", "hello");
    let texts = world.session.wait_for("notice", || Some(world.session.texts()).filter(|texts| texts.len() == 2));
    assert!(texts[1].starts_with("The model's limit is used up until "), "{texts:?}");
}

#[test]
fn what_never_passes_is_not_tried_for_minutes() {
    for (script, sentence) in [
        (status(401, None), "The model refused the key."),
        (status(400, None), "The model gave no answer: API Error: 400"),
        (Script::Refuse, "The model declined"),
    ] {
        let world = World::with_cli();
        let _runner = world.start();
        (0..20).for_each(|_| world.api.script(script.clone()));
        let asked = Instant::now();
        world.session.say("m1", "hello");
        world.session.wait_ack("m1", AckStatus::Failed);
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        assert!(world.session.texts()[0].starts_with(sentence), "{:?}", world.session.texts());
    }
}

#[test]
fn another_system_prompt_takes_another_process_of_the_same_conversation() {
    let world = World::with_cli();
    let _runner = world.start();
    world.answered("m1", "my name is Ann");
    world.api.request();
    let (cli, continuation) = (world.cli(), world.continuation());
    fs::write(world.session.dir.instructions(), "Be brief.").unwrap();
    world.answered("m2", "who am I?");
    let request = world.api.request();
    let system = request.body["system"].to_string();
    assert!(system.contains("Be brief.") && !system.contains("Be kind."));
    assert!(whole(&request).contains("my name is Ann"));
    gone(cli);
    assert_eq!(world.continuation(), continuation);
}

#[test]
fn the_end_of_a_background_task_is_told_unasked_and_keeps_the_runner_until_then() {
    let world = World::with_cli();
    world.session.configure(|c| c.idle_seconds = 1);
    let runner = world.start();
    let gate = world.script_gated(json!({"run_in_background": true}));
    world.answered("m1", "build it");
    assert_eq!(world.session.texts(), ["answer 1"]);
    let waits = gate.arrived(&world.session);
    world.session.context("c1", "not worth an answer");
    drop(waits);
    world.session.wait_for("word of the task's end", || (world.session.texts().len() == 2).then_some(()));
    assert_eq!(world.session.texts()[1], "answer 2");
    assert_eq!(runner.exit_code(), 0, "now it leaves as idle");
}

#[test]
fn a_conversation_is_shortened_on_demand() {
    let world = World::with_cli();
    let _runner = world.start();
    world.answered("m1", "my name is Ann");
    world.answered("m2", "/compact");
    world.answered("m3", "go on");
    assert_eq!(world.session.texts()[1], "Done: /compact.");
    let mut requests = std::iter::repeat_with(|| whole(&world.api.request()));
    let last = requests.find(|request| request.contains(">go on<")).unwrap();
    assert!(!last.contains("my name is Ann"), "{last}");
}

#[test]
fn the_chosen_skills_are_the_clis_too() {
    let world = World::with_cli();
    let skill = world.session.path("tone");
    fs::create_dir(&skill).unwrap();
    fs::write(skill.join("SKILL.md"), "---\nname: tone\ndescription: how to sing in tune\n---\nbody\n").unwrap();
    std::os::unix::fs::symlink(&skill, world.session.dir.skills().join("tone")).unwrap();
    let linked = world.session.path("home").join(".claude/skills");
    fs::create_dir_all(&linked).unwrap();
    std::os::unix::fs::symlink("/nowhere", linked.join("not-chosen-any-more")).unwrap();
    let _runner = world.start();
    world.answered("m1", "hello");
    assert!(world.api.request().body.to_string().contains("how to sing in tune"));
}

#[test]
fn it_works_in_a_container_that_has_no_network() {
    let world = World::with_cli();
    let _container = Container::start(&world);
    let input = json!({"command": "echo $HOME; echo written >file; id -u", "description": "Look"});
    world.api.script(call("Bash", input));
    world.answered("m1", "do it");
    world.api.request();
    assert!(whole(&world.api.request()).contains("/home/agent\\n70707"));
    assert_eq!(fs::read_to_string(world.session.dir.root().join("agent/file")).unwrap(), "written\n");
    assert!(fs::read_dir(world.session.path("home/.claude/projects")).unwrap().next().is_some());
}

#[test]
fn our_own_tools_are_the_cli_s_too() {
    let world = World::with_cli();
    let _runner = world.start();
    world.api.script(call("mcp__nanoclaw__send_message", json!({"text": "This will take a while."})));
    world.answered("m1", "do something long");
    assert_eq!(world.session.texts()[0], "This will take a while.");
}
