//! The real `nanoclaw` and `nanoclaw-runner` in real Docker, from outside: what a person at the
//! terminal, an administrator at the engine and a model behind the gateway get to see.
//!
//! Needs `make build` and `make image`; where Docker does not answer, the tests fail.

#[path = "../../runner/tests/support/chat_api.rs"]
mod chat_api;
#[path = "../../runner/tests/support/fake_http.rs"]
mod fake_http;
#[path = "../../runner/tests/support/messages_api.rs"]
mod messages_api;
#[path = "../support/mod.rs"]
mod support;

mod agent;
mod broken_files;
mod cli;
mod containers;
mod disk;
mod engine_restart;
mod faults;
mod fixtures;
mod gateway;
mod hostile;
mod import;
mod model;
mod mounts;
mod outgoing;
mod peers;
mod question;
mod restart;
mod round_trip;
mod routing;
mod scale;
mod service;
mod session_rules;
mod soak;
mod sweep;
mod tasks;
