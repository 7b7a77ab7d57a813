//! The docker CLI as a driver: each call runs it once, to its end, with a deadline. Any
//! docker-compatible CLI will do (`DOCKER=podman`).
//!
//! Every function blocks: they are called on worker threads, never on an actor's own. Output is
//! parsed by pure functions, tested on what the CLI really printed.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::spec::{INSTALL_LABEL, SESSION_LABEL, Spec};
use crate::process::{self, Invocation, Output};

/// `docker run` pulls nothing and waits for nothing but the start of one process.
pub const RUN_DEADLINE: Duration = Duration::from_secs(60);
/// Questions to the engine.
const ASK_DEADLINE: Duration = Duration::from_secs(15);
/// What a container gets between SIGTERM and SIGKILL. seconds
const STOP_GRACE_S: u32 = 5;
/// Lines of a container's log that are kept.
const KEPT_LOG_LINES: &str = "2000";

/// The CLI. What a call says of errors is in [`DockerError`].
#[derive(Debug, Clone)]
pub struct Docker {
    program: String,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerError {
    /// The program is not there.
    NotInstalled { program: String },
    /// The engine did not answer in time.
    TimedOut,
    /// The CLI said no; its last words.
    Failed(String),
    /// It answered something we cannot read.
    Unreadable(String),
}

impl fmt::Display for DockerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DockerError::NotInstalled { program } => {
                write!(f, "{program} is not installed: run `make run`, or set DOCKER to a docker-compatible program")
            }
            DockerError::TimedOut => f.write_str("the container engine did not answer in time"),
            DockerError::Failed(words) => f.write_str(words),
            DockerError::Unreadable(what) => write!(f, "the container engine answered something unreadable: {what}"),
        }
    }
}

impl std::error::Error for DockerError {}

/// What the engine says about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub id: String,
    pub name: String,
    /// The session it serves, from its label.
    pub session_id: Option<String>,
    pub state: State,
}

/// Whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Created and not started yet, or being taken down: neither alive nor proven dead.
    InBetween,
    /// With the process id of its init, 0 when the engine's processes are not ours to see.
    Running {
        pid: u32,
    },
    Exited {
        code: i64,
        oom_killed: bool,
    },
}

/// Whether a failed start may have left a container after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    None,
    Possible,
}

/// A container that was started.
#[derive(Debug)]
pub struct Started {
    /// The engine's id, where it was said.
    pub container_id: Option<String>,
    pub life: Life,
}

/// How its end will be noticed.
#[derive(Debug)]
pub enum Life {
    /// Readable when its init is gone.
    Pidfd(OwnedFd),
    /// Its processes are not ours to see: the engine must be asked.
    AskEngine,
    /// It ended before we could look.
    Over,
}

impl Docker {
    pub fn new(program: &str) -> Docker {
        Docker { program: program.to_owned() }
    }

    /// Starts the container and finds out how to notice its end.
    /// A container that was created but not started is removed, if possible.
    pub fn start(&self, spec: &Spec) -> Result<Started, (DockerError, Leftover)> {
        let invocation = Invocation {
            program: self.program.clone(),
            args: spec.run_args(),
            env: spec.secret_env.clone(),
            deadline: RUN_DEADLINE,
        };
        match self.execute(&invocation).and_then(succeeded) {
            Ok(output) => {
                let container_id = text(&output);
                // It runs: an engine that cannot be asked now is asked again later.
                let life = self.life(&container_id, Duration::ZERO).unwrap_or(Life::AskEngine);
                Ok(Started { container_id: Some(container_id), life })
            }
            Err(error) => {
                // It may have been created, and holds the name then. After a timeout it may even come later.
                let leftover = match (&error, self.remove(&spec.name)) {
                    (DockerError::NotInstalled { .. }, _) => Leftover::None,
                    (DockerError::TimedOut, _) | (_, Err(_)) => Leftover::Possible,
                    (_, Ok(())) => Leftover::None,
                };
                Err((error, leftover))
            }
        }
    }

