//! `nanoclaw sweep`: a whole cycle with no daemon.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nanoclaw::store::EndReason;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::{Address, InKind, NewMessageIn};
use rustix::process::{Pid, Signal, kill_process};

use crate::messages_api::{MessagesApi, Script};
use crate::restart::with_model;
use crate::support::process::{self, Output};
use crate::support::wait::{DEADLINE, now, wait_for};
use crate::support::{Host, sqlite, texts};

#[track_caller]
fn assert_silent(output: &Output, code: i32) {
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(code), "", ""));
}

/// A home with a message in it that no daemon could answer, and no daemon.
fn home_with_work(text: &str) -> Host {
    let mut host = Host::new();
    host.set("DOCKER", "/nonexistent/docker");
    host.start();
    let mut client = host.client();
    client.say("m1", text);
    client.accepted("m1");
    host.kill9();
    host.unset("DOCKER");
    host
}

/// A cycle in the background that has asked the model something.
fn busy_sweep(host: &Host, api: &MessagesApi, args: &[&str]) -> Child {
    let child = host.nanoclaw(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    api.request();
    child
}

#[test]
fn what_a_killed_daemon_left_is_answered_by_a_sweep() {
    let mut host = home_with_work("are you there?");
    assert_silent(&host.run(&["sweep"]), 0);
    host.wait_completed(1);
    assert_eq!(host.replies().len(), 1);
    assert_eq!(host.containers(), [] as [String; 0], "it stops what it started");
    assert_eq!(host.runs()[0].end_reason, Some(EndReason::Stopped));
    // Nobody listened, so the answer waits for the terminal.
    host.start();
    assert!(host.client().text().contains("\"are you there?\""));
}

#[test]
fn the_crontab_line_of_the_readme_works_as_it_stands() {
    let host = home_with_work("are you there?");
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let line = readme.lines().find_map(|l| l.strip_prefix("* * * * * ")).expect("a crontab line");
    let folder = host.nanoclaw(&[]).get_program().to_str().unwrap().trim_end_matches("nanoclaw").to_owned();
    let line = line.replace("/usr/local/bin/", &folder);
    assert!(line.starts_with('/') && line.contains(&folder), "{line}");
    let mut shell = process::command("sh");
    shell.args(["-c", &line]).envs(host.nanoclaw(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_silent(&process::run(&mut shell, ""), 0);
    assert_eq!((host.replies().len(), host.containers().len()), (1, 0));
}

#[test]
fn a_container_of_a_killed_daemon_is_waited_for_and_taken_away() {
    let api = MessagesApi::on_port();
    let mut host = with_model(&api);
    host.start();
    api.script(Script::Paced(vec!["half ".into(), "and half".into()]));
    let mut client = host.client();
    client.say("m1", "what is it?");
    api.request();
    host.kill9();
    api.client_gone();
    assert_silent(&host.run(&["sweep"]), 0);
    host.wait_completed(1);
    assert_eq!((host.replies().len(), host.runs().len()), (1, 1), "the container went on through the new gateway");
    assert_eq!(host.containers(), [] as [String; 0]);
}

#[test]
fn a_sweep_beside_a_daemon_does_nothing() {
    let host = Host::started();
    let before = fs::read(host.home().log_file()).unwrap();
    let output = host.run(&["sweep"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(3), ""));
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert_eq!(fs::read(host.home().log_file()).unwrap(), before);
    assert!(host.chat("hello").contains("Hello!"));
}

#[test]
fn of_two_sweeps_one_works_and_serves_the_terminal() {
    let api = MessagesApi::on_port();
    let mut host = home_with_work("the first");
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    api.script(Script::Paced(vec!["slow".into(), "ly".into()]));
    api.script(Script::Say("second answer".into()));
    let mut first = busy_sweep(&host, &api, &["sweep"]);
    assert_eq!(host.run(&["sweep"]).code, Some(3));
    let mut client = host.client();
    client.say("m2", "the second");
    client.accepted("m2");
    for _piece in 0..2 {
        api.release();
    }
    // In one text or two: it may have come in time for the turn that was under way.
    let answer = texts(&client.turn("m2")).join(" ");
    assert!(answer.contains("slowly") && answer.contains("second answer"), "{answer}");
    let status = process::wait(&mut first, DEADLINE).expect("the sweep ends");
    assert_eq!(status.code(), Some(0));
    host.wait_completed(2);
}

#[test]
fn nothing_to_do_is_silent_and_asks_no_engine() {
    let mut host = home_with_work("hello");
    assert_silent(&host.run(&["sweep"]), 0);
    let log = fs::read(host.home().log_file()).unwrap();
    host.set("DOCKER", "/nonexistent/docker");
    let started = Instant::now();
    assert_silent(&host.run(&["sweep"]), 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(fs::read(host.home().log_file()).unwrap() == log, "not a word in the log either");
}

#[test]
fn a_busy_agent_is_stopped_when_the_time_is_up_and_tried_again_by_the_next_sweep() {
    let api = MessagesApi::on_port();
    let mut host = home_with_work("take your time");
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    api.script(Script::Paced(vec!["never ".into(), "said".into()]));
    let mut first = busy_sweep(&host, &api, &["sweep", "--wait", "4"]);
    assert_eq!(process::wait(&mut first, DEADLINE).expect("it ends").code(), Some(4));
    assert_eq!(host.containers(), [] as [String; 0]);
    api.script(Script::Say("here it is".into()));
    assert_silent(&host.run(&["sweep"]), 0);
    host.wait_completed(1);
    assert_eq!(host.replies(), ["here it is"]);
    assert_eq!(host.runs().len(), 2);
}

#[test]
fn a_sweep_that_is_told_to_stop_leaves_nothing_running() {
    let api = MessagesApi::on_port();
    let mut host = home_with_work("take your time");
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    api.script(Script::Paced(vec!["never ".into(), "said".into()]));
    let mut sweep = busy_sweep(&host, &api, &["sweep"]);
    kill_process(Pid::from_child(&sweep), Signal::TERM).unwrap();
    assert_eq!(process::wait(&mut sweep, Duration::from_secs(12)).expect("it ends").code(), Some(4));
    assert_eq!(host.containers(), [] as [String; 0]);
    wait_for("the end of the engine's programs", &[], || process::descendants(sweep.id()).is_empty().then_some(()));
}

/// As an import leaves it, or an agent will.
#[test]
fn a_task_that_repeats_runs_when_it_is_due_and_is_armed_again() {
    let mut host = Host::started();
    host.chat("hello");
    host.wait_completed(1);
    host.sigterm();
    let task = NewMessageIn {
        kind: InKind::Task,
        process_after: Some(now() - Duration::from_secs(60)),
        recurrence: Some("0 8 * * *".into()),
        ..NewMessageIn::chat("task-1".into(), now(), Address::default(), r#"{"prompt":"water the plants"}"#.into())
    };
    let mut inbound = InboundDb::open(&host.dir(), Durability::Normal).unwrap();
    inbound.write(|tx| tx.insert(&task).map(drop)).unwrap();
    drop(inbound);
    host.start();
    let live = "SELECT process_after FROM messages_in
                WHERE status = 'pending' AND series_id = 'task-1' AND id <> 'task-1'";
    let dir = host.dir();
    let next = wait_for("the next occurrence", &[dir.root()], || sqlite::column(&dir.inbound_db(), live).ok()?.pop());
    let next: Timestamp = next.parse().unwrap();
    assert!(next > now() && next < now() + Duration::from_secs(24 * 3600) && next.to_string().contains("T08:00:00"));
    assert_eq!(host.replies().len(), 2);
}
