//! `nanoclaw run`: the daemon in the foreground, and the signals that reach it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use crossbeam_channel::bounded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::RunArgs;
use crate::config::Settings;
use crate::daemon::{ContainersAtStop, Daemon, Signal};
use crate::home::{Home, LockError};
use crate::thread::spawn_worker;

pub fn run(home: Home, args: &RunArgs) -> Result<ExitCode> {
    home.create()?;
    let settings = Settings::load(&home)?;
    crate::log::start(settings.log, Some(&home.log_file()))
        .with_context(|| format!("cannot write {}", home.log_file().display()))?;

    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (told, tells) = bounded(4);
    spawn_worker("signals", move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                // A full queue means that it was told already.
                SIGHUP => told.try_send(Signal::Reload).unwrap_or_default(),
                // The first one drains, the second one does not wait.
                _ if stopping => std::process::exit(128 + signal),
                _ => {
                    stopping = true;
                    told.try_send(Signal::Stop).unwrap_or_default();
                }
            }
        }
    })?;

    let summary = format!("home={} provider={}", home.root().display(), settings.agents.provider);
    let daemon = match Daemon::start(home, settings) {
        Ok(daemon) => daemon,
        Err(e) if e.downcast_ref::<LockError>().is_some_and(|e| matches!(e, LockError::Held { .. })) => {
            eprintln!("error: {e:#}");
            return Ok(ExitCode::from(super::HELD));
        }
        Err(e) => return Err(e),
    };
    log::info!("Ready {summary} version={}", env!("CARGO_PKG_VERSION"));
    let mut stdout = std::io::stdout();
    if let Err(e) = writeln!(stdout, "ready {summary}").and_then(|()| stdout.flush()) {
        log::warn!("Nobody reads our output error={e}");
    }
    let containers = if args.stop_containers { ContainersAtStop::Stop } else { ContainersAtStop::LeaveRunning };
    daemon.run(&tells, containers)?;
    Ok(ExitCode::SUCCESS)
}
