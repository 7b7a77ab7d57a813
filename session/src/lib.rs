//! The contract between the nanoclaw host and the agent in its container.
//!
//! A session is a folder: the host writes `inbound.db`, the container `out/outbound.db`. The rules
//! that comments cite by number are in docs/SESSION.md. In reading order:
//!
//! * [`layout`] - the folder, and the conversion of folders made by NanoClaw v2
//! * [`content`], [`row`] - what the rows mean, [`usage`], [`card`], [`question`],
//!   [`schedule`], [`create_agent`] - a turn's cost, a card, what people are asked, what runs when, new agents
//! * [`inbound`], [`outbound`] - the two files, each with its one writer and its reader
//! * [`untrusted`] - the only way the host may look into what a container wrote
//! * [`alive`], [`stamp`], [`watch`] - life, progress and "look again"
//! * [`config`] - `container.json`
//! * [`time`] - the time format, and how SQL compares times
//!
//! What is absent: threads, docker, HTTP, and a clock (time is passed in).

pub mod alive;
pub mod card;
pub mod config;
pub mod content;
pub mod create_agent;
mod database;
pub mod inbound;
pub mod layout;
pub mod outbound;
pub mod question;
pub mod row;
pub mod schedule;
pub mod stamp;
pub mod time;
pub mod untrusted;
pub mod usage;
pub mod watch;
