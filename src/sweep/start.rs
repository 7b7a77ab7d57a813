//! From a wake to a running container: the queue of sessions that want one, admission, and the
//! start itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use nanoclaw_session::watch::DirWatch;

use super::decide::{self, Next};
use super::fault::{FaultKind, StartFault};
use super::{Actor, Event, Exit, Phase, Proof, Run};
use crate::container::docker::{Leftover, Life, StartFailed, Started};
use crate::container::prepare;
use crate::delivery;
use crate::id::{new_id, new_secret};
use crate::store::{ContainerRun, ContainerStatus, EndReason, GatewayToken, Session, StartReason};
use crate::thread::spawn_worker;

/// Longest wait after an engine that did not answer: it comes back as a whole, and soon.
const MAX_ENGINE_BACKOFF: Duration = Duration::from_secs(30);

/// Why the worker that was to start a container failed.
#[derive(Debug)]
pub struct StartProblem {
    pub fault: StartFault,
    pub leftover: Leftover,
}

impl Actor {
    pub(super) fn wake(&mut self, session_id: &str, reason: StartReason) {
        let slot = self.slot(session_id);
        match &mut slot.phase {
            // The runner sees the message by itself.
            Phase::Running { last_wake, .. } => *last_wake = Instant::now(),
            // It will see the message too; and one on its way down is looked after at its end.
            Phase::Starting(_) | Phase::Ending { .. } => {}
            Phase::Stopped => self.enqueue(session_id, reason),
        }
    }

    pub(super) fn enqueue(&mut self, session_id: &str, reason: StartReason) {
        if !self.queue.iter().any(|(id, _)| id == session_id) {
            self.queue.push_back((session_id.to_owned(), reason));
        }
    }

