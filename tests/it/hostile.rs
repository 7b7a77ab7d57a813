//! A container that does its worst: it hurts its own session, and nobody else's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nanoclaw::store::{ContainerConfig, ContainerRun, EndReason};
use nanoclaw_session::alive::AliveLock;
use serde_json::json;

use crate::support::docker::docker;
use crate::support::wait::wait_for;
use crate::support::{Client, Host, binaries, sqlite, texts};

/// What a message of anybody else may take while one container attacks.
const MAX_LATENCY: Duration = Duration::from_secs(2);
/// Messages that are timed.
const ASKED: usize = 20;

/// An install with two agents, whose chats are on one connection: `main` is everybody else, and the
/// runner of `evil` is a script for as long as it is let.
struct Victims {
    host: Host,
    client: Client,
    asked: usize,
}

impl Victims {
    /// `script` (shell) is what runs in the container of `evil`; `$real` runs the real runner.
    fn of(script: &str) -> Victims {
        let mut host = Host::new();
        Victims::prepare(&mut host, script);
        host.start();
        Victims::with(host)
    }

    fn prepare(host: &mut Host, script: &str) {
        // The one folder of the host's that every container sees.
        let global = host.home().group("global");
        fs::create_dir_all(&global).unwrap();
        fs::copy(binaries::folder().join("nanoclaw-runner"), global.join("runner")).unwrap();
        fs::write(global.join("evil"), script).unwrap();
        let runner = host.scratch().join("runner");
        let choice = "#!/bin/sh\nreal='/workspace/global/runner run'\n\
            if [ -e /workspace/global/evil ] && grep -q '\"agentGroupId\": *\"evil\"' /workspace/container.json; then\n\
            . /workspace/global/evil\nelse\nexec $real\nfi\n";
        fs::write(&runner, choice).unwrap();
        fs::set_permissions(&runner, fs::Permissions::from_mode(0o755)).unwrap();
        host.set("NANOCLAW_RUNNER", runner.display().to_string());
    }

    fn with(host: Host) -> Victims {
        host.add_agent("evil");
        let mut client = host.client();
        client.send(&json!({"listen": "local:evil"}));
        let mut victims = Victims { host, client, asked: 0 };
        victims.ask();
        victims
    }

    /// Asks the other agent; how long its answer took.
    fn ask(&mut self) -> Duration {
        self.asked += 1;
        let id = format!("ask-{}", self.asked);
        let begun = Instant::now();
        let answers = self.client.ask(&id, &format!("question {}.", self.asked));
        assert!(answers.iter().any(|a| a.contains(&format!("\"question {}.\"", self.asked))), "{answers:?}");
        begun.elapsed()
    }

    fn say_to_evil(&mut self, id: &str) {
        self.client.send(
            &json!({"id": id, "text": format!("to evil {id}."), "to": {"channelType": "cli", "platformId": "local:evil"}}),
        );
    }

    /// Sends a message to `evil` and waits until its container has made this file in `out/`.
    fn attacked(&mut self, file: &str) {
        self.say_to_evil("e1");
        self.client.accepted("e1");
        let out = self.host.dir_of(&self.host.session_of("evil")).out();
        wait_for("the attack", &[], || out.join(file).exists().then_some(()));
    }

    #[track_caller]
    fn everybody_else_is_answered_as_ever(&mut self) {
        let mut times: Vec<Duration> = (0..ASKED).map(|_| self.ask()).collect();
        times.sort();
        let longest = times[ASKED - 1];
        println!("others meanwhile: p50 {:?}, longest {longest:?}", times[ASKED / 2]);
        assert!(longest < MAX_LATENCY, "{times:?}");
    }

    /// From its next start on, the container of `evil` is an ordinary one.
    fn reform(&self) {
        fs::remove_file(self.host.home().group("global").join("evil")).unwrap();
    }

    fn runs(&self) -> Vec<ContainerRun> {
        let mut runs = self.host.store().container_runs_of(&self.host.session_of("evil").id, 100).unwrap();
        runs.reverse();
        runs
    }

