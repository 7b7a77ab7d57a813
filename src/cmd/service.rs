//! `nanoclaw service`: writes systemd's units and tells systemd of them. Every step is printed;
//! with `--dry-run`, or where there is no systemd, nothing else is done.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use super::{DryRun, ServiceCommand};
use crate::home::Home;
use crate::process::{self, Invocation};
use crate::service::unit::{self, Install, Schedule};

/// How long systemd may take: a start waits until messages are taken.
const DEADLINE: Duration = Duration::from_secs(120);

pub fn run(home: &Home, command: &ServiceCommand) -> Result<ExitCode> {
    match command {
        ServiceCommand::Install { timer, dry_run } => {
            let schedule = if *timer { Schedule::EveryMinute } else { Schedule::Always };
            Manager::new(dry_run)?.install(home, schedule)?;
        }
        ServiceCommand::Uninstall(dry_run) => Manager::new(dry_run)?.uninstall()?,
        ServiceCommand::Status => Manager::new(&DryRun { dry_run: false })?.status()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The system's manager for root, else the user's own.
struct Manager {
    folder: PathBuf,
    /// What `systemctl` is told first.
    scope: &'static [&'static str],
    dry_run: bool,
}

impl Manager {
    fn new(dry_run: &DryRun) -> Result<Manager> {
        let DryRun { dry_run } = *dry_run;
        if geteuid().is_root() {
            return Ok(Manager { folder: "/etc/systemd/system".into(), scope: &[], dry_run });
        }
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let config = config.context("no folder for the unit: HOME is not set")?;
        Ok(Manager { folder: config.join("systemd/user"), scope: &["--user"], dry_run })
    }

    fn install(&self, home: &Home, schedule: Schedule) -> Result<()> {
        let user = match self.scope {
            [] => Some(fs::metadata(home.root()).map_or(0, |m| m.uid())),
            _ => None,
        };
        let executable = std::env::current_exe().context("cannot find our own executable")?;
        let docker_host = std::env::var("DOCKER_HOST").ok();
        let docker_host = docker_host.as_deref();
        let install = Install { executable: &executable, home: home.root(), user, docker_host };
        if !self.dry_run {
            // A unit may only name what is there.
            fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
            if !home.root().exists() {
                home.create()?;
            }
        }
        let files = unit::files(&install, schedule);
        // The daemon and the timer would take the home from each other.
        self.remove(&self.installed().filter(|name| files.iter().all(|(new, _)| new != name)).collect::<Vec<_>>())?;
        for (name, text) in files {
            let path = self.folder.join(name);
            println!("write {}", path.display());
            if self.dry_run {
                println!("{text}");
            } else {
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", schedule.unit()])?;
        self.systemctl(&["restart", schedule.unit()])?;
        if user.is_none() {
            println!("To run it while you are logged out: loginctl enable-linger");
        }
        Ok(())
    }

    fn uninstall(&self) -> Result<()> {
        let there: Vec<&str> = self.installed().collect();
        self.remove(&there)?;
        match there.as_slice() {
            [] => println!("Nothing is installed in {}", self.folder.display()),
            _ => self.systemctl(&["daemon-reload"])?,
        }
        Ok(())
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        // A service without a section of its own for that is started by its timer.
        for name in names.iter().filter(|name| **name != "nanoclaw-sweep.service") {
            self.systemctl(&["disable", "--now", name])?;
        }
        for name in names {
            let path = self.folder.join(name);
            println!("remove {}", path.display());
            if !self.dry_run {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn status(&self) -> Result<()> {
        let there: Vec<&str> = self.installed().collect();
        if there.is_empty() {
            println!("Nothing is installed in {}: `nanoclaw service install`", self.folder.display());
        }
        for name in there {
            let output = self.call(&["is-active", name])?;
            let state = output.map_or("unknown, systemd does not run here".to_owned(), |o| {
                String::from_utf8_lossy(&o.stdout).trim().to_owned()
            });
            println!("{}: {state}", self.folder.join(name).display());
        }
        Ok(())
    }

    fn installed(&self) -> impl Iterator<Item = &'static str> {
        unit::FILES.into_iter().filter(|name| self.folder.join(name).exists())
    }

    /// One step, printed.
    fn systemctl(&self, words: &[&str]) -> Result<()> {
        println!("systemctl {}", [self.scope, words].concat().join(" "));
        if self.dry_run {
            return Ok(());
        }
        match self.call(words)? {
            Some(output) if !output.succeeded() => bail!("systemctl {}: {}", words.join(" "), output.complaint()),
            Some(_) => Ok(()),
            None => {
                println!("  systemd does not run here: do this where it does");
                Ok(())
            }
        }
    }

    /// `None` where systemd does not run (`sd_booted(3)`).
    fn call(&self, words: &[&str]) -> Result<Option<process::Output>> {
        if !Path::new("/run/systemd/system").exists() {
            return Ok(None);
        }
        let args = [self.scope, words].concat().into_iter().map(str::to_owned).collect();
        let call = Invocation { program: "systemctl".to_owned(), args, env: Vec::new(), deadline: DEADLINE };
        Ok(Some(process::run(&call).context("cannot run systemctl")?))
    }
}
