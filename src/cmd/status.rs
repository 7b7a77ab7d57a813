//! `nanoclaw status`: what there is, read from the home; the daemon need not run.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Result;
use nanoclaw_session::alive::last_heartbeat;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::time::format_utc;
use nanoclaw_session::untrusted::{UntrustedError, open_untrusted};
use serde_json::{Value, json};

use super::JsonArgs;
use crate::home::Home;
use crate::store::{Session, Store};

pub fn run(home: &Home, args: &JsonArgs) -> Result<ExitCode> {
    let status = collect(home)?;
    args.print(&status, || print(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn collect(home: &Home) -> Result<Value> {
    let store = super::open_store(home)?;
    let holder = home.holder()?;
    let sessions = store.active_sessions()?.iter().map(|s| of_session(home, &store, s)).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "home": home.root().display().to_string(),
        "daemon": {
            "running": holder.is_some(),
            "pid": holder.as_ref().and_then(|holder| holder.pid),
            // The terminal's socket answers.
            "accepting": holder.is_some() && UnixStream::connect(home.cli_socket()).is_ok(),
        },
        "sessions": sessions,
        "waitingNotices": store.pending_host_messages(1_000)?.len(),
        "memoryAvailableBytes": crate::memory::available(),
        "diskAvailableBytes": disk_available(home),
    }))
}

fn of_session(home: &Home, store: &Store, session: &Session) -> Result<Value> {
    let dir = home.session(&session.agent_group_id, &session.id);
    let look = || -> rusqlite::Result<_> {
        let db = InboundDb::open(&dir, Durability::Normal)?;
        Ok((db.unfinished_ids()?.len(), db.attempts()?))
    };
    // What is wrong with the file is said below.
    let (queued, attempts) = if dir.inbound_db().exists() { look().unwrap_or_default() } else { Default::default() };
    let run = store.container_runs_of(&session.id, 1)?.pop();
    Ok(json!({
        "id": session.id,
        "agentGroup": store.agent_group(&session.agent_group_id)?.folder,
        "chat": crate::destinations::own_chat(store, session)?.map(|chat| chat.to_string()),
        "container": session.container_status.as_str(),
        "containerName": run.as_ref().map(|run| &run.container_name),
        // What waits for the agent, and what waits for its channel.
        "queued": queued,
        "undelivered": attempts.len(),
        "lastActive": session.last_active.map(format_utc),
        "lastProgress": last_heartbeat(&dir).map(format_utc),
        "lastEnd": run.as_ref().and_then(|run| run.end_reason).map(|reason| reason.as_str()),
        "lastError": broken_file(&dir).or_else(|| attempts.into_iter().find_map(|a| a.last_error)),
    }))
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

fn print(status: &Value) {
    let daemon = match (status["daemon"]["running"] == true, status["daemon"]["pid"].as_u64()) {
        (true, Some(pid)) => format!("running (process {pid})"),
        (true, None) => "running".to_owned(),
        (false, _) => "not running: start it with `nanoclaw run`".to_owned(),
    };
    println!("home      {}", text(&status["home"], ""));
    println!("daemon    {daemon}");
    let mib = |of: &str| status[of].as_u64().map_or("unknown".to_owned(), |b| format!("{} MiB", b >> 20));
    println!("available {} of memory, {} of disk", mib("memoryAvailableBytes"), mib("diskAvailableBytes"));
    if status["waitingNotices"] != 0 {
        println!("notices   {} of ours wait to be delivered", status["waitingNotices"]);
    }
    let sessions = status["sessions"].as_array().map_or(&[][..], Vec::as_slice);
    println!("sessions  {}", sessions.len());
    for s in sessions {
        let chat = text(&s["chat"], "no chat of its own");
        let (id, group, container) = (text(&s["id"], ""), text(&s["agentGroup"], ""), text(&s["container"], ""));
        println!("  {id}  {group} in {chat}: container {container}");
        let (active, progress) = (text(&s["lastActive"], "never"), text(&s["lastProgress"], "never"));
        let (queued, undelivered) = (&s["queued"], &s["undelivered"]);
        println!("    queued {queued}, undelivered {undelivered}, last active {active}, last progress {progress}");
        if let Some(error) = s["lastError"].as_str() {
            println!("    last error: {error}");
        }
    }
}

fn text<'v>(value: &'v Value, absent: &'v str) -> &'v str {
    value.as_str().unwrap_or(absent)
}

/// What a user may still write below the home. bytes
pub fn disk_available(home: &Home) -> Option<u64> {
    rustix::fs::statvfs(home.root()).ok().map(|fs| fs.f_bavail * fs.f_frsize)
}
