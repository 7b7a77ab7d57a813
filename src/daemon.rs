//! The daemon: who talks to whom. Every channel between threads is made here, every long-lived
//! thread is started here, and all of them are stopped here, in order.
//!
//! docs/ARCHITECTURE.md draws them. The router also tells delivery what the host itself has to say.
//!
//! Sends go along the arrows and block when a queue is full, but for those of delivery, which
//! never block: so there is no cycle in which everybody waits. (The sweep also tells the watcher
//! what to watch, three times per container; the watcher would have to be 1,024 deaths behind
//! for that to close a cycle.)
//!
//! Stopping goes against the arrows: pollers first, then the router has nothing left to do,
//! delivery waits for what is in flight, the sweep leaves containers running or stops them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use jiff::Timestamp;
use nanoclaw_session::inbound::roll_back_journal;

use crate::channel::{Channel, Stop, cli};
use crate::config::Settings;
use crate::container::docker::Docker;
use crate::delivery::{self, Delivery};
use crate::gateway::Gateway;
use crate::home::{Home, HomeLock};
use crate::oneshot::Barrier;
use crate::poller::Poller;
use crate::router::{self, Router};
use crate::sender;
use crate::service::{Manager, State};
use crate::setup;
use crate::store::Store;
use crate::sweep::clock::{self, Clock};
use crate::sweep::{self, Sweep};
use crate::thread::{Actor, spawn_actor, tell};
use crate::time::Now;
use crate::watch::{self, Watcher, watcher};

/// Events that wait for an actor. A burst of messages is one event, so this is plenty.
const ACTOR_QUEUE: usize = 1_024;
/// Batches that wait for the router.
const ROUTER_QUEUE: usize = 16;
/// Items that wait for a sender; the rest waits in delivery, in its conversations.
const SENDER_QUEUE: usize = 16;
/// What is left of that for delivery and its senders once containers were stopped.
const FOR_THE_OTHERS: Duration = Duration::from_secs(2);
/// Into how many ticks a watchdog's time is cut. Each thread turns once in a tick, and may be
/// blocked by its platform for some.
const WATCHDOG_TICKS: u32 = 8;
/// How many of them a thread may be silent.
const MAX_SILENT_TICKS: u32 = 4;
/// How often the service manager is told that all is well. ticks
const TELL_TICKS: u32 = 2;
/// How long everything may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What the daemon is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Stop,
    /// Settings that may change while running are read again.
    Reload,
}

/// What becomes of containers when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainersAtStop {
    LeaveRunning,
    Stop,
}

/// How long the threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Daemon,
    /// For one cycle ([`crate::oneshot`]).
    Once,
}

/// A running daemon.
pub struct Daemon {
    _lock: HomeLock,
    home: Arc<Home>,
    settings: Arc<Settings>,
    manager: Manager,
    stop_polling: Stop,
    pub(crate) router: Sender<router::Event>,
    delivery: Sender<delivery::Event>,
    sweep: Sender<sweep::Event>,
    watcher: Watcher,
    pub(crate) ended: Receiver<&'static str>,
    /// Closed once every channel of a cycle was asked for what it has.
    pub(crate) polled: Receiver<bool>,
    threads: Threads,
}

/// The threads, in the order in which they are stopped.
struct Threads {
    pollers: Vec<Actor>,
    gateway: Actor,
    router: Actor,
    delivery: Actor,
    sweep: Actor,
    senders: Vec<Actor>,
    watcher: Actor,
}

impl Threads {
    fn all(&self) -> impl Iterator<Item = &Actor> {
        let Threads { pollers, gateway, router, delivery, sweep, senders, watcher } = self;
        pollers.iter().chain(senders).chain([gateway, router, delivery, sweep, watcher])
    }
}

