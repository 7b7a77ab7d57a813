//! Container runs - every container started, why, and how it ended - and the token by which the
//! gateway knows a running one.
//!
//! A row is written before the container is, so that reconciliation knows each name that may
//! exist. Ended rows beyond the newest [`MAX_RUNS_PER_SESSION`] of a session go when one ends.

use jiff::Timestamp;

use super::{Result, Store};

/// How many ended runs of a session are kept. rows.
pub const MAX_RUNS_PER_SESSION: i64 = 50;

text_enum! {
    /// Why a container was started.
    pub enum StartReason {
        /// A message waited.
        Message = "message",
        /// A scheduled task was due.
        Task = "task",
        /// A message is tried again.
        Retry = "retry",
        /// A configuration or image changed.
        Restart = "restart",
        /// Somebody asked for it.
        Manual = "manual",
    }
}

text_enum! {
    /// Why a container is no more.
    pub enum EndReason {
        /// It left by itself, with code 0.
        Exited = "exited",
        /// It left by itself, with another code.
        Crashed = "crashed",
        /// The memory limit ended it.
        Oom = "oom",
        /// Its place or memory was needed.
        Evicted = "evicted",
        /// It made no progress.
        Stuck = "stuck",
        /// Somebody stopped it.
        Stopped = "stopped",
        /// It was gone when the host looked.
        Vanished = "vanished",
        /// It never ran.
        StartFailed = "start-failed",
    }
}

table! {
    pub struct ContainerRun in "container_runs" as "container run", key 1 {
        id: String,
        session_id: String,
        /// Unique over all runs.
        container_name: String,
        /// The engine's id, once it has said it.
        container_id: Option<String>,
        image: String,
        started_at: Timestamp,
        start_reason: StartReason,
        /// `None` while it runs, as far as is known; then `end_reason` is, too.
        ended_at: Option<Timestamp>,
        end_reason: Option<EndReason>,
        exit_code: Option<i64>,
        oom: bool,
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    pub at: Timestamp,
    pub reason: EndReason,
    pub exit_code: Option<i64>,
    /// What the engine says, whatever the reason.
    pub oom: bool,
}

table! {
    /// Which session a running container speaks for. Kept here so that containers adopted after a
    /// restart go on working; it goes when the run ends.
    pub struct GatewayToken in "gateway_tokens" as "gateway token", key 1 {
        token: String,
        session_id: String,
        container_name: String,
        created_at: Timestamp,
    }
}

impl Store {
    /// Records a start, before the container exists.
    pub(crate) fn begin_container_run(&self, run: &ContainerRun) -> Result<()> {
        self.insert(run)
    }

    pub(crate) fn set_run_container_id(&self, id: &str, container_id: &str) -> Result<()> {
        self.set::<ContainerRun>(id, "container_id = ?2", &[&container_id])
    }

    /// Records the end of a run, once: an end that is recorded stays. The container's gateway
    /// token goes with it.
    pub(crate) fn end_container_run(&self, id: &str, end: &RunEnd) -> Result<()> {
        self.transaction(|| {
            let run: ContainerRun = self.get(id)?;
            if run.ended_at.is_none() {
                let ends = "ended_at = ?2, end_reason = ?3, exit_code = ?4, oom = ?5";
                self.set::<ContainerRun>(id, ends, &[&end.at, &end.reason, &end.exit_code, &end.oom])?;
            }
            self.delete_gateway_tokens(&run.container_name)?;
            self.delete::<ContainerRun>(
                "WHERE ended_at IS NOT NULL AND session_id = ?1 AND rowid NOT IN (
                   SELECT rowid FROM container_runs WHERE session_id = ?1
                   ORDER BY rowid DESC LIMIT ?2)",
                &[&run.session_id, &MAX_RUNS_PER_SESSION],
            )?;
            Ok(())
        })
    }

    /// The runs without a recorded end.
    pub(crate) fn open_container_runs(&self) -> Result<Vec<ContainerRun>> {
        self.all("WHERE ended_at IS NULL ORDER BY rowid", &[])
    }

    /// The newest runs of a session, the newest first.
    pub fn container_runs_of(&self, session_id: &str, limit: u32) -> Result<Vec<ContainerRun>> {
        self.all("WHERE session_id = ?1 ORDER BY rowid DESC LIMIT ?2", &[&session_id, &limit])
    }

    pub fn create_gateway_token(&self, token: &GatewayToken) -> Result<()> {
        self.insert(token)
    }

    pub(crate) fn find_gateway_token(&self, token: &str) -> Result<Option<GatewayToken>> {
        self.find("WHERE token = ?1", &[&token])
    }

    pub(crate) fn delete_gateway_tokens(&self, container_name: &str) -> Result<()> {
        self.delete::<GatewayToken>("WHERE container_name = ?1", &[&container_name]).map(drop)
    }
}
