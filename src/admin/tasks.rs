//! `nanoclaw tasks`: what agents have scheduled. Only agents write tasks; people look at them, run, pause,
//! resume and cancel them. A daemon that runs sees a change within a minute, a live container at once.

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::InStatus;
use nanoclaw_session::schedule::{Action, Task, Verb as Ask, local};

use super::{Admin, Answer, Verbs};
use crate::config::Settings;
use crate::store::{AgentGroup, Session, TaskLine};
use crate::tasks;

#[derive(Debug, Args)]
pub struct Id {
    /// The task's id, or the start of it
    id: String,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List what is scheduled, the next one first
    List {
        /// Only of this agent group, by id, folder or name
        #[arg(long)]
        group: Option<String>,
    },
    /// Show how one ran lately
    Runs(Id),
    /// Run one now; its other runs stay as they are
    Run(Id),
    /// Keep one from running
    Pause(Id),
    /// Let a paused one run again
    Resume(Id),
    /// End one for good
    Cancel(Id),
}

impl Default for Verb {
    fn default() -> Verb {
        Verb::List { group: None }
    }
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let zone = Settings::load(admin.home)?.agents.timezone;
        let (Id { id }, ask) = match self {
            Verb::List { group } => {
                let group = group.map(|word| admin.find::<AgentGroup>(&word)).transpose()?;
                let mut found = all(admin)?;
                found.retain(|(session, _)| group.as_ref().is_none_or(|group| group.id == session.agent_group_id));
                let lines: Result<Vec<TaskLine>> = found.iter().map(|(s, task)| line(admin, s, task, &zone)).collect();
                return Answer::list(&admin.store, &lines?, None);
            }
            Verb::Runs(Id { id }) => {
                let runs = admin.store.task_runs(&id)?;
                return Answer::list(&admin.store, &runs, None);
            }
            Verb::Run(id) => (id, None),
            Verb::Pause(id) => (id, Some(Ask::Pause)),
            Verb::Resume(id) => (id, Some(Ask::Resume)),
            Verb::Cancel(id) => (id, Some(Ask::Cancel)),
        };
        let (session, task) = find(admin, &id)?;
        ensure!(ask.is_some() || task.status != InStatus::Paused, "task `{}` is paused: resume it first", task.id);
        let now = admin.now;
        let task_id = task.id.clone();
        open(admin, &session)?
            .write(|tx| match (ask, tx.task_of_row(&task.row_id)?) {
                (Some(verb), Some(_)) => tasks::act(tx, &Action { task_id: task_id.clone(), verb }, now, &zone),
                (None, Some(task)) => tasks::run_now(tx, &task, now).map(Ok),
                (_, None) => Ok(Err("it has just run, or was changed: look again".to_owned())),
            })?
            .map_err(|why| anyhow!("task `{task_id}`: {why}"))?;
        let left = open(admin, &session)?.tasks()?.into_iter().find(|left| left.id == task.id);
        if let Some(due) =
            left.as_ref().filter(|left| left.status == InStatus::Pending).map(|left| left.due.unwrap_or(now))
        {
            // For a daemon that is not looking.
            admin.store.set_due(
                &session.id,
                Some(due.min(admin.store.find_due(&session.id)?.map_or(due, |d| d.next_due_at))),
            )?;
        }
        let shown = left.unwrap_or(Task { status: InStatus::Completed, due: None, ..task });
        Ok(Answer::one(&line(admin, &session, &shown, &zone)?))
    }
}

fn open(admin: &Admin<'_>, session: &Session) -> Result<InboundDb> {
    let dir = admin.home.session(&session.agent_group_id, &session.id);
    InboundDb::open(&dir, Durability::Normal).with_context(|| format!("cannot open {}", dir.inbound_db().display()))
}

/// The live tasks of all sessions that go on, the next one first.
fn all(admin: &Admin<'_>) -> Result<Vec<(Session, Task)>> {
    let mut found = Vec::new();
    for session in admin.store.active_sessions()? {
        if admin.home.session(&session.agent_group_id, &session.id).inbound_db().exists() {
            let tasks = open(admin, &session)?.tasks()?;
            found.extend(tasks.into_iter().map(|task| (session.clone(), task)));
        }
    }
    found.sort_by_key(|(_, task)| task.due);
    Ok(found)
}

fn find(admin: &Admin<'_>, word: &str) -> Result<(Session, Task)> {
    let mut tasks = all(admin)?;
    let exact = tasks.iter().any(|(_, task)| task.id == word);
    tasks.retain(|(_, task)| if exact { task.id == word } else { !word.is_empty() && task.id.starts_with(word) });
    ensure!(tasks.len() < 2, "`{word}` may be several tasks: {}", ids(&tasks));
    tasks.pop().with_context(|| {
        format!("there is no task `{word}`; there are: {}", all(admin).map_or_else(|_| String::new(), |all| ids(&all)))
    })
}

fn ids(tasks: &[(Session, Task)]) -> String {
    super::listed(&tasks.iter().map(|(_, task)| task.id.clone()).collect::<Vec<_>>())
}

fn line(admin: &Admin<'_>, session: &Session, task: &Task, zone: &str) -> Result<TaskLine> {
    let zone = task.content.timezone.as_deref().unwrap_or(zone);
    let last = admin.store.task_runs(&task.id)?.into_iter().next();
    Ok(TaskLine {
        id: task.id.clone(),
        agent_group_id: session.agent_group_id.clone(),
        session_id: session.id.clone(),
        status: task.status.as_str().to_owned(),
        next_run: task.due.map(|at| local(at, zone)),
        recurrence: task.recurrence.clone(),
        last_outcome: last.map(|run| run.outcome.to_string()),
        prompt: task.content.prompt.clone(),
    })
}
