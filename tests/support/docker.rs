//! The container engine, asked directly: what the host says about it is what is tested.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::lines::Lines;
use super::process::{Output, command, run};
use super::wait::{DEADLINE, now};

/// The image agents run in.
pub const IMAGE: &str = "nanoclaw-agent:latest";

/// Runs the CLI, whatever comes of it.
#[track_caller]
pub fn attempt(args: &[&str]) -> Output {
    run(command("docker").args(args), "")
}

/// Runs the CLI; what it printed, trimmed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    let output = attempt(args);
    assert_eq!(output.code, Some(0), "docker {args:?}: {}", output.stderr);
    output.stdout.trim().to_owned()
}

/// What the engine knows of a container.
#[track_caller]
pub fn inspect(container: &str) -> Value {
    let json = docker(&["inspect", "--type", "container", container]);
    serde_json::from_str::<Value>(&json).expect("JSON")[0].take()
}

/// The process id of a container's init.
#[track_caller]
pub fn pid(container: &str) -> u32 {
    inspect(container)["State"]["Pid"].as_u64().expect("a pid").try_into().expect("a pid")
}

/// A handle on a container's init, to kill it without asking the engine; none when it runs no more.
pub fn init(container: &str) -> Option<OwnedFd> {
    let asked = attempt(&["inspect", "--type", "container", "--format", "{{.State.Pid}}", container]);
    let pid = asked.stdout.trim().parse().ok().filter(|_| asked.code == Some(0))?;
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Names of the containers with this label, ended ones too.
#[track_caller]
pub fn labelled(label: &str) -> Vec<String> {
    let names = docker(&["ps", "--all", "--format", "{{.Names}}", "--filter", &format!("label={label}")]);
    names.lines().map(str::to_owned).collect()
}

/// # Panics
/// When the engine does not answer or the image is not there: that is a failure, never a skip.
pub fn must_work() {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    let works = WORKS.get_or_init(|| {
        let asked = attempt(&["version", "--format", "{{.Server.Version}}"]);
        if asked.code != Some(0) {
            return Err(format!("Docker does not answer; `make test` sets it up: {}", asked.stderr.trim()));
        }
        match attempt(&["image", "inspect", "--format", "{{.Id}}", IMAGE]).code {
            Some(0) => Ok(()),
            _ => Err(format!("there is no image {IMAGE}: run `make image`")),
        }
    });
    if let Err(why) = works {
        panic!("{why}");
    }
}

/// What happens to the containers of one install, as the engine tells it.
pub struct Events {
    child: Child,
    lines: Lines,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// `create`, `start`, `die`, `destroy`, ...
    pub action: String,
    pub container: String,
    pub at: Timestamp,
}

impl Events {
    /// Listens from now on.
    pub fn of(install: &str) -> Events {
        let mut child = command("docker")
            .args(["events", "--since", &now().as_second().to_string(), "--format", "{{json .}}"])
            .args(["--filter", "type=container", "--filter", &format!("label=nanoclaw.install={install}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker events");
        let lines = Lines::of(child.stdout.take().expect("piped"));
        Events { child, lines }
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Event> {
        self.lines.all().iter().filter_map(|line| parse(line)).collect()
    }

    /// Waits for the `n`-th event of this kind, from 1.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait(&self, action: &str, n: usize) -> Event {
        let found = self
            .lines
            .wait(DEADLINE, |lines| lines.iter().filter_map(|l| parse(l)).filter(|e| e.action == action).nth(n - 1));
        found.unwrap_or_else(|lines| panic!("no {action} number {n} of a container; there were {lines:#?}"))
    }

    /// The same, for no longer than `limit`; whether it came.
    pub fn came(&self, action: &str, n: usize, limit: Duration) -> bool {
        let nth = |lines: &[String]| lines.iter().filter_map(|l| parse(l)).filter(|e| e.action == action).nth(n - 1);
        self.lines.wait(limit, nth).is_ok()
    }

    /// How many events of this kind there were.
    pub fn count(&self, action: &str) -> usize {
        self.all().iter().filter(|e| e.action == action).count()
    }

    /// The containers that run, as far as has been told.
    pub fn running(&self) -> Vec<String> {
        let mut running = Vec::new();
        for Event { action, container, .. } in self.all() {
            match action.as_str() {
                "start" => running.push(container),
                "die" => running.retain(|c| *c != container),
                _ => {}
            }
        }
        running
    }

    /// A moment at which two containers of one session ran. (Each agent of the install has one session.)
    pub fn two_at_once(&self) -> Option<String> {
        let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Event { action, container, at } in self.all() {
            let agent = container.rsplit_once('-').map_or(container.as_str(), |(agent, _)| agent);
            let of_agent = running.entry(agent.to_owned()).or_default();
            match action.as_str() {
                "start" => of_agent.push(container),
                "die" => of_agent.retain(|c| *c != container),
                _ => {}
            }
            if of_agent.len() > 1 {
                return Some(format!("{at}: {of_agent:?}"));
            }
        }
        None
    }

    /// The containers that were started, in order: all there are once there are `at_least` so many.
    /// The engine tells of a start a little later than the container may answer.
    #[track_caller]
    pub fn started(&self, at_least: usize) -> Vec<String> {
        self.wait("start", at_least);
        self.all().into_iter().filter(|e| e.action == "start").map(|e| e.container).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It is ours and only listens.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<Event> {
    let json: Value = serde_json::from_str(line).ok()?;
    Some(Event {
        action: json["Action"].as_str()?.to_owned(),
        container: json["Actor"]["Attributes"]["name"].as_str()?.to_owned(),
        at: Timestamp::from_nanosecond(json["timeNano"].as_i64()?.into()).ok()?,
    })
}
