//! The sweep: the one owner of every container. It alone starts, stops, reaps and judges them,
//! so two wakes of a session cannot start two.
//!
//! ```text
//!            Wake                Started              Died                Reaped + Drained
//! Stopped ───────────► Starting ─────────► Running ─────────► Ending ─────────────────────► Stopped
//!    ▲                    │ failed            ▲ adopted at start        look for due work again │
//!    └────────────────────┴───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Runs on its own thread and never blocks on docker: each call is made by a worker thread that
//! sends its result back as an event. `Ending` lasts until two things are known: how the
//! container ended (`Reaped`), and that delivery has read its last words and says what it had
//! claimed (`Drained`). Only then are claims judged and a successor is started.
//!
//! Nothing starts before the containers of an earlier life are known (`Found`), or a session
//! could get a second one.

pub mod decide;
mod fault;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use jiff::Timestamp;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::row::InStatus;
use nanoclaw_session::stamp::Stamp;
use nanoclaw_session::watch::DirWatch;

use crate::config::Settings;
use crate::container::docker::{Docker, DockerError, Inspected, Life, Started, State};
use crate::container::prepare;
use crate::delivery;
use crate::home::Home;
use crate::id::{new_id, new_secret};
use crate::store::{ContainerRun, ContainerStatus, EndReason, GatewayToken, RunEnd, Session, StartReason, Store};
use crate::thread::spawn_worker;
use crate::watch::Watcher;
use decide::{Next, Verdict};
use fault::StartFault;

/// How often everything is looked at though nothing was heard: a safety net.
const SAFETY_PASS: Duration = Duration::from_secs(60);
/// How often the engine is asked about containers whose processes are not ours to see.
const ASK_ENGINE: Duration = Duration::from_secs(2);
/// First wait before docker is asked again for the containers of an earlier life; doubled.
const FIND_RETRY: Duration = Duration::from_secs(2);
/// Longest such wait.
const MAX_FIND_RETRY: Duration = Duration::from_secs(30);
/// Largest kept log of one container. bytes
const MAX_KEPT_LOG_BYTES: usize = 1024 * 1024;
/// Kept logs per session.
const MAX_KEPT_LOGS: usize = 10;

/// Everything that can wake the sweep.
#[derive(Debug)]
pub enum Event {
    /// A message for this session is on disk.
    Wake { session_id: String, reason: StartReason },
    /// The worker that started a container is done.
    Started { run_id: String, result: Result<Started, DockerError> },
    /// A container's init is gone.
    Died { run_id: String },
    /// The worker that took a dead container away is done.
    Reaped { run_id: String, exit: Exit },
    /// Delivery has read a dead container's last words; what it had claimed and not finished.
    Drained { session_id: String, claims: Vec<String> },
    /// The containers of this install, or why they are not known.
    Found(Result<Vec<Inspected>, DockerError>),
    /// Last event: leave containers running, or stop them first.
    Stop(OnStop),
}

/// What becomes of running containers when the host stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They are detached, and the next start adopts them.
    LeaveRunning,
    StopContainers {
        until: Instant,
    },
}

/// How a container ended, as far as the engine could say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i64>,
    pub oom: bool,
}

/// What the sweep works with.
pub struct Sweep {
    pub store: Store,
    pub home: Arc<Home>,
    pub settings: Arc<Settings>,
    pub docker: Docker,
    pub watcher: Watcher,
    pub delivery: Sender<delivery::Event>,
    /// For workers to answer on.
    pub me: Sender<Event>,
}

/// One container, from the decision to start it to the end of its bookkeeping.
#[derive(Debug)]
struct Run {
    id: String,
    container_name: String,
    /// Why we ended it, when we did.
    ended_by_us: Option<EndReason>,
}

#[derive(Debug)]
enum Phase {
    Stopped,
    Starting(Run),
    Running { run: Run, proof: Proof, last_wake: Instant },
    Ending { run: Run, exit: Option<Exit>, claims: Option<Vec<String>> },
}

/// How the death of a running container will be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Pidfd,
    AskEngine,
}

/// What is known of a session that has, had or wants a container.
#[derive(Debug)]
struct Slot {
    phase: Phase,
    /// Starts in a row that came to nothing.
    crashes: u32,
    not_before: Option<Instant>,
}

