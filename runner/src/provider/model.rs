//! Our own agent loop: a model behind an HTTP API, a history, tools.

pub mod api;
pub mod message;
