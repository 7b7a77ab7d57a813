//! nanoclaw: a personal-assistant host for a machine you own.
//!
//! In reading order: what a message meets on its way in, then on its way out.
//!
//! * [`config`], [`home`] - settings and the folder everything lives in
//! * [`daemon`] - who talks to whom
//! * [`channel`], [`poller`], [`router`] - a message in
//! * [`sweep`], [`container`], [`gateway`] - the agent that answers it
//! * [`delivery`], [`sender`], [`notice`] - its answer out
//! * [`store`], [`destinations`], [`setup`] - who may talk to whom
//! * [`cmd`] - the command line
//! * [`process`], [`thread`], [`watch`], [`log`], [`memory`], [`time`], [`id`] - the ground it stands on

pub mod channel;
pub mod cmd;
pub mod config;
pub mod container;
pub mod daemon;
pub mod delivery;
pub mod destinations;
pub mod gateway;
pub mod home;
pub mod id;
pub mod log;
pub mod memory;
pub mod notice;
pub mod poller;
pub mod process;
pub mod router;
pub mod sender;
pub mod setup;
pub mod store;
pub mod sweep;
pub mod thread;
pub mod time;
pub mod watch;
