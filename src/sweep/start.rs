//! From a wake to a running container: the queue of sessions that want one, admission, and the
//! start itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use nanoclaw_session::watch::DirWatch;

use super::decide::{self, Next, Room, Wait};
use super::fault::{FaultKind, StartFault};
use super::progress::Progress;
use super::{Actor, Event, Exit, MEMORY_AGAIN, Phase, Proof, Run, Slot, TELL_WAITING, Waiting};
use crate::container::docker::{Leftover, Life, Started};
use crate::container::prepare;
use crate::delivery;
use crate::id::{new_id, new_secret};
use crate::memory;
use crate::store::{ContainerRun, ContainerStatus, EndReason, GatewayToken, Session, StartReason, StoreError};
use crate::thread::{spawn_worker, tell};
use crate::time::Now;
use crate::watch::Command;

/// Longest wait after an engine that did not answer: it comes back as a whole, and soon.
const MAX_ENGINE_BACKOFF: Duration = Duration::from_secs(30);

impl Actor {
    pub(super) fn wake(&mut self, session_id: &str, reason: StartReason) {
        tell(&self.parts.delivery, delivery::Event::Woken { session_id: session_id.to_owned() });
        let slot = self.slot(session_id);
        match &mut slot.phase {
            // The runner sees the message by itself.
            Phase::Running { last_wake, progress, .. } => {
                *last_wake = Instant::now();
                progress.woken(*last_wake);
            }
            // It will see the message too; and one on its way down is looked after at its end.
            Phase::Starting(_) | Phase::Ending { .. } | Phase::Unknown => {}
            Phase::Stopped => self.enqueue(session_id, reason),
        }
    }

    pub(super) fn enqueue(&mut self, session_id: &str, reason: StartReason) {
        if !self.queue.iter().any(|w| w.session_id == session_id) {
            let (session_id, since) = (session_id.to_owned(), Instant::now());
            self.queue.push_back(Waiting { session_id, reason, since, wait: None, told: false });
        }
    }

