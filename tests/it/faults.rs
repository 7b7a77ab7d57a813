//! The container engine fails, hangs, or talks nonsense, and comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nanoclaw::store::EndReason;

use crate::support::docker::docker;
use crate::support::wait::wait_for;
use crate::support::{Host, process, sqlite};

/// The engine's program with a fault that can be mended.
pub struct Engine {
    fault: PathBuf,
    calls: PathBuf,
}

impl Engine {
    /// A program for `DOCKER` that runs `fault` (shell) instead of the real one for every call
    /// that matches `calls` (a pattern), as long as it is broken; it is, to begin with.
    pub fn broken(host: &mut Host, calls: &str, fault: &str) -> Engine {
        let at = |name: &str| host.scratch().join(name);
        let (wrapper, fault_flag, log) = (at("engine"), at("broken"), at("calls"));
        let script = format!(
            "#!/bin/sh\nflag='{flag}'\necho \"$*\" >>'{log}'\ncase \"$*\" in {calls}) if [ -e \"$flag\" ]; then\n{fault}\nfi;; esac\nexec docker \"$@\"\n",
            log = log.display(),
            flag = fault_flag.display(),
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        host.set("DOCKER", wrapper.display().to_string());
        let engine = Engine { fault: fault_flag, calls: log };
        engine.break_down();
        engine
    }

    fn break_down(&self) {
        fs::write(&self.fault, "").unwrap();
    }

    pub fn mend(&self) {
        fs::remove_file(&self.fault).unwrap();
    }

    fn calls(&self, what: &str) -> usize {
        fs::read_to_string(&self.calls).unwrap_or_default().lines().filter(|l| l.starts_with(what)).count()
    }
}

const NO_ANSWER: &str = "The container engine does not answer";
const NO_DAEMON: &str = "echo 'Cannot connect to the Docker daemon. Is it running?' >&2; exit 1";

fn notices(host: &Host) -> Vec<String> {
    sqlite::column(&host.home().store(), "SELECT json_extract(content, '$.text') FROM host_outbox").unwrap()
}

#[track_caller]
fn assert_has_a_remedy(notice: &str) {
    assert!(notice.contains("Your message is kept"), "{notice}");
    let commands = ["`make run`", "`make image`", "`make build`", "`nanoclaw doctor`", "`nanoclaw logs`"];
    assert!(commands.iter().any(|c| notice.contains(c)), "names no command that helps: {notice}");
}

/// The whole story for one fault that is there when the host starts.
fn is_told_once_and_answered_after_the_recovery(fault: &str) {
    let mut host = Host::new();
    let engine = Engine::broken(&mut host, "*", fault);
    host.start();
    let mut client = host.client();
    client.say("m1", "hello");
    client.accepted("m1");
    let notice = client.text();
    assert_has_a_remedy(&notice);
    let failed = host.logged(NO_ANSWER);
    host.wait_log(NO_ANSWER, failed + 1);
    engine.mend();
    assert!(client.text().starts_with("Hello!"), "the next text is the answer, without a restart");
    host.wait_completed(1);
    assert_eq!(notices(&host).len(), 1);
    assert_eq!(host.events().started(1).len(), 1);
}

#[test]
fn an_engine_that_fails_at_the_start() {
    is_told_once_and_answered_after_the_recovery(NO_DAEMON);
}

#[test]
fn an_engine_that_talks_nonsense_at_the_start() {
    is_told_once_and_answered_after_the_recovery("echo 'Segmentation fault'; exit 0");
}

/// Its calls have a deadline of 15 seconds, so this one takes its time.
#[test]
fn an_engine_that_hangs_at_the_start() {
    is_told_once_and_answered_after_the_recovery("exec sleep 600");
}

#[test]
fn an_engine_that_is_not_installed_yet() {
    let mut host = Host::new();
    let program = host.scratch().join("docker");
    host.set("DOCKER", program.display().to_string());
    host.start();
    let waited = host.run(&["chat", "--timeout", "1", "hello"]);
    assert_eq!(waited.code, Some(4), "{waited:?}");
    assert!(waited.stderr.contains("it will be shown when you come back"), "{waited:?}");

    host.wait_log(NO_ANSWER, 2);
    fs::write(&program, "#!/bin/sh\nexec docker \"$@\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    host.events().wait("start", 1);
    let client = host.client();
    let mut heard = vec![client.text()];
    while !heard.last().unwrap().starts_with("Hello!") {
        heard.push(client.text());
    }
    assert!(heard.len() <= 2, "{heard:?}");
    let said = format!("{}{}", waited.stdout, heard.concat());
    assert!(said.contains("is not installed") && said.contains("`make run`"), "told with a remedy: {said}");
    assert_eq!(notices(&host).len(), 1);
}

/// A second outage is news again.
#[test]
fn an_engine_that_goes_away_and_comes_back_twice() {
    let mut host = Host::new();
    let engine = Engine::broken(&mut host, "run*|image*|version*", NO_DAEMON);
    host.start();
    let mut client = host.client();
    for outage in 1..=2 {
        client.say(&format!("m{outage}"), &format!("message {outage}"));
        assert_has_a_remedy(&client.text());
        engine.mend();
        let answer = client.text();
        assert!(answer.contains(&format!("\"message {outage}\"")), "{answer}");
        host.wait_completed(outage);
        engine.break_down();
        docker(&["kill", "--signal", "KILL", &host.container()]);
        host.wait_run_ended(host.runs().len());
    }
    assert_eq!(notices(&host).len(), 2);
}

#[test]
fn a_missing_image_is_named_with_what_makes_it() {
    let mut host = Host::new();
    host.set("CONTAINER_IMAGE", "nanoclaw-no-such-image:1");
    host.start();
    let mut client = host.client();
    client.say("m1", "hello");
    let notice = client.text();
    assert!(notice.contains("nanoclaw-no-such-image:1") && notice.contains("`make image`"), "{notice}");
    host.wait_log("Container did not start", 2);
    assert_eq!(notices(&host).len(), 1);
    assert_eq!(host.containers(), [] as [&str; 0]);
    assert_eq!(host.inbound(), [("m1:main".to_owned(), "pending".to_owned())]);
}

#[test]
fn a_missing_runner_is_named_with_what_makes_it() {
    let mut host = Host::new();
    host.set("NANOCLAW_RUNNER", "/nowhere/nanoclaw-runner");
    host.start();
    let mut client = host.client();
    client.say("m1", "hello");
    let notice = client.text();
    assert!(notice.contains("/nowhere/nanoclaw-runner") && notice.contains("`make build`"), "{notice}");
    assert_eq!(host.containers(), [] as [&str; 0]);
}

/// The container runs, but the engine cannot say so: whatever is done about it, there is one.
#[test]
fn a_start_whose_check_fails_leaves_no_second_container() {
    for fault in [NO_DAEMON, "echo 'Segmentation fault'; exit 0"] {
        let mut host = Host::new();
        let engine = Engine::broken(&mut host, "inspect*", fault);
        engine.mend();
        host.start();
        host.wait_log("Ready", 1);
        engine.break_down();
        let mut client = host.client();
        client.say("m1", "hello");
        host.events().wait("start", 1);
        wait_for("the check", &[host.scratch()], || (engine.calls("inspect") > 0).then_some(()));
        engine.mend();
        client.turn("m1");
        assert!(client.ask("m2", "second")[0].contains("\"second\""));
        host.wait_completed(2);
        let lives = docker(&["ps", "--quiet", "--filter", &format!("label={}", host.label())]);
        assert_eq!(lives.lines().count(), 1, "{fault}: {:#?}", host.events().all());
        let greetings = host.replies().iter().filter(|r| r.starts_with("Hello!")).count();
        assert_eq!(greetings, 1, "{fault}: answered once");
        assert_eq!(host.events().two_at_once(), None, "{fault}");
    }
}

/// The same for a container that is adopted.
#[test]
fn an_adoption_whose_check_fails_leaves_no_second_container() {
    let mut host = Host::started();
    host.chat("hello");
    host.sigterm();
    // `ps` and the first `inspect` list what there is; the second one asks about the adopted one.
    let once = format!("if [ ! -e \"$0.seen\" ]; then touch \"$0.seen\"; else {NO_DAEMON}; fi");
    let engine = Engine::broken(&mut host, "inspect*", &once);
    host.start();
    host.wait_log("Adopted a container", 1);
    wait_for("the check", &[host.scratch()], || (engine.calls("inspect") > 1).then_some(()));
    engine.mend();
    let mut client = host.client();
    assert!(client.ask("m2", "second")[0].contains("\"second\""));
    host.wait_completed(2);
    assert_eq!(host.events().two_at_once(), None);
    let lives = docker(&["ps", "--quiet", "--filter", &format!("label={}", host.label())]);
    assert_eq!(lives.lines().count(), 1);
}

/// The engine may call a container running for a moment after its processes are gone.
#[test]
fn an_engine_that_lags_behind_still_gets_the_exit_code() {
    let mut host = Host::new();
    let running = host.scratch().join("running.json");
    let lag = format!(
        "if [ -e \"$0.1\" ] && [ -e \"$0.2\" ]; then rm \"$flag\"; elif [ -e \"$0.1\" ]; then touch \"$0.2\"; cat '{0}'; exit 0; else touch \"$0.1\"; cat '{0}'; exit 0; fi",
        running.display()
    );
    let engine = Engine::broken(&mut host, "inspect*", &lag);
    engine.mend();
    host.start();
    host.chat("hello");
    let container = host.container();
    fs::write(&running, docker(&["inspect", "--type", "container", &container])).unwrap();
    wait_for("the first check", &[host.scratch()], || (engine.calls("inspect --type container") > 0).then_some(()));
    engine.break_down();
    docker(&["kill", "--signal", "KILL", &container]);
    let run = host.wait_run_ended(1);
    assert_eq!((run.end_reason, run.exit_code), (Some(EndReason::Crashed), Some(137)));
    assert!(engine.calls("inspect") > 3, "the engine lagged behind");
    assert!(host.chat("second").contains("turn 2"));
}

/// `docker kill` while the engine's program does not work: the end is seen without it, and the
/// container is taken away once it works again.
#[test]
fn an_exit_is_noticed_while_the_engine_s_program_fails() {
    let mut host = Host::new();
    let engine = Engine::broken(&mut host, "*", NO_DAEMON);
    engine.mend();
    host.set("NANOCLAW_LOG", "debug");
    host.start();
    host.chat("hello");
    // Before, its process is not known, and only the engine could say that it ended.
    host.wait_log("Container runs", 1);
    engine.break_down();
    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_log("Container ended", 1);
    engine.mend();
    assert!(host.chat("second").contains("turn 2. You said: \"second\""));
    assert_eq!(host.events().two_at_once(), None);
    assert!(process::descendants(host.pid()).len() <= 1);
    host.sigterm();
    host.start();
    wait_for("the dead container to be removed", &[], || (host.containers().len() == 1).then_some(()));
}
