//! The engine's daemon goes away, with the containers or without them, and comes back: told once,
//! and answered without a restart of ours.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nanoclaw::store::EndReason;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::Host;
use crate::support::docker::IMAGE;
use crate::support::process::{self, Output, as_root, command, root_command, run};
use crate::support::wait::{wait_for, wait_until};

/// A docker daemon of the test's own: the machine's serves others. It lives in a network namespace of
/// its own, for a second one takes the first one's bridge away.
struct Dockerd {
    child: Option<Child>,
    folder: PathBuf,
}

impl Dockerd {
    fn started(host: &Host) -> Dockerd {
        let folder = host.scratch().join("engine");
        fs::create_dir(&folder).unwrap();
        let mut dockerd = Dockerd { child: None, folder };
        dockerd.start();
        let image = format!("docker save {IMAGE} | docker --host {} load", dockerd.socket());
        let loaded = run(command("sh").args(["-c", &image]), "");
        assert_eq!(loaded.code, Some(0), "{loaded:?}");
        dockerd
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.folder.join("sock").display())
    }

    fn start(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut dockerd = root_command("unshare");
        dockerd.args(["--net", "dockerd", "--iptables=false", "--host", &self.socket()]);
        dockerd.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        let spawned = dockerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(spawned.unwrap_or_else(|e| panic!("{dockerd:?}: {e}")));
        wait_for("the engine", &[&self.folder], || (self.docker(&["version"]).code == Some(0)).then_some(()));
    }

    fn docker(&self, args: &[&str]) -> Output {
        run(command("docker").args(["--host", &self.socket()]).args(args), "")
    }

    fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("it runs");
        let pid = fs::read_to_string(self.folder.join("pid")).expect("its pid").trim().parse().expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("kill");
        process::wait(&mut child, Duration::from_secs(30)).expect("it ends");
        // A killed one leaves these, and the next one may believe them.
        for pid in ["pid", "exec/containerd/containerd.pid"] {
            fs::remove_file(self.folder.join(pid)).ok();
        }
    }

    fn running(&self) -> usize {
        self.docker(&["ps", "--quiet"]).stdout.lines().count()
    }
}

/// Leaves nothing behind, whatever state it is in.
impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- dockerd\n{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        let folder = self.folder.display().to_string();
        let all = self.docker(&["ps", "--all", "--quiet"]).stdout;
        self.docker(&[&["rm", "--force", "--volumes"], &all.split_whitespace().collect::<Vec<_>>()[..]].concat());
        let mine = || process::all().into_iter().filter(|pid| process::command_line(*pid).contains(&folder));
        let kill = |signal| {
            for pid in mine().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                // It may have ended by itself.
                let _ = kill_process(pid, signal);
            }
        };
        // The daemon, its containerd and what is left of their shims: all name the folder.
        kill(Signal::TERM);
        if wait_until(Duration::from_secs(10), &[], || (mine().count() == 0).then_some(())).is_none() {
            kill(Signal::KILL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.starts_with(&folder)) {
            as_root(&["umount", "--lazy", mount]);
        }
    }
}

#[test]
fn a_restart_of_the_engine_while_containers_run_is_survived_without_one_of_ours() {
    let mut host = Host::new();
    let mut dockerd = Dockerd::started(&host);
    host.set("DOCKER_HOST", dockerd.socket());
    host.set("NANOCLAW_LOG", "debug");
    host.start();
    let mut client = host.client();
    assert!(client.ask("m1", "hello")[0].starts_with("Hello!"));
    host.wait_completed(1);
    // Before, its process is not known, and only the engine could say that it ended.
    host.wait_log("Container runs", 1);

    // In good order: it takes its containers along.
    dockerd.end(Signal::TERM);
    host.wait_log("Container ended", 1);
    client.say("m2", "second.");
    client.accepted("m2");
    let notice = client.text();
    assert!(notice.contains("Your message is kept") && notice.contains("`make run`"), "{notice}");
    dockerd.start();
    assert!(client.text().contains("\"second.\""), "the next text is the answer");
    host.wait_completed(2);
    assert!(host.runs()[0].end_reason.is_some_and(|r| matches!(r, EndReason::Vanished | EndReason::Exited)));

    // Killed: its container lives, and answers.
    dockerd.end(Signal::KILL);
    assert!(client.ask("m3", "third.")[0].contains("\"third.\""));
    // The next engine may take it away. Whatever it does, there is one, and it answers.
    dockerd.start();
    assert!(client.ask("m4", "fourth.").iter().any(|t| t.contains("\"fourth.\"")));
    host.wait_completed(4);
    wait_for("one container", &[], || (dockerd.running() == 1).then_some(()));
    let answers = host.replies();
    assert_eq!(answers.len(), 4, "{answers:#?}");
    host.sigterm();
}