/// State of the actor.
struct Actor {
    parts: Sweep,
    slots: HashMap<String, Slot>,
    /// Sessions that want a container, in order.
    queue: VecDeque<(String, StartReason)>,
    reconciled: bool,
    find_again: Option<Instant>,
    find_wait: Duration,
    next_due: Option<Timestamp>,
    next_safety_pass: Instant,
    next_ask: Instant,
    visited: HashMap<String, Stamp>,
}

impl Sweep {
    /// The thread's body: returns when told to stop.
    pub fn run(self, events: &Receiver<Event>) {
        let now = Instant::now();
        let mut actor = Actor {
            parts: self,
            slots: HashMap::new(),
            queue: VecDeque::new(),
            reconciled: false,
            find_again: Some(now),
            find_wait: FIND_RETRY,
            next_due: None,
            next_safety_pass: now,
            next_ask: now + ASK_ENGINE,
            visited: HashMap::new(),
        };
        loop {
            let event = match events.recv_deadline(actor.deadline()) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(Event::Stop(on_stop)) = event {
                return actor.stop(on_stop, events);
            }
            actor.step(event);
        }
    }
}

impl Actor {
    fn step(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            if let Err(e) = self.handle(event) {
                log::error!("The sweep could not finish a step error={e:#}");
            }
        }
        if let Err(e) = self.on_time() {
            log::error!("The sweep could not finish its pass error={e:#}");
        }
        self.pump();
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Wake { session_id, reason } => self.wake(&session_id, reason),
            Event::Started { run_id, result } => self.started(&run_id, result),
            Event::Died { run_id } => self.died(&run_id),
            Event::Reaped { run_id, exit } => self.reaped(&run_id, exit),
            Event::Drained { session_id, claims } => self.drained(&session_id, claims),
            Event::Found(result) => self.found(result),
            Event::Stop(_) => Ok(()),
        }
    }

    /// The earliest moment at which there is something to do without an event.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let polled = self.slots.values().any(|s| matches!(s.phase, Phase::Running { proof: Proof::AskEngine, .. }));
        let due = self.next_due.filter(|_| self.reconciled).map(|at| {
            let left = at.duration_since(crate::time::now());
            now + Duration::try_from(left).unwrap_or_default()
        });
        let backoff = self.queue.iter().filter_map(|(id, _)| self.slots.get(id)?.not_before).filter(|at| *at > now);
        [Some(self.next_safety_pass), self.find_again, polled.then_some(self.next_ask), due]
            .into_iter()
            .flatten()
            .chain(backoff)
            .min()
            .unwrap_or(now + SAFETY_PASS)
    }

    fn on_time(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.find_again.is_some_and(|at| at <= now) {
            self.find_again = None;
            self.find_containers()?;
        }
        if self.next_ask <= now {
            self.next_ask = now + ASK_ENGINE;
            self.ask_engine()?;
        }
        if !self.reconciled {
            self.next_safety_pass = now + SAFETY_PASS;
            return Ok(());
        }
        let wall = crate::time::now();
        if self.next_due.is_some_and(|at| at <= wall) {
            for due in self.parts.store.due_sessions(wall, 100)? {
                self.parts.store.set_due(&due.session_id, None)?;
                self.look(&due.session_id)?;
            }
            self.refresh_due()?;
        }
        if self.next_safety_pass <= now {
            self.next_safety_pass = now + SAFETY_PASS;
            self.visit_all()?;
        }
        Ok(())
    }

    // ---- containers of an earlier life

    fn find_containers(&self) -> Result<()> {
        let (docker, me, install) = (self.parts.docker.clone(), self.parts.me.clone(), self.parts.home.install_id());
        spawn_worker("docker-list", move || {
            // The sweep is gone when the host stops; then nobody needs to know.
            let _ = me.send(Event::Found(docker.list(&install)));
        })?;
        Ok(())
    }

    fn found(&mut self, result: Result<Vec<Inspected>, DockerError>) -> Result<()> {
        let containers = match result {
            Ok(containers) => containers,
            Err(e) => {
                log::error!(
                    "The container engine does not answer; trying again error={e} wait_s={}",
                    self.find_wait.as_secs()
                );
                self.find_again = Some(Instant::now() + self.find_wait);
                self.find_wait = (self.find_wait * 2).min(MAX_FIND_RETRY);
                for (session_id, _) in &self.queue {
                    self.tell_waiting(session_id, &StartFault::Engine(e.clone()))?;
                }
                return Ok(());
            }
        };
        self.find_wait = FIND_RETRY;
        let mut open = self.parts.store.open_container_runs()?;
        for container in containers {
            let run = match open.iter().position(|run| run.container_name == container.name) {
                Some(at) => open.swap_remove(at),
                None => {
                    log::info!("Removing a leftover container container={}", container.name);
                    self.remove(container.name)?;
                    continue;
                }
            };
            if self.slots.get(&run.session_id).is_some_and(|slot| !matches!(slot.phase, Phase::Stopped)) {
                continue; // ours, of this life
            }
            self.adopt(run, &container)?;
        }
        for run in open {
            if self.session_of(&run.id).is_none() {
                log::info!("A container is gone container={}", run.container_name);
                let exit = Some(Exit { code: None, oom: false });
                self.begin_ending(&run.session_id, run_of(&run, Some(EndReason::Vanished)), exit);
            }
        }
        if !self.reconciled {
            self.reconciled = true;
            self.next_safety_pass = Instant::now();
            self.refresh_due()?;
        }
        Ok(())
    }

    fn adopt(&mut self, run: ContainerRun, container: &Inspected) -> Result<()> {
        let session_id = run.session_id.clone();
        match container.state {
            State::Running { .. } | State::InBetween => {
                log::info!("Adopted a container session={session_id} container={}", run.container_name);
                self.watch_out(&session_id)?;
                let started = self.parts.docker.clone();
                let (me, run_id, name) = (self.parts.me.clone(), run.id.clone(), run.container_name.clone());
                self.slot(&session_id).phase = Phase::Starting(run_of(&run, None));
                spawn_worker("docker-adopt", move || {
                    let result = started.life(&name).map(|life| Started { container_id: name, life });
                    let _ = me.send(Event::Started { run_id, result });
                })?;
            }
            State::Exited { .. } => {
                log::info!(
                    "A container ended while we were away session={session_id} container={}",
                    run.container_name
                );
                let name = run.container_name.clone();
                let run_id = run.id.clone();
                self.begin_ending(&session_id, run_of(&run, None), None);
                self.reap(&session_id, run_id, name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, container: String) -> Result<()> {
        let docker = self.parts.docker.clone();
        spawn_worker("docker-rm", move || {
            if let Err(e) = docker.remove(&container) {
                log::warn!("A container could not be removed container={container} error={e}");
            }
        })?;
        Ok(())
    }

    // ---- wake and start

    fn wake(&mut self, session_id: &str, reason: StartReason) -> Result<()> {
        let slot = self.slot(session_id);
        match &mut slot.phase {
            // The runner sees the message by itself; a container on its way down is looked after at its end.
            Phase::Running { last_wake, .. } => *last_wake = Instant::now(),
            Phase::Starting(_) | Phase::Ending { .. } => {}
            Phase::Stopped => self.enqueue(session_id, reason),
        }
        Ok(())
    }

    fn enqueue(&mut self, session_id: &str, reason: StartReason) {
        if !self.queue.iter().any(|(id, _)| id == session_id) {
            self.queue.push_back((session_id.to_owned(), reason));
        }
    }

    /// Starts what waits, as far as there is room.
    fn pump(&mut self) {
        if !self.reconciled {
            return;
        }
        let now = Instant::now();
        let mut waiting = std::mem::take(&mut self.queue);
        while let Some((session_id, reason)) = waiting.pop_front() {
            if self.slots.get(&session_id).and_then(|s| s.not_before).is_some_and(|at| at > now) {
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

    fn live(&self) -> usize {
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
        self.watch_out(session_id)?;
        log::info!(
            "Container starting session={session_id} container={} reason={}",
            run.container_name,
            reason.as_str()
        );
        let (docker, me, run_id) = (self.parts.docker.clone(), self.parts.me.clone(), run.id.clone());
        self.slot(session_id).phase = Phase::Starting(run);
        spawn_worker("docker-run", move || {
            let result = docker.start(&spec);
            let _ = me.send(Event::Started { run_id, result });
        })?;
        Ok(())
    }

    /// Delivery hears of what the container writes. The watch stands before the container runs.
    fn watch_out(&self, session_id: &str) -> Result<()> {
        let session = self.parts.store.session(session_id)?;
        let out = self.parts.home.session(&session.agent_group_id, session_id).out();
        match DirWatch::new(&out) {
            Ok(watch) => self.parts.watcher.session(session_id, watch),
            // Delivery's own poll still finds what is written.
            Err(e) => log::warn!("No notifications for a session session={session_id} error={e}"),
        }
        let _ = self.parts.delivery.send(delivery::Event::Live { session_id: session_id.to_owned() });
        Ok(())
    }

    fn started(&mut self, run_id: &str, result: Result<Started, DockerError>) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        let slot = self.slot(&session_id);
        let Phase::Starting(run) = std::mem::replace(&mut slot.phase, Phase::Stopped) else { return Ok(()) };
        let name = run.container_name.clone();
        match result {
            Ok(started) => {
                let (proof, over) = match started.life {
                    Life::Pidfd(pidfd) => {
                        self.parts.watcher.process(run_id, pidfd);
                        (Proof::Pidfd, false)
                    }
                    Life::AskEngine => (Proof::AskEngine, false),
                    Life::Over => (Proof::AskEngine, true),
                };
                self.slot(&session_id).phase = Phase::Running { run, proof, last_wake: Instant::now() };
                self.parts.store.set_run_container_id(run_id, &started.container_id)?;
                self.clear_faults(&session_id)?;
                log::debug!("Container runs session={session_id} container={name} proof={proof:?}");
                if over { self.died(run_id) } else { Ok(()) }
            }
            Err(e) => {
                self.end_run(&session_id, &run, EndReason::StartFailed, Exit { code: None, oom: false })?;
                let fault = StartFault::diagnose(&self.parts.docker, &self.parts.settings, e);
                self.start_failed(&session_id, &fault);
                Ok(())
            }
        }
    }

    /// A start came to nothing: try again later, and say so once.
    fn start_failed(&mut self, session_id: &str, fault: &StartFault) {
        let slot = self.slot(session_id);
        slot.crashes += 1;
        let wait = decide::crash_backoff(slot.crashes);
        slot.not_before = Some(Instant::now() + wait);
        log::error!("Container did not start session={session_id} error={fault} retry_s={}", wait.as_secs());
        self.enqueue(session_id, StartReason::Retry);
        if let Err(e) = self.tell_waiting(session_id, fault) {
            log::error!("A user could not be told session={session_id} error={e:#}");
        }
    }

    // ---- end

    fn died(&mut self, run_id: &str) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        let slot = self.slot(&session_id);
        let phase = std::mem::replace(&mut slot.phase, Phase::Stopped);
        let Phase::Running { run, .. } = phase else {
            slot.phase = phase;
            return Ok(());
        };
        let name = run.container_name.clone();
        self.begin_ending(&session_id, run, None);
        self.reap(&session_id, run_id.to_owned(), name)
    }

    fn begin_ending(&mut self, session_id: &str, run: Run, exit: Option<Exit>) {
        self.slot(session_id).phase = Phase::Ending { run, exit, claims: None };
        let _ = self.parts.delivery.send(delivery::Event::Dead { session_id: session_id.to_owned() });
    }

    fn reap(&self, session_id: &str, run_id: String, container: String) -> Result<()> {
        let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
        let logs = self.parts.home.container_logs(session_id);
        spawn_worker("docker-reap", move || {
            let exit = take_away(&docker, &container, &logs);
            let _ = me.send(Event::Reaped { run_id, exit });
        })?;
        Ok(())
    }

    fn reaped(&mut self, run_id: &str, reported: Exit) -> Result<()> {
        let Some(session_id) = self.session_of(run_id) else { return Ok(()) };
        if let Phase::Ending { exit, .. } = &mut self.slot(&session_id).phase {
            *exit = Some(reported);
        }
        self.settle(&session_id)
    }

    fn drained(&mut self, session_id: &str, claimed: Vec<String>) -> Result<()> {
        if let Phase::Ending { claims, .. } = &mut self.slot(session_id).phase {
            *claims = Some(claimed);
        }
        self.settle(session_id)
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
        if matches!(reason, EndReason::Crashed | EndReason::Oom) && claims.is_empty() {
            slot.crashes += 1;
            slot.not_before = Some(Instant::now() + decide::crash_backoff(slot.crashes));
        } else {
            slot.crashes = 0;
            slot.not_before = None;
        }
        let crashes = slot.crashes;
        self.parts.watcher.forget_session(session_id);
        log::info!(
            "Container ended session={session_id} container={} reason={} code={}",
            run.container_name,
            reason.as_str(),
            exit.code.map_or("unknown".to_owned(), |c| c.to_string()),
        );
        self.end_run(session_id, &run, reason, exit)?;
        self.judge_claims(session_id, &claims)?;
        if crashes >= fault::CRASHES_BEFORE_NOTICE {
            self.tell_waiting(session_id, &StartFault::Crashing(reason))?;
        }
        self.look(session_id)
    }

    fn end_run(&self, session_id: &str, run: &Run, reason: EndReason, exit: Exit) -> Result<()> {
        let store = &self.parts.store;
        let end = RunEnd { at: crate::time::now(), reason, exit_code: exit.code, oom: exit.oom };
        store.transaction(|| -> crate::store::Result<()> {
            store.end_container_run(&run.id, &end)?;
            store.delete_gateway_tokens(&run.container_name)?;
            store.set_container_status(session_id, ContainerStatus::Stopped)
        })?;
        Ok(())
    }

    fn judge_claims(&mut self, session_id: &str, claims: &[String]) -> Result<()> {
        if claims.is_empty() {
            return Ok(());
        }
        let session = self.parts.store.session(session_id)?;
        let mut db = self.open_inbound(&session)?;
        let verdicts = decide::after_death(claims, &db.unfinished()?, crate::time::now());
        db.write(|tx| {
            for verdict in &verdicts {
                match verdict {
                    Verdict::Retry { id, tries, after } => tx.retry(id, *tries, *after)?,
                    Verdict::Fail { id } => tx.finish(id, InStatus::Failed)?,
                }
            }
            Ok(())
        })
        .with_context(|| format!("cannot put off messages of session {session_id}"))?;
        drop(db);
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
                }
            }
        }
        Ok(())
    }

    // ---- looking

    /// Looks at what a session without a container needs.
    fn look(&mut self, session_id: &str) -> Result<()> {
        if !matches!(self.slot(session_id).phase, Phase::Stopped) {
            return Ok(());
        }
        let session = self.parts.store.session(session_id)?;
        let unfinished = self.open_inbound(&session)?.unfinished()?;
        match decide::next(&unfinished, crate::time::now()) {
            Next::Start(reason) => self.enqueue(session_id, reason),
            Next::At(at) => {
                self.parts.store.set_due(session_id, Some(at))?;
                self.refresh_due()?;
            }
            Next::Nothing => {
                if self.slots.get(session_id).is_some_and(|s| s.crashes == 0) {
                    self.slots.remove(session_id);
                }
            }
        }
        Ok(())
    }

    /// The safety net: looks at every session whose file changed since the last time.
    fn visit_all(&mut self) -> Result<()> {
        let now = crate::time::now();
        for session in self.parts.store.active_sessions()? {
            let dir = self.parts.home.session(&session.agent_group_id, &session.id);
            if !dir.inbound_db().exists() {
                continue;
            }
            let Ok(stamp) = Stamp::take(&dir.inbound_db()) else { continue };
            let settled = stamp.is_settled(now);
            if settled && self.visited.get(&session.id) == Some(&stamp) {
                continue;
            }
            if let Err(e) = self.look(&session.id) {
                log::warn!("A session could not be looked at session={} error={e:#}", session.id);
            }
            self.visited.insert(session.id, stamp);
        }
        Ok(())
    }

    fn ask_engine(&self) -> Result<()> {
        for slot in self.slots.values() {
            if let Phase::Running { run, proof: Proof::AskEngine, .. } = &slot.phase {
                let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
                let (run_id, name) = (run.id.clone(), run.container_name.clone());
                spawn_worker("docker-ask", move || {
                    if matches!(docker.life(&name), Ok(Life::Over)) {
                        let _ = me.send(Event::Died { run_id });
                    }
                })?;
            }
        }
        Ok(())
    }

    fn refresh_due(&mut self) -> Result<()> {
        self.next_due = self.parts.store.next_due()?.map(|due| due.next_due_at);
        Ok(())
    }

    /// Makes room: stops the container that has had nothing to do for the longest time.
    fn evict_longest_idle(&mut self) {
        let mut idle: Vec<(Instant, String)> = Vec::new();
        for (session_id, slot) in &self.slots {
            match &slot.phase {
                Phase::Running { run, last_wake, .. } if run.ended_by_us.is_none() => {
                    idle.push((*last_wake, session_id.clone()))
                }
                // One is on its way out already: wait for it.
                Phase::Running { .. } | Phase::Ending { .. } => return,
                _ => {}
            }
        }
        idle.sort();
        for (_, session_id) in idle {
            let has_work = self.parts.store.session(&session_id).map_err(anyhow::Error::from).and_then(|session| {
                let unfinished = self.open_inbound(&session)?.unfinished()?;
                Ok(matches!(decide::next(&unfinished, crate::time::now()), Next::Start(_)))
            });
            if matches!(has_work, Ok(false)) {
                return self.stop_container(&session_id, EndReason::Evicted);
            }
        }
    }

    fn stop_container(&mut self, session_id: &str, reason: EndReason) {
        if let Phase::Running { run, .. } = &mut self.slot(session_id).phase {
            run.ended_by_us = Some(reason);
            let (name, docker) = (run.container_name.clone(), self.parts.docker.clone());
            log::info!("Stopping a container session={session_id} container={name} reason={}", reason.as_str());
            let worker = spawn_worker("docker-stop", move || {
                if let Err(e) = docker.stop(&name) {
                    log::warn!("A container could not be stopped container={name} error={e}");
                }
            });
            if let Err(e) = worker {
                log::error!("No thread to stop a container session={session_id} error={e}");
            }
        }
    }

    fn stop(&mut self, on_stop: OnStop, events: &Receiver<Event>) {
        let OnStop::StopContainers { until } = on_stop else { return };
        let sessions: Vec<String> = self.slots.keys().cloned().collect();
        for session_id in sessions {
            self.stop_container(&session_id, EndReason::Stopped);
        }
        self.queue.clear();
        while self.live() > 0 {
            match events.recv_deadline(until) {
                Ok(event) => {
                    if let Err(e) = self.handle(event) {
                        log::error!("The sweep could not finish a step error={e:#}");
                    }
                }
                Err(_) => {
                    log::warn!("Containers were still running at the end count={}", self.live());
                    return;
                }
            }
        }
    }

    fn slot(&mut self, session_id: &str) -> &mut Slot {
        self.slots.entry(session_id.to_owned()).or_insert(Slot { phase: Phase::Stopped, crashes: 0, not_before: None })
    }

    fn session_of(&self, run_id: &str) -> Option<String> {
        let of_run = |slot: &Slot| match &slot.phase {
            Phase::Starting(run) | Phase::Running { run, .. } | Phase::Ending { run, .. } => run.id == run_id,
            Phase::Stopped => false,
        };
        self.slots.iter().find(|(_, slot)| of_run(slot)).map(|(id, _)| id.clone())
    }

    fn open_inbound(&self, session: &Session) -> Result<InboundDb> {
        let dir = self.parts.home.session(&session.agent_group_id, &session.id);
        InboundDb::open(&dir, Durability::Normal).with_context(|| format!("cannot open {}", dir.inbound_db().display()))
    }
}

fn run_of(run: &ContainerRun, ended_by_us: Option<EndReason>) -> Run {
    Run { id: run.id.clone(), container_name: run.container_name.clone(), ended_by_us }
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
fn take_away(docker: &Docker, container: &str, logs: &std::path::Path) -> Exit {
    let exit = match docker.inspect(container) {
        Ok(Some(Inspected { state: State::Exited { code, oom_killed }, .. })) => {
            Exit { code: Some(code), oom: oom_killed && code == 137 }
        }
        Ok(_) => Exit { code: None, oom: false },
        Err(e) => {
            log::warn!("The end of a container is not known container={container} error={e}");
            Exit { code: None, oom: false }
        }
    };
    let kept = docker.logs(container).map_err(anyhow::Error::from).and_then(|log| keep_log(logs, container, &log));
    if let Err(e) = kept {
        log::warn!("The log of a container was not kept container={container} error={e:#}");
    }
    if let Err(e) = docker.remove(container) {
        log::warn!("A container could not be removed container={container} error={e}");
    }
    exit
}

fn keep_log(folder: &std::path::Path, container: &str, log: &[u8]) -> Result<()> {
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