impl Daemon {
    /// Takes the home and starts everything. When this returns, messages are taken.
    pub fn start(home: Home, settings: Settings, mode: Mode) -> Result<Daemon> {
        let lock = home.lock()?;
        let clock =
            Clock::new(last_write(&home.store()), Now::read(), crate::time::monotonic(), clock::is_synchronised);
        let now = crate::time::now();
        let open_store =
            || Store::open(&home.store(), now).with_context(|| format!("cannot open {}", home.store().display()));
        let store = open_store()?;
        for made in setup::ensure_defaults(&store, &settings.agents)? {
            log::info!("First set-up: {made}");
        }
        roll_back_journals(&home, &store);
        let channels = vec![cli::open(&home.cli_socket())?];
        let gateway = Gateway::open(&home.gateway_dir(), &home.store(), settings.gateway.clone())?;

        let (home, settings) = (Arc::new(home), Arc::new(settings));
        let open_store = || Store::open(&home.store(), now);
        let (ended_tx, ended) = bounded(16);
        let (router_tx, router_rx) = bounded(ROUTER_QUEUE);
        let (delivery_tx, delivery_rx) = bounded(ACTOR_QUEUE);
        let (sweep_tx, sweep_rx) = bounded(ACTOR_QUEUE);
        let stop_polling = Stop::new()?;
        let manager = Manager::from_env();
        let tick = manager.watchdog.map(|limit| limit / WATCHDOG_TICKS);
        let actor = |name, body: Box<dyn FnOnce() + Send>| {
            spawn_actor(name, ended_tx.clone(), tick, body).with_context(|| format!("cannot start the thread {name}"))
        };

        let (watcher, watch_body) = watcher(delivery_tx.clone(), sweep_tx.clone())?;
        let watcher_thread = actor("watcher", Box::new(watch_body))?;

        let mut senders = HashMap::new();
        let mut sender_threads = Vec::new();
        let mut inbounds = Vec::new();
        for Channel { name, inbound, outbound } in channels {
            let (items_tx, items_rx) = bounded(SENDER_QUEUE);
            senders.insert(name, items_tx);
            let delivery = delivery_tx.clone();
            sender_threads.push(actor(name, Box::new(move || sender::run(outbound, &items_rx, &delivery)))?);
            inbounds.push((name, inbound));
        }

        let sweep = Sweep {
            store,
            home: Arc::clone(&home),
            settings: Arc::clone(&settings),
            docker: Docker::new(&settings.containers.docker),
            mode,
            watcher: watcher.clone(),
            clock,
            delivery: delivery_tx.clone(),
            me: sweep_tx.clone(),
        };
        let sweep_thread = actor("sweep", Box::new(move || sweep.run(&sweep_rx)))?;

        let delivery = Delivery {
            store: open_store()?,
            home: Arc::clone(&home),
            sweep: sweep_tx.clone(),
            zone: settings.agents.timezone.clone(),
            senders,
        };
        let delivery_thread = actor("delivery", Box::new(move || delivery.run(&delivery_rx)))?;

        let router = Router {
            store: open_store()?,
            home: Arc::clone(&home),
            sweep: sweep_tx.clone(),
            delivery: delivery_tx.clone(),
        };
        let router_thread = actor("router", Box::new(move || router.run(&router_rx)))?;

        let stop = stop_polling.clone();
        let gateway_thread = actor("gateway", Box::new(move || gateway.run(&stop)))?;

        let (polled_tx, polled) = bounded(0);
        let mut pollers = Vec::new();
        for (channel, inbound) in inbounds {
            let poller = Poller {
                channel,
                inbound,
                store: open_store()?,
                router: router_tx.clone(),
                delivery: delivery_tx.clone(),
                stop: stop_polling.clone(),
                polled: (mode == Mode::Once).then(|| polled_tx.clone()),
            };
            pollers.push(actor("poller", Box::new(move || poller.run()))?);
        }
        Ok(Daemon {
            _lock: lock,
            home,
            settings,
            manager,
            stop_polling,
            router: router_tx,
            delivery: delivery_tx,
            sweep: sweep_tx,
            watcher,
            ended,
            polled,
            threads: Threads {
                pollers,
                gateway: gateway_thread,
                router: router_thread,
                delivery: delivery_thread,
                sweep: sweep_thread,
                senders: sender_threads,
                watcher: watcher_thread,
            },
        })
    }

