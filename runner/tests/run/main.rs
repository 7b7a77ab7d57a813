//! The real `nanoclaw-runner` on real session folders, without a container.

mod anthropic;
#[path = "../support/chat_api.rs"]
mod chat_api;
mod chat_rules;
#[path = "../support/fake_http.rs"]
mod fake_http;
#[path = "../support/messages_api.rs"]
mod messages_api;
mod openai;
mod session;

mod commands;
mod lifecycle;
mod model;
mod outgoing;
mod question;
mod turns;