    fn evil_container(&self) -> String {
        self.host.events().running().into_iter().rfind(|c| c.starts_with("nanoclaw-evil-")).expect("it runs")
    }

    /// Each of these messages of `evil` is answered, once.
    fn answers_of_evil(&mut self, ids: &[&str]) {
        let quoted = |id: &&str| format!("\"to evil {id}.\"");
        let mut heard: Vec<String> = Vec::new();
        while !ids.iter().all(|id| heard.iter().any(|t| t.contains(&quoted(id)))) {
            heard.push(self.client.text());
        }
        let replies = "SELECT json_extract(content, '$.text') FROM messages_out";
        let out = self.host.dir_of(&self.host.session_of("evil")).outbound_db();
        let replies = sqlite::column(&out, replies).unwrap();
        for id in ids {
            assert_eq!(replies.iter().filter(|r| r.contains(&quoted(id))).count(), 1, "{id}: {replies:?}");
        }
    }
}

/// Runs Python in the container, under the name `$real` would have.
fn python(code: &str) -> String {
    format!("exec python3 -c '{code}'")
}

#[test]
fn a_container_that_locks_its_inbound_db_holds_up_nobody_else() {
    // SQLite's shared lock, as a reader that never ends would hold it.
    let mut v = Victims::of(&python(
        "import fcntl, time\n\
         f = open(\"/workspace/inbound.db\", \"rb\")\n\
         fcntl.lockf(f, fcntl.LOCK_SH, 510, 0x40000002)\n\
         open(\"/workspace/out/ready\", \"w\")\n\
         time.sleep(3600)",
    ));
    v.attacked("ready");
    v.say_to_evil("e2");
    v.everybody_else_is_answered_as_ever();
    v.reform();
    // The host stops the container for it, after ten seconds.
    v.answers_of_evil(&["e1", "e2"]);
    assert_eq!(v.runs()[0].end_reason, Some(EndReason::Stuck));
}

