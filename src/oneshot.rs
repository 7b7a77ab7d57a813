//! One full cycle without a daemon (`nanoclaw sweep`): the daemon's parts, run until there is
//! nothing left to do, and stopped. Runs on the main thread.
//! How it is known that nothing is: docs/ARCHITECTURE.md, "One owner for each thing".

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crossbeam_channel::{Receiver, Sender, at, bounded, select};

use crate::config::Settings;
use crate::daemon::{ContainersAtStop, Daemon, Mode, Signal};
use crate::home::Home;
use crate::router;

/// How long a cycle's containers may have nothing to do, should the cycle be killed.
const IDLE: Duration = Duration::from_secs(5);

/// How a cycle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    Done,
    /// Its time was up, or it was told to stop: what is left is for the next one.
    WorkLeft,
}

/// It goes from the router over the sweep to delivery and back; each keeps it until it has nothing to do.
#[derive(Debug)]
pub struct Barrier {
    /// Nobody waits for what cannot be done before.
    until: Instant,
    met_work: bool,
    back: Sender<bool>,
}

impl Barrier {
    /// And where it comes back: whether it met work.
    pub fn new(until: Instant) -> (Barrier, Receiver<bool>) {
        let (back, passed) = bounded(1);
        (Barrier { until, met_work: false, back }, passed)
    }

    /// It is through.
    pub fn back(self) {
        // There is room for one; and who does not listen any more does not need to know.
        let _ = self.back.try_send(self.met_work);
    }
}

/// Where an actor keeps a barrier.
#[derive(Debug, Default)]
pub struct Gate {
    held: Option<Barrier>,
    worked: bool,
}

impl Gate {
    pub fn hold(&mut self, barrier: Barrier) {
        self.held = Some(barrier);
    }

    /// The actor did something that may be work for others.
    pub fn worked(&mut self) {
        self.worked = true;
    }

    /// When there is a barrier: what is after this is no reason to keep it.
    pub fn until(&self) -> Option<Instant> {
        self.held.as_ref().map(|barrier| barrier.until)
    }

    /// The actor has nothing to do: the barrier goes on.
    pub fn open(&mut self) -> Option<Barrier> {
        let mut barrier = self.held.take()?;
        barrier.met_work |= std::mem::take(&mut self.worked);
        Some(barrier)
    }
}

/// Runs one cycle, for `wait` at most.
pub fn run(home: Home, mut settings: Settings, signals: &Receiver<Signal>, wait: Duration) -> Result<Cycle> {
    let until = Instant::now() + wait;
    settings.containers.idle = settings.containers.idle.min(IDLE);
    let daemon = Daemon::start(home, settings, Mode::Once)?;
    // Closed once every channel was asked.
    let mut passed = daemon.polled.clone();
    let mut quiet = 0;
    let cycle = loop {
        select! {
            recv(passed) -> met_work => {
                quiet = if met_work == Ok(false) { quiet + 1 } else { 0 };
                if quiet == 2 {
                    break Cycle::Done;
                }
                let (barrier, receiver) = Barrier::new(until);
                passed = receiver;
                if daemon.router.send_deadline(router::Event::Barrier(barrier), until).is_err() {
                    break Cycle::WorkLeft;
                }
            }
            recv(signals) -> signal => if signal != Ok(Signal::Reload) { break Cycle::WorkLeft },
            recv(daemon.ended) -> name => bail!("the thread {} ended early; see the log above", name.unwrap_or("?")),
            recv(at(until)) -> _ => break Cycle::WorkLeft,
        }
    };
    daemon.stop(ContainersAtStop::Stop)?;
    if cycle == Cycle::WorkLeft {
        log::info!("The cycle ended with work left");
    }
    Ok(cycle)
}
