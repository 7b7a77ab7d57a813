//! Containers of an earlier life: found by their label, adopted, reaped or removed. Until they
//! are known nothing is started, or a session could get a second container.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::fault::StartFault;
use super::{Actor, Event, Exit, FIND_RETRY, MAX_FIND_RETRY, Phase, Run, Waiting};
use crate::container::docker::{Docker, DockerError, Inspected, Life, RUN_DEADLINE, Started, State};
use crate::daemon::Mode;
use crate::store::{ContainerRun, EndReason, RunEnd};
use crate::thread::{pause, spawn_worker, tell};

/// How often a start of an earlier life is asked after.
const AWAIT_STEP: Duration = Duration::from_secs(1);

impl Actor {
    /// Asks the engine which containers of this install there are. Those nobody knows are removed.
    pub(super) fn find_containers(&mut self) -> Result<()> {
        let open = self.parts.store.open_container_runs()?;
        // What is started from here on would be nobody's.
        self.reconciled = false;
        if open.is_empty() && self.parts.mode == Mode::Once {
            return self.found(Ok(Vec::new()));
        }
        let (docker, me, install) = (self.parts.docker.clone(), self.parts.me.clone(), self.parts.home.install_id());
        let known: HashSet<String> = open.into_iter().map(|run| run.container_name).collect();
        spawn_worker("docker-list", move || {
            tell(&me, Event::Found(known_containers(&docker, &install, &known)));
        })?;
        Ok(())
    }

    /// Nothing starts until the engine was asked again: a start may have come to something after all.
    pub(super) fn reconcile_again(&mut self) {
        self.reconciled = false;
        self.parts.mode = Mode::Daemon;
        self.find_again = Some(Instant::now() + self.find_wait);
    }

    pub(super) fn found(&mut self, result: Result<Vec<Inspected>, DockerError>) -> Result<()> {
        let containers = match result {
            Ok(containers) => containers,
            Err(e) => {
                let wait = self.find_wait;
                log::error!("The container engine does not answer; asking again error={e} wait_s={}", wait.as_secs());
                self.find_again = Some(Instant::now() + wait);
                self.find_wait = (wait * 2).min(MAX_FIND_RETRY);
                for Waiting { session_id, .. } in &self.queue {
                    if let Err(e) = self.tell_waiting(session_id, &StartFault::Engine(e.clone())) {
                        log::error!("A user could not be told session={session_id} error={e:#}");
                    }
                }
                return Ok(());
            }
        };
        let runs = self.parts.store.open_container_runs()?;
        // A session that was deleted meanwhile has no run any more, and its slot would take up a place for good.
        let known = |session_id: &String| runs.iter().any(|run| run.session_id == *session_id);
        self.slots.retain(|session_id, slot| !matches!(slot.phase, Phase::Unknown) || known(session_id));
        let wait = std::mem::replace(&mut self.find_wait, FIND_RETRY);
        self.find_again = None;
        for run in runs {
            if self.session_of(&run.id).is_some() {
                continue; // of this life
            }
            let container = containers.iter().find(|c| c.name == run.container_name);
            // One broken session stops only itself.
            if let Err(e) = self.take_over(&run, container) {
                log::error!("A container could not be taken over session={} error={e:#}", run.session_id);
                self.find_again = Some(Instant::now() + wait);
                self.find_wait = (wait * 2).min(MAX_FIND_RETRY);
            }
        }
        if !self.reconciled {
            self.reconciled = true;
            self.next_safety_pass = Instant::now();
            self.refresh_due()?;
        }
        Ok(())
    }

