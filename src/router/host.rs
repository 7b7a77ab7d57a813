//! Commands the host carries out itself: `/stop` and `/restart` reach the session or its
//! container, `/status` and `/tasks` are answered from what is on disk. Nobody is woken.

use anyhow::Result;
use jiff::Timestamp;
use nanoclaw_session::content::Control;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::{Address, InKind, NewMessageIn, Trigger};
use nanoclaw_session::schedule::Task;
use nanoclaw_session::time::format_utc;

use super::records::quoted;
use crate::home::Home;
use crate::store::{ContainerStatus, Session};

/// The row that tells a runner to stop its turn. It wakes nobody.
pub fn stop_row(id: String, now: Timestamp, address: Address) -> NewMessageIn {
    let row = NewMessageIn::chat(id, now, address, Control::Stop.to_json());
    NewMessageIn { kind: InKind::System, trigger: Trigger::Context, ..row }
}

/// What an agent is doing, in one line.
pub fn status(home: &Home, agent: &str, session: Option<&Session>) -> String {
    let Some(session) = session else { return format!("{agent}: nothing was said to it here yet.") };
    let container = match session.container_status {
        ContainerStatus::Running => "its container runs",
        ContainerStatus::Idle => "its container is idle",
        ContainerStatus::Stopped => "no container runs",
    };
    let queued = match looked(home, session, InboundDb::unfinished) {
        Ok(rows) => match rows.iter().filter(|m| m.trigger == Trigger::Wake && m.kind != InKind::Task).count() {
            0 => "nothing waits".to_owned(),
            1 => "1 message waits".to_owned(),
            n => format!("{n} messages wait"),
        },
        Err(e) => {
            log::warn!("A session could not be looked at session={} error={e:#}", session.id);
            "its messages cannot be counted just now".to_owned()
        }
    };
    let last = session.last_active.map_or("never".to_owned(), format_utc);
    format!("{agent}: {container}, {queued}; last message {last} (session {})", session.id)
}

/// What is scheduled for an agent here.
pub fn tasks(home: &Home, agent: &str, session: Option<&Session>) -> String {
    let tasks = match session.map(|session| looked(home, session, InboundDb::tasks)) {
        None => Vec::new(),
        Some(Ok(tasks)) => tasks,
        Some(Err(e)) => {
            log::warn!("A session's tasks could not be read agent={agent} error={e:#}");
            return format!("{agent}: its tasks cannot be read just now.");
        }
    };
    let line = |mut task: Task| {
        task.content.prompt = quoted(&task.content.prompt);
        // Those of an older host may name no zone.
        format!("- {}", task.line("UTC"))
    };
    let lines: Vec<String> = tasks.into_iter().map(line).collect();
    if lines.is_empty() { format!("{agent}: no tasks.") } else { format!("{agent}:\n{}", lines.join("\n")) }
}

/// What `look` sees in a session's file; nothing, when there is none yet.
fn looked<T: Default>(
    home: &Home,
    session: &Session,
    look: impl FnOnce(&InboundDb) -> rusqlite::Result<T>,
) -> Result<T> {
    let dir = home.session(&session.agent_group_id, &session.id);
    if !dir.inbound_db().exists() {
        return Ok(T::default());
    }
    Ok(look(&InboundDb::open(&dir, Durability::Normal)?)?)
}
