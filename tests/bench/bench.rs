//! `make bench`: measures what `docs/` promises, on the machine at hand, with the real release
//! binaries and real Docker.
//!
//! Prints a table and writes `bench.json` next to the release folder. The exit code is 1 when a
//! ratio, a count or a size misses its target; absolute times depend on the disk and only inform.
//!
//! ```text
//! cargo bench --bench bench                  everything, about five minutes
//! cargo bench --bench bench -- sizes chat    only these parts
//! BENCH_QUICK=1 cargo bench --bench bench    fewer samples and a short idle time, for development
//! ```
//!
//! `NANOCLAW_BIN_DIR` says where the binaries are when not in `target/release`; `BENCH_DIR` where
//! the homes are made (a disk, not memory: what is measured is mostly fsync).

// The bench is its own program: it starts processes, waits and reads clocks.
#![allow(clippy::disallowed_methods)]

mod agent;
#[path = "../support/binaries.rs"]
mod binaries;
mod chat;
#[path = "../../runner/tests/support/fake_http.rs"]
mod fake_http;
mod gateway;
mod history;
mod host;
mod idle;
#[path = "../../runner/tests/support/messages_api.rs"]
mod messages_api;
mod past;
mod process;
mod report;
mod routing;
mod samples;
mod sizes;
mod startup;
mod turn;

use std::process::ExitCode;

use anyhow::Result;

use host::Place;
use report::Report;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    Full,
    Quick,
}

impl Effort {
    /// The full number of samples, or the one for development.
    pub fn pick(self, full: usize, quick: usize) -> usize {
        match self {
            Effort::Full => full,
            Effort::Quick => quick,
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    // As the host does it, since its parts run in this process too.
    nanoclaw_session::untrusted::install_guards();
    let effort = if std::env::var_os("BENCH_QUICK").is_some_and(|v| !v.is_empty() && v != "0") {
        Effort::Quick
    } else {
        Effort::Full
    };
    // cargo adds flags of its own.
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);

    let bin = binaries::folder();
    let mut report = Report::new(effort)?;
    if wanted("sizes") {
        sizes::measure(&mut report, bin)?;
    }
    if wanted("routing") {
        routing::measure(&mut report, effort)?;
    }
    if wanted("gateway") {
        gateway::measure(&mut report, effort)?;
    }
    if wanted("history") {
        history::measure(&mut report, effort)?;
    }
    if wanted("startup") {
        startup::measure(&mut report, bin, effort)?;
    }
    if wanted("agent") {
        agent::measure(&mut report, bin, effort)?;
    }
    if ["chat", "idle", "turn"].into_iter().any(wanted) {
        let place = Place::new()?;
        let host = place.start(bin)?;
        let mut client = host.connect()?;
        client.turn("the first one starts the container")?;
        if wanted("chat") {
            chat::measure(&mut report, &host, &mut client, effort)?;
        }
        if wanted("idle") {
            idle::measure(&mut report, &host, &mut client, effort)?;
        }
        if wanted("turn") {
            turn::measure(&mut report, &host, &mut client, effort)?;
        }
    }
    report.finish(bin)
}
