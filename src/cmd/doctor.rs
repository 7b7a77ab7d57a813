//! `nanoclaw doctor`: everything nanoclaw needs, checked, each with its remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use nanoclaw_session::layout::SessionDir;
use rustix::process::{getegid, geteuid};
use serde_json::json;

use super::JsonArgs;
use super::status::{broken_file, disk_available};
use crate::config::{ContainerSettings, Settings};
use crate::container::docker::{Docker, DockerError};
use crate::container::mounts;
use crate::container::spec::{RUNNER, User};
use crate::home::Home;
use crate::store::{Session, Store};

/// Less free disk than this is a problem soon. bytes
const LOW_DISK_BYTES: u64 = 200 << 20;

pub fn run(home: &Home, args: &JsonArgs) -> Result<ExitCode> {
    let Settings { containers, agents, gateway, .. } = Settings::load(home)?;
    home.create()?;
    let (mut checks, mut failed) = (Vec::new(), false);
    let mut check = |name: &str, result: Result<String, String>, remedy: &str| {
        let ok = result.is_ok();
        let found = result.unwrap_or_else(|e| e);
        match (args.json, ok) {
            (true, _) => {}
            (false, true) => println!("ok      {name}: {found}"),
            (false, false) => println!("FAILED  {name}: {found}\n        {remedy}"),
        }
        failed |= !ok;
        checks.push(match ok {
            true => json!({ "name": name, "ok": ok, "found": found }),
            false => json!({ "name": name, "ok": ok, "found": found, "remedy": remedy }),
        });
        ok
    };

    check("home", private(home), "chmod 700 the home and chmod 600 its .env");
    check("disk", disk(home), "free some space: a full disk stops new messages");
    check("database", database(home), "restore data/v2.db from a backup");
    let remedy = "stop nanoclaw and restore the file; without a copy, move it away and go on without";
    check("sessions", sessions(home), remedy);
    // A database that cannot be read was reported above.
    let refused = Store::open_read_only(&home.store()).and_then(|store| mounts::refused(&store, home));
    for reason in refused.unwrap_or_default() {
        check("mount", Err(reason), "allow it in ~/.config/nanoclaw/mount-allowlist.json, or take it from the group");
    }
    check("clock", clock(), "set the clock (`timedatectl`): tasks wait for a sane one");
    let provider = agents.provider;
    let credential = gateway.missing(&provider).map_or(Ok(()), |missing| Err(format!("{provider} needs {missing}")));
    let remedy = "put it into .env, or choose another NANOCLAW_PROVIDER";
    check("model", credential.map(|()| format!("{provider} has what it needs")), remedy);
    let docker = Docker::new(&containers.docker);
    let version = docker.ping().map_err(|e| e.to_string());
    let engine = check("docker", version, "install and start Docker: `make run` does both");
    let runner = containers.runner.display().to_string();
    let found = if containers.runner.is_file() { Ok(runner) } else { Err(format!("not at {runner}")) };
    let has_runner = check("runner", found, "build it: `make build`");
    if engine && check("image", image(&containers, &docker), "build it: `make image`") {
        if has_runner {
            let remedy = "the runner must be static and out/ writable for the container's user: `make build`";
            check("runner-in-image", runner_in_image(home, &containers, &docker), remedy);
        }
        let remedy = "enable the memory cgroup (on a Pi: cgroup_enable=memory in cmdline.txt)";
        check("memory-limit", memory_limit(&containers, &docker), remedy);
    }

    args.print(&checks, || {})?;
    Ok(ExitCode::from(u8::from(failed)))
}