    /// Starts what waits, as far as there is room.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        self.memory_again = None;
        let mut evicted = false;
        for mut waiting in std::mem::take(&mut self.queue) {
            let session_id = waiting.session_id.clone();
            if self.slots.get(&session_id).is_some_and(|s| !matches!(s.phase, Phase::Stopped)) {
                continue; // it has one by now: adopted, or on its way down and looked after at its end
            }
            let held_back = self.slots.get(&session_id).and_then(|s| s.not_before).is_some_and(|at| at > now);
            waiting.wait = match held_back || !self.reconciled {
                true => None,
                false => match self.room().wait() {
                    None => {
                        if let Err(e) = self.start(&session_id, waiting.reason) {
                            match self.parts.store.session(&session_id) {
                                // It was deleted meanwhile.
                                Err(StoreError::NotFound { .. }) => drop(self.slots.remove(&session_id)),
                                _ => self.start_failed(&session_id, &StartFault::Setup(format!("{e:#}"))),
                            }
                        }
                        continue;
                    }
                    wait => wait,
                },
            };
            if let Some(wait) = waiting.wait {
                if !std::mem::replace(&mut evicted, true) {
                    self.evict_longest_idle();
                }
                if matches!(wait, Wait::Memory { .. }) {
                    self.memory_again = Some(now + MEMORY_AGAIN);
                }
                if !waiting.told && waiting.since + TELL_WAITING <= now {
                    waiting.told = true;
                    if let Err(e) = self.tell_waiting(&session_id, &StartFault::NoRoom(wait)) {
                        log::error!("A user could not be told session={session_id} error={e:#}");
                    }
                }
            }
            self.queue.push_back(waiting);
        }
    }

    fn room(&self) -> Room {
        Room::of(&self.parts.settings.containers, self.live(), memory::available())
    }

    /// Containers that there are. One that was taken away needs no room, however long its books
    /// stay open.
    fn live(&self) -> usize {
        let gone = |s: &&Slot| matches!(s.phase, Phase::Stopped | Phase::Ending { exit: Some(_), .. });
        self.slots.len() - self.slots.values().filter(gone).count()
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
            let result = docker
                .start(&spec)
                .map_err(|(error, leftover)| (StartFault::diagnose(&docker, &settings, &spec.image, error), leftover));
            tell(&me, Event::Started { run_id, result });
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
        self.parts.watcher.send(Command::ForgetSession { session_id: session_id.to_owned() });
        tell(&self.parts.delivery, delivery::Event::Gone { session_id: session_id.to_owned() });
    }

    /// Delivery hears of what the container writes. The watch stands before the container runs.
    pub(super) fn watch_out(&self, session: &Session) {
        let session_id = &session.id;
        let out = self.parts.home.session(&session.agent_group_id, session_id).out();
        match DirWatch::new(&out) {
            Ok(watch) => self.parts.watcher.send(Command::Session { session_id: session_id.clone(), watch }),
            // Delivery's own poll still finds what is written.
            Err(e) => log::warn!("No notifications for a session session={session_id} error={e}"),
        }
        tell(&self.parts.delivery, delivery::Event::Live { session_id: session_id.clone() });
    }

    pub(super) fn started(&mut self, run_id: &str, result: Result<Started, (StartFault, Leftover)>) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        let heartbeat = self.heartbeat_of(&session_id);
        let slot = self.slot(&session_id);
        let mut run = match std::mem::replace(&mut slot.phase, Phase::Stopped) {
            Phase::Starting(run) => run,
            other => {
                slot.phase = other;
                return Ok(());
            }
        };
        let (name, ended_by_us) = (run.container_name.clone(), run.ended_by_us.take());
        match result {
            Ok(Started { container_id, life }) => {
                let proof = if matches!(life, Life::Pidfd(_)) { Proof::Pidfd } else { Proof::AskEngine };
                let now = Now::read();
                let (since, last_wake, progress) = (now.instant, now.instant, Progress::new(now, heartbeat));
                slot.phase = Phase::Running { run, proof, since, last_wake, progress };
                log::debug!("Container runs session={session_id} container={name} proof={proof:?}");
                // Says again what it has claimed: while it started, that was a predecessor's.
                tell(&self.parts.delivery, delivery::Event::Live { session_id: session_id.clone() });
                match life {
                    Life::Pidfd(pidfd) => {
                        self.parts.watcher.send(Command::Process { run_id: run_id.to_owned(), pidfd })
                    }
                    Life::AskEngine => {}
                    Life::Over => self.died(run_id)?,
                }
                if let Some(id) = container_id {
                    self.parts.store.set_run_container_id(run_id, &id)?;
                }
                self.clear_faults(&session_id, FaultKind::Wait)?;
                if let Some(reason) = ended_by_us {
                    self.stop_container(&session_id, reason);
                }
                self.clear_faults(&session_id, FaultKind::Start)
            }
            Err((fault, leftover)) => {
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
        let now = Instant::now();
        let mut idle: Vec<(Instant, String)> = Vec::new();
        for (session_id, slot) in &self.slots {
            match &slot.phase {
                Phase::Running { run, last_wake, progress, .. } if run.ended_by_us.is_none() => {
                    if progress.may_be_evicted(now) {
                        idle.push((*last_wake, session_id.clone()));
                    }
                }
                // One is on its way out already: wait for it.
                Phase::Running { .. } | Phase::Ending { exit: None, .. } => return,
                Phase::Starting(_) | Phase::Ending { .. } | Phase::Stopped | Phase::Unknown => {}
            }
        }
        idle.sort();
        for (_, session_id) in idle {
            // One whose file cannot be read just now is left alone.
            if matches!(self.next_of(&session_id), Ok(Next::At(_) | Next::Nothing)) {
                return self.stop_container(&session_id, EndReason::Evicted);
            }
        }
    }

    /// Asks a container to end; its death is heard of like any other.
    pub(super) fn stop_container(&mut self, session_id: &str, reason: EndReason) {
        let run = match &mut self.slot(session_id).phase {
            Phase::Running { run, .. } if run.ended_by_us.is_some() => return,
            Phase::Running { run, .. } => run,
            // It may work already while the engine's program still returns: it is asked then.
            Phase::Starting(run) => return run.ended_by_us = Some(reason),
            Phase::Stopped | Phase::Unknown | Phase::Ending { .. } => return,
        };
        run.ended_by_us = Some(reason);
        let (run_id, name) = (run.id.clone(), run.container_name.clone());
        log::info!("Stopping a container session={session_id} container={name} reason={}", reason.as_str());
        let (docker, me, run) = (self.parts.docker.clone(), self.parts.me.clone(), run_id.clone());
        let worker = spawn_worker("docker-stop", move || {
            if let Err(e) = docker.stop(&name) {
                log::warn!("A container could not be stopped container={name} error={e}");
                tell(&me, Event::NotStopped { run_id: run });
            }
        });
        if let Err(e) = worker {
            log::error!("No thread to stop a container session={session_id} error={e}");
            self.not_stopped(&run_id);
        }
    }

    pub(super) fn not_stopped(&mut self, run_id: &str) {
        let Some(session_id) = self.session_of(run_id) else { return };
        if let Phase::Running { run, progress, .. } = &mut self.slot(&session_id).phase {
            run.ended_by_us = None;
            progress.put_off(Instant::now());
        }
    }
}