    /// How the end of this container will be noticed. One that was created and not started by
    /// the age at which any `docker run` has ended is removed.
    pub fn life(&self, container: &str, age: Duration) -> Result<Life, DockerError> {
        match self.inspect(container)? {
            Some(Inspected { id, state: State::Running { pid }, .. }) => Ok(open_pidfd(pid, &id)),
            Some(Inspected { state: State::InBetween, .. }) if age > RUN_DEADLINE => {
                self.remove(container)?;
                Ok(Life::Over)
            }
            Some(Inspected { state: State::InBetween, .. }) => Ok(Life::AskEngine),
            Some(Inspected { state: State::Exited { .. }, .. }) | None => Ok(Life::Over),
        }
    }

    /// What the engine says about one container; `None` when it knows none of this name.
    pub fn inspect(&self, container: &str) -> Result<Option<Inspected>, DockerError> {
        match self.find(&["inspect", "--type", "container", container])? {
            Some(output) => Ok(parse_inspect(&output.stdout)?.pop()),
            None => Ok(None),
        }
    }

    /// Every container of this install, alive or not.
    pub fn list(&self, install_id: &str) -> Result<Vec<Inspected>, DockerError> {
        let filter = format!("label={INSTALL_LABEL}={install_id}");
        let output = self.ask(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])?;
        let ids = text(&output);
        let mut found = Vec::new();
        // One by one: one that is removed meanwhile fails alone, and no answer is too long to keep.
        for id in ids.lines() {
            found.extend(self.inspect(id)?);
        }
        Ok(found)
    }

    /// The last lines a container printed.
    pub fn logs(&self, container: &str) -> Result<Vec<u8>, DockerError> {
        let output = self.ask(&["logs", "--timestamps", "--tail", KEPT_LOG_LINES, container])?;
        Ok([output.stdout, output.stderr].concat())
    }

    /// Removes a container, killing it if need be. Idempotent.
    pub fn remove(&self, container: &str) -> Result<(), DockerError> {
        let output = self.call(&["rm", "--force", "--volumes", container], RUN_DEADLINE)?;
        if output.succeeded() {
            return Ok(());
        }
        match self.inspect(container)? {
            None => Ok(()),
            Some(_) => Err(DockerError::Failed(output.complaint())),
        }
    }

    /// Asks a container to end, and kills it when it does not.
    pub fn stop(&self, container: &str) -> Result<(), DockerError> {
        self.ask(&["stop", "--time", &STOP_GRACE_S.to_string(), container]).map(drop)
    }

    /// Whether the engine answers; its version.
    pub fn ping(&self) -> Result<String, DockerError> {
        self.ask(&["version", "--format", "{{.Server.Version}}"]).map(|output| text(&output))
    }

    /// The id of an image; `None` when there is none of this name.
    pub fn image_id(&self, image: &str) -> Result<Option<String>, DockerError> {
        Ok(self.find(&["image", "inspect", "--format", "{{.Id}}", image])?.as_ref().map(text))
    }

    /// Runs a container to its end in the foreground; what it printed. For `doctor`.
    pub fn try_out(&self, args: &[&str]) -> Result<Vec<u8>, DockerError> {
        succeeded(self.call(args, RUN_DEADLINE)?).map(|output| output.stdout)
    }

    /// The answer about something that may not be there.
    fn find(&self, args: &[&str]) -> Result<Option<Output>, DockerError> {
        let output = self.call(args, ASK_DEADLINE)?;
        if output.succeeded() {
            return Ok(Some(output));
        }
        // The CLI exits with 1 for "no such thing" and for "no engine" alike: ask the engine
        // whether it is there before believing that the thing is not.
        self.ping()?;
        Ok(None)
    }

    fn ask(&self, args: &[&str]) -> Result<Output, DockerError> {
        succeeded(self.call(args, ASK_DEADLINE)?)
    }

    fn call(&self, args: &[&str], deadline: Duration) -> Result<Output, DockerError> {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        self.execute(&Invocation { program: self.program.clone(), args, env: Vec::new(), deadline })
    }

    fn execute(&self, invocation: &Invocation) -> Result<Output, DockerError> {
        match process::run(invocation) {
            Ok(output) => Ok(output),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(DockerError::NotInstalled { program: self.program.clone() })
            }
            Err(e) => Err(DockerError::Failed(format!("cannot start {}: {e}", self.program))),
        }
    }
}

