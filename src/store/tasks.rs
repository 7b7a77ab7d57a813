//! How tasks ran: the last runs of each series, for `nanoclaw tasks`.

use jiff::Timestamp;

use super::{Result, Store};

/// Runs of one series that are kept. rows
const MAX_KEPT_RUNS: i64 = 50;

text_enum! {
    /// What became of a run.
    pub enum TaskOutcome {
        Completed = "completed",
        Failed = "failed",
        /// Its time went by while nobody was there, and it was not to be made up for.
        Skipped = "skipped",
    }
}

table! {
    /// An occurrence of a task that is over.
    pub struct TaskRun in "task_runs" as "run of a task", key 1 {
        message_id: String,
        series_id: String,
        planned_at: Timestamp,
        ended_at: Timestamp,
        outcome: TaskOutcome,
    }
}

table! {
    /// A task as a list shows it. No table of ours has it: it is read from the sessions' files.
    pub struct TaskLine in "messages_in" as "task", key 1 {
        id: String,
        agent_group_id: String,
        session_id: String,
        status: String,
        /// In the task's zone.
        next_run: Option<String>,
        recurrence: Option<String>,
        last_outcome: Option<String>,
        prompt: String,
    }
}

impl Store {
    /// Remembers runs of a session's tasks; one that is told twice is one.
    pub(crate) fn add_task_runs(&self, session_id: &str, runs: &[TaskRun]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        self.transaction(|| {
            for TaskRun { message_id, series_id, planned_at, ended_at, outcome } in runs {
                self.execute(
                    "INSERT OR IGNORE INTO task_runs
                       (session_id, message_id, series_id, planned_at, ended_at, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    &[&session_id, message_id, series_id, planned_at, ended_at, outcome],
                )?;
                self.execute(
                    "DELETE FROM task_runs WHERE rowid IN (
                       SELECT rowid FROM task_runs WHERE session_id = ?1 AND series_id = ?2
                       ORDER BY ended_at DESC LIMIT -1 OFFSET ?3)",
                    &[&session_id, series_id, &MAX_KEPT_RUNS],
                )?;
            }
            Ok(())
        })
    }

    /// The last runs of a task, the newest first.
    pub(crate) fn task_runs(&self, series_id: &str) -> Result<Vec<TaskRun>> {
        self.all("WHERE series_id = ?1 ORDER BY ended_at DESC", &[&series_id])
    }
}