    /// Runs until told to stop, or until a thread ends that should not.
    /// An error is a thread that ended early: the process should end with a failure and be started again.
    pub fn run(mut self, signals: &Receiver<Signal>, containers: ContainersAtStop) -> Result<()> {
        let tick = self.manager.watchdog.map(|limit| limit / WATCHDOG_TICKS);
        let ticks = tick.map_or_else(never, |tick| crossbeam_channel::tick(tick * TELL_TICKS));
        self.manager.tell(State::Ready);
        loop {
            select! {
                recv(signals) -> signal => match signal {
                    Ok(Signal::Reload) => self.reload(),
                    Ok(Signal::Stop) | Err(_) => {
                        log::info!("Stopping");
                        self.manager.tell(State::Stopping);
                        return self.stop(containers);
                    }
                },
                recv(ticks) -> _ => self.feed_watchdog(tick.unwrap_or_default() * MAX_SILENT_TICKS),
                recv(self.ended) -> name => {
                    let name = name.unwrap_or("?");
                    bail!("the thread {name} ended early; see the log above");
                }
            }
        }
    }

    /// One thread that hangs is enough to be started afresh.
    fn feed_watchdog(&self, max_silence: Duration) {
        let silent = self.threads.all().find(|actor| actor.silence() > max_silence);
        match silent {
            None => self.manager.tell(State::Alive),
            Some(actor) => log::error!("A thread hangs thread={} silent_s={}", actor.name, actor.silence().as_secs()),
        }
    }

    fn reload(&mut self) {
        self.manager.tell(State::Reloading);
        match Settings::load(&self.home) {
            Ok(new) => {
                let (settings, left) = self.settings.reloaded(new);
                self.settings = Arc::new(settings);
                crate::log::set(self.settings.log);
                tell(&self.sweep, sweep::Event::Settings(Arc::clone(&self.settings)));
                log::info!("Settings were read again");
                for name in left {
                    log::warn!("A changed setting wants a restart setting={name}");
                }
            }
            Err(e) => log::error!("Settings were not read again error={e:#}"),
        }
        self.manager.tell(State::Ready);
    }

    /// Stops everything, in order.
    pub fn stop(self, containers: ContainersAtStop) -> Result<()> {
        let until = Instant::now() + STOP_DEADLINE;
        let mut late = Vec::new();
        let mut join = |actor: Actor| late.extend(actor.join_until(until).err());

        self.stop_polling.now();
        self.threads.pollers.into_iter().for_each(&mut join);
        join(self.threads.gateway);
        drop(self.router);
        join(self.threads.router);
        // Containers go while delivery still reads their last words.
        let containers_until = (containers == ContainersAtStop::Stop).then(|| until - FOR_THE_OTHERS);
        if self.sweep.send_deadline(sweep::Event::Stop { containers_until }, until).is_ok() {
            join(self.threads.sweep);
        }
        if containers == ContainersAtStop::Stop {
            // Their last words go out, as far as they can go now.
            let (barrier, passed) = Barrier::new(Instant::now());
            if self.delivery.send_deadline(delivery::Event::Barrier(barrier), until).is_ok() {
                let _late = passed.recv_deadline(until - FOR_THE_OTHERS / 2);
            }
        }
        if self.delivery.send_deadline(delivery::Event::Stop { until }, until).is_ok() {
            join(self.threads.delivery);
        }
        self.threads.senders.into_iter().for_each(&mut join);
        self.watcher.send(watch::Command::Stop);
        join(self.threads.watcher);
        if late.is_empty() { Ok(()) } else { bail!("these threads did not end in time: {}", late.join(", ")) }
    }
}

/// When a file was last written to, if it is there.
fn last_write(path: &Path) -> Option<Timestamp> {
    Timestamp::try_from(std::fs::metadata(path).ok()?.modified().ok()?).ok()
}

/// What a host that died inside a commit left behind. Containers may not do it, and must not
/// wait for the next message.
fn roll_back_journals(home: &Home, store: &Store) {
    let sessions = match store.active_sessions() {
        Ok(sessions) => sessions,
        Err(e) => return log::error!("Sessions could not be read error={e}"),
    };
    for session in sessions {
        if let Err(e) = roll_back_journal(&home.session(&session.agent_group_id, &session.id)) {
            log::warn!("A journal could not be rolled back session={} error={e}", session.id);
        }
    }
}