fn succeeded(output: Output) -> Result<Output, DockerError> {
    match output.ended {
        process::Ended::Code(0) => Ok(output),
        process::Ended::TimedOut => Err(DockerError::TimedOut),
        _ => Err(DockerError::Failed(output.complaint())),
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Opens the container's init, and makes sure that the process id was not reused meanwhile.
fn open_pidfd(pid: u32, container_id: &str) -> Life {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Life::AskEngine };
    match pidfd_open(process, PidfdFlags::empty()) {
        Ok(fd) => {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if cgroup.contains(container_id) { Life::Pidfd(fd) } else { Life::AskEngine }
        }
        // Gone already, or never visible here: the engine knows which.
        Err(_) => Life::AskEngine,
    }
}

fn parse_inspect(json: &[u8]) -> Result<Vec<Inspected>, DockerError> {
    let containers: Vec<Value> = serde_json::from_slice(json).map_err(|e| DockerError::Unreadable(e.to_string()))?;
    let inspected = |c: &Value| {
        let state = &c["State"];
        Some(Inspected {
            id: c["Id"].as_str()?.to_owned(),
            // Docker prints a leading slash, podman none.
            name: c["Name"].as_str()?.trim_start_matches('/').to_owned(),
            session_id: c["Config"]["Labels"][SESSION_LABEL].as_str().map(str::to_owned),
            state: match state["Status"].as_str()? {
                "running" | "paused" => {
                    State::Running { pid: u32::try_from(state["Pid"].as_u64().unwrap_or_default()).ok()? }
                }
                "exited" | "dead" | "stopped" => State::Exited {
                    code: state["ExitCode"].as_i64().unwrap_or_default(),
                    oom_killed: state["OOMKilled"].as_bool().unwrap_or(false),
                },
                _ => State::InBetween,
            },
        })
    };
    let unreadable = |c: &Value| DockerError::Unreadable(format!("of a container, {}", c["State"]));
    containers.iter().map(|c| inspected(c).ok_or_else(|| unreadable(c))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut down from `docker inspect` of 20.10.24.
    const RUNNING: &str = r#"[{"Id":"4f1d","Created":"2026-11-21T04:40:00Z","Path":"/sbin/docker-init",
        "State":{"Status":"running","Running":true,"Paused":false,"OOMKilled":false,"Dead":false,"Pid":4242,
        "ExitCode":0,"Error":"","StartedAt":"2026-11-21T04:40:01Z","FinishedAt":"0001-01-01T00:00:00Z"},
        "Name":"/nanoclaw-main-1","Config":{"Labels":{"nanoclaw.install":"abc","nanoclaw.session":"s1"}}}]"#;

    #[test]
    fn a_running_container_has_its_pid_and_session() {
        let parsed = parse_inspect(RUNNING.as_bytes()).unwrap();
        assert_eq!(
            parsed,
            [Inspected {
                id: "4f1d".into(),
                name: "nanoclaw-main-1".into(),
                session_id: Some("s1".into()),
                state: State::Running { pid: 4242 },
            }]
        );
    }

    #[test]
    fn an_exited_container_has_its_code() {
        let json = RUNNING
            .replace("\"running\"", "\"exited\"")
            .replace("\"ExitCode\":0", "\"ExitCode\":137")
            .replace("\"OOMKilled\":false", "\"OOMKilled\":true");
        assert_eq!(parse_inspect(json.as_bytes()).unwrap()[0].state, State::Exited { code: 137, oom_killed: true });
    }

    #[test]
    fn one_that_was_created_is_neither_alive_nor_dead_and_may_have_no_labels() {
        let json = r#"[{"Id":"x","Name":"y","State":{"Status":"created"},"Config":{"Labels":null}}]"#;
        let parsed = parse_inspect(json.as_bytes()).unwrap().pop().unwrap();
        assert_eq!((parsed.state, parsed.session_id), (State::InBetween, None));
    }

    #[test]
    fn garbage_is_unreadable_and_not_an_empty_list() {
        for garbage in ["Segmentation fault", r#"[{"Id":"x","Name":"y"}]"#] {
            assert!(matches!(parse_inspect(garbage.as_bytes()), Err(DockerError::Unreadable(_))), "{garbage}");
        }
    }

    #[test]
    fn a_missing_cli_is_named_with_a_remedy() {
        let error = Docker::new("no-such-docker").ping().unwrap_err();
        assert!(error.to_string().contains("no-such-docker is not installed"), "{error}");
    }
}
