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

mod adopt;
pub mod clock;
pub mod decide;
mod end;
pub mod fault;
mod progress;
mod prune;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::alive::last_heartbeat;
use nanoclaw_session::content::Answer;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::question::Outcome;
use nanoclaw_session::row::{Address, MessageIn};
use nanoclaw_session::stamp::Stamp;

use crate::config::Settings;
use crate::container::docker::{Docker, DockerError, Inspected, Leftover, Life, Started};
use crate::daemon::Mode;
use crate::delivery::{self, queue::backoff};
use crate::home::Home;
use crate::oneshot::{Barrier, Gate};
use crate::question;
use crate::store::{EndReason, Question, Session, StartReason, Store};
use crate::tasks;
use crate::thread::{self, spawn_worker, tell};
use crate::time::Now;
use crate::watch::Watcher;
use clock::Clock;
use decide::{Next, Wait};
use fault::StartFault;
use progress::{Progress, Verdict};

/// How often everything is looked at though nothing was heard: a safety net.
const SAFETY_PASS: Duration = Duration::from_secs(60);
/// How often the engine is asked about containers whose processes are not ours to see.
const ASK_ENGINE: Duration = Duration::from_secs(2);
/// First wait before docker is asked again for the containers of an earlier life; doubled.
const FIND_RETRY: Duration = Duration::from_secs(2);
/// Longest such wait.
const MAX_FIND_RETRY: Duration = Duration::from_secs(30);

/// When docker is asked again though it has not answered: longer than any of our calls takes.
const FIND_DEADLINE: Duration = Duration::from_secs(120);
/// When due sessions are looked for again, should the store not answer.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(2);
/// How long a stop waits for starts that are under way.
const START_GRACE: Duration = Duration::from_secs(2);
/// How long a session waits for room before its user is told.
const TELL_WAITING: Duration = Duration::from_secs(30);
/// How often the memory that is left is looked at while somebody waits for it.
const MEMORY_AGAIN: Duration = Duration::from_secs(5);
/// How often what nobody needs any more is looked for outside of sessions; the first time at the start.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Due sessions that are looked at in one pass.
const MAX_DUE_PER_PASS: u32 = 100;

/// Everything that can wake the sweep.
#[derive(Debug)]
pub enum Event {
    /// A message for this session is on disk.
    Wake { session_id: String, reason: StartReason },
    /// The worker that started a container is done.
    Started { run_id: String, result: Result<Started, (StartFault, Leftover)> },
    /// A container's init is gone.
    Died { run_id: String },
    /// The worker that took a dead container away is done.
    Reaped { run_id: String, exit: Exit },
    /// Delivery has read a dead container's last words; what it had claimed and not finished.
    Drained { run_id: String, claims: Vec<String> },
    /// The worker that was to stop a container could not.
    NotStopped { run_id: String },
    /// A session has finished something: its container is of use, and may have nothing to do now.
    Finished { session_id: String },
    /// What a container says it has taken, and until when it will be silent.
    Progress { session_id: String, claims: Vec<String>, silent_until: Option<Timestamp> },
    /// Somebody wants a fresh container for this session.
    Restart { session_id: String },
    /// A container has held a lock on this session's inbound.db for too long.
    Locked { session_id: String },
    /// The engine was asked whether a container lives.
    Asked { run_id: String, life: Option<Life> },
    /// Passed on once there is nothing to do.
    Barrier(Barrier),
    /// What the next containers are started with.
    Settings(Arc<Settings>),
    /// The containers of this install, or why they are not known.
    Found(Result<Vec<Inspected>, DockerError>),
    /// Last event. Containers are stopped first, when it says until when; else they are left to the next start.
    Stop { containers_until: Option<Instant> },
}

/// How a container ended, as far as the engine could say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i64>,
    pub oom: bool,
}

impl Exit {
    /// The engine could not say.
    const UNKNOWN: Exit = Exit { code: None, oom: false };
}

/// What the sweep works with.
pub struct Sweep {
    pub store: Store,
    pub home: Arc<Home>,
    pub settings: Arc<Settings>,
    pub docker: Docker,
    /// In a cycle the engine is not asked for containers of an earlier life while the store knows of none.
    pub mode: Mode,
    pub watcher: Watcher,
    pub clock: Clock,
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

/// `Unknown`: a container of an earlier life may run, and could not be taken over yet.
#[derive(Debug, Default)]
enum Phase {
    #[default]
    Stopped,
    Unknown,
    Starting(Run),
    Running {
        run: Run,
        proof: Proof,
        since: Instant,
        last_wake: Instant,
        progress: Progress,
    },
    Ending {
        run: Run,
        exit: Option<Exit>,
        claims: Option<Vec<String>>,
    },
}

/// How the death of a running container will be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Pidfd,
    AskEngine,
}