#[test]
fn a_container_that_takes_leases_on_its_files_holds_up_nobody_else() {
    let mut v = Victims::of(&python(
        "import fcntl, os, signal, time\n\
         signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
         held = []\n\
         for name in [\"outbound.db\", \"outbound.db-journal\", \"heartbeat\"]:\n\
         \x20   f = open(\"/workspace/out/\" + name, \"w+b\")\n\
         \x20   f.write(b\"x\" * 4096)\n\
         \x20   f.flush()\n\
         \x20   fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
         \x20   held.append(f)\n\
         while True:\n\
         \x20   open(\"/workspace/out/ready\", \"w\").close()\n\
         \x20   time.sleep(0.02)",
    ));
    v.attacked("ready");
    v.say_to_evil("e2");
    v.client.accepted("e2");
    v.everybody_else_is_answered_as_ever();
}

#[test]
fn a_container_that_storms_the_notifications_holds_up_nobody_else() {
    let mut v = Victims::of("while :; do : >/workspace/out/ready; : >/workspace/out/outbound.db-journal; done");
    v.attacked("ready");
    v.say_to_evil("e2");
    v.client.accepted("e2");
    v.everybody_else_is_answered_as_ever();
}

/// It takes no lock on `alive`: that is a hint and no proof of death.
#[test]
fn a_container_that_does_not_hold_its_lock_is_not_replaced() {
    let mut v = Victims::of("touch /workspace/out/ready; exec sleep 3600");
    v.attacked("ready");
    v.say_to_evil("e2");
    v.client.accepted("e2");
    v.everybody_else_is_answered_as_ever();
    assert_eq!(v.runs().len(), 1);
    assert_eq!(v.host.events().two_at_once(), None);
    // Its death is believed when the engine says so.
    v.reform();
    docker(&["kill", "--signal", "KILL", &v.evil_container()]);
    v.answers_of_evil(&["e1", "e2"]);
}

#[test]
fn a_lock_that_is_held_after_the_end_does_not_keep_a_dead_container_alive() {
    let mut v = Victims::of("touch /workspace/out/ready; exec sleep 3600");
    v.attacked("ready");
    let _held = AliveLock::take(&v.host.dir_of(&v.host.session_of("evil"))).unwrap();
    v.reform();
    docker(&["kill", "--signal", "KILL", &v.evil_container()]);
    v.answers_of_evil(&["e1"]);
}

#[test]
fn a_container_that_forks_without_end_reaches_its_limit_and_nobody_else() {
    let mut v = Victims::of(&python(
        "import os, time\n\
         forks = 0\n\
         try:\n\
         \x20   while forks < 10000:\n\
         \x20       if os.fork() == 0: time.sleep(3600)\n\
         \x20       forks += 1\n\
         except OSError as e:\n\
         \x20   pass\n\
         f = open(\"/workspace/out/forks\", \"w\")\n\
         f.write(str(forks))\n\
         f.close()\n\
         os.rename(\"/workspace/out/forks\", \"/workspace/out/ready\")\n\
         time.sleep(3600)",
    ));
    v.attacked("ready");
    let forks = fs::read_to_string(v.host.dir_of(&v.host.session_of("evil")).out().join("ready")).unwrap();
    assert!((100..512).contains(&forks.parse::<u32>().unwrap()), "{forks} forks");
    v.everybody_else_is_answered_as_ever();
    v.reform();
    docker(&["kill", "--signal", "KILL", &v.evil_container()]);
    v.answers_of_evil(&["e1"]);
}

#[test]
fn a_container_that_fills_its_memory_is_reported_as_that_and_its_user_told_once() {
    let mut v = Victims::of("exec tail /dev/zero");
    let store = v.host.store();
    let config = ContainerConfig { memory: Some("32m".into()), ..store.container_config("evil").unwrap() };
    store.put_container_config(&config).unwrap();
    v.say_to_evil("e1");
    let told = v.client.text();
    assert!(told.contains("runs out of memory") && told.contains("CONTAINER_MEMORY"), "{told}");
    assert!(told.contains("Your message is kept"), "{told}");
    let ends: Vec<_> = v.runs().iter().filter_map(|r| Some((r.end_reason?, r.exit_code, r.oom))).collect();
    assert_eq!(ends[..3], [(EndReason::Oom, Some(137), true); 3]);
    v.everybody_else_is_answered_as_ever();
    v.reform();
    v.answers_of_evil(&["e1"]);
}

/// Its shell ignores SIGTERM, and the runner below it never gets one.
const DEAF: &str = "trap '' TERM\n$real &\nwhile :; do wait; sleep 1; done";

#[test]
fn a_container_that_ignores_sigterm_makes_room_all_the_same() {
    let mut host = Host::new();
    host.set("MAX_CONCURRENT_CONTAINERS", "1");
    Victims::prepare(&mut host, DEAF);
    host.start();
    let mut v = Victims::with(host);
    v.say_to_evil("e1");
    v.answers_of_evil(&["e1"]);
    let waited = v.ask();
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    let end = wait_for("its end", &[], || v.runs()[0].end_reason);
    assert_eq!((end, v.runs()[0].exit_code), (EndReason::Evicted, Some(137)));
}

#[test]
fn a_container_that_ignores_sigterm_ends_with_its_host() {
    let mut host = Host::new();
    Victims::prepare(&mut host, DEAF);
    host.start_with(&["--stop-containers"]);
    let mut v = Victims::with(host);
    v.say_to_evil("e1");
    v.answers_of_evil(&["e1"]);
    assert_eq!(v.host.sigterm().code(), Some(0), "within ten seconds");
    assert_eq!(v.host.containers(), [] as [&str; 0]);
    assert_eq!(v.runs()[0].end_reason, Some(EndReason::Stopped));
    assert!(texts(&std::iter::from_fn(|| v.client.rest()).collect::<Vec<_>>()).is_empty());
}
