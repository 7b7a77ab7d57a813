//! The end of a container: what it leaves is read, kept and judged before a successor starts.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nanoclaw_session::row::InStatus;

use super::decide::{self, Verdict};
use super::fault::{self, FaultKind, StartFault};
use super::prune;
use super::{Actor, Event, Exit, Phase, Run};
use crate::container::docker::{Docker, Inspected, State};
use crate::delivery;
use crate::store::{ContainerStatus, EndReason, RunEnd, StoreError};
use crate::tasks;
use crate::thread::{pause, spawn_worker, tell};
use crate::watch::Command;

/// Largest kept log of one container. bytes
const MAX_KEPT_LOG_BYTES: usize = 1024 * 1024;
/// How long the engine may take to hear of a death.
const ENGINE_LAG: Duration = Duration::from_secs(10);
/// First wait before it is asked again; doubled.
const FIRST_LAG: Duration = Duration::from_millis(20);
/// Longest such wait.
const MAX_LAG_STEP: Duration = Duration::from_millis(500);
/// Kept logs per session.
const MAX_KEPT_LOGS: usize = 10;

impl Actor {
    pub(super) fn died(&mut self, run_id: &str) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        let slot = self.slot(&session_id);
        let run = match std::mem::replace(&mut slot.phase, Phase::Stopped) {
            Phase::Running { run, .. } => run,
            other => {
                slot.phase = other;
                return Ok(());
            }
        };
        let name = run.container_name.clone();
        self.begin_ending(&session_id, run, None);
        self.reap(&session_id, run_id.to_owned(), name)
    }

    pub(super) fn begin_ending(&mut self, session_id: &str, run: Run, exit: Option<Exit>) {
        let run_id = run.id.clone();
        self.slot(session_id).phase = Phase::Ending { run, exit, claims: None };
        tell(&self.parts.delivery, delivery::Event::Dead { session_id: session_id.to_owned(), run_id });
    }

    pub(super) fn reap(&self, session_id: &str, run_id: String, container: String) -> Result<()> {
        let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
        let logs = self.parts.home.container_logs(session_id);
        spawn_worker("docker-reap", move || {
            let exit = take_away(&docker, &container, &logs);
            tell(&me, Event::Reaped { run_id, exit });
        })?;
        Ok(())
    }

    pub(super) fn reaped(&mut self, run_id: &str, reported: Exit) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        if let Phase::Ending { exit, .. } = &mut self.slot(&session_id).phase {
            *exit = Some(reported);
        }
        self.settle(&session_id)
    }

    pub(super) fn drained(&mut self, run_id: &str, claimed: Vec<String>) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        if let Phase::Ending { claims, .. } = &mut self.slot(&session_id).phase {
            *claims = Some(claimed);
        }
        self.settle(&session_id)
    }

    /// Closes the books on a container once both its exit and its claims are known.
    fn settle(&mut self, session_id: &str) -> Result<()> {
        let slot = self.slot(session_id);
        let (run, exit, claims) = match std::mem::replace(&mut slot.phase, Phase::Stopped) {
            Phase::Ending { run, exit: Some(exit), claims: Some(claims) } => (run, exit, claims),
            other => {
                slot.phase = other;
                return Ok(());
            }
        };
        let reason = end_reason(&run, exit);
        let bad = matches!(reason, EndReason::Crashed | EndReason::Oom | EndReason::Vanished | EndReason::Stuck);
        if bad && claims.is_empty() {
            slot.crashes += 1;
            // One death may be anything, such as a kill from outside; two in a row are a pattern.
            slot.not_before = (slot.crashes > 1).then(|| Instant::now() + decide::crash_backoff(slot.crashes - 1));
        } else {
            slot.crashes = 0;
            slot.not_before = None;
        }
        let crashes = slot.crashes;
        self.parts.watcher.send(Command::ForgetSession { session_id: session_id.to_owned() });
        log::info!(
            "Container ended session={session_id} container={} reason={} code={}",
            run.container_name,
            reason.as_str(),
            exit.code.map_or("unknown".to_owned(), |c| c.to_string()),
        );
        if let Err(StoreError::NotFound { .. }) = self.parts.store.session(session_id) {
            // It was deleted meanwhile, with everything that is known of it.
            self.slots.remove(session_id);
            return Ok(());
        }
        let judged = self.end_run(session_id, &run, reason, exit).and_then(|()| self.judge_claims(session_id, &claims));
        if let Err(e) = judged.and_then(|()| self.look(session_id)) {
            // Its messages must not wait for the next safety pass.
            return self.look_failed(session_id, &e);
        }
        // A start that is next would find the file locked.
        if !self.queue.iter().any(|w| w.session_id == session_id) {
            self.prune_session(session_id)?;
        }
        match crashes {
            0 => self.clear_faults(session_id, FaultKind::Crash),
            n if n >= fault::CRASHES_BEFORE_NOTICE => self.tell_waiting(session_id, &StartFault::Crashing(reason)),
            _ => Ok(()),
        }
    }

    fn prune_session(&self, session_id: &str) -> Result<()> {
        let (dir, now) = (self.dir_of(&self.parts.store.session(session_id)?), self.no_later());
        spawn_worker("prune", move || {
            if let Err(e) = prune::session(&dir, now) {
                log::warn!("A session was not pruned folder={} error={e:#}", dir.root().display());
            }
        })?;
        Ok(())
    }

    pub(super) fn end_run(&self, session_id: &str, run: &Run, reason: EndReason, exit: Exit) -> Result<()> {
        let store = &self.parts.store;
        let end = RunEnd { at: crate::time::now(), reason, exit_code: exit.code, oom: exit.oom };
        store.transaction(|| -> crate::store::Result<()> {
            store.end_container_run(&run.id, &end)?;
            store.delete_gateway_tokens(&run.container_name)?;
            store.set_container_status(session_id, ContainerStatus::Stopped)
        })?;
        Ok(())
    }

    /// Puts off, or gives up, what a dead container had taken and not finished.
    fn judge_claims(&mut self, session_id: &str, claims: &[String]) -> Result<()> {
        if claims.is_empty() {
            return Ok(());
        }
        let session = self.parts.store.session(session_id)?;
        let mut db = self.open_inbound(&session)?;
        let zone = &self.parts.settings.agents.timezone;
        let verdicts = decide::after_death(claims, &db.unfinished()?, self.no_later());
        let runs = db.write(|tx| {
            let mut runs = Vec::new();
            for verdict in &verdicts {
                match verdict {
                    Verdict::Retry { id, tries, after } => tx.retry(id, *tries, *after)?,
                    Verdict::Fail { id } => runs.extend(tasks::finish(tx, id, InStatus::Failed, self.wall, zone)?),
                }
            }
            Ok(runs)
        })?;
        drop(db);
        self.parts.store.add_task_runs(session_id, &runs)?;
        for verdict in verdicts {
            match verdict {
                Verdict::Retry { id, tries, after } => {
                    log::warn!(
                        "Message will be tried again session={session_id} message={id} tries={tries} after={after}"
                    );
                }
                Verdict::Fail { id } => {
                    log::error!("Message failed session={session_id} message={id} tries={}", decide::MAX_TRIES);
                    self.tell_failed(&session, &id)?;
                    let failed = delivery::Event::Failed { session_id: session_id.to_owned(), message_id: id };
                    tell(&self.parts.delivery, failed);
                }
            }
        }
        Ok(())
    }
}

