//! nanoclaw: a personal-assistant host for a machine you own.
//!
//! In reading order: what a message meets on its way in, then on its way out.
//!
//! * [`config`], [`home`] - settings and the folder everything lives in
//! * [`daemon`] - who talks to whom, [`oneshot`] - and for one cycle
//! * [`channel`], [`poller`], [`router`] - a message in
//! * [`sweep`], [`tasks`], [`container`], [`gateway`] - the agent that answers it
//! * [`delivery`], [`sender`], [`notice`] - its answer out
//! * [`store`], [`destinations`], [`permission`], [`setup`] - who may talk to whom, [`explain`] - and why not
//! * [`cmd`], [`admin`] - the command line, [`service`] - and the service manager
//! * [`process`], [`thread`], [`watch`], [`log`], [`memory`], [`time`], [`id`] - the ground it stands on
//!
//! Public is what `main`, the integration tests and the benchmark use; so the compiler sees what nobody does.

mod admin;
pub mod channel;
pub mod cmd;
pub mod config;
pub mod container;
mod create_agent;
mod daemon;
pub mod delivery;
mod destinations;
mod explain;
pub mod gateway;
pub mod home;
pub mod id;
mod import;
mod log;
pub mod memory;
mod notice;
mod oneshot;
mod permission;
mod poller;
mod process;
mod question;
pub mod router;
pub mod sender;
mod service;
pub mod setup;
pub mod store;
pub mod sweep;
mod tasks;
mod thread;
pub mod time;
mod watch;