fn private(home: &Home) -> Result<String, String> {
    for (path, allowed) in [(home.root().to_owned(), 0o700), (home.env_file(), 0o600)] {
        match fs::metadata(&path) {
            Ok(meta) if meta.permissions().mode() & 0o777 & !allowed != 0 => {
                return Err(format!("{} is open to others", path.display()));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{}: {e}", path.display())),
        }
    }
    Ok(home.root().display().to_string())
}

fn disk(home: &Home) -> Result<String, String> {
    match disk_available(home) {
        Some(bytes) if bytes >= LOW_DISK_BYTES => Ok(format!("{} MiB free", bytes >> 20)),
        Some(bytes) => Err(format!("only {} MiB free", bytes >> 20)),
        None => Err("the free space is not known".into()),
    }
}

fn database(home: &Home) -> Result<String, String> {
    let store = Store::open(&home.store(), crate::time::now()).map_err(|e| e.to_string())?;
    match store.integrity_problems() {
        Ok(problems) if problems.is_empty() => Ok("sound".into()),
        Ok(problems) => Err(problems.join("; ")),
        Err(e) => Err(e.to_string()),
    }
}

/// The files of every session can be read.
fn sessions(home: &Home) -> Result<String, String> {
    let store = Store::open(&home.store(), crate::time::now()).map_err(|e| e.to_string())?;
    let sessions = store.active_sessions().map_err(|e| e.to_string())?;
    let fault = |s: &Session| Some(format!("{}: {}", s.id, broken_file(&home.session(&s.agent_group_id, &s.id))?));
    let broken: Vec<String> = sessions.iter().filter_map(fault).collect();
    if broken.is_empty() { Ok(format!("{} can be read", sessions.len())) } else { Err(broken.join("; ")) }
}

/// A board without a battery clock starts in the past.
fn clock() -> Result<String, String> {
    const BUILT_AFTER: i64 = 1_790_000_000; // September 2026
    let now = crate::time::now();
    if now.as_second() > BUILT_AFTER { Ok(now.to_string()) } else { Err(format!("it says {now}")) }
}

fn image(containers: &ContainerSettings, docker: &Docker) -> Result<String, String> {
    let name = &containers.image;
    match docker.image_id(name) {
        Ok(Some(id)) => Ok(format!("{name} {}", id.trim_start_matches("sha256:").get(..12).unwrap_or(&id))),
        Ok(None) => Err(format!("there is no {name}")),
        Err(e) => Err(e.to_string()),
    }
}

/// Runs the real runner in the real image as the real user, on a folder laid out like a session.
fn runner_in_image(home: &Home, containers: &ContainerSettings, docker: &Docker) -> Result<String, String> {
    let user = User::for_host(geteuid().as_raw(), getegid().as_raw());
    let root = home.data().join("doctor");
    let dir = SessionDir::new(&root);
    let probe = || -> Result<String> {
        dir.prepare()?;
        std::os::unix::fs::chown(dir.out(), Some(user.uid), Some(user.gid))?;
        let mount = |source: &Path, to: &str| format!("--mount=type=bind,source={},target={to}", source.display());
        let options = [
            "--read-only",
            "--cap-drop=ALL",
            &format!("--user={}:{}", user.uid, user.gid),
            &format!("{},readonly", mount(dir.root(), "/workspace")),
            &mount(&dir.out(), "/workspace/out"),
            &format!("{},readonly", mount(&containers.runner, RUNNER)),
        ];
        let line = in_image(containers, docker, &options, &[RUNNER, "probe"])?;
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    };
    let result = probe();
    // What is left is a few empty files in our own folder.
    let _ = fs::remove_dir_all(&root);
    result.map_err(|e| format!("{e:#}"))
}

/// Some kernels accept a limit and do not enforce it: ask for more than is allowed and see.
fn memory_limit(containers: &ContainerSettings, docker: &Docker) -> Result<String, String> {
    let greedy = "import sys\nb=bytearray(96*1024*1024)\nfor i in range(0,len(b),4096): b[i]=1\nprint('got it')";
    match in_image(containers, docker, &["--memory=48m", "--memory-swap=48m"], &["python3", "-c", greedy]) {
        Ok(_) => Err("a container got twice its limit".into()),
        Err(DockerError::Failed(why)) if !why.contains("got it") => Ok("enforced".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// What a command prints in a container of the image.
fn in_image(
    containers: &ContainerSettings,
    docker: &Docker,
    options: &[&str],
    command: &[&str],
) -> Result<Vec<u8>, DockerError> {
    let base = ["run", "--rm", "--pull=never", "--network=none", "--entrypoint", command[0]];
    docker.try_out(&[&base, options, &[&containers.image], &command[1..]].concat())
}
