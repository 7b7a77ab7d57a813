//! `nanoclaw-runner`: the agent runner that lives in a container.
//!
//! Arguments and exit codes are here, and errors are printed once, here. 0: it was idle for long
//! enough, or was told to leave; 1: a fault; 2: wrong arguments. Stderr is the container's log.
//!
//! In reading order: [`agent`] is the loop, on the main thread; [`watcher`] tells it to look,
//! [`batch`] chooses rows, [`prompt`] renders them, a [`provider`] answers on a thread of its own,
//! [`reply`] takes the answer apart and [`destinations`] says where it goes. What is absent: any
//! write outside of `/workspace/out`, and any knowledge of keys.

mod agent;
mod batch;
mod command;
mod cost;
mod destinations;
mod gateway;
mod id;
mod mcp;
mod memory;
mod probe;
mod process;
mod prompt;
mod provider;
mod reply;
mod stop;
mod time;
mod tools;
mod turn;
mod watcher;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nanoclaw_session::layout::{CONTAINER_WORKSPACE, SessionDir};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::agent::Agent;
use crate::gateway::Gateway;

const USAGE: &str = "\
usage: nanoclaw-runner run [--workspace DIR]     answer what arrives in a session folder
       nanoclaw-runner mcp [--workspace DIR]     offer the agent's tools to another program, over stdin and stdout
       nanoclaw-runner probe [--workspace DIR]   say whether this container is set up right
       nanoclaw-runner --version | --help
The folder is /workspace unless said otherwise.";

enum Command {
    Run(SessionDir),
    Mcp(SessionDir),
    Probe(SessionDir),
    Version,
    Help,
}

fn main() -> ExitCode {
    let command = match parse(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    memory::limit_arenas();
    // The agent's commands run as the same user, and shall not read the session's token from our environment.
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("warning: this process can be looked into: {e}");
    }
    // Whatever lies where a file of ours should: an open fails, and never waits.
    nanoclaw_session::untrusted::install_guards();
    execute(command).unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(dir) => {
            let text = |name| env::var(name).ok().filter(|value| !value.is_empty());
            let gateway = Gateway::new(text("NANOCLAW_GATEWAY").as_deref(), text("NANOCLAW_GATEWAY_TOKEN"));
            Agent::start(dir, text("TZ"), gateway)?.run()?;
        }
        Command::Mcp(dir) => mcp::server::stdio(&tools::builtin(&dir)).context("speak MCP")?,
        Command::Probe(dir) => {
            let report = probe::probe(&dir);
            println!("{}", serde_json::to_string(&report).context("print the report")?);
            return Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Version => println!("nanoclaw-runner {}", env!("CARGO_PKG_VERSION")),
        Command::Help => println!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().ok_or("a command is missing")?;
    let command: fn(SessionDir) -> Command = match name.to_str() {
        Some("run") => Command::Run,
        Some("mcp") => Command::Mcp,
        Some("probe") => Command::Probe,
        Some("--version" | "-V") => return Ok(Command::Version),
        Some("--help" | "-h") => return Ok(Command::Help),
        _ => return Err(format!("unknown command {name:?}")),
    };
    let mut workspace = PathBuf::from(CONTAINER_WORKSPACE);
    while let Some(option) = arguments.next() {
        match option.to_str() {
            Some("--workspace") => workspace = arguments.next().ok_or("--workspace needs a folder")?.into(),
            _ => return Err(format!("unknown argument {option:?}")),
        }
    }
    Ok(command(SessionDir::new(workspace)))
}
