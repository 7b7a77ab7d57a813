//! A home of its own, the real host on it, and a client of its socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nanoclaw::channel::cli::CHANNEL;
use nanoclaw::channel::cli::wire::{FromClient, ToClient};
use nanoclaw::config::Settings;
use nanoclaw::container::spec::INSTALL_LABEL;
use nanoclaw::home::Home;
use nanoclaw::setup::{self, MAIN};
use nanoclaw::store::{Session, Store};
use nanoclaw::time::now;
use nanoclaw_session::layout::SessionDir;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::{docker, wait_until};

/// What a home under measurement says. A container that lives on beyond a broken bench leaves by itself.
const SETTINGS: &str = "NANOCLAW_PROVIDER=demo\nCONTAINER_IDLE_SECONDS=900\nTZ=UTC\n";
/// What the caller's environment may decide.
const INHERITED: [&str; 6] = ["PATH", "HOME", "DOCKER", "DOCKER_HOST", "XDG_RUNTIME_DIR", "CONTAINER_IMAGE"];
/// Longest wait for a line of the socket.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the host to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Where homes are made.
pub fn bench_dir() -> PathBuf {
    std::env::var_os("BENCH_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// A home that is gone when this is, with its containers.
#[derive(Debug)]
pub struct Place {
    pub home: Arc<Home>,
    install_label: String,
    _dir: TempDir,
}

impl Place {
    pub fn new() -> Result<Place> {
        let dir = tempfile::Builder::new().prefix("nanoclaw-bench-").tempdir_in(bench_dir())?;
        let home = Home::locate(Some(&dir.path().join("home")))?;
        home.create()?;
        fs::write(home.env_file(), SETTINGS)?;
        let install_label = format!("label={INSTALL_LABEL}={}", home.install_id());
        Ok(Place { home: Arc::new(home), install_label, _dir: dir })
    }

    /// The home's store, with what the first start puts there.
    pub fn store(&self) -> Result<Store> {
        let store = Store::open(&self.home.store(), now())?;
        setup::ensure_defaults(&store, &Settings::load(&self.home)?.agents)?;
        Ok(store)
    }

    /// A session in this chat of the terminal, with an empty folder.
    pub fn session(&self, store: &Store, id: &str, chat: &str, thread: Option<&str>) -> Result<SessionDir> {
        let chat = store.find_messaging_group(CHANNEL, chat)?.context("the terminal has no such chat")?;
        store.ensure_session(&Session::new(id, MAIN, Some(&chat.id), thread, now()))?;
        let dir = self.home.session(MAIN, id);
        dir.prepare()?;
        Ok(dir)
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&self, bin: &Path) -> Result<Host<'_>> {
        let started = Instant::now();
        let mut child = self.command(bin, "run").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        stdout.read_line(&mut line)?;
        let ready_after = started.elapsed();
        let host = Host { child, place: self, ready_after };
        ensure!(line.starts_with("ready"), "the host did not start; its log says:\n{}", host.log());
        Ok(host)
    }

    /// Runs one cycle to its end: how long it took, and its most memory in KiB. (`getrusage` would
    /// say what this process had when it made that one.)
    pub fn cycle(&self, bin: &Path) -> Result<(Duration, i64)> {
        let started = Instant::now();
        let mut child = self.command(bin, "sweep").stdout(Stdio::null()).spawn()?;
        let status = format!("/proc/{}/status", child.id());
        let mut peak_kib = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
            // It only grows; at the very end it is gone.
            peak_kib = peak_kib.max(line.trim().trim_end_matches(" kB").parse().unwrap_or(0));
            std::thread::sleep(Duration::from_micros(200));
        };
        let took = started.elapsed();
        ensure!(ended.success(), "`nanoclaw sweep` failed: {ended}");
        Ok((took, peak_kib))
    }

    fn command(&self, bin: &Path, word: &str) -> Command {
        let mut command = Command::new(bin.join("nanoclaw"));
        command.arg("--home").arg(self.home.root()).arg(word).env_clear();
        command
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("NANOCLAW_SHARED", concat!(env!("CARGO_MANIFEST_DIR"), "/container"))
            .stdin(Stdio::null())
            // The log file has it all.
            .stderr(Stdio::null());
        command
    }

    /// Ids of this home's containers.
    pub fn containers(&self) -> Result<Vec<String>> {
        let ids = docker(&["ps", "--all", "--quiet", "--filter", &self.install_label])?;
        Ok(ids.split_whitespace().map(str::to_owned).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = self.containers().and_then(|ids| {
            let args: Vec<&str> = ["rm", "--force"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            if ids.is_empty() { Ok(String::new()) } else { docker(&args) }
        });
        if let Err(e) = removed {
            eprintln!("containers of the bench may be left: {e:#}");
        }
    }
}

/// The running daemon; stopped when this is dropped.
#[derive(Debug)]
pub struct Host<'p> {
    child: Child,
    pub place: &'p Place,
    /// From the start of the process to its line `ready`.
    pub ready_after: Duration,
}

impl Host<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.home.log_file()).unwrap_or_default()
    }

    pub fn connect(&self) -> Result<Client> {
        let stream = UnixStream::connect(self.place.home.cli_socket())?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Client { lines: BufReader::new(stream.try_clone()?), stream, next_id: 0 })
    }

    /// The host's process id of the one runner that lives.
    pub fn runner_pid(&self) -> Result<u32> {
        let ids = self.place.containers()?;
        ensure!(ids.len() == 1, "{} containers instead of one", ids.len());
        let init: u32 = docker(&["inspect", "--format", "{{.State.Pid}}", &ids[0]])?.trim().parse()?;
        // --init puts a small init in front.
        let children = crate::process::children(init);
        children.into_iter().next().context("the container's init has no child")
    }

    /// Ends the container as its own idle limit would, and waits until the host has taken it away.
    pub fn stop_container(&self) -> Result<()> {
        let ended = |log: &str| log.matches("Container ended").count();
        let before = ended(&self.log());
        for id in self.place.containers()? {
            docker(&["kill", "--signal", "TERM", &id])?;
        }
        wait_until("the container's end", ANSWER_TIMEOUT, || Ok(ended(&self.log()) > before))?;
        ensure!(self.place.containers()?.is_empty(), "the container is still there");
        Ok(())
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // It may have ended already.
        let _ = kill_process(pid, Signal::TERM);
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("the host did not stop in {} s and is killed", STOP_TIMEOUT.as_secs());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the terminal's socket.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    next_id: u64,
}