    /// Starts what waits, as far as there is room.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        let mut waiting = std::mem::take(&mut self.queue);
        while let Some((session_id, reason)) = waiting.pop_front() {
            if self.slots.get(&session_id).is_some_and(|s| !matches!(s.phase, Phase::Stopped)) {
                continue; // it has one by now: adopted, or on its way down and looked after at its end
            }
            let held_back = self.slots.get(&session_id).and_then(|s| s.not_before).is_some_and(|at| at > now);
            if held_back || !self.reconciled {
                self.queue.push_back((session_id, reason));
            } else if self.live() >= self.parts.settings.containers.max_concurrent {
                self.evict_longest_idle();
                self.queue.push_back((session_id, reason));
                self.queue.append(&mut waiting);
            } else if let Err(e) = self.start(&session_id, reason) {
                self.start_failed(&session_id, &StartFault::Setup(format!("{e:#}")));
            }
        }
    }

    pub(super) fn live(&self) -> usize {
        self.slots.values().filter(|s| !matches!(s.phase, Phase::Stopped)).count()
    }

    fn start(&mut self, session_id: &str, reason: StartReason) -> Result<()> {
        let parts = &self.parts;
        let session = parts.store.session(session_id)?;
        let group = parts.store.agent_group(&session.agent_group_id)?;
        let now = crate::time::now();
        let run = Run { id: new_id("run"), container_name: prepare::container_name(&group), ended_by_us: None };
        let token = new_secret();
        let spec = prepare::prepare(&parts.store, &parts.home, &parts.settings, &session, &run.container_name, &token)?;
        // The intent before the effect: a host that dies here finds the container by its name.
        parts.store.transaction(|| -> crate::store::Result<()> {
            parts.store.begin_container_run(&ContainerRun {
                id: run.id.clone(),
                session_id: session_id.to_owned(),
                container_name: run.container_name.clone(),
                container_id: None,
                image: spec.image.clone(),
                started_at: now,
                start_reason: reason,
                ended_at: None,
                end_reason: None,
                exit_code: None,
                oom: false,
            })?;
            parts.store.create_gateway_token(&GatewayToken {
                token,
                session_id: session_id.to_owned(),
                container_name: run.container_name.clone(),
                created_at: now,
            })?;
            parts.store.set_container_status(session_id, ContainerStatus::Running)
        })?;
        self.watch_out(&session);
        let name = &run.container_name;
        log::info!("Container starting session={session_id} container={name} reason={}", reason.as_str());
        let (docker, settings) = (self.parts.docker.clone(), self.parts.settings.clone());
        let (me, run_id) = (self.parts.me.clone(), run.id.clone());
        let worker = spawn_worker("docker-run", move || {
            let result = docker.start(&spec).map_err(|StartFailed { error, leftover }| StartProblem {
                fault: StartFault::diagnose(&docker, &settings, &spec.image, error),
                leftover,
            });
            let _ = me.send(Event::Started { run_id, result });
        });
        match worker {
            Ok(()) => self.slot(session_id).phase = Phase::Starting(run),
            Err(e) => {
                self.no_container(session_id);
                self.end_run(session_id, &run, EndReason::StartFailed, Exit::UNKNOWN)?;
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// What was watched for a start that came to nothing is watched no more.
    fn no_container(&self, session_id: &str) {
        self.parts.watcher.forget_session(session_id);
        let _ = self.parts.delivery.send(delivery::Event::Gone { session_id: session_id.to_owned() });
    }

    /// Delivery hears of what the container writes. The watch stands before the container runs.
    pub(super) fn watch_out(&self, session: &Session) {
        let session_id = &session.id;
        let out = self.parts.home.session(&session.agent_group_id, session_id).out();
        match DirWatch::new(&out) {
            Ok(watch) => self.parts.watcher.session(session_id, watch),
            // Delivery's own poll still finds what is written.
            Err(e) => log::warn!("No notifications for a session session={session_id} error={e}"),
        }
        let _ = self.parts.delivery.send(delivery::Event::Live { session_id: session_id.clone() });
    }

    pub(super) fn started(&mut self, run_id: &str, result: Result<Started, StartProblem>) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        let slot = self.slot(&session_id);
        let run = match std::mem::replace(&mut slot.phase, Phase::Stopped) {
            Phase::Starting(run) => run,
            other => {
                slot.phase = other;
                return Ok(());
            }
        };
        let name = run.container_name.clone();
        match result {
            Ok(Started { container_id, life }) => {
                let proof = if matches!(life, Life::Pidfd(_)) { Proof::Pidfd } else { Proof::AskEngine };
                let now = Instant::now();
                slot.phase = Phase::Running { run, proof, since: now, last_wake: now };
                log::debug!("Container runs session={session_id} container={name} proof={proof:?}");
                match life {
                    Life::Pidfd(pidfd) => self.parts.watcher.process(run_id, pidfd),
                    Life::AskEngine => {}
                    Life::Over => self.died(run_id)?,
                }
                if let Some(id) = container_id {
                    self.parts.store.set_run_container_id(run_id, &id)?;
                }
                self.clear_faults(&session_id, FaultKind::Start)
            }
            Err(StartProblem { fault, leftover }) => {
                self.no_container(&session_id);
                if leftover == Leftover::Possible {
                    self.reconcile_again();
                }
                self.start_failed(&session_id, &fault);
                self.end_run(&session_id, &run, EndReason::StartFailed, Exit::UNKNOWN)
            }
        }
    }

    /// A start came to nothing: try again later, and say so once.
    fn start_failed(&mut self, session_id: &str, fault: &StartFault) {
        let slot = self.slot(session_id);
        slot.crashes += 1;
        let wait = match fault {
            StartFault::Engine(_) => decide::crash_backoff(slot.crashes).min(MAX_ENGINE_BACKOFF),
            _ => decide::crash_backoff(slot.crashes),
        };
        slot.not_before = Some(Instant::now() + wait);
        log::error!("Container did not start session={session_id} error={fault} retry_s={}", wait.as_secs());
        self.enqueue(session_id, StartReason::Retry);
        if let Err(e) = self.tell_waiting(session_id, fault) {
            log::error!("A user could not be told session={session_id} error={e:#}");
        }
    }

    /// Makes room: stops the container that has had nothing to do for the longest time.
    fn evict_longest_idle(&mut self) {
        let mut idle: Vec<(Instant, String)> = Vec::new();
        for (session_id, slot) in &self.slots {
            match &slot.phase {
                Phase::Running { run, last_wake, .. } if run.ended_by_us.is_none() => {
                    idle.push((*last_wake, session_id.clone()));
                }
                // One is on its way out already: wait for it.
                Phase::Running { .. } | Phase::Ending { .. } => return,
                Phase::Starting(_) | Phase::Stopped => {}
            }
        }
        idle.sort();
        for (_, session_id) in idle {
            let next = self.unfinished(&session_id).map(|rows| decide::next(&rows, crate::time::now()));
            // One whose file cannot be read just now is left alone.
            if matches!(next, Ok(Next::At(_) | Next::Nothing)) {
                return self.stop_container(&session_id, EndReason::Evicted);
            }
        }
    }

    /// Asks a container to end; its death is heard of like any other.
    pub(super) fn stop_container(&mut self, session_id: &str, reason: EndReason) {
        let Phase::Running { run, .. } = &mut self.slot(session_id).phase else { return };
        run.ended_by_us = Some(reason);
        let (run_id, name) = (run.id.clone(), run.container_name.clone());
        log::info!("Stopping a container session={session_id} container={name} reason={}", reason.as_str());
        let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
        let worker = spawn_worker("docker-stop", move || {
            if let Err(e) = docker.stop(&name) {
                log::warn!("A container could not be stopped container={name} error={e}");
                let _ = me.send(Event::NotStopped { run_id });
            }
        });
        if let Err(e) = worker {
            log::error!("No thread to stop a container session={session_id} error={e}");
        }
    }

    pub(super) fn not_stopped(&mut self, run_id: &str) {
        let Some(session_id) = self.session_of(run_id) else { return };
        if let Phase::Running { run, .. } = &mut self.slot(&session_id).phase {
            run.ended_by_us = None;
        }
    }
}