    /// Takes over a run of an earlier life. Should that fail, its session gets no other container.
    fn take_over(&mut self, run: &ContainerRun, container: Option<&Inspected>) -> Result<()> {
        let name = &run.container_name;
        if !matches!(self.slot(&run.session_id).phase, Phase::Stopped | Phase::Unknown) {
            // The session has a later one: this is what a failed write left open.
            log::warn!("Closing a stale run session={} container={name}", run.session_id);
            if container.is_some() {
                let (docker, name) = (self.parts.docker.clone(), name.clone());
                spawn_worker("docker-rm", move || {
                    if let Err(e) = docker.remove(&name) {
                        log::warn!("A container could not be removed container={name} error={e}");
                    }
                })?;
            }
            let end = RunEnd { at: crate::time::now(), reason: EndReason::Vanished, exit_code: None, oom: false };
            self.parts.store.end_container_run(&run.id, &end)?;
            return Ok(self.parts.store.delete_gateway_tokens(name)?);
        }
        let taken = match container {
            Some(container) => self.adopt(run, container),
            None if run.container_id.is_none() => self.await_start(run),
            None => {
                log::info!("A container is gone session={} container={name}", run.session_id);
                self.begin_ending(&run.session_id, run_of(run, Some(EndReason::Vanished)), Some(Exit::UNKNOWN));
                Ok(())
            }
        };
        taken.inspect_err(|_| self.slot(&run.session_id).phase = Phase::Unknown)
    }

    /// A host was killed while its `docker run` was under way: that may live on and come to
    /// something, so the session waits until it cannot any more.
    fn await_start(&mut self, run: &ContainerRun) -> Result<()> {
        let (run_id, name) = (run.id.clone(), run.container_name.clone());
        let age = Duration::try_from(crate::time::now().duration_since(run.started_at)).unwrap_or_default();
        let until = Instant::now() + RUN_DEADLINE.saturating_sub(age);
        self.watch_out(&self.parts.store.session(&run.session_id)?);
        self.slot(&run.session_id).phase = Phase::Starting(run_of(run, None));
        let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
        spawn_worker("docker-await", move || {
            let life = loop {
                let left = until.saturating_duration_since(Instant::now());
                match docker.inspect(&name) {
                    Ok(None) | Err(_) if !left.is_zero() => {}
                    // It came, and may have ended already; or it cannot come any more.
                    _ => break docker.life(&name, RUN_DEADLINE.saturating_sub(left)).unwrap_or(Life::AskEngine),
                }
                pause(AWAIT_STEP.min(left));
            };
            tell(&me, Event::Started { run_id, result: Ok(Started { container_id: None, life }) });
        })?;
        Ok(())
    }

    fn adopt(&mut self, run: &ContainerRun, container: &Inspected) -> Result<()> {
        let session_id = &run.session_id;
        let (run_id, name) = (run.id.clone(), run.container_name.clone());
        if let State::Exited { .. } = container.state {
            log::info!("A container ended while we were away session={session_id} container={name}");
            self.begin_ending(session_id, run_of(run, None), None);
            return self.reap(session_id, run_id, name);
        }
        log::info!("Adopted a container session={session_id} container={name}");
        self.watch_out(&self.parts.store.session(session_id)?);
        self.slot(session_id).phase = Phase::Starting(run_of(run, None));
        let (docker, me, container_id) = (self.parts.docker.clone(), self.parts.me.clone(), container.id.clone());
        spawn_worker("docker-adopt", move || {
            // It lives, as far as we know: an engine that does not answer is asked again later.
            let life = docker.life(&name, Duration::ZERO).unwrap_or(Life::AskEngine);
            tell(&me, Event::Started { run_id, result: Ok(Started { container_id: Some(container_id), life }) });
        })?;
        Ok(())
    }
}

/// Lists the containers of this install and removes those that are not `known`. Worker thread.
pub(super) fn known_containers(
    docker: &Docker,
    install: &str,
    known: &HashSet<String>,
) -> Result<Vec<Inspected>, DockerError> {
    let (known, leftover): (Vec<_>, Vec<_>) =
        docker.list(install)?.into_iter().partition(|container| known.contains(&container.name));
    for container in leftover {
        log::info!("Removing a leftover container container={}", container.name);
        match docker.remove(&container.name) {
            // Only one that may live could make two of its session.
            Err(e) if matches!(container.state, State::Exited { .. }) => {
                log::warn!("A container could not be removed container={} error={e}", container.name);
            }
            removed => removed?,
        }
    }
    Ok(known)
}

fn run_of(run: &ContainerRun, ended_by_us: Option<EndReason>) -> Run {
    Run { id: run.id.clone(), container_name: run.container_name.clone(), ended_by_us }
}