fn end_reason(run: &Run, exit: Exit) -> EndReason {
    match (run.ended_by_us, exit) {
        (Some(reason), _) => reason,
        // The kernel's word and the signal: one alone is not enough.
        (None, Exit { code: Some(137), oom: true }) => EndReason::Oom,
        (None, Exit { code: Some(0), .. }) => EndReason::Exited,
        (None, Exit { code: Some(_), .. }) => EndReason::Crashed,
        (None, Exit { code: None, .. }) => EndReason::Vanished,
    }
}

/// Asks how a container ended, keeps its log and removes it. Worker thread.
fn take_away(docker: &Docker, container: &str, logs: &Path) -> Exit {
    let exit = exit_of(docker, container);
    let kept = docker.logs(container).map_err(anyhow::Error::from).and_then(|log| keep_log(logs, container, &log));
    if let Err(e) = kept {
        log::warn!("The log of a container was not kept container={container} error={e:#}");
    }
    if let Err(e) = docker.remove(container) {
        log::warn!("A container could not be removed container={container} error={e}");
    }
    exit
}

/// Its exit code. The kernel's word that it is dead may come before the engine has heard of it.
fn exit_of(docker: &Docker, container: &str) -> Exit {
    let until = Instant::now() + ENGINE_LAG;
    let mut wait = FIRST_LAG;
    loop {
        match docker.inspect(container) {
            Ok(Some(Inspected { state: State::Exited { code, oom_killed }, .. })) => {
                return Exit { code: Some(code), oom: oom_killed && code == 137 };
            }
            Ok(None) => return Exit::UNKNOWN,
            Ok(Some(_)) if Instant::now() < until => {
                pause(wait);
                wait = (wait * 2).min(MAX_LAG_STEP);
            }
            Ok(Some(_)) => {
                log::warn!("The engine still calls a dead container alive container={container}");
                return Exit::UNKNOWN;
            }
            Err(e) => {
                log::warn!("The end of a container is not known container={container} error={e}");
                return Exit::UNKNOWN;
            }
        }
    }
}

fn keep_log(folder: &Path, container: &str, log: &[u8]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let tail = &log[log.len().saturating_sub(MAX_KEPT_LOG_BYTES)..];
    fs::write(folder.join(format!("{container}.log")), tail)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        kept.push((entry.metadata()?.modified()?, entry.path()));
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(MAX_KEPT_LOGS);
    for (_, path) in kept.into_iter().take(surplus) {
        fs::remove_file(path)?;
    }
    Ok(())
}
