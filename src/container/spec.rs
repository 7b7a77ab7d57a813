//! What to run, as data, and its translation into arguments of the docker CLI. Pure.
//!
//! Hardened by default: a non-root user, no capabilities, no new privileges, a read-only root,
//! and limits on memory, processes and file size. There is no way to ask for less here.

use std::path::{Path, PathBuf};

use crate::store::NetworkMode;

/// Where the runner lies in a container.
pub const RUNNER: &str = "/app/nanoclaw-runner";
/// Where the gateway's socket folder lies in a container.
pub const GATEWAY_DIR: &str = "/run/nanoclaw";
/// Home of the agent's user in a container.
pub const AGENT_HOME: &str = "/home/agent";

/// Label that says which install a container belongs to.
pub const INSTALL_LABEL: &str = "nanoclaw.install";
/// Label that says which session a container serves.
pub const SESSION_LABEL: &str = "nanoclaw.session";

/// Largest file a container may write. bytes
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Most processes and threads in a container of a group that says nothing else.
pub const MAX_PROCESSES: u32 = 512;
/// Largest file system in memory. bytes
const TMPFS_BYTES: u64 = 256 << 20;

/// One container to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub image: String,
    pub install_id: String,
    pub session_id: String,
    pub user: User,
    pub mounts: Vec<Mount>,
    /// Seen by anyone who can list processes or inspect the container.
    pub env: Vec<(String, String)>,
    /// Handed over through the CLI's own environment, so that it is in no argument list.
    pub secret_env: Vec<(String, String)>,
    /// As docker takes it.
    pub memory: String,
    pub cpus: Option<String>,
    /// Most processes and threads.
    pub pids: u32,
    pub network: NetworkMode,
}

/// Numeric user and group inside the container, and of what it may write on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// The user for containers of a host that runs as root: an id that nobody else on the machine has
    /// (docs/ARCHITECTURE.md, "Decisions of ours").
    pub const DEDICATED: User = User { uid: 70707, gid: 70707 };

    /// The policy: a host that runs as root uses the dedicated user, any other host itself.
    pub fn for_host(uid: u32, gid: u32) -> User {
        if uid == 0 { User::DEDICATED } else { User { uid, gid } }
    }
}

/// A folder or file of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub target: String,
    pub access: Access,
}

/// What a container may do with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

impl Mount {
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<String>) -> Mount {
        Mount { source: source.into(), target: target.into(), access: Access::ReadOnly }
    }

    pub fn read_write(source: impl Into<PathBuf>, target: impl Into<String>) -> Mount {
        Mount { source: source.into(), target: target.into(), access: Access::ReadWrite }
    }

    fn argument(&self) -> String {
        let read_only = match self.access {
            Access::ReadOnly => ",readonly",
            Access::ReadWrite => "",
        };
        format!("type=bind,{},{}{read_only}", csv("source", &self.source), csv("target", Path::new(&self.target)))
    }
}

/// One `key=value` field of the comma-separated list that `--mount` takes. A comma or a quote
/// in a path must not start another field.
fn csv(key: &str, path: &Path) -> String {
    let field = format!("{key}={}", path.display());
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

impl Spec {
    /// The arguments of `docker` that start this container, detached.
    pub fn run_args(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::with_capacity(64);
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        // Never --rm: the exit code and the log are wanted. Never attached: no CLI process waits.
        add(&["run", "--detach", "--pull", "never", "--init", "--name", &self.name]);
        add(&["--label", &format!("{INSTALL_LABEL}={}", self.install_id)]);
        add(&["--label", &format!("{SESSION_LABEL}={}", self.session_id)]);
        add(&["--user", &format!("{}:{}", self.user.uid, self.user.gid)]);
        add(&["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"]);
        add(&["--pids-limit", &self.pids.to_string()]);
        // Swap beyond the limit would wear out an SD card.
        add(&["--memory", &self.memory, "--memory-swap", &self.memory]);
        if let Some(cpus) = &self.cpus {
            add(&["--cpus", cpus]);
        }
        add(&["--ulimit", &format!("fsize={MAX_FILE_BYTES}:{MAX_FILE_BYTES}"), "--ulimit", "core=0:0"]);
        add(&["--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"]);
        add(&["--network", self.network.as_str()]);
        for folder in ["/tmp", AGENT_HOME] {
            let User { uid, gid } = self.user;
            add(&[
                "--tmpfs",
                &format!("{folder}:rw,exec,nosuid,nodev,size={TMPFS_BYTES},uid={uid},gid={gid},mode=0700"),
            ]);
        }
        for mount in &self.mounts {
            add(&["--mount", &mount.argument()]);
        }
        for (name, value) in &self.env {
            add(&["--env", &format!("{name}={value}")]);
        }
        for (name, _) in &self.secret_env {
            add(&["--env", name]);
        }
        add(&["--workdir", "/workspace/agent", "--entrypoint", RUNNER, &self.image, "run"]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            name: "nanoclaw-main-1".into(),
            image: "nanoclaw-agent:latest".into(),
            install_id: "abc".into(),
            session_id: "s1".into(),
            user: User::for_host(0, 0),
            mounts: vec![
                Mount::read_only("/home/o/data/s1", "/workspace"),
                Mount::read_write("/home/o/data/s1/out", "/workspace/out"),
            ],
            env: vec![("TZ".into(), "Europe/Berlin".into())],
            secret_env: vec![("NANOCLAW_GATEWAY_TOKEN".into(), "t0ken".into())],
            memory: "512m".into(),
            cpus: None,
            pids: 99,
            network: NetworkMode::Bridge,
        }
    }

    #[test]
    fn a_container_is_hardened_detached_and_kept_after_its_end() {
        let line = spec().run_args().join(" ");
        for wanted in [
            "run --detach --pull never --init --name nanoclaw-main-1",
            "--user 70707:70707",
            "--cap-drop ALL",
            "--security-opt no-new-privileges",
            "--read-only",
            "--pids-limit 99",
            "--memory 512m --memory-swap 512m",
            "--log-opt max-size=1m",
            "--label nanoclaw.install=abc --label nanoclaw.session=s1",
            "--mount type=bind,source=/home/o/data/s1,target=/workspace,readonly",
            "--mount type=bind,source=/home/o/data/s1/out,target=/workspace/out --env",
            "--entrypoint /app/nanoclaw-runner nanoclaw-agent:latest run",
        ] {
            assert!(line.contains(wanted), "{wanted} is not in {line}");
        }
        for unwanted in ["--rm", "--privileged", "docker.sock", "--cap-add"] {
            assert!(!line.contains(unwanted), "{unwanted} is in {line}");
        }
    }

    #[test]
    fn a_secret_is_named_but_not_in_the_arguments() {
        let args = spec().run_args();
        assert!(args.contains(&"NANOCLAW_GATEWAY_TOKEN".to_owned()));
        assert!(!args.iter().any(|a| a.contains("t0ken")));
    }

    #[test]
    fn a_comma_in_a_path_does_not_add_a_mount_option() {
        let mount = Mount::read_only("/srv/a,readonly=false", "/x");
        assert_eq!(mount.argument(), "type=bind,\"source=/srv/a,readonly=false\",target=/x,readonly");
    }

    #[test]
    fn a_host_that_is_no_root_uses_its_own_ids() {
        assert_eq!(User::for_host(1000, 100), User { uid: 1000, gid: 100 });
        assert_eq!(User::for_host(0, 0), User::DEDICATED);
    }
}