/// What is known of a session that has, had or wants a container.
#[derive(Debug, Default)]
struct Slot {
    phase: Phase,
    /// Starts in a row that came to nothing.
    crashes: u32,
    not_before: Option<Instant>,
    /// Looks in a row that failed.
    look_faults: u32,
}

/// A session that wants a container.
#[derive(Debug)]
struct Waiting {
    session_id: String,
    reason: StartReason,
    since: Instant,
    /// Why it is not started, when its user is to be told of it after a while.
    wait: Option<Wait>,
    told: bool,
}

/// State of the actor.
struct Actor {
    parts: Sweep,
    /// The time to judge by, as of this step.
    wall: Timestamp,
    slots: HashMap<String, Slot>,
    /// Sessions that want a container, in order.
    queue: VecDeque<Waiting>,
    /// When those that wait for memory are looked at again.
    memory_again: Option<Instant>,
    reconciled: bool,
    find_again: Option<Instant>,
    find_wait: Duration,
    next_due: Option<Timestamp>,
    next_safety_pass: Instant,
    next_prune: Instant,
    next_ask: Instant,
    visited: HashMap<String, Stamp>,
    /// Runs the engine was asked about and has not answered for.
    asking: HashSet<String>,
    gate: Gate,
}

impl Sweep {
    /// The thread's body: returns when told to stop.
    pub fn run(self, events: &Receiver<Event>) {
        let mut actor = Actor::new(self, Instant::now());
        loop {
            let Ok(event) = thread::next(events, Some(actor.deadline())) else { return };
            if let Some(Event::Stop { containers_until }) = event {
                return actor.stop(containers_until, events);
            }
            actor.step(event);
        }
    }
}

impl Actor {
    fn new(parts: Sweep, now: Instant) -> Actor {
        Actor {
            parts,
            wall: crate::time::now(),
            slots: HashMap::new(),
            queue: VecDeque::new(),
            memory_again: None,
            reconciled: false,
            find_again: Some(now),
            find_wait: FIND_RETRY,
            next_due: None,
            next_safety_pass: now,
            next_prune: now,
            next_ask: now + ASK_ENGINE,
            visited: HashMap::new(),
            asking: HashSet::new(),
            gate: Gate::default(),
        }
    }

    fn step(&mut self, event: Option<Event>) {
        self.wall = self.parts.clock.wall(Now::read(), clock::is_synchronised);
        match event {
            Some(Event::Barrier(barrier)) => self.gate.hold(barrier),
            Some(event) => {
                self.gate.worked();
                if let Err(e) = self.handle(event) {
                    log::error!("The sweep could not finish a step error={e:#}");
                }
            }
            None => {}
        }
        if let Err(e) = self.on_time() {
            log::error!("The sweep could not finish its pass error={e:#}");
        }
        self.pump();
        if self.gate.until().is_some_and(|until| self.is_quiet(until)) {
            if let Some(barrier) = self.gate.open() {
                tell(&self.parts.delivery, delivery::Event::Barrier(barrier));
            }
        }
    }

