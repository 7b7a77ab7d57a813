//! `nanoclaw status`: what there is, read from the home; the daemon need not run.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Result;
use nanoclaw_session::alive::last_heartbeat;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::time::format_utc;
use nanoclaw_session::untrusted::{UntrustedError, open_untrusted};
use serde::Serialize;

use super::JsonArgs;
use crate::home::Home;
use crate::store::{Session, Store};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    home: String,
    daemon: Daemon,
    sessions: Vec<SessionStatus>,
    waiting_notices: usize,
    memory_available_bytes: Option<u64>,
    disk_available_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Daemon {
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// The terminal's socket answers.
    accepting: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionStatus {
    id: String,
    agent_group: String,
    chat: Option<String>,
    container: String,
    container_name: Option<String>,
    /// Messages that wait for the agent.
    queued: usize,
    /// Answers that wait for their channel.
    undelivered: usize,
    last_active: Option<String>,
    last_progress: Option<String>,
    last_end: Option<String>,
    last_error: Option<String>,
}

pub fn run(home: &Home, args: &JsonArgs) -> Result<ExitCode> {
    let status = collect(home)?;
    args.print(&status, || print(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn collect(home: &Home) -> Result<Status> {
    let store = super::open_store(home)?;
    let holder = home.holder()?;
    let daemon = Daemon {
        running: holder.is_some(),
        accepting: holder.is_some() && UnixStream::connect(home.cli_socket()).is_ok(),
        pid: holder.and_then(|holder| holder.pid),
    };
    let sessions = store.active_sessions()?.iter().map(|s| session_status(home, &store, s)).collect::<Result<_>>()?;
    Ok(Status {
        home: home.root().display().to_string(),
        daemon,
        sessions,
        waiting_notices: store.pending_host_messages(1_000)?.len(),
        memory_available_bytes: crate::memory::available(),
        disk_available_bytes: disk_available(home),
    })
}

fn session_status(home: &Home, store: &Store, session: &Session) -> Result<SessionStatus> {
    let dir = home.session(&session.agent_group_id, &session.id);
    let look = || -> rusqlite::Result<_> {
        let db = InboundDb::open(&dir, Durability::Normal)?;
        Ok((db.unfinished_ids()?.len(), db.attempts()?))
    };
    // What is wrong with the file is said below.
    let (queued, attempts) = if dir.inbound_db().exists() { look().unwrap_or_default() } else { Default::default() };
    let run = store.container_runs_of(&session.id, 1)?.pop();
    let chat = crate::destinations::own_chat(store, session)?;
    Ok(SessionStatus {
        id: session.id.clone(),
        agent_group: store.agent_group(&session.agent_group_id)?.folder,
        chat: chat.map(|c| c.to_string()),
        container: session.container_status.to_string(),
        container_name: run.as_ref().map(|r| r.container_name.clone()),
        queued,
        undelivered: attempts.len(),
        last_active: session.last_active.map(format_utc),
        last_progress: last_heartbeat(&dir).map(format_utc),
        last_end: run.and_then(|r| r.end_reason).map(|reason| reason.to_string()),
        last_error: broken_file(&dir).or_else(|| attempts.into_iter().find_map(|a| a.last_error)),
    })
}

/// What is wrong with one of a session's files, if anything.
pub fn broken_file(dir: &SessionDir) -> Option<String> {
    let inbound = || InboundDb::open(dir, Durability::Normal)?.attempts();
    let ours = dir.inbound_db().exists().then(inbound).and_then(Result::err).map(|e| format!("inbound.db: {e}"));
    ours.or_else(|| match open_untrusted(dir).and_then(|db| db.read(|s| s.max_seq())) {
        Ok(_) | Err(UntrustedError::NotThere | UntrustedError::Again) => None,
        Err(e) => Some(format!("outbound.db: {e}")),
    })
}

fn print(status: &Status) {
    let daemon = match (status.daemon.running, status.daemon.pid) {
        (true, Some(pid)) => format!("running (process {pid})"),
        (true, None) => "running".to_owned(),
        (false, _) => "not running: start it with `nanoclaw run`".to_owned(),
    };
    println!("home      {}", status.home);
    println!("daemon    {daemon}");
    let mib = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |b| format!("{} MiB", b >> 20));
    println!(
        "available {} of memory, {} of disk",
        mib(status.memory_available_bytes),
        mib(status.disk_available_bytes)
    );
    if status.waiting_notices > 0 {
        println!("notices   {} of ours wait to be delivered", status.waiting_notices);
    }
    println!("sessions  {}", status.sessions.len());
    for s in &status.sessions {
        let chat = s.chat.as_deref().unwrap_or("no chat of its own");
        println!("  {}  {} in {chat}: container {}", s.id, s.agent_group, s.container);
        println!(
            "    queued {}, undelivered {}, last active {}, last progress {}",
            s.queued,
            s.undelivered,
            s.last_active.as_deref().unwrap_or("never"),
            s.last_progress.as_deref().unwrap_or("never"),
        );
        if let Some(error) = &s.last_error {
            println!("    last error: {error}");
        }
    }
}

/// What a user may still write below the home. bytes
pub fn disk_available(home: &Home) -> Option<u64> {
    rustix::fs::statvfs(home.root()).ok().map(|fs| fs.f_bavail * fs.f_frsize)
}
