//! `nanoclaw run` and `nanoclaw sweep`: the host in the foreground, for good or for one cycle, and
//! the signals that reach it.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, bounded};
use log::LevelFilter;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::Settings;
use crate::daemon::{ContainersAtStop, Daemon, Mode, Signal};
use crate::home::{Held, Home};
use crate::oneshot::{self, Cycle};
use crate::thread::spawn_worker;

pub fn run(home: Home, containers: ContainersAtStop) -> Result<ExitCode> {
    let (settings, signals) = prepare(&home, LevelFilter::max())?;
    let summary = format!("home={} provider={}", home.root().display(), settings.agents.provider);
    let daemon = match Daemon::start(home, settings, Mode::Daemon) {
        Ok(daemon) => daemon,
        Err(e) => return held(e),
    };
    log::info!("Ready {summary} version={}", env!("CARGO_PKG_VERSION"));
    let mut stdout = std::io::stdout();
    if let Err(e) = writeln!(stdout, "ready {summary}").and_then(|()| stdout.flush()) {
        log::warn!("Nobody reads our output error={e}");
    }
    daemon.run(&signals, containers)?;
    Ok(ExitCode::SUCCESS)
}

pub fn sweep(home: Home, wait: Duration) -> Result<ExitCode> {
    // cron sends a mail for every word.
    let (settings, signals) = prepare(&home, LevelFilter::Warn)?;
    match oneshot::run(home, settings, &signals, wait) {
        Ok(Cycle::Done) => Ok(ExitCode::SUCCESS),
        Ok(Cycle::WorkLeft) => Ok(ExitCode::from(super::NO_ANSWER)),
        Err(e) => held(e),
    }
}

/// What both need: the home, its settings, a log with its copy on stderr up to `shown`, signals.
fn prepare(home: &Home, shown: LevelFilter) -> Result<(Settings, Receiver<Signal>)> {
    home.create()?;
    let settings = Settings::load(home)?;
    crate::log::start(settings.log, Some(&home.log_file()), shown)
        .with_context(|| format!("cannot write {}", home.log_file().display()))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (told, tells) = bounded(2);
    spawn_worker("signals", move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                // What waits already will do, and there is always room left for the end.
                SIGHUP if told.is_empty() => told.try_send(Signal::Reload).unwrap_or_default(),
                SIGHUP => {}
                // The first one drains, the second one does not wait.
                _ if stopping => std::process::exit(128 + signal),
                _ => {
                    stopping = true;
                    told.try_send(Signal::Stop).unwrap_or_default();
                }
            }
        }
    })?;
    Ok((settings, tells))
}

/// A home that somebody else holds has an exit code of its own.
fn held(e: anyhow::Error) -> Result<ExitCode> {
    if !e.is::<Held>() {
        return Err(e);
    }
    eprintln!("error: {e:#}");
    Ok(ExitCode::from(super::HELD))
}