    /// Whether no session has, or gets before `until`, anything for a container to do. What is
    /// planned for later than now is none of a cycle's business, but for what it failed to do.
    fn is_quiet(&self, until: Instant) -> bool {
        let wall = self.wall;
        let end = wall + until.saturating_duration_since(Instant::now());
        let has_work = |session_id: &str| {
            // One that cannot be read now is not known to have none.
            self.unfinished(session_id).map_or(true, |rows| decide::has_work(&rows, wall, end))
        };
        let mut due = match self.parts.store.due_sessions(end, MAX_DUE_PER_PASS) {
            Ok(due) => due.into_iter(),
            Err(_) => return false,
        };
        let held_back = |slot: Option<&Slot>| slot.and_then(|s| s.not_before).is_some_and(|at| at > until);
        self.reconciled
            && self.queue.iter().all(|w| held_back(self.slots.get(&w.session_id)))
            && self.slots.iter().all(|(session_id, slot)| match slot.phase {
                Phase::Stopped | Phase::Unknown => true,
                Phase::Starting(_) | Phase::Ending { .. } => false,
                Phase::Running { .. } => !has_work(session_id),
            })
            && !due.any(|due| has_work(&due.session_id))
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Wake { session_id, reason } => {
                self.wake(&session_id, reason);
                Ok(())
            }
            Event::Started { run_id, result } => self.started(&run_id, result),
            Event::Died { run_id } => self.died(&run_id),
            Event::Reaped { run_id, exit } => self.reaped(&run_id, exit),
            Event::Drained { run_id, claims } => self.drained(&run_id, claims),
            Event::NotStopped { run_id } => {
                self.not_stopped(&run_id);
                Ok(())
            }
            Event::Found(result) => self.found(result),
            Event::Settings(settings) => {
                self.parts.settings = settings;
                Ok(())
            }
            Event::Locked { session_id } => {
                self.stop_container(&session_id, EndReason::Stuck);
                Ok(())
            }
            Event::Restart { session_id } => {
                self.stop_container(&session_id, EndReason::Stopped);
                Ok(())
            }
            Event::Asked { run_id, life } => {
                self.asking.remove(&run_id);
                if matches!(life, Some(Life::Over)) { self.died(&run_id) } else { Ok(()) }
            }
            Event::Finished { session_id } => {
                if let Some(slot) = self.slots.get_mut(&session_id) {
                    slot.crashes = 0;
                }
                Ok(())
            }
            Event::Progress { session_id, claims, silent_until } => {
                // While it starts, these are a predecessor's.
                if let Phase::Running { progress, .. } = &mut self.slot(&session_id).phase {
                    progress.told(claims, silent_until, Now::read());
                }
                Ok(())
            }
            Event::Barrier(_) | Event::Stop { .. } => Ok(()),
        }
    }

    /// The earliest moment at which there is something to do without an event.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let polled = self.slots.values().any(|s| matches!(s.phase, Phase::Running { proof: Proof::AskEngine, .. }));
        let due = self.next_due.filter(|_| self.reconciled).map(|at| {
            let left = at.duration_since(self.wall);
            now + Duration::try_from(left).unwrap_or_default()
        });
        let backoff = |w: &Waiting| self.slots.get(&w.session_id)?.not_before.filter(|at| *at > now);
        let to_tell = |w: &Waiting| (w.wait.is_some() && !w.told).then_some(w.since + TELL_WAITING);
        let looks = self.slots.values().filter_map(|slot| match &slot.phase {
            Phase::Running { run, progress, .. } if run.ended_by_us.is_none() => progress.next_look(),
            _ => None,
        });
        [Some(self.next_safety_pass), self.find_again, self.memory_again, polled.then_some(self.next_ask), due]
            .into_iter()
            .flatten()
            .chain(self.queue.iter().filter_map(backoff))
            .chain(self.queue.iter().filter_map(to_tell))
            .chain(looks)
            .min()
            .unwrap_or(now + SAFETY_PASS)
    }

    fn on_time(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.find_again.is_some_and(|at| at <= now) {
            // Taken back when the answer is there; until then it is the next try.
            self.find_again = Some(now + FIND_DEADLINE);
            self.find_containers()?;
        }
        if self.next_ask <= now {
            self.next_ask = now + ASK_ENGINE;
            self.ask_engine()?;
        }
        self.judge_progress(Now::read());
        if !self.reconciled {
            self.next_safety_pass = now + SAFETY_PASS;
            return Ok(());
        }
        let wall = self.wall;
        if self.next_due.is_some_and(|at| at <= wall) {
            // Should anything below fail, it is tried again, and not at once.
            self.next_due = Some(wall + LOOK_AGAIN);
            for due in self.parts.store.due_sessions(wall, MAX_DUE_PER_PASS)? {
                // First the look, then the clearing: a due time that is lost is a task that never runs.
                match self.look(&due.session_id) {
                    Ok(()) if self.parts.store.find_due(&due.session_id)?.is_some_and(|d| d.next_due_at <= wall) => {
                        self.parts.store.set_due(&due.session_id, None)?;
                    }
                    Ok(()) => {}
                    Err(e) => self.look_failed(&due.session_id, &e)?,
                }
            }
            self.refresh_due()?;
        }
        if self.next_safety_pass <= now {
            self.next_safety_pass = now + SAFETY_PASS;
            self.visit_all()?;
            self.expire_questions()?;
        }
        if self.next_prune <= now {
            self.next_prune = now + PRUNE_EVERY;
            self.prune()?;
        }
        Ok(())
    }

    /// Looks at what a session without a container needs.
    fn look(&mut self, session_id: &str) -> Result<()> {
        if !matches!(self.slot(session_id).phase, Phase::Stopped) {
            return Ok(());
        }
        let mut db = self.open_inbound(&self.parts.store.session(session_id)?)?;
        if db.tasks()?.iter().any(|task| task.is_skipped(self.wall)) {
            let zone = &self.parts.settings.agents.timezone;
            let runs = db.write(|tx| tasks::skip_missed(tx, self.wall, zone))?;
            self.parts.store.add_task_runs(session_id, &runs)?;
        }
        let next = decide::next(&db.unfinished()?, self.wall);
        drop(db);
        self.slot(session_id).look_faults = 0;
        match next {
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

    /// A session could not be looked at: it is again ever later, and that is said once.
    fn look_failed(&mut self, session_id: &str, error: &anyhow::Error) -> Result<()> {
        let slot = self.slot(session_id);
        slot.look_faults = slot.look_faults.saturating_add(1);
        let faults = slot.look_faults;
        if faults == 1 {
            log::warn!("A session could not be looked at; trying again session={session_id} error={error:#}");
        }
        let wait = backoff(faults + 1, 0).min(SAFETY_PASS);
        self.parts.store.set_due(session_id, Some(self.wall + wait))?;
        self.refresh_due()
    }

    /// The safety net: looks at every session whose file changed since the last time.
    fn visit_all(&mut self) -> Result<()> {
        let now = crate::time::now();
        for session in self.parts.store.active_sessions()? {
            let dir = self.dir_of(&session);
            if !dir.inbound_db().exists() {
                continue;
            }
            let Ok(stamp) = Stamp::take(&dir.inbound_db()) else { continue };
            let settled = stamp.is_settled(now);
            if settled && self.visited.get(&session.id) == Some(&stamp) {
                continue;
            }
            let stopped = self.slots.get(&session.id).is_none_or(|s| matches!(s.phase, Phase::Stopped));
            match self.look(&session.id) {
                Ok(()) if stopped => drop(self.visited.insert(session.id, stamp)),
                Ok(()) => {}
                Err(e) => self.look_failed(&session.id, &e)?,
            }
        }
        Ok(())
    }

    /// The time for what a clock that runs ahead must not decide: what is old enough to be forgotten,
    /// and when a runner, which goes by the system's clock, may try again.
    fn no_later(&self) -> Timestamp {
        self.wall.min(crate::time::now())
    }

    /// Stops containers that do nothing about what they have to do.
    fn judge_progress(&mut self, now: Now) {
        let is_due = |p: &Progress| p.next_look().is_some_and(|at| at <= now.instant);
        let looks: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                matches!(&slot.phase, Phase::Running { run, progress, .. } if run.ended_by_us.is_none() && is_due(progress))
            })
            .map(|(session_id, _)| session_id.clone())
            .collect();
        for session_id in looks {
            let heartbeat = self.heartbeat_of(&session_id);
            let next = self.next_of(&session_id).ok();
            let Phase::Running { progress, .. } = &mut self.slot(&session_id).phase else { continue };
            progress.seen(heartbeat, now);
            match (progress.judge(now.instant), next) {
                (Verdict::Fine, _) => {}
                (Verdict::Stuck, _) | (Verdict::Idle, Some(Next::Start(_))) => {
                    self.stop_container(&session_id, EndReason::Stuck);
                }
                (Verdict::Idle, Some(_)) => progress.nothing_waits(),
                // Its file cannot be read just now.
                (Verdict::Idle, None) => progress.put_off(now.instant),
            }
        }
    }

    /// Tells agents that nobody answered their question in time: a tool waits for it.
    fn expire_questions(&self) -> Result<()> {
        for question in self.parts.store.expired_questions(self.wall)? {
            if let Err(e) = self.expire_question(&question) {
                log::warn!("A question could not be ended question={} error={e:#}", question.question_id);
            }
        }
        Ok(())
    }

    fn expire_question(&self, question: &Question) -> Result<()> {
        let Question { question_id, session_id, title, .. } = question;
        let answer = Answer { question_id: question_id.clone(), title: title.clone(), outcome: Outcome::Expired };
        let id = format!("{question_id}:expired");
        let row = question::answer_row(id, crate::time::now(), Address::default(), &answer);
        self.open_inbound(&self.parts.store.session(session_id)?)?.write(|tx| tx.insert(&row))?;
        question::end(&self.parts.store, question, "nobody answered in time")?;
        tell(&self.parts.delivery, delivery::Event::HostOutbox);
        Ok(())
    }

    /// Forgets old notices, and the logs of sessions that are no more. (A session's own files are
    /// pruned when its container has ended.)
    fn prune(&self) -> Result<()> {
        let now = self.no_later();
        self.parts.store.prune_host_outbox(now - prune::KEPT)?;
        let logs = self.parts.home.container_logs("");
        let kept = self.parts.store.sessions()?.into_iter().map(|session| session.id.into()).collect();
        spawn_worker("prune", move || {
            if let Err(e) = prune::folders_but(&logs, &kept, now) {
                log::warn!("Old logs were not removed error={e:#}");
            }
        })?;
        Ok(())
    }

    /// Asks about containers whose processes are not ours to see.
    fn ask_engine(&mut self) -> Result<()> {
        for slot in self.slots.values() {
            let Phase::Running { run, proof: Proof::AskEngine, since, .. } = &slot.phase else { continue };
            if !self.asking.insert(run.id.clone()) {
                continue; // a stuck engine is not asked again and again
            }
            let (docker, me) = (self.parts.docker.clone(), self.parts.me.clone());
            let (run_id, name, age) = (run.id.clone(), run.container_name.clone(), since.elapsed());
            let worker = spawn_worker("docker-ask", move || {
                let life = docker.life(&name, age);
                if let Err(e) = &life {
                    log::debug!("The engine was asked in vain container={name} error={e}");
                }
                tell(&me, Event::Asked { run_id, life: life.ok() });
            });
            if worker.is_err() {
                self.asking.remove(&run.id);
            }
            worker?;
        }
        Ok(())
    }

    fn refresh_due(&mut self) -> Result<()> {
        self.next_due = self.parts.store.next_due()?.map(|due| due.next_due_at);
        Ok(())
    }

    fn stop(&mut self, containers_until: Option<Instant>, events: &Receiver<Event>) {
        self.queue.clear();
        let Some(until) = containers_until else { return self.await_starts(events) };
        if !self.reconciled {
            // Perhaps nobody has asked yet.
            if let Err(e) = self.find_containers() {
                return log::warn!("Containers were not stopped error={e:#}");
            }
        }
        loop {
            // Also those that were just starting when the word came.
            let running: Vec<String> = self
                .slots
                .iter()
                .filter(|(_, s)| matches!(&s.phase, Phase::Running { run, .. } if run.ended_by_us.is_none()))
                .map(|(session_id, _)| session_id.clone())
                .collect();
            for session_id in running {
                self.stop_container(&session_id, EndReason::Stopped);
            }
            let open = self.slots.values().filter(|s| !matches!(s.phase, Phase::Stopped | Phase::Unknown)).count();
            // Those of an earlier life may not be known yet.
            if open == 0 && self.reconciled {
                return;
            }
            match events.recv_deadline(until) {
                Ok(Event::Found(Err(e))) => return log::warn!("Containers were not stopped error={e}"),
                Ok(event) => {
                    if let Err(e) = self.handle(event) {
                        log::error!("The sweep could not finish a step error={e:#}");
                    }
                }
                Err(_) => return log::warn!("Containers were still running at the end count={open}"),
            }
        }
    }

    /// Lets starts that are under way come to their end, for a moment: the next start then knows
    /// their containers by id, and need not wait for what may come of them.
    fn await_starts(&mut self, events: &Receiver<Event>) {
        let until = Instant::now() + START_GRACE;
        while self.slots.values().any(|s| matches!(s.phase, Phase::Starting(_))) {
            let Ok(event) = events.recv_deadline(until) else { return };
            if let Err(e) = self.handle(event) {
                log::error!("The sweep could not finish a step error={e:#}");
            }
        }
    }

    fn slot(&mut self, session_id: &str) -> &mut Slot {
        self.slots.entry(session_id.to_owned()).or_default()
    }

    fn session_of(&self, run_id: &str) -> Option<String> {
        let of_run = |slot: &Slot| match &slot.phase {
            Phase::Starting(run) | Phase::Running { run, .. } | Phase::Ending { run, .. } => run.id == run_id,
            Phase::Stopped | Phase::Unknown => false,
        };
        self.slots.iter().find(|(_, slot)| of_run(slot)).map(|(id, _)| id.clone())
    }

    fn next_of(&self, session_id: &str) -> Result<Next> {
        Ok(decide::next(&self.unfinished(session_id)?, self.wall))
    }

    fn unfinished(&self, session_id: &str) -> Result<Vec<MessageIn>> {
        Ok(self.open_inbound(&self.parts.store.session(session_id)?)?.unfinished()?)
    }

    fn heartbeat_of(&self, session_id: &str) -> Option<Timestamp> {
        last_heartbeat(&self.dir_of(&self.parts.store.session(session_id).ok()?))
    }

    fn dir_of(&self, session: &Session) -> SessionDir {
        self.parts.home.session(&session.agent_group_id, &session.id)
    }

    fn open_inbound(&self, session: &Session) -> Result<InboundDb> {
        let dir = self.dir_of(session);
        InboundDb::open(&dir, Durability::Normal).with_context(|| format!("cannot open {}", dir.inbound_db().display()))
    }
}