/// What one message met, from the moment its line was written.
#[derive(Debug, Clone, Copy)]
pub struct TurnTimes {
    pub accepted: Duration,
    pub reply: Duration,
    pub end: Duration,
}

impl Client {
    /// Writes the lines of these messages at once; returns their ids.
    pub fn send(&mut self, texts: &[&str]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let mut bytes = Vec::new();
        for text in texts {
            let id = format!("bench-{}-{}", std::process::id(), self.next_id);
            self.next_id += 1;
            let line = FromClient { text: Some((*text).to_owned()), id: Some(id.clone()), ..FromClient::default() };
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
            ids.push(id);
        }
        self.stream.write_all(&bytes)?;
        Ok(ids)
    }

    pub fn next(&mut self) -> Result<ToClient> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line).context("no answer")? > 0, "the host went away");
        match serde_json::from_str(&line)? {
            ToClient::Error { message } => bail!("the host says: {message}"),
            other => Ok(other),
        }
    }

    /// One message, its reply and the end of its turn.
    pub fn turn(&mut self, text: &str) -> Result<TurnTimes> {
        let started = Instant::now();
        let id = self.send(&[text])?.remove(0);
        let (mut accepted, mut reply) = (None, None);
        loop {
            match self.next()? {
                ToClient::Accepted { .. } => accepted = accepted.or(Some(started.elapsed())),
                ToClient::Text { .. } => reply = reply.or(Some(started.elapsed())),
                ToClient::TurnEnd { message_ids, .. } if message_ids.contains(&id) => {
                    let end = started.elapsed();
                    let accepted = accepted.context("the turn ended before the message was accepted")?;
                    return Ok(TurnTimes { accepted, reply: reply.context("the turn had no reply")?, end });
                }
                _ => {}
            }
        }
    }

    /// Writes all messages at once and waits for the ends of all turns.
    pub fn burst(&mut self, messages: usize) -> Result<()> {
        let texts: Vec<String> = (0..messages).map(|n| format!("burst {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut open = self.send(&texts)?;
        while !open.is_empty() {
            if let ToClient::TurnEnd { message_ids, .. } = self.next()? {
                open.retain(|id| !message_ids.contains(id));
            }
        }
        Ok(())
    }
}
