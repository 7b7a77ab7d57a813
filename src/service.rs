//! The service manager: what it is told while the daemon runs (sd_notify(3)).
//!
//! Used by the main thread only. A message that cannot be sent is logged; whether that matters
//! is for the manager to say.

pub mod unit;

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What became of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Reloading,
    Stopping,
    /// Every thread turns.
    Alive,
}

/// Who started us, when that is a service manager that wants to know.
#[derive(Debug)]
pub struct Manager {
    address: Option<SocketAddr>,
    /// How long it waits for [`State::Alive`] before it starts us afresh.
    pub watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` when `WATCHDOG_PID` is us.
    pub fn from_env() -> Manager {
        let number = |name: &str| env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let address = env::var("NOTIFY_SOCKET").ok().and_then(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| ours && *us > 0 && address.is_some());
        Manager { address, watchdog: watchdog.map(Duration::from_micros) }
    }

    pub fn tell(&self, state: State) {
        let Some(address) = &self.address else { return };
        let message = match state {
            State::Ready => "READY=1".to_owned(),
            State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", crate::time::monotonic().as_micros()),
            State::Stopping => "STOPPING=1".to_owned(),
            State::Alive => "WATCHDOG=1".to_owned(),
        };
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(message.as_bytes(), address));
        if let Err(e) = sent {
            log::warn!("The service manager was not told state={state:?} error={e}");
        }
    }
}
