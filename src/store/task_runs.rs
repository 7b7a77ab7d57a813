//! Task runs: the history of scheduled tasks. Of each series the newest [`MAX_RUNS_PER_SERIES`]
//! are kept.

use jiff::Timestamp;

use super::{Result, Store};

/// How many runs of a series are kept. rows.
pub const MAX_RUNS_PER_SERIES: i64 = 100;

text_enum! {
    /// How a run went.
    pub enum TaskOutcome {
        Running = "running",
        Completed = "completed",
        Failed = "failed",
        /// Its script said that there was nothing to do, or its time had passed.
        Skipped = "skipped",
    }
}

table! {
    /// A row of `task_runs`.
    pub struct TaskRun in "task_runs" as "task run", key 2 {
        session_id: String,
        /// The occurrence: a row of the session's `messages_in`.
        message_id: String,
        series_id: String,
        started_at: Timestamp,
        ended_at: Option<Timestamp>,
        outcome: TaskOutcome,
        /// What went wrong, in words.
        detail: Option<String>,
    }
}

impl Store {
    /// Writes the run of an occurrence; a later word on the same occurrence replaces it.
    pub fn record_task_run(&self, run: &TaskRun) -> Result<()> {
        self.transaction(|| {
            self.put(run)?;
            self.delete::<TaskRun>(
                "WHERE series_id = ?1 AND rowid NOT IN (
                   SELECT rowid FROM task_runs WHERE series_id = ?1 ORDER BY rowid DESC LIMIT ?2)",
                &[&run.series_id, &MAX_RUNS_PER_SERIES],
            )?;
            Ok(())
        })
    }

    /// The newest runs of a series, the newest first.
    pub fn task_runs(&self, series_id: &str, limit: u32) -> Result<Vec<TaskRun>> {
        self.all("WHERE series_id = ?1 ORDER BY rowid DESC LIMIT ?2", &[&series_id, &limit])
    }

    pub fn find_task_run(&self, session_id: &str, message_id: &str) -> Result<Option<TaskRun>> {
        self.find("WHERE session_id = ?1 AND message_id = ?2", &[&session_id, &message_id])
    }
}
